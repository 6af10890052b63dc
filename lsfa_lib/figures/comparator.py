"""The same test scans under every setting: maps, their differences to a reference, and one cloud.

Maps share one scale: 0 % is the median of a setting's good test surface, 100 % its 99.9th
percentile (see `scan_images`). A difference is in the same per cent.
"""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8
from PIL import Image
from plotly.colors import get_colorscale, sample_colorscale, unlabel_rgb
from scipy import ndimage

from lsfa_lib.figures import clouds
from lsfa_lib.figures.image_grid import SCORE_BAR, ImageRow, image_grid, image_trace
from lsfa_lib.figures.scan_images import (
    CLEAR,
    DEFECT_RGB,
    OUTLINE,
    AnyImage,
    Box,
    indexed,
    level_of,
    map_image,
    uri,
)
from lsfa_lib.figures.style import adapt_to_phones
from lsfa_lib.storage.kept_maps import KeptScan

REACH = 100
"""Per cent at which the colours of differences end, below and above zero."""
DIFFERENCES = "RdBu_r"
SIDE = 100
"""Of every image, whatever its pixels: scans of all sizes share the axes of a page."""
LETTERS, MENU_LETTERS = 22, 32
"""Characters of a line above an image, and of a label in a menu, that fit a phone."""
POINT_PX = 5
"""Larger than in a report: a run keeps fewer points."""


@dataclass(frozen=True)
class Compared:
    """One test scan under every setting."""

    label: str
    """In the menu: category, kind and number."""
    kept: dict[str, KeptScan]
    """By setting; the reference is among them."""
    outcomes: dict[str, str]
    """Outcome of the scan by setting: `found`, `missed`, ..."""


def percent(scan: KeptScan) -> Float[np.ndarray, "s s"]:
    """The map on the common scale, not rounded."""
    zero, full = scan.good
    return 100 * (scan.anomaly - zero) / (full - zero)


def difference(scan: KeptScan, reference: KeptScan) -> Float[np.ndarray, "s s"]:
    """Per cent by which a setting's map exceeds the reference's, on the reference's pixels."""
    own, base = percent(scan), percent(reference)
    if own.shape != base.shape:  # prepared at another image size
        image = Image.fromarray(own.astype(np.float32))
        own = np.asarray(image.resize(base.shape[::-1], Image.Resampling.BILINEAR), np.float64)
    return own - base


def comparator(scans: list[Compared], reference: str, title: str = "") -> go.Figure:
    """A menu of scans; photo, and for each setting its map and the difference to the reference.

    The cloud is coloured by the setting that a second menu names. Every setting that the first
    scan was kept under has its place; it is empty for a scan that a setting lacks.
    """
    first = scans[0]
    settings = [reference, *(name for name in first.kept if name != reference)]
    panels = [_panels(scan, settings) for scan in scans]
    box = Box(0, 0, SIDE)
    lines = 1 + max(len(_wrapped(name)) for name in settings)
    shown = {str(i): image for i, image in enumerate(panels[0])}
    row = ImageRow("", shown, box, name_lines=lines)
    figure = image_grid([row], title, SCORE_BAR, (4, 2), with_cloud=True)
    for note, text in zip(figure.layout.annotations, _names(first, settings), strict=True):
        note.text = text
    axes = [(trace.xaxis, trace.yaxis) for trace in figure.data if trace.type == "image"]
    for images in panels[1:]:
        for image, (x, y) in zip(images, axes, strict=True):
            figure.add_trace({**image_trace(image, box), "xaxis": x, "yaxis": y, "visible": False})
    colorings = [_colorings(scan, settings) for scan in scans]
    for number, (scan, own) in enumerate(zip(scans, colorings, strict=True)):
        points = scan.kept[reference].points
        figure.add_scatter3d(**clouds.cloud(points, own[reference]), visible=number == 0)
    _add_difference_bar(figure)
    _add_menus(figure, scans, settings, colorings)
    figure.layout.meta = {**figure.layout.meta, "example": _example(scans, settings, panels)}
    return figure


