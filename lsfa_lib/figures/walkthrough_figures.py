"""The steps of one scan as figures: patches and tokens, groups on the cloud, where both meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from PIL import Image, ImageColor
from torch import Tensor

from lsfa_lib.datasets.relief import photo_axes, relief
from lsfa_lib.figures import clouds
from lsfa_lib.figures.image_grid import ImageRow, image_grid
from lsfa_lib.figures.scan_images import AnyImage, Box, Photo, Pixels, marked, pixels_of
from lsfa_lib.figures.style import DEFECTIVE, GOOD, GREY, add_reference, styled
from lsfa_lib.records import PatchFeatures, Sample

ENLARGED = 4
"""Pixels that show one pixel where a grid is drawn on it."""
POINTS = 6000
CENTRE = "#0072B2"


@dataclass(frozen=True)
class Marks:
    """Points drawn on a cloud."""

    name: str
    points: Float[np.ndarray, "N 3"]
    """Metres, in the camera's frame."""
    color: str
    size: int | float = 4
    sizes: Float[np.ndarray, " N"] | None = None
    """Of each point, where they differ."""


def sample_figure(sample: Sample, title: str) -> go.Figure:
    """The prepared square: photo, relief, the valid mask and, where there is one, the defect."""
    pixels, box = pixels_of(sample), Box(0, 0, len(sample.valid))
    mask = np.where(pixels.valid[..., None], np.array(ImageColor.getrgb(GOOD)), 24)
    images: dict[str, AnyImage] = {
        pixels.picture: pixels.photo,
        "relief (3D)": relief(pixels.xyz, pixels.valid),
        "valid": mask.astype(np.uint8),
    }
    if pixels.defect.any():
        images["true defect"] = marked(pixels.photo, pixels.defect)
    return image_grid([ImageRow("", images, box)], title, None, (4, 2))


def grid_figure(sample: Sample, patch: int, sides: tuple[int, int], title: str) -> go.Figure:
    """The grid of patches on the photo, and one patch magnified with the tokens it averages.

    `sides`: patches and tokens along one side of the square.
    """
    pixels, (grid, tokens) = pixels_of(sample), sides
    large = pixels.photo.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    side, row, column = len(pixels.photo), *divmod(patch, grid)
    px = side // grid
    top, left = max(0, (row - 2) * px), max(0, (column - 2) * px)
    near = pixels.photo[top : top + 5 * px, left : left + 5 * px]
    factor = 480 // (5 * px)
    near = near.repeat(factor, 0).repeat(factor, 1)
    offset = (top * factor, left * factor)
    near = _ruled(near, factor * side / tokens, (210, 210, 210), offset, 1)
    near = _ruled(near, float(factor * px), ImageColor.getrgb(DEFECTIVE), offset, 3)
    images: dict[str, AnyImage] = {
        f"{grid} x {grid} patches": _ruled(large, float(ENLARGED * px), (255, 255, 255), (0, 0), 1),
        "5 x 5 patches (orange), tokens (grey)": near,
    }
    box = Box(0, 0, side)
    ring = ((column + 0.5) * px - 0.5, (row + 0.5) * px - 0.5)
    shown = ImageRow("", images, box, {f"{grid} x {grid} patches": ring})
    return image_grid([shown], title, None, (2, 1))


