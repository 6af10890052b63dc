"""Numbers of a run as plotly figures and a table; nothing is read from disk.

Everything here takes `result`, the content of result.json. Titles state the finding.
"""

from __future__ import annotations

import html
from operator import itemgetter

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from pandas.io.formats.style import Styler

from lsfa_lib.figures.findings import (
    Result,
    best_sentence,
    found_sentence,
    grouped,
    hardest_sentence,
    interval,
    lead,
    number,
    three_digits,
)
from lsfa_lib.figures.names import METRICS, mode_label
from lsfa_lib.figures.style import DOTTED, LABELS, LINES, ROWS, UNKNOWN, add_reference, styled
from lsfa_lib.figures.tables import marked

LIMITS = {0.30: "30 %", 0.10: "10 %", 0.05: "5 %", 0.01: "1 %"}
BINS = 24


def metrics_table(result: Result) -> Styler:
    """Modes x metrics, the best value of each column marked; the caption explains a missing value.

    The interval is the 95 % bootstrap interval of I-AUROC over test scans.
    """
    modes = result["modes"]
    values = pd.DataFrame(
        {label: [number(modes[m][key]) for m in modes] for key, label in METRICS.items()},
        index=[mode_label(m, short=True) for m in modes],
    )
    cells = values.map(three_digits)
    cells.insert(1, "95 % interval", [interval(modes[m]["i_auroc_interval"]) for m in modes])
    notes = dict.fromkeys(note for mode in modes.values() for note in mode["notes"])
    return marked(cells, values, caption="; ".join(notes))


def score_histogram(result: Result, mode: str = "") -> go.Figure:
    """Image scores of good and of defective test parts, with the threshold between them."""
    mode = mode or lead(result)
    every = [scan["scores"][mode] for scan in result["scans"]]
    low, high = min(every), max(every)
    figure = go.Figure()
    for known, (label, color) in LABELS.items():
        scores = [s["scores"][mode] for s in result["scans"] if s["defective"] is known]
        if known is not None or scores:
            figure.add_histogram(
                x=scores,
                name=f"{label} ({len(scores)})",
                xbins={"start": low, "end": high + 1e-6, "size": (high - low) / BINS or 1.0},
                marker={"color": color},
                hovertemplate="score %{x}<br>%{y} parts<extra></extra>",
            )
    tallest = int(np.histogram(every, BINS)[0].max())
    styled(figure, found_sentence(result, mode), y="test parts", barmode="stack", bargap=0.06)
    figure.update_layout(legend={"x": 1, "xanchor": "right", "y": 1})
    figure.update_yaxes(dtick=max(1, tallest // 5))
    return _by_score(figure, result, mode)


def roc_figure(result: Result) -> go.Figure:
    """ROC of the image scores in each mode; the legend lists the areas."""
    figure = go.Figure()
    chance = {"line": {"color": UNKNOWN, "width": 1}, "showlegend": False, "hoverinfo": "skip"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", **chance)
    _add_curves(figure, result, "roc", "tpr", "i_auroc")
    text = "separates good from defective parts best: I-AUROC"
    title = best_sentence(result, "i_auroc", text)
    styled(figure, title, "good parts rejected", "defective parts found")
    figure.update_xaxes(range=[-0.01, 1.01]).update_yaxes(range=[-0.01, 1.01])
    return figure.update_layout(legend={"x": 0.98, "xanchor": "right", "y": 0.04})


def pro_figure(result: Result) -> go.Figure:
    """Overlap with each defect against false positive pixels; dotted lines are AUPRO's limits."""
    figure = go.Figure()
    _add_curves(figure, result, "pro", "pro", "aupro_30")
    for limit, label in LIMITS.items():
        add_reference(figure, limit, label, DOTTED)
    title = best_sentence(result, "aupro_30", "locates defects best: AUPRO 30 %")
    styled(figure, title, "good pixels marked (FPR)", "mean overlap with a defect (PRO)")
    figure.update_xaxes(range=[-0.004, 0.31]).update_yaxes(range=[0, 1.01])
    return figure.update_layout(legend={"x": 0.9, "xanchor": "right", "y": 0.04})


def kind_figure(result: Result, mode: str = "") -> go.Figure:
    """Image score of every test part, a row for each kind of defect, hardest kind at the top."""
    mode = mode or lead(result)
    kinds = grouped(result["scans"], itemgetter("kind"))

    def place(kind: str) -> tuple[bool, float]:
        # plotly draws the first row at the bottom: the good parts, as the reference.
        scans = kinds[kind]
        median = np.median([s["scores"][mode] for s in scans])
        return any(s["defective"] for s in scans), -float(median)

    figure, clear = go.Figure(), "rgba(0,0,0,0)"
    for kind in sorted(kinds, key=place):
        color = LABELS[kinds[kind][0]["defective"]][1]
        figure.add_box(
            x=[s["scores"][mode] for s in kinds[kind]],
            name=f"{html.escape(kind)} ",
            text=[html.escape(s["name"]) for s in kinds[kind]],
            **{"boxpoints": "all", "pointpos": 0, "jitter": 0.5},
            **{"fillcolor": clear, "line": {"color": clear}},
            marker={"color": color, "size": 9, "opacity": 0.85},
            hovertemplate="%{text}<br>score %{x:.3f}<extra></extra>",
        )
    styled(figure, hardest_sentence(result, mode), height=160 + 40 * len(kinds), yaxis=ROWS)
    return _by_score(figure.update_layout(showlegend=False), result, mode)


def _add_curves(figure: go.Figure, result: Result, curve: str, y: str, area: str) -> None:
    for mode, values in result["modes"].items():
        name = mode_label(mode, short=True)
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


def _by_score(figure: go.Figure, result: Result, mode: str) -> go.Figure:
    """Names the score axis and marks the threshold."""
    if (threshold := result["modes"][mode]["threshold"]) is not None:
        add_reference(figure, threshold, "threshold")
    return figure.update_xaxes(title_text=f"image score, {mode_label(mode)}")
