"""The explorer's two live figures: photo beside map, and the cloud; a mark goes with the pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anywidget
import numpy as np
import plotly.graph_objects as go
import traitlets
from jaxtyping import Bool, UInt8
from plotly.subplots import make_subplots

from lsfa_lib.figures.clouds import photo_palette, scene, spread_points
from lsfa_lib.figures.scan_images import COLORSCALE, TOP, photo_axes, photograph, uri
from lsfa_lib.figures.style import DEFECTIVE, TEMPLATE
from lsfa_lib.records import Sample

MOST_POINTS = 12_000
PANELS = ("photo", "anomaly score")
HEIGHT = 320
Pick = Callable[[int, int], None]
"""Told the row and column that were clicked."""


class Width(anywidget.AnyWidget):
    """The width of the box it stands in, px; nothing to see. Figures in the box are told too."""

    width = traitlets.Int(0).tag(sync=True)
    _esm = """
    export default { render({ model, el }) {
      const tell = () => requestAnimationFrame(() => {
        if (!el.clientWidth) return;
        window.dispatchEvent(new Event("resize"));
        model.set("width", el.clientWidth);
        model.save_changes();
      });
      const observer = new ResizeObserver(tell);
      observer.observe(el);
      document.addEventListener("plotlywidget-after-render", tell);
      return () => {
        observer.disconnect();
        document.removeEventListener("plotlywidget-after-render", tell);
      };
    } };
    """


class Pictures:
    """Photo and map of a scan side by side, the true defect outlined, the chosen pixel marked."""

    def __init__(self, pick: Pick) -> None:
        figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.02, subplot_titles=PANELS)
        figure.add_image(hoverinfo="none", row=1, col=1)
        score = {"hovertemplate": "%{z} %<extra></extra>", "hoverongaps": False}
        figure.add_heatmap(coloraxis="coloraxis", **score, row=1, col=2)
        for column in (1, 2):
            figure.add_contour(**_OUTLINE, row=1, col=column)
        for column in (1, 2):
            figure.add_scatter(x=[], y=[], **_MARK, row=1, col=column)
        figure.update_xaxes(visible=False, constrain="domain")
        figure.update_yaxes(visible=False, constrain="domain")
        for n in ("", "2"):
            figure.update_layout({f"yaxis{n}": {"scaleanchor": f"x{n}"}})
        figure.update_annotations(font={"size": 12})
        figure.update_layout(
            template=TEMPLATE,
            height=HEIGHT,
            margin={"l": 0, "r": 0, "t": 26, "b": 4},
            coloraxis={"colorscale": COLORSCALE, "cmin": 0, "cmax": TOP, "showscale": False},
            dragmode=False,
            hovermode="closest",
            showlegend=False,
        )
        self.widget = _live(figure)
        self._photo, self._map = self.widget.data[:2]
        self._outlines, self._marks = self.widget.data[2:4], self.widget.data[4:]
        for trace in (self._photo, self._map):
            trace.on_click(lambda _, points, __: _picked(points, pick))

    def fit(self, width: int) -> None:
        """As high as the two pictures are in a box of this width."""
        height = min(HEIGHT, max(150, width // 2 + 30))
        self.widget.update_layout(height=height, autosize=True)

    def show(self, sample: Sample, level: UInt8[np.ndarray, "S S"]) -> None:
        """Another scan."""
        valid, defect = sample.valid.cpu().numpy(), sample.defect.cpu().numpy()
        (top, bottom), (left, right) = _ends(valid)
        with self.widget.batch_update():
            self.widget.update_xaxes(range=[left, right])
            self.widget.update_yaxes(range=[bottom, top])
            self._photo.source = uri(photograph(sample), "jpeg")
            # As columns of numbers, which reach the browser as bytes; a table would as text.
            rows, columns = (at.astype(np.int32) for at in np.nonzero(valid))
            self._map.update(x=columns, y=rows, z=level[valid])
            for outline in self._outlines:
                outline.z = defect.astype(np.uint8)
                outline.visible = bool(defect.any())

    def recolor(self, sample: Sample, level: UInt8[np.ndarray, "S S"]) -> None:
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
        figure.add_scatter3d(mode="markers", marker={"size": 3}, showlegend=False)
        figure.add_scatter3d(mode="markers", showlegend=False, hoverinfo="skip", marker=_POINT)
        figure.update_layout(
            template=TEMPLATE,
            height=HEIGHT,
            margin={"l": 0, "r": 0, "t": 0, "b": 0},
            showlegend=False,
        )
        self.widget = _live(figure)
        self._points, self._mark = self.widget.data
        self._points.on_click(self._picked)
        self._pick = pick
        self._rows, self._columns = np.zeros((2, 0), int)

    def show(self, sample: Sample, level: UInt8[np.ndarray, "S S"], by_score: bool) -> None:
        """Another scan, seen from the start again."""
        valid = sample.valid.cpu().numpy()
        xyz = sample.xyz.double().cpu().permute(1, 2, 0).numpy() * 1000
        self._rows, self._columns = spread_points(valid, MOST_POINTS)
        axes = photo_axes(xyz, valid)
        surface = xyz[self._rows, self._columns] @ axes.T
        middle = (surface.min(axis=0) + surface.max(axis=0)) / 2
        self._surface = np.full(xyz.shape, np.nan)
        self._surface[valid] = xyz[valid] @ axes.T - middle
        view = scene(surface - middle)
        view["domain"] = {"x": [0, 1], "y": [0, 1]}
        for axis in "xyz":
            view[f"{axis}axis"]["showspikes"] = False
            # The box is narrower than a report's figure.
            view["camera"]["eye"][axis] *= 1.2
        # So that the mark is not sunk among the points around it.
        self._above = 0.02 * float(np.ptp(surface))
        with self.widget.batch_update():
            x, y, z = (surface - middle).T.astype(np.float32)
            self._points.update(x=x, y=y, z=z)
            self.widget.layout.scene = view
        self.recolor(sample, level, by_score)

    def recolor(self, sample: Sample, level: UInt8[np.ndarray, "S S"], by_score: bool) -> None:
        """Points in the colours of the photo, or of the score."""
        points = (self._rows, self._columns)
        place = "%{x:.1f}, %{y:.1f}, %{z:.1f} mm<extra></extra>"
        if by_score:
            marker = {"color": level[points], "colorscale": COLORSCALE, "cmin": 0, "cmax": TOP}
            hover = f"%{{marker.color}} %<br>{place}"
        else:
            index, palette = photo_palette(photograph(sample)[points])
            marker = {"color": index, "colorscale": palette, "cmin": 0, "cmax": len(palette) - 1}
            hover = place
        with self.widget.batch_update():
            self._points.marker.update(marker)
            self._points.hovertemplate = hover

    def mark(self, row: int, column: int) -> None:
        """Another pixel; none where it was not measured."""
        place = self._surface[row, column].round(2)
        shown = bool(np.isfinite(place).all())
        x, y, z = place[:, None] if shown else np.zeros((3, 1))
        z = z + self._above
        with self.widget.batch_update():
            self._mark.update(x=x, y=y, z=z, visible=shown)

    def _picked(self, _: Any, points: Any, __: Any) -> None:
        if points.point_inds:
            at = points.point_inds[0]
            self._pick(int(self._rows[at]), int(self._columns[at]))


_OUTLINE = {
    "contours": {"start": 0.5, "end": 0.5, "size": 1, "coloring": "none"},
    "line": {"color": DEFECTIVE, "width": 2, "smoothing": 0},
    "hoverinfo": "skip",
    "showscale": False,
    "showlegend": False,
}
_MARK = {
    "mode": "markers",
    "hoverinfo": "skip",
    "showlegend": False,
    # A light ring on a dark one is seen on every ground.
    "marker": {
        "color": "rgba(0,0,0,0)",
        "size": 15,
        "opacity": 1,
        "line": {"width": [5, 2.5], "color": ["#1d2733", "white"]},
    },
}
_POINT = {"size": 9, "color": "white", "line": {"width": 4, "color": "#1d2733"}}


def _live(figure: go.Figure) -> go.FigureWidget:
    """The figure as a widget as wide as the box it stands in."""
    widget = go.FigureWidget(figure)
    widget._config = {"responsive": True, "displayModeBar": False}
    return widget


def _picked(points: Any, pick: Pick) -> None:
    if points.xs:
        pick(round(points.ys[0]), round(points.xs[0]))


def _ends(valid: Bool[np.ndarray, "S S"]) -> list[tuple[float, float]]:
    """First and last row, first and last column of the part, with a margin."""
    margin = 0.03 * len(valid)
    found = [np.flatnonzero(valid.any(axis=axis)) for axis in (1, 0)]
    return [(float(f[0]) - margin, float(f[-1]) + margin) for f in found]