def _example(
    scans: list[Compared], settings: list[str], panels: list[list[AnyImage]]
) -> dict[str, Any]:
    """What a page shows first: the first scan, by label, that a setting judges differently."""
    pairs = [(i, n) for i in range(len(scans)) for n in range(1, len(settings))]
    outcomes = [scan.outcomes for scan in scans]
    differing = [
        (i, n)
        for i, n in pairs
        if outcomes[i].get(settings[n], "") not in ("", outcomes[i][settings[0]])
    ]
    if not pairs:
        return {}
    i, n = (differing or pairs)[0]
    images = [*panels[i][:2], *panels[i][2 * n : 2 * n + 2]]
    words = [f"{name}: {outcomes[i].get(name, 'not run')}" for name in (settings[0], settings[n])]
    picture = scans[i].kept[settings[0]].picture
    caption = f"{scans[i].label}: {picture}; {words[0]}; {words[1]}; difference"
    return {"images": [uri(image) for image in images], "caption": caption}


def _panels(scan: Compared, settings: list[str]) -> list[AnyImage]:
    """Photo and map of the reference, then map and difference of each other setting."""
    base = scan.kept[settings[0]]
    images: list[AnyImage] = [base.photo, _map(base)]
    for name in settings[1:]:
        kept = scan.kept.get(name)
        images += [_map(kept), _difference(kept, base)] if kept else [_empty(), _empty()]
    return images


def _map(scan: KeptScan) -> Image.Image:
    return map_image(level_of(scan.anomaly, scan.good), scan.valid, scan.defect)


def _difference(scan: KeptScan, base: KeptScan) -> Image.Image:
    """Blue where the setting scores lower than the reference, red where higher."""
    share = np.clip((difference(scan, base) + REACH) / (2 * REACH), 0, 1)
    index = np.where(base.valid, np.rint(share * 250), CLEAR).astype(np.uint8)
    index[ndimage.binary_dilation(base.defect, iterations=2) & ~base.defect] = OUTLINE
    colors = np.zeros((256, 3), np.uint8)
    scale = sample_colorscale(DIFFERENCES, np.linspace(0, 1, 251).tolist())
    colors[:251], colors[OUTLINE] = [unlabel_rgb(color) for color in scale], DEFECT_RGB
    return indexed(index, colors, CLEAR)


def _empty() -> Image.Image:
    return indexed(np.full((2, 2), CLEAR, np.uint8), np.zeros((256, 3), np.uint8), CLEAR)


def _names(scan: Compared, settings: list[str]) -> list[str]:
    """What stands above the images; it changes with the scan."""
    names = [scan.kept[settings[0]].picture]
    for name in settings:
        lines = [*map(html.escape, _wrapped(name)), scan.outcomes.get(name, "not run")]
        names.append("<br>".join(lines))
        if name != settings[0]:
            names.append("difference")
    return names


def _wrapped(name: str) -> list[str]:
    return textwrap.wrap(name, LETTERS, max_lines=2, placeholder=" …")


def _colorings(scan: Compared, settings: list[str]) -> dict[str, clouds.Coloring]:
    """The cloud by photo and by the map of each setting."""
    base = scan.kept[settings[0]]
    rows, columns = base.places.astype(int)
    found = {base.picture: clouds.by_photo(base.photo[rows, columns])}
    for name in settings:
        level = _on_cloud(scan.kept.get(name), base)
        found[name] = clouds.by_score(level, html.escape(name))
    for coloring in found.values():
        coloring["marker"]["size"] = POINT_PX
    return found


def _on_cloud(scan: KeptScan | None, base: KeptScan) -> UInt8[np.ndarray, " n"]:
    """Levels of a map at the places of the reference's cloud."""
    if scan is None:
        return np.zeros(base.places.shape[1], np.uint8)
    level = level_of(scan.anomaly, scan.good)
    rows, columns = base.places.astype(int) * np.array(level.shape)[:, None] // base.valid.shape[0]
    return level[rows, columns]


