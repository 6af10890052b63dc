"""What each part of the method brings: every variant trained and tested with several seeds.

A cell is one variant with one training seed and one coreset seed in one category, in each mode;
cells are files, so that a study goes on where it was stopped. `components_table` reads them.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from lsfa_lib.adaptation.adaptors import Adaptors
from lsfa_lib.adaptation.training import Trained, TrainingStopped, train_adaptors
from lsfa_lib.config import Config, config_hash, resolve_device, with_losses
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.detection.detector import fit, predict
from lsfa_lib.evaluation import metrics
from lsfa_lib.features.cache import cached_features
from lsfa_lib.features.extract import Encoders, load_encoders
from lsfa_lib.features.lazy_scan import good_features, read_sample
from lsfa_lib.records import UNLABELLED, PatchFeatures, Prediction
from lsfa_lib.storage import results
from lsfa_lib.storage.files import atomic_write, progress

FORMAT = 1


def _baseline(config: Config) -> Config:
    return with_losses(config, "none")


def _control(config: Config) -> Config:
    return replace(config, training=replace(config.training, steps=0, epochs=0))


def _heads(config: Config) -> Config:
    clc = with_losses(config, "CLC")
    return replace(clc, adaptor=replace(clc.adaptor, structure="none"))


def _part(name: str) -> Callable[[Config], Config]:
    return lambda config: with_losses(config, name)


VARIANTS: dict[str, Callable[[Config], Config]] = {
    "baseline": _baseline,
    "control": _control,
    "heads": _heads,
    "both": _part("both"),
    "CLC": _part("CLC"),
    "IFC": _part("IFC"),
}
"""`control`: random untrained adaptors. `heads`: frozen features, CLC trains the heads alone."""


def _ours(config: Config) -> Config:
    return config


def _published(config: Config) -> Config:
    return replace(
        config, training=replace(config.training, alignment="literal", compactness="sum")
    )


LOSSES: dict[str, Callable[[Config], Config]] = {"ours": _ours, "published": _published}
"""`published`: Eq. 2, 3, 5 and 6 as printed, all else equal."""
UNTRAINED = ("baseline", "control")


@dataclass(frozen=True)
class Study:
    """Everything a table of components follows from."""

    config: Config
    categories: tuple[str, ...]
    training_seeds: int = 3
    coreset_seeds: int = 2
    losses: tuple[str, ...] = ("ours", "published")
    variants: tuple[str, ...] = tuple(VARIANTS)


@dataclass(frozen=True)
class Unit:
    """One training, and the cells that come of it."""

    category: str
    losses: str
    variant: str
    training_seed: int

    @property
    def file(self) -> str:
        """Name of its cells' file."""
        return f"{self.category}-{self.losses}-{self.variant}-t{self.training_seed}.json"


def units(study: Study, category: str) -> list[Unit]:
    """The trainings of one category; untrained variants know no losses, the baseline no seed."""
    found = []
    for losses in study.losses:
        for variant in study.variants:
            if variant in UNTRAINED and losses != study.losses[0]:
                continue
            seeds = 1 if variant == "baseline" else study.training_seeds
            found += [Unit(category, losses, variant, seed) for seed in range(seeds)]
    return found


def run_study(study: Study, folder: Path, workers: int) -> Iterator[str]:
    """Makes the cells that are missing in `folder`; categories side by side, each as it ends."""
    return each_category(partial(run_units, study, folder=folder), study.categories, workers)


