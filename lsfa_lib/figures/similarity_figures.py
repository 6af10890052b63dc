"""How similar the patches of scans are to one patch, as images with buttons for that patch."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool

from lsfa_lib.figures.clouds import add_buttons
from lsfa_lib.figures.feature_figures import names_of
from lsfa_lib.figures.feature_space import Spaces, View, similarity
from lsfa_lib.figures.image_grid import ColorBar, ImageRow, image_grid
from lsfa_lib.figures.scan_images import TOP, depth_in, map_image, pixels_of, uri
from lsfa_lib.storage.files import InputError

COSINES = ColorBar(
    "cosine similarity to the ringed patch",
    {0.0: "≤ 0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1.0: "1"},
    1.0,
)
PLACES = {
    "chosen": "the chosen pixel",
    "defect": "the defect",
    "middle": "the part's middle",
    "rim": "the part's rim",
}
Pixel = Sequence[int]
"""Row and column in the encoders' image; empty for none."""


def similarity_figure(asked: View, other: View, spaces: Spaces, pixel: Pixel = ()) -> go.Figure:
    """Cosine similarity of the patches of two scans to one patch of the first.

    Buttons choose the patch: in the defect, in the part's middle, at its rim, or at a pixel.
    """
    places = reference_patches(asked, tuple(pixel))
    rows = {
        place: [_row(view, (asked, patch), spaces) for view in (asked, other)]
        for place, patch in places.items()
    }
    title = similarity_sentence(closest_patches(asked, other, spaces, pixel))
    figure = image_grid(next(iter(rows.values())), title, COSINES, (99, 3))
    _, ring, *rest = range(len(figure.data) - 1)
    columns = len(names_of(spaces))
    changed = [ring, *rest[:columns], *rest[columns + 1 :]]
    buttons = {}
    for place, pair in rows.items():
        sources = [uri(image) for row in pair for image in list(row.images.values())[1:]]
        ((column, line),) = pair[0].rings.values()
        unset = [None] * len(sources)
        ring_at: dict[str, Any] = {"x": [[column] * 2, *unset], "y": [[line] * 2, *unset]}
        buttons[place] = [ring_at | {"source": [None, *sources]}, changed]
    add_buttons(figure, buttons)
    return figure


def reference_patches(view: View, pixel: tuple[int, ...] = ()) -> dict[str, int]:
    """Patches to compare with: a pixel's, the defect's middle, the part's middle, its rim.

    Raises InputError for a pixel (row, column) that is not on the part.
    """
    features, grid = view.features["frozen"], view.grid
    valid = features.valid.view(features.grid).cpu().numpy()
    depth = depth_in(valid)
    found: dict[str, int] = {}
    if pixel:
        row, column = (int(p) // (len(view.sample.valid) // grid) for p in pixel)
        if not (0 <= row < grid and 0 <= column < grid and valid[row, column]):
            raise InputError(
                f"pixel {tuple(pixel)} (row, column) is not on the part of {view.sample.name}; "
                "choose one on it"
            )
        found["chosen"] = row * grid + column
    touched = view.touched.view(features.grid).cpu().numpy()
    if touched.any():
        found["defect"] = _deepest(touched)
    found["middle"] = int(depth.argmax())
    rim = np.flatnonzero((depth.ravel() > 0) & (depth.ravel() <= depth[valid].min()))
    # Away from the middle: the rim's patch that lies farthest from it.
    rows, columns = np.divmod(rim, grid)
    middle = np.divmod(found["middle"], grid)
    found["rim"] = int(rim[np.hypot(rows - middle[0], columns - middle[1]).argmax()])
    return found


def closest_patches(
    asked: View, other: View, spaces: Spaces, pixel: Pixel = ()
) -> dict[str, dict[str, float]]:
    """Place in the first scan -> modality -> cosine of the most similar patch of the other scan."""
    return {
        PLACES[place]: {
            name: float(np.nanmax(similarity(spaces, (asked, patch), other, key)))
            for key, name in names_of(spaces).items()
        }
        for place, patch in reference_patches(asked, tuple(pixel)).items()
    }


def similarity_sentence(closest: dict[str, dict[str, float]]) -> str:
    """How well the other scan matches the first of the places."""
    place, by_name = next(iter(closest.items()))
    cosines = " and ".join(f"{value:.2f} in {name}" for name, value in list(by_name.items())[:2])
    return f"A good scan matches {place} with a cosine of at most {cosines}"


def _row(view: View, asked: tuple[View, int], spaces: Spaces) -> ImageRow:
    """Photo and similarity maps of a view; a ring marks the patch in its own view's photo."""
    pixels, patch_px = pixels_of(view.sample), len(view.sample.valid) // view.grid
    box = pixels.box
    valid, defect = box.cut(pixels.valid), box.cut(pixels.defect)
    images: dict[str, Any] = {pixels.picture: box.cut(pixels.photo)}
    for key, name in names_of(spaces).items():
        found = np.nan_to_num(similarity(spaces, asked, view, key)).clip(0, 1)
        level = np.rint(found * TOP).astype(np.uint8)
        large = level.repeat(patch_px, 0).repeat(patch_px, 1)
        images[name] = map_image(box.cut(large), valid, defect)
    source, patch = asked
    row, column = ((at + 0.5) * patch_px - 0.5 for at in divmod(patch, view.grid))
    rings = {pixels.picture: (column, row)} if view is source else {}
    title = f"<b>{html.escape(view.sample.name.split('/', 1)[1])}</b>"
    return ImageRow(title, images, box, rings)


def _deepest(mask: Bool[np.ndarray, "g g"]) -> int:
    """The patch farthest from the mask's outside, of equal ones the nearest to its middle."""
    depth, middle = depth_in(mask), np.argwhere(mask).mean(axis=0)
    rows, columns = np.nonzero(depth == depth.max())
    best = np.hypot(rows - middle[0], columns - middle[1]).argmin()
    return int(rows[best] * len(mask) + columns[best])
