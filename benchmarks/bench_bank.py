"""Coreset, nearest row and image score of a bank, against what users would run instead."""

from __future__ import annotations

from functools import partial

import faiss
import numpy as np
import torch
from sklearn.metrics import pairwise_distances_argmin_min
from torch import Tensor

from benchmarks.harness import THREADS, Row, device, measure
from lsfa_lib.config import BankConfig
from lsfa_lib.detection.building import Part, build_bank
from lsfa_lib.detection.coreset import greedy_k_centre
from lsfa_lib.detection.memory import Bank, nearest_rows, reweighted_score

WIDTH, BANK_ROWS, PATCHES = 768, 80_000, 3136


def features(n: int, seed: int) -> Tensor:
    """Rows of few degrees of freedom in many columns, as backbone features are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(0)) / 5
    rows = torch.randn(n, 30, generator=generator) @ mixing
    return rows.tanh_().add_(torch.randn(n, WIDTH, generator=generator), alpha=0.2).to(device())


def every_row_each_pick(rows: Tensor, n_keep: int) -> list[int]:
    """M3DM's way: one pick at a time, the norm of all differences each time."""
    gap = torch.linalg.norm(rows - rows[:1], dim=1, keepdim=True)
    picks = [0]
    while len(picks) < n_keep:
        best = int(gap.argmax())
        gap = torch.minimum(gap, torch.linalg.norm(rows - rows[best : best + 1], dim=1)[:, None])
        gap[best] = 0
        picks.append(best)
    return picks


def approximate_greedy(rows: Tensor, n_keep: int, starts: int = 10) -> list[int]:
    """patchcore-inspection's way: 128 dimensions, one pick at a time, gaps start as a mean."""
    rows = rows @ (torch.randn(rows.shape[1], 128) / 128**0.5).to(rows)
    gap = torch.cdist(rows, rows[torch.randint(len(rows), (starts,))]).mean(1, keepdim=True)
    picks: list[int] = []
    while len(picks) < n_keep:
        best = int(gap.argmax())
        picks.append(best)
        pick = rows[best : best + 1]
        squared = rows.square().sum(1, keepdim=True) + pick.square().sum() - 2 * rows @ pick.T
        gap = torch.cat([gap, squared.clamp_min(0).sqrt()], dim=1).min(1, keepdim=True).values
    return picks


def score_by_differences(patch: Tensor, row: Tensor, distance: Tensor, bank: Bank) -> Tensor:
    """The image score with all differences to the nearest row in memory."""
    near = torch.linalg.norm(bank.rows - row, dim=1).topk(2, largest=False).indices
    terms = torch.exp(torch.linalg.norm(patch - bank.rows[near], dim=1) / WIDTH**0.5)
    return (1 - torch.exp(distance / WIDTH**0.5) / terms.sum()) * distance


SEARCHES = [(4_000, PATCHES), (20_000, PATCHES), (160_000, 4 * PATCHES)]
"""Rows of a bank and patches of a scan; the last are those of 448 px, where every row is kept."""
PEERS = {"M3DM's way": every_row_each_pick, "patchcore's, approximate": approximate_greedy}
CORESETS = [
    # rows, kept, peers that finish in minutes, turns, target
    (10_000, 1000, list(PEERS), 2, "-"),
    (50_000, 500, list(PEERS), 2, "-"),
    (50_000, 5000, ["patchcore's, approximate"], 2, ">= 30x"),
    (200_000, 20_000, [], 1, "<= 40 s"),
]


def coreset(n: int, keep: int, peers: list[str], repeats: int, target: str) -> Row:
    """One row of the coreset of `keep` of `n` rows."""
    everything = features(n, seed=1)
    ways = {name: partial(PEERS[name], everything, keep) for name in peers}
    stage = f"coreset, {keep} of {n // 1000}k x {WIDTH}"
    ours = partial(greedy_k_centre, everything, keep, 0)
    return measure(stage, ours, ways, repeats, target)


def bank(scans: int) -> Row:
    """One row of a bank of 2000 rows in 64 MB, beside the selection from all rows in memory."""
    parts: list[Part] = [partial(scan, i) for i in range(scans)]

    def at_once() -> Tensor:
        everything = torch.cat([part()[0] for part in parts])
        return everything[greedy_k_centre(everything, 2000, 0)]

    ours = partial(build_bank, parts, 2000, BankConfig(memory_mb=64.0), 0)
    peers = {"all rows in memory": at_once} if scans <= 100 else {}
    stage = f"bank of {scans} scans, {PATCHES} x {WIDTH} each, 64 MB"
    return measure(stage, ours, peers, 1, "same MB for all")


