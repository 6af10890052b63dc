"""A category's detector and evidence on its test split: from a run, the cache, or fitted now."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from lsfa_lib.adaptation.adaptors import adapt
from lsfa_lib.config import Config, config_hash, resolve_device, resolve_paths
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import Split, split_of
from lsfa_lib.detection import saved
from lsfa_lib.detection.detector import Detector, predictions_of, search, standardise
from lsfa_lib.detection.memory import Searched
from lsfa_lib.explorer.evidence import Distances, Evidence, gathered, good_distances
from lsfa_lib.features.extract import Encoders, described_encoders, load_encoders
from lsfa_lib.features.lazy_scan import few_shot, fixed_threads, lazy_scan
from lsfa_lib.methods.fitting import fit_detector
from lsfa_lib.methods.lsfa import detector_file, file_states
from lsfa_lib.records import Modality, PatchFeatures
from lsfa_lib.storage.files import InputError, atomic_write, located, progress
from lsfa_lib.storage.results import Stopwatch

RUNS = Path("reports/runs")
"""Where runs keep their detectors, as `lsfa run` writes them."""
Told = Callable[[str], None]


@dataclass(frozen=True)
class Fitted:
    """A detector, the scans it was trained on, and what it finds in each test scan."""

    config: Config
    detector: Detector
    train: tuple[Entry, ...]
    test: tuple[Entry, ...]
    evidence: Evidence
    good: Distances
    """Of the patches of validation/good to the bank."""


class _Stages(Stopwatch):
    """Reports each stage before it begins."""

    def __init__(self, report: Told) -> None:
        super().__init__()
        self._report = report

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._report(stage)
        with super().__call__(stage):
            yield


def fitted(category: str, config: Config, seed: int, report: Told = lambda _: None) -> Fitted:
    """The category's detector and evidence; the detector is the one that a run has kept, if any.

    `report` hears of each stage. Raises InputError where the data cannot be used.
    """
    config, stage = resolve_paths(config), _Stages(report)
    train = few_shot(split_of(config.data, category, "train"), config.shots, seed)
    validation, test = (split_of(config.data, category, name) for name in ("validation", "test"))
    with fixed_threads(config.threads):
        with stage("load encoders"):
            encoders = _encoders(config)
        folder = _folder(category, config, seed, encoders)
        name = detector_file((*train.entries, *validation.entries), config, seed, encoders)
        with stage("look for a fitted detector"):
            detector = _kept_detector(name, folder, resolve_device(config.device))
        if detector is None:
            detector = fit_detector(category, config, seed, stage).detector
            if folder:
                _describe(folder, category, config)
                saved.save(detector, folder / name)
                _only(folder / name)
        mark = config_hash(name, file_states(test.entries))
        path = folder and folder / f"evidence-{mark}.safetensors"
        found = path and _read_evidence(path, test.entries, config.preprocess.image_size)
        if not found:
            with stage("score test scans"):
                found = _scored((validation, test), detector, encoders, config)
            if path:
                _write_evidence(path, *found)
    return Fitted(config, detector, train.entries, test.entries, *found)


def _folder(category: str, config: Config, seed: int, encoders: Encoders) -> Path | None:
    """Cache folder of a recipe on a category; None without a cache."""
    same = replace(config, data=replace(config.data, root=""), device="", cache="")
    key = config_hash(category, same, encoders.keys, seed)
    return Path(config.cache) / key if config.cache else None


def _describe(folder: Path, category: str, config: Config) -> None:
    """What `lsfa cache` says of the folder."""
    note = {"model": f"detector of {category}", "preprocess": asdict(config.preprocess)}
    with atomic_write(folder / "about.json") as file:
        file.write_text(json.dumps(note, indent=1), encoding="utf-8")


def _kept_detector(name: str, folder: Path | None, device: torch.device) -> Detector | None:
    """The detector of that name from the cache or a run; None where it is missing or damaged."""
    paths = [folder / name] if folder else []
    for path in [*paths, *located(RUNS).glob(f"*/*/{name}")]:
        if path.exists():
            try:
                return saved.load(path, device)
            except InputError:
                continue  # cut short: fitted again
    return None


def _scored(
    splits: tuple[Split, Split], detector: Detector, encoders: Encoders, config: Config
) -> tuple[Evidence, Distances]:
    """Evidence on the second split, and distances of the good patches of the first."""
    (_, good, _), (masks, found, scores) = (
        zip(*_searched(split, detector, encoders, config), strict=True) for split in splits
    )
    named = [(entry.name, entry.kind) for entry in splits[1].entries]
    return gathered(found, masks, named, scores), good_distances(good)


def _encoders(config: Config) -> Encoders:
    """The backbones; weights are looked for in the checkout too, and keyed as if found at once."""
    points = config.point_encoder
    path = str(located(Path(points.weights))) if points.weights not in ("", "random") else ""
    found = replace(config, point_encoder=replace(points, weights=path or points.weights))
    loaded = load_encoders(found, resolve_device(config.device))
    return described_encoders(loaded.by_modality, config)


def _searched(
    split: Split, detector: Detector, encoders: Encoders, config: Config
) -> Iterator[tuple[torch.Tensor, dict[Modality, Searched], dict[Modality, float]]]:
    """Pixels of the part, the search of the banks, and the standardised scores, of each scan."""
    for entry in progress(split.entries, "/".join(split.entries[0].name.split("/")[:2])):
        scan = lazy_scan(entry, encoders, config)
        sample, features = scan.sample, scan.features
        found = searched(detector, features)
        alone = standardise(predictions_of(found, features, config), detector.scales)
        yield sample.valid, found, {m: prediction.image_score for m, prediction in alone.items()}


def searched(detector: Detector, features: PatchFeatures) -> dict[Modality, Searched]:
    """The nearest bank rows of the features, adapted where the detector adapts."""
    if detector.adaptors is not None:
        features = adapt(detector.adaptors, features)
    return search(detector.banks, features, detector.config)


def _read_evidence(
    path: Path, test: tuple[Entry, ...], side: int
) -> tuple[Evidence, Distances] | None:
    """The kept evidence on `test`; None where it is missing or damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="np") as file:
            kept: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return None
    valid = np.unpackbits(kept.pop("valid"), axis=-1, count=side).astype(bool)
    parts: dict[str, Any] = {}
    for name, value in kept.items():
        m, _, part = name.partition(".")
        parts.setdefault(part, {})[m] = value
    good = parts.pop("good")
    names, kinds = tuple(e.name for e in test), tuple(e.kind for e in test)
    return Evidence(names, kinds, valid, **parts), good


def _write_evidence(path: Path, evidence: Evidence, good: Distances) -> None:
    tensors = {"valid": np.packbits(evidence.valid, axis=-1)}
    for m, own in good.items():
        tensors |= {
            f"{m}.distances": evidence.distances[m],
            f"{m}.nearest": evidence.nearest[m].astype(np.int32),
            f"{m}.scores": evidence.scores[m],
            f"{m}.good": own,
        }
    content = {name: torch.from_numpy(part) for name, part in tensors.items()}
    with atomic_write(path) as file:
        file.write_bytes(safetensors_bytes(content))
    _only(path)


def _only(path: Path) -> None:
    """Removes files of the same kind made from other scans: a cache must not grow with changes."""
    for other in path.parent.glob(f"{path.name.partition('-')[0]}-*{path.suffix}"):
        if other != path:
            other.unlink(missing_ok=True)
