"""Exact nearest-row search that compares most rows by a few numbers only.

On one CPU thread a complete detection takes 1/2.4 of the time with the demo's bank (3,571 rows of
576 and of 152 numbers), 1/3.4 with 35,707 rows (`benchmarks/bench_bank.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

SAMPLE = 4096
"""Rows that the directions are taken from; any directions give the same nearest row."""
STRIDE = 16
"""Bank rows that are first compared as one, by the closest of them."""
USEFUL = 1 / 64
"""Share of pairs left to compare in full up to which a sketch is faster than whole products."""
PAIRS = 8192
"""Pairs compared in full at once, which bounds memory."""


@dataclass(frozen=True)
class Sketch:
    """Bank rows in K + 1 numbers, whose distances never exceed those of the rows.

    A row's coordinates along K directions V, and the length of what these leave out. From the
    triangle inequality of the rest:  ||a - b||^2 >= ||V'(a - b)||^2 + (||a_rest|| - ||b_rest||)^2
    """

    centre: Float[Tensor, " D"]
    directions: Float[Tensor, "D K"]
    rows: Float[Tensor, "M L"]
    """L = K + 1."""
    squared_norms: Float[Tensor, " M"]

    def of(self, rows: Float[Tensor, "R D"]) -> tuple[Float[Tensor, "R L"], Float[Tensor, " R"]]:
        """Any rows in the same reduced form, and their squared distance to the centre."""
        centred = rows - self.centre
        squares = torch.linalg.vector_norm(centred, dim=1).square_()
        along = centred @ self.directions
        rest = (squares - along.square().sum(1)).clamp_min_(0).sqrt_()
        return torch.cat((along, rest[:, None]), dim=1), squares


@torch.no_grad()
def sketch_of(bank: Float[Tensor, "M D"]) -> Sketch:
    """A sketch along the directions in which the bank's rows vary most, an eighth of their number.

    Backbone features vary in few: an eighth holds nearly all, and little is left to look up.
    """
    centre = bank.mean(0)
    sample = bank[:: max(1, len(bank) // SAMPLE)] - centre
    width = bank.shape[1]
    directions = torch.linalg.eigh(sample.T @ sample).eigenvectors[:, width - (width + 7) // 8 :]
    empty = Sketch(centre, directions.contiguous(), bank[:0], centre[:0])
    return Sketch(centre, empty.directions, *empty.of(bank))


@torch.no_grad()
def nearest_by_sketch(
    queries: Float[Tensor, "R D"],
    bank: Float[Tensor, "M D"],
    sketch: Sketch,
    chunk: int = 2048,
) -> Int[Tensor, " R"]:
    """Index of the closest bank row for each query: what all distances would give.

    The row that is closest in the sketch bounds the distance from above; rows that are farther in
    the sketch cannot be closer, and the few others are compared in full. Where that leaves many,
    as with rows that vary alike in all directions, products of whole rows are taken instead.
    `chunk` queries and bank rows are compared at once, which bounds memory.
    """
    return torch.cat([_nearest(part, bank, sketch, chunk) for part in torch.split(queries, chunk)])


def _nearest(
    queries: Float[Tensor, "r D"], bank: Float[Tensor, "M D"], sketch: Sketch, chunk: int
) -> Int[Tensor, " r"]:
    short, squares = sketch.of(queries)
    # Products round; what they say is taken with this much doubt.
    doubt = 1e-5 * (squares + sketch.squared_norms.max())
    best = torch.full_like(squares, torch.inf)
    index = torch.zeros_like(squares, dtype=torch.long)
    everyone = torch.arange(len(queries), device=queries.device)
    useful = True
    for start in range(0, len(bank), chunk):
        at = slice(start, start + chunk)
        if useful:
            # At (query, i, j): the sketch of row start + i * columns + j.
            parts = _parts(short, sketch.rows[at], sketch.squared_norms[at])
            columns = parts.shape[2]
            least = parts.amin(1)
            j = least.argmin(1)
            row = start + parts[everyone, :, j].argmin(1) * columns + j
            _compare(queries, bank, everyone, row, best, index)
            limit = best - squares + doubt
            query, j = (least <= limit[:, None]).nonzero().unbind(1)
            hit, i = (parts[query, :, j] <= limit[query, None]).nonzero().unbind(1)
            useful = len(hit) <= max(len(queries), USEFUL * parts.numel())
        if useful:
            _compare(queries, bank, query[hit], start + i * columns + j[hit], best, index)
        else:
            products = torch.addmm(
                sketch.squared_norms[at],
                queries - sketch.centre,
                (bank[at] - sketch.centre).T,
                alpha=-2,
            )
            distances = products.amin(1) + squares
            closer = (distances < best).nonzero().squeeze(1)
            best[closer] = distances[closer]
            index[closer] = start + products[closer].argmin(1)
    return index


def _parts(
    queries: Float[Tensor, "r L"], rows: Float[Tensor, "m L"], norms: Float[Tensor, " m"]
) -> Float[Tensor, "r s c"]:
    """||row||^2 - 2 query.row, infinite beyond the last row, in STRIDE parts."""
    products = torch.addmm(norms, queries, rows.T, alpha=-2)
    products = F.pad(products, (0, -len(rows) % STRIDE), value=torch.inf)
    return products.view(len(queries), STRIDE, -1)


def _compare(
    queries: Float[Tensor, "r D"],
    bank: Float[Tensor, "M D"],
    query: Int[Tensor, " n"],
    row: Int[Tensor, " n"],
    best: Float[Tensor, " r"],
    index: Int[Tensor, " r"],
) -> None:
    """Takes the squared distance of each pair into `best`, its row into `index`, in place."""
    pairs = zip(torch.split(query, PAIRS), torch.split(row, PAIRS), strict=True)
    squared = torch.cat([(queries[q] - bank[r]).square_().sum(1) for q, r in pairs])
    before = best.clone()
    best.scatter_reduce_(0, query, squared, reduce="amin")
    # Of equally near rows the first; what was found before stays where nothing is closer.
    won = (squared == best[query]) & (squared < before[query])
    index[query[won]] = len(bank)
    index.scatter_reduce_(0, query[won], row[won], reduce="amin")
