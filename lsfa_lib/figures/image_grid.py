"""Rows of images as one plotly figure, with room for a cloud; wrapped into few columns on a phone.

Axes count the pixels of the encoders' image. A drag in one image zooms all images of its row.
`layout.meta.narrow` holds the changes that a page makes on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from lsfa_lib.figures.scan_images import COLORSCALE, TOP, AnyImage, Box, uri
from lsfa_lib.figures.style import adapt_to_phones, styled

WIDE_PX, NARROW_PX = 1050.0, 348.0
"""Width of a figure on a page and on a phone of 390 px."""
MOST_PX = 300.0
"""An image is drawn at most this wide."""
CLOUD_PX, CLOUD_HEIGHT_PX, PHONE_CLOUD_PX = 500.0, 440.0, 420.0
"""A cloud's width and least height next to the images, and its height above them on a phone."""
RING: dict[str, Any] = {
    "type": "scatter",
    "mode": "markers",
    "marker": {
        "symbol": "circle-open",
        "size": [17, 13],
        "color": ["#101418", "#ffffff"],
        "line": {"width": 2.5},
    },
    "cliponaxis": False,
    "hoverinfo": "skip",
}
"""White within black, so that it is visible on every colour; drawn twice at the same place."""
TITLE_PX, FIRST_PX, LINE_PX, NAME_PX, GAP_PX = 34.0, 26.0, 18.0, 20.0, 8.0


@dataclass(frozen=True)
class ImageRow:
    """Images of one scan that show the same square of it."""

    title: str
    """Plotly's text: bold is kept, so names from data come escaped."""
    images: dict[str, AnyImage]
    """By the name that is written above."""
    box: Box
    rings: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Name -> (column, row) of a ring drawn on the image, in pixels of the encoders' image."""
    narrow_title: str = ""
    """On a phone, where it differs; `<br>` breaks lines in both."""
    name_lines: int = 1
    """Lines that the longest name above an image takes."""


@dataclass(frozen=True)
class ColorBar:
    """What the colours of the maps mean, shown below them."""

    title: str
    ticks: dict[float, str]
    """Value -> label; colours begin at the least."""
    end: float
    """Value at which colours end."""


SCORE_TICKS = {t: f"{t} %" if t < TOP else f"≥ {t} %" for t in (0, 50, 100, 150, 200, TOP)}
SCORE_BAR = ColorBar(
    "anomaly score (100 %: exceeded by 0.1 % of pixels on good parts)",
    {float(t): text for t, text in SCORE_TICKS.items()},
    float(TOP),
)


def image_grid(
    rows: Sequence[ImageRow],
    title: str = "",
    bar: ColorBar | None = None,
    columns: tuple[int, int] = (99, 4),
    with_cloud: bool = False,
) -> go.Figure:
    """The rows below each other, names of the images above.

    A row wraps after `columns` images, the second number being a phone's. `with_cloud` leaves room
    for a 3D view, `scene`, to the left of the images, on a phone above them.
    """
    most = max(len(row.images) for row in rows)
    wide, height = _domains(rows, min(most, columns[0]), with_cloud, on_phone=False)
    slim, slim_height = _domains(rows, min(most, columns[1]), with_cloud, on_phone=True)
    left = CLOUD_PX if with_cloud else 0.0
    # On a phone the title of the bar takes two lines.
    below, slim_below = (74, 90) if bar else (8, 8)
    narrow: dict[str, Any] = {"height": round(slim_height + 4 + slim_below)}
    narrow |= {"margin.l": 4, "margin.r": 4, "margin.t": 4, "margin.b": slim_below}
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "meta": {"narrow": narrow}}
    for number, row in enumerate(rows):
        _add_row(traces, layout, row, number)
    for i, (domains, slim_domains) in enumerate(zip(wide, slim, strict=True)):
        for a, domain, slim_domain in zip("xy", domains, slim_domains, strict=True):
            layout[f"{a}axis{axis_number(i)}"]["domain"] = domain
            narrow[f"{a}axis{axis_number(i)}.domain"] = slim_domain
            # A finger that scrolls the page must not zoom.
            narrow[f"{a}axis{axis_number(i)}.fixedrange"] = True
    if with_cloud:
        # No taller than wide: a part that fills a tall view would be cut off at its sides.
        low = max(0.0, 1 - CLOUD_PX / height)
        layout["scene"] = {"domain": {"x": [0, (left - 16) / WIDE_PX], "y": [low, 1]}}
        narrow["scene.domain"] = {"x": [0, 1], "y": [1 - (PHONE_CLOUD_PX - 12) / slim_height, 1]}
    layout["meta"]["thumbnail"] = [t["source"] for t in traces if t["type"] == "image"][:2]
    figure = go.Figure(traces, layout)
    if bar:
        _add_bar(figure, bar, left / WIDE_PX)
    margin = {"l": 8, "r": 8, "b": below}
    size: dict[str, Any] = {"height": round(height + 34 + below), "margin": margin}
    return styled(figure, title, showlegend=False, **size)


