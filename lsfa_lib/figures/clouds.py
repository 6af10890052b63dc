"""The rotatable cloud of a scan: which points, in which colours, seen from where."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image
from plotly.colors import get_colorscale

from lsfa_lib.figures.figures import DEFECTIVE
from lsfa_lib.figures.findings import BOTH, NAMES, SHORT
from lsfa_lib.figures.scan_images import COLORSCALE, TOP
from lsfa_lib.records import Mode


def spread_points(valid: Bool[np.ndarray, "S S"], most: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of at most `most` valid pixels, evenly spread and always the same.

    The R2 sequence (Roberts) orders pixels so that every beginning of it covers the part evenly,
    without the stripes of a fixed step.
    """
    rows, columns = np.nonzero(valid)
    rank = (rows * 0.7548776662466927 + columns * 0.5698402909980532) % 1
    keep = np.sort(np.argsort(rank, kind="stable")[:most])
    return rows[keep], columns[keep]


def colorings(
    photo: UInt8[np.ndarray, "N 3"],
    defect: Bool[np.ndarray, " N"],
    levels: dict[Mode, UInt8[np.ndarray, " N"]],
) -> dict[str, dict[str, Any]]:
    """Button label -> trace attributes; one byte a point, the photo by its 250 main colours."""
    index, palette = photo_palette(photo)
    place = "%{x:.2f}, %{y:.2f}, %{z:.2f} mm<extra></extra>"
    truth = [[0, "#a9b4c0"], [1, DEFECTIVE]]
    found = {
        "photo": _coloring(index, palette, place),
        "ground truth": _coloring(defect.astype(np.uint8), truth, place),
    }
    for mode, level in levels.items():
        text = f"{NAMES[mode]} score %{{marker.color}} %<br>{place}"
        found[SHORT[mode]] = _coloring(level, get_colorscale(COLORSCALE), text, TOP)
    return found


def photo_palette(
    photo: UInt8[np.ndarray, "N 3"],
) -> tuple[UInt8[np.ndarray, " N"], list[tuple[float, str]]]:
    """Each colour's place among the 250 main ones, and those as a plotly colour scale."""
    picture = Image.fromarray(photo[None]).quantize(TOP, dither=Image.Dither.NONE)
    colors = np.array(picture.getpalette(), dtype=int).reshape(-1, 3)
    colors = np.pad(colors, ((0, max(0, 2 - len(colors))), (0, 0)), mode="edge")
    palette = [(i / (len(colors) - 1), f"rgb({r},{g},{b})") for i, (r, g, b) in enumerate(colors)]
    return np.asarray(picture)[0], palette


def _coloring(
    index: Shaped[np.ndarray, " N"], colorscale: list[Any], hover: str, top: int | None = None
) -> dict[str, Any]:
    marker = {
        "size": 3,
        # plotly turns arrays of traces into bytes by itself, but not those of buttons.
        "color": _packed(index, "u1"),
        "colorscale": colorscale,
        "cmin": 0,
        "cmax": len(colorscale) - 1 if top is None else top,
    }
    return {"marker": marker, "hovertemplate": hover}


def buttons(choices: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Plotly's buttons that recolour the cloud; it is the trace after the picture panels."""
    found = []
    for label, coloring in choices.items():
        # restyle spreads a list over the traces: each value is wrapped, and the cloud is the last.
        change = {f"marker.{key}": [value] for key, value in coloring["marker"].items()}
        change["hovertemplate"] = coloring["hovertemplate"]
        cloud = len(choices) + 1
        found.append({"label": label, "method": "restyle", "args": [change, [cloud]]})
    return {
        "type": "buttons",
        "direction": "right",
        "buttons": found,
        "x": 0,
        "xanchor": "left",
        "y": 1.0,
        "yanchor": "bottom",
        "pad": {"b": 6},
        "bgcolor": "#dbe2ea",
        "bordercolor": "#aab5c1",
        "font": {"color": "#1d2733", "size": 12},
    }


def linked(
    points: tuple[Shaped[np.ndarray, " N"], Shaped[np.ndarray, " N"]], choices: list[str]
) -> dict[str, Any]:
    """What a page needs to show one place in all views: the pixel of each point of the cloud.

    `scores` lists name and place of the buttons whose colours are scores, `lead` the place of the
    one a page begins with; the second button is the truth.
    """
    rows, columns = points
    scores = [[name, i] for i, name in enumerate(choices) if i >= 2]
    return {
        "rows": _packed(rows, "u2"),
        "columns": _packed(columns, "u2"),
        "scores": scores,
        "lead": choices.index(SHORT[BOTH]) if SHORT[BOTH] in choices else len(choices) - 1,
        "top": TOP,
    }


def _packed(values: Shaped[np.ndarray, " N"], dtype: str) -> dict[str, str]:
    """Whole numbers as plotly writes arrays: little-endian bytes in base64."""
    data = values.astype(f"<{dtype}").tobytes()
    return {"dtype": dtype, "bdata": base64.b64encode(data).decode()}


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
    # A flat part leaves no room for a scale of heights; a point tells its own when pointed at.
    titled["z"] = {**axis, "title": {"text": ""}, "showticklabels": False}
    return {
        "aspectmode": "data",
        "camera": {
            "eye": {"x": 0.0, "y": round(-0.85 * distance, 4), "z": round(1.4 * distance, 4)},
            "up": {"x": 0, "y": 0, "z": 1},
            # The labels of the axes hang below the part.
            "center": {"x": 0.0, "y": round(-0.17 * distance, 4), "z": 0.0},
        },
        **{f"{name}axis": settings for name, settings in titled.items()},
        "domain": {"x": [0, 0.47], "y": [0, 1]},
    }
