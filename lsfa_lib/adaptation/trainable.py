"""Which weights of a backbone are trained: its last blocks, all of them, or low-rank additions."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsfa_lib.adaptation.low_rank import Tuner, add_low_rank, low_rank_targets
from lsfa_lib.config import Config
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.extract import ENCODERS
from lsfa_lib.records import Modality
from lsfa_lib.storage.files import InputError


def blocks_of(backbone: Any, m: Modality, config: Config) -> list[nn.Module]:
    """The blocks the features pass through, in their order.

    Transformer blocks; of a convolutional model its stages of equal resolution (entries of
    `blocks` where it has them), up to the last one asked for.
    """
    if m == "3d":
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
    backbone: nn.Module, m: Modality, config: Config, steps: int, seed: int
) -> Tuner | None:
    """Makes the weights of `config.finetune` trainable; returns peft's tuner for additions.

    Raises InputError where the backbone does not have them.
    """
    how, blocks = config.finetune, blocks_of(backbone, m, config)
    model = getattr(config, ENCODERS[m].stage).model
    if how.method == "whole":
        backbone.requires_grad_(True)
        return None
    if how.method == "last_blocks":
        if not 1 <= how.blocks <= len(blocks):
            raise InputError(
                f"finetune.blocks is {how.blocks}, wanted 1 to {len(blocks)}, the blocks of "
                f"{model} that its features pass through"
            )
        for block in blocks[-how.blocks :]:
            block.requires_grad_(True)
        return None
    targets = low_rank_targets(backbone, blocks, how.method)
    if not targets:
        raise InputError(
            f"{model} has no layers for {how.method}, which adds to linear maps and, lora alone, "
            "to 1 x 1 convolutions; choose another method"
        )
    with seeded(seed):
        return add_low_rank(backbone, targets, how, steps)


def close_unused(backbone: nn.Module, tokens: Float[Tensor, "T D"]) -> None:
    """Freezes again what the tokens do not depend on: a classifier, later stages."""
    opened = [p for p in backbone.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(tokens.sum(), opened, allow_unused=True)
    for parameter, gradient in zip(opened, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def trained_weights(backbone: nn.Module) -> int:
    """How many numbers of the backbone are to be trained."""
    return sum(p.numel() for p in backbone.parameters() if p.requires_grad)
