"""`lsfa pretrain-points`: trains a small Point-MAE on the endless stream of shapes; can be resumed.

Every shape, mask and rotation depends on the seed and its number alone, so a resumed training has
the same result as an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lsfa_lib.adaptation.schedule import generator_of, warmed_cosine
from lsfa_lib.config import config_hash
from lsfa_lib.features.checkpoints import POINT_MAE_PARTS, seeded
from lsfa_lib.features.point_mae import SMALL, PointMAE, placed_groups
from lsfa_lib.pretraining.masked import GroupedCloud, MaskedPointMAE, random_mask
from lsfa_lib.pretraining.shapes import shape
from lsfa_lib.storage.files import InputError, atomic_write, progress

_log = logging.getLogger(__name__)
CHECKPOINT_EVERY = 250


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that determines the weights."""

    steps: int = 10_000
    batch: int = 16
    groups: int = 64
    group_size: int = 32
    hidden_share: float = 0.6
    """Of the groups, as published."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    """Share of the steps in which the rate rises, before it falls to 0 along a half-cosine."""
    clip: float = 10.0
    """Largest norm of the gradient."""
    decoder_depth: int = 2
    norm: Literal["unit_sphere", "group_radius"] = "group_radius"
    """How clouds are placed and scaled (`PointMAE`); `unit_sphere` as published."""
    seed: int = 0


@dataclass
class Pretraining:
    """The state of a training."""

    model: MaskedPointMAE
    optimiser: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    """Of each step so far."""

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return len(self.losses)


@dataclass(frozen=True)
class Clouds(Dataset[GroupedCloud]):
    """Shape i, divided into groups: centres (G, 3) and neighbourhoods (G, K, 3)."""

    config: PretrainConfig

    def __len__(self) -> int:
        return self.config.steps * self.config.batch

    def __getitem__(self, index: int) -> GroupedCloud:
        config = self.config
        points = torch.from_numpy(shape(config.seed, index).points) / 1000
        rng = np.random.default_rng((config.seed, index, 1))
        # The camera may be rotated about its axis, and sampling may start at any point.
        points = points.roll(int(rng.integers(len(points))), 0) @ _turned(rng.uniform(0, 2 * np.pi))
        placed, chosen, neighbourhoods = placed_groups(
            points, config.groups, config.group_size, config.norm
        )
        return GroupedCloud(placed[chosen], neighbourhoods)


def pretrain(config: PretrainConfig, checkpoint: Path, workers: int = 1) -> Pretraining:
    """Trains to `config.steps`, resuming from `checkpoint` if it exists, and keeps it up to date.

    Raises InputError if the checkpoint is damaged or of another config, and if the loss is not
    finite.
    """
    state = _resumed(config, checkpoint)
    model, first = state.model.train(), state.step
    for cloud in progress(_batches(config, first, workers), "pretraining", config.steps - first):
        rng = generator_of(config.seed, state.step)
        hidden = random_mask(config.batch, config.groups, config.hidden_share, rng)
        rate = warmed_cosine(state.step, config.steps, config.warmup) * config.learning_rate
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        loss = model.loss(cloud, hidden)
        if not torch.isfinite(loss):
            raise InputError(
                f"{checkpoint}: the loss of step {state.step} is {loss.item()}; start again with a "
                "lower learning rate"
            )
        state.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        state.optimiser.step()
        state.losses.append(loss.item())
        if state.step % CHECKPOINT_EVERY == 0 or state.step == config.steps:
            _log.info("step %d: loss %.4f", state.step, np.mean(state.losses[-CHECKPOINT_EVERY:]))
            _save(state, config, checkpoint)
    return state


def _batches(config: PretrainConfig, first: int, workers: int) -> Iterable[GroupedCloud]:
    remaining = range(first * config.batch, config.steps * config.batch)
    return DataLoader(Clouds(config), config.batch, sampler=remaining, num_workers=workers)


def export(state: Pretraining, config: PretrainConfig, path: Path) -> None:
    """The encoder in half precision and a record of its training, as .safetensors.

    The loss curve is recorded as means over up to 100 equal parts of the training.
    """
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in state.model.MAE_encoder.state_dict().items()
        if name.split(".")[0] in POINT_MAE_PARTS
    }
    parts = np.array_split(state.losses, min(100, state.step))
    about = {
        "config": asdict(config),
        "architecture": asdict(SMALL),
        "steps": state.step,
        "losses": [round(float(part.mean()), 5) for part in parts],
    }
    with atomic_write(path) as file:
        file.write_bytes(safetensors_bytes(half, metadata={"about": json.dumps(about)}))


def _fresh(config: PretrainConfig) -> Pretraining:
    with seeded(config.seed):
        encoder = PointMAE(config.groups, config.group_size, config.norm, SMALL)
        model = MaskedPointMAE(encoder, config.decoder_depth)
    # Biases, norms and the mask token are not decayed.
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)
    return Pretraining(model, optimiser)


def _resumed(config: PretrainConfig, checkpoint: Path) -> Pretraining:
    state = _fresh(config)
    if not checkpoint.exists():
        return state
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        same = stored["config"] == config_hash(config)
        if same:
            state.model.load_state_dict(stored["model"])
            state.optimiser.load_state_dict(stored["optimiser"])
            state.losses = stored["losses"]
    except Exception as error:  # a truncated or foreign file makes torch raise nearly anything
        raise InputError(
            f"{checkpoint}: is no checkpoint of a pretraining, or is damaged; delete it to start "
            "again"
        ) from error
    if not same:
        raise InputError(
            f"{checkpoint}: belongs to a training with other settings; give another --out, or "
            "delete it to start again"
        )
    return state


def _save(state: Pretraining, config: PretrainConfig, checkpoint: Path) -> None:
    stored = {
        "config": config_hash(config),
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "losses": state.losses,
    }
    with atomic_write(checkpoint) as path:
        torch.save(stored, path)


def _turned(angle: float) -> Tensor:
    """A rotation about the camera's axis."""
    c, s = np.cos(angle), np.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float32)
