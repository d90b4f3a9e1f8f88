"""A run's configuration: the libraries' own configs put together, read from YAML, changed by `--set a.b=c`."""

import difflib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from downstream.config import ClassifyConfig, DetectConfig, LocalizeConfig
from downstream.training_sets import TrainingSetName
from dual_anodiff.config import (
    CurateConfig,
    FinetuneConfig,
    GenerateConfig,
    NativeConfig,
    ObjectsConfig,
    QualityConfig,
    SearchConfig,
)
from tasks.config_faults import explain
from tasks.data.split import SplitConfig
from tasks.errors import AnodiffError, ArtifactError, ConfigError
from tasks.store.place import open_store, place_of

PRESETS = Path(__file__).parent.parent / "configs"


ModelName = Literal["localize", "classify", "detect"]
# Of the generated pairs: held back from every training set, so that all are validated on the same ones.
VAL_SHARE = 0.2


def pairs_to_train_on(num_pairs: int) -> int:
    """Pairs of a defect type that a model trains on, of so many generated: the others validate."""
    return num_pairs - max(1, round(VAL_SHARE * num_pairs)) if num_pairs > 1 else num_pairs


def _opened(place: object) -> object:
    try:
        return open_store(place) if isinstance(place, str | Path) else place
    except ArtifactError as error:
        raise ValueError(str(error)) from error


class DosesConfig(BaseModel):
    """Dose and response: the metric over the number of pairs, and over the number of shots. Off where empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="Train each model also on the shots and this many pairs of each defect type; 0 is `real`.",
    )
    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="Fine-tune, generate and train also with only this many shots of each defect type.",
    )

    @field_validator("pairs", "shots")
    @classmethod
    def _in_order(cls, doses: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(doses)))


class CompareConfig(BaseModel):
    """What is compared: each model is trained on each training set with each seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[ModelName, ...] = Field(
        ("localize",), min_length=1, description="What is trained on the pairs; each has a group of its own."
    )
    training_sets: tuple[TrainingSetName, ...] = Field(
        ("real", "generated+real"),
        min_length=1,
        description="Train each model on each; the lift of each is against `real`, of generated pairs "
        "against every training set without them, and judged against the best of these.",
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        (0,),
        min_length=1,
        max_length=100,
        description="Train with each seed; figures are their mean.",
    )
    folds: int = Field(
        2,
        ge=2,
        le=20,
        description="Where train_steps is auto: parts that the shots are held out in. Each is one more generator of each "
        "defect type, and one more training of each model on each training set.",
    )
    oracle: bool = Field(
        False,
        description="Also report, in a table of its own, the checkpoint of localize and classify that scores best on "
        "the test pictures, as the literature does. Not an honest figure.",
    )
    doses: DosesConfig = Field(
        default_factory=DosesConfig, description="Numbers of pairs and of shots to draw curves over."
    )

    @field_validator("models", "training_sets", "seeds")
    @classmethod
    def _no_repetition(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("the same value twice")
        return values


class ReportConfig(BaseModel):
    """The table and the picture sheets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_samples: int = Field(
        1000, ge=100, le=100_000, description="Resamples of the test pictures behind each interval."
    )
    sheet_rows: int = Field(
        6, ge=1, le=50, description="Rows of a picture sheet, one real and one generated each."
    )
    sheet_size_px: int = Field(160, ge=32, le=1024, description="Side of one picture on a sheet, px.")


class TrackConfig(BaseModel):
    """Tracking of finished runs by MLflow, where that is installed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="Log each finished run, if mlflow is installed.")
    uri: str | None = Field(
        None,
        min_length=1,
        description="MLflow server (http://host:5000) or database; none given: MLFLOW_TRACKING_URI, else mlflow.db in "
        "the store's folder on this machine.",
    )
    experiment: str = Field("anodiff", min_length=1, description="Name of the experiment in MLflow.")
    wait_s: float = Field(
        0,
        ge=0,
        le=3600,
        description="Seconds that a run waits at its end for that. Logging goes on without it, unless the machine goes "
        "with the run: then raise it.",
    )

    @field_validator("uri")
    @classmethod
    def _holds_no_password(cls, uri: str | None) -> str | None:
        if uri is not None and uri_parts(uri).password is not None:
            raise ValueError(
                "holds a password, which each run's record would show; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or the whole address in MLFLOW_TRACKING_URI"
            )
        return uri


