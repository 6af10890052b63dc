"""The cost of scoring a scan: seconds per stage, and memory."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.layouts import Split, read_scan
from lsfa_lib.datasets.preprocess import prepare
from lsfa_lib.features.extract import load_encoders, modality_features, patch_valid
from lsfa_lib.features.lazy_scan import LazyScan, on_device
from lsfa_lib.methods.fitting import Fitted
from lsfa_lib.methods.method import Method
from lsfa_lib.records import Modality, ModalityFeatures, PatchFeatures, Sample
from lsfa_lib.storage import results


def inference_cost(
    method: Method, fitted: Fitted, split: Split, config: Config, other_mb: float
) -> dict[str, Any]:
    """Median seconds per scan by stage, after a warm-up scan, and the memory of inference, MB.

    `read` and `prepare` are the same for every method; `features` are extracted again, with the
    backbones that the method is deployed with. Memory is the peak of this process during inference
    minus `other_mb`: its memory before the method was loaded, plus samples and maps kept since.
    """
    own: Config = method.call("deployed", config)
    device = resolve_device(config.device)
    encoders = fitted.encoders if own == config else load_encoders(own, device)
    spent: dict[str, list[float]] = {}
    _release_memory()
    results.reset_peak_memory()
    for entry in [split.entries[0], *split.entries[: config.timed_scans]]:
        with _timed(spent, "read", device):
            scan = read_scan(entry)
        with _timed(spent, "prepare", device):
            sample = on_device(prepare(scan, own.preprocess, own.colour_size), device)
        found: dict[Modality, ModalityFeatures] = {}
        for m in encoders.by_modality if encoders else ():
            assert encoders is not None
            with _timed(spent, f"features {m}", device):
                found[m] = modality_features(m, sample, encoders, own)
        with _timed(spent, "detect", device):
            fitted.predict(_ready(sample, found, own))
    return {
        "scans": len(next(iter(spent.values()))) - 1,
        "threads": torch.get_num_threads(),
        "seconds": {stage: statistics.median(times[1:]) for stage, times in spent.items()},
        "memory_mb": max(0.0, results.peak_memory_mb() - other_mb),
    }


def _ready(sample: Sample, found: dict[Modality, ModalityFeatures], config: Config) -> LazyScan:
    """A scan whose features already exist."""
    grid = (config.grid, config.grid)
    valid = patch_valid(sample.valid, config.projection.patch_px)
    features = PatchFeatures(found, valid, grid, sample.name)
    return LazyScan(sample.name, config, lambda: sample, lambda _: features)


@contextmanager
def _timed(spent: dict[str, list[float]], stage: str, device: torch.device) -> Iterator[None]:
    _synchronise(device)
    start = time.perf_counter()
    yield
    _synchronise(device)
    spent.setdefault(stage, []).append(time.perf_counter() - start)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resident_mb() -> float:
    """Current memory of this process, MB, after free memory was returned; 0 except on Linux."""
    _release_memory()
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    (line,) = (row for row in status.read_text("ascii").splitlines() if row.startswith("VmRSS"))
    return float(line.split()[1]) / 1e3


def _release_memory() -> None:
    """Frees unreferenced memory and returns it to the operating system."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
