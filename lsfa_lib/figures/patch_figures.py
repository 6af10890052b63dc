"""Values of patches drawn on the part they belong to, and where patches lie on other scans."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from PIL import Image, ImageColor

from lsfa_lib.figures.feature_space import Directions, colors
from lsfa_lib.figures.image_grid import ColorBar, ImageRow, image_grid
from lsfa_lib.figures.lesson_figures import PALETTE
from lsfa_lib.figures.scan_images import (
    TOP,
    AnyImage,
    Box,
    Pixels,
    indexed,
    level_of,
    map_image,
    marked,
    pixels_of,
    uri,
)
from lsfa_lib.figures.sliders import add_slider
from lsfa_lib.figures.style import GOOD, round_ticks
from lsfa_lib.records import Modality, PatchFeatures, Sample

Values = Float[np.ndarray, "*shape"]
"""(P,) of patches or (S, S) of pixels; NaN off the part."""
MOST_PX = 260
BLUE = np.array(ImageColor.getrgb(GOOD))


@dataclass(frozen=True)
class PatchRow:
    """One scan and what is drawn on it."""

    sample: Sample
    maps: dict[str, Values]
    title: str = ""
    rings: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(patch, patches along a side) of a ring, by the image it is on."""


def patch_maps(rows: Sequence[PatchRow], title: str, bar: ColorBar) -> go.Figure:
    """Photo and maps of scans on the scale of the bar, true defects outlined."""
    drawn = [_row(row, bar) for row in rows]
    count = max(len(row.images) for row in drawn)
    return image_grid(drawn, title, bar, (count, 2 if count > 1 else 1))


def scale_bar(title: str, low: float, high: float) -> ColorBar:
    """A bar of round numbers from `low` to `high`."""
    high = high if high > low else low + 1.0
    ticks = {low: f"{low:.3g}"} | {t: f"{t:g}" for t in round_ticks(low, high) if t > low}
    return ColorBar(title, ticks, high)


def slider_maps(
    row: PatchRow, steps: Mapping[str, Values], title: str, bar: ColorBar, prefix: str
) -> go.Figure:
    """One map of a scan next to its photo, with a slider over finished versions of it."""
    name = next(iter(row.maps))
    figure = patch_maps([row], title, bar)
    image = max(i for i, trace in enumerate(figure.data) if trace.type == "image")
    made = []
    for label, values in steps.items():
        own = uri(_row(replace(row, maps={name: values}), bar).images[name])
        made.append({"label": label, "method": "restyle", "args": [{"source": [own]}, [image]]})
    return add_slider(figure, made, prefix, list(steps).index(_same(steps, row.maps[name])))


def _same(steps: Mapping[str, Values], shown: Values) -> str:
    return next(label for label, values in steps.items() if values is shown)


def cluster_maps(sample: Sample, labels: Mapping[str, Values], title: str) -> go.Figure:
    """The part in colours by a number for each patch, an image per key."""
    pixels = pixels_of(sample)
    shown = np.array([ImageColor.getrgb(color) for color in PALETTE], np.uint8)
    palette = np.concatenate([np.zeros((1, 3), np.uint8), np.resize(shown, (254, 3))])
    images: dict[str, AnyImage] = {pixels.picture: pixels.box.cut(pixels.photo)}
    for name, values in labels.items():
        number = np.nan_to_num(_enlarged(values, pixels), nan=-1).astype(int) + 1
        number[~pixels.valid] = 0
        images[name] = indexed(pixels.box.cut(number.astype(np.uint8)), palette, clear=0)
    return image_grid([ImageRow("", images, pixels.box)], title, None, (len(images), 2))


def photo_rings(
    found: Mapping[str, tuple[Sample, int]],
    grid: int,
    title: str,
    columns: tuple[int, int] = (4, 2),
) -> go.Figure:
    """Photos of scans, each with a ring around one patch of a grid of `grid` x `grid`."""
    first, *_ = found.values()
    box = Box(0, 0, len(first[0].valid))
    images: dict[str, AnyImage] = {}
    rings = {}
    for name, (sample, patch) in found.items():
        pixels = pixels_of(sample)
        photo = marked(pixels.photo, pixels.defect) if pixels.defect.any() else pixels.photo
        images[name] = np.asarray(Image.fromarray(photo).resize((MOST_PX, MOST_PX)))
        rings[name] = _centre(sample, patch, grid)
    return image_grid([ImageRow("", images, box, rings)], title, None, columns)


def kept_patches(
    samples: Sequence[Sample], kept: Sequence[Sequence[int]], grid: int, title: str
) -> go.Figure:
    """Photos of training scans with the patches that a coreset kept in blue."""
    images: dict[str, AnyImage] = {}
    for sample, patches in zip(samples, kept, strict=True):
        pixels = pixels_of(sample)
        mask = np.zeros(grid * grid)
        mask[list(patches)] = 1
        lit = _enlarged(mask, pixels)[..., None] > 0
        grey = pixels.photo.mean(axis=2, keepdims=True).repeat(3, axis=2)
        photo = np.where(lit, 0.25 * grey + 0.75 * BLUE, grey).astype(np.uint8)
        name = f"{html.escape(sample.name.rsplit('/', 1)[1])}: {len(patches)} kept"
        images[name] = np.asarray(Image.fromarray(photo).resize((MOST_PX, MOST_PX)))
    box = Box(0, 0, len(samples[0].valid))
    return image_grid([ImageRow("", images, box)], title, None, (4, 2))


def feature_maps(
    found: Mapping[str, tuple[Sample, PatchFeatures]],
    directions: Directions,
    m: Modality,
    title: str,
) -> go.Figure:
    """Features in the colours of their main directions, an image per key."""
    images: dict[str, AnyImage] = {}
    for name, (sample, features) in found.items():
        size = len(sample.valid)
        painted = Image.fromarray(colors(directions, features, m))
        images[name] = np.asarray(painted.resize((size, size), Image.Resampling.NEAREST))
    box = Box(0, 0, size)
    return image_grid([ImageRow("", images, box)], title, None, (4, 2))


def _row(row: PatchRow, bar: ColorBar) -> ImageRow:
    pixels, low = pixels_of(row.sample), min(bar.ticks)
    box = pixels.box
    valid, defect = box.cut(pixels.valid), box.cut(pixels.defect)
    # `level_of` ends the colours at 250 %.
    bounds = (low, low + (bar.end - low) * 100 / TOP)
    images: dict[str, AnyImage] = {pixels.picture: box.cut(pixels.photo)}
    for name, values in row.maps.items():
        large = _enlarged(values, pixels)
        level = level_of(np.nan_to_num(large, nan=low), bounds)
        images[name] = map_image(box.cut(level), valid & box.cut(~np.isnan(large)), defect)
    rings = {name: _centre(row.sample, *place) for name, place in row.rings.items()}
    return ImageRow(row.title, images, box, rings)


def _centre(sample: Sample, patch: int, grid: int) -> tuple[float, float]:
    """(column, row) of a patch's middle, in pixels."""
    row, column = divmod(patch, grid)
    px = len(sample.valid) / grid
    return (column + 0.5) * px - 0.5, (row + 0.5) * px - 0.5


def _enlarged(values: Values, pixels: Pixels) -> Float[np.ndarray, "S S"]:
    """Values of patches as values of pixels; those of pixels unchanged."""
    side = len(pixels.valid)
    if values.ndim == 2 and len(values) == side:
        return values
    grid = round(values.size**0.5)
    return values.reshape(grid, grid).repeat(side // grid, 0).repeat(side // grid, 1)
