"""Steps that a category takes more than once: pairs of a defect type, whole or by way of crops, and one trained model."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from prefect import State
from tasks.curate import curate, more_to_draw, plan_curate

from tasks.artifacts import Artifact
from tasks.config import ModelName, RunConfig
from tasks.finetune import finetune, plan_finetune
from tasks.generate import generate, plan_generate
from tasks.models import Pictures, Trained
from tasks.native import blend, crop, plan_blend, plan_crop, works_natively
from tasks.normals import adapt, plan_adapt
from tasks.objects import without_background
from tasks.quality import plan_quality, quality
from tasks.runtime import StageOutcome, StageResult, outcome, run
from tasks.search import plan_search, search, tuned
from tasks.train import TRAIN, plan_model


@dataclass(frozen=True)
class Shared:
    """What the pairs of all defect types of a category are made from, and the states of the stages that make it."""

    prepared: Artifact
    objects: Artifact | None
    normals: Artifact | None
    states: tuple[State[StageResult], ...] = ()

    def for_background(self, config: RunConfig) -> Artifact | None:
        """The object masks, where backgrounds are compensated."""
        return None if config.finetune.adapter.background == "off" else self.objects


@dataclass
class Drawn:
    """The pairs of defect types, their quality figures where these were asked for, and what became of each stage."""

    pairs: dict[str, Artifact] = field(default_factory=dict)
    quality: dict[str, Artifact] = field(default_factory=dict)
    stages: list[StageOutcome] = field(default_factory=list)


def draw_pairs(
    config: RunConfig, shared: Shared, defects: Sequence[str], max_shots: int | None = None
) -> Drawn:
    """The pairs of each defect type, where all of its stages succeeded; figures of those that no dose limits.

    finetune → generate → curate → quality, or for small defects by way of crops: crop → adapt → finetune → generate →
    curate → quality → blend.
    """
    drawn = Drawn()
    for defect in defects:
        source, cropped, own = shared, None, config
        if works_natively(config, shared.prepared, defect):
            source, stages = crop_shared(config, shared, defect, max_shots)
            drawn.stages += stages
            # The masks of the objects are of whole pictures; crops are of the shots that a dose leaves.
            own, cropped = without_background(config), source.prepared
        limit = max_shots if cropped is None else None
        curated, state, stages = draw(own, source, defect, limit)
        drawn.stages += stages
        if curated is None:
            continue
        if max_shots is None:
            measured = plan_quality(own, source.prepared, curated, defect)
            told = run(
                quality,
                measured,
                prepared=source.prepared,
                generated=curated,
                defect=defect,
                config=own,
                wait_for=[state],
            )
            drawn.stages.append(outcome(measured, told))
            if drawn.stages[-1].artifact is not None:
                drawn.quality[defect] = measured
        pairs = curated
        if cropped is not None:
            pairs = plan_blend(config, shared.prepared, cropped, curated, shared.objects)
            put = run(
                blend,
                pairs,
                prepared=shared.prepared,
                cropped=cropped,
                pairs=curated,
                config=config,
                objects=shared.objects,
                wait_for=[state],
            )
            drawn.stages.append(outcome(pairs, put))
            if drawn.stages[-1].artifact is None:
                continue
        drawn.pairs[defect] = pairs
    return drawn


def draw(
    config: RunConfig, shared: Shared, defect: str, max_shots: int | None = None
) -> tuple[Artifact | None, State[StageResult], list[StageOutcome]]:
    """finetune → search, if asked for → generate → curate, drawn again until enough pairs pass or the budget is spent."""
    objects = shared.for_background(config)
    adapter = plan_finetune(config, shared.prepared, defect, shared.normals, max_shots, objects)
    state = run(
        finetune,
        adapter,
        prepared=shared.prepared,
        defect=defect,
        normals=shared.normals,
        config=config,
        max_shots=max_shots,
        objects=objects,
        wait_for=shared.states,
    )
    stages = [outcome(adapter, state)]
    if config.search.rounds:
        found = plan_search(config, shared.prepared, adapter, defect, max_shots, objects)
        state = run(
            search,
            found,
            prepared=shared.prepared,
            adapter=adapter,
            defect=defect,
            config=config,
            max_shots=max_shots,
            objects=objects,
            wait_for=[state],
        )
        stages.append(outcome(found, state))
        if stages[-1].artifact is None:
            return None, state, stages
        config = tuned(config, found)
    drawn: list[Artifact] = []
    first, count = 0, config.generate.num_pairs
    while True:
        pairs = plan_generate(config, adapter, first=first, num_pairs=count, objects=objects)
        state = run(
            generate,
            pairs,
            adapter=adapter,
            config=config,
            prepared=shared.prepared,
            objects=objects,
            wait_for=[state],
        )
        stages.append(outcome(pairs, state))
        drawn.append(pairs)
        curated = plan_curate(config, shared.prepared, drawn, defect, shared.objects, max_shots)
        state = run(
            curate,
            curated,
            prepared=shared.prepared,
            drawn=list(drawn),
            defect=defect,
            config=config,
            objects=shared.objects,
            max_shots=max_shots,
            wait_for=[state],
        )
        stages.append(outcome(curated, state))
        if stages[-1].artifact is None:
            return None, state, stages
        first += count
        count = more_to_draw(config, curated)
        if not count:
            return curated, state, stages


def crop_shared(
    config: RunConfig, shared: Shared, defect: str, max_shots: int | None = None
) -> tuple[Shared, list[StageOutcome]]:
    """crop → adapt: what pairs of one defect type are made from at the pictures' own resolution."""
    crops = plan_crop(config, shared.prepared, defect, max_shots, shared.objects)
    cut = run(
        crop,
        crops,
        prepared=shared.prepared,
        defect=defect,
        config=config,
        max_shots=max_shots,
        objects=shared.objects,
        wait_for=shared.states,
    )
    stages = [outcome(crops, cut)]
    source = Shared(crops, None, plan_adapt(config, crops), (cut,))
    if source.normals is not None:
        adapted = run(adapt, source.normals, prepared=crops, config=config, wait_for=[cut])
        stages.append(outcome(source.normals, adapted))
        source = replace(source, states=(adapted,))
    return source, stages


def train_model(
    config: RunConfig,
    model: ModelName,
    pictures: Pictures,
    name: str,
    seed: int,
    wait_for: Sequence[State[StageResult]] = (),
) -> tuple[Trained | None, StageOutcome]:
    """Train and test one model; None if that failed."""
    out = plan_model(config, model, pictures, name, seed)
    tested = run(
        TRAIN[model],
        out,
        pictures=pictures,
        training_set_name=name,
        seed=seed,
        config=config,
        wait_for=wait_for,
    )
    stage = outcome(out, tested)
    return Trained(model, name, seed, out) if stage.artifact is not None else None, stage
