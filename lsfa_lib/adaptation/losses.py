"""Alignment and compactness, the losses that adapt features: one equation per function.

A scan holds the *distinct* rows of each modality; patch p of its P valid patches has row
`index[p]`, row r stands for `counts[r]` patches, possibly none. All values are those over the P
patches.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Reduction = Literal["mean", "sum", "mean_squared"]


def local_alignment(
    side_a: tuple[Float[Tensor, "A C"], Int[Tensor, " P"]],
    side_b: tuple[Float[Tensor, "B C"], Int[Tensor, " P"]],
    temperature: float,
    literal: bool = False,
) -> Float[Tensor, ""]:
    """LA of one scan: the projected features of a patch should find each other among all patches.

    A side is one modality: its projected rows, and the row of each patch.

    LA = -1/2P sum_t [log(e^s_tt / sum_k e^s_tk) + log(e^s_tt / sum_k e^s_kt)]
    with s_tk = cos(a_t, b_k) / temperature        (InfoNCE in both directions)

    `literal` is Eq. 2 as printed: s_tk = a_t . b_k and one denominator for all pairs,
    -1/P sum_t log(e^s_tt / sum_tk e^s_tk), which cannot fall below log P. A row that stands for c
    patches enters a sum with weight c, so a loss of 0 is out of reach where patches share rows.
    """
    (a, index_a), (b, index_b) = side_a, side_b
    # Half-precision logits of +-10 would be off by several per cent in the loss.
    dtype = torch.promote_types(a.dtype, torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    count_a = torch.bincount(index_a, minlength=len(a)).to(dtype)
    count_b = torch.bincount(index_b, minlength=len(b)).to(dtype)
    if literal:
        scores = a @ b.T
        both = count_a.log()[:, None] + count_b.log()
        # Minus the mean before the sum: raw products of thousands would round the loss away.
        return torch.logsumexp((scores - scores[index_a, index_b].mean() + both).flatten(), 0)
    scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    among_b = torch.logsumexp(scores + count_b.log(), 1) @ count_a
    among_a = torch.logsumexp(scores + count_a.log()[:, None], 0) @ count_b
    return (among_a + among_b) / (2 * len(index_a)) - scores[index_a, index_b].mean()


def global_alignment(
    a: Float[Tensor, "N C"], b: Float[Tensor, "N C"], temperature: float, literal: bool = False
) -> Float[Tensor, ""]:
    """GA: LA between the N instance features of a batch instead of the patches of a scan.

    Eq. 3; `literal` cannot fall below log N. Of a single instance it is exactly 0.
    """
    each = torch.arange(len(a), device=a.device)
    return local_alignment((a, each), (b, each), temperature, literal)


def compactness(
    rows: Float[Tensor, "R D"],
    counts: Float[Tensor, " R"],
    nearest: Float[Tensor, "R D"],
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """LC or GC: how far patches (or instances) are from the closest row in their queue.

    mean_p ||f_p - nearest_p||_2; `sum`: sum_p of the same, Eq. 5 and 6 as printed;
    `mean_squared`: mean_p ||f_p - nearest_p||_2^2

    No gradient reaches `nearest`. A row that equals its neighbour adds 0, and gradient 0.
    """
    difference = rows - nearest.detach()
    if reduction == "mean_squared":
        return difference.square().sum(1) @ counts / counts.sum()
    total = torch.linalg.vector_norm(difference, dim=1) @ counts
    return total if reduction == "sum" else total / counts.sum()