def search(n: int, queries: int) -> Row:
    """One row of the search in a bank of n rows, beside indices of faiss with their recall."""
    everything, patches = features(n, seed=2), features(queries, seed=3)
    memory = Bank(everything, 0.0, 1.0, torch.zeros(n, 2, dtype=torch.long))
    rows, asked = (np.ascontiguousarray(each.cpu().numpy()) for each in (everything, patches))
    nearest, ways = nearest_rows(patches, memory)[1].cpu().numpy(), {}
    for name, index in _indices(n).items():
        index.train(rows)
        index.add(rows)
        recall = (index.search(asked, 1)[1][:, 0] == nearest).mean()
        ways[f"faiss {name}, recall {recall:.3f}"] = partial(index.search, asked, 1)
    ways["scikit-learn"] = partial(pairwise_distances_argmin_min, asked, rows)
    stage = f"nearest row, {queries} x {n // 1000}k x {WIDTH}"
    return measure(stage, lambda: nearest_rows(patches, memory), ways, 3, "recall 1")


def _indices(n: int) -> dict[str, faiss.Index]:
    """Indices for n rows, by name: some take minutes for large banks, one cannot learn from few."""
    lists = int(4 * n**0.5)
    inverted = faiss.IndexIVFFlat(faiss.IndexFlatL2(WIDTH), WIDTH, lists)
    inverted.nprobe = lists // 16
    found = {"flat": faiss.IndexFlatL2(WIDTH), "inverted lists, 1/16 read": inverted}
    if n <= 20_000:
        found["flat, 8 bits"] = faiss.IndexScalarQuantizer(WIDTH, faiss.ScalarQuantizer.QT_8bit)
        found["graph (HNSW)"] = graph = faiss.IndexHNSWFlat(WIDTH, 32)
        graph.hnsw.efSearch = 128
    if n >= 20_000:
        codes = faiss.IndexIVFPQ(faiss.IndexFlatL2(WIDTH), WIDTH, lists, WIDTH // 16, 8)
        codes.nprobe = lists // 16
        ranked = faiss.IndexRefineFlat(codes)
        ranked.k_factor = 32
        found["inverted lists of codes, 32 compared in full"] = ranked
    return found


def scan(index: int) -> tuple[Tensor, Tensor]:
    """Rows of one generated scan, and their sources."""
    own = features(PATCHES, seed=100 + index)
    patches = torch.arange(PATCHES, device=own.device)
    return own, torch.stack((torch.full_like(patches, index), patches), dim=1)


def rows() -> list[Row]:
    """Coreset at several sizes, banks of many scans, nearest row, image score."""
    everything, patches = features(BANK_ROWS, seed=2), features(PATCHES, seed=3)
    memory = Bank(everything, 0.0, 1.0, torch.zeros(BANK_ROWS, 2, dtype=torch.long))
    distances, indices = nearest_rows(patches, memory)
    farthest = distances.argmax()
    faiss.omp_set_num_threads(THREADS)
    flat = faiss.IndexFlatL2(WIDTH)
    flat.add(everything.cpu().numpy())
    queries = np.ascontiguousarray(patches.cpu().numpy())
    return [
        measure(
            f"nearest row, {PATCHES} x 80k x {WIDTH}",
            lambda: nearest_rows(patches, memory),
            {
                "cdist": lambda: torch.cdist(patches, everything).min(1),
                "faiss flat": lambda: flat.search(queries, 1),
            },
            repeats=5,
            target=">= 0.87x faiss, <= 100 MB",
        ),
        measure(
            "image score, 80k rows",
            lambda: reweighted_score(patches, distances, indices, memory),
            {
                "all differences": lambda: score_by_differences(
                    patches[farthest], everything[indices[farthest]], distances[farthest], memory
                )
            },
            target="<= 20 ms",
        ),
        *(coreset(*case) for case in CORESETS),
        *(bank(scans) for scans in (20, 100, 400)),
        *(search(*case) for case in SEARCHES),
    ]