def uri_parts(uri: str) -> SplitResult:
    """A tracking server's address in parts. Raises: AnodiffError if it is none."""
    try:
        return urlsplit(uri)
    except ValueError as error:
        raise AnodiffError(f"track.uri {uri!r}: {error}; write it as http://host:5000") from error


class RunConfig(BaseModel):
    """Everything that a run depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __getstate__(self) -> dict[Any, Any]:
        # On another machine, copies of a store elsewhere lie in a folder of that machine.
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "store": place_of(self.store)}}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        values = state["__dict__"]
        super().__setstate__({**state, "__dict__": {**values, "store": open_store(values["store"])}})

    data: Path = Field(description="Folder in MVTec AD layout: one category, or a folder of categories.")
    categories: tuple[str, ...] | None = Field(
        None, min_length=1, description="Categories to run; none given: all that are found."
    )
    defects: tuple[str, ...] | None = Field(
        None, min_length=1, description="Defect types to run; none given: all that a category has."
    )
    store: Annotated[
        Path, BeforeValidator(_opened), PlainSerializer(place_of, return_type=str, when_used="json")
    ] = Field(
        Path(".anodiff/store"),
        description="Folder of artifacts and runs, or a URL (s3://bucket/folder): then copies of what is used lie in "
        "~/.cache/anodiff, or in $ANODIFF_CACHE.",
    )
    max_store_gb: float | None = Field(
        None, gt=0, description="GB that the store may take on this machine; over it, nothing more is made."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the split, of fine-tuning and of the pairs.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: CUDA where there is one, else the CPU."
    )
    runner: Literal["serial", "threads", "processes", "dask"] = Field(
        "serial",
        description="serial: one stage after the other; else those of a category that do not need each other at once.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Heavy stages at once on a machine: as many as it has GPUs; without one its cores are shared out.",
    )
    stage_timeout_s: float | None = Field(
        None, gt=0, description="Seconds after which a stage counts as failed; what it had finished is kept."
    )
    dask_scheduler: str | None = Field(
        None,
        description="Address of a Dask scheduler that is there; none given: a cluster of `workers` here.",
    )
    split: SplitConfig = Field(
        default_factory=SplitConfig, description="Few shots, validation and test pictures."
    )
    objects: ObjectsConfig = Field(
        default_factory=ObjectsConfig, description="Which pixels are the object, and which its background."
    )
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig, description="Training of the generator.")
    generate: GenerateConfig = Field(
        default_factory=GenerateConfig, description="Drawing of image-mask pairs."
    )
    search: SearchConfig = Field(
        default_factory=SearchConfig, description="Settings of generate to try for each defect type."
    )
    native: NativeConfig = Field(
        default_factory=NativeConfig, description="Crops for defects too small to see in the scaled picture."
    )
    quality: QualityConfig = Field(
        default_factory=QualityConfig, description="Figures of the generated pairs."
    )
    curate: CurateConfig = Field(
        default_factory=CurateConfig, description="Which pairs are refused, and how many more are drawn."
    )
    compare: CompareConfig = Field(
        default_factory=CompareConfig, description="Models, training sets and seeds to compare."
    )
    localize: LocalizeConfig = Field(
        default_factory=LocalizeConfig, description="Training of the localization model."
    )
    classify: ClassifyConfig = Field(
        default_factory=ClassifyConfig, description="Training of the classifier of defect types."
    )
    detect: DetectConfig = Field(default_factory=DetectConfig, description="Training of anomalib's detector.")
    report: ReportConfig = Field(
        default_factory=ReportConfig, description="Intervals, and the picture sheets."
    )
    track: TrackConfig = Field(default_factory=TrackConfig, description="Finished runs in MLflow.")

    @field_validator("categories", "defects")
    @classmethod
    def _as_people_write(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        # As the names of folders are read: ö is one letter.
        return None if names is None else tuple(unicodedata.normalize("NFC", name) for name in names)

    @model_validator(mode="after")
    def _runner_is_one(self) -> "RunConfig":
        if self.dask_scheduler is not None and self.runner != "dask":
            raise ValueError(
                f"dask_scheduler: the runner is {self.runner}; set runner to dask, or take the address out"
            )
        return self

    @model_validator(mode="after")
    def _start_fits(self) -> "RunConfig":
        option = _needs_noise(self)
        if self.generate.start == "shot" and option is not None:
            raise ValueError(
                f"generate.start: shot goes without {option}; take that out, or set generate.start to noise"
            )
        return self

    @model_validator(mode="after")
    def _steps_are_kept(self) -> "RunConfig":
        kept = self.finetune.keep_checkpoints
        for name, asked in (
            ("search.adapter_step", self.search.adapter_step),
            ("generate.adapter_step", (self.generate.adapter_step,)),
        ):
            lost = sorted(step for step in asked if step is not None and step not in kept)
            if lost:
                raise ValueError(
                    f"{name}: {lost} not in finetune.keep_checkpoints ({list(kept)}); add them there"
                )
        late = [step for step in kept if step > self.finetune.train_steps]
        if late:
            raise ValueError(
                f"finetune.keep_checkpoints: {late} after the last step, finetune.train_steps {self.finetune.train_steps}"
            )
        return self

    @model_validator(mode="after")
    def _doses_can_be_had(self) -> "RunConfig":
        doses, num_pairs = self.compare.doses, self.generate.num_pairs
        most = pairs_to_train_on(num_pairs)
        if doses.pairs and doses.pairs[-1] > most:
            needed = next(n for n in range(doses.pairs[-1], 2**31) if pairs_to_train_on(n) >= doses.pairs[-1])
            raise ValueError(
                f"compare.doses.pairs: {doses.pairs[-1]} is more than the {most} pairs that are trained on of "
                f"{num_pairs} generated, the others validate; set generate.num_pairs to {needed} or more"
            )
        shots = self.split.shots
        if doses.shots and not (isinstance(shots, int) and shots >= doses.shots[-1]):
            raise ValueError(
                f"compare.doses.shots: {doses.shots[-1]} is more than split.shots ({self.split.shots}) is sure to "
                f"give; set split.shots to {doses.shots[-1]} or more"
            )
        return self


def start_of(config: RunConfig) -> Literal["noise", "shot"]:
    """What pairs start from, where the config leaves it to the base."""
    if config.generate.start != "auto":
        return config.generate.start
    noise = config.finetune.base != "mini" or _needs_noise(config) is not None
    return "noise" if noise else "shot"


def _needs_noise(config: RunConfig) -> str | None:
    """The option that is there for pairs that start from noise alone."""
    if config.finetune.adapter.background != "off":
        return "finetune.adapter.background"
    if config.generate.where.on:
        return "generate.where"
    return "search.rounds" if config.search.rounds else None


def load_config(source: str | Path, overrides: Iterable[str] = (), **given: Any) -> RunConfig:
    """Read a preset's name or a YAML file, put `overrides` ("a.b=c", c in YAML) and `given` fields over it, check it.

    Raises: ConfigError that lists every fault with its key's path, what was found and what is allowed.
    """
    path = _find(source)
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}; a config is a mapping of keys to values")
    for override in overrides:
        _apply(values, override)
    values.update({name: value for name, value in given.items() if value is not None})
    values = _at_home(values)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"config {source}:\n  " + "\n  ".join(explain(error, RunConfig))) from error


def _at_home(value: Any) -> Any:
    """~/ at the beginning of any value is the user's home folder: shells expand it, YAML and --set do not."""
    match value:
        case dict():
            return {key: _at_home(inner) for key, inner in value.items()}
        case list() | tuple():
            return type(value)(_at_home(inner) for inner in value)
        case Path():
            return value.expanduser()
        case str() if value == "~" or value.startswith("~/"):
            return str(Path(value).expanduser())
    return value


def _find(source: str | Path) -> Path:
    """The YAML file that a preset's name or a path means."""
    path = Path(source).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"{path}: no such config file")
        return path
    preset = PRESETS / f"{source}.yaml"
    if preset.is_file() and preset.parent == PRESETS:
        return preset
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    near = difflib.get_close_matches(str(source), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"presets: {', '.join(known)}"
    raise ConfigError(f"config {source!r}: neither a YAML file nor a preset; {hint}")


def _apply(values: dict[str, Any], override: str) -> None:
    """Put one "a.b=c" into nested `values`."""
    path, sign, text = override.partition("=")
    keys = path.strip().split(".")
    if not sign or not all(keys):
        raise ConfigError(f"--set {override!r}: write it as a.b=c, for example finetune.train_steps=100")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value") from error
    at = values
    for depth, key in enumerate(keys[:-1]):
        inner = at.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {override!r}: {'.'.join(keys[: depth + 1])} is a value, it has no keys below it"
            )
        at = inner
    at[keys[-1]] = value
