"""One file a stage: artifact, device slot, key, log. The only rooms that know Prefect are this one and flows."""

# First of all, for Prefect reads its settings from the environment once, while it is being imported.
import tasks.environment  # noqa: F401
