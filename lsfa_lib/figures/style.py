"""What all figures share: plotly's template, colours, dashes and reference lines.

Modes are coloured by Okabe and Ito's palette and differ in dash, so that neither colour blindness
nor a grey print hides a curve.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lsfa_lib.records import UNLABELLED

LINES: dict[str, dict[str, str]] = {
    "3d": {"color": "#0072B2", "dash": "dash"},
    "rgb": {"color": "#E69F00", "dash": "dot"},
    "rgb+3d": {"color": "#009E73", "dash": "solid"},
    "disagreement": {"color": "#CC79A7", "dash": "dashdot"},
    "rgb+3d+disagreement": {"color": "#D55E00", "dash": "longdash"},
    "heads": {"color": "#7A5195", "dash": "longdashdot"},
    "rgb+heads": {"color": "#8C6D1F", "dash": "12px,3px,3px,3px"},
    "3d+heads": {"color": "#2F4B7C", "dash": "12px,3px,3px,3px"},
    "rgb+3d+heads": {"color": "#8B1E3F", "dash": "12px,3px,3px,3px"},
    "rgb+3d+disagreement+heads": {"color": "#3B3F46", "dash": "12px,3px,3px,3px"},
}
GOOD, DEFECTIVE, UNKNOWN, GREY = "#56B4E9", "#D55E00", "#8A94A0", "#6b7682"
LABELS: dict[bool | None, tuple[str, str]] = {
    False: ("good", GOOD),
    True: ("defective", DEFECTIVE),
    None: (UNLABELLED, UNKNOWN),
}
"""Name and colour of what is known about a test part."""
DASHED: dict[str, Any] = {"width": 2, "dash": "dash", "color": GREY}
DOTTED: dict[str, Any] = {"width": 1, "dash": "dot", "color": UNKNOWN}
QUARTERS: dict[str, Any] = {
    "tickvals": [0, 0.25, 0.5, 0.75, 1],
    "ticktext": ["0 %", "25 %", "50 %", "75 %", "100 %"],
}
"""Ticks of an axis of shares."""
ROWS: dict[str, Any] = {"automargin": True, "showline": False, "ticks": ""}
"""A vertical axis whose ticks are names."""

_AXIS = {
    "showline": True,
    "linecolor": UNKNOWN,
    "gridcolor": "#e6eaee",
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": UNKNOWN,
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


def styled(figure: go.Figure, title: str, x: str = "", y: str = "", **layout: Any) -> go.Figure:
    """The figure in the common style; its title states the finding, `x` and `y` name the axes."""
    figure.update_layout(template=TEMPLATE, title={"text": title}, **layout)
    return figure.update_xaxes(title_text=x).update_yaxes(title_text=y)


def add_reference(
    figure: go.Figure, x: float, text: str, line: dict[str, Any] = DASHED, log: bool = False
) -> None:
    """A vertical line at `x` with its name above; `log`: on a logarithmic axis."""
    figure.add_vline(x, line=line)
    at = math.log10(x) if log else x
    figure.add_annotation(x=at, y=1, yref="paper", yanchor="bottom", text=text, showarrow=False)


def adapt_to_phones(figure: go.Figure, changes: dict[str, Any]) -> None:
    """Paths in the layout, and what a page sets there on a narrow screen."""
    meta = figure.layout.meta or {}
    figure.layout.meta = {**meta, "narrow": {**meta.get("narrow", {}), **changes}}


def spread_out(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread, including first and last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def round_ticks(low: float, high: float) -> list[float]:
    """At most eight round numbers from `low` to `high`."""
    steps = (n * 10.0**power for power in range(-6, 7) for n in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step < 8)
    return [round(i * step, 6) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
