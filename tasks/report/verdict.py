"""What a run found, in sentences, and what to do next: all from the run's own table of lifts."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from tasks.report.words import (
    GENERATED,
    HEADLINE,
    MODELS,
    RATES,
    TONES,
    TRAINING_SETS,
    Tone,
    listed,
    percent,
    points,
    said,
)

FEW_PASS = 0.5
HOW = {
    "generated+real": "added to the real shots",
    "generated+copy-paste+real": "added to the real shots and pasted defects",
    "generated": "in place of the real shots",
}


@dataclass(frozen=True)
class Finding:
    """What one training set does to one model's headline figure over a run's categories.

    Generated pairs are judged against the best baseline there is, all else against `real`.
    """

    model: str
    metric: str
    training_set: str
    rows: pd.DataFrame  # of lift.parquet, one a category

    def categories(self, verdict: str) -> list[str]:
        """Those with this verdict."""
        return self.rows.loc[self.rows["verdict"] == verdict, "category"].tolist()

    @property
    def tone(self) -> Tone:
        """good or bad where some category shows it and none the opposite; warn where nothing can be said."""
        helps, hurts = self.categories("helps"), self.categories("hurts")
        if helps and hurts:
            return "warn"
        if helps or hurts:
            return "good" if helps else "bad"
        return "open" if self.categories("no difference shown") else "warn"

    @property
    def text(self) -> str:
        """In words, with the interval where it is of one category, with their names where of several."""
        if len(self.rows) == 1:
            row = self.rows.iloc[0]
            against = "" if row["against"] == "real" else f", against {row['against']}"
            return f"{said(row['verdict'])}: {points(row['difference'], row['low'], row['high'])}{against}"
        parts = []
        for verdict in TONES:
            found = self.categories(verdict)
            if found:
                some = len(found) < len(self.rows) and verdict in ("helps", "hurts")
                names = f" ({listed(found)})" if some else ""
                parts.append(f"{said(verdict)} in {_share(found, self.rows)}{names}")
        return "; ".join(parts)


def deciding_rows(lift: pd.DataFrame) -> pd.DataFrame:
    """Of a table of lifts the rows that verdicts go by: of generated pairs against the best baseline, else against `real`.

    Best is the training set without them that has the best figure on the test pictures, for each category, model and
    metric: chosen there it can only favour the baseline. Columns and order as they were.
    """
    if lift.empty:
        return lift
    made = lift["training_set"].isin(GENERATED)
    ranked = lift["baseline"].where(~lift["metric"].isin(RATES), -lift["baseline"]).fillna(float("-inf"))
    keys = [lift.loc[made, name] for name in ("category", "model", "training_set", "metric")]
    best = ranked[made].groupby(keys, sort=False).idxmax()
    plain = lift.index[~made & (lift["against"] == "real")]
    return lift.loc[sorted({*best, *plain})]


def findings(lift: pd.DataFrame) -> list[Finding]:
    """A finding for each model and training set that was compared, models and sets in the run's order."""
    if lift.empty:
        return []
    found = []
    lift = deciding_rows(lift)
    for model, metric in HEADLINE.items():
        chosen = (lift["model"] == model) & (lift["metric"] == metric)
        for name, rows in lift[chosen].groupby("training_set", sort=False):
            found.append(Finding(model, metric, str(name), rows))
    return found


def headline(found: Sequence[Finding]) -> tuple[Tone, str]:
    """The answer to whether generated pairs help, in one sentence.

    It goes by the pairs besides the shots, as they are meant to be used, where the run has that training set.
    """
    by_set = {name: [each for each in found if each.training_set == name] for name in GENERATED}
    used = [each for of_set in by_set.values() for each in of_set]
    if not used:
        return (
            "warn",
            "Not known: no model was trained both with generated pairs and on the real shots alone.",
        )
    meant = next(of_set for of_set in by_set.values() if of_set)
    helps, hurts = (any(each.categories(verdict) for each in meant) for verdict in ("helps", "hurts"))
    others = {verdict for verdict in TONES for each in used if each.categories(verdict)}
    tone: Tone
    if helps or (not hurts and "helps" in others):
        tone, answer = ("warn", "In part") if hurts or not helps else ("good", "Yes")
    elif hurts or "hurts" in others:
        tone, answer = "bad", "No"
    elif "no difference shown" in others:
        tone, answer = "open", "Not shown"
    else:
        tone, answer = "warn", "Not known"
    clauses = [f"{HOW[name]}, they {_what_they_do(of_set)}" for name, of_set in by_set.items() if of_set]
    clauses[0] = clauses[0].replace(", they ", ", generated pairs ", 1)
    return tone, f"{answer}: {'; '.join(clauses)}{_against(used)}."


def _against(found: Sequence[Finding]) -> str:
    """What they were judged against, where that is not the real shots alone."""
    names = sorted({str(name) for each in found for name in each.rows["against"]})
    return "" if names == ["real"] else f" (each against the best baseline: {', '.join(names)})"


