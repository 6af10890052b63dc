"""Numbers of a run as plotly figures and a table; reads no disk.

Everything here takes `result`, the content of result.json. Scans are drawn by `scan_figures`.
Figures share one template; methods are coloured by Okabe and Ito's palette and differ in dash, so
that neither colour blindness nor a grey print hides a curve. Titles say the finding.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from pandas.io.formats.style import Styler

from lsfa_lib.findings import (
    BOTH,
    NAMES,
    Result,
    best_mode,
    best_sentence,
    found_sentence,
    hardest_sentence,
    interval,
    number,
    three_digits,
)

LINES = {
    "3d": {"color": "#0072B2", "dash": "dash"},
    "rgb": {"color": "#E69F00", "dash": "dot"},
    "rgb+3d": {"color": "#009E73", "dash": "solid"},
}
GOOD, DEFECTIVE = "#56B4E9", "#D55E00"
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


def metrics_table(result: Result) -> Styler:
    """Modes x metrics, best value of each column in bold; NaN is a dash, its reason the caption.

    The interval is the 95 % bootstrap interval of I-AUROC over test scans.
    """
    modes = result["modes"]
    values = pd.DataFrame(
        {label: [number(modes[m][key]) for m in modes] for label, key in COLUMNS.items()},
        index=[NAMES.get(m, m) for m in modes],
    )
    cells = values.map(three_digits)
    bold = values.eq(values.max()).map(lambda best: "font-weight: 700" if best else "")
    cells.insert(1, "95 % interval", [interval(modes[m]["i_auroc_interval"]) for m in modes])
    bold.insert(1, "95 % interval", "")
    notes = dict.fromkeys(note for mode in modes.values() for note in mode["notes"])
    style = cells.style.apply(lambda _: bold, axis=None).set_table_attributes('class="metrics"')
    return style.set_caption(html.escape("; ".join(notes))) if notes else style


def score_histogram(result: Result, mode: str = BOTH) -> go.Figure:
    """Image scores of good and of defective test parts, with the threshold between them."""
    scores: dict[bool, list[float]] = {True: [], False: []}
    for scan in result["scans"]:
        scores[scan["defective"]].append(scan["scores"][mode])
    every = np.array(scores[True] + scores[False])
    low, high = float(every.min()), float(every.max())
    tallest = int(np.histogram(every, 24)[0].max())
    bins = {"start": low, "end": high + 1e-6, "size": (high - low) / 24 or 1.0}
    figure = go.Figure()
    for defective, label, color in ((False, "good", GOOD), (True, "defective", DEFECTIVE)):
        figure.add_histogram(
            x=scores[defective],
            name=f"{label} ({len(scores[defective])})",
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


def kind_figure(result: Result, mode: str = BOTH) -> go.Figure:
    """Image score of every test part, a row for each kind of defect, hardest kind at the top."""
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
                "color": DEFECTIVE if scans[0]["defective"] else GOOD,
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


def _add_curves(figure: go.Figure, result: Result, curve: str, y: str, area: str) -> None:
    for mode, values in result["modes"].items():
        name = NAMES.get(mode, mode)
        figure.add_scatter(
            x=values["curves"][curve]["fpr"],
            y=values["curves"][curve][y],
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
