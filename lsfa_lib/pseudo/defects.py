"""Artificial defects on good samples, to choose a configuration or to train heads on.

They are generic, as in self-supervised methods: regions pasted from elsewhere (CutPaste) or blended
in (DRAEM), dents, bumps and stains. They are not modelled on the real defects of any data set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor

from lsfa_lib.config.fields import PseudoKind as Kind
from lsfa_lib.datasets.preprocess import IMAGENET_MEAN, IMAGENET_STD
from lsfa_lib.pseudo.blobs import DEFAULTS, Blob, PseudoSettings, drawn_blob
from lsfa_lib.records import MODALITIES, Modality, Sample
from lsfa_lib.storage.files import InputError

KINDS: tuple[Kind, ...] = get_args(Kind)
CHANGES: dict[Kind, tuple[Modality, ...]] = {
    "pasted": ("3d", "rgb"),
    "blended": ("rgb",),
    "dent": ("3d",),
    "bump": ("3d",),
    "colour": ("rgb",),
}
"""What each kind changes."""
PLACES = 64


@dataclass(frozen=True)
class _Edit:
    """New values of a blob's n pixels and c colour pixels; None: unchanged."""

    colours: Float[np.ndarray, "c 3"] | None = None
    """0 to 1."""
    points: Float[np.ndarray, "n 3"] | None = None
    """Metres."""


@dataclass(frozen=True)
class _Case:
    """Input of an edit; `rng` is in the state after drawing the blob."""

    sample: Sample
    donor: Sample
    blob: Blob
    rng: np.random.Generator
    settings: PseudoSettings


def pseudo_defects(
    samples: list[Sample],
    seed: int,
    settings: PseudoSettings = DEFAULTS,
    modalities: Collection[Modality] = MODALITIES,
) -> list[Sample]:
    """Samples with one defect each: every kind on the first sample, then on the next one.

    Kinds that change none of the `modalities` are left out. The donor of a sample is the next one
    (of the last sample the first; a single sample is its own donor). Each defect has its own
    location and strength.
    """
    return [
        pseudo_defect(sample, samples[(i + 1) % len(samples)], kind, own, settings)
        for i, sample in enumerate(samples)
        for kind, own in seeds_of(seed, i).items()
        if set(CHANGES[kind]) & set(modalities)
    ]


def seeds_of(seed: int, scan: int) -> dict[Kind, int]:
    """The seed of each kind on the scan of that number."""
    own = np.random.SeedSequence((seed, scan)).generate_state(len(KINDS))
    return dict(zip(KINDS, own.tolist(), strict=True))


def pseudo_defect(
    sample: Sample, donor: Sample, kind: Kind, seed: int, settings: PseudoSettings = DEFAULTS
) -> Sample:
    """A copy of `sample` with one defect inside its `valid`, named `<name>#<kind>`.

    `defect` marks exactly the pixels whose colour or point differs from the sample's; all others
    are bit-identical. One seed gives every kind the same outline at the same location.
    Raises InputError if the sample or the donor has no valid pixel.
    """
    for given in (sample, donor):
        if not given.valid.any():
            raise InputError(
                f"{given.name}: no valid pixel, at least 1 is needed to place a defect; "
                "leave this scan out"
            )
    rng = np.random.default_rng(seed)
    blob = drawn_blob(sample.valid.cpu().numpy(), rng, settings, sample.rgb.shape[1])
    edit = EDIT[kind](_Case(sample, donor, blob, rng, settings))
    rgb, xyz = sample.rgb.clone(), sample.xyz.clone()
    if edit.points is not None:
        rows, columns = torch.from_numpy(blob.pixels).T.to(xyz.device)
        xyz[:, rows, columns] = torch.from_numpy(edit.points.T).to(xyz)
    changed = (xyz != sample.xyz).any(0)
    if edit.colours is not None:
        (inside, of), normalised = blob.colour_pixels, (edit.colours - IMAGENET_MEAN) / IMAGENET_STD
        rows, columns = torch.from_numpy(inside).T.to(rgb.device)
        rgb[:, rows, columns] = torch.from_numpy(normalised.T).to(rgb)
        differs = (rgb != sample.rgb).any(0)[rows, columns].cpu().numpy()
        rows, columns = torch.from_numpy(blob.pixels[of[differs]]).T.to(rgb.device)
        changed[rows, columns] = True
    name = f"{sample.name}#{kind}"
    return replace(sample, rgb=rgb, xyz=xyz, defect=changed, name=name, kind=f"pseudo_{kind}")


def _pasted(case: _Case) -> _Edit:
    """The donor's colours, and its relief on the sample's own slope.

    z' = plane(z) + z_donor - plane(z_donor), planes fitted to the two patches. No pixel moves
    farther than the deepest dent, so that a step in the donor's depth causes no spike.
    """
    source = _source(case)
    points = _points(case.sample, case.blob.pixels)
    relief = _off_plane(_points(case.donor, source)) - _off_plane(points)
    limit = case.settings.depth_mm[1] / 1000
    points[:, 2] += np.clip(relief, -limit, limit)
    return _Edit(_texture(case, source), points)


