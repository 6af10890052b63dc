"""Numbers of a run as plotly figures and a table; reads no disk.

Everything here takes `result`, the content of result.json. Scans are drawn by `scan_figures`.
Figures share one template; methods are coloured by Okabe and Ito's palette and differ in dash, so
that neither colour blindness nor a grey print hides a curve. Titles say the finding.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int
from pandas.io.formats.style import Styler
from plotly.subplots import make_subplots

from lsfa_lib.figures.findings import (
    BOTH,
    NAMES,
    SHORT,
    Result,
    best_mode,
    best_sentence,
    found_sentence,
    hardest_sentence,
    interval,
    lead,
    number,
    three_digits,
    training_sentence,
)
from lsfa_lib.figures.tables import marked
from lsfa_lib.records import MODALITIES, UNLABELLED

LINES = {
    "3d": {"color": "#0072B2", "dash": "dash"},
    "rgb": {"color": "#E69F00", "dash": "dot"},
    "rgb+3d": {"color": "#009E73", "dash": "solid"},
    "disagreement": {"color": "#CC79A7", "dash": "dashdot"},
    "rgb+3d+disagreement": {"color": "#D55E00", "dash": "longdash"},
}
GOOD, DEFECTIVE, UNKNOWN = "#56B4E9", "#D55E00", "#8A94A0"
LABELS: dict[bool | None, tuple[str, str]] = {
    False: ("good", GOOD),
    True: ("defective", DEFECTIVE),
    None: (UNLABELLED, UNKNOWN),
}
"""Name and colour of what is known of a test part."""
COLUMNS = {
    "I-AUROC": "i_auroc",
    "P-AUROC": "p_auroc",
    "AUPRO 30 %": "aupro_30",
    "AUPRO 10 %": "aupro_10",
    "AUPRO 5 %": "aupro_05",
    "AUPRO 1 %": "aupro_01",
    "peer AUPRO 30 %": "aupro_30_peer",
    "peer AUPRO 1 %": "aupro_01_peer",
}
TERM_LINES = {
    "LA": {"color": "#0072B2", "dash": "solid"},
    "GA": {"color": "#56B4E9", "dash": "dash"},
    "LC": {"color": "#D55E00", "dash": "solid"},
    "GC": {"color": "#E69F00", "dash": "dash"},
}
MOST_STEPS = 400
"""Steps drawn of a training: more would weigh on the page without showing on a screen."""
LIMITS = {0.30: "30 %", 0.10: "10 %", 0.05: "5 %", 0.01: "1 %"}

_AXIS = {
    "showline": True,
    "linecolor": "#8a94a0",
    "gridcolor": "#e6eaee",
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#8a94a0",
    "title": {"standoff": 10},
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif",
            "size": 13,
            "color": "#1d2733",
        },
        "title": {"font": {"size": 16}, "x": 0, "xanchor": "left", "xref": "container"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 64, "r": 16, "t": 56, "b": 56},
        "height": 380,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"bgcolor": "rgba(0,0,0,0)"},
        "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
    }
)


@dataclass(frozen=True)
class Panel:
    """A row of the training figure: entries of the history that share an axis."""

    title: str
    entries: dict[str, str]
    """Key in the history -> mode or loss term whose line it is drawn with."""
    relative: bool = False
    """Each value is divided by that of the first step that has one."""
    axis: tuple[tuple[str, str], ...] = (("rangemode", "tozero"),)


PANELS = (
    Panel("losses", {t: t for t in TERM_LINES}, axis=(("type", "log"),)),
    Panel("variance, first step = 1", {f"variance_{m}": m for m in MODALITIES}, True),
    Panel("effective rank, first step = 1", {f"rank_{m}": m for m in MODALITIES}, True),
    Panel("mean distance to the nearest bank row", {f"nearest_{m}": m for m in MODALITIES}),
    Panel(
        "patches that find their partner",
        {"alignment_accuracy": BOTH},
        axis=(("rangemode", "tozero"), ("tickformat", ".0%")),
    ),
    Panel("norm of the gradient", {"gradient_norm": "all"}),
)


def metrics_table(result: Result) -> Styler:
    """Modes x metrics, best value of each column in bold; NaN is a dash, its reason the caption.

    The interval is the 95 % bootstrap interval of I-AUROC over test scans.
    """
    modes = result["modes"]
    values = pd.DataFrame(
        {label: [number(modes[m][key]) for m in modes] for label, key in COLUMNS.items()},
        index=[SHORT.get(m, m) for m in modes],
    )
    cells = values.map(three_digits)
    cells.insert(1, "95 % interval", [interval(modes[m]["i_auroc_interval"]) for m in modes])
    notes = dict.fromkeys(note for mode in modes.values() for note in mode["notes"])
    return marked(cells, values, caption="; ".join(notes))


def score_histogram(result: Result, mode: str = "") -> go.Figure:
    """Image scores of good and of defective test parts, with the threshold between them."""
    mode = mode or lead(result)
    scores: dict[bool | None, list[float]] = {False: [], True: [], None: []}
    for scan in result["scans"]:
        scores[scan["defective"]].append(scan["scores"][mode])
    every = np.array([scan["scores"][mode] for scan in result["scans"]])
    low, high = float(every.min()), float(every.max())
    tallest = int(np.histogram(every, 24)[0].max())
    bins = {"start": low, "end": high + 1e-6, "size": (high - low) / 24 or 1.0}
    figure = go.Figure()
    for known, found in scores.items():
        label, color = LABELS[known]
        if known is None and not found:
            continue
        figure.add_histogram(
            x=found,
            name=f"{label} ({len(found)})",
            xbins=bins,
            marker={"color": color},
            hovertemplate="score %{x}<br>%{y} parts<extra></extra>",
        )
    _add_threshold(figure, result, mode)
    return figure.update_layout(
        template=TEMPLATE,
        barmode="stack",
        bargap=0.06,
        title={"text": found_sentence(result, mode)},
        xaxis={"title": {"text": f"image score, {NAMES.get(mode, mode)}"}},
        yaxis={"title": {"text": "test parts"}, "dtick": max(1, tallest // 5)},
        legend={"x": 1, "xanchor": "right", "y": 1},
    )


def roc_figure(result: Result) -> go.Figure:
    """ROC of the image scores in each mode; the legend gives the areas."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        showlegend=False,
        hoverinfo="skip",
        line={"color": "#8a94a0", "width": 1},
    )
    _add_curves(figure, result, "roc", "tpr", "i_auroc")
    best = best_mode(result, "i_auroc")
    return figure.update_layout(
        template=TEMPLATE,
        title={"text": best_sentence(best, "separates good from defective parts best: I-AUROC")},
        xaxis={"title": {"text": "good parts rejected"}, "range": [-0.01, 1.01]},
        yaxis={"title": {"text": "defective parts found"}, "range": [-0.01, 1.01]},
        legend={"x": 0.98, "xanchor": "right", "y": 0.04},
    )


