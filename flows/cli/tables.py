"""What a run prints at its end: stages, figures, lifts, failures; plans and lists of runs. Rows in, rich tables out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, tzinfo

import pandas as pd
from rich.filesize import decimal
from rich.table import Table

from tasks.report.run_folder import RunSummary
from tasks.report.verdict import deciding_rows
from tasks.runs.cost import Forecast, Plan
from tasks.runs.ended import Listed, Run
from tasks.tables.training_rows import reasons_text

FIGURES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
}
# With five training sets and three models the lifts of all would be a hundred lines.
HEADLINES = ("image_auroc", "pixel_ap", "aupro", "accuracy", "balanced_accuracy", "macro_f1")
QUALITY = {
    "kid_encoder": "KID (encoder)",
    "coverage": "coverage",
    "mask_alignment": "mask alignment",
    "background_distance": "background",
    "near_copies": "near copies",
}
NAIVE = "naive split: the same part may be on both sides; these figures do not count"
DOSES = {"pairs": "generated pairs", "shots": "real shots"}
MAP_MODELS = ("localize", "detect")  # they refuse a part by a threshold
TITLES = {"localize": "Localization", "classify": "Classification", "detect": "Detection"}


def figures_table(summary: RunSummary, model: str) -> Table:
    """Category × training set: the mean over seeds of each of a model's metrics, in percent, on all test pictures."""
    table = Table(title=f"{TITLES[model]} on the test pictures, in % (mean over seeds)")
    mark_naive(table, summary)
    return _fill(table, summary.metrics, model, summary.steps)


def oracle_table(summary: RunSummary, model: str) -> Table:
    """figures_table of the checkpoints that the test pictures chose."""
    chosen_by = summary.oracle.loc[summary.oracle["model"] == model, "chosen_by"].iloc[0]
    table = Table(
        title=f"{TITLES[model]}, oracle: checkpoint chosen on the test pictures by {FIGURES[chosen_by]}, not an honest "
        "figure; to compare with papers"
    )
    mark_naive(table, summary)
    return _fill(table, summary.oracle, model)


def _fill(table: Table, rows: pd.DataFrame, model: str, steps: pd.DataFrame | None = None) -> Table:
    """Rows of a category and training set; `steps`: what was chosen for each, where anything was."""
    chosen = {}
    if steps is not None and len(steps):
        of_model = steps[steps["model"] == model]
        chosen = of_model.set_index(["category", "training_set"])["chosen"].to_dict()
    overall = (rows["defect_type"] == "all") & (rows["size"] == "all") & (rows["model"] == model)
    rows = rows[overall & rows["metric"].isin(FIGURES)]
    figures = [metric for metric in FIGURES if metric in set(rows["metric"])]
    texts, step_column = ("category", "training set"), ["steps"] if chosen else []
    for name in (*texts, *step_column, *(FIGURES[metric] for metric in figures), "test pictures"):
        table.add_column(name, justify="left" if name in texts else "right")
    for (category, training_set), of_set in rows.groupby(["category", "training_set"], sort=False):
        means = of_set.groupby("metric")["value"].mean()
        cells = [percent(means.get(metric)) for metric in figures]
        n = f"{of_set['n_good'].iloc[0]} good, {of_set['n_defect'].iloc[0]} defect"
        taken = [str(chosen.get((category, training_set), "–"))] if chosen else []
        table.add_row(str(category), str(training_set), *taken, *cells, n)
    return table


def pairs_table(summary: RunSummary) -> Table:
    """Of each defect type: how many pairs were drawn, how many passed, why the others did not, what they are worth."""
    table = Table(title="Generated pairs")
    table.caption = (
        "Figures of the pairs that pass, against the few shots; background 1 is as good as a normal's."
    )
    for name in ("category", "defect", "drawn", "pass", *QUALITY.values(), "refused for"):
        table.add_column(name, justify="left" if name in ("category", "defect", "refused for") else "right")
    values = pd.Series(dtype=float)
    if len(summary.quality):
        of_passed = summary.quality[summary.quality["pairs"] == "accepted"]
        values = of_passed.set_index(["category", "defect", "metric"])["value"]
    for (category, defect), of_type in summary.pairs.groupby(["category", "label"], sort=False):
        figures = [values.get((category, defect, metric)) for metric in QUALITY]
        cells = ["–" if value is None or pd.isna(value) else f"{value:.3f}" for value in figures]
        passed = int((of_type["reasons"] == "").sum())
        table.add_row(
            str(category), str(defect), str(len(of_type)), str(passed), *cells, reasons_text(of_type)
        )
    return table


