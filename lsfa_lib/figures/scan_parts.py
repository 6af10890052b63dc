"""One scan taken apart: which pixels are part, background or not read; in pictures and in 3D."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from plotly.colors import get_colorscale, sample_colorscale, unlabel_rgb

from lsfa_lib.figures.clouds import buttons, colorings, scene, spread_points
from lsfa_lib.figures.data_report import percent
from lsfa_lib.figures.figures import TEMPLATE
from lsfa_lib.figures.image_grid import ColorBar, PictureRow, image_grid
from lsfa_lib.figures.scan_images import marked, photo_axes, uri
from lsfa_lib.figures.scan_statistics import REGIONS, Mask, Measured, Region

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
PICTURE_PX = 300
CLOUD_POINTS = 9000
_PLACE = "%{x:.2f}, %{y:.2f}, %{z:.2f} mm<extra></extra>"


def pictures(measured: Measured) -> go.Figure:
    """Photo with the defect marked, what became of each pixel, and the height above the plane."""
    scan, photo = measured.scan, _square(measured.scan.rgb)
    sources = {"photo": uri(_sized(photo), "jpeg")}
    if scan.defect.any():
        sources["ground truth"] = uri(_sized(marked(photo, _square(scan.defect))), "jpeg")
    sources["what is kept"] = uri(_region_picture(measured))
    heights, top = _height_picture(measured)
    sources["height above the plane"] = uri(heights)
    shares = {region: mask.mean() for region, mask in measured.regions.items()}
    keys = [
        f'<span style="color:{COLORS[r]}">■</span> {NAMES[r]} {percent(shares[r])}' for r in REGIONS
    ]
    rise = np.percentile(measured.height_mm[measured.regions["part"]], 99.5)
    tilt = np.degrees(np.arccos(min(1.0, abs(measured.plane[2]))))
    bar = ColorBar(
        "height above the background plane, mm",
        "Viridis",
        {tick: f"{tick:g}" for tick in _ticks(top)},
        top,
    )
    return image_grid(
        [PictureRow("   ".join(keys), sources, PICTURE_PX, narrow_title="<br>".join(keys))],
        f"<b>{html.escape(scan.name)}</b> rises {rise:.1f} mm above a plane tilted by {tilt:.1f}°",
        bar,
        columns=(4, 2),
    )


def clouds(measured: Measured, most: int = CLOUD_POINTS) -> go.Figure:
    """All that the camera read beside the part that is left, both to be turned.

    Millimetres; right and up as in the photo, height above the background plane.
    """
    points = _level(measured)
    figure = go.Figure()
    shares = {r: float(measured.regions[r].mean()) for r in REGIONS[:3]}
    for region, share in shares.items():
        some = _spread(measured.regions[region], round(most * share / sum(shares.values())))
        figure.add_scatter3d(
            **_coordinates(points[some]),
            mode="markers",
            name=f"{NAMES[region]}, {percent(share / sum(shares.values()))}",
            marker={"size": 3, "color": COLORS[region]},
            hovertemplate=f"{NAMES[region]}<br>{_PLACE}",
            scene="scene",
            visible=True if len(some[0]) else "legendonly",
        )
    part = _spread(measured.regions["part"], most)
    colored = colorings(measured.scan.rgb[part], measured.scan.defect[part], {})
    if not measured.scan.defect.any():
        del colored["ground truth"]
    figure.add_scatter3d(
        **_coordinates(points[part]),
        mode="markers",
        showlegend=False,
        scene="scene2",
        **colored["photo"],
    )
    return figure.update_layout(**_cloud_layout(measured, points, colored))


def _cloud_layout(
    measured: Measured, points: Float[np.ndarray, "H W 3"], colored: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    readings = ~measured.regions["missing"]
    before, after = scene(points[readings]), scene(points[measured.regions["part"]])
    before["domain"] = {"x": [0, 0.49], "y": [0, 1]}
    after["domain"] = {"x": [0.51, 1], "y": [0, 1]}
    for axis in ("xaxis", "yaxis", "zaxis"):
        # The page colours the first scene's grid alone: none suits light and dark.
        after[axis] = {**after[axis], "showgrid": False}
    menu = {**buttons(colored), "x": 0.51, "y": 1.0}
    for button in menu["buttons"]:
        button["args"][1] = [len(REGIONS) - 1]
    narrow: dict[str, Any] = {
        "height": 800,
        "margin.l": 4,
        "margin.r": 4,
        "scene.domain": {"x": [0, 1], "y": [0.5, 0.92]},
        "scene2.domain": {"x": [0, 1], "y": [0, 0.42]},
        "updatemenus[0].x": 0,
        "updatemenus[0].y": 0.43,
        "legend.y": 1,
        "legend.yanchor": "top",
    }
    for name, view in (("scene", before), ("scene2", after)):
        narrow |= {
            f"{name}.camera.eye.{a}": round(1.2 * view["camera"]["eye"][a], 4) for a in "xyz"
        }
    kept = measured.regions["part"].sum() / readings.sum()
    name = html.escape(measured.scan.name)
    return {
        "template": TEMPLATE,
        "title": {"text": f"<b>{name}</b>: {percent(kept)} of the readings are the part"},
        "height": 520,
        "margin": {"l": 8, "r": 8, "b": 8},
        "scene": before,
        "scene2": after,
        "legend": {"x": 0, "y": 1, "yanchor": "top", "itemsizing": "constant"},
        "updatemenus": [menu] if len(colored) > 1 else [],
        "meta": {"narrow": narrow},
    }


def _level(measured: Measured) -> Float[np.ndarray, "H W 3"]:
    """Points in millimetres: the photo's right and up along the plane, height above it."""
    xyz = measured.scan.xyz.astype(np.float64) * 1000
    readings = ~measured.regions["missing"]
    normal = measured.plane[:3]
    right = photo_axes(_square(xyz), _square(readings))[0]
    right = right - (right @ normal) * normal
    right /= np.linalg.norm(right)
    flat = xyz @ np.stack((right, np.cross(normal, right))).T
    flat -= flat[measured.regions["part"]].mean(axis=0)
    return np.concatenate((flat, measured.height_mm[..., None]), axis=2)


