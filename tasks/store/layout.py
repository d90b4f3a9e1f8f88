"""Where things lie in a store. Nobody else builds a path in one.

STORE/artifacts/STAGE/CATEGORY/DIGEST/    what stages made
STORE/staging/...                         what is being made or fetched, and locks
STORE/runs/NAME/                          runs, ended or under way
STORE/reviews/CATEGORY/DIGEST/            what people decided about the pairs that an artifact drew
STORE/results/                            Prefect's records
"""

from pathlib import Path


def artifacts_folder(store: Path) -> Path:
    """Of all artifacts: STAGE/CATEGORY/DIGEST below it."""
    return store / "artifacts"


def artifact_folder(store: Path, ref: str) -> Path:
    """Of the artifact of this name, made or not."""
    return artifacts_folder(store) / ref


def staging_folder(store: Path) -> Path:
    """Of what is not whole yet."""
    return store / "staging"


def runs_folder(store: Path) -> Path:
    """Of all runs: NAME below it."""
    return store / "runs"


def run_folder(store: Path, name: str) -> Path:
    """Of the run of this name."""
    return runs_folder(store) / name


def reviews_folder(store: Path, category: str, drawn: str) -> Path:
    """Of what was decided about the pairs that the artifact of this digest drew."""
    return store / "reviews" / category / drawn


def results_folder(store: Path) -> Path:
    """Of what Prefect keeps of stages that ended: small references."""
    return store / "results"
