"""What Prefect's UI shows of a comparison: its figures as a table, all else in words."""

import logging

import httpx
import pandas as pd
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings

from tasks.compare.comparison import CAPTION, Comparison
from tasks.compare.page import duration, interval
from tasks.compare.tables import meant_set
from tasks.report.ui import SHOWN
from tasks.report.words import HEADLINE, percent, signed
from tasks.runtime.server import is_own_server

log = logging.getLogger("anodiff")

MOST_ROWS = 500  # Prefect's UI draws them all at once


def show_comparison(comparison: Comparison) -> None:
    """Create the artifacts; nothing where nobody could look: the server lives only for the run."""
    if is_own_server(get_current_settings().api.url):
        return
    try:
        rows = figure_rows(comparison)
        if rows:
            create_table_artifact(
                rows,
                key="comparison-figures",
                description=f"In %, differences to {comparison.runs[0]} in points. {CAPTION}",
            )
        create_markdown_artifact(
            summary_text(comparison), key="comparison-summary", description=" / ".join(comparison.runs)
        )
    except (PrefectException, httpx.HTTPError) as error:
        log.warning("comparison: not shown in Prefect's UI: %s", error)


def figure_rows(comparison: Comparison) -> list[dict[str, str]]:
    """A row a category, model, training set, metric and run; where these are many, of one metric and training set."""
    shown = comparison.figures[comparison.figures["metric"].isin(SHOWN)]
    if len(shown) > MOST_ROWS:
        main = shown["metric"] == shown["model"].map(HEADLINE)
        shown = shown[main & (shown["training_set"] == meant_set(shown["training_set"]))]
    return [
        {
            **{name: str(row[name]) for name in ("category", "model", "training_set", "metric", "run")},
            "value": percent(row["value"]),
            "difference": signed(row["difference"]) if row["run"] != comparison.runs[0] else "",
            "interval": interval(row["low"], row["high"]),
            "verdict": ", ".join(filter(None, [row["verdict"], row["note"]])),
        }
        for row in shown.to_dict("records")
    ]


def summary_text(comparison: Comparison) -> str:
    """Runs and cost, what is not compared and why, what differs in configuration, as Markdown."""
    lines = [f"# {len(comparison.runs)} runs, against {comparison.runs[0]}", ""]
    lines += [
        "| run | state | took | all stages | pairs drawn | pass | device |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in comparison.about.to_dict("records"):
        times = f"{duration(row['wall_s'])} | {duration(row['stages_s'])}"
        lines.append(
            f"| {row['run']} | {row['state']} | {times} | {row['drawn']} | {row['passed']} | {row['device']} |"
        )
    ranking = comparison.ranking
    if len(ranking) > MOST_ROWS // 10:
        ranking = ranking[ranking["training_set"] == meant_set(ranking["training_set"])]
    if len(ranking):
        lines += [
            "",
            "| run | model | training set | mean difference | best | worst |",
            "|---|---|---|---|---|---|",
        ]
        for row in ranking.to_dict("records"):
            ends = (f"{row[end]} {signed(row[f'{end}_difference'])}" for end in ("best", "worst"))
            lines.append(
                f"| {row['run']} | {row['model']} | {row['training_set']} | {signed(row['mean'])} | {' | '.join(ends)} |"
            )
    lines += _markdown("Not compared", comparison.not_compared)
    lines += _markdown("What differs in configuration", comparison.config)
    return "\n".join(lines)


def _markdown(title: str, table: pd.DataFrame) -> list[str]:
    if table.empty:
        return []
    head = [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
    rows = [
        f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |"
        for row in table.itertuples(index=False)
    ]
    return ["", f"## {title}", "", *head, *rows]
