"""Prefect's settings where the user has said nothing, written to the environment before Prefect is imported.

Imported by `tasks/__init__.py`, hence before every module of `tasks` and `flows`. What the user has set in the
environment stays; a Prefect imported earlier (a notebook, a worker) keeps its own settings.
"""

import logging
import os

DEFAULTS = {
    # A server of our own in a subprocess, unless PREFECT_API_URL or a profile names one. On 2 busy cores it has taken
    # 25 s to come up (9 s when idle, 9 s more the first time, to make its database); Prefect's own limit is 20 s.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # Nothing is sent to anyone.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Prefect's lines stay out of the terminal but are still sent to the server, where its UI shows them.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    # So that lines from our own loggers appear at their task in the UI; outside of a run they go to the terminal only.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "anodiff",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)

# A worker of Prefect's starts a flow without our command line: its lines of ours go to the UI.
logging.getLogger("anodiff").setLevel(logging.INFO)
