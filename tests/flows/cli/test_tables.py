"""Tables of a run: what stands in which cell."""

from pathlib import Path

import pandas as pd

from flows.cli.tables import line_table
from tasks.report.run_folder import RunSummary


def test_the_lines_table_has_seed_means_of_each_defect_type_and_both_thresholds() -> None:
    figures = {
        ("all", "overkill_rate"): (0.1, 0.2), ("all", "escape_rate"): (0.3, 0.3), ("crack", "escape_rate"): (0.5, 0.6),
        ("all", "threshold"): (0.5, 0.5), ("all", "threshold_gap"): (0.1, 0.2),
    }  # fmt: skip
    rows = [
        {"category": "bolt", "model": "localize", "training_set": "real", "seed": seed, "defect_type": defect_type,
         "size": "all", "metric": metric, "value": value}
        for (defect_type, metric), values in figures.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    # A classifier has no threshold, and counts `good` as a class: neither is in this table.
    other = [{**row, "model": "classify", "metric": "f1", "defect_type": "good"} for row in rows]
    tiny = [{**row, "defect_type": "all", "size": "small", "value": 0.9} for row in rows]
    summary = RunSummary("r", Path(), "completed", (), pd.DataFrame(rows + other + tiny), pd.DataFrame(), ())
    cells = {str(column.header): list(column.cells) for column in line_table(summary).columns}
    assert cells == {
        "category": ["bolt"], "model": ["localize"], "training set": ["real"], "overkill": ["15.0"],
        "escapes": ["30.0"], "crack": ["55.0"], "threshold": ["0.500"], "best": ["0.350"],
    }  # fmt: skip
