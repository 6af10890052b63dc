"""Mechanisms as plots: matrices, distributions, curves, dots, points, the content of a queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Shaped
from plotly.subplots import make_subplots

from lsfa_lib.figures.scan_images import COLORSCALE
from lsfa_lib.figures.style import DEFECTIVE, GOOD, GREY, LINES, adapt_to_phones, styled

COLORS = {
    "good part": GOOD,
    "good": GOOD,
    "training": "#8A94A0",
    "defect": DEFECTIVE,
    "defective": DEFECTIVE,
    "before": "#8A94A0",
    "after": LINES["rgb+3d"]["color"],
}
"""Of names that mean the same in every figure; others take plotly's palette below."""
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7A5195", GREY)
Numbers = Sequence[int | float]
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def color_of(name: str, place: int) -> str:
    """The colour of a line or a group."""
    return COLORS.get(name, PALETTE[place % len(PALETTE)])


def matrices(
    found: Mapping[str, Float[np.ndarray, "r c"]],
    title: str,
    axes: tuple[str, str],
    scale: tuple[float, float] = (-1.0, 1.0),
) -> go.Figure:
    """Matrices next to each other on one colour scale, below each other on a phone."""
    names, count = list(found), len(found)
    figure = make_subplots(rows=1, cols=count, subplot_titles=names, horizontal_spacing=0.08)
    for column, matrix in enumerate(found.values(), 1):
        values = matrix.astype(np.float32).round(3)
        hover = f"{axes[1]} %{{y}}, {axes[0]} %{{x}}<br>%{{z:.2f}}<extra></extra>"
        figure.add_heatmap(z=values, coloraxis="coloraxis", hovertemplate=hover, row=1, col=column)
    bar = {"thickness": 10, "len": 0.8}
    styled(
        figure,
        title,
        axes[0],
        height=440,
        coloraxis={"colorscale": COLORSCALE, "cmin": scale[0], "cmax": scale[1], "colorbar": bar},
    )
    figure.update_yaxes(autorange="reversed", title_text="")
    figure.update_yaxes(title_text=axes[1], col=1)
    figure.update_annotations(font={"size": 13})
    narrow: dict[str, Any] = {"height": 60 + 330 * count, "margin.r": 60}
    for i in range(count):
        number = str(i + 1) if i else ""
        top = 1 - i / count
        narrow[f"xaxis{number}.domain"] = [0, 1]
        narrow[f"yaxis{number}.domain"] = [top - 0.8 / count, top - 0.05 / count]
        narrow[f"annotations[{i}].x"], narrow[f"annotations[{i}].y"] = 0.5, top - 0.05 / count
    adapt_to_phones(figure, narrow)
    return figure


def distributions(
    panels: Mapping[str, Mapping[str, Shaped[np.ndarray, " _"]]], title: str, axis: str
) -> go.Figure:
    """Cumulative shares, a panel per key below each other, a line per group of values.

    A line at 0.9 of the height is at the value that 90 % of its group stay below.
    """
    count = len(panels)
    figure = make_subplots(
        rows=count,
        cols=1,
        shared_xaxes=True,
        subplot_titles=list(panels),
        vertical_spacing=0.24 / count,
    )
    for row, groups in enumerate(panels.values(), 1):
        for place, (name, values) in enumerate(groups.items()):
            ordered = np.quantile(values, np.linspace(0, 1, 101)).astype(np.float32)
            figure.add_scatter(
                x=ordered,
                y=np.linspace(0, 1, 101, dtype=np.float32),
                mode="lines",
                name=name,
                legendgroup=name,
                showlegend=row == 1 and len(groups) > 1,
                line={"width": 2.5, "color": color_of(name, place), "dash": DASHES[place % 6]},
                hovertemplate=f"{name}: %{{y:.0%}} are below %{{x:.3g}}<extra></extra>",
                row=row,
                col=1,
            )
    styled(figure, title, "", "", height=110 + 190 * count)
    figure.update_yaxes(tickformat=".0%", range=[0, 1.03])
    figure.update_xaxes(rangemode="tozero").update_xaxes(title_text=axis, row=count)
    figure.update_annotations(font={"size": 13})
    return _legend_above(figure)


