"""Low-rank additions to the linear maps of a backbone, LoRA and AdaLoRA, through peft."""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsfa_lib.records import Modality

LowRank = Literal["lora", "adalora"]
LOW_RANK = ("lora", "adalora")
Tuner = Any
"""peft's LoraModel or AdaLoraModel around a backbone."""


def low_rank_targets(backbone: nn.Module, blocks: list[nn.Module], method: LowRank) -> list[str]:
    """Names of the layers in `blocks` that get additions.

    Linear maps: query, key, value, output and MLP of a transformer block. With LoRA 1 x 1
    convolutions too, the linear maps of convolutional models.
    """
    inside = {id(module) for block in blocks for module in block.modules()}

    def fits(layer: nn.Module) -> bool:
        if isinstance(layer, nn.Conv2d) and method == "lora":
            return layer.kernel_size == (1, 1) and layer.groups == 1
        return isinstance(layer, nn.Linear)

    return [n for n, layer in backbone.named_modules() if id(layer) in inside and fits(layer)]


def add_lora(backbone: nn.Module, targets: list[str], rank: int, alpha: int) -> Tuner:
    """W + alpha/r B A: A from torch's global generator, B = 0 at first."""
    peft: Any = import_module("peft")  # here, since it takes seconds
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
    return peft.LoraModel(backbone, config, "default")


def add_adalora(
    backbone: nn.Module, targets: list[str], rank: int, alpha: int, steps: int
) -> Tuner:
    """W + alpha/r P diag(E) Q: P and Q from torch's global generator, E = 0 at first.

    It trains with all its ranks, 3/2 of `rank`, for a tenth of the steps, with those that are left
    for the last third, and lets go of the least important ones in between.
    """
    peft: Any = import_module("peft")  # here, since it takes seconds
    config = peft.AdaLoraConfig(
        target_r=rank,
        init_r=math.ceil(1.5 * rank),
        lora_alpha=alpha,
        target_modules=targets,
        total_step=steps,
        tinit=steps // 10,
        tfinal=steps // 3,
    )
    return peft.AdaLoraModel(backbone, config, "default")


def allocate(tuners: dict[Modality, Tuner], steps: int) -> None:
    """Lets AdaLoRA drop the least important ranks, after `steps` steps."""
    for tuner in tuners.values():
        tuner.update_and_allocate(steps)


def regularise(tuners: dict[Modality, Tuner], parts: int) -> None:
    """Adds AdaLoRA's pull to orthogonal factors to their gradients, once a batch of `parts` parts.

    peft adds it to a loss it is shown, and the losses here are not made by the backbone.
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

    AdaLoRA's paper squares the norms; peft does not, and its weight is for norms as they are.
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