def line_table(summary: RunSummary) -> Table:
    """What a line would feel at the threshold of validation, and how far that lies from the best one in hindsight."""
    table = Table(title="On the line, at the threshold set without a real test picture (mean over seeds)")
    table.caption = (
        "Overkill: good parts refused. Escapes: defects passed. Best: that of the best F1 on test pictures."
    )
    mark_naive(table, summary)
    rows = summary.metrics[summary.metrics["size"] == "all"]
    # By this metric: to a classifier `good` is a class, too.
    of_defects = rows.loc[rows["metric"] == "escape_rate", "defect_type"].unique()
    types = [each for each in of_defects if each != "all"]
    texts = ("category", "model", "training set")
    for name in (*texts, "overkill", "escapes", *types, "threshold", "best"):
        table.add_column(name, justify="left" if name in texts else "right")
    keys = ["category", "model", "training_set"]
    for names, of_set in rows[rows["model"].isin(MAP_MODELS)].groupby(keys, sort=False):
        mean = of_set.groupby(["defect_type", "metric"])["value"].mean()
        escapes = [percent(mean.get((each, "escape_rate"))) for each in ("all", *types)]
        threshold, gap = mean["all", "threshold"], mean["all", "threshold_gap"]
        table.add_row(
            *map(str, names),
            percent(mean["all", "overkill_rate"]),
            *escapes,
            f"{threshold:.3f}",
            f"{threshold - gap:.3f}",
        )
    return table


def lift_table(summary: RunSummary) -> Table:
    """Each training set against the baselines by the headline metrics: difference, interval, verdict."""
    table = Table(title="Lift over the baselines, in points, with its 95 % interval")
    table.caption = (
        "(best): the best baseline there is, which a verdict on generated pairs goes by. Other metrics: the report, and "
        "lift.parquet in the run's folder."
    )
    if (summary.lift["n_seeds"] == 1).any():
        table.caption += (
            "\nOne seed: the interval is over test pictures only, another seed may differ by more."
        )
    mark_naive(table, summary)
    texts = ("category", "model", "training set", "against", "metric", "verdict")
    for name in (*texts[:-1], "baseline", "with", "lift", "interval", "verdict"):
        table.add_column(name, justify="left" if name in texts else "right")
    deciding = set(deciding_rows(summary.lift).index)
    for index, row in summary.lift.iterrows():
        if row["metric"] in HEADLINES:
            best = " (best)" if "generated" in row["training_set"] and index in deciding else ""
            table.add_row(
                row["category"],
                row["model"],
                row["training_set"],
                row["against"] + best,
                FIGURES[row["metric"]],
                percent(row["baseline"]),
                percent(row["value"]),
                f"{100 * row['difference']:+.1f}",
                f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
                row["verdict"],
                style={"helps": "green", "hurts": "red"}.get(row["verdict"], ""),
            )
    return table


def dose_table(summary: RunSummary, kind: str) -> Table:
    """Each model's curve over its doses of one kind, of all defect types and of each."""
    table = Table(title=f"Dose and response: {DOSES[kind]} of each defect type, in % with the 95 % interval")
    table.caption = "The best dose is found on the test pictures: good for choosing it, not for reporting."
    mark_naive(table, summary)
    rows = summary.dose[summary.dose["kind"] == kind]
    doses = sorted(rows["dose"].unique())
    for name in ("category", "model", "defect type", "metric"):
        table.add_column(name)
    for dose in doses:
        table.add_column(str(dose), justify="right")
    curves = rows.groupby(["category", "model", "defect_type", "metric"], sort=False)
    for (category, model, defect_type, metric), points in curves:
        at = points.set_index("dose")[["value", "low", "high"]].to_dict("index")
        cells = [
            f"{percent(at[dose]['value'])} [{percent(at[dose]['low'])}, {percent(at[dose]['high'])}]"
            if dose in at
            else "–"
            for dose in doses
        ]
        table.add_row(str(category), str(model), str(defect_type), FIGURES[str(metric)], *cells)
    return table


def tables_of(summary: RunSummary) -> Iterator[Table | str]:
    """All that a run prints of its figures and failures, in order."""
    if len(summary.pairs):
        yield pairs_table(summary)
    for model in summary.metrics["model"].unique() if len(summary.metrics) else ():
        yield figures_table(summary, model)
    if len(summary.metrics) and summary.metrics["model"].isin(MAP_MODELS).any():
        yield line_table(summary)
    for model in summary.oracle["model"].unique() if len(summary.oracle) else ():
        yield oracle_table(summary, model)
    if len(summary.lift):
        yield lift_table(summary)
    for kind in summary.dose["kind"].unique() if len(summary.dose) else ():
        yield dose_table(summary, kind)
    yield from summary.advice
    if any(stage.status not in ("ran", "cached") for stage in summary.stages):
        yield failures_table(summary)


def mark_naive(table: Table, summary: RunSummary) -> None:
    """Say below a table that its figures are of the naive split, if they are."""
    if summary.naive:
        table.caption = "\n".join(filter(None, [str(table.caption or ""), NAIVE]))
        table.caption_style = "bold red"


def failures_table(summary: RunSummary) -> Table:
    """What failed or was left out, and why."""
    table = Table(title="Failed or left out")
    for name in ("stage", "of", "what", "why"):
        table.add_column(name, overflow="fold")
    for stage in summary.stages:
        if stage.status in ("failed", "skipped", "left out"):
            table.add_row(stage.stage, stage.label, stage.status, stage.error or "")
    return table


