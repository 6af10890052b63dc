"""Self-supervised training of the adaptors of one category on its good scans.

Each step: rows of a batch of scans -> adapt -> the losses of `objective`, the banks queried before
the batch is put in -> one backward. Every draw follows from (seed, step), so that a resumed
training goes on with the same numbers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsfa_lib.adaptation.adaptors import Adaptors, ScanRows, new_adaptors, sampled, scan_rows
from lsfa_lib.adaptation.monitors import collapse
from lsfa_lib.adaptation.objective import (
    AdaptedScan,
    FeatureQueues,
    adapted_scan,
    alignment_terms,
    compactness_terms,
    spread_monitors,
)
from lsfa_lib.adaptation.schedule import batch_scans, epoch_order, generator_of, learning_rate
from lsfa_lib.config import Config, LossWeights, TrainingConfig, config_hash
from lsfa_lib.records import MODALITIES, Modality, PatchFeatures
from lsfa_lib.storage.files import InputError, atomic_write, progress

Step = dict[str, float]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What is trained, and the rows it is trained on."""

    adaptors: Adaptors
    source: Callable[[int], dict[Modality, ScanRows]]
    """Rows of training scan i before adaptation; they may carry gradients to a backbone."""
    names: tuple[str, ...]
    """Of the training scans."""
    backbones: nn.Module | None = None
    """Trained along with the adaptors, where its parameters want a gradient."""
    after_step: Callable[[int], None] | None = None
    """Called with the number of steps made, after each of them, while its gradients exist."""
    key: str = ""
    """Changes with what made the rows: a checkpoint is taken up by its own training alone."""

    @property
    def network(self) -> nn.ModuleList:
        """All that may be trained."""
        return nn.ModuleList([self.adaptors] + ([self.backbones] if self.backbones else []))


@dataclass(frozen=True)
class Trained:
    """Trained adaptors and how they came about."""

    adaptors: Adaptors
    history: list[Step]
    """One entry a step: loss terms, learning rate, gradient norm and collapse monitors."""
    notes: tuple[str, ...] = ()
    """What was done otherwise than the config says, and why."""


@dataclass(frozen=True)
class Epoch:
    """How much all training scans give together."""

    patches: int
    rows: dict[Modality, int]
    """Fewer than patches where patches share one."""


class TrainingStopped(InputError):
    """A training that collapsed or whose loss is no number; `trained` is its last good state."""

    def __init__(self, reason: str, trained: Trained) -> None:
        super().__init__(reason)
        self.trained = trained


@dataclass
class State:
    """All that changes from step to step."""

    banks: FeatureQueues
    optimiser: torch.optim.Optimizer
    step: int = 0
    history: list[Step] = field(default_factory=list)


def train_adaptors(
    train: list[PatchFeatures], config: Config, seed: int, checkpoint: Path | None = None
) -> Trained:
    """Adaptors trained on the features of the good scans of one category.

    Raises InputError where the scans cannot serve the losses asked for, TrainingStopped where the
    training collapses.
    """
    adaptors = new_adaptors(train, config.adaptor, seed)
    rows = [scan_rows(features, config.adaptor) for features in train]
    key = config_hash(
        config.preprocess, config.projection, config.image_encoder, config.point_encoder
    )
    names = tuple(features.name for features in train)
    task = Task(adaptors, rows.__getitem__, names, key=key)
    return fit(task, config.training, seed, checkpoint)


def fit(task: Task, config: TrainingConfig, seed: int, checkpoint: Path | None = None) -> Trained:
    """Runs the steps of `config`; with a `checkpoint` file it goes on from there and writes there.

    A checkpoint of another task, config or seed is replaced.
    """
    config, epoch, notes = fitted_config(task, config, seed)
    for note in notes:
        _log.warning(note)
    key = config_hash(config, task.adaptors.config, list(task.names), task.key, seed)
    state = _start(task, config, epoch)
    if not (checkpoint and _resume(checkpoint, key, task, state)):
        _fill(task, state.banks, config, seed)
    for step in progress(range(state.step, config.steps), "training"):
        reason, entry = _update(task, state, config, seed)
        if not reason:
            state.history.append(entry)
            reason = collapse(state.history)
        if reason:
            task.network.requires_grad_(False)
            raise TrainingStopped(
                f"training stopped at step {step + 1} of {config.steps}: {reason}",
                Trained(task.adaptors, state.history, notes),
            )
        state.step = step + 1
        if checkpoint and config.checkpoint_every and state.step % config.checkpoint_every == 0:
            _write_checkpoint(checkpoint, key, task, state)
    task.network.requires_grad_(False)
    return Trained(task.adaptors, state.history, notes)


