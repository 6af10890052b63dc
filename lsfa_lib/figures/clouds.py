"""The rotatable cloud of a scan: which points, in which colours, seen from where."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Shaped, UInt8
from plotly.colors import get_colorscale

from lsfa_lib.datasets.relief import photo_axes
from lsfa_lib.figures.scan_images import COLORSCALE, TOP, Pixels, main_colors
from lsfa_lib.figures.style import DEFECTIVE, adapt_to_phones

CLOUD_POINTS = 12_000
MOST_BUTTONS = 5
"""In a row on a phone; more become a menu."""
MENU: dict[str, Any] = {
    **{"x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "pad": {"b": 6}},
    "bgcolor": "#dbe2ea",
    "bordercolor": "#aab5c1",
    "font": {"color": "#1d2733", "size": 12},
}
"""A menu above a figure, legible on light and dark pages."""
PLACE = "%{x:.2f}, %{y:.2f}, %{z:.2f} mm<extra></extra>"
Coloring = dict[str, Any]
"""Attributes of a cloud's trace: marker and hover text."""
Places = tuple[Shaped[np.ndarray, " N"], Shaped[np.ndarray, " N"]]
"""(rows, columns) of pixels."""


def spread_points(valid: Bool[np.ndarray, "H W"], most: int = CLOUD_POINTS) -> Places:
    """At most `most` valid pixels, evenly spread and always the same.

    The R2 sequence (Roberts) orders pixels so that every beginning of it covers the part evenly,
    without the stripes of a fixed step.
    """
    rows, columns = np.nonzero(valid)
    rank = (rows * 0.7548776662466927 + columns * 0.5698402909980532) % 1
    keep = np.sort(np.argsort(rank, kind="stable")[:most])
    return rows[keep], columns[keep]


def surface_of(pixels: Pixels) -> Float[np.ndarray, "H W 3"]:
    """Right, up (as in the photo) and towards the camera, mm from the part's middle; else NaN."""
    surface = np.full(pixels.xyz.shape, np.nan)
    points = pixels.xyz[pixels.valid] @ photo_axes(pixels.xyz, pixels.valid).T
    surface[pixels.valid] = points - (points.min(axis=0) + points.max(axis=0)) / 2
    return surface


def cloud(points: Float[np.ndarray, "N 3"], coloring: Coloring) -> dict[str, Any]:
    """A trace of points, rounded to 0.01 mm."""
    x, y, z = np.round(points, 2).T.astype(np.float32)
    return {"x": x, "y": y, "z": z, "mode": "markers", "showlegend": False, **coloring}


def by_photo(photo: UInt8[np.ndarray, "N 3"]) -> Coloring:
    """Points in the colours of the photo, one byte each: the 250 main colours."""
    index, colors = main_colors(photo[None], TOP)
    colors = np.pad(colors, ((0, max(0, 2 - len(colors))), (0, 0)), mode="edge")
    palette = [(i / (len(colors) - 1), f"rgb({r},{g},{b})") for i, (r, g, b) in enumerate(colors)]
    return _coloring(index[0], palette, PLACE, len(colors) - 1)


def by_truth(defect: Bool[np.ndarray, " N"]) -> Coloring:
    """Points of the true defect in colour, the others grey."""
    return _coloring(defect.astype(np.uint8), [[0, "#a9b4c0"], [1, DEFECTIVE]], PLACE, 1)


def by_score(level: UInt8[np.ndarray, " N"], name: str) -> Coloring:
    """Points in the colours of a map, per cent."""
    text = f"{name} %{{marker.color}} %<br>{PLACE}"
    return _coloring(level, get_colorscale(COLORSCALE), text, TOP)


def _coloring(
    index: UInt8[np.ndarray, " N"], colorscale: list[Any], hover: str, top: int
) -> Coloring:
    marker = {"size": 3, "color": index, "colorscale": colorscale, "cmin": 0, "cmax": top}
    return {"marker": marker, "hovertemplate": hover}


def add_cloud(
    figure: go.Figure, points: Float[np.ndarray, "N 3"], choices: dict[str, Coloring]
) -> None:
    """The cloud in the scene of an image grid, with buttons that recolour it."""
    figure.add_scatter3d(**cloud(points, next(iter(choices.values()))))
    view = scene(points)
    figure.update_layout(scene=view)
    add_colorings(figure, choices)
    adapt_to_phones(figure, {**phone_camera("scene", view), "updatemenus[0].font.size": 11})


def add_colorings(figure: go.Figure, choices: dict[str, Coloring]) -> None:
    """Buttons that recolour the last trace."""
    last = len(figure.data) - 1
    add_buttons(figure, {n: recoloring([coloring], [last]) for n, coloring in choices.items()})


def recoloring(colorings: list[Coloring], traces: list[int]) -> list[Any]:
    """Arguments of restyle that give each of the traces its colouring."""
    markers = [coloring["marker"] for coloring in colorings]
    change: dict[str, Any] = {f"marker.{key}": [m[key] for m in markers] for key in markers[0]}
    # plotly turns arrays of traces into bytes by itself, but not those of buttons.
    change["marker.color"] = [packed(marker["color"], "u1") for marker in markers]
    change["hovertemplate"] = [coloring["hovertemplate"] for coloring in colorings]
    return [change, traces]


