"""A category learned once: its detector and what it says of the test split, kept on disk.

Fitting takes from seconds to minutes; what was fitted before is read back from the cache folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from lsfa_lib.adaptation.adaptors import adapt
from lsfa_lib.config import Config, DataConfig, config_hash, resolve_device, resolve_paths
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import Split, split_of
from lsfa_lib.detection.detector import Detector, Searched, search
from lsfa_lib.explorer.evidence import Distances, Evidence, gathered, good_distances
from lsfa_lib.explorer.fitted_files import FittedFiles
from lsfa_lib.features.cache import cached_features
from lsfa_lib.features.extract import Encoders, described_encoders, load_encoders
from lsfa_lib.features.lazy_scan import few_shot, read_sample
from lsfa_lib.pipeline import learn
from lsfa_lib.records import Modality, PatchFeatures, Sample
from lsfa_lib.storage.files import located, progress
from lsfa_lib.storage.results import Stopwatch

FORMAT = 1
"""Raised when the kept files change, so that older ones are made again."""
Told = Callable[[str], None]


@dataclass(frozen=True)
class Fitted:
    """A detector, the scans it learned from, and what it says of each test scan."""

    config: Config
    detector: Detector
    train: tuple[Entry, ...]
    test: tuple[Entry, ...]
    evidence: Evidence
    good: Distances
    """Of the patches of validation/good to the bank."""


class _Stages(Stopwatch):
    """Tells each stage before it begins."""

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._told(stage)
        with super().__call__(stage):
            yield


def fitted(category: str, config: Config, seed: int, told: Told = lambda _: None) -> Fitted:
    """The category's detector and evidence, from the cache or fitted now and kept there.

    `told` hears of each stage. Paths that are not there are looked for in the checkout.
    Raises InputError where the data cannot be used.
    """
    config, stage = resolve_paths(config), _Stages(told)
    train = few_shot(split_of(config.data, category, "train"), config.shots, seed)
    validation = split_of(config.data, category, "validation")
    test = split_of(config.data, category, "test")
    with stage("load encoders"):
        encoders = _encoders(config)
    files = _files(category, config, seed, encoders, (train, validation))
    mark = config_hash(_state(train), _state(validation))
    with stage("look for a fitted detector"):
        detector = files.detector(mark, resolve_device(config.device))
    if detector is None:
        detector = learn(category, config, seed, encoders, stage).detector
        files.describe(category, config)
        files.keep_detector(mark, detector)
    mark = config_hash(mark, _state(test))
    found = files.evidence(mark, test.entries, config.preprocess.image_size)
    if found is None:
        with stage("score test scans"):
            found = _scored((validation, test), detector, encoders, config)
        files.keep_evidence(mark, *found)
    return Fitted(config, detector, train.entries, test.entries, *found)


def _files(
    category: str, config: Config, seed: int, encoders: Encoders, learned: tuple[Split, ...]
) -> FittedFiles:
    """Where this recipe's files lie; the same for a copy of the data, so that caches stay small."""
    same = replace(config, data=DataConfig(""), device="", cache="")
    names = [entry.name for split in learned for entry in split.entries]
    key = config_hash(FORMAT, category, same, encoders.keys, seed, names)
    return FittedFiles(Path(config.cache) / key if config.cache else None)


def _scored(
    splits: tuple[Split, Split], detector: Detector, encoders: Encoders, config: Config
) -> tuple[Evidence, Distances]:
    """Evidence on the second split, and distances of the good patches of the first."""
    (_, good), (masks, found) = (
        zip(*_searched(split, detector, encoders, config), strict=True) for split in splits
    )
    named = [(entry.name, entry.kind) for entry in splits[1].entries]
    return gathered(found, masks, named, detector.scales), good_distances(good)


def _encoders(config: Config) -> Encoders:
    """The backbones; weights are looked for in the checkout too, and keyed as if found at once."""
    points = config.point_encoder
    there = str(located(Path(points.weights))) if points.weights not in ("", "random") else ""
    point_encoder = replace(points, weights=there or points.weights)
    loaded = load_encoders(
        replace(config, point_encoder=point_encoder), resolve_device(config.device)
    )
    return described_encoders(loaded.image, loaded.points, config)


def _state(split: Split) -> list[tuple[str, int, int]]:
    """Name, size and time of the files of a split: a scan that was replaced is another scan."""
    files = [(e.name, f) for e in split.entries for f in (e.rgb, e.xyz, e.gt) if f is not None]
    return [(name, f.stat().st_size, f.stat().st_mtime_ns) for name, f in files]


def _searched(
    split: Split, detector: Detector, encoders: Encoders, config: Config
) -> Iterator[tuple[torch.Tensor, dict[Modality, Searched]]]:
    """Pixels of the part, and the search among the banks, of each scan."""
    device = resolve_device(config.device)
    label = "/".join(split.entries[0].name.split("/")[:2])
    for entry in progress(split.entries, label):
        sample = read_sample(entry, config)
        features = cached_features(entry, encoders, config, device, partial(_same, sample))
        yield sample.valid, searched(detector, features)


def searched(detector: Detector, features: PatchFeatures) -> dict[Modality, Searched]:
    """The nearest bank rows of the features, adapted where the detector adapts."""
    if detector.adaptors is not None:
        features = adapt(detector.adaptors, features)
    return search(detector.banks, features, detector.config)


def _same(sample: Sample) -> Sample:
    return sample
