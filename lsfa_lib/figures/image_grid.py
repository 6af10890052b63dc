"""Rows of small pictures as one plotly figure: a row a scan, on a phone wrapped into a few columns.

A drag into one picture zooms all of its row. `layout.meta.narrow` holds the phone's layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Shaped

from lsfa_lib.figures.figures import TEMPLATE

WIDE_PX, NARROW_PX = 1050.0, 348.0
"""Width of a figure on a page and on a phone of 390 px."""
MOST_PX = 300.0
"""A picture is drawn no wider than this where there is room."""
TITLE_PX, FIRST_PX, LINE_PX, NAME_PX, GAP_PX = 34.0, 26.0, 18.0, 20.0, 8.0


@dataclass(frozen=True)
class Box:
    """A square of a picture."""

    top: int
    left: int
    side: int

    def cut(self, picture: Shaped[np.ndarray, "S S *c"]) -> Shaped[np.ndarray, "s s *c"]:
        """What lies in the square."""
        return picture[self.top : self.top + self.side, self.left : self.left + self.side]


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one scan, of one size and square."""

    title: str
    """Plotly's text: bold is kept, so names from data come escaped."""
    pictures: dict[str, str]
    """Name -> data URI."""
    side: int
    """Of each picture, in its pixels."""
    rings: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Name -> (column, row) of a ring drawn on the picture, in its pixels."""
    narrow_title: str = ""
    """On a phone, where it differs; `<br>` breaks lines in both."""


@dataclass(frozen=True)
class ColorBar:
    """What the colours of the maps mean, below them."""

    title: str
    colorscale: str
    ticks: dict[float, str]
    """Value -> label; the least is where colours begin."""
    end: float
    """Where they end."""


@dataclass(frozen=True)
class Room:
    """Space for a 3D view: to the left of the pictures, on a phone above them."""

    left_px: float = 500.0
    top_px: float = 380.0
    height_px: float = 440.0
    """Least height beside the pictures."""


@dataclass(frozen=True)
class _Plan:
    """Where everything goes, in pixels from the upper left corner."""

    cells: list[tuple[float, float, float]]
    """Left, top and width of each picture."""
    titles: list[float]
    """Lower edge of each row's title."""
    height: float
    width: float

    def domain(self, i: int) -> tuple[list[float], list[float]]:
        left, top, side = self.cells[i]
        bottom = max(0.0, self.up(top + side))
        x = [left / self.width, min(1.0, (left + side) / self.width)]
        return [round(v, 5) for v in x], [round(bottom, 5), round(self.up(top), 5)]

    def up(self, top: float) -> float:
        """Height above the bottom as a share, as plotly counts."""
        return 1 - top / self.height


