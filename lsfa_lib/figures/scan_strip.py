"""All test scans of a run in one figure: thumbnails with score and verdict that open one viewer.

The figure shows the clearest scan, as `scan_figures` draws it; `layout.meta.strip` holds the others
for a page, whose script builds the thumbnails and exchanges what the viewer shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from lsfa_lib.figures import clouds, scan_images
from lsfa_lib.figures.findings import Result, lead, number, ranked
from lsfa_lib.figures.names import mode_label
from lsfa_lib.figures.scan_figures import chosen_scans, levels_of, panel_name, scan_figures
from lsfa_lib.figures.scan_images import AnyImage, Pixels, pixels_of, score_ranges
from lsfa_lib.records import Mode, Prediction, Sample

MOST_PX, THUMBNAIL_PX = 112, 64
ALL_POINTS, FEWEST, MOST = 120_000, 1500, 6000
"""Points of all clouds of a page, and the limits for one: 48 scans stay below 4 MB."""


def scan_strip(
    result: Result,
    samples: Sequence[Sample],
    predictions: dict[Mode, list[Prediction]],
    n: int = 48,
) -> go.Figure:
    """The figure; `n` scans can be opened: `chosen_scans`, then mistakes, then by score."""
    ranges, mode = score_ranges(samples, predictions), lead(result)
    place = {scan["name"]: i for i, scan in enumerate(result["scans"])}
    order = ranked(result, mode)
    first = list(chosen_scans(result, n))
    others = sorted(
        order, key=lambda scan: outcome_of(scan, result) not in ("missed", "false alarm")
    )
    opened = [*first, *(s["name"] for s in others if s["name"] not in first)][:n]
    points = int(np.clip(ALL_POINTS // max(1, len(opened)), FEWEST, MOST))
    entries = []
    for scan in order:
        i = place[scan["name"]]
        pixels = pixels_of(samples[i])
        levels = levels_of({m: found[i] for m, found in predictions.items()}, ranges)
        entry = _entry(scan, result, pixels, levels[mode])
        if scan["name"] in opened:
            entry["view"] = _view(pixels, levels, points, mode)
        entries.append(entry)
    (figure,) = scan_figures(result, samples, predictions, n=1)
    strip = {
        "first": [scan["name"] for scan in order].index(opened[0]),
        "lead": figure.layout.meta["linked"]["lead"],
        "scans": entries,
    }
    figure.layout.meta = {**figure.layout.meta, "strip": strip}
    return figure


def outcome_of(scan: dict[str, Any], result: Result, mode: Mode = "") -> str:
    """What a run says of a scan of its result.json, in one mode: `found`, `missed`, `passed`,
    `false alarm`; `flagged` or `not flagged` where the truth is unknown.
    """
    mode = mode or lead(result)
    called = scan["scores"][mode] > number(result["modes"][mode]["threshold"])
    if scan["defective"] is None:
        return "flagged" if called else "not flagged"
    return (("passed", "false alarm"), ("missed", "found"))[scan["defective"]][called]


def _entry(
    scan: dict[str, Any], result: Result, pixels: Pixels, level: scan_images.Level
) -> dict[str, Any]:
    """A thumbnail: photo and map next to each other."""
    mode, box = lead(result), pixels.box
    valid, defect, score = (
        box.cut(part, THUMBNAIL_PX) for part in (pixels.valid, pixels.defect, level)
    )
    images: list[AnyImage] = [
        box.cut(pixels.photo, THUMBNAIL_PX),
        scan_images.map_image(score, valid, defect),
    ]
    both = Image.new("RGB", (2 * THUMBNAIL_PX, THUMBNAIL_PX), "#101418")
    for i, each in enumerate(images):
        image = _image(each).convert("RGBA").resize((THUMBNAIL_PX, THUMBNAIL_PX))
        both.paste(image, (i * THUMBNAIL_PX, 0), image)
    return {
        "name": scan["name"],
        "kind": scan["kind"],
        "outcome": outcome_of(scan, result),
        "score": round(scan["scores"][mode], 3),
        "threshold": result["modes"][mode]["threshold"],
        "thumbnail": scan_images.uri(both),
    }


def _image(image: AnyImage) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def _view(
    pixels: Pixels, levels: dict[Mode, scan_images.Level], most: int, mode: Mode
) -> dict[str, Any]:
    """What the viewer exchanges to show this scan, in the order of the figure's traces."""
    box, named = pixels.box, {panel_name(m): level for m, level in levels.items()}
    images = scan_images.images_of(pixels, named, box, MOST_PX)
    step = box.side / min(box.side, MOST_PX)
    rows, columns = points = clouds.spread_points(pixels.valid, most)
    surface = clouds.surface_of(pixels)[points]
    colorings = [clouds.by_photo(pixels.photo[points]), clouds.by_truth(pixels.defect[points])]
    colorings += [clouds.by_score(level[points], mode_label(m)) for m, level in levels.items()]
    for coloring in colorings:  # few points are drawn larger, so that they still cover the part
        coloring["marker"]["size"] = int(
            np.clip(3 * (clouds.CLOUD_POINTS / len(rows)) ** 0.5, 3, 6)
        )
    # Where there is no defect, the camera faces the place with the highest score.
    seen, score = pixels.defect[points], levels[mode][points]
    seen = seen if seen.any() else score >= np.percentile(score, 99)
    return {
        "images": [scan_images.uri(_image(image)) for image in images.values()],
        "place": {
            **{"x0": box.left + (step - 1) / 2, "y0": box.top + (step - 1) / 2},
            **{"dx": step, "dy": step},
        },
        "box": [box.left - 0.5, box.top - 0.5, box.side],
        "cloud": clouds.packed_cloud(surface),
        "colors": [clouds.recoloring([coloring], [0])[0] for coloring in colorings],
        "rows": clouds.packed(rows, "u2"),
        "columns": clouds.packed(columns, "u2"),
        "camera": clouds.camera_facing(surface, seen),
    }
