"""How fast the review page answers a key: `python -m benchmarks.review`.

A store of some hundred drawn pairs, the real server, Debian's Chromium under Playwright. Times are taken in the page: from
the key to the next pair's pictures being painted, and to the server's word that the decision is on disk. Then pairs that
were not fetched ahead, and keys pressed without waiting.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from playwright.sync_api import Page

from tasks.config import RunConfig
from tasks.review.desk import Desk
from tasks.review.page import page_of, served
from tasks.runs.ended import find_run
from tasks.store.artifacts import Artifact, Staged, plan, publish
from tests.browser.chromium import chromium
from tests.tasks.data_folders import texture
from tests.tasks.reviewed import prepared, run_config, written_run

DIFFERENT = 16  # pictures; drawn over again under other names

# `shown`: after the frame that shows the next pair was painted; `saved`: when the page says so.
WATCH = """
  const saved = document.querySelector("#rv-saved"), told = {};
  window.told = told;
  document.addEventListener("keydown", () => {
    for (const key in told) delete told[key];
    told.pressed = performance.now();
  }, true);
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => { told.shown ??= performance.now(); })))
    .observe(document.querySelector("[data-shown]"), {attributes: true, attributeFilter: ["data-shown"]});
  new MutationObserver(() => { if (saved.textContent === "all saved") told.saved ??= performance.now(); })
    .observe(saved, {childList: true, characterData: true, subtree: true});
"""


def make_run(folder: Path, pairs: int, size_px: int) -> RunConfig:
    """A run whose pairs were drawn and judged, as far as the page reads that."""
    config = run_config(folder)
    split = prepared(config)
    side = size_px // 5

    def draw(staged: Staged) -> None:
        rows = []
        for index in range(pairs):
            grey = np.rint(texture(index % DIFFERENT, size_px)).astype(np.uint8)
            image = np.stack([grey] * 3, axis=-1)
            image[0, 0] = index % 256, index // 256, 0  # no two are the same
            mask = np.zeros((size_px, size_px), np.uint8)
            mask[side : 2 * side, side : 3 * side] = 255
            part = np.where(mask[..., None] > 0, image, np.uint8(128))
            row: dict[str, Any] = {"index": index, "seed": index, "mask_share": float((mask > 0).mean())}
            for kind, pixels in (("image", image), ("anomaly", part), ("mask", mask)):
                row[f"{kind}_path"] = f"{kind}/{index:06}.png"
                (staged.out / kind).mkdir(exist_ok=True)
                Image.fromarray(pixels).save(staged.out / row[f"{kind}_path"], compress_level=1)
            rows.append(row)
        pd.DataFrame(rows).to_parquet(staged.out / "pairs.parquet", index=False)

    drawn = plan(config.store, "generate", 1, "bolt", label="bolt/dent", pairs=pairs)
    publish(drawn, draw, device="cpu")
    judged = plan(
        config.store, "curate", 1, "bolt", label="bolt/dent", defect="dent", samples=split, pairs=[drawn]
    )
    publish(judged, lambda staged: judge(drawn, staged), device="cpu")
    written_run(config, split, drawn, judged)
    return config


def judge(drawn: Artifact, staged: Staged) -> None:
    """What curation writes, all passed."""
    table = pd.read_parquet(drawn.path / "pairs.parquet").assign(reasons="", trust=0.8, adapter_key="some")
    for kind in ("image", "anomaly", "mask"):
        column = f"{kind}_path"
        table[column] = [f"../../../generate/bolt/{drawn.digest}/{path}" for path in table[column]]
    table.to_parquet(staged.out / "pairs.parquet", index=False)
    limits = pd.DataFrame({"rule": ["too_large"], "threshold": [0.6], "in_force": [True]})
    limits.to_parquet(staged.out / "thresholds.parquet", index=False)


def press(page: Page, key: str, *until: str) -> dict[str, float]:
    """Milliseconds from a key to each of these."""
    page.keyboard.press(key)
    page.wait_for_function("names => names.every(name => name in told)", arg=list(until))
    told = page.evaluate("told")
    return {name: told[name] - told["pressed"] for name in until}


def line(what: str, times: list[float]) -> str:
    return f"{what:46} median {np.median(times):5.0f} ms, 95th percentile {np.percentile(times, 95):5.0f} ms"


def measure(page: Page, keys: int, pairs: int) -> None:
    """Decide one pair after the other, then go far, then press without waiting."""
    page.wait_for_selector("[data-shown]", state="attached")
    page.evaluate(WATCH)
    page.wait_for_timeout(1000)  # what is fetched ahead at the start
    of_keys = []
    for number in range(keys):
        of_keys.append(press(page, "ar"[number % 2], "shown", "saved"))
        page.wait_for_timeout(300)  # as fast as anybody looks
    print(line("key to the next pair shown:", [each["shown"] for each in of_keys]))
    print(line("key to the decision saved:", [each["saved"] for each in of_keys]))
    far = []
    for number in range(10):
        page.fill("#rv-number", str((keys + 20 + number * (pairs - keys - 30) // 10) % pairs))
        far.append(press(page, "Enter", "shown")["shown"])
    print(line("number typed to a pair not fetched ahead:", far))
    started = time.perf_counter()
    page.keyboard.type("ar" * (keys // 2))
    page.wait_for_function("document.querySelector('#rv-saved').textContent === 'all saved'")
    print(f"{keys} keys without waiting: all saved after {time.perf_counter() - started:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--keys", type=int, default=60)
    parser.add_argument("--size-px", type=int, default=512)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = make_run(Path(folder), args.pairs, args.size_px)
        started = time.perf_counter()
        desk = Desk(find_run(config.store, "latest"))
        print(f"{args.pairs} pairs of {args.size_px} px")
        print(f"start, every picture verified: {time.perf_counter() - started:.1f} s")
        with chromium() as browser, served(page_of(desk), 0) as address:
            page = browser.new_page(viewport={"width": 1366, "height": 768})
            started = time.perf_counter()
            page.goto(address)
            page.wait_for_selector("[data-shown]", state="attached")
            print(f"page opened to the first pair shown: {time.perf_counter() - started:.1f} s")
            measure(page, args.keys, args.pairs)
            print(f"decided: {desk.summary()}")


if __name__ == "__main__":
    main()
