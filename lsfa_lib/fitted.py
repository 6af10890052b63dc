"""A category learned once: its detector and what it says of the test split, kept on disk.

Fitting takes from seconds to minutes; what was fitted before is read back from the cache folder,
where `lsfa cache` lists and prunes it with the features.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from lsfa_lib import detector as detectors
from lsfa_lib.adaptors import adapt
from lsfa_lib.config import Config, DataConfig, resolve_device
from lsfa_lib.config_io import config_hash, located_config
from lsfa_lib.datasets.mvtec3d import Entry, Split, read_split
from lsfa_lib.detector import Detector, Searched
from lsfa_lib.evidence import Distances, Evidence, gathered, good_distances
from lsfa_lib.feature_cache import cached_features
from lsfa_lib.features import Encoders, described_encoders, load_encoders
from lsfa_lib.files import InputError, located, progress, write_whole
from lsfa_lib.pipeline import few_shot, learn, read_sample
from lsfa_lib.records import MODALITIES, Modality, PatchFeatures, Sample
from lsfa_lib.results import Stopwatch

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
    config = located_config(config)
    root, stage = Path(config.data.root), _Stages(told)
    train = few_shot(read_split(root, category, "train"), config.shots, seed)
    validation = read_split(root, category, "validation")
    test = read_split(root, category, "test")
    with stage("load encoders"):
        encoders = _encoders(config)
    same = replace(config, data=DataConfig(""), device="", cache="")
    key = config_hash(FORMAT, same, encoders.keys, seed, _state(train), _state(validation))
    folder = Path(config.cache) / key if config.cache else None
    with stage("look for a fitted detector"):
        detector = _kept_detector(folder, config)
    if detector is None:
        detector = learn(category, config, seed, encoders, stage).detector
        if folder is not None:
            _describe(folder, category, config)
            detectors.save(detector, folder / "detector.safetensors")
    mark = config_hash(key, _state(test))
    kept = _kept_evidence(folder, mark, test, config.preprocess.image_size)
    if kept is None:
        with stage("score test scans"):
            good = [found for _, found in _searched(validation, detector, encoders, config)]
            scored = list(_searched(test, detector, encoders, config))
        named = [(entry.name, entry.kind) for entry in test.entries]
        masks, found = [mask for mask, _ in scored], [found for _, found in scored]
        kept = gathered(found, masks, named, detector.scales), good_distances(good)
        if folder is not None:
            _keep_evidence(folder, mark, *kept)
    return Fitted(config, detector, train.entries, test.entries, *kept)


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


def _kept_detector(folder: Path | None, config: Config) -> Detector | None:
    if folder is None or not (folder / "detector.safetensors").exists():
        return None
    try:
        return detectors.load(folder / "detector.safetensors", resolve_device(config.device))
    except InputError:
        return None  # cut short or damaged: fitted again


def _describe(folder: Path, category: str, config: Config) -> None:
    note = {"model": f"detector of {category}", "preprocess": asdict(config.preprocess)}
    with write_whole(folder / "about.json") as file:
        file.write_text(json.dumps(note, indent=1), encoding="utf-8")


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
    return detectors.search(detector.banks, features, detector.config)


def _same(sample: Sample) -> Sample:
    return sample


def _keep_evidence(folder: Path, mark: str, evidence: Evidence, good: Distances) -> None:
    tensors = {"valid": torch.from_numpy(np.packbits(evidence.valid, axis=-1))}
    for m in MODALITIES:
        parts = {
            "distances": evidence.distances[m],
            "nearest": evidence.nearest[m].astype(np.int32),
            "scores": evidence.scores[m],
            "good": good[m],
        }
        tensors |= {f"{m}.{name}": torch.from_numpy(part) for name, part in parts.items()}
    with write_whole(folder / "evidence.safetensors") as file:
        file.write_bytes(safetensors_bytes(tensors, metadata={"holds": mark}))


def _kept_evidence(
    folder: Path | None, mark: str, test: Split, side: int
) -> tuple[Evidence, Distances] | None:
    """What `_keep_evidence` kept; None where it is missing, damaged or of other scans."""
    if folder is None or not (folder / "evidence.safetensors").exists():
        return None
    try:
        with safe_open(folder / "evidence.safetensors", framework="np") as file:
            if file.metadata() != {"holds": mark}:
                return None
            kept: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return None
    valid = np.unpackbits(kept["valid"], axis=-1, count=side).astype(bool)
    parts = {
        name: {m: kept[f"{m}.{name}"] for m in MODALITIES}
        for name in ("distances", "nearest", "scores", "good")
    }
    good = parts.pop("good")
    names, kinds = zip(*((e.name, e.kind) for e in test.entries), strict=True)
    return Evidence(names, kinds, valid, **parts), good