def add_buttons(figure: go.Figure, choices: dict[str, list[Any]]) -> None:
    """Buttons above the figure, on phones a menu if many: label -> arguments of restyle."""
    buttons = [{"label": n, "method": "restyle", "args": args} for n, args in choices.items()]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, **MENU}
    # In a notebook the title is above the buttons; a page shows it apart and needs no room for it.
    title = {"y": 1, "yanchor": "top", "pad": {"t": 12}}
    figure.update_layout(updatemenus=[menu], title=title, margin={"t": 92})
    figure.layout.meta = {**figure.layout.meta, "margin": {"t": 34}}
    narrow = {"margin.t": 34, "height": figure.layout.meta["narrow"]["height"] + 30}
    if len(choices) > MOST_BUTTONS:
        narrow |= {"updatemenus[0].type": "dropdown", "updatemenus[0].direction": "down"}
    adapt_to_phones(figure, narrow)


def linked(points: Places, choices: list[str], lead: str) -> dict[str, Any]:
    """What a page needs to show one place in all views: the pixel of each point of the cloud.

    `scores` lists name and place of the buttons whose colours are scores, `lead` the place of the
    one a page begins with; the second button is the ground truth.
    """
    rows, columns = points
    return {
        "rows": packed(rows, "u2"),
        "columns": packed(columns, "u2"),
        "scores": [[name, i] for i, name in enumerate(choices) if i >= 2],
        "lead": choices.index(lead),
        "top": TOP,
    }


def packed(values: Shaped[np.ndarray, " N"], dtype: str) -> dict[str, str]:
    """Integers as plotly writes arrays: little-endian bytes in base64."""
    data = values.astype(f"<{dtype}").tobytes()
    return {"dtype": dtype, "bdata": base64.b64encode(data).decode()}


def packed_cloud(points: Float[np.ndarray, "N 3"]) -> dict[str, Any]:
    """Coordinates in 16-bit steps, as a page stores those of a cloud's trace: `meta.step` mm."""
    step = max(0.01, float(np.abs(points).max(initial=0)) / 32_000)
    steps = np.rint(points / step)
    axes = {axis: packed(steps[:, i], "i2") for i, axis in enumerate("xyz")}
    return {**axes, "meta": {"step": step}}


def camera_facing(
    points: Float[np.ndarray, "N 3"], seen: Bool[np.ndarray, " N"]
) -> dict[str, dict[str, float]]:
    """The camera of `scene`, moved towards the direction in which the surface faces at `seen`."""
    camera, unit = scene(points)["camera"], float(np.prod(np.ptp(points, axis=0) + 1e-9) ** (1 / 3))
    middle, reach = points[seen].mean(axis=0), 0.08 * float(np.ptp(points, axis=0).max())
    near = points[np.linalg.norm(points - middle, axis=1) <= reach]
    near = near if len(near) > 3 else points
    # The normal is the direction in which the neighbours extend least.
    normal = np.linalg.svd(near - near.mean(axis=0), full_matrices=False)[2][2]
    eye = np.array([camera["eye"][axis] for axis in "xyz"])
    distance = float(np.linalg.norm(eye))
    towards = 0.8 * eye / distance + normal * (1 if normal[2] >= 0 else -1)
    # A little towards the place: the complete part stays in view.
    centre = 0.15 * middle / unit
    eye = centre + distance * towards / np.linalg.norm(towards)
    named = {"eye": eye, "center": centre}
    return {
        **{n: dict(zip("xyz", np.round(v, 4).tolist(), strict=True)) for n, v in named.items()},
        "up": camera["up"],
    }


def scene(points: Float[np.ndarray, "N 3"]) -> dict[str, Any]:
    """Axes in mm; the eye above the part, a little towards the photo's lower edge."""
    extent = np.ptp(points, axis=0) + 1e-9
    # plotly's unit of length is the geometric mean of the three extents.
    distance = float(extent.max() / np.prod(extent) ** (1 / 3))
    axis = {
        "showbackground": False,
        "gridcolor": "#cfd6dd",
        "zeroline": False,
        "tickfont": {"size": 10},
        "nticks": 4,
        "tickangle": 0,
    }
    titled = {a: {**axis, "title": {"text": f"{a}, mm", "font": {"size": 12}}} for a in ("x", "y")}
    # A flat part leaves no room for a scale of heights; each point shows its own when pointed at.
    titled["z"] = {**axis, "title": {"text": ""}, "showticklabels": False}
    return {
        "aspectmode": "data",
        "camera": {
            "eye": {"x": 0.0, "y": round(-0.85 * distance, 4), "z": round(1.4 * distance, 4)},
            "up": {"x": 0, "y": 0, "z": 1},
            # The labels of the axes are below the part.
            "center": {"x": 0.0, "y": round(-0.17 * distance, 4), "z": 0.0},
        },
        **{f"{name}axis": settings for name, settings in titled.items()},
    }


def phone_camera(name: str, view: dict[str, Any]) -> dict[str, float]:
    """Changes on a phone, where a part fills the width of its scene: the camera moves away."""
    return {f"{name}.camera.eye.{a}": round(1.3 * view["camera"]["eye"][a], 4) for a in "xyz"}
