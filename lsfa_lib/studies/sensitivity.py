"""A study that changes one number at a time, as curves over it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lsfa_lib.config import fields_of, from_dict
from lsfa_lib.evaluation.bootstrap import AREA
from lsfa_lib.figures.findings import BOTH
from lsfa_lib.figures.names import METRICS
from lsfa_lib.figures.style import LINES, TEMPLATE
from lsfa_lib.studies.study_figures import reach
from lsfa_lib.studies.study_table import StudyRuns, config_of

FINEST, LITTLE = 0.05, 0.005
"""Of the metrics' scale: differences of thousandths should not fill a panel, nor be the finding."""
SCALE = {"title_standoff": 12, "automargin": True, "tickformat": ".2f", "nticks": 5}


def changed_fields(study: StudyRuns) -> dict[str, dict[str, float]]:
    """Field -> cell -> value, for cells that differ from the reference in one number alone.

    The reference cell stands with each field. For sensitivity, where one thing is changed at once.
    """
    fields = {cell: fields_of(from_dict(config_of(study, cell))) for cell in study.cells}
    base = fields[study.about.reference]
    found: dict[str, dict[str, float]] = {}
    for cell, own in fields.items():
        changed = [name for name in own if own[name] != base[name] and name != "preset"]
        if len(changed) == 1 and isinstance(own[changed[0]], (int, float)):
            start = {study.about.reference: float(base[changed[0]])}
            found.setdefault(changed[0], start)[cell] = float(own[changed[0]])
    return found


def sensitivity_figure(
    study: StudyRuns, lines: pd.DataFrame, metric: str = AREA, mode: str = BOTH
) -> go.Figure:
    """A panel for each field that was changed: the metric over its value, with 95 % intervals.

    All panels share one scale, no finer than `FINEST`, so that a flat line means little effect.
    """
    fields = changed_fields(study)
    rows = max(len(fields), 1)
    figure = make_subplots(rows=rows, cols=1, vertical_spacing=0.55 / (len(fields) + 1))
    by_cell = lines[lines["mode"] == mode].set_index("row")
    for place, (field, cells) in enumerate(fields.items(), start=1):
        values = pd.Series(cells).sort_values()
        own = by_cell.reindex(values.index).dropna(subset=metric)
        ends = reach(own, metric)
        figure.add_scatter(
            row=place,
            col=1,
            x=values[own.index],
            y=own[metric],
            error_y={"array": ends["up"], "arrayminus": ends["down"], "thickness": 1.5},
            text=own.index,
            mode="lines+markers",
            line=LINES[mode],
            marker={"size": 8},
            showlegend=False,
            hovertemplate="%{text}<br>%{y:.3f}<extra></extra>",
        )
        figure.update_xaxes(row=place, col=1, title_text=field, **_ticks(values))
    drawn = by_cell.reindex([cell for cells in fields.values() for cell in cells])
    figure.update_yaxes(
        title_text=METRICS[metric],
        range=common_range(drawn, metric),
        **SCALE,
    )
    said = _largest_effect(by_cell, fields, metric)
    return figure.update_layout(template=TEMPLATE, height=110 + 210 * rows, title={"text": said})


def _ticks(values: pd.Series[float]) -> dict[str, Any]:
    """A horizontal axis that names these values, logarithmic where they span a wide range."""
    wide = values.iloc[0] > 0 and values.iloc[-1] / values.iloc[0] >= 8
    names = [f"{value:.4g}" for value in values]
    return {"type": "log" if wide else "linear", "tickvals": values, "ticktext": names}


def _largest_effect(by_cell: pd.DataFrame, fields: dict[str, dict[str, float]], metric: str) -> str:
    """Which field changes the metric most, and by how much."""
    if not fields:
        return "No cell differs from the reference in one number alone"
    found = {
        field: by_cell.reindex(list(cells))[metric].dropna() for field, cells in fields.items()
    }
    most = max(found, key=lambda field: float(np.ptp(found[field])))
    span = float(np.ptp(found[most]))
    if span < LITTLE:
        return f"Almost no effect: no field changes {METRICS[metric]} by more than {span:.3f}"
    return f"Largest effect: {most} changes {METRICS[metric]} by {span:.3f}"


def common_range(lines: pd.DataFrame, metric: str) -> list[float] | None:
    """Room for every mean and interval, at least `FINEST` wide; None where there is nothing."""
    ends = lines.reindex(columns=[metric, f"{metric}_low", f"{metric}_high"]).to_numpy(float)
    if not np.isfinite(ends).any():
        return None
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    pad = max(0.06 * (high - low), (FINEST - (high - low)) / 2)
    return [low - pad, high + pad]
