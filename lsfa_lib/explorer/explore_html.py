"""The explorer's texts and small images as HTML; everything from data is escaped.

Colours of text and lines are JupyterLab's own, so that dark themes stay readable.
"""

from __future__ import annotations

import html
import zlib
from pathlib import Path

from PIL import Image, ImageDraw
from plotly.colors import sample_colorscale

from lsfa_lib.config import Config
from lsfa_lib.explorer.evidence import Reason, middle_of
from lsfa_lib.explorer.inspection import Inspection, Why, prepared, rank_text
from lsfa_lib.figures.image_grid import SCORE_TICKS
from lsfa_lib.figures.scan_images import COLORSCALE, TOP, Photo, pixels_of, relief, uri
from lsfa_lib.figures.style import DEFECTIVE, GOOD, LABELS, round_ticks
from lsfa_lib.records import Modality, Sample, is_defective

TITLES: dict[Modality, str] = {"rgb": "Colour (RGB)", "3d": "Shape (3D)"}
CROP = 14
"""Patches across a close-up."""
DOT = 'r="4.5" stroke="white" stroke-width="1"'
RING = 'r="8" stroke="var(--jp-ui-font-color1, #1d2733)" stroke-width="3"'
STYLE = f"<style>\n{Path(__file__).with_name('explore.css').read_text('utf-8')}</style>"


def note(text: str, error: bool = False) -> str:
    """A plain sentence."""
    return f'<div class="lsfa{" error" if error else " soft"}">{html.escape(text)}</div>'


def legend_html() -> str:
    """The one colour scale of map and cloud."""
    shades = ", ".join(sample_colorscale(COLORSCALE, [i / 10 for i in range(11)]))
    ticks = "".join(
        f'<text x="{100 * t / TOP:g}%" y="22" text-anchor="{anchor}">{SCORE_TICKS[t]}</text>'
        for t, anchor in ((0, "start"), (100, "middle"), (TOP, "end"))
    )
    return (
        '<div class="lsfa legend"><div><div class="bar" style="background:linear-gradient(90deg,'
        f'{shades})"></div><svg height="26" style="margin-top:-10px">{ticks}</svg></div>'
        '<p class="soft">Anomaly score of map and cloud. 100 %: 99.9th percentile of pixels on '
        "good test parts. Orange: the true defect. Ring: the pixel explained below.</p></div>"
    )


def setting(name: str, value: str) -> str:
    """The name and state of a slider."""
    return f'<div class="lsfa"><b>{name}</b> <span class="soft">{value}</span></div>'


def verdict_html(inspection: Inspection) -> str:
    """How the scan is classified, and what it is."""
    kind = inspection.fitted.evidence.entries[inspection.scan].kind
    truths = {
        None: "it is unlabelled",
        False: "it is good",
        True: f"it has a defect: {html.escape(kind)}",
    }
    return f'<div class="lsfa lead">{inspection.verdict}; {truths[is_defective(kind)]}.</div>'


def counts_html(counts: tuple[int, int, int, int]) -> str:
    """Test parts found, missed, rejected and passed; `counts` are those of `Inspection`."""
    found, bad, rejected, good = counts
    groups = ((True, bad, found, "found", "missed"), (False, good, rejected, "rejected", "passed"))
    shown = []
    for defective, total, above, word, other in groups:
        name, color = LABELS[defective]
        shown.append(
            f'<div><div class="soft"><i style="background:{color}"></i>{total} {name}</div>'
            f"<div><b>{above}</b>{word} &nbsp; <b>{total - above}</b>{other}</div></div>"
        )
    return f'<div class="lsfa"><div class="counts">{"".join(shown)}</div></div>'


