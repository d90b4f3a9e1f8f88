"""Files of figures by name, and what reads them: of a defect type's pairs (quality), and of a category (report)."""

from collections.abc import Mapping, Sequence

import pandas as pd

from tasks.store.artifacts import Artifact

# Of the stage quality.
FIGURES, NEIGHBOURS = "quality.parquet", "neighbours.parquet"
# Of a model.
ORACLE = "oracle.parquet"
# Of the stage report, and of a run's folder.
METRICS, LIFT, SHEETS = "metrics.parquet", "lift.parquet", "sheets"
DOSE, ADVICE = "dose.parquet", "advice.txt"
PAIRS, QUALITY = "pairs.parquet", "quality.parquet"
STEPS = "training_steps.parquet"


def read_quality(measured: Mapping[str, Artifact]) -> pd.DataFrame:
    """The figures of several defect types as one table.

    Columns: category, defect, metric, value, std, n, n_reference, note, pairs ("drawn" or "accepted").
    """
    tables = [pd.read_parquet(artifact.path / FIGURES) for _, artifact in sorted(measured.items())]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables under each other; empty ones, whose columns have no type, left out."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
