"""Test scans as plotly figures: input, ground truth, maps and the cloud of one; rows of several.

Colours mean what `scan_images` says about its scale.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter

import plotly.graph_objects as go

from lsfa_lib.figures import clouds, scan_images
from lsfa_lib.figures.findings import BOTH, Result, found_sentence, grouped, lead, number, ranked
from lsfa_lib.figures.image_grid import SCORE_BAR, ImageRow, image_grid
from lsfa_lib.figures.mistakes import Judged, sentence, verdict
from lsfa_lib.figures.names import mode_label
from lsfa_lib.figures.scan_images import Ranges, pixels_of, score_ranges
from lsfa_lib.pipeline import Run
from lsfa_lib.records import Mode, Prediction, Sample

MOST_PX = 168
"""Images of rows are stored no larger than they are drawn: eight scans stay below 1 MB."""
LINE_LETTERS = 120


def chosen_scans(result: Result, n: int = 6, mode: str = "") -> dict[str, str]:
    """At most `n` test scans that show what `mode` can and cannot do, best first: name -> reason.

    Always the best detection, the worst miss and the worst false alarm; between them the
    median-score scan of each further kind of defect, hardest kinds first.
    """
    mode = mode or lead(result)
    threshold = number(result["modes"][mode]["threshold"])
    scans = ranked(result, mode)
    bad, good, unknown = ([s for s in scans if s["defective"] is x] for x in (True, False, None))
    first, last = {}, {}
    if bad:
        first[bad[0]["name"]] = f"best detection, {bad[0]['kind']}"
    if len(bad) > 1:
        missed = bad[-1]["scores"][mode] <= threshold
        word = "worst miss" if missed else "weakest detection"
        last[bad[-1]["name"]] = f"{word}, {bad[-1]['kind']}"
    if good:
        alarm = good[0]["scores"][mode] > threshold
        last[good[0]["name"]] = "worst false alarm" if alarm else "good part with the highest score"
    if unknown:
        first[unknown[0]["name"]] = "highest score of the unlabelled"
    if len(unknown) > 1:
        last[unknown[-1]["name"]] = "lowest score of the unlabelled"
    shown = {scan["kind"] for scan in (*bad[:1], *bad[-1:])}
    typical = {
        own[len(own) // 2]["name"]: f"typical {kind}"
        for kind, own in grouped(bad, itemgetter("kind")).items()
        if kind not in shown
    }
    room = max(0, n - len(first) - len(last))
    middle = list(reversed(typical.items()))[:room]
    return dict([*first.items(), *middle, *last.items()][:n])


def scan_figures(
    result: Result,
    samples: Sequence[Sample],
    predictions: dict[Mode, list[Prediction]],
    n: int = 6,
) -> list[go.Figure]:
    """`scan_figure` of the chosen scans, all on one colour scale."""
    ranges, mode = score_ranges(samples, predictions), lead(result)
    threshold = number(result["modes"][mode]["threshold"])
    place = {scan["name"]: i for i, scan in enumerate(result["scans"])}
    figures = []
    for name, reason in chosen_scans(result, n).items():
        i = place[name]
        score = result["scans"][i]["scores"][mode]
        called = "called defective" if score > threshold else "called good"
        title = (
            f"<b>{html.escape(reason.capitalize())}</b>: {html.escape(name)}, "
            f"{called} (score {score:.2f}, threshold {threshold:.2f})"
        )
        maps = {m: found[i] for m, found in predictions.items()}
        figures.append(scan_figure(samples[i], maps, ranges, title))
    return figures


def scan_figure(
    sample: Sample,
    predictions: dict[Mode, Prediction],
    ranges: Ranges,
    title: str = "",
    max_points: int = clouds.CLOUD_POINTS,
    marks: str = "ground truth",
) -> go.Figure:
    """Rotatable cloud next to photo, relief, ground truth and the maps, the defect outlined.

    `marks` names what `sample.defect` marks, where it is not the ground truth.
    Buttons colour the cloud by photo, ground truth or the score of a mode. Coordinates are
    millimetres from the part's middle along the photo's axes, height towards the camera.
    `layout.meta.narrow` holds the changes that stack it on a phone, `layout.meta.linked` what a
    page needs to show the place one points at in all views.
    """
    pixels, levels = pixels_of(sample), levels_of(predictions, ranges)
    named = {panel_name(mode): level for mode, level in levels.items()}
    box = scan_images.Box(0, 0, len(pixels.valid))
    images = scan_images.images_of(pixels, named, box)
    images = {marks if name == "ground truth" else name: each for name, each in images.items()}
    row = ImageRow("", images, box)
    figure = image_grid([row], title, SCORE_BAR, columns=(3, 3), with_cloud=True)
    points = clouds.spread_points(pixels.valid, max_points)
    choices = {
        pixels.picture: clouds.by_photo(pixels.photo[points]),
        marks: clouds.by_truth(pixels.defect[points]),
    }
    for mode, level in levels.items():
        choices[mode_label(mode, short=True)] = clouds.by_score(level[points], mode_label(mode))
    clouds.add_cloud(figure, clouds.surface_of(pixels)[points], choices)
    main = BOTH if BOTH in levels else list(levels)[-1]
    linked = clouds.linked(points, list(choices), mode_label(main, short=True))
    sources = [trace.source for trace in figure.data if trace.type == "image"]
    thumbnail = [sources[0], sources[list(row.images).index(panel_name(main))]]
    figure.layout.meta = {**figure.layout.meta, "linked": linked, "thumbnail": thumbnail}
    return figure


def panel_name(mode: Mode) -> str:
    """Short enough for a third of a phone."""
    name = mode_label(mode, short=True)
    return name if mode == "disagreement" else f"score, {name}"


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
    picture = scan_images.picture_of(run.samples[scan.place])
    names = picture, mode_label(mode or lead(run.result), short=True)
    row = replace(map_row(run, scan, ranges), rings=dict.fromkeys(names, peak))
    # Lines for a figure in JupyterLab; a page wraps them itself.
    lines = textwrap.wrap(sentence(scan), LINE_LETTERS, break_long_words=False)
    return image_grid([row], "<br>".join(lines), columns=_columns(row))


def map_row(run: Run, scan: Judged, ranges: Ranges) -> ImageRow:
    """The images of one scan, cropped to the part."""
    pixels = pixels_of(run.samples[scan.place])
    levels = levels_of({m: found[scan.place] for m, found in run.predictions.items()}, ranges)
    named = {mode_label(mode, short=True): level for mode, level in levels.items()}
    return ImageRow("", scan_images.images_of(pixels, named, pixels.box, MOST_PX), pixels.box)


def levels_of(predictions: dict[Mode, Prediction], ranges: Ranges) -> dict[Mode, scan_images.Level]:
    """The maps in per cent."""
    return {
        mode: scan_images.level_of(found.anomaly_map.cpu().numpy(), ranges[mode])
        for mode, found in predictions.items()
    }


def _columns(row: ImageRow) -> tuple[int, int]:
    """All next to each other; on a phone in two lines."""
    return len(row.images), -(-len(row.images) // 2)
