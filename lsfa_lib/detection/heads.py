"""Heads: small networks that tell patches of pseudo-defects from normal ones, one per modality.

Further evidence beside the distance to the bank. Trained by `head_training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsfa_lib.detection.memory import Bank, Searched
from lsfa_lib.features.extract import distinct_rows
from lsfa_lib.records import Modality, PatchFeatures

WIDTH, DROPOUT = 128, 0.2


@dataclass(frozen=True)
class Inputs:
    """What a head sees of a patch: [A x, A_r (x - b), (||x - b|| - mean) / std].

    x: the row in the space of the bank; b: its nearest bank row.
    """

    scale: Float[Tensor, " D"]
    """A; see `partial_whitening`."""
    residual_scale: Float[Tensor, " D"]
    """A_r."""
    mean: float
    std: float

    def __call__(
        self, rows: Float[Tensor, "N D"], nearest: Float[Tensor, "N D"]
    ) -> Float[Tensor, "N I"]:
        """The I = 2 D + 1 inputs of N patches."""
        residual = rows - nearest
        distance = (torch.linalg.vector_norm(residual, dim=1) - self.mean) / self.std
        return torch.cat(
            (rows * self.scale, residual * self.residual_scale, distance[:, None]), dim=1
        )


@dataclass(frozen=True)
class Head:
    """The network of one modality, and the scale of what it says."""

    network: nn.Module
    inputs: Inputs
    level: float = 0.0
    """Logit below which a patch is background."""
    spread: float = 1.0
    """Standard deviation on validation/good of what exceeds the level."""

    @torch.inference_mode()
    def logits(
        self, rows: Float[Tensor, "N D"], nearest: Float[Tensor, "N D"]
    ) -> Float[Tensor, " N"]:
        """Log-odds of a defect, for rows in the space of the bank and their nearest bank rows."""
        return self.network(self.inputs(rows, nearest))[:, 0]

    def scores(
        self, rows: Float[Tensor, "N D"], nearest: Float[Tensor, "N D"]
    ) -> Float[Tensor, " N"]:
        """max(logit - level, 0) / spread.

        Without the cut most of the map would be the spread of very negative logits, which says
        nothing about defects: differences between good patches would fill the range of the map and
        AUPRO would collapse.
        """
        return (self.logits(rows, nearest) - self.level).clamp_min(0) / self.spread


def head_scores(
    heads: Mapping[Modality, Head],
    banks: Mapping[Modality, Bank],
    found: Mapping[Modality, Searched],
    features: PatchFeatures,
) -> Float[Tensor, " P"]:
    """Sum over the modalities of their heads' scores of each patch, 0 where it has no features.

    `found` is the search of the banks for these adapted features.
    """
    total = torch.zeros(len(features.valid), device=features.valid.device)
    for m, head in heads.items():
        held = found[m].nearest >= 0
        total[held] += head.scores(*compared(banks[m], m, found[m], features))
    return total


def new_network(inputs: int) -> nn.Sequential:
    """Untrained: inputs -> 128 -> 128 -> 1 logit."""
    return nn.Sequential(
        nn.Linear(inputs, WIDTH),
        nn.LayerNorm(WIDTH),
        nn.GELU(),
        nn.Dropout(DROPOUT),
        nn.Linear(WIDTH, WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, 1),
    )


def head_tensors(head: Head) -> dict[str, Tensor]:
    """The tensors of a head, by name."""
    weights = {f"network.{name}": t for name, t in head.network.state_dict().items()}
    return {"scale": head.inputs.scale, "residual_scale": head.inputs.residual_scale, **weights}


def head_numbers(head: Head) -> dict[str, float]:
    """The numbers of a head, by name."""
    return {
        "mean": head.inputs.mean,
        "std": head.inputs.std,
        "level": head.level,
        "spread": head.spread,
    }


def restored_head(tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> Head:
    """The head of these tensors and numbers, on the device of the tensors."""
    scale = tensors["scale"]
    network = new_network(2 * len(scale) + 1)
    prefix = "network."
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    network.load_state_dict(weights)
    network.eval().requires_grad_(False).to(scale.device)
    inputs = Inputs(scale, tensors["residual_scale"], numbers["mean"], numbers["std"])
    return Head(network, inputs, numbers["level"], numbers["spread"])


def compared(
    bank: Bank, m: Modality, found: Searched, features: PatchFeatures
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    """The rows of a scan's patches in the space of the bank, and their nearest bank rows."""
    rows, index = distinct_rows(features, m)
    held = found.nearest >= 0
    return bank.standardised(rows[index[held]]), bank.rows[found.nearest[held]]
