"""From a folder in MVTec layout to samples: checks, near-duplicates, the split. Knows nothing of Prefect."""
