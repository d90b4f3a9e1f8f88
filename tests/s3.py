"""A real S3 server on this machine, spoken to over HTTP; tests that need it skip where it is not installed."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",  # a server that is not there is tried once
}


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """What the environment needs to hold so that s3:// leads to a server of this test's own."""
    pytest.importorskip("s3fs", reason="needs s3fs: the extra s3")
    moto = pytest.importorskip("moto.server", reason="needs moto[server]: the group dev")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line a request beside each failure
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    finally:
        server.stop()


def speak_to(environment: Mapping[str, str], patch: pytest.MonkeyPatch) -> None:
    """Set the environment; fsspec would keep the connections of another test's server."""
    import s3fs  # type: ignore[import-untyped]

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        patch.delenv(name, raising=False)
    for name, value in environment.items():
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


def make_bucket(name: str) -> None:
    import s3fs

    s3fs.S3FileSystem().mkdir(name)
