"""result.json: the numbers of a run and everything needed to reproduce them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from lsfa_lib.storage.files import InputError, atomic_write, report_progress

if TYPE_CHECKING:
    import torch

SCHEMA = 1
"""Of result.json, run.json and study.json."""


class Stopwatch:
    """Seconds spent in each named stage, without the stages inside it.

    Stages with the same name add up, and all together are the time that was measured.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: list[float] = []
        """Seconds of the stages inside each open one."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        report_progress(stage)
        start = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            own = spent - self._inside.pop()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own
            if self._inside:
                self._inside[-1] += spent


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, MB; NaN if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if platform.system() == "Darwin" else peak / 1e3


def reset_peak_memory() -> None:
    """From now on `peak_memory_mb` only counts what follows; on Linux only."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5)


def free_memory(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that new data can use: of the machine, and of the container where it has a limit.

    A container's limit is that of its control group (Linux, version 2), less what is used without
    the file cache.
    """
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no control groups, or no limit: "max"
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        used -= int(dict(line.split() for line in lines)["inactive_file"])
        return max(0, min(free, limit - used))
    return free


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
    """Commit of the source this package runs from, with `+` if modified; "" outside a checkout."""
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
    """The current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def as_json(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses as objects, NaN and infinity as null."""
    text = json.dumps(value, default=dataclasses.asdict)
    return json.loads(text, parse_constant=lambda name: None)


def write_result(result: dict[str, Any], folder: Path) -> Path:
    """Writes `folder/result.json` atomically and returns its path."""
    path = Path(folder) / "result.json"
    write_json(path, as_json(result))
    return path


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes `values`, which hold no NaN, atomically."""
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write_text(text, encoding="utf-8")


def read_result(path: Path) -> dict[str, Any]:
    """The result in `path`. Raises InputError if it is damaged or has another schema."""
    damaged = "is not a readable result; delete its folder and run again"
    return read_json(path, damaged, "run its category again")


def read_json(path: Path, damaged: str, remedy: str) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises InputError: `damaged` if it cannot be read, `remedy` if it has another schema.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        schema = values["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} {damaged}") from error
    if schema != SCHEMA:
        raise InputError(f"{path} has schema {schema}, this version reads {SCHEMA}; {remedy}")
    return values


def _cpu_name() -> str:
    with suppress(OSError):
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"model name\s*:\s*(.+)", info):
            return found[1].strip()
    return platform.processor() or platform.machine()