def _what_they_do(found: Sequence[Finding]) -> str:
    """A training set's effect on all models, as the end of a sentence."""
    parts = []
    for verdict in ("helps", "hurts"):
        models = [_model(each, verdict) for each in found if each.categories(verdict)]
        if models:
            parts.append(f"{verdict.removesuffix('s')} {' and '.join(models)}")
    if not parts:
        known = any(each.categories("no difference shown") for each in found)
        return "show no difference" if known else "have too few test pictures to tell"
    return " and ".join(parts)


def _model(finding: Finding, verdict: str) -> str:
    where = f" in {_share(finding.categories(verdict), finding.rows)}" if len(finding.rows) > 1 else ""
    return MODELS[finding.model].lower() + where


def _share(found: Sequence[str], rows: pd.DataFrame) -> str:
    return (
        f"all {len(rows)} categories"
        if len(found) == len(rows)
        else f"{len(found)} of {len(rows)} categories"
    )


def best_set(lift: pd.DataFrame, model: str, category: str) -> tuple[str, bool] | None:
    """The training set that helps a category's model most, and whether it has generated pairs; None if none helps."""
    if lift.empty:
        return None
    metric = HEADLINE[model]
    lift = deciding_rows(lift)
    rows = lift[
        (lift["model"] == model)
        & (lift["category"] == category)
        & (lift["metric"] == metric)
        & (lift["verdict"] == "helps")
    ]
    if rows.empty:
        return None
    # A set of pairs that helps beats the best of the others, whose lifts are over `real`.
    ranked = rows.assign(made=rows["training_set"].isin(GENERATED)).sort_values(["made", "difference"])
    name = str(ranked["training_set"].iloc[-1])
    return name, name in GENERATED


def what_next(
    run: str,
    found: Sequence[Finding],
    *,
    failed: int,
    base: str,
    seeds: int,
    pass_rate: float | None,
    refused_for: str,
    naive: bool,
) -> list[str]:
    """What to do with a run, a sentence or two each, commands in backquotes; the most urgent first."""
    advice = []
    if naive:
        advice.append(
            "The split was by name alone, so the same part may be on both sides. Before anything is concluded, run "
            "again without `split.naive`."
        )
    if failed:
        advice.append(
            f"{failed} stage{'s' if failed > 1 else ''} failed or had to be left out. What is finished is kept: "
            f"`anodiff rerun {run} --failed`."
        )
    for model in dict.fromkeys(each.model for each in found):
        advice.append(_use(run, model, [each for each in found if each.model == model]))
    of_pairs = [each for each in found if each.training_set in GENERATED]
    if of_pairs and base == "mini" and not any(each.categories("helps") for each in of_pairs):
        advice.append(
            "The pairs were drawn by the bundled `mini`, which is there so that everything runs anywhere. A Stable "
            "Diffusion 1.x base draws real surfaces: `--set finetune.base=PATH`."
        )
    if pass_rate is not None and pass_rate < FEW_PASS:
        advice.append(
            f"Only {percent(pass_rate)} % of the pairs drawn pass, most are refused as “{refused_for}”. Look at the "
            "sheets of refused pairs. More `finetune.train_steps` or more shots are the usual cure."
        )
    elif any(each.categories("hurts") for each in of_pairs):
        advice.append(
            "Where pairs hurt, look at their sheets and quality figures: what the eye finds wrong, a model learns."
        )
    if seeds == 1 and found:
        advice.append(
            "One seed: the intervals are over test pictures alone, another seed may differ by more. "
            "`--set compare.seeds=[0,1,2]` trains each model three times."
        )
    if any(each.categories("too few test pictures") for each in found):
        advice.append("With fewer than ten test pictures of a kind there is no verdict: add test pictures.")
    return advice


def _use(run: str, model: str, found: Sequence[Finding]) -> str:
    """Which training set to take for one model."""
    name = MODELS[model]
    helping = [each for each in found if each.categories("helps")]
    if not helping:
        return f"{name}: keep the real shots alone, nothing that was tried beats them by more than chance explains."
    best = max(
        helping,
        key=lambda each: (
            len(each.categories("helps")),
            each.training_set in GENERATED,
            each.rows["difference"].mean(),
        ),
    )
    where = "" if len(best.rows) == 1 else f" for {listed(best.categories('helps'))}"
    hurts = f", but not for {listed(best.categories('hurts'))}" if best.categories("hurts") else ""
    if best.training_set in GENERATED:
        command = f"anodiff export {run} OUT --model {model} --training-set {best.training_set}"
        return f"{name}: train on `{best.training_set}`{where}{hurts}. The trained models: `{command}`."
    what = TRAINING_SETS.get(best.training_set, "")
    better = "of all that was tried it helps most, and it costs no generator"
    return f"{name}: take `{best.training_set}` ({what}){where}{hurts}; {better}."
