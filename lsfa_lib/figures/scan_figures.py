"""One test scan as plotly figure: what went in, what is wrong, what the maps say, and the cloud.

Colours mean what `scan_images` says of its scale.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lsfa_lib.figures.clouds import buttons, colorings, linked, scene, spread_points
from lsfa_lib.figures.figures import TEMPLATE
from lsfa_lib.figures.findings import BOTH, SHORT, Result, lead, number
from lsfa_lib.figures.scan_images import (
    COLORSCALE,
    TOP,
    Ranges,
    map_image,
    marked,
    percent,
    photo_axes,
    photograph,
    relief,
    score_ranges,
    uri,
)
from lsfa_lib.records import Mode, Prediction, Sample

MOST_BUTTONS = 5
"""In a row on a phone; more become a menu."""


@dataclass(frozen=True)
class Choice:
    """A scan worth a look, and why."""

    name: str
    reason: str


def chosen_scans(result: Result, n: int = 6, mode: str = "") -> list[Choice]:
    """At most `n` test scans that show what `mode` can and cannot do, best first.

    Always the best detection, the worst miss and the worst false alarm; between them the middling
    scan of each further kind of defect, hardest kinds first.
    """
    mode = mode or lead(result)
    threshold = number(result["modes"][mode]["threshold"])
    scans = sorted(result["scans"], key=lambda s: (-s["scores"][mode], s["name"]))
    bad = [s for s in scans if s["defective"]]
    good = [s for s in scans if s["defective"] is False]
    unknown = [s for s in scans if s["defective"] is None]
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
    shown = {s["kind"] for s in (bad[:1] + bad[1:][-1:])}
    kinds: dict[str, list[str]] = {}
    for scan in bad:
        if scan["kind"] not in shown:
            kinds.setdefault(scan["kind"], []).append(scan["name"])
    middle = [Choice(names[len(names) // 2], f"typical {k}") for k, names in kinds.items()]
    middle.reverse()
    room = max(0, n - len(first) - len(last))
    return [*first, *middle[:room], *last][:n]


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
        i = place[choice.name]
        score = scores[choice.name][mode]
        verdict = "called defective" if score > threshold else "called good"
        title = (
            f"<b>{html.escape(choice.reason.capitalize())}</b>: {html.escape(choice.name)}, "
            f"{verdict} (score {score:.2f}, threshold {threshold:.2f})"
        )
        maps = {m: found[i] for m, found in predictions.items()}
        figures.append(scan_figure(samples[i], maps, ranges, title))
    return figures


def scan_figure(
    sample: Sample,
    predictions: dict[Mode, Prediction],
    ranges: Ranges,
    title: str = "",
    max_points: int = 12_000,
) -> go.Figure:
    """Rotatable cloud beside photo, relief, ground truth and the maps, the defect outlined.

    Buttons colour the cloud by photo, ground truth or the score of a mode. Coordinates are
    millimetres from the part's middle along the photo's axes, height towards the camera.
    `layout.meta.narrow` holds the changes that stack it on a phone, `layout.meta.linked` what a
    page needs to show the place one points at in all views.
    """
    valid, defect = sample.valid.cpu().numpy(), sample.defect.cpu().numpy()
    xyz = sample.xyz.double().cpu().permute(1, 2, 0).numpy() * 1000
    levels = {
        mode: percent(prediction.anomaly_map.cpu().numpy(), ranges[mode])
        for mode, prediction in predictions.items()
    }
    photo = photograph(sample)
    panels = {
        "photo": uri(photo, "jpeg"),
        "relief (3D)": uri(relief(xyz, valid), "jpeg"),
        "ground truth": uri(marked(photo, defect), "jpeg"),
        **{_panel_name(m): uri(map_image(v, valid, defect)) for m, v in levels.items()},
    }
    figure, last = _picture_grid(list(panels.values())), list(panels.values())[-1]
    points = spread_points(valid, max_points)
    surface = xyz[points] @ photo_axes(xyz, valid).T
    surface -= (surface.min(axis=0) + surface.max(axis=0)) / 2
    x, y, z = np.round(surface, 2).T.astype(np.float32)
    choices = colorings(photo[points], defect[points], {m: v[points] for m, v in levels.items()})
    figure.add_scatter3d(x=x, y=y, z=z, mode="markers", row=1, col=1, showlegend=False)
    figure.update_traces(choices["photo"], selector={"type": "scatter3d"})
    _add_score_bar(figure)
    view = scene(surface)
    figure.update_layout(
        template=TEMPLATE,
        # Above the buttons; a page sets the title apart and needs no room for it.
        title={"text": title, "y": 1, "yanchor": "top", "pad": {"t": 12}},
        height=140 + 180 * _rows(len(panels)),
        margin={"l": 8, "r": 8, "t": 92},
        scene=view,
        updatemenus=[buttons(choices)],
        **_panel_axes(len(panels)),
    )
    _name_panels(figure, list(panels))
    return figure.update_layout(
        meta={
            "margin": {"t": 34},
            "narrow": _narrow(len(panels), len(choices), view["camera"]),
            "linked": linked(points, list(choices)),
            "thumbnail": [
                panels["photo"],
                panels.get(_panel_name(BOTH), last),
            ],
        }
    )


def _panel_name(mode: str) -> str:
    """Short enough for a third of a phone."""
    return SHORT[mode] if mode == "disagreement" else f"score, {SHORT[mode]}"


def _picture_grid(sources: list[str]) -> go.Figure:
    """An empty scene on the left, the pictures in rows of three on the right."""
    rows = _rows(len(sources))
    scene_cells = {"type": "scene", "rowspan": rows, "colspan": 2}
    figure = make_subplots(
        rows=rows,
        cols=5,
        specs=[[None if row else scene_cells, None, {}, {}, {}] for row in range(rows)],
    )
    for i, source in enumerate(sources):
        figure.add_image(source=source, row=1 + i // 3, col=3 + i % 3, hoverinfo="skip")
    return figure


def _rows(count: int) -> int:
    return -(-count // 3)


def _cells(count: int, narrow: bool) -> list[tuple[list[float], list[float]]]:
    """Domains in x and y of each image panel: three columns beside the cloud, or below it."""
    left, top = (0.0, 1 - _scene_share(count)) if narrow else (0.5, 1.0)
    width, height = (1 - left) / 3, top / _rows(count)
    cells = []
    for i in range(count):
        x, y = left + width * (i % 3), top - height * (1 + i // 3)
        cells.append(([x + 0.006, x + width - 0.006], [y + 0.02, y + height * 0.88]))
    return cells


def _scene_share(count: int) -> float:
    """Part of the height the cloud takes on a phone."""
    return 492 / _narrow_height(count)


def _narrow_height(count: int) -> int:
    return 492 + 144 * _rows(count)


def _panel_axes(count: int) -> dict[str, Any]:
    hidden = {"visible": False, "constrain": "domain"}
    axes: dict[str, Any] = {}
    for i, (x, y) in enumerate(_cells(count, narrow=False)):
        n = "" if i == 0 else str(i + 1)
        axes[f"xaxis{n}"] = {**hidden, "domain": x}
        axes[f"yaxis{n}"] = {**hidden, "domain": y, "scaleanchor": f"x{n}", "autorange": "reversed"}
    return axes


def _add_score_bar(figure: go.Figure) -> None:
    # A colour bar needs a trace: this one has no point.
    figure.add_scatter(
        x=[None],
        y=[None],
        marker={"color": [0], "coloraxis": "coloraxis"},
        showlegend=False,
        hoverinfo="skip",
        row=1,
        col=3,
    )
    ticks = [0, 50, 100, 150, 200, TOP]
    figure.update_layout(
        coloraxis={
            "colorscale": COLORSCALE,
            "cmin": 0,
            "cmax": TOP,
            "colorbar": {
                "orientation": "h",
                "x": 0.75,
                "y": -0.01,
                "yanchor": "top",
                "len": 0.48,
                "thickness": 8,
                "tickvals": ticks,
                "ticktext": [f"{t} %" if t < TOP else f"≥ {t} %" for t in ticks],
                "title": {
                    "text": "anomaly score (100 %: 1 in 1000 good pixels)",
                    "side": "bottom",
                    "font": {"size": 12},
                },
            },
        }
    )


def _name_panels(figure: go.Figure, names: list[str]) -> None:
    for i, name in enumerate(names):
        n = "" if i == 0 else str(i + 1)
        figure.add_annotation(
            text=name,
            xref=f"x{n} domain",
            yref=f"y{n} domain",
            x=0.5,
            y=1.01,
            yanchor="bottom",
            showarrow=False,
            font={"size": 12},
        )


def _narrow(count: int, choices: int, camera: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "height": _narrow_height(count),
        "margin.l": 4,
        "margin.r": 4,
        "scene.domain": {"x": [0, 1], "y": [1.02 - _scene_share(count), 1]},
        # A part as wide as the scene is seen from farther away.
        **{f"scene.camera.eye.{a}": round(1.2 * camera["eye"][a], 4) for a in "xyz"},
        "coloraxis.colorbar.x": 0.5,
        "coloraxis.colorbar.len": 0.9,
        "updatemenus[0].font.size": 11,
    }
    if choices > MOST_BUTTONS:
        changes |= {"updatemenus[0].type": "dropdown", "updatemenus[0].direction": "down"}
    for i, (x, y) in enumerate(_cells(count, narrow=True)):
        n = "" if i == 0 else str(i + 1)
        changes |= {f"xaxis{n}.domain": x, f"yaxis{n}.domain": y}
    return changes
