"""Exact farthest point sampling, many picks per round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from lsfa_lib.features.geometry import one_thread, squared_length
from lsfa_lib.storage.files import InputError

BOX_POINTS = 64
CANDIDATE_SHARE = 0.8
PICKS_PER_ROUND = 256


@dataclass(frozen=True)
class _Boxes:
    """Points in boxes of neighbours, so that a new pick visits only the boxes it can reach."""

    index: Int[Tensor, "B S"]
    xyz: Float[Tensor, "3 B S"]
    low: Float[Tensor, "3 B 1"]
    high: Float[Tensor, "3 B 1"]
    squared_gap: Float[Tensor, "B S"]
    """Squared distance of each point to the nearest pick; -1 for picks and padding. Updated."""


@one_thread()
def farthest_points(points: Float[Tensor, "N 3"], n: int) -> Int[Tensor, " n"]:
    """Indices of `n` distinct points spread evenly: each is the farthest from those before it.

    Farthest point sampling as in Point-MAE: starts at index 0, ties go to the lowest index. All
    points take part, including those near the origin. Raises InputError when n is not in 1..N.

    The picks are those of the plain loop, but many are made per round: points nearer to the picks
    than `CANDIDATE_SHARE` of the largest squared gap cannot be next until the others have dropped
    below it.
    """
    if not 1 <= n <= len(points):
        raise InputError(
            f"cannot select {n} farthest points from {len(points)}; choose 1 to {len(points)}"
        )
    picks = [0]
    boxes = _boxes(points)
    boxes.squared_gap[boxes.index == 0] = -1
    _close_gaps(boxes, points[:1])
    while len(picks) < n:
        new = _greedy_picks(points, boxes, min(n - len(picks), PICKS_PER_ROUND))
        _close_gaps(boxes, points[new])
        picks += new
    return torch.tensor(picks, device=points.device)


def _boxes(points: Float[Tensor, "N 3"]) -> _Boxes:
    # Neighbouring leaves of the tree are close in space, so any run of its order is a compact box.
    order = cKDTree(points.cpu(), BOX_POINTS, compact_nodes=False, balanced_tree=False).indices
    padded = np.pad(order, (0, -len(order) % BOX_POINTS), mode="edge").reshape(-1, BOX_POINTS)
    index = torch.from_numpy(padded).to(points.device)
    xyz = points.T.contiguous()[:, index]
    low, high = xyz.aminmax(dim=2, keepdim=True)
    squared_gap = torch.full_like(xyz[0], torch.inf)
    squared_gap.view(-1)[len(points) :] = -1
    return _Boxes(index, xyz, low, high, squared_gap)


def _greedy_picks(points: Float[Tensor, "N 3"], boxes: _Boxes, most: int) -> list[int]:
    """The next picks, searched among the points that can be next, lowest index first."""
    threshold = CANDIDATE_SHARE * boxes.squared_gap.max()
    slot = (boxes.squared_gap >= threshold).view(-1).nonzero().squeeze(1)
    index, order = boxes.index.view(-1)[slot].sort()
    slot = slot[order]
    xyz = points[index].T.contiguous().cpu().numpy()
    gap = boxes.squared_gap.view(-1)[slot].cpu().numpy()
    least = threshold.item()
    chosen: list[int] = []
    while len(chosen) < most and gap[best := int(gap.argmax())] >= least:
        chosen.append(best)
        square = xyz - xyz[:, best, None]
        square *= square
        np.minimum(gap, square[0] + square[1] + square[2], out=gap)
        gap[best] = -1
    boxes.squared_gap.view(-1)[slot[chosen]] = -1
    return index[chosen].tolist()


def _close_gaps(boxes: _Boxes, picks: Float[Tensor, "K 3"]) -> None:
    """Lowers `squared_gap` to the distances to the new picks, box by box where one is in reach."""
    axes = list(zip(boxes.xyz, boxes.low, boxes.high, picks.T, strict=True))
    to_box = squared_length(*(at.clamp(low, high) - at for _, low, high, at in axes))
    box, pick = (to_box < boxes.squared_gap.amax(1, keepdim=True)).nonzero(as_tuple=True)
    squared = squared_length(*(xyz.index_select(0, box) - at[pick, None] for xyz, _, _, at in axes))
    boxes.squared_gap.scatter_reduce_(0, box[:, None].expand_as(squared), squared, "amin")
