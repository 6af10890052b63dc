"""One scan as small pictures: photo, relief, ground truth, and maps on one colour scale.

One scale serves all maps, all modes and all scans of a page, so that equal colours mean equal
evidence: 0 % is the median of the good test parts' surface in that mode, 100 % the value that one
in a thousand of their pixels reaches. Colours end at 250 %; what lies above looks like 250 %.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb
from scipy import ndimage

from lsfa_lib.datasets.preprocess import IMAGENET_MEAN, IMAGENET_STD
from lsfa_lib.figures.figures import DEFECTIVE
from lsfa_lib.records import Mode, Prediction, Sample

TOP = 250
"""Per cent at which colours end; the 8-bit levels above it are left for outline and nothing."""
OUTLINE, NOTHING = 254, 255
COLORSCALE = "Viridis"
DEFECT_RGB = tuple(bytes.fromhex(DEFECTIVE[1:]))

Ranges = dict[Mode, tuple[float, float]]
"""Map values that are 0 % and 100 % in each mode."""


def score_ranges(samples: Sequence[Sample], predictions: dict[Mode, list[Prediction]]) -> Ranges:
    """Map values of 0 % and 100 % in each mode: median and 99.9th percentile of good surface.

    Without a good test scan all scans are taken.
    """
    good = [i for i, sample in enumerate(samples) if sample.kind == "good"]
    ranges: Ranges = {}
    for mode, found in predictions.items():
        pixels = [
            found[i].anomaly_map[samples[i].valid].cpu().numpy()
            for i in good or range(len(samples))
        ]
        low, high = np.percentile(np.concatenate(pixels), (50, 99.9))
        ranges[mode] = (float(low), float(high) if high > low else float(low) + 1.0)
    return ranges


def percent(
    anomaly_map: Float[np.ndarray, "*shape"], bounds: tuple[float, float]
) -> UInt8[np.ndarray, "*shape"]:
    """Map values on the page's scale, whole per cent from 0 to 250."""
    low, high = bounds
    return np.clip(np.rint(100 * (anomaly_map - low) / (high - low)), 0, TOP).astype(np.uint8)


def photograph(sample: Sample) -> UInt8[np.ndarray, "S S 3"]:
    """The image before ImageNet normalisation."""
    rgb = sample.rgb.double().cpu().permute(1, 2, 0).numpy() * IMAGENET_STD + IMAGENET_MEAN
    return np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8)


def relief(
    xyz: Float[np.ndarray, "S S 3"], valid: Bool[np.ndarray, "S S"]
) -> UInt8[np.ndarray, "S S"]:
    """The surface alone, lit from the upper left: bright where it leans there."""
    # Missing readings take the nearest measured one, so that holes do not cast false edges.
    near = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    filled = ndimage.gaussian_filter(xyz[tuple(near)], (1.2, 1.2, 0))
    normals = np.cross(np.gradient(filled, axis=0), np.gradient(filled, axis=1))
    normals /= np.linalg.norm(normals, axis=2, keepdims=True) + 1e-12
    right, up, near = photo_axes(xyz, valid)
    flat = normals[valid].mean(axis=0)
    lean = (normals - flat) * (1 if flat @ near > 0 else -1)
    shade = 0.6 + 0.6 * (lean @ (up - right))
    return np.where(valid, np.clip(shade, 0.05, 1) * 255, 0).astype(np.uint8)


def photo_axes(
    xyz: Float[np.ndarray, "S S 3"], valid: Bool[np.ndarray, "S S"]
) -> Float[np.ndarray, "3 3"]:
    """Unit vectors, as rows, of the photo's right and up and of the way to the camera.

    Right and down are those of the plane that fits the coordinates over rows and columns best, so
    that any camera's axes, mirrored ones too, are shown as the photo shows the part.
    """
    rows, columns = np.nonzero(valid)
    pixels = np.stack((columns, rows, np.ones(len(rows))), axis=1)
    right, down = np.linalg.lstsq(pixels, xyz[valid], rcond=None)[0][:2]
    right = right / (np.linalg.norm(right) + 1e-12)
    down = down - (down @ right) * right
    down /= np.linalg.norm(down) + 1e-12
    near = np.cross(right, down)
    # The camera is where the coordinates begin.
    near *= -1 if near @ xyz[valid].mean(axis=0) > 0 else 1
    return np.stack((right, -down, near))


def marked(
    photo: UInt8[np.ndarray, "S S 3"], defect: Bool[np.ndarray, "S S"]
) -> UInt8[np.ndarray, "S S 3"]:
    """The photo in grey, the true defect in colour."""
    grey = photo.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.8
    grey[defect] = 0.25 * grey[defect] + 0.75 * np.array(DEFECT_RGB)
    return grey.astype(np.uint8)


def map_image(
    level: UInt8[np.ndarray, "S S"], valid: Bool[np.ndarray, "S S"], defect: Bool[np.ndarray, "S S"]
) -> Image.Image:
    """The map in the page's colours, clear off the part, the true defect outlined."""
    index = np.where(valid, level, NOTHING).astype(np.uint8)
    index[ndimage.binary_dilation(defect, iterations=2) & ~defect] = OUTLINE
    image = Image.fromarray(index, "P")
    shades = sample_colorscale(COLORSCALE, [i / TOP for i in range(TOP + 1)])
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: TOP + 1] = [unlabel_rgb(shade) for shade in shades]
    table[OUTLINE] = DEFECT_RGB
    image.putpalette(table.tobytes())
    image.info["transparency"] = NOTHING
    return image


def uri(image: Image.Image | UInt8[np.ndarray, "*shape"], form: str = "png") -> str:
    """The picture as a data URI."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, form, quality=88, optimize=True)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
