"""Training the backbones themselves with the losses of the adaptors (LSFA, Tables 8 and 9).

The last blocks, the whole backbone, or low-rank additions to its linear maps (LoRA, AdaLoRA). No
adaptor stands after them; the projection heads are trained along.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from lsfa_lib.adaptation.adaptors import ScanRows, new_adaptors, scan_rows
from lsfa_lib.adaptation.low_rank import (
    LOW_RANK,
    LowRank,
    Tuner,
    add_adalora,
    add_lora,
    allocate,
    low_rank_targets,
    merged,
    regularise,
)
from lsfa_lib.adaptation.training import Task, Trained, fit, fitted_schedule
from lsfa_lib.config import Config, FinetuneConfig, config_hash
from lsfa_lib.features.cache import extract
from lsfa_lib.features.checkpoints import load_strictly, read_tensors, seeded
from lsfa_lib.features.extract import Encoders, described_encoders, distinct_rows
from lsfa_lib.records import MODALITIES, Modality, PatchFeatures, Sample
from lsfa_lib.storage.files import InputError, atomic_write, progress


@dataclass(frozen=True)
class Finetuned:
    """Tuned backbones and how they came about."""

    encoders: Encoders
    """With keys of their own; additions are merged, so these are plain encoders."""
    trained: Trained
    """Adaptors of structure `none`: standardisation and heads, for the features of `encoders`."""
    drift: dict[Modality, float]
    """How far the features of the training scans moved, see `drift`."""
    trainable: dict[Modality, int]
    """Trained weights of each backbone, without the heads."""


def finetune(
    samples: list[Sample],
    encoders: Encoders,
    config: Config,
    finetune: FinetuneConfig,
    seed: int,
    checkpoint: Path | None = None,
) -> Finetuned:
    """New backbones, trained on the good scans of one category; `encoders` stays as it is.

    Raises InputError where method, backbones or scans do not fit together, and TrainingStopped,
    with the heads alone, where the training collapses.
    """
    _require_weights(samples, encoders, finetune)
    frozen = [extract(sample, encoders, config) for sample in progress(samples, "frozen features")]
    adaptors = new_adaptors(frozen, replace(config.adaptor, structure="none"), seed)
    backbones = nn.ModuleDict(
        {m: copy.deepcopy(backbone_of(encoders, m)) for m in finetune.modalities}
    )
    source = partial(_rows, samples, frozen, backbones, config, finetune)
    names = tuple(sample.name for sample in samples)
    task = Task(adaptors, source, names, backbones, key=config_hash(finetune, encoders.keys))
    schedule, _ = fitted_schedule(task, config.training)
    tuners = {
        m: open_weights(backbones[m], m, finetune, config, schedule.steps, seed)
        for m in finetune.modalities
    }
    for m in finetune.modalities:
        close_unused(backbones[m], tokens_of(m, backbones[m], samples[0]))
    trainable = {m: trained_weights(backbones[m]) if m in backbones else 0 for m in MODALITIES}
    notes: tuple[str, ...] = ()
    if finetune.method == "adalora":
        regularise(tuners, schedule.accumulate)
        task = replace(task, after_step=partial(allocate, tuners))
        if checkpoint and schedule.checkpoint_every:
            notes = ("no checkpoints: they would not hold the importances AdaLoRA ranks by",)
        checkpoint = None
    trained = fit(task, config.training, seed, checkpoint)
    for m, tuner in tuners.items():
        backbones[m] = merged(backbones[m], tuner)
    tuned = _encoders(encoders, backbones, config, finetune.method)
    after = [extract(sample, tuned, config) for sample in progress(samples, "tuned features")]
    trained = replace(trained, notes=trained.notes + notes)
    return Finetuned(tuned, trained, drift(frozen, after), trainable)


def _require_weights(samples: list[Sample], encoders: Encoders, finetune: FinetuneConfig) -> None:
    if not samples:
        raise InputError("0 training scans were given to finetune; give at least 2")
    if not finetune.modalities:
        raise InputError("finetune.modalities is empty; name rgb, 3d or both")
    if "3d" in finetune.modalities and encoders.points is None:
        raise InputError(
            "FPFH has no weights to train; set finetune.modalities to [rgb], or choose "
            "point_encoder.model point_mae"
        )
    if finetune.method in LOW_RANK and finetune.rank < 1:
        raise InputError(f"finetune.rank is {finetune.rank}, wanted at least 1")


def backbone_of(encoders: Encoders, modality: Modality) -> nn.Module:
    """The backbone of a modality."""
    backbone = encoders.image if modality == "rgb" else encoders.points
    assert backbone is not None
    return backbone


def tokens_of(modality: Modality, backbone: nn.Module, sample: Sample) -> Float[Tensor, "T D"]:
    """The tokens of a sample, with a gradient to the backbone."""
    if modality == "rgb":
        return backbone(sample.rgb[None])[0][0]
    return backbone(sample.xyz[:, sample.valid].T.contiguous())[1]


def _rows(
    samples: list[Sample],
    frozen: list[PatchFeatures],
    backbones: nn.ModuleDict,
    config: Config,
    finetune: FinetuneConfig,
    scan: int,
) -> dict[Modality, ScanRows]:
    """Rows of a training scan as the backbones now see it.

    Only tokens change: where they lie on the grid follows from the scan, as for the frozen ones.
    """
    features = frozen[scan]
    by_modality = dict(features.by_modality)
    for m in finetune.modalities:
        inputs = (m, backbones[m], samples[scan])
        tokens = (
            recomputed(tokens_of, *inputs, use_reentrant=False)
            if finetune.recompute and torch.is_grad_enabled()
            else tokens_of(*inputs)
        )
        by_modality[m] = replace(by_modality[m], tokens=tokens)
    return scan_rows(replace(features, by_modality=by_modality), config.adaptor)


def blocks_of(backbone: Any, modality: Modality, config: Config) -> list[nn.Module]:
    """The blocks the features pass through, in their order.

    Transformer blocks; of a convolutional model its stages of equal resolution (entries of
    `blocks` where it has them), up to the last one asked for.
    """
    if modality == "3d":
        return list(backbone.blocks.blocks[: max(backbone.architecture.taps) + 1])
    model, stages = backbone.backbone, config.image_encoder.stages
    if not stages:
        return list(model.blocks)
    modules = [info["module"] for info in model.feature_info][: max(stages) + 1]
    if modules[-1].startswith("blocks."):
        return list(model.blocks[: int(modules[-1].split(".")[1]) + 1])
    named = [model.get_submodule(name) for name in modules]
    return [module for module in named if next(module.parameters(), None) is not None]


def open_weights(
    backbone: nn.Module,
    modality: Modality,
    finetune: FinetuneConfig,
    config: Config,
    steps: int,
    seed: int,
) -> Tuner | None:
    """Lets the weights of `finetune.method` be trained; peft's tuner where these are additions."""
    blocks = blocks_of(backbone, modality, config)
    if finetune.method == "whole":
        backbone.requires_grad_(True)
    elif finetune.method == "last_blocks":
        if not 1 <= finetune.blocks <= len(blocks):
            raise InputError(
                f"finetune.blocks is {finetune.blocks}, wanted 1 to {len(blocks)}, the blocks of "
                f"{_model(modality, config)} that its features pass through"
            )
        for block in blocks[-finetune.blocks :]:
            block.requires_grad_(True)
    else:
        method: LowRank = "lora" if finetune.method == "lora" else "adalora"
        targets = low_rank_targets(backbone, blocks, method)
        if not targets:
            raise InputError(
                f"{_model(modality, config)} has no layers for {method}, which adds to "
                "linear maps and, lora alone, to 1 x 1 convolutions; choose another method"
            )
        with seeded(seed):
            if method == "lora":
                return add_lora(backbone, targets, finetune.rank, finetune.alpha)
            return add_adalora(backbone, targets, finetune.rank, finetune.alpha, steps)
    return None


