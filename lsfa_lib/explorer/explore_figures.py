"""The explorer's two live figures, photo with map and the cloud, with the chosen pixel marked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import plotly.graph_objects as go
import traitlets
from jaxtyping import UInt8
from plotly.subplots import make_subplots

from lsfa_lib.figures import clouds
from lsfa_lib.figures.image_grid import RING
from lsfa_lib.figures.scan_images import COLORSCALE, TOP, Mask, pixels_of, uri
from lsfa_lib.figures.style import DEFECTIVE, styled
from lsfa_lib.records import Sample

PANELS = ("photo", "anomaly score")
HEIGHT = 320
Pick = Callable[[int, int], None]
"""Called with the row and column that were clicked."""
Level = UInt8[np.ndarray, "S S"]


class Width(anywidget.AnyWidget):
    """The width of its box, px; nothing to see. Figures in the box are resized with it."""

    width = traitlets.Int(0).tag(sync=True)
    _esm = Path(__file__).with_name("width.js")


class LiveFigure(go.FigureWidget):  # type: ignore[misc]  # plotly has no types
    """A plotly widget as wide as its box, without a time limit for loading plotly.js."""

    _plotly = str(go.FigureWidget._esm).encode()
    """plotly.js with plotly's widget, sent when the browser asks for it."""
    _esm = Path(__file__).with_name("live_figure.js")

    def __init__(self, figure: go.Figure) -> None:
        super().__init__(figure)
        self._config = {"responsive": True, "displayModeBar": False}
        self.on_msg(lambda *_: self.send("plotly", [self._plotly]))


class Images:
    """Photo and map of a scan next to each other, the true defect outlined, a pixel marked."""

    def __init__(self, pick: Pick) -> None:
        figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.02, subplot_titles=PANELS)
        figure.add_image(hoverinfo="none", row=1, col=1)
        score = {"hovertemplate": "%{z} %<extra></extra>", "hoverongaps": False}
        figure.add_heatmap(coloraxis="coloraxis", **score, row=1, col=2)
        for trace in (_OUTLINE, RING):
            for column in (1, 2):
                figure.add_trace({**trace, "showlegend": False}, row=1, col=column)
        styled(figure, "", height=HEIGHT, margin={"l": 0, "r": 0, "t": 26, "b": 4})
        figure.update_xaxes(visible=False, constrain="domain")
        figure.update_yaxes(visible=False, constrain="domain")
        colors = {"colorscale": COLORSCALE, "cmin": 0, "cmax": TOP, "showscale": False}
        figure.update_layout(coloraxis=colors, dragmode=False, hovermode="closest")
        figure.update_layout(yaxis={"scaleanchor": "x"}, yaxis2={"scaleanchor": "x2"})
        figure.update_annotations(font={"size": 12})
        self.widget = LiveFigure(figure)
        self._photo, self._map = self.widget.data[:2]
        self._outlines, self._marks = self.widget.data[2:4], self.widget.data[4:]
        for trace in (self._photo, self._map):
            trace.on_click(lambda _, points, __: _picked(points, pick))

    def fit(self, width: int) -> None:
        """As high as the two images are in a box of this width."""
        height = min(HEIGHT, max(150, width // 2 + 30))
        self.widget.update_layout(height=height, autosize=True)

    def show(self, sample: Sample, level: Level) -> None:
        """Another scan."""
        pixels = pixels_of(sample)
        (top, bottom), (left, right) = _ends(pixels.valid)
        with self.widget.batch_update():
            self.widget.update_xaxes(range=[left, right])
            self.widget.update_yaxes(range=[bottom, top])
            self._photo.source = uri(pixels.photo)
            self.widget.layout.annotations[0].text = pixels.picture
            # As columns of numbers, which reach the browser as bytes; a table would as text.
            rows, columns = (at.astype(np.int32) for at in np.nonzero(pixels.valid))
            self._map.update(x=columns, y=rows, z=level[pixels.valid])
            for outline in self._outlines:
                outline.z = pixels.defect.astype(np.uint8)
                outline.visible = bool(pixels.defect.any())

    def recolor(self, sample: Sample, level: Level) -> None:
        """Another map of the scan."""
        self._map.z = level[sample.valid.cpu().numpy()]

    def mark(self, row: int, column: int) -> None:
        """Another pixel."""
        with self.widget.batch_update():
            for trace in self._marks:
                trace.x, trace.y = [column] * 2, [row] * 2


class Cloud:
    """The rotatable cloud of a scan, in millimetres, with the chosen point marked."""

    def __init__(self, pick: Pick) -> None:
        figure = go.Figure()
        figure.add_scatter3d(mode="markers")
        figure.add_scatter3d(mode="markers", hoverinfo="skip", marker=_POINT)
        margin = {"l": 0, "r": 0, "t": 0, "b": 0}
        styled(figure, "", height=HEIGHT, margin=margin, showlegend=False)
        self.widget = LiveFigure(figure)
        self._points, self._mark = self.widget.data
        self._points.on_click(self._picked)
        self._pick = pick
        self._places = np.zeros((2, 0), int)

    def show(self, sample: Sample, level: Level, by_score: bool) -> None:
        """Another scan, in the initial view."""
        pixels = pixels_of(sample)
        places = clouds.spread_points(pixels.valid)
        self._places, self._surface = np.array(places), clouds.surface_of(pixels)
        points = self._surface[places]
        view = {**clouds.scene(points), "domain": {"x": [0, 1], "y": [0, 1]}}
        for axis in "xyz":
            view[f"{axis}axis"]["showspikes"] = False
            # The box is narrower than a report's figure.
            view["camera"]["eye"][axis] *= 1.2
        # So that the mark is not hidden among the points around it.
        self._above = 0.02 * float(np.ptp(points))
        with self.widget.batch_update():
            self._points.update(clouds.cloud(points, {}))
            self.widget.layout.scene = view
        self.recolor(sample, level, by_score)

    def recolor(self, sample: Sample, level: Level, by_score: bool) -> None:
        """Points in the colours of the photo, or of the score."""
        places = tuple(self._places)
        if by_score:
            coloring = clouds.by_score(level[places], "score")
        else:
            coloring = clouds.by_photo(pixels_of(sample).photo[places])
        with self.widget.batch_update():
            self._points.update(coloring)

    def mark(self, row: int, column: int) -> None:
        """Another pixel; none where it was not measured."""
        place = self._surface[row, column].round(2)
        shown = bool(np.isfinite(place).all())
        x, y, z = place[:, None] if shown else np.zeros((3, 1))
        with self.widget.batch_update():
            self._mark.update(x=x, y=y, z=z + self._above, visible=shown)

    def _picked(self, _: Any, points: Any, __: Any) -> None:
        if points.point_inds:
            self._pick(*self._places[:, points.point_inds[0]].tolist())


_OUTLINE = {
    "type": "contour",
    "contours": {"start": 0.5, "end": 0.5, "size": 1, "coloring": "none"},
    "line": {"color": DEFECTIVE, "width": 2, "smoothing": 0},
    "hoverinfo": "skip",
    "showscale": False,
}
_POINT = {"size": 9, "color": "white", "line": {"width": 4, "color": "#1d2733"}}


def _picked(points: Any, pick: Pick) -> None:
    if points.xs:
        pick(round(points.ys[0]), round(points.xs[0]))


def _ends(valid: Mask) -> list[tuple[float, float]]:
    """First and last row, first and last column of the part, with a margin."""
    margin = 0.03 * len(valid)
    found = [np.flatnonzero(valid.any(axis=axis)) for axis in (1, 0)]
    return [(float(f[0]) - margin, float(f[-1]) + margin) for f in found]
