"""Scans of a data set in figures: what the frames show, how large defects are, one scan in parts.

Numbers come from `scan_statistics`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Shaped
from PIL import ImageColor

from lsfa_lib.datasets.preprocess import squared
from lsfa_lib.datasets.relief import photo_axes
from lsfa_lib.figures import clouds
from lsfa_lib.figures.data_report import defects_of, patch_mm, percent, short_name, thin_sentence
from lsfa_lib.figures.image_grid import ColorBar, ImageRow, image_grid
from lsfa_lib.figures.scan_images import (
    TOP,
    AnyImage,
    Box,
    Mask,
    indexed,
    level_of,
    map_image,
    marked,
    picture_of,
)
from lsfa_lib.figures.scan_statistics import REGIONS, Measured, Region
from lsfa_lib.figures.style import DASHED, QUARTERS, ROWS, adapt_to_phones, round_ticks, styled

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
SYMBOLS = {
    "#D55E00": "circle",
    "#0072B2": "square",
    "#009E73": "diamond",
    "#CC79A7": "cross",
    "#E69F00": "x",
    "#56B4E9": "triangle-up",
    "#1d2733": "star",
    "#8a94a0": "hourglass",
}
"""Kinds of defects by colour and form; a ninth starts again."""
_TICKS = [n * 10.0**power for power in range(-2, 5) for n in (1, 2, 5)]
_LOG = {"type": "log", "tickvals": _TICKS, "ticktext": [f"{tick:,g}" for tick in _TICKS]}


def share_figure(facts: pd.DataFrame) -> go.Figure:
    """Shares of the frame, a bar per category: part, background, separate pieces, no reading."""
    train = facts[facts["split"] == "train"]
    shares = train.groupby("category")[list(REGIONS)].mean().sort_values("part")
    figure, names = go.Figure(), [html.escape(str(name)) for name in shares.index]
    for region in REGIONS:
        figure.add_bar(
            x=shares[region],
            y=[f"{name} " for name in names],
            orientation="h",
            name=NAMES[region],
            marker={"color": COLORS[region]},
            text=[percent(value) if value >= 0.06 else "" for value in shares[region]],
            **{"textposition": "inside", "insidetextanchor": "middle", "textangle": 0},
            hovertemplate=f"%{{y}}<br>{NAMES[region]} %{{x:.1%}}<extra></extra>",
        )
    least, most = percent(shares["part"].iloc[0]), percent(shares["part"].iloc[-1])
    title = f"The part fills {least} of the frame"
    title += f" of {names[0]} and {most} of {names[-1]}" if len(names) > 1 else ""
    above = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
    styled(figure, title, "share of the frame", barmode="stack", height=190 + 34 * len(names))
    figure.update_xaxes(range=[0, 1.001], **QUARTERS).update_yaxes(**ROWS)
    return figure.update_layout(legend=above, margin={"t": 70, "r": 28})


def defect_figure(facts: pd.DataFrame) -> go.Figure:
    """Area and width of every defect, and how large one patch of the grid is."""
    figure = go.Figure()
    kinds = defects_of(facts).groupby("kind")
    for (kind, scans), (color, symbol) in zip(kinds, cycle(SYMBOLS.items()), strict=False):
        figure.add_scatter(
            x=scans["defect_mm2"].round(2),
            y=scans["defect_width_mm"].round(3),
            mode="markers",
            name=html.escape(str(kind)),
            marker={"color": color, "symbol": symbol, "size": 10, "opacity": 0.85},
            text=[_defect_hover(scan) for scan in scans.to_dict("records")],
            hovertemplate="%{text}<extra></extra>",
        )
    patch = patch_mm(facts)
    figure.add_hline(patch, line=DASHED)
    # Thin defects are small ones: the lower right is free.
    figure.add_annotation(
        text=f"one patch, {patch:.1f} mm",
        **{"x": 1, "xref": "paper", "xanchor": "right"},
        **{"y": float(np.log10(patch)), "yanchor": "top"},
        showarrow=False,
    )
    styled(figure, thin_sentence(facts), "area, mm²", "width at the widest place, mm", height=440)
    figure.update_xaxes(**_LOG).update_yaxes(**_LOG)
    adapt_to_phones(figure, {"height": 480, "legend.y": -0.18})
    return figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0})


def _defect_hover(scan: Mapping[Any, Any]) -> str:
    return (
        f"{short_name(scan['name'])}<br>{scan['defect_mm2']:.0f} mm², "
        f"{percent(scan['defect_share'])} of the part<br>"
        f"{scan['defect_width_mm']:.1f} mm wide, {scan['defect_patches']:.1f} patches"
    )


def image_figure(measured: Measured) -> go.Figure:
    """Photo with the defect marked, what became of each pixel, and the height above the plane."""
    scan, rise, side = measured.scan, measured.rise_mm, max(measured.height_mm.shape)
    box, top = Box(0, 0, side), max(1.0, rise)

    def drawn(image: Shaped[np.ndarray, "H W *c"], nearest: bool = False) -> Any:
        return box.cut(squared(image), MOST_PX, nearest)

    readings = drawn(~measured.regions["missing"])
    level = level_of(np.nan_to_num(measured.height_mm), (0.0, 100 * top / TOP))
    region = np.argmax([measured.regions[region] for region in REGIONS], axis=0) + 1
    colors = [(0, 0, 0), *(ImageColor.getrgb(COLORS[region]) for region in REGIONS)]
    shown: dict[str, AnyImage] = {picture_of(scan): drawn(scan.rgb)}
    if scan.defect.any():
        shown["ground truth"] = drawn(marked(scan.rgb, scan.defect))
    kept = drawn(region.astype(np.uint8), nearest=True)
    shown["what is kept"] = indexed(kept, np.array(colors, np.uint8), clear=0)
    height = map_image(drawn(level, nearest=True), readings, np.zeros_like(readings))
    shown["height above the plane"] = height
    keys = [_key(region, mask) for region, mask in measured.regions.items()]
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


def _key(region: Region, mask: Mask) -> str:
    """Colour, name and share of a region; HTML."""
    square = f'<span style="color:{COLORS[region]}">■</span>'
    return f"{square} {NAMES[region]} {percent(float(mask.mean()))}"


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
    picture = picture_of(measured.scan)
    choices = {picture: clouds.by_photo(measured.scan.rgb[part])}
    if measured.scan.defect.any():
        choices["ground truth"] = clouds.by_truth(measured.scan.defect[part])
    figure.add_scatter3d(**clouds.cloud(points[part], choices[picture]), scene="scene2")
    _lay_out(figure, measured, points)
    if len(choices) > 1:
        clouds.add_colorings(figure, choices)
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
        **clouds.phone_camera("scene", before),
        **clouds.phone_camera("scene2", after),
    }
    name, kept = html.escape(measured.scan.name), part.sum() / readings.sum()
    styled(
        figure,
        f"<b>{name}</b>: {percent(kept)} of the readings belong to the part",
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
