"""What a run needs of this machine, looked at one by one: found, and where it will not do, what to do about it.

A fault is what a run could not start or end with; a warning what it goes on without, or slowly. Nothing is made and
nothing is downloaded. What asks across a network is given a few seconds, in a thread of its own. Those threads import
little: two that import modules of one circle at once see halves of them.
"""

import os
import queue
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

import httpx
import psutil  # type: ignore[import-untyped]
import torch
from packaging.requirements import Requirement
from prefect import __version__
from prefect.settings import get_current_settings

from tasks.config import RunConfig
from tasks.doctor.finding import Finding
from tasks.doctor.weights import base_found, encoders_found, quality_weights_found
from tasks.errors import AnodiffError
from tasks.runtime.device import DEVICE_SLOTS, cores
from tasks.store.place import check_room, check_store, place_of, remote_of
from tasks.tables.prepared import categories_of
from tasks.track.tracking import destination, is_installed, shown, why_silent

ANSWER_S = 6.0  # for what asks across a network; the others only import
IMPORT_S = 120.0
# A process of `mini` took up to 2.7 GB (peak_memory_bytes in the manifests of a run of magnetic_tile).
PROCESS_GB = 3.0
SHOWN = ("torch", "diffusers", "anomalib", "prefect", "mlflow", "gradio")


def examine(config: RunConfig, *, has_data: bool) -> list[Finding]:
    """All findings, in the order of the checks. `has_data`: the configuration names a data folder."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("packages", packages_found),
        ("processor", lambda: machine_found(config)),
        ("device", lambda: device_found(config)),
        ("store", lambda: store_found(config)),
        ("base model", lambda: base_found(config.finetune)),
        ("encoders", lambda: encoders_found(config)),
        ("quality weights", lambda: quality_weights_found(config.quality)),
        ("Prefect server", prefect_found),
        ("MLflow", lambda: mlflow_found(config)),
    ]
    if has_data:
        checks.append(("data", lambda: data_found(config)))
    asked = [(what, started(check)) for what, check in checks]
    found: list[Finding] = []
    for what, answer in asked:
        elsewhere = what == "store" and remote_of(config.store) is not None
        limit_s = ANSWER_S if elsewhere else IMPORT_S
        try:
            result = answer.get(timeout=limit_s)
        except queue.Empty:
            result = [
                Finding(what, "fault", f"no answer within {limit_s:.0f} s", "see whether it can be reached")
            ]
        if isinstance(result, Exception):
            result = [Finding(what, "fault", f"{type(result).__name__}: {result}")]
        found += result
    return found


def started(check: Callable[[], Iterator[Finding]]) -> "queue.Queue[list[Finding] | Exception]":
    """A check under way in a thread that does not keep the process from ending; where its answer comes."""
    answer: queue.Queue[list[Finding] | Exception] = queue.Queue()

    def work() -> None:
        try:
            answer.put(list(check()))
        except Exception as error:  # reported as a fault of that check; the others go on
            answer.put(error)

    threading.Thread(target=work, daemon=True).start()
    return answer


def packages_found() -> Iterator[Finding]:
    """Whether all that this package asks for is there, in versions that it was made for."""
    wrong, versions, absent = [], dict[str, str](), []
    for line in metadata.requires("dualanodiff") or ():
        wanted = Requirement(line)
        extra = str(wanted.marker).partition("extra == ")[2].strip("\"'") if wanted.marker else ""
        try:
            versions[wanted.name] = version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            if extra:
                absent.append(f"{wanted.name} ({extra})")
            else:
                wrong.append(f"{wanted} is not installed")
            continue
        if not extra and not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} {version} is installed, {wanted} is wanted")
    found = ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)
    if wrong:
        fix = "install the project again: pip install -r requirements.lock, pip install --no-deps -e ."
        yield Finding("packages", "fault", "; ".join(wrong), fix)
    else:
        left_out = f"; not installed, with their extra: {', '.join(absent)}" if absent else ""
        yield Finding("packages", "ok", found + left_out)


def machine_found(config: RunConfig) -> Iterator[Finding]:
    """Cores and memory."""
    yield Finding("processor", "ok", f"{cores()} cores")
    memory = psutil.virtual_memory()
    free, at_once = memory.available / 1e9, 1 if config.runner == "serial" else config.workers
    found = f"{free:.1f} of {memory.total / 1e9:.1f} GB free"
    if free < PROCESS_GB * at_once:
        fix = "close what else runs" + (", or set workers=1" if at_once > 1 else "")
        found += f"; {at_once} stage(s) at once may take {PROCESS_GB:.0f} GB each"
        yield Finding("memory", "warning", found, fix)
    else:
        yield Finding("memory", "ok", found)


def device_found(config: RunConfig) -> Iterator[Finding]:
    """What heavy stages compute on, and whether its lock can be taken."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    # Other checks' threads may warn at the same moment, of other things.
    said = next((text for each in warned if "CUDA" in (text := str(each.message))), None)
    if there and config.device != "cpu":
        yield from map(gpu_found, range(torch.cuda.device_count()))
    elif config.device == "cuda":
        why = said or "torch sees no GPU"
        yield Finding(
            "device", "fault", f"cuda was asked for: {why}", "--device auto or cpu, or mend the driver"
        )
    elif said or driver():
        why = said or "an NVIDIA driver is there, but torch sees no GPU"
        fix = "update the driver, or install a torch that is built for it"
        yield Finding("device", "ok" if config.device == "cpu" else "warning", f"cpu; {why}{driver()}", fix)
    elif config.finetune.base != "mini":
        fix = "ask `anodiff plan`, use a machine with a GPU, or --set finetune.base=mini"
        yield Finding("device", "warning", "cpu: Stable Diffusion takes days on it", fix)
    else:
        yield Finding("device", "ok", "cpu; enough for the bundled base")
    lock = Path(tempfile.gettempdir()) / f"anodiff-{DEVICE_SLOTS}-0.lock"
    if not os.access(lock if lock.exists() else lock.parent, os.W_OK):
        fix = "remove it, or set TMPDIR to a folder of your own"
        yield Finding("device", "fault", f"{lock}: no permission, so no stage gets its turn", fix)


