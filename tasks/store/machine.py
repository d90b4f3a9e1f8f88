"""What an artifact's manifest says of the machine that made it: versions, the device, the memory it took."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from typing import Any

import psutil  # type: ignore[import-untyped]

PACKAGES = ("dualanodiff", "torch", "diffusers", "numpy")


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Versions of what shapes an artifact's content."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def device_name(device: str) -> str:
    """The device as people know it."""
    if device.startswith("cuda"):
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({os.cpu_count()} cores)"


@contextmanager
def peak_memory(every_seconds: float = 0.2) -> Iterator[dict[str, int]]:
    """Highest memory in use while the block runs, in bytes: of this process, and of CUDA if torch uses it.

    Sampled: the kernel's own high-water mark is the whole process's, not the stage's.
    """
    peak = {"process": 0}
    process = psutil.Process()
    done = threading.Event()

    def watch() -> None:
        while True:
            peak["process"] = max(peak["process"], process.memory_info().rss)
            if done.wait(every_seconds):
                return

    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        cuda = _cuda()
        if cuda is not None:
            peak["cuda"] = cuda.max_memory_allocated()


def _cuda() -> Any:
    """torch.cuda if this process has already started it; never starts it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
