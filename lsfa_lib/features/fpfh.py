"""Fast Point Feature Histograms (Rusu et al., ICRA 2009): geometry features without weights."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Float64, Int
from scipy.spatial import cKDTree
from torch import Tensor

from lsfa_lib.config import PointEncoderConfig
from lsfa_lib.features.geometry import copying_weights, patch_of_pixel
from lsfa_lib.storage.open3d import load_open3d


def fpfh_patches(
    xyz: Float[Tensor, "3 S S"],
    valid: Bool[Tensor, "S S"],
    config: PointEncoderConfig,
    patch_px: int,
) -> tuple[Float[Tensor, "T 33"], Float[Tensor, "P T"]]:
    """Mean FPFH of the valid points of each valid patch, and the one-hot map to all P patches.

    With `spacing_m` FPFH is computed on points about that far apart, and each valid point takes the
    histogram of the nearest: `max_neighbours` then reaches equally far at every image size.
    """
    points = xyz[:, valid].T.double().cpu().numpy()
    histograms, nearest = point_histograms(points, config)
    patch = patch_of_pixel(valid, patch_px)
    filled = torch.bincount(patch, minlength=(valid.shape[0] // patch_px) ** 2) > 0
    _, token, count = np.unique(patch.cpu(), return_inverse=True, return_counts=True)
    mean = scipy.sparse.csr_matrix(
        (1.0 / count[token], (token, nearest)), shape=(len(count), len(histograms))
    )
    tokens = torch.from_numpy(mean @ histograms).to(xyz)
    return tokens, copying_weights(filled, torch.arange(len(tokens), device=xyz.device), tokens)


def point_histograms(
    points: Float64[np.ndarray, "N 3"], config: PointEncoderConfig
) -> tuple[Float64[np.ndarray, "M 33"], Int[np.ndarray, " N"]]:
    """FPFH of the M points it is computed on, and which of them is nearest to each of `points`.

    Three histograms of 11 bins, each summing to 200: own and distance-weighted neighbours'.
    Normals point towards the camera at the origin.
    """
    if len(points) == 0:
        return np.zeros((0, 33)), np.zeros(0, dtype=np.int64)
    open3d = load_open3d()
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    nearest = np.arange(len(points))
    if config.spacing_m > 0:
        cloud = cloud.voxel_down_sample(config.spacing_m)
        nearest = cKDTree(np.asarray(cloud.points)).query(points)[1]
    near = open3d.geometry.KDTreeSearchParamHybrid
    cloud.estimate_normals(near(config.normal_radius_m, config.normal_max_neighbours))
    cloud.orient_normals_towards_camera_location(np.zeros(3))
    found = open3d.pipelines.registration.compute_fpfh_feature(
        cloud, near(config.fpfh_radius_m, config.fpfh_max_neighbours)
    )
    return np.asarray(found.data).T, nearest
