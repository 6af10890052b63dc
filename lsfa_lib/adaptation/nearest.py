"""Nearest rows: the search behind the anomaly score and the compactness losses."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@torch.no_grad()
def nearest_index(
    rows: Float[Tensor, "R D"],
    bank: Float[Tensor, "M D"],
    allowed: Bool[Tensor, " M"] | None = None,
    chunk: int = 1024,
) -> Int[Tensor, " R"]:
    """Index of the closest bank row among those `allowed`, for each row.

    argmin_m ||b_m||^2 - 2 f.b_m, both relative to the bank's mean row, where float32 loses least.

    `chunk` rows and bank rows are compared at once, which bounds memory. ValueError where the bank
    has no allowed row.
    """
    if len(bank) == 0 or (allowed is not None and not bool(allowed.any())):
        raise ValueError(f"none of the {len(bank)} bank rows may be chosen; allow one at least")
    centre = bank.mean(0)
    queries = rows.to(bank.dtype) - centre
    best = torch.full_like(queries[:, 0], torch.inf)
    index = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    for start in range(0, len(bank), chunk):
        block = bank[start : start + chunk] - centre
        norms = block.square().sum(1)
        if allowed is not None:
            norms.masked_fill_(~allowed[start : start + chunk], torch.inf)
        for first in range(0, len(queries), chunk):
            at = slice(first, first + chunk)
            products = torch.addmm(norms, queries[at], block.T, alpha=-2)
            least = products.amin(1)
            # Later blocks improve few rows: only for those is the position searched.
            closer = (least < best[at]).nonzero().squeeze(1)
            best[at] = torch.minimum(best[at], least)
            index[first + closer] = start + products[closer].argmin(1)
    return index
