"""The straight path: scans -> features -> adaptors -> banks -> predictions -> numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lsfa_lib.adaptation.adaptors import save_adaptors
from lsfa_lib.adaptation.finetune import Finetuned, finetune, save_encoders
from lsfa_lib.adaptation.training import Trained, TrainingStopped, train_adaptors
from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.layouts import Split, split_of
from lsfa_lib.detection.detector import Detector, fit
from lsfa_lib.evaluation import metrics
from lsfa_lib.features.extract import Encoders, load_encoders
from lsfa_lib.features.lazy_scan import few_shot, good_features, lazy_scan, read_sample
from lsfa_lib.methods.method import find_method
from lsfa_lib.methods.running import (
    Fitted,
    fitted_detector,
    inference_cost,
    learn_method,
    resident_mb,
)
from lsfa_lib.records import UNLABELLED, Mode, PatchFeatures, Prediction, Sample, is_defective
from lsfa_lib.storage import results
from lsfa_lib.storage.files import InputError, progress


@dataclass(frozen=True)
class Run:
    """A finished run: the numbers, and what figures draw of the test split."""

    result: dict[str, Any]
    samples: list[Sample]
    predictions: dict[Mode, list[Prediction]]
    config: Config
    """As it was used: methods bring backbones and scores of their own."""


@dataclass(frozen=True)
class Learned:
    """What the good scans of a category gave."""

    detector: Detector
    trained: Trained | None
    """None where the config adapts nothing."""
    train: tuple[str, ...]
    """Names of the training scans, those drawn where `shots` says so."""
    encoders: Encoders
    """Those the detector's features come from: tuned ones where the config trains backbones."""
    finetuned: Finetuned | None = None


def run_category(category: str, config: Config, seed: int, folder: Path | None = None) -> Run:
    """Learns the good parts of a category and measures the detector on the test split.

    Deterministic: the same scans, config and seed give the same numbers on one machine. Adaptors,
    trained backbones and checkpoints are kept in `folder`. Raises InputError where the data cannot
    be used.
    """
    method, empty_mb = find_method(config.method), resident_mb() if config.timed_scans else 0.0
    config = method.config(config)
    device, clock = resolve_device(config.device), results.Stopwatch()
    learned = None
    if config.method == "lsfa":
        with clock("load encoders"):
            encoders = load_encoders(config, device)
        learned = learn(category, config, seed, encoders, clock, folder)
        fitted = fitted_detector(learned.detector, learned.train, learned.encoders)
    else:
        fitted = learn_method(method, category, config, seed, clock)
    split = split_of(config.data, category, "test")
    with clock("predict test"):
        own = untracked(config) if learned and learned.finetuned else config
        samples, predictions = score_split(split, fitted, own)
    with clock("metrics"):
        modes = {mode: evaluate(samples, predictions[mode], seed) for mode in fitted.modes}
    cost = None
    if config.timed_scans:
        with clock("cost"):
            cost = inference_cost(method, fitted, split, config, empty_mb)
    result = {
        "schema": results.SCHEMA,
        "category": category,
        "preset": config.preset,
        "seed": seed,
        "created": results.now(),
        "config": config,
        "method": {"title": method.title, "source": method.source},
        "weights": {m: fitted.encoders.about[m] for m in method.modalities if fitted.encoders},
        "counts": {
            "train": len(fitted.train),
            "validation": len(next(iter(fitted.validation_scores.values()))),
            "test_good": sum(sample.kind == "good" for sample in samples),
            "test_defective": sum(is_defective(sample.kind) is True for sample in samples),
            "test_unlabelled": sum(sample.kind == UNLABELLED for sample in samples),
        },
        "train_scans": fitted.train,
        **_told(learned),
        "modes": {
            mode: {**values, "threshold": fitted.thresholds[mode]} for mode, values in modes.items()
        },
        "scans": [
            {
                "name": sample.name,
                "kind": sample.kind,
                "defective": is_defective(sample.kind),
                "scores": {mode: predictions[mode][i].image_score for mode in fitted.modes},
            }
            for i, sample in enumerate(samples)
        ],
        "validation_scores": fitted.validation_scores,
        "cost": cost,
        "seconds": clock.seconds,
        "peak_memory_mb": results.peak_memory_mb(),
        "machine": results.machine(device),
        "commit": results.commit(),
    }
    return Run(results.as_json(result), samples, predictions, config)


def _told(learned: Learned | None) -> dict[str, Any]:
    """What only our own method has to tell: training, trained backbones, the sizes of banks."""
    trained, tuned = (learned.trained, learned.finetuned) if learned else (None, None)
    return {
        "training": trained and {"history": trained.history, "notes": trained.notes},
        "finetuned": tuned and {"drift": tuned.drift, "trainable": tuned.trainable},
        "banks": {m: list(b.rows.shape) for m, b in learned.detector.banks.items()}
        if learned
        else {},
    }


