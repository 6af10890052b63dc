"""Scans as rows of small images: photo, relief, ground truth and the maps of every mode.

All maps have the colours of `scan_images`.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import replace

import plotly.graph_objects as go

from lsfa_lib.figures.findings import found_sentence, lead
from lsfa_lib.figures.image_grid import SCORE_BAR, ImageRow, image_grid
from lsfa_lib.figures.mistakes import Judged, sentence, verdict
from lsfa_lib.figures.names import mode_label
from lsfa_lib.figures.scan_images import (
    Ranges,
    box_around,
    percent,
    pixels_of,
    scan_images,
    score_ranges,
)
from lsfa_lib.pipeline import Run

MOST_PX = 168
"""Images are stored no larger than they are drawn: eight scans stay below 1 MB."""
LINE_LETTERS = 120


def maps_grid(run: Run, scans: Sequence[Judged], mode: str = "") -> go.Figure:
    """A row for each scan: photo, relief, ground truth and the maps of every mode."""
    ranges = score_ranges(run.samples, run.predictions)
    rows = []
    for scan in scans:
        kind, stem = map(html.escape, scan.name.split("/")[-2:])
        short = f"<b>{kind}</b> {stem}: {verdict(scan)}, score {scan.score:.2f}"
        title = f"{short}, rank {scan.rank} of {scan.scans}"
        rows.append(replace(map_row(run, scan, ranges), title=title, narrow_title=short))
    title = found_sentence(run.result, mode or lead(run.result))
    return image_grid(rows, title, SCORE_BAR, _columns(rows[0]))


def mistake_figure(run: Run, scan: Judged, mode: str = "") -> go.Figure:
    """One scan with a ring where the map of `mode` peaks; the title says what went wrong.

    Colours are those of `maps_grid`, which shows the scale.
    """
    ranges = score_ranges(run.samples, run.predictions)
    peak = float(scan.peak.column), float(scan.peak.row)
    names = "photo", mode_label(mode or lead(run.result), short=True)
    row = replace(map_row(run, scan, ranges), rings=dict.fromkeys(names, peak))
    # Lines for a figure in JupyterLab; a page wraps them itself.
    lines = textwrap.wrap(sentence(scan), LINE_LETTERS, break_long_words=False)
    return image_grid([row], "<br>".join(lines), columns=_columns(row))


def map_row(run: Run, scan: Judged, ranges: Ranges) -> ImageRow:
    """The images of one scan, cropped to the part."""
    pixels = pixels_of(run.samples[scan.place])
    box = box_around(pixels.valid | pixels.defect)
    levels = {
        mode_label(mode, short=True): percent(
            found[scan.place].anomaly_map.cpu().numpy(), ranges[mode]
        )
        for mode, found in run.predictions.items()
    }
    return ImageRow("", scan_images(pixels, levels, box, MOST_PX), box)


def _columns(row: ImageRow) -> tuple[int, int]:
    """All next to each other; on a phone in two lines."""
    return len(row.images), -(-len(row.images) // 2)
