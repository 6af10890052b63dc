"""Points to groups to patches, on one scan of 25k points, against what users would run instead."""

from __future__ import annotations

import numpy as np
import open3d
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Row, device, measure
from lsfa_lib.features.geometry import nearest_points, patch_weights, spread
from lsfa_lib.features.sampling import farthest_points

SIZE, GROUPS, GROUP_SIZE, WIDTH = 224, 1024, 128, 1152


def scan() -> tuple[Tensor, Tensor]:
    """Coordinates and valid mask of a curved disc of 25k points, 10 cm wide, with sensor noise."""
    x, y = np.meshgrid(*[np.linspace(-0.06, 0.06, SIZE)] * 2)
    noise = np.random.default_rng(0).normal(0, 1e-4, x.shape)
    valid = x**2 + y**2 < 0.048**2
    xyz = np.stack([x, y, 0.5 + 0.02 * np.cos(40 * x) * np.sin(50 * y) + noise]) * valid
    place = {"device": device()}
    return torch.from_numpy(xyz.astype(np.float32)).to(**place), torch.from_numpy(valid).to(**place)


def torch_loop(points: Tensor, n: int) -> Tensor:
    """Farthest points as the usual torch port finds them: all points visited for every pick."""
    picks = torch.zeros(n, dtype=torch.long, device=points.device)
    gap = torch.full((len(points),), 1e10, device=points.device)
    farthest = picks[0]
    for i in range(n):
        picks[i] = farthest
        squared = ((points - points[farthest]) ** 2).sum(-1)
        closer = squared < gap
        gap[closer] = squared[closer]
        farthest = gap.max(-1).indices
    return picks


def open3d_farthest(points: np.ndarray) -> object:
    """Farthest points by open3d."""
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    return cloud.farthest_point_down_sample(GROUPS)


def open3d_nearest(points: np.ndarray, queries: np.ndarray) -> object:
    """Nearest points by open3d."""
    search = open3d.core.nns.NearestNeighborSearch(open3d.core.Tensor(points))
    search.knn_index()
    return search.knn_search(open3d.core.Tensor(queries), GROUP_SIZE)


def pooled_image(xyz: Tensor, valid: Tensor, centres: Tensor, tokens: Tensor, k: int) -> Tensor:
    """Patch features the way peers make them: a feature for every pixel, then pooling."""
    points = xyz[:, valid].T
    squared = (points**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * points @ centres.T
    if k:
        near, index = squared.sort(dim=-1)
        weights = 1 / (near[:, :k] + 1e-8)
        weights = weights / weights.sum(1, keepdim=True)
        features = (tokens[index[:, :k]] * weights[..., None]).sum(1)
    else:
        weights = 1 / squared.clamp_min(1e-12).sqrt()
        features = (weights / weights.sum(1, keepdim=True)) @ tokens
    image = torch.zeros(tokens.shape[1], SIZE * SIZE, device=xyz.device)
    image[:, valid.flatten()] = features.T
    smooth = functional.avg_pool2d(image.view(1, -1, SIZE, SIZE), 3, stride=1)
    return functional.adaptive_avg_pool2d(smooth, SIZE // 4)


def rows() -> list[Row]:
    """One row each for farthest points, nearest points, and the way to patches in two forms."""
    xyz, valid = scan()
    points = xyz[:, valid].T.contiguous()
    centres = points[farthest_points(points, GROUPS)]
    tokens = torch.randn(GROUPS, WIDTH, generator=torch.Generator().manual_seed(0)).to(device())
    cloud, queries = points.double().cpu().numpy(), centres.double().cpu().numpy()
    return [
        measure(
            "farthest points, 1024 of 25k, exact",
            lambda: farthest_points(points, GROUPS),
            {
                "torch loop": lambda: torch_loop(points, GROUPS),
                "open3d": lambda: open3d_farthest(cloud),
            },
            target="<= 25 ms",
        ),
        measure(
            "128 nearest of 1024 in 25k",
            lambda: nearest_points(centres, points, GROUP_SIZE),
            {
                "cdist + topk": lambda: torch.cdist(centres, points).topk(
                    GROUP_SIZE, largest=False
                ),
                "open3d": lambda: open3d_nearest(cloud, queries),
                "scipy": lambda: cKDTree(cloud).query(queries, GROUP_SIZE),
            },
            target="<= 45 ms",
        ),
        measure(
            "interpolate 3 centres and pool to 56x56, 1152 wide",
            lambda: spread(patch_weights(xyz, valid, centres, 4, 3), tokens),
            {"every pixel": lambda: pooled_image(xyz, valid, centres, tokens, 3)},
            repeats=3,
            target="<= 60 ms, <= 50 MB",
        ),
        measure(
            "interpolate all 1024 centres and pool to 56x56, 1152 wide",
            lambda: spread(patch_weights(xyz, valid, centres, 4, 0), tokens),
            {"every pixel": lambda: pooled_image(xyz, valid, centres, tokens, 0)},
            repeats=3,
            target=">= 12x",
        ),
    ]
