"""Self-supervised training of the adaptors of one category on its good scans (see `trainer`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from lsfa_lib.adaptation.adaptors import Adaptors, new_adaptors, scan_rows
from lsfa_lib.adaptation.trainer import Step, Task, Trainer
from lsfa_lib.config import Config, LossWeights, TrainingConfig, config_hash
from lsfa_lib.records import PatchFeatures
from lsfa_lib.storage.files import InputError, atomic_write, progress

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """Trained adaptors and how they were trained."""

    adaptors: Adaptors
    history: list[Step]
    """One entry per step."""
    notes: tuple[str, ...] = ()
    """Deviations from the config, with the reason."""


class TrainingStopped(InputError):
    """A training that collapsed or whose loss is not finite; `trained` is its last good state."""

    def __init__(self, reason: str, trained: Trained) -> None:
        super().__init__(reason)
        self.trained = trained


def train_adaptors(
    train: list[PatchFeatures], config: Config, seed: int, checkpoint: Path | None = None
) -> Trained:
    """Adaptors trained on the features of the good scans of one category.

    Raises InputError where the scans are too few for the losses asked for, TrainingStopped where
    the training collapses.
    """
    adaptors = new_adaptors(train, config.adaptor, seed)
    rows = [scan_rows(features, config.adaptor) for features in train]
    names = tuple(features.name for features in train)
    key = config_hash(config.preprocess, config.projection, digests(train)) if checkpoint else ""
    task = Task(adaptors, rows.__getitem__, names, key=key)
    return fit(task, config.training, seed, checkpoint)


def digests(train: Sequence[PatchFeatures]) -> list[str]:
    """A hash of each scan's features: it differs between scans of the same name."""
    return [
        sha256(
            b"".join(own.tokens.cpu().numpy().tobytes() for own in each.by_modality.values())
        ).hexdigest()
        for each in train
    ]


def fit(task: Task, config: TrainingConfig, seed: int, checkpoint: Path | None = None) -> Trained:
    """Runs the steps of `config`; resumes from the `checkpoint` file if it exists, and writes it.

    A checkpoint of another task, config or seed is replaced. Raises InputError for losses that
    these scans cannot serve, TrainingStopped where the training collapses.
    """
    _require_trainable(task, config)
    trainer = Trainer(task, config, seed)
    for note in trainer.notes:
        _log.warning(note)
    if not (checkpoint and _resume(trainer, checkpoint)):
        trainer.fill()
    steps, every, reason = trainer.config.steps, config.checkpoint_every, ""
    for step in progress(range(len(trainer.history), steps), "training"):
        reason = trainer.step()
        if reason:
            reason = f"training stopped at step {step + 1} of {steps}: {reason}"
            break
        if checkpoint and every and (step + 1) % every == 0:
            _save(trainer, checkpoint)
    task.network.requires_grad_(False)
    trained = Trained(task.adaptors, trainer.history, trainer.notes)
    if reason:
        raise TrainingStopped(reason, trained)
    return trained


def require_scans(scans: int, weights: LossWeights) -> None:
    """Raises InputError where there are too few training scans for the losses."""
    if scans < 2 and any(asdict(weights).values()) and (weights.lc or weights.gc or not weights.la):
        raise InputError(
            f"{scans} training scan, but LC and GC need rows of other scans and GA compares "
            "scans; give at least 2 training scans, or train with --only LA"
        )


def _require_trainable(task: Task, config: TrainingConfig) -> None:
    w = config.weights
    require_scans(len(task.names), w)
    if not any(asdict(w).values()):
        raise InputError("training.weights are all 0: choose losses to train, such as only: both")
    learns_rows = task.adaptors.config.structure != "none" or task.backbones is not None
    if not learns_rows and not (w.la or w.ga):
        raise InputError(
            "adaptor.structure none trains the projection heads alone, which LC and GC do not "
            "reach; train with --only CLC"
        )


def _key(trainer: Trainer) -> str:
    """Changes with the task, the config and the seed."""
    task = trainer.task
    names = list(task.names)
    return config_hash(trainer.config, task.adaptors.config, names, task.key, trainer.seed)


def _save(trainer: Trainer, checkpoint: Path) -> None:
    content = {
        "key": _key(trainer),
        "network": trainer.task.network.state_dict(),
        "queues": trainer.queues.state_dict(),
        "optimiser": trainer.optimiser.state_dict(),
        "history": trainer.history,
    }
    with atomic_write(checkpoint) as file:
        torch.save(content, file)


def _resume(trainer: Trainer, checkpoint: Path) -> bool:
    """Continues from `checkpoint`; False where there is none of this training."""
    if not checkpoint.exists():
        return False
    try:
        content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(
            f"{checkpoint} is not a readable checkpoint ({error}); delete it to train from the "
            "start"
        ) from error
    if content.get("key") != _key(trainer):
        _log.warning("%s is of another training; this one starts at step 1", checkpoint.name)
        return False
    trainer.task.network.load_state_dict(content["network"])
    trainer.queues.load_state_dict(content["queues"])
    trainer.optimiser.load_state_dict(content["optimiser"])
    trainer.history = content["history"]
    return True
