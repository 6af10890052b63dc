"""Ours against what users would run instead: same process, same input, taking turns."""

from __future__ import annotations

import ctypes
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

THREADS = 2
Ratio = tuple[float, float, float]


@dataclass(frozen=True)
class Row:
    """One stage: seconds are medians; a ratio is peer seconds / our seconds, above 1 we are faster.

    Ratios are taken turn by turn, so that a busy machine slows both sides of each, and kept as
    (median, lowest, highest). Megabytes are the peak above what was in use before the call.
    """

    stage: str
    ours_s: float
    peers: dict[str, float]
    ratios: dict[str, Ratio]
    ours_mb: float
    target: str
    device: str
    peers_mb: dict[str, float] = field(default_factory=dict)


def measure(
    stage: str,
    ours: Callable[[], object],
    peers: dict[str, Callable[[], object]],
    repeats: int = 5,
    target: str = "",
) -> Row:
    """The Row of `stage`: an untimed call of each for its memory, then `repeats` turns in order."""
    torch.set_num_threads(THREADS)
    ways = {"ours": ours, **peers}
    with threadpool_limits(THREADS):
        megabytes = {name: _peak_mb(way) for name, way in ways.items()}
        turns = [{name: _seconds(way) for name, way in ways.items()} for _ in range(repeats)]
    medians = {name: statistics.median(turn[name] for turn in turns) for name in ways}
    return Row(
        stage=stage,
        ours_s=medians.pop("ours"),
        peers=medians,
        ratios={name: _spread([turn[name] / turn["ours"] for turn in turns]) for name in peers},
        ours_mb=megabytes.pop("ours"),
        target=target,
        device=device_name(),
        peers_mb=megabytes,
    )


def markdown(rows: list[Row]) -> str:
    """A table with one line for each stage and peer."""
    columns = ["stage", "ours", "other way", "its time", "ratio (lowest - highest)"]
    columns += ["peak MB ours / other", "target"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        head, mb = f"| {row.stage} | {_time(row.ours_s)} |", f"{row.ours_mb:.0f}"
        if not row.peers:
            lines.append(f"{head} - | - | - | {mb} / - | {row.target} |")
        for name, seconds in row.peers.items():
            median, low, high = row.ratios[name]
            lines.append(
                f"{head} {name} | {_time(seconds)} | {median:.3g}x ({low:.3g} - {high:.3g}) "
                f"| {mb} / {row.peers_mb.get(name, float('nan')):.0f} | {row.target} |"
            )
    return "\n".join(lines) + "\n"


def other_rows(text: str, measured: set[str]) -> list[str]:
    """Rows of the table in a text whose first cell is not among the measured ones."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line for line in lines[1:] if line.split("|")[1].strip() not in measured]


def device() -> torch.device:
    """Where the benchmarks put their inputs: the accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Name of that device, as results are labelled with it."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu_info = Path("/proc/cpuinfo")
    names = cpu_info.read_text().split("model name") if cpu_info.exists() else []
    name = names[1].split("\n")[0].strip("\t :") if len(names) > 1 else platform.processor()
    return f"{name}, {THREADS} threads"


def _seconds(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_mb(way: Callable[[], object]) -> float:
    """Peak memory of one call; NaN where the system cannot tell."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        way()
        return float("nan")
    # Freed blocks that malloc holds back would hide what the call needs.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark, see proc(5)
    before = _status_mb("VmRSS")
    way()
    return _status_mb("VmHWM") - before


def _status_mb(key: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) / 1024


def _spread(values: list[float]) -> Ratio:
    return float(np.median(values)), min(values), max(values)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