def pro_figure(result: Result) -> go.Figure:
    """Overlap with each defect against false positive pixels; dotted lines are AUPRO's limits."""
    figure = go.Figure()
    _add_curves(figure, result, "pro", "pro", "aupro_30")
    for limit, label in LIMITS.items():
        figure.add_vline(limit, line={"width": 1, "dash": "dot", "color": "#8a94a0"})
        figure.add_annotation(
            x=limit, y=1, yref="paper", yanchor="bottom", text=label, showarrow=False
        )
    best = best_mode(result, "aupro_30")
    return figure.update_layout(
        template=TEMPLATE,
        title={"text": best_sentence(best, "locates defects best: AUPRO at 30 %")},
        xaxis={"title": {"text": "good pixels marked (FPR)"}, "range": [-0.004, 0.31]},
        yaxis={"title": {"text": "mean overlap with a defect (PRO)"}, "range": [0, 1.01]},
        legend={"x": 0.9, "xanchor": "right", "y": 0.04},
    )


def kind_figure(result: Result, mode: str = "") -> go.Figure:
    """Image score of every test part, a row for each kind of defect, hardest kind at the top."""
    mode = mode or lead(result)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for scan in result["scans"]:
        kinds.setdefault(scan["kind"], []).append(scan)
    medians = {k: float(np.median([s["scores"][mode] for s in v])) for k, v in kinds.items()}
    # plotly draws the first row at the bottom: the good parts, as the reference.
    order = sorted(kinds, key=lambda k: (any(s["defective"] for s in kinds[k]), -medians[k]))
    figure = go.Figure()
    for kind in order:
        scans = kinds[kind]
        figure.add_box(
            x=[s["scores"][mode] for s in scans],
            name=f"{html.escape(kind)} ",
            text=[html.escape(s["name"]) for s in scans],
            boxpoints="all",
            pointpos=0,
            jitter=0.5,
            fillcolor="rgba(0,0,0,0)",
            line={"color": "rgba(0,0,0,0)"},
            marker={
                "color": LABELS[scans[0]["defective"]][1],
                "size": 9,
                "opacity": 0.85,
            },
            hovertemplate="%{text}<br>score %{x:.3f}<extra></extra>",
        )
    _add_threshold(figure, result, mode)
    return figure.update_layout(
        template=TEMPLATE,
        showlegend=False,
        height=160 + 40 * len(order),
        title={"text": hardest_sentence(result, mode)},
        xaxis={"title": {"text": f"image score, {NAMES.get(mode, mode)}"}},
        yaxis={"automargin": True, "showline": False, "ticks": ""},
    )


