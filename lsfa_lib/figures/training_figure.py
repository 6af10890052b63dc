"""How a training went: losses, variance, rank and gradient over the steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from lsfa_lib.figures.findings import BOTH, Result, number, training_sentence
from lsfa_lib.figures.names import mode_label
from lsfa_lib.figures.style import GREY, LINES, TEMPLATE, spread_out
from lsfa_lib.records import MODALITIES

TERM_LINES = {
    "LA": {"color": "#0072B2", "dash": "solid"},
    "GA": {"color": "#56B4E9", "dash": "dash"},
    "LC": {"color": "#D55E00", "dash": "solid"},
    "GC": {"color": "#E69F00", "dash": "dash"},
}
MOST_STEPS = 400
"""Steps drawn: more would enlarge the page without showing on a screen."""


@dataclass(frozen=True)
class Panel:
    """A row of the figure: entries of the history that share an axis."""

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
    Panel("mean distance to the nearest queue row", {f"nearest_{m}": m for m in MODALITIES}),
    Panel(
        "patches matched to their counterpart",
        {"alignment_accuracy": BOTH},
        axis=(("rangemode", "tozero"), ("tickformat", ".0%")),
    ),
    Panel("gradient norm", {"gradient_norm": "all"}),
)


def training_figure(result: Result) -> go.Figure:
    """The training of the adaptors, one row per quantity; empty where nothing was trained.

    At most 400 steps are drawn, evenly spread, including the first and the last. A quantity that
    the training does not have, such as a term of weight 0, has no row.
    """
    history = (result.get("training") or {"history": []})["history"]
    panels = [p for p in PANELS if any(key in step for key in p.entries for step in history)]
    drawn = np.array(spread_out(len(history), MOST_STEPS), int)
    rows = max(1, len(panels))
    figure = make_subplots(rows=rows, shared_xaxes=True, vertical_spacing=0.05)
    named: set[str] = set()
    for row, panel in enumerate(panels, 1):
        lines = {k: v for k, v in panel.entries.items() if any(k in step for step in history)}
        # Lines that an earlier row has named keep their colour and dash.
        legend = len(lines) > 1 and not named.issuperset(lines.values())
        named.update(lines.values())
        for key, line in lines.items():
            values = _series(history, key, panel.relative)[drawn]
            _add_line(figure, row, line, (drawn + 1, values), legend)
        _label_row(figure, row, panel)
    figure.update_xaxes(title={"text": "step"}, row=rows)
    title = {"text": training_sentence(result)}
    return figure.update_layout(template=TEMPLATE, title=title, height=120 + 130 * rows)


def _add_line(
    figure: go.Figure,
    row: int,
    line: str,
    points: tuple[Int[np.ndarray, " s"], Float[np.ndarray, " s"]],
    with_legend: bool,
) -> None:
    name = mode_label(line, short=True)
    figure.add_scatter(
        # Histories may be long: whole numbers and single precision halve the page.
        x=points[0].astype(np.int32),
        y=points[1].astype(np.float32),
        mode="lines",
        name=name,
        legend=_legend(row),
        showlegend=with_legend,
        line={"width": 2, **(LINES | TERM_LINES).get(line, {"color": GREY})},
        hovertemplate=f"{name}: %{{y:.3g}}, step %{{x}}<extra></extra>",
        row=row,
        col=1,
    )


def _label_row(figure: go.Figure, row: int, panel: Panel) -> None:
    """The title above a row on the left, its legend on the right."""
    figure.update_yaxes(**dict(panel.axis), nticks=5, tickfont={"size": 11}, row=row)
    top = figure.layout[f"yaxis{row if row > 1 else ''}"].domain[1]
    place = {"yref": "paper", "y": top, "yanchor": "bottom"}
    # Above the axis' numbers, to leave room for the legend on a phone.
    left = {"xref": "paper", "x": 0, "xanchor": "left", "xshift": -48}
    figure.add_annotation(text=panel.title, showarrow=False, **left, **place)
    figure.update_layout({_legend(row): {**place, "x": 1, "xanchor": "right", "orientation": "h"}})


def _legend(row: int) -> str:
    return "legend" if row == 1 else f"legend{row}"


def _series(history: list[dict[str, float]], key: str, relative: bool) -> Float[np.ndarray, " t"]:
    """The values of an entry over all steps, NaN where a step lacks it."""
    values = np.array([number(step.get(key)) for step in history])
    first = values[np.isfinite(values)][:1]
    return values / first if relative and first.size and first[0] else values
