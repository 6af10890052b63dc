"""Which weights of a backbone are trained: its last blocks, all, or low-rank additions (peft)."""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsfa_lib.config import Config, FinetuneConfig
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.extract import ENCODERS
from lsfa_lib.records import Modality
from lsfa_lib.storage.files import InputError

LOW_RANK = ("lora", "adalora")
Tuner = Any
"""peft's LoraModel or AdaLoraModel around a backbone."""


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
    if how.method in LOW_RANK:
        targets = low_rank_targets(backbone, blocks, how.method)
        if not targets:
            raise InputError(
                f"{model} has no layers for {how.method}, which applies to linear layers "
                "(lora also to 1 x 1 convolutions); choose another method"
            )
        with seeded(seed):
            return add_low_rank(backbone, targets, how, steps)
    if not 1 <= how.blocks <= len(blocks):
        raise InputError(
            f"finetune.blocks is {how.blocks}, expected 1 to {len(blocks)}, the blocks of {model} "
            "that its features pass through"
        )
    for block in blocks[-how.blocks :]:
        block.requires_grad_(True)
    return None


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


def close_unused(backbone: nn.Module, tokens: Float[Tensor, "T D"]) -> None:
    """Freezes again what the tokens do not depend on: a classifier, later stages."""
    opened = [p for p in backbone.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(tokens.sum(), opened, allow_unused=True)
    for parameter, gradient in zip(opened, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def trained_weights(backbone: nn.Module) -> int:
    """How many numbers of the backbone are to be trained."""
    return sum(p.numel() for p in backbone.parameters() if p.requires_grad)


def low_rank_targets(backbone: nn.Module, blocks: list[nn.Module], method: str) -> list[str]:
    """Names of the layers in `blocks` that get additions.

    Linear maps: query, key, value, output and MLP of a transformer block. With `lora` 1 x 1
    convolutions too, the linear maps of convolutional models.
    """
    inside = {id(module) for block in blocks for module in block.modules()}

    def fits(layer: nn.Module) -> bool:
        if isinstance(layer, nn.Conv2d) and method == "lora":
            return layer.kernel_size == (1, 1) and layer.groups == 1
        return isinstance(layer, nn.Linear)

    return [n for n, layer in backbone.named_modules() if id(layer) in inside and fits(layer)]


def add_low_rank(
    backbone: nn.Module, targets: list[str], config: FinetuneConfig, steps: int
) -> Tuner:
    """The backbone with additions to the layers `targets`, which are 0 at first.

    LoRA: W + alpha/r B A, with A from torch's global generator and B = 0. AdaLoRA:
    W + alpha/r P diag(E) Q, with P and Q from the generator and E = 0; it trains with all its
    ranks, 3/2 of `rank`, for a tenth of the `steps`, drops the least important ones, and trains
    the remaining ones for the last third.
    """
    peft: Any = import_module("peft")  # here, since it takes seconds
    common = {"lora_alpha": config.alpha, "target_modules": targets}
    if config.method == "lora":
        return peft.LoraModel(backbone, peft.LoraConfig(r=config.rank, **common), "default")
    adalora = peft.AdaLoraConfig(
        target_r=config.rank,
        init_r=math.ceil(1.5 * config.rank),
        total_step=steps,
        tinit=steps // 10,
        tfinal=steps // 3,
        **common,
    )
    return peft.AdaLoraModel(backbone, adalora, "default")


def allocate(tuners: dict[Modality, Tuner], steps: int) -> None:
    """Lets AdaLoRA drop the least important ranks, after `steps` steps."""
    for tuner in tuners.values():
        tuner.update_and_allocate(steps)


def regularise(tuners: dict[Modality, Tuner], parts: int) -> None:
    """Adds AdaLoRA's orthogonality term to the gradients, once per batch of `parts` parts.

    peft adds that term to a loss which its model returns; the losses here come from elsewhere.
    """
    for tuner in tuners.values():
        named = [(n, p) for n, p in tuner.model.named_parameters() if p.requires_grad]
        factors = [(n, p) for n, p in named if "lora_A" in n or "lora_B" in n]
        share = tuner.peft_config["default"].orth_reg_weight / len(factors) / parts
        for name, factor in factors:
            factor.register_hook(partial(_pulled, factor, "lora_B" in name, share))


def _pulled(factor: Tensor, columns: bool, share: float, gradient: Tensor) -> Tensor:
    return gradient + share * orthogonality_gradient(factor.detach(), columns)


def orthogonality_gradient(factor: Float[Tensor, "a b"], columns: bool) -> Float[Tensor, "a b"]:
    """Gradient of || Q Q^T - I ||_F, or of || P^T P - I ||_F for the `columns`.

    AdaLoRA's paper squares the norms; peft does not, and its weight is for norms not squared.
    """
    rows = factor.T if columns else factor
    off = rows @ rows.T - torch.eye(len(rows), device=rows.device, dtype=rows.dtype)
    pull = 2 * off @ rows / off.norm().clamp_min(1e-12)
    return pull.T if columns else pull


def merged(backbone: nn.Module, tuner: Tuner | None) -> nn.Module:
    """The backbone with its additions added to its weights, frozen: same layers as before."""
    if tuner is not None:
        backbone = tuner.merge_and_unload()
    return backbone.requires_grad_(False)