def box_around(mask: Bool[np.ndarray, "S S"]) -> Box:
    """The square around all True pixels, with a margin of 3 % of the picture where there is room.

    A picture without any is taken whole.
    """
    size = len(mask)
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return Box(0, 0, size)
    low = np.array([rows.min(), columns.min()])
    high = np.array([rows.max(), columns.max()]) + 1
    side = min(size, int((high - low).max()) + 2 * round(0.03 * size))
    top, left = np.clip((low + high - side) // 2, 0, size - side).tolist()
    return Box(top, left, side)


def image_grid(
    rows: Sequence[PictureRow],
    title: str = "",
    bar: ColorBar | None = None,
    columns: tuple[int, int] = (99, 4),
    room: Room | None = None,
    menu: bool = False,
) -> go.Figure:
    """The rows below each other, names of the pictures above.

    A row wraps after `columns` pictures, the second number being a phone's. With `room` the figure
    has an empty 3D view, `scene`; with `menu` a phone keeps the room above for buttons.
    """
    most = max(len(row.pictures) for row in rows)
    wide = _plan(rows, min(most, columns[0]), WIDE_PX, 1, left=room.left_px if room else 0.0)
    if room:
        wide = replace(wide, height=max(wide.height, room.height_px))
    slim_rows = [replace(row, title=row.narrow_title or row.title) for row in rows]
    top = room.top_px if room else 0.0
    narrow = _plan(slim_rows, min(most, columns[1]), NARROW_PX, len(rows), top=top)
    figure = go.Figure()
    axes: dict[str, Any] = {}
    slim: dict[str, Any] = {}
    i = 0
    for row in rows:
        first = i
        for name, source in row.pictures.items():
            axes |= _axes(i, first, wide.domain(i), row.side)
            slim |= _narrow_axes(i, narrow.domain(i))
            figure.add_image(source=source, hoverinfo="skip", **_on(i))
            if name in row.rings:
                figure.add_scatter(**_ring(row.rings[name]), **_on(i))
            i += 1
    notes, moved = _notes(rows, wide, narrow)
    below = 74 if bar else 8
    if bar:
        slim |= _add_bar(figure, bar)
    if room:
        axes["scene"] = {"domain": {"x": [0, (room.left_px - 16) / WIDE_PX], "y": [0, 1]}}
        slim["scene.domain"] = {"x": [0, 1], "y": [narrow.up(room.top_px - 12), 1]}
    above = 34 if menu else 4
    slim |= moved | {"height": round(narrow.height + above + below)}
    slim |= {"margin.l": 4, "margin.r": 4, "margin.t": above}
    return figure.update_layout(
        template=TEMPLATE,
        title={"text": title},
        height=round(wide.height + 34 + below),
        margin={"l": 8, "r": 8, "b": below},
        annotations=notes,
        showlegend=False,
        meta={"narrow": slim, "thumbnail": list(rows[0].pictures.values())[:2]},
        **axes,
    )


def _plan(
    rows: Sequence[PictureRow],
    columns: int,
    width: float,
    named: int,
    left: float = 0.0,
    top: float = 0.0,
) -> _Plan:
    """Pictures in `columns`; their names have room in the first `named` rows."""
    side = min(MOST_PX, (width - left - GAP_PX * (columns - 1)) / columns)
    cells, titles = [], []
    for number, row in enumerate(rows):
        if row.title:
            top += (TITLE_PX if number else FIRST_PX) + LINE_PX * row.title.count("<br>")
        titles.append(top)
        name = NAME_PX if number < named else 0.0
        for i in range(len(row.pictures)):
            line, column = divmod(i, columns)
            down = top + name + line * (side + name + GAP_PX / 2)
            cells.append((left + column * (side + GAP_PX), down, side))
        lines = -(-len(row.pictures) // columns)
        top += lines * (side + name + GAP_PX / 2)
    return _Plan(cells, titles, top, width)


def _notes(
    rows: Sequence[PictureRow], wide: _Plan, narrow: _Plan
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Titles and names as annotations, and where a phone has them."""
    notes: list[dict[str, Any]] = []
    moved: dict[str, Any] = {}

    def add(text: str, at: list[tuple[_Plan, float, float]], **style: Any) -> None:
        (_, x, y), (_, slim_x, slim_y) = at
        n = len(notes)
        notes.append(
            {
                "text": text,
                "x": x,
                "y": y,
                "xref": "paper",
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
                **style,
            }
        )
        moved.update({f"annotations[{n}].x": slim_x, f"annotations[{n}].y": slim_y})
        moved[f"annotations[{n}].visible"] = True

    i = 0
    for number, row in enumerate(rows):
        at = [(p, 0.0, round(p.up(p.titles[number] - 2), 5)) for p in (wide, narrow)]
        if row.title:
            if row.narrow_title:
                moved[f"annotations[{len(notes)}].text"] = row.narrow_title
            add(row.title, at, xanchor="left", align="left", font={"size": 13})
        for name in row.pictures:
            at = [(p, *_above(p, i)) for p in (wide, narrow)]
            add(name, at, xanchor="center", font={"size": 12}, visible=number == 0)
            i += 1
    return notes, moved


def _above(plan: _Plan, i: int) -> tuple[float, float]:
    left, top, side = plan.cells[i]
    return round((left + side / 2) / plan.width, 5), round(plan.up(top - 1), 5)


def _axes(i: int, first: int, domain: tuple[list[float], list[float]], side: int) -> dict[str, Any]:
    x, y = domain
    shared = {"visible": False, "constrain": "domain"}
    linked_x = {"matches": f"x{_n(first)}"} if i > first else {}
    linked_y = {"matches": f"y{_n(first)}"} if i > first else {}
    return {
        f"xaxis{_n(i)}": {**shared, "domain": x, "range": [-0.5, side - 0.5], **linked_x},
        f"yaxis{_n(i)}": {
            **shared,
            "domain": y,
            "range": [side - 0.5, -0.5],
            "scaleanchor": f"x{_n(i)}",
            **linked_y,
        },
    }


def _narrow_axes(i: int, domain: tuple[list[float], list[float]]) -> dict[str, Any]:
    """A finger that scrolls the page must not zoom."""
    pairs = zip(("xaxis", "yaxis"), domain, strict=True)
    return {
        key: value
        for axis, span in pairs
        for key, value in (
            (f"{axis}{_n(i)}.domain", span),
            (f"{axis}{_n(i)}.fixedrange", True),
        )
    }


def _ring(at: tuple[float, float]) -> dict[str, Any]:
    """White within black: seen on every colour."""
    return {
        "x": [at[0], at[0]],
        "y": [at[1], at[1]],
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


def _add_bar(figure: go.Figure, bar: ColorBar) -> dict[str, Any]:
    # A colour bar needs a trace: this one has no point.
    figure.add_scatter(
        x=[None], y=[None], marker={"color": [0], "coloraxis": "coloraxis"}, hoverinfo="skip"
    )
    figure.update_layout(
        coloraxis={
            "colorscale": bar.colorscale,
            "cmin": min(bar.ticks),
            "cmax": bar.end,
            "colorbar": {
                "orientation": "h",
                "x": 0.01,
                "xanchor": "left",
                "y": 0,
                "yanchor": "top",
                "len": 0.6,
                "thickness": 8,
                "ypad": 12,
                "tickvals": list(bar.ticks),
                "ticktext": list(bar.ticks.values()),
                "title": {"text": bar.title, "side": "bottom", "font": {"size": 12}},
            },
        }
    )
    place = {"x": 0.5, "xanchor": "center", "len": 0.9}
    return {f"coloraxis.colorbar.{key}": value for key, value in place.items()}


def _on(i: int) -> dict[str, str]:
    return {"xaxis": f"x{_n(i)}", "yaxis": f"y{_n(i)}"}


def _n(i: int) -> str:
    return "" if i == 0 else str(i + 1)
