"""LSFA, this project's method: adaptors (or backbones) trained on good scans, then detection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lsfa_lib.adaptation.adaptors import save_adaptors
from lsfa_lib.adaptation.finetune import Finetuned, finetune, save_encoders
from lsfa_lib.adaptation.training import Trained, TrainingStopped, train_adaptors
from lsfa_lib.config import Config, config_hash, with_losses
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.detection import detector, saved
from lsfa_lib.detection.detector import Detector, predict
from lsfa_lib.detection.labelled import labelled_patches
from lsfa_lib.detection.likeness import Means, mean_features
from lsfa_lib.detection.origin import origin_of
from lsfa_lib.features.cache import extract
from lsfa_lib.features.extract import Encoders
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.method import Good
from lsfa_lib.records import Mode, PatchFeatures, Prediction
from lsfa_lib.storage.files import InputError


def detector_file(scans: Iterable[Entry], config: Config, seed: int, encoders: Encoders) -> str:
    """Name of the file of a detector; it changes with everything the detector depends on.

    The location of the data and the device are ignored.
    """
    same = replace(config, data=replace(config.data, root=""), device="", cache="")
    return f"detector-{config_hash(same, seed, encoders.keys, file_states(scans))}.safetensors"


def file_states(scans: Iterable[Entry]) -> list[tuple[str, int, int]]:
    """Name, size and modification time of the scans' files: a replaced scan is a different scan."""
    return [(e.name, f.stat().st_size, f.stat().st_mtime_ns) for e in scans for f in e.files]


@dataclass(frozen=True)
class Learned:
    """A fitted LSFA detector, called with a scan whose features come from `encoders`."""

    detector: Detector
    encoders: Encoders
    """The tuned ones if the config trains backbones."""
    file: str
    """File name that the detector is saved under."""
    trained: Trained | None
    """None if the config adapts nothing."""
    finetuned: Finetuned | None = None
    train: tuple[Entry, ...] = ()
    validation: tuple[Entry, ...] = ()
    means: Means = field(default_factory=dict)
    """Mean feature of each training scan, by modality."""

    def __call__(self, scan: LazyScan) -> dict[Mode, Prediction]:
        """Map and score of the scan in each mode."""
        return predict(self.detector, scan.features)

    @property
    def validation_scores(self) -> dict[Mode, list[float]]:
        """Scores of validation/good, which `fit` has already computed."""
        return self.detector.validation_scores

    @property
    def report(self) -> dict[str, Any]:
        """Training curves, what was fine-tuned, and the sizes of the banks."""
        trained, tuned = self.trained, self.finetuned
        return {
            "training": {"history": trained.history, "notes": trained.notes}
            if trained and trained.history
            else None,
            "finetuned": tuned and {"drift": tuned.drift, "trainable": tuned.trainable},
            "banks": {m: list(bank.rows.shape) for m, bank in self.detector.banks.items()},
        }

    def save(self, folder: Path) -> None:
        """Saves the detector to a folder, for new scans and for the explorer."""
        self.save_as(folder / self.file)

    def save_as(self, path: Path) -> None:
        """Saves the detector and its origin as one file (`.lsfa`)."""
        origin = origin_of(self.train, self.validation, self.means, self.encoders)
        saved.save(self.detector, path, origin)


def fit(good: Good) -> Learned:
    """A detector: adaptors or backbones if a loss has a weight, then banks, scales, thresholds."""
    assert good.encoders is not None
    config, encoders, tuned = good.config, good.encoders, None
    trained: Trained | None
    if config.finetune.method != "none":
        tuned = _tuned(good, encoders)
        trained, encoders = tuned.trained, tuned.encoders
        with good.timed("features of train and validation"):
            train, validation = (
                [extract(scan.sample, encoders, config) for scan in scans]
                for scans in (good.train, good.validation)
            )
    else:
        train = [scan.features for scan in good.train]
        validation = [scan.features for scan in good.validation]
        with good.timed("train adaptors"):
            trained = trained_adaptors(train, config, good.seed, good.folder)
    with good.timed("fit banks"):
        adaptors = trained.adaptors if trained else None
        labelled = labelled_patches(good.train, encoders, adaptors, config, good.seed)
        fitted = detector.fit(train, validation, config, good.seed, adaptors, labelled)
    own, held = (
        tuple(scan.entry for scan in scans if scan.entry)
        for scans in (good.train, good.validation)
    )
    file = detector_file((*own, *held), config, good.seed, encoders)
    return Learned(fitted, encoders, file, trained, tuned, own, held, mean_features(train))


def _tuned(good: Good, encoders: Encoders) -> Finetuned:
    """The backbones trained on the good scans together with the heads, and saved."""
    with good.timed("finetune"):
        samples = [scan.sample for scan in good.train]
        with _checkpoint(good.folder) as file:
            tuned = finetune(samples, encoders, good.config, good.seed, file)
    if good.folder:
        save_encoders(tuned, good.folder / "backbones.safetensors")
    return tuned


def trained_adaptors(
    train: list[PatchFeatures], config: Config, seed: int, folder: Path | None = None
) -> Trained | None:
    """Trained adaptors, saved to the folder; None if the config trains none."""
    if not any(asdict(config.training.weights).values()):
        return None
    with _checkpoint(folder) as file:
        trained = train_adaptors(train, config, seed, file)
    if folder:
        save_adaptors(trained.adaptors, folder / "adaptors.safetensors")
    return trained


@contextmanager
def _checkpoint(folder: Path | None) -> Iterator[Path | None]:
    """File of the checkpoints in the folder, removed once the training is done.

    A training that has to stop saves its last good adaptors there.
    """
    if folder is None:
        yield None
        return
    file = folder / "checkpoint.pt"
    try:
        yield file
    except TrainingStopped as stop:
        kept = folder / "adaptors-last-good.safetensors"
        save_adaptors(stop.trained.adaptors, kept)
        raise InputError(f"{stop} (the last good adaptors: {kept})") from stop
    file.unlink(missing_ok=True)


def unadapted(config: Config) -> Config:
    """The same detection on unadapted features."""
    return with_losses(config, "none")
