"""Signs of collapse: making all features identical minimises the compactness losses.

Row r stands for `counts[r]` patches; numbers are those over all patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lsfa_lib.records import Modality

LEAST_VARIANCE = 0.01
"""Relative to the first step: features that shrank to a tenth have collapsed."""
LEAST_RANK = 1.2
"""Directions; below it the patches differ along one line only."""
MOST_SAME_SCAN = 0.5
"""Share of patches whose nearest row in the queue is an older copy of their own scan."""
WAY_OUT = "lower training.learning_rate or training.weights.lc and gc, or train with CLC too"


@torch.no_grad()
def feature_variance(rows: Float[Tensor, "R D"], counts: Float[Tensor, " R"]) -> float:
    """Variance over patches of a feature, averaged over the D features; 0 for constant rows.

    1/D sum_d 1/P sum_p (f_pd - mean_d)^2
    """
    deviations = _deviations(rows, counts)
    return (deviations.square().sum() / rows.shape[1]).item()


@torch.no_grad()
def effective_rank(rows: Float[Tensor, "R D"], counts: Float[Tensor, " R"]) -> float:
    """Number of directions in which the patches vary, from 1 to min(R - 1, D).

    exp(-sum_i p_i log p_i), p = eigenvalues of the covariance / their sum    (Roy & Vetterli 2007,
    with eigenvalues instead of singular values)

    0 by definition where the rows differ only by rounding: noise has full rank.
    """
    deviations = _deviations(rows, counts)
    total = deviations.square().sum()
    # A few roundings of the longest row that is used.
    longest = torch.linalg.vector_norm(rows[counts > 0].double(), dim=1).max()
    if total <= (8 * torch.finfo(rows.dtype).eps * longest).square():
        return 0.0
    wide = deviations.shape[1] > len(deviations)
    gram = deviations @ deviations.T if wide else deviations.T @ deviations
    share = torch.linalg.eigvalsh(gram).clamp_min(0) / total
    return torch.special.entr(share).sum().exp().item()


@torch.no_grad()
def alignment_accuracy(
    side_a: tuple[Float[Tensor, "A C"], Int[Tensor, " P"]],
    side_b: tuple[Float[Tensor, "B C"], Int[Tensor, " P"]],
) -> float:
    """Share of patches whose own partner is the most cosine-similar one; mean of both directions.

    A side is one modality: its projected rows, and the row of each patch. A partner with the same
    row counts as right, and of equal similarities the first is taken: identical rows find few
    partners. Patches that share a row but no partner cannot all find theirs, so 1 can be reached
    only where both sides share rows in the same way.
    """
    (a, index_a), (b, index_b) = side_a, side_b
    scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    absent_a = torch.bincount(index_a, minlength=len(a)) == 0
    absent_b = torch.bincount(index_b, minlength=len(b)) == 0
    found_b = scores.masked_fill(absent_b, -torch.inf).argmax(1)[index_a] == index_b
    found_a = scores.masked_fill(absent_a[:, None], -torch.inf).argmax(0)[index_b] == index_a
    return torch.cat((found_a, found_b)).double().mean().item()


def collapse(history: Sequence[Mapping[str, float]], modalities: Iterable[Modality]) -> str:
    """Why the training must stop after the latest step, and what to try; "" if it need not."""
    first, last = history[0], history[-1]
    for m in modalities:
        variance, rank = last[f"variance_{m}"], last[f"rank_{m}"]
        if variance < LEAST_VARIANCE * first[f"variance_{m}"]:
            return (
                f"the variance of {m} features fell to {variance:.3g} from "
                f"{first[f'variance_{m}']:.3g}, they collapse towards one point; {WAY_OUT}"
            )
        if rank < min(LEAST_RANK, 0.9 * first[f"rank_{m}"]):
            return (
                f"the effective rank of {m} features fell to {rank:.2f} from "
                f"{first[f'rank_{m}']:.2f}, they collapse onto a line; {WAY_OUT}"
            )
        same_scan = last.get(f"same_scan_{m}", 0.0)
        if len(history) == 1 and same_scan > MOST_SAME_SCAN:
            return (
                f"{same_scan:.0%} of the {m} patches find an old copy of themselves in the queue, "
                "so that LC trains on nothing; set training.exclude_same_scan to true or lower "
                "training.local_queue"
            )
    return ""


def _deviations(rows: Float[Tensor, "R D"], counts: Float[Tensor, " R"]) -> Float[Tensor, "U D"]:
    """Rows of X with X^T X = the covariance over patches, in double precision."""
    used = counts > 0
    rows, share = rows[used].double(), counts[used].double()
    share = share / share.sum()
    # Relative to one of the rows, constant rows have a mean of exactly 0.
    rows = rows - rows[0]
    return (rows - share @ rows) * share.sqrt()[:, None]
