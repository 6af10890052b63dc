"""A category's detector and evidence on its test split: from a run, the cache, or fitted now."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from lsfa_lib.config import Config, config_hash, resolve_device, resolve_paths
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.detection import saved
from lsfa_lib.detection.detector import Detector
from lsfa_lib.explorer.evidence import Evidence, read_evidence, scored, write_evidence
from lsfa_lib.features.extract import Encoders, load_encoders
from lsfa_lib.features.lazy_scan import few_shot, fixed_threads
from lsfa_lib.methods.fitting import fit_detector, used_modalities
from lsfa_lib.methods.lsfa import detector_file, file_states
from lsfa_lib.methods.table import METHODS
from lsfa_lib.storage.files import InputError, atomic_write, located
from lsfa_lib.storage.results import Stopwatch

RUNS = Path("reports/runs")
"""Where runs keep their detectors, as `lsfa run` writes them."""


@dataclass(frozen=True)
class Fitted:
    """A detector, the scans it was trained on, and what it finds in each test scan."""

    config: Config
    detector: Detector
    train: tuple[Entry, ...]
    evidence: Evidence


def fitted(category: str, config: Config, seed: int) -> Fitted:
    """The category's detector and evidence; the detector is the one that a run has kept, if any.

    Raises InputError where the data cannot be used.
    """
    config, stage = resolve_paths(config), Stopwatch()
    train = few_shot(split_of(config.data, category, "train"), config.shots, seed)
    validation, test = (split_of(config.data, category, name) for name in ("validation", "test"))
    used = used_modalities(METHODS["lsfa"], config, train)
    with fixed_threads(config.threads):
        with stage("load encoders"):
            encoders = load_encoders(config, resolve_device(config.device), used)
        folder = _folder(category, config, seed, encoders)
        name = detector_file((*train.entries, *validation.entries), config, seed, encoders)
        with stage("look for a fitted detector"):
            detector = _kept_detector(name, folder, resolve_device(config.device))
        if detector is None:
            learned = fit_detector(category, config, seed)
            detector = learned.detector
            if folder:
                _describe(folder, category, config)
                learned.save_as(folder / name)
                _only(folder / name)
        mark = config_hash(name, file_states(test.entries))
        path = folder and folder / f"evidence-{mark}.safetensors"
        found = path and read_evidence(path, test.entries, config.preprocess.image_size)
        if not found:
            with stage("score test scans"):
                found = scored(validation, test, detector, encoders, config)
            if path:
                write_evidence(path, found)
                _only(path)
    return Fitted(config, detector, train.entries, found)


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


def _only(path: Path) -> None:
    """Removes files of the same kind made from other scans: a cache must not grow with changes."""
    for other in path.parent.glob(f"{path.name.partition('-')[0]}-*{path.suffix}"):
        if other != path:
            other.unlink(missing_ok=True)
