"""Steps that a category takes more than once: pairs of a defect type, whole or by way of crops, and one trained model.

Stages of different defect types do not need each other: all are started before any is waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.config import ModelName, RunConfig, start_of
from tasks.data.split import ShotChoice
from tasks.runtime.stage import StageOutcome, Started, run
from tasks.stages.adapt import plan_adapt
from tasks.stages.crop_blend import plan_blend, plan_crop, side_of_crops
from tasks.stages.curate import more_to_draw, plan_curate
from tasks.stages.finetune import plan_finetune
from tasks.stages.generate import plan_generate
from tasks.stages.quality import plan_quality
from tasks.stages.redraw import ShotStarts
from tasks.stages.review import decisions_on, plan_review
from tasks.stages.search import plan_search, tuned
from tasks.stages.synthesize import plan_synthesize
from tasks.stages.train import plan_model
from tasks.store.artifacts import Artifact
from tasks.tables.baselines import BASELINES, BaselineName, baseline_of
from tasks.tables.object_masks import without_background
from tasks.tables.training_rows import Pictures, Trained


@dataclass(frozen=True)
class Shared:
    """What the pairs of all defect types of a category are made from, and the stages that make it."""

    prepared: Artifact
    objects: Artifact | None
    normals: Artifact | None
    started: tuple[Started, ...] = ()
    # By the side of crops, px: what adapted the base to normals' crops, for all defect types, folds and doses.
    of_crops: dict[int, Started] = field(default_factory=dict)

    def for_background(self, config: RunConfig) -> Artifact | None:
        """The object masks, where backgrounds are compensated."""
        return None if config.finetune.adapter.background == "off" else self.objects


@dataclass
class DefectRun:
    """One defect type on its way to pairs."""

    defect: str
    config: RunConfig
    source: Shared  # of crops, where there are any
    cropped: Artifact | None
    choice: ShotChoice | None
    starts: ShotStarts | None = None
    adapter: Artifact | None = None
    stages: list[Started] = field(default_factory=list)
    drawn: list[Artifact] = field(default_factory=list)
    curated: Artifact | None = None

    @property
    def objects(self) -> Artifact | None:
        """The object masks, where backgrounds are compensated."""
        return self.source.for_background(self.config)


@dataclass
class Drawn:
    """The pairs of defect types, their quality figures where these were asked for, and what became of each stage."""

    pairs: dict[str, Artifact] = field(default_factory=dict)
    quality: dict[str, Artifact] = field(default_factory=dict)
    stages: list[StageOutcome] = field(default_factory=list)
    readable: bool = True  # False: some of the pairs are only planned


def draw_pairs(
    config: RunConfig, shared: Shared, defects: Sequence[str], choice: ShotChoice | None = None
) -> Drawn:
    """The pairs of each defect type, where all of its stages succeeded; figures of those that no dose limits.

    finetune → search, if asked for → generate → curate → review, where people decided on pairs → quality, or for small
    defects by way of crops: crop → adapt → finetune → … → quality → blend.
    """
    defect_runs = [start_defect(config, shared, defect, choice) for defect in defects]
    draw([defect_run for defect_run in defect_runs if tune(defect_run)])
    take_review(defect_runs)
    figures, blended = {}, {}
    for defect_run in defect_runs:
        if defect_run.curated is None:
            continue
        if choice is None:
            figures[defect_run.defect] = measure(defect_run, defect_run.curated)
        if defect_run.cropped is not None:
            blended[defect_run.defect] = put_back(
                config, shared, defect_run, defect_run.cropped, defect_run.curated
            )

    drawn = Drawn()
    for defect_run in defect_runs:
        drawn.stages += [stage.outcome for stage in defect_run.stages]
        pairs = defect_run.curated
        if defect_run.defect in figures and figures[defect_run.defect].made:
            drawn.quality[defect_run.defect] = figures[defect_run.defect].out
        if defect_run.defect in blended:
            pairs = blended[defect_run.defect].out if blended[defect_run.defect].made else None
        if pairs is not None:
            drawn.pairs[defect_run.defect] = pairs
        drawn.readable = drawn.readable and all(stage.readable for stage in defect_run.stages if stage.made)
    return drawn


def start_defect(config: RunConfig, shared: Shared, defect: str, choice: ShotChoice | None) -> DefectRun:
    """crop → adapt, where the defect is small, → finetune."""
    defect_run = DefectRun(defect, config, shared, None, choice)
    crops = None
    side_px = side_of_crops(config, shared.prepared, defect)
    if side_px is not None:
        source, stages = crop_shared(config, shared, defect, side_px, choice)
        # The masks of the objects are of whole pictures; crops are of the shots that a dose leaves.
        crops = source.prepared
        defect_run = DefectRun(defect, without_background(config), source, crops, None, stages=stages)
    if start_of(config) == "shot":
        defect_run.starts = ShotStarts(shared.prepared, shared.objects, crops, choice)
        defect_run.cropped = None  # pairs come out as whole pictures
    prepared, normals = defect_run.source.prepared, defect_run.source.normals
    learnt = plan_finetune(
        defect_run.config, prepared, defect, normals, defect_run.choice, defect_run.objects
    )
    defect_run.adapter = learnt.out
    defect_run.stages.append(run(learnt, wait_for=defect_run.source.started))
    if config.search.rounds:
        found = plan_search(
            defect_run.config, prepared, defect_run.adapter, defect, defect_run.choice, defect_run.objects
        )
        defect_run.stages.append(run(found, wait_for=defect_run.stages[-1:]))
    return defect_run


def tune(defect_run: DefectRun) -> bool:
    """Take over what a search found; False if it failed."""
    if not defect_run.config.search.rounds:
        return True
    if not defect_run.stages[-1].made:
        return False
    if defect_run.stages[-1].readable:
        defect_run.config = tuned(defect_run.config, defect_run.stages[-1].out)
    return True


def draw(defect_runs: Sequence[DefectRun]) -> None:
    """generate → curate, drawn again until enough pairs pass or the budget is spent."""
    wanted = {defect_run.defect: defect_run.config.generate.num_pairs for defect_run in defect_runs}
    first = dict.fromkeys(wanted, 0)
    while wanted:
        going = [defect_run for defect_run in defect_runs if defect_run.defect in wanted]
        for defect_run in going:
            draw_once(defect_run, first[defect_run.defect], wanted[defect_run.defect])
        for defect_run in going:
            first[defect_run.defect] += wanted.pop(defect_run.defect)
            judged = defect_run.stages[-1]
            more = more_to_draw(defect_run.config, judged.out) if judged.readable else 0
            if more:
                wanted[defect_run.defect] = more
            elif judged.made:
                defect_run.curated = judged.out


def draw_once(defect_run: DefectRun, first: int, count: int) -> None:
    """Pairs number `first` and after, and the judgement of all drawn so far."""
    assert defect_run.adapter is not None
    prepared = defect_run.source.prepared
    pairs = plan_generate(
        defect_run.config,
        defect_run.adapter,
        prepared=prepared,
        first=first,
        num_pairs=count,
        objects=defect_run.objects,
        starts=defect_run.starts,
    )
    generated = run(pairs, wait_for=defect_run.stages[-1:])
    defect_run.drawn.append(pairs.out)
    judging = plan_curate(
        defect_run.config,
        prepared,
        defect_run.drawn,
        defect_run.defect,
        defect_run.source.objects,
        defect_run.choice,
    )
    defect_run.stages += [generated, run(judging, wait_for=[generated])]


def take_review(defect_runs: Sequence[DefectRun]) -> None:
    """Curated pairs as people decided on them; nothing is drawn in place of what they rejected."""
    started = []
    for defect_run in defect_runs:
        config, curated = defect_run.config, defect_run.curated
        if curated is None or not (decided := decisions_on(config, curated, defect_run.drawn)):
            continue
        stage = run(plan_review(config, curated, decided), wait_for=defect_run.stages[-1:])
        defect_run.stages.append(stage)
        started.append((defect_run, stage))
    for defect_run, stage in started:
        defect_run.curated = stage.out if stage.made else None


def measure(defect_run: DefectRun, curated: Artifact) -> Started:
    """The quality figures of a defect type's pairs."""
    measuring = plan_quality(defect_run.config, defect_run.source.prepared, curated, defect_run.defect)
    measured = run(measuring, wait_for=defect_run.stages[-1:])
    defect_run.stages.append(measured)
    return measured