def each_category(
    work: Callable[[str], None], categories: Sequence[str], workers: int
) -> Iterator[str]:
    """Does the work of each category in a process; yields the categories in order, once done."""
    with worker_pool(workers) as pool:
        running = {name: pool.submit(work, name) for name in categories}
        for name, future in running.items():
            future.result()
            yield name


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that share the cores; new ones, since a fork of a process that has used torch's
    threads can wait for them forever.
    """
    threads = max(1, torch.get_num_threads() // workers)
    return ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,)
    )


def run_units(study: Study, category: str, folder: Path) -> None:
    """Makes the missing cells of one category."""
    todo = []
    for unit in units(study, category):
        path, key = folder / unit.file, unit_key(study, unit)
        if not path.exists() or json.loads(path.read_text(encoding="utf-8"))["key"] != key:
            todo.append((unit, path, key))
    if not todo:
        return
    scans = _read(category, study.config)
    for unit, path, key in progress(todo, category):
        cells = list(_cells(unit, study, scans))
        content = {"key": key, "unit": asdict(unit), "cells": cells, **_about(study, scans)}
        with atomic_write(path) as file:
            file.write_text(json.dumps(results.as_json(content), indent=1), encoding="utf-8")


def unit_key(study: Study, unit: Unit) -> str:
    """Changes with all that the cells follow from but the code."""
    config = unit_config(study.config, unit)
    return config_hash(
        FORMAT, replace(config, device="", cache=""), asdict(unit), study.coreset_seeds
    )


def unit_config(config: Config, unit: Unit) -> Config:
    """The config its adaptors are trained with."""
    return VARIANTS[unit.variant](LOSSES[unit.losses](config))


@dataclass(frozen=True)
class TestScans:
    """The test split of one category, read once for all that is measured on it."""

    __test__ = False  # pytest takes the name for a test

    features: list[PatchFeatures]
    masks: list[Bool[Tensor, "S S"]]
    defective: list[bool]


@dataclass(frozen=True)
class Scans:
    """Features of one category."""

    train: list[PatchFeatures]
    validation: list[PatchFeatures]
    test: TestScans


def _read(category: str, config: Config) -> Scans:
    encoders = load_encoders(config, resolve_device(config.device))
    return Scans(
        good_features(split_of(config.data, category, "train"), encoders, config),
        good_features(split_of(config.data, category, "validation"), encoders, config),
        read_test(category, config, encoders),
    )


def read_test(category: str, config: Config, encoders: Encoders) -> TestScans:
    """Features and ground truth of the labelled scans of the test split."""
    device = resolve_device(config.device)
    entries = split_of(config.data, category, "test").entries
    features, samples = [], []
    for entry in progress([e for e in entries if e.kind != UNLABELLED], category):
        samples.append(read_sample(entry, config))
        ready = partial(samples.__getitem__, -1)
        features.append(cached_features(entry, encoders, config, device, ready))
    return TestScans(
        features,
        [sample.defect for sample in samples],
        [sample.kind != "good" for sample in samples],
    )


def _cells(unit: Unit, study: Study, scans: Scans) -> Iterator[dict[str, Any]]:
    """One entry for each coreset seed and mode."""
    config, clock = unit_config(study.config, unit), results.Stopwatch()
    with clock("train"):
        adaptors, trained, stopped = _adaptors(unit, config, scans)
    for seed in range(study.coreset_seeds):
        clock.seconds.pop("fit", None), clock.seconds.pop("predict", None)
        with clock("fit"):
            detector = fit(scans.train, scans.validation, config, seed, adaptors)
        with clock("predict"):
            found = [predict(detector, features) for features in scans.test.features]
        for mode in detector.modes:
            yield {
                "coreset_seed": seed,
                "mode": mode,
                **measured([prediction[mode] for prediction in found], scans.test),
                "stopped": stopped,
                "steps": len(trained.history) if trained else 0,
                "monitors": trained.history[-1] if trained and trained.history else {},
                "seconds": dict(clock.seconds),
            }


def _adaptors(
    unit: Unit, config: Config, scans: Scans
) -> tuple[Adaptors | None, Trained | None, str]:
    """Adaptors of the unit; where training collapsed those before it did, and why."""
    if unit.variant == "baseline":
        return None, None, ""
    try:
        trained = train_adaptors(scans.train, config, unit.training_seed)
    except TrainingStopped as stop:
        return stop.trained.adaptors, stop.trained, str(stop)
    return trained.adaptors, trained, ""


def measured(found: Sequence[Prediction], test: TestScans) -> dict[str, Any]:
    """The metrics of one mode and the scores of its scans."""
    maps, scores = [p.anomaly_map for p in found], [p.image_score for p in found]
    return {
        "i_auroc": metrics.auroc(scores, test.defective),
        "aupro_30": metrics.aupro(maps, test.masks, 0.3),
        "p_auroc": metrics.p_auroc(maps, test.masks),
        "scores": scores,
    }


def _about(study: Study, scans: Scans) -> dict[str, Any]:
    return {
        "image_size": study.config.preprocess.image_size,
        "encoders": [study.config.image_encoder.model, study.config.point_encoder.model],
        "defective": scans.test.defective,
        "train_scans": len(scans.train),
        "peak_memory_mb": results.peak_memory_mb(),
        "machine": results.machine(resolve_device(study.config.device)),
        "commit": results.commit(),
        "created": results.now(),
    }