def training_figure(result: Result) -> go.Figure:
    """How the adaptors were trained, a row a quantity over the steps; empty where none were.

    At most 400 steps are drawn, evenly spread, the first and the last among them. A quantity the
    training does not have, such as a term of weight 0, has no row.
    """
    training = result.get("training")
    history: list[dict[str, float]] = training["history"] if training else []
    panels = [p for p in PANELS if any(key in step for key in p.entries for step in history)]
    drawn = np.linspace(0, len(history) - 1, min(len(history), MOST_STEPS)).round().astype(int)
    figure = make_subplots(rows=max(1, len(panels)), shared_xaxes=True, vertical_spacing=0.05)
    named: set[str] = set()
    for row, panel in enumerate(panels, 1):
        lines = {k: v for k, v in panel.entries.items() if any(k in step for step in history)}
        # Lines that an earlier row has named keep their colour and dash.
        legend = len(lines) > 1 and not named.issuperset(lines.values())
        named.update(lines.values())
        series = {v: _series(history, k, panel.relative)[drawn] for k, v in lines.items()}
        _add_panel(figure, row, panel, (drawn + 1, series), legend)
    figure.update_xaxes(title={"text": "step"}, row=max(1, len(panels)))
    return figure.update_layout(
        template=TEMPLATE,
        title={"text": training_sentence(result)},
        height=120 + 130 * max(1, len(panels)),
    )


def _add_panel(
    figure: go.Figure,
    row: int,
    panel: Panel,
    drawn: tuple[Int[np.ndarray, " s"], dict[str, Float[np.ndarray, " s"]]],
    with_legend: bool,
) -> None:
    steps, series = drawn
    legend = "legend" if row == 1 else f"legend{row}"
    for line, values in series.items():
        name = SHORT.get(line, line)
        figure.add_scatter(
            # Histories may be long: whole numbers and single precision are half the page.
            x=steps.astype(np.int32),
            y=values.astype(np.float32),
            mode="lines",
            name=name,
            legend=legend,
            showlegend=with_legend,
            line={"width": 2, **{**LINES, **TERM_LINES}.get(line, {"color": "#6b7682"})},
            hovertemplate=f"{name}: %{{y:.3g}}, step %{{x}}<extra></extra>",
            row=row,
            col=1,
        )
    figure.update_yaxes(**dict(panel.axis), nticks=5, tickfont={"size": 11}, row=row)
    top = figure.layout[f"yaxis{row if row > 1 else ''}"].domain[1]
    place = {"yref": "paper", "y": top, "yanchor": "bottom"}
    # Above the axis' numbers, to leave the legend its room on a phone.
    left = {"xref": "paper", "x": 0, "xanchor": "left", "xshift": -48}
    figure.add_annotation(text=panel.title, showarrow=False, **left, **place)
    figure.update_layout({legend: {**place, "x": 1, "xanchor": "right", "orientation": "h"}})


def _series(history: list[dict[str, float]], key: str, relative: bool) -> Float[np.ndarray, " t"]:
    """The values of an entry over all steps, NaN where a step lacks it."""
    values = np.array([number(step.get(key)) for step in history])
    first = values[np.isfinite(values)][:1]
    return values / first if relative and first.size and first[0] else values


def _add_curves(figure: go.Figure, result: Result, curve: str, y: str, area: str) -> None:
    for mode, values in result["modes"].items():
        name = SHORT.get(mode, mode)
        if (points := values["curves"][curve]) is None:
            continue  # its area is undefined, as the title says
        figure.add_scatter(
            x=points["fpr"],
            y=points[y],
            mode="lines",
            name=f"{name}  {three_digits(values[area])}",
            line={"width": 2.5, **LINES.get(mode, {})},
            hovertemplate=f"{name}<br>%{{x:.3f}}, %{{y:.3f}}<extra></extra>",
        )


def _add_threshold(figure: go.Figure, result: Result, mode: str) -> None:
    threshold = result["modes"][mode]["threshold"]
    if threshold is not None:
        figure.add_vline(threshold, line={"width": 2, "dash": "dash", "color": "#6b7682"})
        figure.add_annotation(
            x=threshold, y=1, yref="paper", yanchor="bottom", text="threshold", showarrow=False
        )
