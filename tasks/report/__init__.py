"""A run's report: its folder, its pages, and what Prefect's UI shows of it."""
