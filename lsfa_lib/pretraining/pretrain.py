"""`lsfa pretrain-points`: a small Point-MAE from the endless stream of shapes, stopped at will.

Every shape, mask and rotation follows from the seed and its number alone, so a training that was
stopped goes on with the same numbers as one that was not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
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
from lsfa_lib.pretraining.masked import GroupedCloud, MaskedPointMAE, draw_hidden
from lsfa_lib.pretraining.shapes import shape
from lsfa_lib.storage.files import InputError, atomic_write, progress

_log = logging.getLogger(__name__)
CHECKPOINT_EVERY = 250


@dataclass(frozen=True)
class PretrainConfig:
    """Everything the weights follow from."""

    steps: int = 10_000
    batch: int = 16
    groups: int = 64
    group_size: int = 32
    hidden_share: float = 0.6
    """Of the groups, as published."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    """Share of the steps the rate rises for, before it falls to 0 along a half-cosine."""
    clip: float = 10.0
    """Largest norm of the gradient."""
    decoder_depth: int = 2
    norm: Literal["unit_sphere", "group_radius"] = "group_radius"
    """How clouds are placed and scaled (`PointMAE`); `unit_sphere` as published."""
    seed: int = 0


@dataclass
class Pretraining:
    """A training at a step."""

    model: MaskedPointMAE
    optimiser: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Clouds(Dataset[tuple[Tensor, Tensor]]):
    """Shape i, grouped as the model wants it: centres (G, 3) and neighbourhoods (G, K, 3)."""

    config: PretrainConfig

    def __len__(self) -> int:
        return self.config.steps * self.config.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        config = self.config
        points = torch.from_numpy(shape(config.seed, index).points) / 1000
        rng = np.random.default_rng((config.seed, index, 1))
        # The camera may stand any way up, and sampling may start anywhere.
        points = points.roll(int(rng.integers(len(points))), 0) @ _turned(rng.uniform(0, 2 * np.pi))
        placed, chosen, neighbourhoods = placed_groups(
            points, config.groups, config.group_size, config.norm
        )
        return placed[chosen], neighbourhoods


def pretrain(config: PretrainConfig, checkpoint: Path, workers: int = 1) -> Pretraining:
    """Trains to `config.steps`, from `checkpoint` on where there is one, which is kept up to date.

    Raises InputError where the checkpoint is of another config or damaged, and where the loss is
    no number.
    """
    state = _resumed(config, checkpoint)
    first = state.step
    model = state.model.train()
    for clouds in progress(_batches(config, first, workers), "pretraining", config.steps - first):
        generator = generator_of(config.seed, state.step)
        hidden = draw_hidden(config.batch, config.groups, config.hidden_share, generator)
        rate = warmed_cosine(state.step, config.steps, config.warmup) * config.learning_rate
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        loss = model.loss(clouds, hidden)
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
        state.step += 1
        if state.step % CHECKPOINT_EVERY == 0 or state.step == config.steps:
            _log.info("step %d: loss %.4f", state.step, np.mean(state.losses[-CHECKPOINT_EVERY:]))
            _keep(state, config, checkpoint)
    return state


def export(state: Pretraining, config: PretrainConfig, path: Path) -> None:
    """The encoder in half precision, with what it was trained by, as .safetensors."""
    encoder = {
        name: tensor
        for name, tensor in state.model.MAE_encoder.state_dict().items()
        if name.split(".")[0] in POINT_MAE_PARTS
    }
    half = {k: t.half() if t.is_floating_point() else t for k, t in encoder.items()}
    about = {
        "config": asdict(config),
        "architecture": asdict(SMALL),
        "steps": state.step,
        "losses": _thinned(state.losses),
    }
    with atomic_write(path) as file:
        file.write_bytes(safetensors_bytes(half, metadata={"about": json.dumps(about)}))


def _thinned(losses: list[float], parts: int = 100) -> list[float]:
    """Means over equal stretches of the training."""
    stretches = np.array_split(losses, min(parts, len(losses)))
    return [round(float(stretch.mean()), 5) for stretch in stretches]


def _batches(config: PretrainConfig, first: int, workers: int) -> Iterator[GroupedCloud]:
    remaining = range(first * config.batch, config.steps * config.batch)
    loader: DataLoader[Any] = DataLoader(
        Clouds(config), config.batch, sampler=remaining, num_workers=workers
    )
    for centres, neighbourhoods in loader:
        yield GroupedCloud(centres, neighbourhoods)


def _fresh(config: PretrainConfig) -> Pretraining:
    with seeded(config.seed):
        encoder = PointMAE(config.groups, config.group_size, config.norm, SMALL)
        model = MaskedPointMAE(encoder, config.decoder_depth)
    # Biases, norms and the mask token are not decayed.
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return Pretraining(model, torch.optim.AdamW(groups, lr=config.learning_rate))


def _resumed(config: PretrainConfig, checkpoint: Path) -> Pretraining:
    state = _fresh(config)
    if not checkpoint.exists():
        return state
    try:
        kept = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if kept["config"] != config_hash(config):
            raise InputError(
                f"{checkpoint}: belongs to a training with other settings; give another --out, or "
                "delete it to start again"
            )
        state.model.load_state_dict(kept["model"])
        state.optimiser.load_state_dict(kept["optimiser"])
        state.step, state.losses = kept["step"], kept["losses"]
    except InputError:
        raise
    except Exception as error:  # what a cut or foreign file raises is torch's own affair
        raise InputError(
            f"{checkpoint}: is no checkpoint of a pretraining, or is damaged; delete it to start "
            "again"
        ) from error
    return state


def _keep(state: Pretraining, config: PretrainConfig, checkpoint: Path) -> None:
    kept = {
        "config": config_hash(config),
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "step": state.step,
        "losses": state.losses,
    }
    with atomic_write(checkpoint) as path:
        torch.save(kept, path)


def _turned(angle: float) -> Tensor:
    """A rotation about the camera's axis."""
    c, s = np.cos(angle), np.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float32)