def gpu_found(index: int) -> Finding:
    """A GPU, once it has computed something: one that is seen may be full, taken, or too old or new for this torch."""
    try:
        torch.ones(1, device=f"cuda:{index}").add(1).item()
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
    except (AssertionError, RuntimeError) as error:
        fix = "see nvidia-smi; leave it out by CUDA_VISIBLE_DEVICES, or --device cpu, or install a torch built for it"
        return Finding("device", "fault", f"cuda:{index}: {str(error).splitlines()[0]}{driver()}", fix)
    found = f"cuda:{index} {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, CUDA {torch.version.cuda}"
    return Finding("device", "ok", found + driver())


def driver() -> str:
    """The NVIDIA driver's version, as the kernel tells it."""
    driver = Path("/proc/driver/nvidia/version")
    if not driver.is_file():
        return ""
    words = driver.read_text().split("Module", 1)[-1].split()
    return f", driver {next((word for word in words if word[0].isdigit()), 'of unknown version')}"


def store_found(config: RunConfig) -> Iterator[Finding]:
    """Whether the store can be written to, and has room."""
    store, place = config.store, place_of(config.store)
    there = next(path for path in (store, *store.absolute().parents) if path.exists())
    try:
        check_room(store, config.max_store_gb)
        if not there.is_dir() or not os.access(there, os.W_OK):
            yield Finding(
                "store", "fault", f"{there}: cannot be written to", "give another folder as --store"
            )
            return
        if remote_of(store) is not None:
            check_store(store)
    except AnodiffError as error:
        yield Finding("store", "fault", str(error))
        return
    yield Finding(
        "store", "ok", f"{place}, {shutil.disk_usage(there).free / 1e9:.0f} GB free on this machine"
    )


def prefect_found() -> Iterator[Finding]:
    """The Prefect server that runs report to."""
    url = get_current_settings().api.url
    if url is None:
        yield Finding(
            "Prefect server",
            "ok",
            "none is named (PREFECT_API_URL): a run starts one for as long as it takes",
        )
        return
    try:
        health = httpx.get(f"{url}/health", timeout=ANSWER_S / 2)
        version = httpx.get(f"{url}/admin/version", timeout=ANSWER_S / 2).text.strip('"')
        health.raise_for_status()
    except httpx.HTTPError as error:
        fix = "start it (`prefect server start`), correct PREFECT_API_URL (it ends in /api), or unset it"
        yield Finding("Prefect server", "fault", f"{url}: {type(error).__name__}: {error}", fix)
        return
    state: Literal["ok", "warning"] = "ok" if version == __version__ else "warning"
    fix = "" if state == "ok" else f"this machine has {__version__}; give both the same"
    yield Finding("Prefect server", state, f"{url}, version {version}", fix)


def mlflow_found(config: RunConfig) -> Iterator[Finding]:
    """Where runs are tracked; a run never waits for it."""
    if not config.track.enabled:
        yield Finding("MLflow", "ok", "off (track.enabled)")
    elif not is_installed():
        yield Finding(
            "MLflow", "ok", "not installed: runs are not tracked; pip install 'dualanodiff[tracking]'"
        )
    else:
        to = destination(config.store, config.track)
        silent = why_silent(to)
        if silent is None:
            yield Finding("MLflow", "ok", shown(to))
        else:
            fix = "start it, or correct track.uri or MLFLOW_TRACKING_URI; later: anodiff track sync"
            yield Finding("MLflow", "warning", f"{shown(to)}: {silent}", fix)


def data_found(config: RunConfig) -> Iterator[Finding]:
    """The categories of the data folder; their pictures are not read."""
    try:
        categories = categories_of(config)
    except AnodiffError as error:
        yield Finding("data", "fault", str(error))
        return
    yield Finding(
        "data", "ok", f"{config.data}: {', '.join(categories)}; not read, `anodiff data check` does that"
    )
