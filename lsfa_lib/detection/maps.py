"""Patch scores as maps at image size, and the image score."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lsfa_lib.config import Config
from lsfa_lib.records import PatchFeatures, Prediction


def prediction_of(
    patches: Float[Tensor, " P"], largest: float, features: PatchFeatures, config: Config
) -> Prediction:
    """Patch scores as a smoothed map, with the image score.

    The score is `largest`, that of the most anomalous patch, or the mean of the largest pixels of
    the map (`top_fraction`) or of its contrast (`contrast`).
    """
    inside, detector = map_valid(features, config), config.detector
    anomaly = smooth_map(patches.view(features.grid), inside, config)
    if detector.image_score == "contrast":
        scored = contrast(anomaly, inside, detector.surround * len(anomaly))
    elif detector.image_score == "top_fraction":
        scored = anomaly
    else:
        return Prediction(anomaly, largest)
    return Prediction(anomaly, top_mean(scored, detector.top_fraction))


def contrast(
    anomaly: Float[Tensor, "S S"], inside: Bool[Tensor, "S S"], sigma: float
) -> Float[Tensor, "S S"]:
    """The map minus the mean of its valid pixels around, by a Gaussian of `sigma` px; 0 outside.

    c = a - G * (v a) / (G * v), v the valid mask (normalised convolution)
    """
    valid = inside[None, None].to(anomaly)
    around = blur(anomaly * valid, sigma) / blur(valid, sigma).clamp_min(0.1)
    return ((anomaly - around) * valid)[0, 0]


def top_mean(anomaly: Float[Tensor, "S S"], fraction: float) -> float:
    """Mean of this share of the pixels, those with the largest values, at least one."""
    count = max(1, round(fraction * anomaly.numel()))
    return float(anomaly.flatten().topk(count).values.mean())


def patch_map(values: Float[Tensor, " V"], features: PatchFeatures) -> Float[Tensor, " P"]:
    """The values of the valid patches placed on all P patches, 0 elsewhere."""
    patches = torch.zeros_like(features.valid, dtype=values.dtype)
    patches[features.valid] = values
    return patches


def map_valid(features: PatchFeatures, config: Config) -> Bool[Tensor, "S S"]:
    """Pixels of valid patches."""
    px = config.projection.patch_px
    return features.valid.view(features.grid).repeat_interleave(px, 0).repeat_interleave(px, 1)


def smooth_map(
    patches: Float[Tensor, "R C"], inside: Bool[Tensor, "S S"], config: Config
) -> Float[Tensor, "S S"]:
    """Patch scores as a map at image size: bilinear interpolation, then a Gaussian blur."""
    size = config.preprocess.image_size
    anomaly = F.interpolate(patches[None, None], (size, size), mode="bilinear")
    sigma = config.detector.blur * size
    if config.detector.blur_8bit:
        top = anomaly.max().clamp_min(1e-12)
        anomaly = (anomaly / top * 255).round() / 255 * top
    anomaly = blur(anomaly, sigma)
    if config.detector.edge_correction:
        anomaly = anomaly / blur(inside[None, None].to(anomaly), sigma).clamp_min(0.5)
    return anomaly[0, 0]


def blur(image: Float[Tensor, "1 1 S S"], sigma: float) -> Float[Tensor, "1 1 S S"]:
    """Gaussian blur in float, truncated at 4 sigma, with reflected borders; sigma in pixels.

    W a W^T, W the blur of one dimension as a matrix: at the size of maps a quarter of the time of
    two convolutions.
    """
    if sigma == 0:
        return image
    along = _blur_matrix(image.shape[-1], sigma).to(image)
    return along @ image @ along.T


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _blur_matrix(side: int, sigma: float) -> Float[Tensor, "S S"]:
    """The blur of one dimension as a matrix; its rows sum to 1."""
    reach = int(4 * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.softmax(-steps.square() / (2 * sigma**2), dim=0)
    padded = F.pad(torch.eye(side, dtype=torch.float64)[None], (reach, reach), mode="reflect")
    return F.conv1d(padded.transpose(0, 1), kernel.view(1, 1, -1))[:, 0].T.float()
