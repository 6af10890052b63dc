"""Scan -> Sample: remove the background plane, keep the largest part, pad, resize, make `valid`.

Everything is computed from the raw scan and nothing is written back: repeating it is harmless.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from scipy import ndimage

from lsfa_lib.config import PreprocessConfig
from lsfa_lib.datasets.plane import (
    NO_REMOVAL,
    height_above,
    plane_of,
    readings_of,
    require_readings,
)
from lsfa_lib.records import Mask, Points, Sample, Scan
from lsfa_lib.storage.files import InputError

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
SECOND_PART = 0.2
"""A component of this share of the largest is a part, not dirt."""


def prepare(
    scan: Scan, config: PreprocessConfig, colour_size: int = 0, part: Mask | None = None
) -> Sample:
    """The part of `scan` on black (or on its own background) in a square of `image_size`.

    `part` is the result of `part_of` if it is known already.

    Colour, at `colour_size` px a side (0: `image_size`): PIL's antialiased bicubic interpolation,
    then ImageNet's mean and std. Points and masks: nearest, at pixel centres like the colour. A
    defect thinner than one pixel of the square can vanish, as in the published evaluations; the
    scan keeps the label of its folder.
    Raises InputError naming the scan if it has no plane, no part, or no usable coordinates.
    """
    depth = "3d" in scan.modalities
    other = 0
    if part is None:
        part, other = part_and_other(scan, config)
    rgb = scan.rgb
    if config.rgb_background == "masked" and depth:
        rgb = rgb * _colour_mask(part, readings_of(scan.xyz))[..., None]
    side, fine = config.image_size, colour_size or config.image_size
    colour = Image.fromarray(squared(rgb)).resize((fine, fine), Image.Resampling.BICUBIC)
    valid = _nearest(squared(part), side)
    if not valid.any():
        raise InputError(
            f"{scan.path}: the part of {part.sum()} readings vanishes at {side} px; "
            "raise preprocess.image_size or crop the scan around the part"
        )
    xyz = np.where(valid[..., None], _nearest(squared(scan.xyz), side), np.float32(0))
    return Sample(
        rgb=_normalised(np.asarray(colour)),
        xyz=torch.from_numpy(np.ascontiguousarray(xyz.transpose(2, 0, 1))),
        valid=torch.from_numpy(valid),
        defect=torch.from_numpy(_nearest(squared(scan.defect), side)),
        name=scan.name,
        kind=scan.kind,
        notes=_second_part(part, other),
        modalities=scan.modalities,
    )


def part_of(scan: Scan, config: PreprocessConfig) -> Mask:
    """True on the part; on all of an image without 3D, which has no plane to tell it by.

    Without removal of the background, at every reading.
    """
    return part_and_other(scan, config)[0]


def part_and_other(scan: Scan, config: PreprocessConfig) -> tuple[Mask, int]:
    """As `part_of`, and the number of readings of the largest component that is left out."""
    if "3d" not in scan.modalities:
        return np.ones(scan.rgb.shape[:2], bool), 0
    if config.background_removal == "none":
        require_readings(scan)
        return readings_of(scan.xyz), 0
    return _part_off_plane(scan, config)


def _second_part(part: Mask, other: int) -> tuple[str, ...]:
    """A sentence if another component is nearly as large as the part."""
    if other < SECOND_PART * part.sum():
        return ()
    return (
        f"another part of {other} readings lies beside the one of {part.sum()} that is scored; "
        "capture one part per frame, or score all with preprocess.cluster_method every_part",
    )


def _part_off_plane(scan: Scan, config: PreprocessConfig) -> tuple[Mask, int]:
    height = height_above(scan.xyz, plane_of(scan, config))
    off_plane = readings_of(scan.xyz) & (np.abs(height) >= config.plane_distance_m)
    clean = _largest_cluster if config.cluster_method == "dbscan" else _largest_component
    part, other = clean(off_plane, scan.xyz, config)
    if not part.any():
        raise InputError(
            f"{scan.path}: no part found among {off_plane.sum()} readings farther than "
            f"{config.plane_distance_m * 1000:g} mm from the background plane, expected a "
            f"cluster of at least {config.cluster_min_points}; check that there is a "
            "part in view, or lower preprocess.plane_distance_m (for --config, `preprocess: "
            f"{{plane_distance_m: {config.plane_distance_m / 4:g}}}`); if the part fills the "
            f"frame, {NO_REMOVAL}"
        )
    return part, other


def _largest_component(mask: Mask, xyz: Points, config: PreprocessConfig) -> tuple[Mask, int]:
    """DBSCAN's largest cluster, and the size of the next.

    They are found on the pixel grid, where lengths become pixels by the median pitch.
    Dense pixels are joined across gaps of `cluster_gap_m`; readings within half a gap are included.
    Seen from above a step in depth is one part, so that only gaps in the image divide it.
    """
    row, rows = mask[::4], xyz[::4]  # a quarter of the rows suffices for the pitch
    steps = np.linalg.norm((rows[:, 1:] - rows[:, :-1])[row[:, 1:] & row[:, :-1]], axis=1)
    if len(steps) == 0:
        return np.zeros_like(mask), 0
    reach = int(config.cluster_gap_m / max(float(np.median(steps)), 1e-9))
    reach = min(max(reach, 1), min(mask.shape) // 2)
    # A quarter window is the corner of a solid part: on coarse grids no part has more points.
    window = 2 * reach + 1
    dense = mask & _crowded(mask, reach, min(config.cluster_min_points, window**2 // 4))
    labels, count = ndimage.label(_crowded(dense, reach // 2, 1), structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros_like(mask), 0
    sizes = np.bincount(labels[dense], minlength=count + 1)
    kept = sizes == sizes.max()
    if config.cluster_method == "every_part":
        kept = sizes >= max(config.cluster_min_points, SECOND_PART * sizes.max())
    else:
        kept[sizes.argmax() + 1 :] = False
    part = mask & kept[labels]
    if part.sum() < config.cluster_min_points:
        return np.zeros_like(mask), 0
    return part, int(sizes[~kept].max(initial=0))


def _crowded(mask: Mask, reach: int, at_least: int) -> Mask:
    """True where the square of `reach` pixels around holds `at_least` True pixels."""
    side = 2 * reach + 1
    share = ndimage.uniform_filter(mask.astype(np.float32), side, mode="constant")
    return share > (at_least - 0.5) / side**2  # half a pixel of tolerance for rounding


def _largest_cluster(mask: Mask, xyz: Points, config: PreprocessConfig) -> tuple[Mask, int]:
    """The largest cluster of DBSCAN in space, as in the papers, and the size of the next.

    Its noise label never wins.
    With `noise_competes` it can, as in the released code, and the noise is then the part.
    """
    part = np.zeros_like(mask)
    if not mask.any():
        return part, 0
    from sklearn.cluster import DBSCAN  # slow to import, and rarely needed

    clusters = DBSCAN(eps=config.cluster_gap_m, min_samples=config.cluster_min_points)
    labels = clusters.fit_predict(xyz[mask]) + 1  # noise becomes 0
    sizes = np.bincount(labels)
    if not config.noise_competes:
        sizes[0] = 0
    part[mask] = (labels == sizes.argmax()) & (sizes.max() > 0)
    others = np.delete(sizes, [0, int(sizes.argmax())])
    return part, int(others.max(initial=0))


def _colour_mask(part: Mask, readings: Mask) -> Mask:
    """The part and the pixels without a reading inside it, whose colour is the part's."""
    regions = ndimage.label(np.pad(~part, 1, constant_values=True))[0]
    enclosed = regions[1:-1, 1:-1] != regions[0, 0]
    return part | (enclosed & ~readings)


def squared(image: Shaped[np.ndarray, "H W *c"]) -> Shaped[np.ndarray, "L L *c"]:
    """`image` padded with zeros to a square, centred."""
    side = max(image.shape[:2])
    margins = [((side - n) // 2, side - n - (side - n) // 2) for n in image.shape[:2]]
    return np.pad(image, margins + [(0, 0)] * (image.ndim - 2))


def _nearest(image: Shaped[np.ndarray, "L L *c"], side: int) -> Shaped[np.ndarray, "S S *c"]:
    """The pixels of `image` nearest to the pixel centres of a square of `side`."""
    index = ((np.arange(side) + 0.5) * len(image) / side).astype(np.int64)
    return image[index[:, None], index]


def _normalised(image: UInt8[np.ndarray, "S S 3"]) -> Float[torch.Tensor, "3 S S"]:
    """By ImageNet's mean and std; the 256 values of a channel are looked up, which is faster."""
    values = (np.arange(256, dtype=np.float32)[:, None] / 255 - IMAGENET_MEAN) / IMAGENET_STD
    found = np.empty((3, *image.shape[:2]), np.float32)
    for channel in range(3):
        np.take(values[:, channel], image[..., channel], out=found[channel], mode="clip")
    return torch.from_numpy(found)