def _spread(mask: Mask, most: int) -> tuple[np.ndarray, np.ndarray]:
    """`spread_points` of a mask that need not be square."""
    rows, columns = spread_points(_square(mask), most)
    above, left = ((max(mask.shape) - n) // 2 for n in mask.shape)
    return rows - above, columns - left


def _coordinates(points: Float[np.ndarray, "N 3"]) -> dict[str, Float[np.ndarray, " N"]]:
    x, y, z = np.round(points, 2).T.astype(np.float32)
    return {"x": x, "y": y, "z": z}


def _region_picture(measured: Measured) -> Image.Image:
    index = np.zeros(measured.height_mm.shape, np.uint8)
    for number, region in enumerate(REGIONS, 1):
        index[measured.regions[region]] = number
    image = Image.fromarray(_sized(index, Image.Resampling.NEAREST), "P")
    palette = [bytes(3), *(bytes.fromhex(COLORS[region][1:]) for region in REGIONS)]
    image.putpalette(b"".join(palette))
    image.info["transparency"] = 0
    return image


def _height_picture(measured: Measured) -> tuple[Image.Image, float]:
    """The heights in Viridis, clear where nothing was read, and the height of its upper end."""
    height = measured.height_mm
    top = max(1.0, float(np.nanpercentile(height[measured.regions["part"]], 99.5)))
    level = np.nan_to_num(np.clip(height / top, 0, 1) * 254 + 1, nan=0).round().astype(np.uint8)
    image = Image.fromarray(_sized(level, Image.Resampling.NEAREST), "P")
    shades = sample_colorscale(get_colorscale("Viridis"), [i / 254 for i in range(255)])
    image.putpalette(bytes(3) + np.array([unlabel_rgb(s) for s in shades], np.uint8).tobytes())
    image.info["transparency"] = 0
    return image, top


def _ticks(top: float) -> list[float]:
    """Four to eight round numbers from 0 to the top."""
    steps = [n * 10.0**power for power in range(-1, 4) for n in (1, 2, 5)]
    step = next(step for step in steps if top / step < 8)
    return [step * i for i in range(int(top / step) + 1)]


def _sized(
    picture: UInt8[np.ndarray, "H W *c"], how: Image.Resampling = Image.Resampling.BICUBIC
) -> UInt8[np.ndarray, "S S *c"]:
    """The picture in a square of `PICTURE_PX`."""
    return np.asarray(Image.fromarray(_square(picture)).resize((PICTURE_PX, PICTURE_PX), how))


def _square(image: Shaped[np.ndarray, "H W *c"]) -> Shaped[np.ndarray, "L L *c"]:
    """The image with zeros beside or above and below it."""
    side = max(image.shape[:2])
    margins = [((side - n) // 2, side - n - (side - n) // 2) for n in image.shape[:2]]
    return np.pad(image, margins + [(0, 0)] * (image.ndim - 2))
