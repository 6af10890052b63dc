"""Any method on one category: learned from good scans, its threshold set, its inference timed."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.layouts import Split, read_scan, split_of
from lsfa_lib.datasets.preprocess import prepare
from lsfa_lib.detection.detector import Detector, threshold_of
from lsfa_lib.detection.detector import predict as predict_detector
from lsfa_lib.features.extract import EXTRACT, Encoders, load_encoders, patch_valid
from lsfa_lib.features.lazy_scan import LazyScan, few_shot, lazy_scan, on_device
from lsfa_lib.methods.method import Good, Method, Predict
from lsfa_lib.records import Modality, ModalityFeatures, Mode, PatchFeatures, Sample
from lsfa_lib.storage import results
from lsfa_lib.storage.files import InputError, progress


@dataclass(frozen=True)
class Fitted:
    """A method that has learned a category's good scans."""

    predict: Predict
    thresholds: dict[Mode, float]
    """A part is called defective above it; from validation/good alone."""
    validation_scores: dict[Mode, list[float]]
    train: tuple[str, ...]
    """Names of the training scans, those drawn where `shots` says so."""
    encoders: Encoders | None
    """None for a method that uses no features."""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes `predict` answers in."""
        return tuple(self.thresholds)


def fitted_detector(detector: Detector, train: tuple[str, ...], encoders: Encoders) -> Fitted:
    """Our own detector as any method."""
    return Fitted(
        lambda scene: predict_detector(detector, scene.features),
        detector.thresholds,
        detector.validation_scores,
        train,
        encoders,
    )


def learn_method(
    method: Method, category: str, config: Config, seed: int, clock: results.Stopwatch
) -> Fitted:
    """The method fitted to a category; its test split is not read.

    `config` is what `method.config` made of the user's. Raises InputError where a package the
    method needs is missing, and with fewer than two validation scans.
    """
    if method.missing:
        raise InputError(f"{method.title}: {method.missing}")
    with clock("load encoders"):
        encoders = (
            load_encoders(config, resolve_device(config.device)) if method.modalities else None
        )
    split = few_shot(split_of(config.data, category, "train"), config.shots, seed)
    held = split_of(config.data, category, "validation")
    if len(held) < 2:
        raise InputError(
            f"{len(held)} validation/good scans, at least 2 are needed to set a threshold; move "
            "some training scans there"
        )
    train, validation = (
        [lazy_scan(entry, encoders, config) for entry in part.entries] for part in (split, held)
    )
    with clock("features of train and validation"):
        for scene in progress([*train, *validation], category):
            _ = scene.features if method.modalities else scene.sample
    with clock("fit"):
        predict = method.fit(Good(train, validation, config, seed))
    with clock("threshold"):
        scores: dict[Mode, list[float]] = {}
        for scene in validation:
            for mode, prediction in predict(scene).items():
                scores.setdefault(mode, []).append(prediction.image_score)
    rate = config.detector.false_alarm_rate
    thresholds = {mode: threshold_of(values, rate) for mode, values in scores.items()}
    return Fitted(predict, thresholds, scores, tuple(e.name for e in split.entries), encoders)


def inference_cost(
    method: Method, fitted: Fitted, split: Split, config: Config, empty_mb: float
) -> dict[str, Any]:
    """Median seconds a scan by stage, after a warm-up scan, and the memory inference takes, MB.

    `read` and `prepare` are the same for every method; `features` are extracted anew, by the
    backbones the method is deployed with. Memory is this process's largest while it works, less
    `empty_mb`, what it held before the method was there.
    """
    own = method.deployed(config)
    device = resolve_device(config.device)
    encoders = fitted.encoders if own == config else load_encoders(own, device)
    spent: dict[str, list[float]] = {}
    _give_back()
    results.reset_peak_memory()
    for entry in [split.entries[0], *split.entries[: config.timed_scans]]:
        with _timed(spent, "read", device):
            scan = read_scan(entry)
        with _timed(spent, "prepare", device):
            sample = on_device(prepare(scan, own.preprocess), device)
        found: dict[Modality, ModalityFeatures] = {}
        for m in method.modalities:
            assert encoders is not None
            with _timed(spent, f"features {m}", device):
                found[m] = EXTRACT[m](sample, encoders, own)
        with _timed(spent, "detect", device):
            fitted.predict(_ready(sample, found, own))
    return {
        "scans": len(next(iter(spent.values()))) - 1,
        "threads": torch.get_num_threads(),
        "seconds": {stage: statistics.median(times[1:]) for stage, times in spent.items()},
        "memory_mb": max(0.0, results.peak_memory_mb() - empty_mb),
    }


def _ready(sample: Sample, found: dict[Modality, ModalityFeatures], config: Config) -> LazyScan:
    """A scan whose features are there already."""
    grid = (config.grid, config.grid)
    valid = patch_valid(sample.valid, config.projection.patch_px)
    features = PatchFeatures(found, valid, grid, sample.name)
    return LazyScan(sample.name, config, lambda: sample, lambda _: features)


@contextmanager
def _timed(spent: dict[str, list[float]], stage: str, device: torch.device) -> Iterator[None]:
    _wait(device)
    start = time.perf_counter()
    yield
    _wait(device)
    spent.setdefault(stage, []).append(time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resident_mb() -> float:
    """Memory this process holds now, MB, after what is free was given back; 0 but on Linux."""
    _give_back()
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    (line,) = (row for row in status.read_text("ascii").splitlines() if row.startswith("VmRSS"))
    return float(line.split()[1]) / 1e3


def _give_back() -> None:
    """Frees what nobody refers to, down to the system's own books."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