def learn(
    category: str,
    config: Config,
    seed: int,
    encoders: Encoders,
    clock: results.Stopwatch,
    folder: Path | None = None,
) -> Learned:
    """The detector of a category from its train and validation splits; the test split is not read.

    A training that has to stop leaves its last good adaptors in `folder`.
    """
    split = few_shot(split_of(config.data, category, "train"), config.shots, seed)
    if config.finetune.method != "none":
        return _learn_tuned(category, split, config, seed, encoders, clock, folder)
    with clock("features of train and validation"):
        train = good_features(split, encoders, config)
        validation = good_features(split_of(config.data, category, "validation"), encoders, config)
    trained = None
    if any(asdict(config.training.weights).values()):
        with clock("train adaptors"):
            trained = _trained(train, config, seed, folder)
    with clock("fit banks"):
        adaptors = trained.adaptors if trained else None
        detector = fit(train, validation, config, seed, adaptors)
    return Learned(detector, trained, _names(split), encoders)


def _learn_tuned(
    category: str,
    split: Split,
    config: Config,
    seed: int,
    encoders: Encoders,
    clock: results.Stopwatch,
    folder: Path | None,
) -> Learned:
    """The detector on features of backbones trained here, with the heads trained along."""
    with clock("finetune"):
        samples = [read_sample(entry, config) for entry in split.entries]
        tuned = finetune(samples, encoders, config, config.finetune, seed)
    if folder:
        save_encoders(tuned, folder / "backbones.safetensors")
    own = untracked(config)
    validation = split_of(config.data, category, "validation")
    with clock("features of train and validation"):
        train, held = (good_features(each, tuned.encoders, own) for each in (split, validation))
    with clock("fit banks"):
        detector = fit(train, held, config, seed, tuned.trained.adaptors)
    return Learned(detector, tuned.trained, _names(split), tuned.encoders, tuned)


def untracked(config: Config) -> Config:
    """`config` without a cache: features of backbones trained for one run are of no other use."""
    return replace(config, cache="")


def _names(split: Split) -> tuple[str, ...]:
    return tuple(entry.name for entry in split.entries)


def _trained(train: list[PatchFeatures], config: Config, seed: int, folder: Path | None) -> Trained:
    if folder is None:
        return train_adaptors(train, config, seed)
    checkpoint = folder / "checkpoint.pt"
    try:
        trained = train_adaptors(train, config, seed, checkpoint)
    except TrainingStopped as stop:
        kept = folder / "adaptors-last-good.safetensors"
        save_adaptors(stop.trained.adaptors, kept)
        raise InputError(f"{stop} (the last good adaptors: {kept})") from stop
    save_adaptors(trained.adaptors, folder / "adaptors.safetensors")
    checkpoint.unlink(missing_ok=True)
    return trained


def score_split(
    split: Split, fitted: Fitted, config: Config
) -> tuple[list[Sample], dict[Mode, list[Prediction]]]:
    """Samples and predictions of every scan of a split; ground truth is carried, not looked at."""
    samples: list[Sample] = []
    predictions: dict[Mode, list[Prediction]] = {mode: [] for mode in fitted.modes}
    for entry in progress(split.entries, "/".join(split.entries[0].name.split("/")[:2])):
        scene = lazy_scan(entry, fitted.encoders, config)
        for mode, prediction in fitted.predict(scene).items():
            predictions[mode].append(prediction)
        samples.append(scene.sample)
    return samples, predictions


def evaluate(samples: list[Sample], found: list[Prediction], seed: int) -> dict[str, Any]:
    """Metrics of one mode, their curves, and the interval of I-AUROC over the labelled scans."""
    labelled = [i for i, sample in enumerate(samples) if sample.kind != UNLABELLED]
    maps = [found[i].anomaly_map for i in labelled]
    masks = [samples[i].defect for i in labelled]
    scores = [found[i].image_score for i in labelled]
    labels = [samples[i].kind != "good" for i in labelled]
    if labelled:
        values = asdict(metrics.score_maps(maps, masks, scores, labels))
        if found[labelled[0]].released_map is not None:
            released = [m for i in labelled if (m := found[i].released_map) is not None]
            values["p_auroc"] = metrics.p_auroc(released, masks)
    else:
        values = asdict(metrics.undefined("no test scan is labelled"))
    curves: dict[str, Any] = {"roc": None, "pro": None}
    interval = (math.nan, math.nan)
    if not math.isnan(values["i_auroc"]):
        fpr, tpr = metrics.roc_curve(scores, labels)
        curves["roc"] = {"fpr": fpr.tolist(), "tpr": tpr.tolist()}
        interval = metrics.bootstrap_interval(scores, labels, seed)
    if not math.isnan(values["aupro_30"]):
        fpr, pro = metrics.pro_curve(maps, masks)
        curves["pro"] = {"fpr": fpr.tolist(), "pro": pro.tolist()}
    return {**values, "i_auroc_interval": interval, "curves": curves}
