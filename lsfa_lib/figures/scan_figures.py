"""One test scan as plotly figure: input, ground truth, maps and the cloud.

Colours mean what `scan_images` says about its scale.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from lsfa_lib.figures.clouds import (
    CLOUD_POINTS,
    add_cloud,
    by_photo,
    by_score,
    by_truth,
    linked,
    spread_points,
    surface_of,
)
from lsfa_lib.figures.findings import BOTH, Result, lead, number
from lsfa_lib.figures.image_grid import SCORE_BAR, ImageRow, image_grid
from lsfa_lib.figures.names import mode_label
from lsfa_lib.figures.scan_images import Box, Ranges, percent, pixels_of, scan_images, score_ranges
from lsfa_lib.records import Mode, Prediction, Sample


@dataclass(frozen=True)
class Choice:
    """A scan worth a look, and why."""

    name: str
    reason: str


def chosen_scans(result: Result, n: int = 6, mode: str = "") -> list[Choice]:
    """At most `n` test scans that show what `mode` can and cannot do, best first.

    Always the best detection, the worst miss and the worst false alarm; between them the
    median-score scan of each further kind of defect, hardest kinds first.
    """
    mode = mode or lead(result)
    threshold = number(result["modes"][mode]["threshold"])
    scans = sorted(result["scans"], key=lambda s: (-s["scores"][mode], s["name"]))
    bad, good, unknown = ([s for s in scans if s["defective"] is x] for x in (True, False, None))
    first, last = [], []
    if bad:
        first = [Choice(bad[0]["name"], f"best detection, {bad[0]['kind']}")]
    if len(bad) > 1:
        missed = bad[-1]["scores"][mode] <= threshold
        word = "worst miss" if missed else "weakest detection"
        last.append(Choice(bad[-1]["name"], f"{word}, {bad[-1]['kind']}"))
    if good:
        alarm = good[0]["scores"][mode] > threshold
        word = "worst false alarm" if alarm else "good part with the highest score"
        last.append(Choice(good[0]["name"], word))
    if unknown:
        first.append(Choice(unknown[0]["name"], "highest score of the unlabelled"))
    if len(unknown) > 1:
        last.append(Choice(unknown[-1]["name"], "lowest score of the unlabelled"))
    kinds: dict[str, list[str]] = {}
    for scan in bad:
        kinds.setdefault(scan["kind"], []).append(scan["name"])
    shown = {bad[0]["kind"], bad[-1]["kind"]} if bad else set()
    middle = [
        Choice(names[len(names) // 2], f"typical {kind}")
        for kind, names in reversed(kinds.items())
        if kind not in shown
    ]
    return [*first, *middle[: max(0, n - len(first) - len(last))], *last][:n]


def scan_figures(
    result: Result,
    samples: Sequence[Sample],
    predictions: dict[Mode, list[Prediction]],
    n: int = 6,
) -> list[go.Figure]:
    """`scan_figure` of the chosen scans, all on one colour scale."""
    ranges = score_ranges(samples, predictions)
    place = {sample.name: i for i, sample in enumerate(samples)}
    scores = {scan["name"]: scan["scores"] for scan in result["scans"]}
    mode = lead(result)
    threshold = number(result["modes"][mode]["threshold"])
    figures = []
    for choice in chosen_scans(result, n):
        score = scores[choice.name][mode]
        verdict = "called defective" if score > threshold else "called good"
        title = (
            f"<b>{html.escape(choice.reason.capitalize())}</b>: {html.escape(choice.name)}, "
            f"{verdict} (score {score:.2f}, threshold {threshold:.2f})"
        )
        i = place[choice.name]
        maps = {m: found[i] for m, found in predictions.items()}
        figures.append(scan_figure(samples[i], maps, ranges, title))
    return figures


def scan_figure(
    sample: Sample,
    predictions: dict[Mode, Prediction],
    ranges: Ranges,
    title: str = "",
    max_points: int = CLOUD_POINTS,
) -> go.Figure:
    """Rotatable cloud beside photo, relief, ground truth and the maps, the defect outlined.

    Buttons colour the cloud by photo, ground truth or the score of a mode. Coordinates are
    millimetres from the part's middle along the photo's axes, height towards the camera.
    `layout.meta.narrow` holds the changes that stack it on a phone, `layout.meta.linked` what a
    page needs to show the place one points at in all views.
    """
    pixels = pixels_of(sample)
    levels = {
        mode: percent(prediction.anomaly_map.cpu().numpy(), ranges[mode])
        for mode, prediction in predictions.items()
    }
    named = {_panel_name(mode): level for mode, level in levels.items()}
    box = Box(0, 0, len(pixels.valid))
    row = ImageRow("", scan_images(pixels, named, box), box)
    figure = image_grid([row], title, SCORE_BAR, columns=(3, 3), with_cloud=True)
    points = spread_points(pixels.valid, max_points)
    choices = {
        "photo": by_photo(pixels.photo[points]),
        "ground truth": by_truth(pixels.defect[points]),
    }
    for mode, level in levels.items():
        choices[mode_label(mode, short=True)] = by_score(level[points], mode_label(mode))
    add_cloud(figure, surface_of(pixels)[points], choices)
    main = BOTH if BOTH in levels else list(levels)[-1]
    sources = [trace.source for trace in figure.data if trace.type == "image"]
    figure.layout.meta = {
        **figure.layout.meta,
        "linked": linked(points, list(choices), mode_label(main, short=True)),
        "thumbnail": [sources[0], sources[list(row.images).index(_panel_name(main))]],
    }
    return figure


def _panel_name(mode: Mode) -> str:
    """Short enough for a third of a phone."""
    name = mode_label(mode, short=True)
    return name if mode == "disagreement" else f"score, {name}"