def put_back(
    config: RunConfig, shared: Shared, defect_run: DefectRun, cropped: Artifact, curated: Artifact
) -> Started:
    """Pairs of crops, put back into whole pictures; from the run's own config, crops have no background."""
    put = run(plan_blend(config, shared.prepared, cropped, curated, shared.objects))
    defect_run.stages.append(put)
    return put


def crop_shared(
    config: RunConfig, shared: Shared, defect: str, side_px: int, choice: ShotChoice | None = None
) -> tuple[Shared, list[Started]]:
    """crop → adapt: what pairs of one defect type are made from at the pictures' own resolution.

    The base adapts to normals' crops alone: once for all defect types, folds and doses with crops of this size.
    """

    cropped = run(plan_crop(config, shared.prepared, defect, side_px, choice, shared.objects))
    if plan_adapt(config, cropped.out) is None:
        return Shared(cropped.out, None, None, (cropped,)), [cropped]
    stages = [cropped]
    if side_px not in shared.of_crops:
        normals = run(plan_crop(config, shared.prepared, None, side_px, None, shared.objects))
        adapting = plan_adapt(config, normals.out)
        assert adapting is not None
        shared.of_crops[side_px] = run(adapting, wait_for=[normals])
        stages += [normals, shared.of_crops[side_px]]
    adapted = shared.of_crops[side_px]
    return Shared(cropped.out, None, adapted.out, (cropped, adapted)), stages


def paste_pairs(
    config: RunConfig,
    shared: Shared,
    names: Sequence[str],
    defects: Sequence[str],
    choice: ShotChoice | None = None,
) -> dict[BaselineName, Started]:
    """Start making the pairs of the baselines that these training sets need."""
    return {
        baseline: run(plan_synthesize(config, shared.prepared, baseline, defects, shared.objects, choice))
        for baseline in BASELINES
        if baseline in map(baseline_of, names)
    }


def start_model(
    config: RunConfig,
    model: ModelName,
    pictures: Pictures,
    name: str,
    seed: int,
    steps: Started | None = None,
    wait_for: Sequence[Started] = (),
) -> tuple[Trained, Started]:
    """Start the training and test of one model; `steps` chooses how many it takes, where that is `auto`."""
    training = plan_model(config, model, pictures, name, seed, None if steps is None else steps.out)
    started = run(training, wait_for=[*wait_for, *([] if steps is None else [steps])])
    return Trained(model, name, seed, training.out), started