def _blended(case: _Case) -> _Edit:
    """One opacity all over: rgb' = (1 - opacity) rgb + opacity rgb_donor    (as in DRAEM)."""
    opacity = case.rng.uniform(*case.settings.opacity)
    colours = _colours(case.sample, case.blob.colour_pixels[0])
    return _Edit((1 - opacity) * colours + opacity * _texture(case, _source(case)))


def _dent(case: _Case) -> _Edit:
    """Pushed in along the normal n, away from the camera: xyz' = xyz + depth profile n."""
    return _Edit(points=_points(case.sample, case.blob.pixels) + _sunk(case))


def _bump(case: _Case) -> _Edit:
    """The dent of the same seed, outwards: xyz' = xyz - depth profile n."""
    return _Edit(points=_points(case.sample, case.blob.pixels) - _sunk(case))


def _colour(case: _Case) -> _Edit:
    """A stain, a soft-edged shift of brightness and hue: rgb' = rgb + profile shift."""
    inside, of = case.blob.colour_pixels
    shift = case.blob.profile[of, None] * _shift(case.settings.colour_shift, case.rng)
    return _Edit(_shifted(_colours(case.sample, inside), shift))


EDIT: dict[Kind, Callable[[_Case], _Edit]] = {
    "pasted": _pasted,
    "blended": _blended,
    "dent": _dent,
    "bump": _bump,
    "colour": _colour,
}


def _colours(sample: Sample, pixels: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    return _at(sample.rgb, pixels) * IMAGENET_STD + IMAGENET_MEAN


def _points(sample: Sample, pixels: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    return _at(sample.xyz, pixels)


def _at(image: Float[Tensor, "3 S S"], pixels: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    rows, columns = torch.from_numpy(pixels).T.to(image.device)
    return image[:, rows, columns].T.double().cpu().numpy()


def _sunk(case: _Case) -> Float[np.ndarray, "n 3"]:
    depth = case.rng.uniform(*case.settings.depth_mm) / 1000
    inwards = _inwards(_points(case.sample, case.blob.around))
    return depth * case.blob.profile[:, None] * inwards


def _texture(case: _Case, source: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "c 3"]:
    shift = _shift(case.settings.donor_shift, case.rng)
    return _shifted(_colours(case.donor, case.blob.colour_pixels_at(source)), shift)


def _source(case: _Case) -> Int[np.ndarray, "n 2"]:
    """Valid pixels of the donor in the blob's shape, rotated by 90 degrees so that grain differs.

    The best of PLACES random locations: inside the donor and away from the blob's own location,
    where parts of one product look alike. Pixels outside the donor are replaced by the nearest
    valid one.
    """
    valid = case.donor.valid.cpu().numpy()
    nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    pixels, taken = case.blob.pixels, np.zeros_like(valid)
    last = np.array(valid.shape) - 1
    taken[tuple(pixels.T)] = True
    offsets = (pixels - pixels[0])[:, ::-1] * (1, -1)
    candidates = case.rng.permutation(np.argwhere(valid))[:PLACES, None] + offsets
    within = np.clip(candidates, 0, last)
    index = (within[..., 0], within[..., 1])
    fits = (candidates == within).all(2) & valid[index] & ~taken[index]
    best = within[fits.sum(1).argmax()]
    return nearest[:, best[:, 0], best[:, 1]].T.astype(np.int64)


def _off_plane(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Residual of z from its best-fitting plane over x and y.

    A plane over rows and columns would leave the uneven steps of resizing, as ripples on a slope.
    """
    away = points - points.mean(0)
    return away[:, 2] - away[:, :2] @ np.linalg.lstsq(away[:, :2], away[:, 2])[0]


def _inwards(points: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, " 3"]:
    """Unit normal of the surface through the points, pointing away from the camera.

    The viewing ray instead, if the points do not form a plane or it is seen edge-on.
    """
    centre = points.mean(0)
    ray = centre / np.linalg.norm(centre)
    spread, axes = np.linalg.eigh(np.cov(points - centre, rowvar=False, bias=True))
    facing = axes[:, 0] @ ray
    # Squared lengths: no surface if a third as thick as wide, or a thirtieth as wide as long.
    if spread[1] <= max(10 * spread[0], spread[2] / 1000) or abs(facing) < 0.5:
        return ray
    return axes[:, 0] * np.sign(facing)


def _shift(strength: tuple[float, float], rng: np.random.Generator) -> Float[np.ndarray, "1 3"]:
    """A random colour direction; the drawn strength is that of the channel that changes most."""
    direction = rng.standard_normal((1, 3))
    return rng.uniform(*strength) * direction / np.abs(direction).max()


def _shifted(
    colours: Float[np.ndarray, "n 3"], shift: Float[np.ndarray, "#n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Colours shifted within 0 to 1; opposite if that has more than twice the room."""
    there, back = (colours + shift).clip(0, 1), (colours - shift).clip(0, 1)
    room, other_room = (np.abs(moved - colours).sum() for moved in (there, back))
    return there if room >= other_room / 2 else back
