"""The straight path: scans of one category -> features -> banks -> predictions -> numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lsfa_lib import metrics, results
from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.mvtec3d import Entry, Split, read_scan, read_split
from lsfa_lib.detector import Detector, fit, predict
from lsfa_lib.feature_cache import cached_features
from lsfa_lib.features import Encoders, load_encoders
from lsfa_lib.files import progress
from lsfa_lib.preprocess import prepare
from lsfa_lib.records import MODES, Mode, PatchFeatures, Prediction, Sample


@dataclass(frozen=True)
class Run:
    """A finished run: the numbers, and what figures draw of the test split."""

    result: dict[str, Any]
    samples: list[Sample]
    predictions: dict[Mode, list[Prediction]]
    detector: Detector


def run_category(category: str, config: Config, seed: int) -> Run:
    """Fits the detector on the good parts of a category and measures it on the test split.

    Deterministic: the same scans, config and seed give the same numbers on one machine.
    Raises InputError where the data cannot be used.
    """
    device, clock = resolve_device(config.device), results.Stopwatch()
    root = Path(config.data.root)
    torch.manual_seed(seed)
    with clock("load encoders"):
        encoders = load_encoders(config, device)
    with clock("features of train and validation"):
        train = good_features(read_split(root, category, "train"), encoders, config)
        validation = good_features(read_split(root, category, "validation"), encoders, config)
    with clock("fit banks"):
        detector = fit(train, validation, config, seed)
    with clock("predict test"):
        samples, predictions = score_split(
            read_split(root, category, "test"), detector, encoders, config
        )
    with clock("metrics"):
        modes = {mode: evaluate(samples, predictions[mode], seed) for mode in MODES}
    result = {
        "schema": results.SCHEMA,
        "category": category,
        "preset": config.preset,
        "seed": seed,
        "created": results.now(),
        "config": config,
        "weights": encoders.about,
        "counts": {
            "train": len(train),
            "validation": len(validation),
            "test_good": sum(sample.kind == "good" for sample in samples),
            "test_defective": sum(sample.kind != "good" for sample in samples),
        },
        "modes": {
            mode: {**values, "threshold": detector.thresholds[mode]}
            for mode, values in modes.items()
        },
        "scans": [
            {
                "name": sample.name,
                "kind": sample.kind,
                "defective": sample.kind != "good",
                "scores": {mode: predictions[mode][i].image_score for mode in MODES},
            }
            for i, sample in enumerate(samples)
        ],
        "validation_scores": detector.validation_scores,
        "banks": {m: list(bank.rows.shape) for m, bank in detector.banks.items()},
        "seconds": clock.seconds,
        "peak_memory_mb": results.peak_memory_mb(),
        "machine": results.machine(device),
        "commit": results.commit(),
    }
    return Run(results.as_json(result), samples, predictions, detector)


def good_features(split: Split, encoders: Encoders, config: Config) -> list[PatchFeatures]:
    """Features of every scan of a split; pixels are read only where the cache lacks them."""
    device = resolve_device(config.device)
    label = "/".join(split.entries[0].name.split("/")[:2])
    return [
        cached_features(entry, encoders, config, device, partial(read_sample, entry, config))
        for entry in progress(split.entries, label)
    ]


def score_split(
    split: Split, detector: Detector, encoders: Encoders, config: Config
) -> tuple[list[Sample], dict[Mode, list[Prediction]]]:
    """Samples and predictions of every scan of a split; ground truth is carried, not looked at."""
    device = resolve_device(config.device)
    samples: list[Sample] = []
    predictions: dict[Mode, list[Prediction]] = {mode: [] for mode in MODES}
    for entry in progress(split.entries, "/".join(split.entries[0].name.split("/")[:2])):
        sample = read_sample(entry, config)
        features = cached_features(entry, encoders, config, device, partial(_same, sample))
        for mode, prediction in predict(detector, features).items():
            predictions[mode].append(prediction)
        samples.append(sample)
    return samples, predictions


def _same(sample: Sample) -> Sample:
    return sample


def read_sample(entry: Entry, config: Config) -> Sample:
    """The scan of `entry`, prepared for the encoders, on the config's device."""
    sample = prepare(read_scan(entry), config.preprocess)
    device = resolve_device(config.device)
    return replace(
        sample,
        rgb=sample.rgb.to(device),
        xyz=sample.xyz.to(device),
        valid=sample.valid.to(device),
        defect=sample.defect.to(device),
    )


def evaluate(samples: list[Sample], found: list[Prediction], seed: int) -> dict[str, Any]:
    """Metrics of one mode, their curves, and the interval of I-AUROC over the test scans."""
    maps = [prediction.anomaly_map for prediction in found]
    masks = [sample.defect for sample in samples]
    scores = [prediction.image_score for prediction in found]
    labels = [sample.kind != "good" for sample in samples]
    values = asdict(metrics.score_maps(maps, masks, scores, labels))
    curves: dict[str, Any] = {"roc": None, "pro": None}
    interval: tuple[float, float] | None = None
    if not math.isnan(values["i_auroc"]):
        fpr, tpr = metrics.roc_curve(scores, labels)
        curves["roc"] = {"fpr": fpr.tolist(), "tpr": tpr.tolist()}
        interval = metrics.bootstrap_interval(scores, labels, seed)
    if not math.isnan(values["aupro_30"]):
        fpr, pro = metrics.pro_curve(maps, masks)
        curves["pro"] = {"fpr": fpr.tolist(), "pro": pro.tolist()}
    return {**values, "i_auroc_interval": interval, "curves": curves}
