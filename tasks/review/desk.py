"""What the page of `anodiff review` may ask for: pairs by name, their pictures, and decisions, on disk at once."""

import base64
import binascii
import threading
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from tasks.errors import AnodiffError, StoreUnreachableError
from tasks.review.decisions import Decision, decide, mask_path, read_decisions, save_mask, send_decisions
from tasks.review.pairs import SHOT_PX, Shot, Shown, pairs_of, picture, shots_of, thumbnail
from tasks.runs.ended import Run

IN_LISTING = ("category", "defect", "number", "reasons", "mask_share", "trust", "facts")


class Desk:
    """A run's pairs, and the decisions on them as they are made. Its public methods are what the page asks for."""

    def __init__(self, run: Run, category: str | None = None) -> None:
        self.run, self.store = run, run.config.store
        self.pairs = {pair.key: pair for pair in pairs_of(run, category)}
        self.decided: dict[str, Decision] = {}
        self.lock = threading.Lock()
        for of, drawn in {(pair.category, pair.drawn) for pair in self.pairs.values()}:
            send_decisions(self.store, of, drawn)  # what a store elsewhere did not take the last time
            for index, one in read_decisions(self.store, of, drawn).items():
                pair = self.pairs.get(f"{of}/{drawn}/{index}")
                # On another picture, drawn anew since: that one nobody has looked at.
                if pair is not None and one.picture == pair.picture:
                    self.decided[pair.key] = one
        self._shots: dict[str, dict[str, list[Shot]]] = {}

    def listing(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """All pairs in words and figures, and what is decided."""
        rows = [
            {"key": pair.key} | {name: value for name, value in asdict(pair).items() if name in IN_LISTING}
            for pair in self.pairs.values()
        ]
        wanted = self.run.config.generate.num_pairs
        records = {key: _record(one) for key, one in self.decided.items()}
        return {"name": self.run.name, "wanted": wanted, "pairs": rows, "records": records}

    def pictures(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A pair's pictures."""
        pair = self._pair(asked)
        decision = self.decided.get(pair.key)
        own = None if decision is None or decision.mask is None else picture(self._mask(pair, decision.mask))
        return {
            "image": picture(pair.image), "part": picture(pair.anomaly), "mask": picture(pair.mask), "painted": own
        }  # fmt: skip

    def thumbnails(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Small pictures of several pairs, with the masks that count."""
        found = {}
        for key in list(asked.get("keys", ()))[:100]:
            pair = self._pair({"key": key})
            decision = self.decided.get(pair.key)
            own = decision is not None and decision.verdict == "accepted" and decision.mask
            found[pair.key] = thumbnail(pair.image, self._mask(pair, own) if own else pair.mask)
        return {"thumbnails": found}

    def shots(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Real pictures of a pair's defect type."""
        pair = self._pair(asked)
        if pair.category not in self._shots:
            self._shots[pair.category] = shots_of(self.run, pair.category)
        shots = self._shots[pair.category].get(pair.defect, [])
        return {"shots": [thumbnail(shot.image, shot.mask, SHOT_PX) for shot in shots]}

    def decide(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Write down what was said of a pair; a verdict of none takes back what was."""
        pair = self._pair(asked)
        verdict, mask = asked.get("verdict"), asked.get("mask")
        if verdict == "accepted" and mask is None and pair.mask_share == 0:
            raise AnodiffError(
                f"{pair.defect} {pair.number}: its mask is empty; paint one, or reject the pair"
            )
        decision = self._decision(pair, verdict, mask)
        if decision.mask is not None:
            if not decision.mask.startswith(f"{pair.index:06}-"):
                raise AnodiffError(
                    f"{pair.defect} {pair.number}: the mask is of another pair; load the page anew"
                )
            self._mask(pair, decision.mask)
        return self._keep(pair, decision)

    def paint(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a painted mask and accept its pair."""
        pair = self._pair(asked)
        with Image.open(pair.image) as image:
            size = image.size
        mask = read_painted(str(asked.get("png", "")))
        if mask.shape != size[::-1] or not mask.any():
            raise AnodiffError(
                f"{pair.defect} {pair.number}: the painted mask is empty, or not of its picture's size"
            )
        name = save_mask(self.store, pair.category, pair.drawn, pair.index, mask)
        return self._keep(pair, self._decision(pair, "accepted", name))

    def summary(self) -> str:
        """What is decided, in words."""
        said = [each.verdict for each in self.decided.values()]
        masks = sum(each.mask is not None and each.verdict == "accepted" for each in self.decided.values())
        return (
            f"{said.count('accepted')} accepted ({masks} with a painted mask), {said.count('rejected')} rejected, "
            f"{len(self.pairs) - len(said)} of {len(self.pairs)} undecided"
        )

    def _pair(self, asked: Mapping[str, Any]) -> Shown:
        pair = self.pairs.get(str(asked.get("key")))
        if pair is None:
            raise AnodiffError("no such pair in this run; load the page anew")
        return pair

    def _mask(self, pair: Shown, name: str) -> Path:
        return mask_path(self.store, pair.category, pair.drawn, name)

    def _decision(self, pair: Shown, verdict: Any, mask: Any) -> Decision:
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        try:
            return Decision(verdict=verdict, mask=mask, picture=pair.picture, at=at)
        except ValidationError as error:
            raise AnodiffError(f"{pair.defect} {pair.number}: not a decision; load the page anew") from error

    def _keep(self, pair: Shown, decision: Decision) -> dict[str, Any]:
        with self.lock:
            decide(self.store, pair.category, pair.drawn, pair.index, decision)
            if decision.verdict is None:
                self.decided.pop(pair.key, None)
            else:
                self.decided[pair.key] = decision
            warning = ""
            try:
                send_decisions(self.store, pair.category, pair.drawn)
            except StoreUnreachableError as error:
                warning = f"Saved on this machine alone until the store answers: {error}"
        return {"record": _record(decision) if decision.verdict else None, "warning": warning}


def read_painted(url: str) -> NDArray[np.bool_]:
    """A mask from a PNG's data URL. Shape: (h, w). Raises: AnodiffError if it is none."""
    try:
        content = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            return np.asarray(image.convert("L")) > 127
    except (binascii.Error, OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise AnodiffError(f"the painted mask cannot be read ({error}); paint it again") from error


def _record(decision: Decision) -> dict[str, Any]:
    return {"verdict": decision.verdict, "mask": decision.mask}
