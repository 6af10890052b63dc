"""One scan taken apart: which pixels are part, background or not read; as images and in 3D."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Shaped
from PIL import Image, ImageColor

from lsfa_lib.datasets.preprocess import squared
from lsfa_lib.figures import clouds
from lsfa_lib.figures.data_report import percent
from lsfa_lib.figures.image_grid import ColorBar, ImageRow, image_grid
from lsfa_lib.figures.scan_images import Box, Level, Picture, indexed, marked, photo_axes, shades
from lsfa_lib.figures.scan_statistics import REGIONS, Measured, Region
from lsfa_lib.figures.style import adapt_to_phones, round_ticks, styled

COLORS: dict[Region, str] = {
    "part": "#0072B2",
    "background": "#a9b4c0",
    "loose": "#E69F00",
    "missing": "#CC79A7",
}
NAMES: dict[Region, str] = {
    "part": "part, kept",
    "background": "background plane",
    "loose": "not connected to the part",
    "missing": "no reading",
}
MOST_PX = 300
CLOUD_POINTS = 9000


def image_figure(measured: Measured) -> go.Figure:
    """Photo with the defect marked, what became of each pixel, and the height above the plane."""
    scan, rise, side = measured.scan, measured.rise_mm, max(measured.height_mm.shape)
    box, top = Box(0, 0, side), max(1.0, rise)

    def drawn(image: Shaped[np.ndarray, "H W *c"], nearest: bool = False) -> Any:
        return box.cut(squared(image), MOST_PX, nearest)

    region = np.argmax([measured.regions[region] for region in REGIONS], axis=0) + 1
    height = np.nan_to_num(np.clip(measured.height_mm / top, 0, 1) * 254 + 1).round()
    shown: dict[str, Picture] = {"photo": drawn(scan.rgb)}
    if scan.defect.any():
        shown["ground truth"] = drawn(marked(scan.rgb, scan.defect))
    shown["what is kept"] = _numbered(
        drawn(region.astype(np.uint8), nearest=True),
        np.array([ImageColor.getrgb(COLORS[region]) for region in REGIONS]),
    )
    shown["height above the plane"] = _numbered(
        drawn(height.astype(np.uint8), nearest=True), shades(255)
    )
    keys = [
        f'<span style="color:{COLORS[region]}">■</span> {NAMES[region]} {percent(mask.mean())}'
        for region, mask in measured.regions.items()
    ]
    return image_grid(
        [ImageRow("   ".join(keys), shown, box, narrow_title="<br>".join(keys))],
        f"<b>{html.escape(scan.name)}</b> rises {rise:.1f} mm above a plane tilted by "
        f"{measured.tilt_deg:.1f}°",
        ColorBar(
            "height above the background plane, mm",
            {tick: f"{tick:g}" for tick in round_ticks(0.0, top)},
            top,
        ),
        columns=(4, 2),
    )


def cloud_figure(measured: Measured, most: int = CLOUD_POINTS) -> go.Figure:
    """All that the camera read next to the part that is left, both rotatable.

    Millimetres; right and up as in the photo, height above the background plane.
    """
    points, figure = _level(measured), go.Figure()
    readings = (~measured.regions["missing"]).sum()
    for region in REGIONS[:3]:
        share = measured.regions[region].sum() / readings
        some = clouds.spread_points(measured.regions[region], round(most * share))
        marker = {"size": 3, "color": COLORS[region]}
        coloring = {"marker": marker, "hovertemplate": f"{NAMES[region]}<br>{clouds.PLACE}"}
        figure.add_scatter3d(
            **clouds.cloud(points[some], coloring)
            | {"name": f"{NAMES[region]}, {percent(share)}", "showlegend": True},
            scene="scene",
            visible=True if len(some[0]) else "legendonly",
        )
    part = clouds.spread_points(measured.regions["part"], most)
    choices = {"photo": clouds.by_photo(measured.scan.rgb[part])}
    if measured.scan.defect.any():
        choices["ground truth"] = clouds.by_truth(measured.scan.defect[part])
    figure.add_scatter3d(**clouds.cloud(points[part], choices["photo"]), scene="scene2")
    _lay_out(figure, measured, points)
    if len(choices) > 1:
        last = len(figure.data) - 1
        buttons = {name: clouds.recolored(c, last) for name, c in choices.items()}
        clouds.add_buttons(figure, buttons)
        figure.layout.updatemenus[0].x = 0.51
        adapt_to_phones(figure, {"updatemenus[0].x": 0, "updatemenus[0].y": 0.43})
    return figure


def _lay_out(figure: go.Figure, measured: Measured, points: Float[np.ndarray, "H W 3"]) -> None:
    """Both clouds next to each other, on a phone below each other."""
    readings, part = ~measured.regions["missing"], measured.regions["part"]
    before, after = clouds.scene(points[readings]), clouds.scene(points[part])
    before["domain"] = {"x": [0, 0.49], "y": [0, 1]}
    after["domain"] = {"x": [0.51, 1], "y": [0, 1]}
    for axis in ("xaxis", "yaxis", "zaxis"):
        # The page colours the first scene's grid alone: none suits light and dark.
        after[axis] = {**after[axis], "showgrid": False}
    narrow = {
        "height": 770,
        "margin.l": 4,
        "margin.r": 4,
        "scene.domain": {"x": [0, 1], "y": [0.5, 0.92]},
        "scene2.domain": {"x": [0, 1], "y": [0, 0.42]},
        "legend.y": 1,
        "legend.yanchor": "top",
        **clouds.farther("scene", before),
        **clouds.farther("scene2", after),
    }
    name, kept = html.escape(measured.scan.name), part.sum() / readings.sum()
    styled(
        figure,
        f"<b>{name}</b>: {percent(kept)} of the readings are the part",
        height=520,
        margin={"l": 8, "r": 8, "b": 8},
        scene=before,
        scene2=after,
        legend={"x": 0, "y": 1, "yanchor": "top", "itemsizing": "constant"},
        meta={"narrow": narrow},
    )


def _level(measured: Measured) -> Float[np.ndarray, "H W 3"]:
    """Points in millimetres: the photo's right and up along the plane, height above it."""
    xyz = measured.scan.xyz.astype(np.float64) * 1000
    normal = measured.plane[:3]
    right = photo_axes(xyz, ~measured.regions["missing"])[0]
    right = right - (right @ normal) * normal
    right /= np.linalg.norm(right)
    flat = xyz @ np.stack((right, np.cross(normal, right))).T
    flat -= flat[measured.regions["part"]].mean(axis=0)
    return np.concatenate((flat, measured.height_mm[..., None]), axis=2)


def _numbered(numbers: Level, colors: Shaped[np.ndarray, "n 3"]) -> Image.Image:
    """Each number from 1 in its colour, clear where the number is 0."""
    return indexed(numbers, np.pad(colors, ((1, 0), (0, 0))).astype(np.uint8), clear=0)