def stage_line(summary: RunSummary) -> str:
    """How many stages were at hand already, ran, or failed."""
    count = {
        status: sum(stage.status == status for stage in summary.stages)
        for status in ("cached", "ran", "failed", "skipped", "left out")
    }
    others = [f"{n} {status}" for status, n in count.items() if n and status != "cached"]
    total = f"{count['cached']} of {len(summary.stages) - count['left out']} stages cached"
    return ", ".join([total, *others])


def incomplete_categories(summary: RunSummary) -> Iterable[str]:
    """Categories whose figures lack a defect type or a training set."""
    labels = [stage.label for stage in summary.stages if stage.status in ("failed", "skipped")]
    return sorted({label.split("/")[0] for label in labels})


def percent(value: float | None) -> str:
    """A share as a percentage; a dash where a metric is not defined."""
    return "–" if value is None or pd.isna(value) else f"{100 * value:.1f}"


def plan_table(costs: Plan) -> Table:
    """A row a category and stage: how many are cached, why the others are not, what they will take."""
    table = Table(title="What a run would do")
    for name in ("category", "stage", "cached", "time", "disk", "why"):
        table.add_column(name, justify="right" if name in ("time", "disk") else "left", overflow="fold")
    rows: dict[tuple[str, str], list[Forecast]] = {}
    for each in costs.stages:
        rows.setdefault((each.out.category, each.out.stage), []).append(each)
    before = ""
    for (category, stage), stages in rows.items():
        to_do = [each for each in stages if each.status == "planned"]
        known = [each.cost for each in to_do if each.cost is not None]
        seconds = duration(sum(cost.seconds for cost in known))
        size = decimal(round(sum(cost.bytes for cost in known)))
        unknown = len(known) < len(to_do)
        whys = Counter(each.why for each in to_do).most_common()
        why = "\n".join(text if len(whys) == 1 else f"{n} × {text}" for text, n in whys)
        table.add_row(
            category if category != before else "",
            stage,
            f"{len(stages) - len(to_do)} of {len(stages)}",
            "" if not to_do else "unknown: nothing like it ran here" if unknown else seconds,
            "" if not to_do else "unknown" if unknown else size,
            why,
            style="" if to_do else "dim",
        )
        before = category
    return table


def plan_lines(costs: Plan) -> Iterator[str]:
    """What it comes to, and whether it fits."""
    if not costs.planned:
        yield f"all {len(costs.stages)} stages are cached"
        return
    yield f"{len(costs.stages) - len(costs.planned)} of {len(costs.stages)} stages are cached"
    besides = (
        f", and what is unknown: {', '.join(costs.unknown)} (nothing like them ran here)"
        if costs.unknown
        else ""
    )
    if any(each.cost for each in costs.planned):
        one = duration(costs.seconds)
        several = f"; with {costs.at_once} at once at least {duration(costs.seconds / costs.at_once)}"
        of = f" on {costs.device}" if costs.device else ""
        yield f"time: about {one}{of}{several if costs.at_once > 1 else ''}{besides}"
        for device, seconds in costs.elsewhere.items():
            yield f"      about {duration(seconds)} on {device}"
        yield f"disk: about {decimal(round(costs.bytes))}{besides}; {decimal(costs.free_bytes)} are free"
    else:
        yield f"time and disk: unknown, nothing like it ever ran here; {decimal(costs.free_bytes)} are free"
    if not costs.fits:
        yield "it will not fit: see `anodiff artifacts gc` for what can go, or give another disk's folder as --store"


def runs_table(runs: Sequence[Listed], zone: tzinfo | None) -> Table:
    """A row a run."""
    table = Table(box=None, header_style="bold")
    for name in ("run", "state", "started", "took", "categories", "failed", "data"):
        table.add_column(name, overflow="fold", justify="right" if name == "took" else "left")
    for run in runs:
        end = run.ended or (datetime.now(UTC) if run.state == "running" else None)
        failed = ", ".join(run.failed[:2]) + (
            f" and {len(run.failed) - 2} more" if len(run.failed) > 2 else ""
        )
        table.add_row(
            run.name,
            run.state,
            f"{run.started.astimezone(zone):%Y-%m-%d %H:%M}",
            "" if end is None else duration((end - run.started).total_seconds()),
            ", ".join(run.categories),
            failed,
            run.data,
            style={"failed": "red", "refused": "red", "stopped": "yellow", "running": "green"}.get(
                run.state, ""
            ),
        )
    return table


def stages_table(run: Run) -> Table:
    """A row a stage of a run that ended."""
    table = Table(title=f"run {run.name} {run.state}")
    for name in ("stage", "of", "what", "took", "artifact", "why"):
        table.add_column(name, overflow="fold", justify="right" if name == "took" else "left")
    for stage in run.stages:
        table.add_row(
            stage.stage,
            stage.label,
            stage.status,
            duration(stage.seconds) if stage.status == "ran" else "",
            (stage.artifact or "").rpartition("/")[2][:8],
            stage.error or "",
            style={"failed": "red", "skipped": "red"}.get(stage.status, ""),
        )
    return table


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // 1440
    if minutes < 60:
        return f"{minutes} min"
    return f"{days} d {hours % 24} h" if days else f"{hours} h {minutes % 60} min"
