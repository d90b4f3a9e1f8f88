"""A Prefect server for the length of a run, where the user has none.

Prefect starts one by itself, too. Measured on 3.8.8, that one gets the terminal's Ctrl-C together with the run, which
then tries for two minutes to reach it; outlives a run that was killed; and costs the run the import of the whole server
(4 s of 14 s of processor time). Ours has a session of its own, ends when the run's end of a pipe closes, for whatever
reason, and starts while the run still imports its own code.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from tasks.errors import AnodiffError

STARTUP_TIMEOUT_S = 180

OWN_URL = "ANODIFF_OWN_SERVER"  # in the environment, so that a run's worker processes know it too


def is_own_server(url: str | None) -> bool:
    """Whether this address is that of a server that lives only for this run (None: Prefect's own temporary one)."""
    return url is None or url == os.environ.get(OWN_URL)


def start_server() -> Callable[[], None]:
    """Start a server unless one is configured; returns what waits until it answers.

    It ends with this process, not before: Prefect sends its last events while Python shuts down.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is not None:
        return lambda: None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.runtime.server", str(port)],
        stdin=subprocess.PIPE,
        # Nobody looks at a server that is gone in a minute.
        env=os.environ | {"PREFECT_UI_ENABLED": "0"},
        start_new_session=True,
    )
    # The environment, not a settings context: Prefect's own threads must see it too.
    url = f"http://127.0.0.1:{port}"
    os.environ["PREFECT_API_URL"] = os.environ[OWN_URL] = f"{url}/api"
    refresh_global_settings_context()
    return lambda: _wait_until_up(process, f"{url}/api/health")


def _wait_until_up(process: "subprocess.Popen[bytes]", url: str) -> None:
    """Raises: AnodiffError if the server ends or takes too long."""
    import httpx

    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    with httpx.Client() as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise AnodiffError(
                    f"the Prefect server ended at once (exit code {process.returncode}); see above"
                )
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
    raise AnodiffError(
        f"the Prefect server did not answer within {STARTUP_TIMEOUT_S} s; "
        "start one with `prefect server start` and set PREFECT_API_URL"
    )


def serve(port: int) -> None:
    """Be that server until stdin closes."""
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(ephemeral=True), host="127.0.0.1", port=port, log_level="error", lifespan="on"
        )
    )

    def stop_with_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True
        time.sleep(5)  # open websockets may keep it
        os._exit(0)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    server.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
