"""AST (arXiv 2210.07829): where a student network departs from a normalizing-flow teacher.

The teacher is a flow with convolutional subnets from the input to a normal density, conditioned on
the position and trained by maximum likelihood on the part; the student is a convolutional network
trained to predict the teacher's output. Built differently, they diverge on what neither was trained
on: the score of a position is the squared distance of the outputs, that of a scan the largest on
the part, or the mean where the input is the image alone. Inputs are depth, the image's features, or
both joined: three models, as published. Re-implemented from the paper.

What differs, to train on one core in half a minute: the features are the configured backbone's at
map size, one position for 2 x 2 patches, reduced to 32 principal components (published: 304
channels of 768 px images, 24 x 24 positions); depth has 4 x 4 samples for each position instead of
8 x 8; both are whitened on good parts. Subnets are 32 channels wide and the student 64, published
up to 1024, the student has two residual blocks instead of four, and both train for hundreds of
steps instead of thousands, at a higher rate. The part is the scan's valid mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lsfa_lib.config import Config, replaced
from lsfa_lib.detection.maps import smooth_map
from lsfa_lib.features.geometry import spread
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.asymmetric_pair import Pair, train_pair
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.methods.patchcore import as_published
from lsfa_lib.records import MODES, Modality, Mode, Prediction, Sample

SAMPLES = 4
"""Depths of a position along each axis."""
COMPONENTS = 32
"""Principal components kept of a modality's channels."""
COVER = 0.5
"""Share of a position that the part has to cover: depth is steep at the outline of good parts too,
and would give the largest distances there."""
Channels = Float[Tensor, "C G G"]
Part = Bool[Tensor, "G G"]
"""Positions that the part covers."""


@dataclass(frozen=True)
class Whitening:
    """Principal components of a modality's channels on good parts, of unit variance."""

    mean: Float[Tensor, " D"]
    basis: Float[Tensor, "D C"]

    def __call__(self, channels: Float[Tensor, "D G G"], part: Part) -> Channels:
        """The components at each position; 0 outside the part."""
        return torch.einsum("dc,dgh->cgh", self.basis, channels - self.mean[:, None, None]) * part


def at_map_size(config: Config) -> Config:
    """The config with images of the size of the maps; no training, no calibration."""
    return replaced(as_published(config), {"image_encoder.size": 0})


def fit(good: Good) -> Predict:
    """A teacher and a student for each input that the scans have."""
    scans, config = good.train, good.config
    captured = [m for m in scans[0].sample.modalities if m in config.modalities]
    side = config.grid // 2
    parts = torch.stack([part_of(scan.sample, side) for scan in scans])
    inputs, whitenings = {}, {}
    for m in captured:
        raw = [CHANNELS[m](scan, side) for scan in scans]
        whitenings[m] = whitening(torch.stack(raw).movedim(1, -1)[parts])
        pairs = zip(raw, parts, strict=True)
        inputs[m] = torch.stack([whitenings[m](channels, part) for channels, part in pairs])
    models: dict[Mode, Pair] = {}
    for mode in MODES:
        if set(mode.split("+")) <= set(captured):
            joined = torch.cat([inputs[m] for m in mode.split("+")], dim=1)
            models[mode] = train_pair(joined, parts, f"AST {mode}", good.seed)

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        sample, found = scan.sample, {}
        part = part_of(sample, side)
        own = {m: whitenings[m](CHANNELS[m](scan, side), part) for m in captured}
        for mode, pair in models.items():
            apart = pair(torch.cat([own[m] for m in mode.split("+")])) * part
            score = apart.sum() / part.sum().clamp_min(1) if mode == "rgb" else apart.max()
            found[mode] = Prediction(smooth_map(apart, sample.valid, config), float(score))
        return found

    return predict


def part_of(sample: Sample, side: int) -> Part:
    """True where the part covers at least COVER of a position; if nowhere, where it covers most."""
    share = F.adaptive_avg_pool2d(sample.valid[None].float(), side)[0]
    return share >= share.max().clamp_max(COVER)


def depths(scan: LazyScan, side: int) -> Channels:
    """Mean depths of 4 x 4 cells at each position, metres, relative to the part's; 0 outside.

    A cell without a measured pixel takes the mean depth of its position, so that the outline of the
    part is no step.
    """
    depth, valid = scan.sample.xyz[2], scan.sample.valid
    relative = torch.where(valid, depth - depth[valid].mean(), 0.0)[None]
    cells, positions = (
        F.adaptive_avg_pool2d(relative, n)
        / F.adaptive_avg_pool2d(valid[None].float(), n).clamp_min(1e-6)
        for n in (SAMPLES * side, side)
    )
    measured = F.adaptive_max_pool2d(valid[None].float(), SAMPLES * side) > 0
    around = F.interpolate(positions[None], scale_factor=SAMPLES)[0]
    return F.pixel_unshuffle(torch.where(measured, cells, around), SAMPLES)


def colours(scan: LazyScan, side: int) -> Channels:
    """The mean image features of the patches at each position."""
    features = scan.features
    own = features.by_modality["rgb"]
    patches = spread(own.weights, own.tokens).T.unflatten(1, features.grid)  # type: ignore[no-untyped-call]
    return F.adaptive_avg_pool2d(patches, side)


CHANNELS: dict[Modality, Callable[[LazyScan, int], Channels]] = {"3d": depths, "rgb": colours}


def whitening(rows: Float[Tensor, "N D"]) -> Whitening:
    """Whitening of the rows; scales are at most 1000 times that of the first component, and 1e6."""
    mean = rows.mean(dim=0)
    values, vectors = torch.linalg.eigh((rows - mean).double().T.cov(correction=0))
    values, vectors = values.flip(0)[:COMPONENTS], vectors.flip(1)[:, :COMPONENTS]
    scales = values.clamp_min(max(1e-6 * float(values[0]), 1e-12)).rsqrt()
    return Whitening(mean, (vectors * scales).float())