def _domains(
    rows: Sequence[ImageRow], columns: int, with_cloud: bool, on_phone: bool
) -> tuple[list[list[list[float]]], float]:
    """The shares of width and of height that each image covers, and the height in pixels.

    A cloud is to the left of the images, on a phone above them.
    """
    width = NARROW_PX if on_phone else WIDE_PX
    left = CLOUD_PX if with_cloud and not on_phone else 0.0
    top = PHONE_CLOUD_PX if with_cloud and on_phone else 0.0
    side, corners = min(MOST_PX, (width - left - GAP_PX * (columns - 1)) / columns), []
    for number, row in enumerate(rows):
        if title := (row.narrow_title if on_phone else "") or row.title:
            top += (TITLE_PX if number else FIRST_PX) + LINE_PX * title.count("<br>")
        # Wrapped images have names of their own, so the line above each is needed.
        name = NAME_PX + LINE_PX * (row.name_lines - 1) if on_phone or not number else 0.0
        for i in range(len(row.images)):
            line, column = divmod(i, columns)
            down = top + name + line * (side + name + GAP_PX / 2)
            corners.append((left + column * (side + GAP_PX), down))
        top += -(-len(row.images) // columns) * (side + name + GAP_PX / 2)
    height = max(top, CLOUD_HEIGHT_PX) if with_cloud and not on_phone else top

    def shares(low: float, full: float) -> list[float]:
        return np.clip((low / full, (low + side) / full), 0, 1).round(5).tolist()

    return [[shares(x, width), shares(height - y - side, height)] for x, y in corners], height


def _add_row(
    traces: list[dict[str, Any]], layout: dict[str, Any], row: ImageRow, number: int
) -> None:
    """Images, rings, names and title; only on phones does each row repeat the names."""
    notes, narrow = layout["annotations"], layout["meta"]["narrow"]
    first, named = sum(trace["type"] == "image" for trace in traces), number == 0
    if row.title:
        narrow[f"annotations[{len(notes)}].yshift"] = 2 + NAME_PX
        if row.narrow_title:
            narrow[f"annotations[{len(notes)}].text"] = row.narrow_title
        left = {"x": 0, "xref": "paper", "xanchor": "left", "align": "left", "font": {"size": 13}}
        notes.append(_note(row.title, first, {**left, "yshift": 2 + NAME_PX * named}))
    for i, (name, image) in enumerate(row.images.items(), first):
        n, box = axis_number(i), row.box
        on = {"xaxis": f"x{n}", "yaxis": f"y{n}"}
        traces.append({**image_trace(image, box), **on})
        if name in row.rings:
            column, line = row.rings[name]
            traces.append({**RING, "x": [column] * 2, "y": [line] * 2, **on})
        narrow[f"annotations[{len(notes)}].visible"] = True
        centre = {"x": 0.5, "xref": f"x{n} domain", "xanchor": "center", "font": {"size": 12}}
        notes.append(_note(name, i, {**centre, "visible": named}))
        ranges = {"x": [box.left, box.left + box.side], "y": [box.top + box.side, box.top]}
        for a, ends in ranges.items():
            axis = {"visible": False, "constrain": "domain", "range": [end - 0.5 for end in ends]}
            axis |= {"matches": f"{a}{axis_number(first)}"} if i > first else {}
            layout[f"{a}axis{n}"] = axis
        layout[f"yaxis{n}"]["scaleanchor"] = f"x{n}"


def _note(text: str, i: int, style: dict[str, Any]) -> dict[str, Any]:
    """A text above the i-th image."""
    above = {"y": 1, "yref": f"y{axis_number(i)} domain", "yanchor": "bottom"}
    return {"text": text, "showarrow": False, **above, **style}


def image_trace(image: AnyImage, box: Box) -> dict[str, Any]:
    """A trace that covers the box, however many pixels the image has."""
    source = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    step = box.side / source.width
    start = {"x0": box.left + (step - 1) / 2, "y0": box.top + (step - 1) / 2}
    size = {"dx": step, "dy": step}
    return {"type": "image", "source": uri(source), "hoverinfo": "skip", **start, **size}


def _add_bar(figure: go.Figure, bar: ColorBar, left: float) -> None:
    """The colour bar below the images, which begin at this share of the width."""
    # A colour bar needs a trace: this one has no point.
    marker = {"color": [0], "coloraxis": "coloraxis"}
    figure.add_scatter(x=[None], y=[None], marker=marker, hoverinfo="skip")
    place = {"x": left + 0.01, "xanchor": "left", "y": 0, "yanchor": "top", "ypad": 12}
    colorbar = {
        **place,
        "orientation": "h",
        "len": min(0.6, 0.98 - left),
        "thickness": 8,
        "tickvals": list(bar.ticks),
        "ticktext": list(bar.ticks.values()),
        "title": {"text": bar.title, "side": "bottom", "font": {"size": 12}},
    }
    scale = {"colorscale": COLORSCALE, "cmin": min(bar.ticks), "cmax": bar.end}
    figure.update_layout(coloraxis={**scale, "colorbar": colorbar})
    slim = {
        "x": 0.5,
        "xanchor": "center",
        "len": 0.9,
        "title.text": bar.title.replace(" (", "<br>("),
    }
    adapt_to_phones(figure, {f"coloraxis.colorbar.{key}": value for key, value in slim.items()})


def axis_number(i: int) -> str:
    """How plotly numbers the axes of the i-th image, from 0."""
    return "" if i == 0 else str(i + 1)
