"""Variation models and auto-encoders of depth images and voxels, the baselines of MVTec 3D-AD.

A variation model stores mean and standard deviation of every pixel or voxel over good parts; an
auto-encoder is trained to reconstruct good parts (arXiv 2112.09045, sec. 4). Neither uses a
backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lsfa_lib.adaptation.schedule import epoch_order
from lsfa_lib.config import Config
from lsfa_lib.detection.maps import blur
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.records import Mode, Prediction, Sample
from lsfa_lib.storage.files import progress

SIDE = 64
"""Of the depth image, px, and of the voxel grid; the published voxel grid has the same side."""
EPOCHS, BATCH, RATE = 25, 4, 1e-3
Grid = Float[Tensor, " 1 *size"]
"""A depth image (1, S, S) or occupied voxels (1, S, S, S)."""
Model = Callable[[Grid], tuple[Grid, float]]
"""Distance of each cell from good parts, and what the score of the scan adds to the largest."""


def depth_image(sample: Sample, far: float) -> Float[Tensor, "1 S S"]:
    """Mean depth of the measured pixels of each cell, relative to the scan's median.

    In units of `far` metres; 0 where nothing was measured.
    """
    relative, valid = _relative_depth(sample, far), sample.valid[None].float()
    measured = F.adaptive_avg_pool2d(valid, SIDE)
    mean = F.adaptive_avg_pool2d(relative[None] * valid, SIDE) / measured
    return torch.where(measured > 0, mean, 0.0)


def voxels(sample: Sample, far: float) -> Float[Tensor, "1 S S S"]:
    """1 where a voxel contains a point; the axes are depth, pixel rows and pixel columns."""
    valid = sample.valid
    depth = _relative_depth(sample, far)[valid].clamp(-1, 1)
    row, column = (at * SIDE // len(valid) for at in valid.nonzero().unbind(1))
    grid = torch.zeros(SIDE, SIDE, SIDE, device=valid.device)
    grid[((depth + 1) / 2 * (SIDE - 1)).round().long(), row, column] = 1
    return grid[None]


def _relative_depth(sample: Sample, far: float) -> Float[Tensor, "S S"]:
    """Depth relative to the median of the measured pixels, in units of `far` metres."""
    depth = sample.xyz[2]
    return (depth - depth[sample.valid].median()) / far


def in_pixels(distances: Grid, inside: Bool[Tensor, "S S"], config: Config) -> Prediction:
    """Map at image size, and score; a pixel takes the largest distance of its voxel column."""
    flat = distances[0].amax(dim=0) if distances.dim() == 4 else distances[0]
    size = config.preprocess.image_size
    anomaly = F.interpolate(flat[None, None], (size, size), mode="bilinear")
    anomaly = blur(anomaly, config.detector.blur * size)[0, 0]
    anomaly = torch.where(inside, anomaly, 0.0)
    return Prediction(anomaly, float(anomaly.max()))


def half_depth(samples: Sequence[Sample]) -> float:
    """The largest distance of a depth from its scan's median, metres: half the grid's extent."""
    spans = []
    for sample in samples:
        depth = sample.xyz[2][sample.valid]
        spans.append(float((depth - depth.median()).abs().max()))
    return max(max(spans), 1e-6)


def fit_grids(
    good: Good,
    grid_of: Callable[[Sample, float], Grid],
    learn: Callable[[Tensor, int], Model],
) -> Predict:
    """A model fitted to the grids of good scans, which scores each cell of a new grid."""
    samples = [scan.sample for scan in good.train]
    far, config = half_depth(samples), good.config
    distance = learn(torch.stack([grid_of(sample, far) for sample in samples]), good.seed)

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        cells, of_scan = distance(grid_of(scan.sample, far))
        found = in_pixels(cells, scan.sample.valid, config)
        return {"3d": replace(found, image_score=found.image_score + of_scan)}

    return predict


def variation(grids: Float[Tensor, "N 1 *size"], seed: int) -> Model:
    """|x - mean| / std of every cell, with std at least a hundredth of the largest one."""
    std, mean = torch.std_mean(grids, dim=0, correction=0)
    std = std.clamp_min(0.01 * float(std.max()) or 1.0)
    return lambda grid: ((grid - mean).abs() / std, 0.0)


def autoencoder(grids: Float[Tensor, "N 1 *size"], seed: int) -> Model:
    """(x - x')^2 of every cell, x' from a convolutional auto-encoder trained on good parts."""
    flat = grids.dim() == 4
    with seeded(seed):
        network = _network(nn.Conv2d if flat else nn.Conv3d, flat)
    network.to(grids.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    for epoch in progress(range(EPOCHS), "auto-encoder"):
        order = epoch_order(epoch, len(grids), seed)
        for start in range(0, len(order), BATCH):
            batch = grids[order[start : start + BATCH]]
            optimiser.zero_grad()
            F.mse_loss(network(batch), batch).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    network.requires_grad_(False)
    return lambda grid: ((network(grid[None])[0] - grid).square(), 0.0)


def _network(convolution: type[nn.Conv2d] | type[nn.Conv3d], flat: bool) -> nn.Sequential:
    """Encoder of four stride-2 convolutions to a code of 32 channels, and the mirrored decoder."""
    back = nn.ConvTranspose2d if flat else nn.ConvTranspose3d
    widths = [1, 16, 32, 32, 32] if flat else [1, 8, 16, 32, 32]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [convolution(a, b, 4, stride=2, padding=1), nn.ReLU()]
    for a, b in pairwise(widths[::-1]):
        layers += [back(a, b, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


depth_vm = partial(fit_grids, grid_of=depth_image, learn=variation)
voxel_vm = partial(fit_grids, grid_of=voxels, learn=variation)
depth_ae = partial(fit_grids, grid_of=depth_image, learn=autoencoder)
voxel_ae = partial(fit_grids, grid_of=voxels, learn=autoencoder)
