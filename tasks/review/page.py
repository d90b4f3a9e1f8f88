"""The page of `anodiff review` and its server, for this machine alone.

Gradio gives page, theme and server; keys and brush are ours (html/review), in a gr.HTML: a decision is shown at once and
then sent by its pair's name, where Gradio's own buttons wait for the server and drop what comes meanwhile.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks.errors import AnodiffError
from tasks.review.desk import Desk

HOST = "127.0.0.1"
NAMES = {HOST, "localhost"}
PORTS = range(7860, 7880)
PAGE = Path(__file__).parent / "html"
# One script in the end: each may use what the others define.
SCRIPTS = ("lists.js", "server.js", "pictures.js", "beside.js", "brush.js", "page.js")
# What the page needs of Gradio's routes. The others read files, take them, or ask other servers.
OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|assets/.*|static/.*|svelte/.*)"
    r"|/gradio_api/(component_server|startup-events|heartbeat/\w+|theme\.css)/?"
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def load_gradio() -> ModuleType:
    """Gradio, which asks nobody anything. Raises: ModuleNotFoundError without the extra `review`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which reads it
    import gradio

    return gradio


def page_of(desk: Desk) -> App:
    """The page as an ASGI application. Raises: ModuleNotFoundError without the extra `review`."""
    gr = load_gradio()
    from fastapi import FastAPI

    asked = (desk.listing, desk.pictures, desk.thumbnails, desk.shots, desk.decide, desk.paint)
    with gr.Blocks(
        title=f"anodiff review {desk.run.name}", analytics_enabled=False, fill_width=True
    ) as blocks:
        gr.HTML(
            html_template=(PAGE / "page.html").read_text(encoding="utf-8"),
            js_on_load="\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS),
            apply_default_css=False,
            server_functions=[answering(each) for each in asked],
        )
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path="/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        # The default theme's fonts come from Google.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=(PAGE / "page.css").read_text(encoding="utf-8"),
    )
    return only_from_here(app)


def answering(work: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A function that the page can ask for; an error of ours is an answer, too."""

    def answer(asked: Any) -> dict[str, Any]:
        try:
            return work(asked if isinstance(asked, Mapping) else {})
        except AnodiffError as error:
            return {"error": str(error)}

    answer.__name__ = work.__name__
    return answer


def only_from_here(app: App) -> App:
    """Refuse what another web page could have sent (by its Origin, or by a name of its own for this machine), and all
    routes but those that the page needs.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and refused(scope):
            await send(
                {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
            )
            await send({"type": "http.response.body", "body": b"anodiff review: not here"})
            return
        await app(scope, receive, send)

    return guarded


def refused(scope: Scope) -> bool:
    """Whether a request is none of the page's own."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get("host", "")
    origin = headers.get("origin")
    return (
        host.rpartition(":")[0] not in NAMES
        or (origin is not None and origin != f"http://{host}")
        or OPEN.fullmatch(scope["path"]) is None
        or ".." in scope["path"]
    )


@contextmanager
def served(app: App, port: int | None = None) -> Iterator[str]:
    """The page at a port of this machine, the first free one of PORTS without a wish; its address. Raises: AnodiffError."""
    import uvicorn

    listening = bound(port)
    # A page that is still open would hold up the end for ever.
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    try:
        yield f"http://{HOST}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()


def bound(port: int | None) -> socket.socket:
    """A socket of this machine's loopback. Raises: AnodiffError if the port, or all of PORTS, are taken."""
    for each in PORTS if port is None else (port,):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, each))
            return listening
        except OSError:
            listening.close()
    what = f"port {port} is" if port is not None else f"ports {PORTS[0]} to {PORTS[-1]} are all"
    raise AnodiffError(f"{what} taken; give another with --port")