def strip_html(inspection: Inspection) -> str:
    """Every test scan at its score, defective ones above good ones; the threshold as a line."""
    evidence, scores = inspection.fitted.evidence, inspection.scores
    every = [*scores.tolist(), inspection.threshold]
    low = min(every)
    high = max(every) if max(every) > low else low + 1.0

    def at(value: float) -> float:
        """Per cent of the width, a little off the edges."""
        return 2 + 96 * (value - low) / (high - low)

    dots = []
    for i, (entry, score) in enumerate(zip(evidence.entries, scores.tolist(), strict=True)):
        known = is_defective(entry.kind)
        # A height of its own for each name keeps equal scores apart, always the same way.
        height = (20 if known else 54) + zlib.crc32(entry.name.encode()) % 23 - 11
        own = i == inspection.scan
        place = f'cx="{at(score):.2f}%" cy="{height}" fill="{LABELS[known][1]}"'
        title = f"<title>{html.escape(entry.name)}: {score:.2f}</title>"
        dots.append((own, f"<circle {place} {RING if own else DOT}>{title}</circle>"))
    line = at(inspection.threshold)
    ticks = "".join(
        f'<text x="{at(tick):.2f}%" y="86" text-anchor="middle">{tick:g}</text>'
        for tick in round_ticks(low, high)
    )
    return (
        '<div class="lsfa"><svg height="90" role="img" aria-label="scores of all test scans">'
        '<line x1="0" x2="100%" y1="70" y2="70" stroke="#8a94a0"/>'
        f'<line x1="{line:.2f}%" x2="{line:.2f}%" y1="2" y2="70" '
        'stroke="var(--jp-ui-font-color1, #1d2733)" stroke-width="2" stroke-dasharray="5 3"/>'
        f"{''.join(dot for _, dot in sorted(dots))}{ticks}"
        '</svg><p class="soft">Image scores of all test scans. The ring is this one, the dashed '
        "line the threshold.</p></div>"
    )


def why_html(why: Why, inspection: Inspection) -> str:
    """Both modalities: this place, the closest normal patch, where it is, and typical distances."""
    place = f"row {why.row}, column {why.column}"
    if not why.reasons:
        return (
            f'<div class="lsfa"><p class="lead"><b>Nothing was measured at {place}.</b></p>'
            "<p>Click on the part.</p></div>"
        )
    level = f"{why.level} %" if why.level < TOP else f"≥ {TOP} %"
    cards = "".join(_card(reason, why, inspection) for reason in why.reasons)
    return (
        f'<div class="lsfa"><p class="lead"><b>Why {level}</b> at {place}? '
        '<span class="soft">The closest normal patches the detector remembers:</span></p>'
        f'<div class="reasons">{cards}</div></div>'
    )


def _card(reason: Reason, why: Why, inspection: Inspection) -> str:
    config = inspection.fitted.config
    here = _image(inspection.sample, reason.modality)
    there = _image(prepared(reason.source, config), reason.modality)
    place = middle_of(reason.patch, config)
    images = (
        (closeup(here, (why.row, why.column), config), "this part"),
        (closeup(there, place, config), "closest normal"),
        (overview(there, place, config), f"in {reason.source.name.split('/', 1)[-1]}"),
    )
    shown = "".join(
        f'<figure><img src="{uri(image)}" alt=""><figcaption class="soft">{html.escape(text)}'
        "</figcaption></figure>"
        for image, text in images
    )
    return (
        f"<div><h4>{TITLES[reason.modality]}: distance {reason.distance:.2f}</h4>"
        f'<div class="images">{shown}</div>{_gauge(reason)}<p>{rank_text(reason).capitalize()}.</p>'
        "</div>"
    )


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


def _gauge(reason: Reason) -> str:
    """The distance on a line that shades the range of 99 % of good patches."""
    high = 1.12 * max(reason.distance, reason.usual)
    usual, median, here = (100 * x / high for x in (reason.usual, reason.median, reason.distance))
    return (
        '<svg height="44" role="img" aria-label="distance compared with those of good patches">'
        '<line x1="0" x2="100%" y1="12" y2="12" stroke="#8a94a0"/>'
        f'<rect x="0" y="6" width="{usual:.1f}%" height="12" fill="{GOOD}" opacity="0.45"/>'
        f'<line x1="{median:.1f}%" x2="{median:.1f}%" y1="6" y2="18" stroke="{GOOD}" '
        'stroke-width="3"/>'
        f'<circle cx="{here:.1f}%" cy="12" r="6" fill="{DEFECTIVE}" stroke="white"/>'
        f'<text x="0" y="34">good patches: half up to {reason.median:.2f}, 99 % up to '
        f"{reason.usual:.2f}</text></svg>"
    )