def _add_difference_bar(figure: go.Figure) -> None:
    """The scale of differences, to the right of that of scores."""
    bar = figure.layout.coloraxis.colorbar
    left = float(bar.x)
    bar.update(len=(0.97 - left) * 0.52, title_text="anomaly score (100 %: top 0.1 % of good)")
    ticks = {-REACH: f"−{REACH}", 0: "0", REACH: f"+{REACH}"}
    colorbar = {
        **bar.to_plotly_json(),
        "x": left + (0.99 - left) * 0.6,
        "len": (0.97 - left) * 0.38,
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
        "title": {"text": "difference, %", "side": "bottom", "font": {"size": 12}},
    }
    bar.update(tickvals=[0, 100, 200], ticktext=["0 %", "100 %", "200 %"])
    scale = {"colorscale": get_colorscale(DIFFERENCES), "cmin": -REACH, "cmax": REACH}
    marker = {"color": [0], "coloraxis": "coloraxis2"}
    figure.add_scatter(x=[None], y=[None], marker=marker, hoverinfo="skip")
    figure.update_layout(coloraxis2={**scale, "colorbar": colorbar})
    slim = {"x": 0.02, "xanchor": "left", "len": 0.5, "title.text": "anomaly score"}
    right = {"x": 0.6, "xanchor": "left", "len": 0.38}
    changes = {f"coloraxis.colorbar.{key}": value for key, value in slim.items()}
    changes |= {f"coloraxis2.colorbar.{key}": value for key, value in right.items()}
    adapt_to_phones(figure, changes)


def _add_menus(
    figure: go.Figure,
    scans: list[Compared],
    settings: list[str],
    colorings: list[dict[str, clouds.Coloring]],
) -> None:
    """Menus of scans and of the cloud's colours; a scan brings its traces, names and camera."""
    images = [i for i, trace in enumerate(figure.data) if trace.type == "image"]
    spaces = [i for i, trace in enumerate(figure.data) if trace.type == "scatter3d"]
    each, choices = len(images) // len(scans), []
    views = [clouds.scene(scan.kept[settings[0]].points) for scan in scans]
    for number, (scan, view) in enumerate(zip(scans, views, strict=True)):
        shown = [i // each == number for i in range(len(images))]
        shown += [i == number for i in range(len(spaces))]
        texts = {f"annotations[{i}].text": t for i, t in enumerate(_names(scan, settings))}
        change = {**texts, "scene.camera": view["camera"]}
        choices.append(_choice(scan.label, "update", {"visible": shown}, change, images + spaces))
    colors = [
        _choice(
            textwrap.shorten(f"cloud: {name}", MENU_LETTERS, placeholder=" …"),
            "restyle",
            *clouds.recoloring([own[name] for own in colorings], spaces),
        )
        for name in colorings[0]
    ]
    menu: dict[str, Any] = {"type": "dropdown", "direction": "down", **clouds.MENU}
    second = {**menu, "buttons": colors, "active": 1, "x": 0.24}
    figure.update_layout(
        scene=views[0],
        updatemenus=[{**menu, "buttons": choices}, second],
        title={"y": 1, "yanchor": "top", "pad": {"t": 12}},
        margin={"t": 92},
    )
    figure.layout.meta = {**figure.layout.meta, "margin": {"t": 34}, "menus": True}
    # One below the other: side by side the menus would exceed the width of a phone, and plotly's
    # margins would grow until the images were a quarter as wide.
    narrow = {"margin.t": 68, "updatemenus[0].pad.b": 38, "updatemenus[1].x": 0}
    narrow["height"] = figure.layout.meta["narrow"]["height"] + 64
    adapt_to_phones(figure, {**narrow, **clouds.phone_camera("scene", views[0])})


def _choice(label: str, method: str, *args: Any) -> dict[str, Any]:
    return {"label": html.escape(label), "method": method, "args": list(args)}