def _model(modality: Modality, config: Config) -> str:
    return config.image_encoder.model if modality == "rgb" else config.point_encoder.model


def close_unused(backbone: nn.Module, tokens: Float[Tensor, "T D"]) -> None:
    """Freezes again what the tokens do not depend on: a classifier, later stages."""
    opened = [p for p in backbone.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(tokens.sum(), opened, allow_unused=True)
    for parameter, gradient in zip(opened, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def trained_weights(backbone: nn.Module) -> int:
    """How many numbers of the backbone are to be trained."""
    return sum(p.numel() for p in backbone.parameters() if p.requires_grad)


def drift(before: list[PatchFeatures], after: list[PatchFeatures]) -> dict[Modality, float]:
    """Mean over the valid patches of 1 - cos(before, after) by modality: what was forgotten.

    0 exactly for equal features: computed as half the squared distance of the directions.
    """
    moved: dict[Modality, float] = {}
    for m in MODALITIES:
        each = []
        for old, new in zip(before, after, strict=True):
            a, b = (
                F.normalize(rows, dim=1)[index[f.valid]]
                for f in (old, new)
                for rows, index in [distinct_rows(f, m)]
            )
            each.append((a - b).square().sum(1) / 2)
        moved[m] = float(torch.cat(each).mean())
    return moved


def _encoders(
    encoders: Encoders, backbones: nn.ModuleDict, config: Config, origin: str
) -> Encoders:
    """`encoders` with these backbones instead; `origin` is told of them in results and reports."""
    given: dict[str, Any] = {"rgb": encoders.image, "3d": encoders.points, **backbones}
    found = described_encoders(given["rgb"], given["3d"], config)
    about = {m: dict(found.about[m]) for m in MODALITIES}
    for m in MODALITIES:
        if m in backbones:
            about[m]["finetuned"] = origin
    return replace(found, about=about)


def save_encoders(finetuned: Finetuned, path: Path) -> None:
    """The weights of the tuned backbones, in safetensors; those left frozen are not in it."""
    tensors = {
        f"{m}.{name}": tensor.cpu().contiguous()
        for m in MODALITIES
        if finetuned.trainable[m]
        for name, tensor in backbone_of(finetuned.encoders, m).state_dict().items()
    }
    with atomic_write(path) as file:
        file.write_bytes(safetensors_bytes(tensors))


def load_finetuned(path: Path, encoders: Encoders, config: Config) -> Encoders:
    """`encoders` with the weights `save_encoders` wrote; the features come back bit by bit.

    Raises InputError unless every entry fits the backbones of `encoders`.
    """
    tensors = read_tensors(path)
    backbones = nn.ModuleDict()
    for m in sorted({name.split(".")[0] for name in tensors}):
        if m not in MODALITIES or (m == "3d" and encoders.points is None):
            raise InputError(
                f"{path}: has weights of {m!r}, for which there is no backbone here; "
                "give a file of save_encoders and the config it was trained with"
            )
        backbones[m] = copy.deepcopy(backbone_of(encoders, m))
        own = {n.removeprefix(f"{m}."): t for n, t in tensors.items() if n.startswith(f"{m}.")}
        load_strictly(backbones[m], own, path)
    return _encoders(encoders, backbones, config, path.name)