def curves(
    lines: Mapping[str, tuple[Numbers, Numbers]],
    title: str,
    axes: tuple[str, str],
    **y: Any,
) -> go.Figure:
    """Lines with a mark at each value; `y` are settings of the vertical axis."""
    figure = go.Figure()
    for place, (name, (xs, ys)) in enumerate(lines.items()):
        figure.add_scatter(
            x=np.asarray(xs, np.float32),
            y=np.asarray(ys, np.float32),
            name=name,
            mode="lines+markers",
            marker={"size": 6, "color": color_of(name, place)},
            line={"width": 2.5, "color": color_of(name, place), "dash": DASHES[place % 6]},
            hovertemplate=f"{name}<br>{axes[0]} %{{x:.3g}}: %{{y:.3g}}<extra></extra>",
        )
    styled(figure, title, *axes, showlegend=len(lines) > 1)
    figure.update_yaxes(**y)
    return _legend_above(figure)


def dots(
    table: Mapping[str, Mapping[str, float]], title: str, axis_titles: Mapping[str, str]
) -> go.Figure:
    """A panel per quantity, a row per variant: variant -> quantity -> value."""
    quantities = list(axis_titles)
    figure = make_subplots(rows=1, cols=len(quantities), shared_yaxes=True)
    names = [f"{name} " for name in table]
    for column, quantity in enumerate(quantities, 1):
        values = [each.get(quantity, np.nan) for each in table.values()]
        figure.add_scatter(
            x=values,
            y=names,
            mode="markers+text",
            text=[f" {_short(value)}" for value in values],
            textposition="middle right",
            cliponaxis=False,
            marker={"size": 13, "color": PALETTE[(column - 1) % len(PALETTE)]},
            hovertemplate=f"%{{y}}<br>{axis_titles[quantity]} %{{x:.3g}}<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
        finite = [v for v in values if np.isfinite(v)]
        low, high = min([0.0, *finite]), max([0.0, *finite])
        span = (high - low) or 1.0
        # Room for the number to the right of the last dot.
        figure.update_xaxes(range=[low - 0.06 * span, high + 0.4 * span], col=column)
    styled(figure, title, "", "", height=150 + 44 * len(names))
    for column, quantity in enumerate(quantities, 1):
        figure.update_xaxes(title_text=axis_titles[quantity], nticks=4, col=column)
    figure.update_yaxes(autorange="reversed", automargin=True, showline=False, ticks="")
    rows_px = 40 * len(names)
    panel_px = rows_px + 80  # with the axis, its title and a gap
    narrow: dict[str, Any] = {"height": 100 + panel_px * len(quantities)}
    for i in range(len(quantities)):
        number, top = str(i + 1) if i else "", 1 - i / len(quantities)
        narrow[f"xaxis{number}.domain"] = [0, 1]
        narrow[f"yaxis{number}.domain"] = [top - rows_px / panel_px / len(quantities), top]
        narrow[f"yaxis{number}.showticklabels"] = True
    adapt_to_phones(figure, narrow)
    return figure


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def scatter(
    panels: Mapping[str, Mapping[str, Float[np.ndarray, "n 2"]]], title: str, axes: tuple[str, str]
) -> go.Figure:
    """Points in a plane, a panel per key with equal axes, a colour per group."""
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=list(panels))
    symbols = ("circle", "diamond", "x", "square")
    for column, groups in enumerate(panels.values(), 1):
        for place, (name, points) in enumerate(groups.items()):
            figure.add_scatter(
                x=points[:, 0].astype(np.float32),
                y=points[:, 1].astype(np.float32),
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                marker={"size": 11, "color": color_of(name, place), "symbol": symbols[place % 4]},
                hovertemplate=f"{name}<extra></extra>",
                row=1,
                col=column,
            )
    styled(figure, title, axes[0], "", height=400)
    figure.update_yaxes(title_text=axes[1], col=1)
    figure.update_annotations(font={"size": 13})
    return _legend_above(figure, 1.1)


def queue_figure(contents: Float[np.ndarray, "steps capacity"], title: str) -> go.Figure:
    """A row per step: which scan each place of the queue holds; white where it is empty."""
    scans = int(np.nanmax(contents)) + 1
    figure = go.Figure(
        go.Heatmap(
            z=contents.astype(np.float32),
            zmin=-0.5,
            zmax=scans - 0.5,
            colorscale=COLORSCALE,
            xgap=0,
            ygap=2,
            colorbar={"title": {"text": "scan"}, "thickness": 10, "dtick": max(1, scans // 4)},
            hovertemplate="after scan %{y}, place %{x}: rows of scan %{z}<extra></extra>",
        )
    )
    styled(figure, title, "place in the queue", "scans enqueued so far", height=360)
    return figure.update_yaxes(autorange="reversed")


def _legend_above(figure: go.Figure, y: float = 1.04) -> go.Figure:
    legend = {"orientation": "h", "x": 0, "y": y, "yanchor": "bottom"}
    return figure.update_layout(legend=legend, margin={"t": 86})
