"""Scans as rows of small pictures: photo, relief, truth, and the maps of every mode.

All maps have the colours of `scan_images`.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Shaped
from PIL import Image

from lsfa_lib.figures.findings import SHORT, found_sentence, lead
from lsfa_lib.figures.image_grid import Box, ColorBar, PictureRow, box_around, image_grid
from lsfa_lib.figures.mistakes import Judged, sentence, verdict
from lsfa_lib.figures.scan_images import (
    COLORSCALE,
    TOP,
    Ranges,
    map_image,
    marked,
    percent,
    photograph,
    relief,
    score_ranges,
    uri,
)
from lsfa_lib.pipeline import Run

PICTURE_PX = 168
"""Pictures are no larger than they are drawn: eight scans stay below 1 MB."""
LINE_LETTERS = 120
BAR = ColorBar(
    "anomaly score (100 %: 1 in 1000 good pixels)",
    COLORSCALE,
    {float(t): f"{t} %" if t < TOP else f"≥ {t} %" for t in (0, 50, 100, 150, 200, TOP)},
    float(TOP),
)


def maps_grid(run: Run, scans: Sequence[Judged], mode: str = "") -> go.Figure:
    """A row a scan: photo, relief, truth and the maps of every mode, on one colour scale."""
    said = found_sentence(run.result, mode or lead(run.result))
    ranges = score_ranges(run.samples, run.predictions)
    rows = []
    for scan in scans:
        title, rank = _short_title(scan), f", rank {scan.rank} of {scan.scans}"
        rows.append(replace(map_row(run, scan, ranges, title + rank), narrow_title=title))
    return image_grid(rows, said, BAR, _columns(rows[0]))


def mistake_figure(run: Run, scan: Judged, mode: str = "") -> go.Figure:
    """One scan with a ring where the map of `mode` peaks; the title says what went wrong.

    Colours are those of `maps_grid`, which shows the scale.
    """
    ranges = score_ranges(run.samples, run.predictions)
    row = map_row(run, scan, ranges, "", ringed=mode or lead(run.result))
    return image_grid([row], _wrapped(sentence(scan)), columns=_columns(row))


def map_row(run: Run, scan: Judged, ranges: Ranges, title: str, ringed: str = "") -> PictureRow:
    """The pictures of one scan, cut to the part; a ring in the photo and the map of a mode."""
    sample = run.samples[scan.place]
    valid, defect = sample.valid.cpu().numpy(), sample.defect.cpu().numpy()
    box, photo = box_around(valid | defect), photograph(sample)
    xyz = sample.xyz.double().cpu().permute(1, 2, 0).numpy() * 1000
    pictures = {
        "photo": uri(_small(photo, box), "jpeg"),
        "relief (3D)": uri(_small(relief(xyz, valid), box), "jpeg"),
        "truth": uri(_small(marked(photo, defect), box), "jpeg"),
    }
    masks = [_small(mask, box) for mask in (valid, defect)]
    for mode, found in run.predictions.items():
        level = percent(found[scan.place].anomaly_map.cpu().numpy(), ranges[mode])
        pictures[SHORT[mode]] = uri(map_image(_small(level, box), *masks))
    side = min(box.side, PICTURE_PX)
    at = [(v - edge + 0.5) * side / box.side - 0.5 for v, edge in _peak(scan, box)]
    rings = dict.fromkeys(("photo", SHORT[ringed]), (at[0], at[1])) if ringed else {}
    return PictureRow(title, pictures, side, rings)


def _peak(scan: Judged, box: Box) -> list[tuple[int, int]]:
    return [(scan.peak.column, box.left), (scan.peak.row, box.top)]


def _small(picture: Shaped[np.ndarray, "S S *c"], box: Box) -> Shaped[np.ndarray, "s s *c"]:
    """The box of a picture, at most `PICTURE_PX` wide; masks stay masks."""
    cut = np.ascontiguousarray(box.cut(picture))
    side = min(box.side, PICTURE_PX)
    if cut.dtype == bool:
        return np.asarray(Image.fromarray(cut).resize((side, side), Image.Resampling.NEAREST))
    return np.asarray(Image.fromarray(cut).resize((side, side), Image.Resampling.BILINEAR))


def _columns(row: PictureRow) -> tuple[int, int]:
    """All beside each other; on a phone in two lines."""
    return len(row.pictures), -(-len(row.pictures) // 2)


def _short_title(scan: Judged) -> str:
    """Fits on a phone."""
    kind, stem = map(html.escape, scan.name.split("/")[-2:])
    return f"<b>{kind}</b> {stem}: {verdict(scan)}, score {scan.score:.2f}"


def _wrapped(text: str) -> str:
    """Lines for a figure in JupyterLab; a page sets them anew."""
    return "<br>".join(textwrap.wrap(text, LINE_LETTERS, break_long_words=False))
