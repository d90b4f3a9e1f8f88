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
class Line:
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
    lines = [start_line(config, shared, defect, choice) for defect in defects]
    draw([line for line in lines if tune(line)])
    take_review(lines)
    figures, blended = {}, {}
    for line in lines:
        if line.curated is None:
            continue
        if choice is None:
            figures[line.defect] = measure(line, line.curated)
        if line.cropped is not None:
            blended[line.defect] = put_back(config, shared, line, line.cropped, line.curated)

    drawn = Drawn()
    for line in lines:
        drawn.stages += [each.outcome for each in line.stages]
        pairs = line.curated
        if line.defect in figures and figures[line.defect].made:
            drawn.quality[line.defect] = figures[line.defect].out
        if line.defect in blended:
            pairs = blended[line.defect].out if blended[line.defect].made else None
        if pairs is not None:
            drawn.pairs[line.defect] = pairs
        drawn.readable = drawn.readable and all(each.readable for each in line.stages if each.made)
    return drawn


def start_line(config: RunConfig, shared: Shared, defect: str, choice: ShotChoice | None) -> Line:
    """crop → adapt, where the defect is small, → finetune."""
    line = Line(defect, config, shared, None, choice)
    crops = None
    side_px = side_of_crops(config, shared.prepared, defect)
    if side_px is not None:
        source, stages = crop_shared(config, shared, defect, side_px, choice)
        # The masks of the objects are of whole pictures; crops are of the shots that a dose leaves.
        crops = source.prepared
        line = Line(defect, without_background(config), source, crops, None, stages=stages)
    if start_of(config) == "shot":
        line.starts = ShotStarts(shared.prepared, shared.objects, crops, choice)
        line.cropped = None  # pairs come out as whole pictures
    prepared, normals = line.source.prepared, line.source.normals
    learnt = plan_finetune(line.config, prepared, defect, normals, line.choice, line.objects)
    line.adapter = learnt.out
    line.stages.append(run(learnt, wait_for=line.source.started))
    if config.search.rounds:
        found = plan_search(line.config, prepared, line.adapter, defect, line.choice, line.objects)
        line.stages.append(run(found, wait_for=line.stages[-1:]))
    return line


def tune(line: Line) -> bool:
    """Take over what a search found; False if it failed."""
    if not line.config.search.rounds:
        return True
    if not line.stages[-1].made:
        return False
    if line.stages[-1].readable:
        line.config = tuned(line.config, line.stages[-1].out)
    return True


def draw(lines: Sequence[Line]) -> None:
    """generate → curate, drawn again until enough pairs pass or the budget is spent."""
    wanted = {line.defect: line.config.generate.num_pairs for line in lines}
    first = dict.fromkeys(wanted, 0)
    while wanted:
        going = [line for line in lines if line.defect in wanted]
        for line in going:
            draw_once(line, first[line.defect], wanted[line.defect])
        for line in going:
            first[line.defect] += wanted.pop(line.defect)
            judged = line.stages[-1]
            more = more_to_draw(line.config, judged.out) if judged.readable else 0
            if more:
                wanted[line.defect] = more
            elif judged.made:
                line.curated = judged.out


def draw_once(line: Line, first: int, count: int) -> None:
    """Pairs number `first` and after, and the judgement of all drawn so far."""
    assert line.adapter is not None
    prepared = line.source.prepared
    pairs = plan_generate(
        line.config,
        line.adapter,
        prepared=prepared,
        first=first,
        num_pairs=count,
        objects=line.objects,
        starts=line.starts,
    )
    generated = run(pairs, wait_for=line.stages[-1:])
    line.drawn.append(pairs.out)
    judging = plan_curate(line.config, prepared, line.drawn, line.defect, line.source.objects, line.choice)
    line.stages += [generated, run(judging, wait_for=[generated])]


def take_review(lines: Sequence[Line]) -> None:
    """Curated pairs as people decided on them; nothing is drawn in place of what they rejected."""
    started = []
    for line in lines:
        if line.curated is None or not (decided := decisions_on(line.config, line.curated, line.drawn)):
            continue
        stage = run(plan_review(line.config, line.curated, decided), wait_for=line.stages[-1:])
        line.stages.append(stage)
        started.append((line, stage))
    for line, stage in started:
        line.curated = stage.out if stage.made else None


def measure(line: Line, curated: Artifact) -> Started:
    """The quality figures of a defect type's pairs."""
    measuring = plan_quality(line.config, line.source.prepared, curated, line.defect)
    measured = run(measuring, wait_for=line.stages[-1:])
    line.stages.append(measured)
    return measured


def put_back(config: RunConfig, shared: Shared, line: Line, cropped: Artifact, curated: Artifact) -> Started:
    """Pairs of crops, put back into whole pictures; from the run's own config, crops have no background."""
    put = run(plan_blend(config, shared.prepared, cropped, curated, shared.objects))
    line.stages.append(put)
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
