"""The explorer's texts and small images as HTML; everything from data is escaped.

The HTML itself is in `explore.html.j2` and `explore.css`.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from PIL import Image, ImageDraw
from plotly.colors import sample_colorscale

from lsfa_lib.config import Config
from lsfa_lib.datasets.relief import relief
from lsfa_lib.explorer.evidence import Reason, middle_of
from lsfa_lib.explorer.inspection import Inspection, Why, prepared, rank_text
from lsfa_lib.figures.image_grid import SCORE_TICKS
from lsfa_lib.figures.scan_images import COLORSCALE, TOP, Photo, pixels_of, uri
from lsfa_lib.figures.style import DEFECTIVE, GOOD, LABELS, round_ticks
from lsfa_lib.records import Modality, Sample, is_defective

TITLES: dict[Modality, str] = {"rgb": "Colour (RGB)", "3d": "Shape (3D)"}
CROP = 14
"""Patches across a close-up."""
STYLE = f"<style>\n{Path(__file__).with_name('explore.css').read_text('utf-8')}</style>"
_FILES = FileSystemLoader(Path(__file__).parent)
_PARTS: Any = (
    Environment(loader=_FILES, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    .get_template("explore.html.j2", globals={"GOOD": GOOD, "DEFECTIVE": DEFECTIVE})
    .module
)
note, setting = _PARTS.note, _PARTS.setting
"""A plain sentence, of an error or not; the name and state of a slider."""


def legend_html() -> str:
    """The one colour scale of map and cloud."""
    anchors = {0: "start", 100: "middle", TOP: "end"}
    ticks = [(f"{100 * t / TOP:g}", anchor, SCORE_TICKS[t]) for t, anchor in anchors.items()]
    return _PARTS.legend(sample_colorscale(COLORSCALE, [i / 10 for i in range(11)]), ticks)


def verdict_html(inspection: Inspection) -> str:
    """How the scan is classified, and what it is."""
    kind = inspection.fitted.evidence.entries[inspection.scan].kind
    truths = {None: "it is unlabelled", False: "it is good", True: f"it has a defect: {kind}"}
    return _PARTS.verdict(inspection.verdict, truths[is_defective(kind)])


def counts_html(counts: tuple[int, int, int, int]) -> str:
    """Test parts found, missed, rejected and passed; `counts` are those of `Inspection`."""
    found, bad, rejected, good = counts
    defective = LABELS[True], bad, found, "found", "missed"
    return _PARTS.counts([defective, (LABELS[False], good, rejected, "rejected", "passed")])


def strip_html(inspection: Inspection) -> str:
    """Every test scan at its score, defective ones above good ones; the threshold as a line."""
    entries, scores = inspection.fitted.evidence.entries, inspection.scores.tolist()
    low = min(*scores, inspection.threshold)
    high = max(*scores, inspection.threshold)
    high = high if high > low else low + 1.0

    def at(value: float) -> str:
        """Per cent of the width, a little off the edges."""
        return f"{2 + 96 * (value - low) / (high - low):.2f}"

    dots = []
    for i, (entry, score) in enumerate(zip(entries, scores, strict=True)):
        known = is_defective(entry.kind)
        # A height of its own for each name keeps equal scores apart, always the same way.
        height = (20 if known else 54) + zlib.crc32(entry.name.encode()) % 23 - 11
        title = f"{entry.name}: {score:.2f}"
        place = {"x": at(score), "y": height, "color": LABELS[known][1]}
        dots.append({**place, "title": title, "own": i == inspection.scan})
    ticks = [(at(tick), f"{tick:g}") for tick in round_ticks(low, high)]
    return _PARTS.strip(dots, ticks, at(inspection.threshold))


def why_html(why: Why, inspection: Inspection) -> str:
    """Both modalities: this place, the closest normal patch, where it is, and typical distances."""
    level = f"{why.level} %" if why.level < TOP else f"≥ {TOP} %"
    cards = [_card(reason, why, inspection) for reason in why.reasons]
    return _PARTS.why(f"row {why.row}, column {why.column}", level, cards)


def _card(reason: Reason, why: Why, inspection: Inspection) -> dict[str, Any]:
    """What the page shows of a reason."""
    config = inspection.fitted.config
    here = _image(inspection.sample, reason.modality)
    there = _image(prepared(reason.source, config), reason.modality)
    place, source = middle_of(reason.patch, config), reason.source.name.split("/", 1)[-1]
    images = (
        (closeup(here, (why.row, why.column), config), "this part"),
        (closeup(there, place, config), "closest normal"),
        (overview(there, place, config), f"in {source}"),
    )
    return {
        "reason": reason,
        "title": TITLES[reason.modality],
        "rank": rank_text(reason),
        "images": [(uri(image), text) for image, text in images],
    }


def closeup(full: Photo, place: tuple[int, int], config: Config) -> Image.Image:
    """The surroundings of a pixel, its patch framed."""
    px = config.projection.patch_px
    half, zoom = CROP * px // 2, max(1, 240 // (CROP * px))
    top, left = (at // px * px + px // 2 - half for at in place)
    # Black where the close-up extends beyond the image.
    crop = Image.fromarray(full).crop((left, top, left + 2 * half, top + 2 * half))
    image = crop.resize((2 * half * zoom,) * 2, Image.Resampling.BICUBIC)
    _frame(image, (half - px // 2) * zoom, (half - px // 2) * zoom, px * zoom)
    return image


def overview(full: Photo, place: tuple[int, int], config: Config) -> Image.Image:
    """The complete scan, the surroundings of a pixel framed."""
    size, (row, column) = CROP * config.projection.patch_px, place
    zoom = max(1, round(240 / len(full)))
    image = Image.fromarray(full).resize((len(full) * zoom,) * 2, Image.Resampling.BICUBIC)
    _frame(image, (row - size // 2) * zoom, (column - size // 2) * zoom, size * zoom)
    return image


def _frame(image: Image.Image, top: int, left: int, size: int) -> None:
    draw = ImageDraw.Draw(image)
    for grow, color in ((3, "#1d2733"), (2, "white"), (1, "white")):
        corners = (left - grow, top - grow, left + size + grow, top + size + grow)
        draw.rectangle(corners, outline=color)


def _image(sample: Sample, m: Modality) -> Photo:
    """What the modality sees: the photo, or the relief."""
    pixels = pixels_of(sample)
    if m == "rgb":
        return pixels.photo
    return relief(pixels.xyz, pixels.valid)[..., None].repeat(3, axis=2)