def fitted_config(
    task: Task, config: TrainingConfig, seed: int
) -> tuple[TrainingConfig, Epoch, tuple[str, ...]]:
    """`config` with the numbers that follow from the scans, what these give, what gave way to them.

    Raises InputError for losses these scans cannot serve.
    """
    config, notes = fitted_schedule(task, config)
    epoch = _epoch(task, config, seed)
    patches, instances = epoch.patches, len(task.names) * config.instances
    local = config.local_bank or config.bank_batches * config.batch * patches // len(task.names)
    whole = config.global_bank
    if not config.exclude_same_scan and local > patches // 2:
        notes += (
            f"local bank of {patches // 2} patches instead of {local}: one longer than an epoch of "
            f"{patches} holds each patch's own old copy, and LC would train on nothing",
        )
        local = patches // 2
    if not config.exclude_same_scan and whole > instances // 2:
        notes += (
            f"global bank of {instances // 2} instead of {whole}, so that it holds "
            "less than an epoch",
        )
        whole = max(1, instances // 2)
    return replace(config, local_bank=local, global_bank=whole), epoch, notes


def fitted_schedule(task: Task, config: TrainingConfig) -> tuple[TrainingConfig, tuple[str, ...]]:
    """`config` with the batch and steps that follow from the scans, and what gave way to them.

    Raises InputError for losses these scans cannot serve.
    """
    _require_trainable(task, config)
    scans = len(task.names)
    notes: tuple[str, ...] = ()
    if scans < config.batch:
        notes = (f"batch of {scans} instead of {config.batch}: there are no more scans",)
        config = replace(config, batch=scans)
    if not 1 <= config.accumulate <= config.batch:
        raise InputError(
            f"training.accumulate is {config.accumulate}, wanted 1 to {config.batch}, the batch"
        )
    if config.epochs:
        config = replace(config, steps=config.epochs * (scans // config.batch))
    return config, notes


@torch.no_grad()
def _epoch(task: Task, config: TrainingConfig, seed: int) -> Epoch:
    """What step 0 would draw from all scans; every step draws as many patches of each."""
    patches, rows = 0, dict.fromkeys(MODALITIES, 0)
    for scan in range(len(task.names)):
        drawn = drawn_rows(task, scan, config, seed, 0)
        patches += len(drawn["3d"].index)
        for m in MODALITIES:
            rows[m] += len(drawn[m].rows)
    return Epoch(patches, rows)


def require_scans(scans: int, weights: LossWeights) -> None:
    """Raises InputError where so few training scans cannot serve the losses."""
    if scans < 2 and any(asdict(weights).values()) and (weights.lc or weights.gc or not weights.la):
        raise InputError(
            f"{scans} training scan, but LC and GC need rows of other scans and GA tells scans "
            "apart; give at least 2 training scans, or train with --only LA"
        )


def _require_trainable(task: Task, config: TrainingConfig) -> None:
    w = config.weights
    require_scans(len(task.names), w)
    if not any(asdict(w).values()):
        raise InputError("training.weights are all 0: nothing is to be trained")
    learns_rows = task.adaptors.config.structure != "none" or task.backbones is not None
    if not learns_rows and not (w.la or w.ga):
        raise InputError(
            "adaptor.structure none trains the projection heads alone, which LC and GC do not "
            "reach; train with --only CLC"
        )


def drawn_rows(
    task: Task, scan: int, config: TrainingConfig, seed: int, step: int
) -> dict[Modality, ScanRows]:
    """Rows of a random `patches_per_scan` of the scan's valid patches, the same for both."""
    rows = task.source(scan)
    patches = len(rows["3d"].index)
    if not 0 < config.patches_per_scan < patches:
        return rows
    order = torch.randperm(patches, generator=generator_of(seed, step, scan))
    chosen = order[: config.patches_per_scan].sort().values
    return {m: sampled(s, chosen.to(s.index.device)) for m, s in rows.items()}


def _start(task: Task, config: TrainingConfig, epoch: Epoch) -> State:
    """Empty banks and a new optimiser."""
    # Rows a patch: image tokens that four patches share take one place in the bank.
    local = {m: max(1, config.local_bank * epoch.rows[m] // epoch.patches) for m in MODALITIES}
    banks = FeatureQueues(task.adaptors.dims, local, config.global_bank)
    parameters = [p for p in task.network.parameters() if p.requires_grad]
    return State(
        banks.to(next(task.adaptors.parameters())),
        torch.optim.AdamW(
            parameters, config.learning_rate, config.betas, weight_decay=config.weight_decay
        ),
    )


@torch.no_grad()
def _fill(task: Task, banks: FeatureQueues, config: TrainingConfig, seed: int) -> None:
    """Passes without gradient until the banks are full or every scan is in.

    The scans of the first epoch from its end: as if they had been seen just before, and none that
    is about to be queried is in while others are left.
    """
    for scan in reversed(epoch_order(0, len(task.names), seed)):
        rows = drawn_rows(task, scan, config, seed, -1)
        banks.enqueue(adapted_scan(task.adaptors, scan, rows, config.instances, seed))
        if banks.full:
            return


def _update(task: Task, state: State, config: TrainingConfig, seed: int) -> tuple[str, Step]:
    """One update of the weights, or the reason why it was not made."""
    rate = learning_rate(state.step, config)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    # Once a batch: before every part of one, as in the public code, accumulation would do nothing.
    state.optimiser.zero_grad(set_to_none=True)
    scans = batch_scans(state.step, len(task.names), config.batch, seed)
    size = -(-len(scans) // config.accumulate)
    batch: list[AdaptedScan] = []
    entry: Step = {}
    for first in range(0, len(scans), size):
        part = scans[first : first + size]
        found, values = _backward(task, state, config, seed, part, len(part) / len(scans))
        batch += found
        for name, value in values.items():
            entry[name] = entry.get(name, 0.0) + value * len(part) / len(scans)
    parameters = state.optimiser.param_groups[0]["params"]
    norm = float(nn.utils.clip_grad_norm_(parameters, config.clip_norm or math.inf))
    if not math.isfinite(entry["loss"] + norm):
        return (
            f"the loss is {entry['loss']} and the gradient's norm {norm}; lower "
            "training.learning_rate, set training.clip_norm, or look for NaN in the features"
        ), entry
    state.optimiser.step()
    if task.after_step:
        task.after_step(state.step + 1)
    # Only now: before, a query would find itself.
    for scan in batch:
        state.banks.enqueue(scan)
    return "", {**entry, "learning_rate": rate, "gradient_norm": norm, **spread_monitors(batch)}


def _backward(
    task: Task, state: State, config: TrainingConfig, seed: int, scans: list[int], share: float
) -> tuple[list[AdaptedScan], Step]:
    """Adds the gradient of a part of a batch; its adapted scans and the values of its terms."""
    w = config.weights
    if state.step < config.compactness_from:
        w = replace(w, lc=0.0, gc=0.0)
    device: str = state.banks.local["3d"].rows.device.type
    low = config.mixed_precision and device != "cpu"
    with torch.autocast(device, torch.bfloat16, enabled=low):
        part = [
            adapted_scan(
                task.adaptors,
                scan,
                drawn_rows(task, scan, config, seed, state.step),
                config.instances,
                seed,
            )
            for scan in scans
        ]
        terms: dict[str, Tensor] = {}
        values: Step = {}
        if w.la or w.ga:
            terms, values = alignment_terms(part, task.adaptors, config)
        if w.lc or w.gc:
            compact, distances = compactness_terms(part, state.banks, config)
            terms, values = {**terms, **compact}, {**values, **distances}
    loss = total(terms, w)
    torch.autograd.backward(share * loss)
    values |= {name: float(term.detach()) for name, term in terms.items()}
    return part, {"loss": float(loss.detach()), **values}


def total(terms: dict[str, Float[Tensor, ""]], weights: LossWeights) -> Float[Tensor, ""]:
    """The weighted sum of the terms; one of weight 0 adds nothing, not even 0 times infinity."""
    used = {name: getattr(weights, name.lower()) for name in terms}
    return torch.stack([used[name] * term for name, term in terms.items() if used[name]]).sum()


def _write_checkpoint(path: Path, key: str, task: Task, state: State) -> None:
    content = {
        "key": key,
        "network": task.network.state_dict(),
        "banks": state.banks.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "step": state.step,
        "history": state.history,
    }
    with atomic_write(path) as file:
        torch.save(content, file)


def _resume(path: Path, key: str, task: Task, state: State) -> bool:
    """Takes up the checkpoint in `path`; False where there is none of this training."""
    if not path.exists():
        return False
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(
            f"{path} is not a readable checkpoint ({error}); delete it, training starts anew"
        ) from error
    if content.get("key") != key:
        _log.warning("%s is of another training; this one starts anew", path.name)
        return False
    task.network.load_state_dict(content["network"])
    state.banks.load_state_dict(content["banks"])
    state.optimiser.load_state_dict(content["optimiser"])
    state.step, state.history = content["step"], content["history"]
    return True