def _ruled(
    image: Photo, step: float, color: tuple[int, ...], offset: tuple[int, int], width: int
) -> Photo:
    """The image with lines every `step` pixels of a larger one that it was cut from at `offset`."""
    drawn = image.copy()
    for axis, start in enumerate(offset):
        count = drawn.shape[axis]
        first = int(np.ceil(start / step))
        for number in range(first, int((start + count) / step) + 1):
            at = round(number * step - start)
            lines: list[Any] = [slice(None), slice(None)]
            lines[axis] = slice(max(0, at - width // 2), at + (width + 1) // 2)
            drawn[tuple(lines)] = color
    return drawn


def marked_cloud(
    sample: Sample,
    choices: Mapping[str, Sequence[Marks]],
    title: str,
    images: ImageRow,
    whole: bool = True,
) -> go.Figure:
    """Marks on the part, which is drawn pale if `whole`; buttons choose between sets of marks."""
    pixels = pixels_of(sample)
    figure = image_grid([images], title, None, (2, 2), with_cloud=True)
    points = clouds.surface_of(pixels)[clouds.spread_points(pixels.valid, POINTS)]
    marker = {"size": 2, "color": "#a9b4c0", "opacity": 0.55}
    if whole:
        figure.add_scatter3d(**clouds.cloud(points, {"marker": marker, "hoverinfo": "skip"}))
    base = len(figure.data)
    shown = next(iter(choices))
    owner = []
    for choice, marks in choices.items():
        for each in marks:
            figure.add_scatter3d(**_trace(pixels, each), visible=choice == shown)
            owner.append(choice)
    places = list(range(base, base + len(owner)))
    view = clouds.scene(points)
    figure.update_layout(scene=view)
    if len(choices) > 1:
        buttons: dict[str, list[Any]] = {
            choice: [{"visible": [choice == other for other in owner]}, places]
            for choice in choices
        }
        clouds.add_buttons(figure, buttons)
    return figure


def _trace(pixels: Pixels, marks: Marks) -> dict[str, Any]:
    axes = photo_axes(pixels.xyz, pixels.valid)
    own = pixels.xyz[pixels.valid] @ axes.T
    points = marks.points.astype(np.float64) * 1000 @ axes.T
    points = points - (own.min(axis=0) + own.max(axis=0)) / 2
    size = marks.size if marks.sizes is None else marks.sizes.round(1)
    coloring = {
        "marker": {"size": size, "color": marks.color, "line": {"width": 0}},
        "hovertemplate": f"{marks.name}<br>{clouds.PLACE}",
        "name": marks.name,
    }
    return clouds.cloud(points, coloring)


def place_images(sample: Sample, places: Mapping[str, int], grid: int) -> ImageRow:
    """The photo once for each place, with a ring around its patch."""
    pixels = pixels_of(sample)
    side, px = len(pixels.photo), len(pixels.photo) / grid
    small = np.asarray(Image.fromarray(pixels.photo).resize((side, side)))
    rings = {}
    for name, patch in places.items():
        row, column = divmod(patch, grid)
        rings[name] = ((column + 0.5) * px - 0.5, (row + 0.5) * px - 0.5)
    images: dict[str, AnyImage] = dict.fromkeys(places, small)
    return ImageRow("", images, Box(0, 0, side), rings)


def verdict_figure(
    validation: Sequence[float], threshold: float, score: float, title: str
) -> go.Figure:
    """Scores of good validation parts, the threshold they set, and the score of this scan."""
    figure = go.Figure()
    for name, values, color, symbol in (
        ("good validation part", list(validation), GOOD, "circle"),
        ("this scan", [score], DEFECTIVE, "diamond"),
    ):
        figure.add_scatter(
            x=values,
            y=[name + " "] * len(values),
            mode="markers",
            marker={"size": 15, "color": color, "symbol": symbol, "line": {"width": 1}},
            hovertemplate=f"{name}: %{{x:.2f}}<extra></extra>",
            showlegend=False,
        )
    add_reference(figure, threshold, f"threshold {threshold:.2f}", {"color": GREY, "dash": "dash"})
    styled(figure, title, "image score, in standard deviations of good validation parts")
    return figure.update_yaxes(automargin=True, showline=False, ticks="").update_layout(height=260)


def groups_figure(
    sample: Sample,
    centres: Float[Tensor, "G 3"],
    groups: Float[Tensor, "G K 3"],
    places: Mapping[str, int],
    grid: int,
) -> go.Figure:
    """All group centres, and the points of the group nearest to each place."""
    total = Marks("group centre", centres.cpu().numpy(), CENTRE, 3)
    choices: dict[str, list[Marks]] = {"all centres": [total]}
    for name, patch in places.items():
        at = _patch_points(sample, patch, grid).mean(dim=0)
        nearest = int((centres - at).norm(dim=1).argmin())
        own = (groups[nearest] + centres[nearest]).cpu().numpy()
        centre = Marks("its centre", centres[nearest : nearest + 1].cpu().numpy(), CENTRE, 9)
        choices[f"a group, {name}"] = [Marks("points of one group", own, DEFECTIVE), centre]
    title = f"{len(centres)} groups of {groups.shape[1]} points; each group becomes one token"
    return marked_cloud(sample, choices, title, place_images(sample, places, grid))


def meeting_figure(
    sample: Sample,
    features: PatchFeatures,
    centres: Float[Tensor, "G 3"],
    places: Mapping[str, int],
) -> go.Figure:
    """Row t of the sparse map for some patches: their points, and the groups they draw from."""
    weights, grid = features.by_modality["3d"].weights, features.grid[0]
    starts, columns = weights.crow_indices(), weights.col_indices()
    points = sample.xyz[:, sample.valid].T.cpu()
    choices, counts = {}, []
    for name, patch in places.items():
        entries = slice(int(starts[patch]), int(starts[patch + 1]))
        drawn, share = centres[columns[entries]].cpu(), weights.values()[entries].cpu().numpy()
        own = _patch_points(sample, patch, grid)
        reach = 3 * (drawn - own.mean(dim=0)).norm(dim=1).max()
        near = points[(points - own.mean(dim=0)).norm(dim=1) < reach].numpy()
        choices[name] = [
            Marks("point of the part", near, "#a9b4c0", 3),
            Marks("group, larger: more weight", drawn.numpy(), CENTRE, 4, 8 + 30 * share),
            Marks("point of the patch", own.numpy(), DEFECTIVE, 6),
        ]
        counts.append(f"{len(share)} groups at {name}")
    title = f"A patch mixes the features of a few groups: {', '.join(counts)}"
    return marked_cloud(sample, choices, title, place_images(sample, places, grid), whole=False)


def _patch_points(sample: Sample, patch: int, grid: int) -> Float[Tensor, "n 3"]:
    """The valid points of a patch, metres."""
    px = len(sample.valid) // grid
    row, column = (at * px for at in divmod(patch, grid))
    inside = (slice(row, row + px), slice(column, column + px))
    return sample.xyz[:, *inside][:, sample.valid[inside]].T.cpu()
