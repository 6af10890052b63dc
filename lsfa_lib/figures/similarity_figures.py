"""How similar the patches of scans are to one patch, as pictures with buttons for that patch."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lsfa_lib.figures.clouds import buttons
from lsfa_lib.figures.feature_figures import names_of
from lsfa_lib.figures.feature_space import Space, Spaces, View, similarity, telling_patches
from lsfa_lib.figures.image_grid import Box, ColorBar, PictureRow, box_around, image_grid
from lsfa_lib.figures.scan_images import COLORSCALE, TOP, map_image, photograph, uri
from lsfa_lib.records import Modality

COSINES = {0.0: "≤ 0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1.0: "1"}
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
    places = telling_patches(asked, _pair(pixel))
    first = next(iter(places))
    rows = []
    for view in (asked, other):
        box = _box(view)
        pictures = {"photo": uri(box.cut(photograph(view.sample)), "jpeg")}
        maps = _maps(asked, places[first], view, spaces)
        rings = {"photo": _middle(places[first], asked)} if view is asked else {}
        rows.append(PictureRow(_row_title(view), {**pictures, **maps}, box.side, rings))
    bar = ColorBar("cosine similarity to the ringed patch", COLORSCALE, COSINES, 1.0)
    title = similarity_sentence(closest_patches(asked, other, spaces, pixel))
    figure = image_grid(rows, title, bar, (99, 3), menu=True)
    tags = [_tag(trace, len(rows[0].pictures), first) for trace in figure.data]
    for place in list(places)[1:]:
        before = len(figure.data)
        _add_place(figure, asked, other, spaces, places[place])
        tags += [place] * (len(figure.data) - before)
    return figure.update_layout(updatemenus=[_buttons(list(places), tags)])


def closest_patches(
    asked: View, other: View, spaces: Spaces, pixel: Pixel = ()
) -> dict[str, dict[str, float]]:
    """Place in the first scan -> modality -> cosine of the most similar patch of the other scan."""
    found: dict[str, dict[str, float]] = {}
    for place, patch in telling_patches(asked, _pair(pixel)).items():
        found[PLACES[place]] = {
            name: float(np.nanmax(_similarity(asked, patch, other, spaces, key)))
            for key, name in names_of(spaces).items()
        }
    return found


def similarity_sentence(closest: dict[str, dict[str, float]]) -> str:
    """How well the other scan matches the first of the places."""
    place, by_name = next(iter(closest.items()))
    cosines = " and ".join(f"{value:.2f} in {name}" for name, value in list(by_name.items())[:2])
    return f"A good scan matches {place} with a cosine of at most {cosines}"


def _maps(asked: View, patch: int, view: View, spaces: Spaces) -> dict[str, str]:
    """Name -> the similarity of each patch of a view in the page's colours, as data URI."""
    valid, defect = view.sample.valid.cpu().numpy(), view.sample.defect.cpu().numpy()
    maps = {}
    for key, name in names_of(spaces).items():
        found = np.nan_to_num(_similarity(asked, patch, view, spaces, key)).clip(0, 1)
        level = np.rint(found * TOP).astype(np.uint8)
        large = level.repeat(len(valid) // len(level), 0).repeat(len(valid) // len(level), 1)
        maps[name] = uri(map_image(*(_box(view).cut(part) for part in (large, valid, defect))))
    return maps


def _similarity(
    asked: View, patch: int, view: View, spaces: Spaces, key: tuple[Space, Modality]
) -> np.ndarray:
    return similarity(spaces.directions[key], (asked, patch), view, *key)


def _add_place(figure: go.Figure, asked: View, other: View, spaces: Spaces, patch: int) -> None:
    """Hidden maps and ring for one more patch, over those of the first."""
    grid = [trace for trace in figure.data if trace.type == "image" and trace.visible is not False]
    ring = next(trace for trace in figure.data if trace.type == "scatter").to_plotly_json()
    under = iter(grid)
    for view in (asked, other):
        next(under)  # the photo stays
        for source in _maps(asked, patch, view, spaces).values():
            axes = next(under)
            place = {"xaxis": axes.xaxis, "yaxis": axes.yaxis}
            figure.add_image(source=source, hoverinfo="skip", visible=False, **place)
    column, row = _middle(patch, asked)
    figure.add_scatter(**{**ring, "x": [column] * 2, "y": [row] * 2, "visible": False})


def _tag(trace: Any, columns: int, first: str) -> str:
    """The place a trace belongs to; none for photos and the colour bar."""
    number = int((trace.xaxis or "x")[1:] or 1) - 1
    is_photo = trace.type == "image" and number % columns == 0
    is_bar = trace.type == "scatter" and trace.x[0] is None
    return "" if is_photo or is_bar else first


def _buttons(places: list[str], tags: list[str]) -> dict[str, Any]:
    menu = buttons({})
    menu["buttons"] = [
        {
            "label": place,
            "method": "restyle",
            "args": [{"visible": [tag in ("", place) for tag in tags]}, list(range(len(tags)))],
        }
        for place in places
    ]
    return menu


def _middle(patch: int, view: View) -> tuple[float, float]:
    """(column, row) of the patch's middle in the pixels of the view's box."""
    grid = view.features["frozen"].grid[0]
    side = view.sample.valid.shape[0] / grid
    row, column = divmod(patch, grid)
    box = _box(view)
    return (column + 0.5) * side - 0.5 - box.left, (row + 0.5) * side - 0.5 - box.top


def _box(view: View) -> Box:
    return box_around((view.sample.valid | view.sample.defect).cpu().numpy())


def _row_title(view: View) -> str:
    return f"<b>{html.escape(view.sample.name.split('/', 1)[1])}</b>"


def _pair(pixel: Pixel) -> tuple[int, int] | None:
    return (int(pixel[0]), int(pixel[1])) if pixel else None
