"""result.json: the numbers of a run with all that is needed to get them again."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsfa_lib.storage.files import InputError, atomic_write, report_progress

if TYPE_CHECKING:
    import torch

SCHEMA = 1


class Stopwatch:
    """Seconds spent in each named stage; stages of one name add up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        report_progress(stage)
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


def peak_memory_mb() -> float:
    """Largest resident memory this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if platform.system() == "Darwin" else peak / 1e3


def restart_peak_memory() -> None:
    """`peak_memory_mb` is from now on that of what follows; on Linux only."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5)


def machine(device: torch.device) -> dict[str, Any]:
    """What the run was made on, without names of hosts or folders."""
    import torch  # here: what only reads results needs none

    return {
        "device": torch.cuda.get_device_name(device) if device.type != "cpu" else "cpu",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str:
    """Commit of the source the package runs from, `+` when changed since; "" outside a checkout."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def as_json(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses as objects, NaN as null, floats in full."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_json(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_result(result: dict[str, Any], folder: Path) -> Path:
    """Writes `folder/result.json` whole and returns its path."""
    path = Path(folder) / "result.json"
    with atomic_write(path) as file:
        file.write_text(json.dumps(as_json(result), indent=1, allow_nan=False), encoding="utf-8")
    return path


def read_result(path: Path) -> dict[str, Any]:
    """The result in `path`. InputError when it is damaged or of another schema."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        schema = result["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a readable result; delete its folder and run again") from (
            error
        )
    if schema != SCHEMA:
        raise InputError(
            f"{path} has schema {schema}, this version reads {SCHEMA}; run its category again"
        )
    return result


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
