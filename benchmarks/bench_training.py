"""A training step at the paper's sizes, and its parts against what they would cost elsewhere."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Row, device, measure
from lsfa_lib.adaptation.adaptors import Adaptors, EncoderLayer, ScanRows
from lsfa_lib.adaptation.feature_queue import FeatureQueue
from lsfa_lib.adaptation.losses import local_alignment
from lsfa_lib.adaptation.trainer import Task
from lsfa_lib.adaptation.training import fit
from lsfa_lib.config import OURS, PUBLISHED
from lsfa_lib.records import Modality

PATCHES, TOKENS, VALID = 3136, 784, 1600
DIMS: dict[Modality, int] = {"3d": 1152, "rgb": 768}


def rows_of(scan: int, attend: str) -> dict[Modality, ScanRows]:
    """A scan at 224 px: 3136 point patches, 784 image tokens, about half of them on the part."""
    generator = torch.Generator().manual_seed(scan)
    side = torch.arange(PATCHES) // 56
    token = side // 2 * 28 + torch.arange(PATCHES) % 56 // 2
    valid = torch.arange(PATCHES) if attend == "all" else torch.arange(VALID) + 700
    points = torch.randn(len(valid), DIMS["3d"], generator=generator)
    image = torch.randn(TOKENS, DIMS["rgb"], generator=generator)
    used, index = torch.unique(token[valid], return_inverse=True)
    each = torch.arange(len(valid))
    scans: dict[Modality, ScanRows] = {
        "3d": ScanRows(points, each, torch.ones(len(valid))),
        "rgb": ScanRows(image[used], index, torch.bincount(index).float()),
    }
    return {
        m: ScanRows(s.rows.to(device()), s.index.to(device()), s.copies.to(device()))
        for m, s in scans.items()
    }


def one_step(attend: str) -> None:
    """FeatureQueues filled, then one step over a batch of 8 scans."""
    torch.manual_seed(0)
    preset = PUBLISHED if attend == "all" else OURS
    adaptors = Adaptors(DIMS, preset.adaptor).to(device())
    names = tuple(f"part/train/good/{i:03d}" for i in range(40))
    config = replace(preset.training, steps=1)
    fit(Task(adaptors, partial(rows_of, attend=attend), names), config, seed=0)


def layer_step(layer: EncoderLayer, rows: Tensor, copies: Tensor) -> None:
    """Forward and backward of one encoder layer."""
    layer.zero_grad()
    layer(rows, copies).sum().backward()


def alignment_on_all(a: Tensor, b: Tensor) -> Tensor:
    """LA on every patch of the grid, in both directions, by cross-entropy."""
    scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1
    own = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def rows() -> list[Row]:
    """One row a part, then whole steps."""
    torch.manual_seed(0)
    layer = EncoderLayer(768, 12, 4.0).to(device())
    tokens = torch.randn(TOKENS, 768, device=device())
    copied = tokens.repeat_interleave(4, 0)
    four, ones = torch.full((TOKENS,), 4.0), torch.ones(PATCHES)
    a, b = (torch.randn(PATCHES, 512, device=device()) for _ in range(2))
    each = torch.arange(VALID, device=device())
    queue = FeatureQueue(50_000, 768).to(device())
    batch = torch.randn(8 * PATCHES, 768, device=device())
    held = torch.randn(50_000, 768, device=device())
    return [
        measure(
            "adaptor layer, image modality, forward and backward",
            partial(layer_step, layer, tokens, four.to(device())),
            {"on 3136 copies": partial(layer_step, layer, copied, ones.to(device()))},
            repeats=3,
            target=">= 5x",
        ),
        measure(
            "local alignment, one scan, 1600 valid patches",
            partial(local_alignment, (a[:VALID], each), (b[:VALID], each), 0.1),
            {"all 3136 patches": partial(alignment_on_all, a, b)},
            target="-",
        ),
        measure(
            "FIFO of 50k x 768, one scan in",
            partial(queue.enqueue, batch[:PATCHES], 0),
            {"torch.cat": lambda: torch.cat([held[PATCHES:], batch[:PATCHES]])},
            target="<= 3 ms",
        ),
        measure(
            "banks of 50k filled and one training step, paper's sizes, batch 8",
            partial(one_step, "all"),
            {},
            repeats=1,
            target="<= 6144 MB",
        ),
        measure(
            "banks filled and one training step, ours at 224 px, batch 8",
            partial(one_step, "valid"),
            {},
            repeats=1,
            target="-",
        ),
    ]
