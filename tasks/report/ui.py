"""What Prefect's UI shows of a category: its figures, its verdicts, its sheets of pairs."""

import base64
import hashlib
import io
import logging
import re
import unicodedata
from pathlib import Path

import pandas as pd
from PIL import Image
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.settings import get_current_settings

from tasks.report.verdict import deciding_rows
from tasks.runtime.server import is_own_server
from tasks.store.artifacts import Artifact
from tasks.tables.figures import LIFT, METRICS, PAIRS, SHEETS
from tasks.tables.training_rows import reasons_text

log = logging.getLogger("anodiff")

SHEET_WIDTH_PX = 1200
FIGURES_NOTE = "On all test pictures, in %, mean over seeds."
SHOWN = ("image_auroc", "pixel_ap", "aupro", "accuracy")


def show_category(report: Artifact) -> None:
    """Create the artifacts of one category; nothing where nobody could look: the server lives only for the run."""
    if is_own_server(get_current_settings().api.url):
        return
    try:
        figures = pd.read_parquet(report.path / METRICS)
        if len(figures):  # none where every model failed
            create_table_artifact(
                figures_rows(figures), key=artifact_key(report.category, "figures"), description=FIGURES_NOTE
            )
        text = summary_text(report)
        create_markdown_artifact(
            text, key=artifact_key(report.category, "summary"), description=f"{report.category}: did it help?"
        )
        for sheet in sorted((report.path / SHEETS).glob("*.png")):
            # A link into the store would lead nowhere: the browser is on another machine, the store has no server.
            create_image_artifact(
                picture_url(sheet),
                key=artifact_key(report.category, sheet.stem),
                description=sheet.stem,
            )
    except Exception as error:  # showing never fails what is done
        again = "the same `anodiff run` tries again"
        log.warning(
            "%s: not shown in Prefect's UI: %s: %s; %s", report.category, type(error).__name__, error, again
        )


def artifact_key(*names: str) -> str:
    """A key of names as Prefect takes them: a-z, 0-9 and dashes; unlike any other's, by a hash, where letters are lost."""
    plain = "-".join(names).lower().replace("_", "-")
    if re.fullmatch(r"[a-z0-9-]+", plain):
        return plain
    latin = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^a-z0-9]+", "-", latin).strip("-")
    return f"{readable}-{hashlib.sha256('/'.join(names).encode()).hexdigest()[:8]}".lstrip("-")


def figures_rows(metrics: pd.DataFrame) -> list[dict[str, str | float]]:
    """A row a model and training set, a column a metric."""
    overall = metrics[(metrics["defect_type"] == "all") & (metrics["size"] == "all")]
    shares = overall[overall["value"].between(0, 1) & ~overall["metric"].str.contains("threshold")]
    keys = ["model", "training_set"]
    table = (100 * shares.groupby([*keys, "metric"], sort=False)["value"].mean()).round(1).unstack("metric")
    filled = table.astype(object).where(table.notna(), "–")
    return [
        {str(name): value for name, value in row.items()} for row in filled.reset_index().to_dict("records")
    ]


def summary_text(report: Artifact) -> str:
    """Verdicts, and what became of the pairs, as Markdown."""
    lift, pairs = pd.read_parquet(report.path / LIFT), pd.read_parquet(report.path / PAIRS)
    lines = [
        f"# {report.category}",
        "",
        "| model | training set | metric | against | lift | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for row in deciding_rows(lift).to_dict("records"):
        if row["metric"] in SHOWN:
            interval = f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
            lines.append(
                f"| {row['model']} | {row['training_set']} | {row['metric']} | {row['against']} | {interval} "
                f"| {row['verdict']} |"
            )
    lines += ["", "| defect | drawn | pass | refused for |", "|---|---|---|---|"]
    for defect, of_type in pairs.groupby("label", sort=True):
        passed = int((of_type["reasons"] == "").sum())
        lines.append(f"| {defect} | {len(of_type)} | {passed} | {reasons_text(of_type)} |")
    return "\n".join(lines)


def picture_url(path: Path) -> str:
    """A picture as a URL that holds it, made small enough for a database."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((SHEET_WIDTH_PX, 4 * SHEET_WIDTH_PX))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
