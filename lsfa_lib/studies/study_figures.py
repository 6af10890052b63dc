"""A study as figures: gains with their intervals, and curves over what was changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lsfa_lib.config import fields_of, from_dict
from lsfa_lib.evaluation.bootstrap import AREA
from lsfa_lib.figures.figures import LINES, TEMPLATE
from lsfa_lib.figures.findings import BOTH, NAMES
from lsfa_lib.studies.components_report import forest_figure
from lsfa_lib.studies.study_table import METRICS, StudyRuns, config_of, records

FINEST = 0.05
"""Of the metrics' scale: differences of thousandths should not fill a panel."""


def gains_figure(
    study: StudyRuns, lines: pd.DataFrame, metric: str = AREA, title: str = ""
) -> go.Figure:
    """Difference of each cell to the reference, with its 95 % interval; zero is no gain."""
    compared = lines[lines["mode"].isin(["3d", "rgb", "rgb+3d"])]
    figure = forest_figure(compared, metric, title)
    return figure.update_xaxes(title_text=f"Δ {METRICS[metric]} to {study.about['reference']}")


def changed_fields(study: StudyRuns) -> dict[str, dict[str, float]]:
    """Field -> cell -> value, for cells that differ from the reference in one number alone.

    The reference cell stands with each field. For sensitivity, where one thing is changed at once.
    """
    fields = {cell: fields_of(from_dict(config_of(study, cell))) for cell in study.cells}
    base = fields[study.about["reference"]]
    found: dict[str, dict[str, float]] = {}
    for cell, own in fields.items():
        changed = [name for name in own if own[name] != base[name] and name != "preset"]
        if len(changed) == 1 and isinstance(own[changed[0]], (int, float)):
            start = {study.about["reference"]: float(base[changed[0]])}
            found.setdefault(changed[0], start)[cell] = float(own[changed[0]])
    return found


def sensitivity_figure(
    study: StudyRuns, lines: pd.DataFrame, metric: str = AREA, mode: str = BOTH
) -> go.Figure:
    """A panel for each field that was changed: the metric over its value, with 95 % intervals.

    All panels share one scale, no finer than `FINEST`, so that flat is what hardly matters.
    """
    fields = changed_fields(study)
    figure = make_subplots(
        rows=max(len(fields), 1), cols=1, vertical_spacing=0.55 / (len(fields) + 1)
    )
    by_cell = {line["row"]: line for line in records(lines[lines["mode"] == mode])}
    for place, (field, cells) in enumerate(fields.items(), start=1):
        order = sorted((cell for cell in cells if cell in by_cell), key=cells.__getitem__)
        figure.add_scatter(
            row=place,
            col=1,
            x=[cells[cell] for cell in order],
            y=[by_cell[cell][metric] for cell in order],
            error_y=_errors([by_cell[cell] for cell in order], metric),
            text=order,
            mode="lines+markers",
            line=LINES[mode],
            marker={"size": 8},
            showlegend=False,
            hovertemplate="%{text}<br>%{y:.3f}<extra></extra>",
        )
        values = list(cells.values())
        wide = min(values) > 0 and max(values) / min(values) >= 8
        figure.update_xaxes(
            row=place,
            col=1,
            title_text=field,
            type="log" if wide else "linear",
            tickvals=sorted(values),
            ticktext=[f"{v:.4g}" for v in sorted(values)],
        )
    shown = [by_cell[cell] for cells in fields.values() for cell in cells if cell in by_cell]
    figure.update_yaxes(
        title_text=METRICS[metric],
        title_standoff=12,
        automargin=True,
        range=_common_range(shown, metric),
        tickformat=".2f",
        nticks=5,
    )
    return figure.update_layout(
        template=TEMPLATE,
        height=110 + 210 * max(len(fields), 1),
        title={"text": _flatness(by_cell, fields, metric)},
    )


def _common_range(lines: list[dict[str, Any]], metric: str) -> list[float] | None:
    """Room for every mean and interval, at least `FINEST` wide; None where there is nothing."""
    ends = np.array([line[metric + end] for line in lines for end in ("", "_low", "_high")], float)
    if not np.isfinite(ends).any():
        return None
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    pad = max(0.06 * (high - low), (FINEST - (high - low)) / 2)
    return [low - pad, high + pad]


def _errors(lines: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    means, lows, highs = (
        np.array([line[metric + end] for line in lines]) for end in ("", "_low", "_high")
    )
    return {"array": highs - means, "arrayminus": means - lows, "thickness": 1.5}


def _flatness(
    by_cell: dict[str, dict[str, Any]], fields: dict[str, dict[str, float]], metric: str
) -> str:
    """Which field moves the metric most, and by how much."""
    ranges = {
        field: np.ptp([by_cell[cell][metric] for cell in cells if cell in by_cell])
        for field, cells in fields.items()
    }
    if not ranges:
        return "No cell differs from the reference in one number alone"
    most = max(ranges, key=ranges.__getitem__)
    return f"{most} moves {METRICS[metric]} most, by {ranges[most]:.3f}"


def shots_figure(study: StudyRuns, lines: pd.DataFrame, metric: str = AREA) -> go.Figure:
    """The metric over the number of training scans, a line for each kind of training."""
    figure = go.Figure()
    there = {line["row"]: line for line in records(lines[lines["mode"] == BOTH])}
    groups: dict[str, list[tuple[int, str]]] = {}
    for cell in there:
        kind = "unadapted" if study.about["cells"][cell].get("only") == "none" else "adapted"
        groups.setdefault(kind, []).append((_train_scans(study, cell), cell))
    lines_of = {"adapted": LINES[BOTH], "unadapted": LINES["rgb"]}
    for kind, cells in groups.items():
        chosen = [there[cell] for _, cell in sorted(cells)]
        figure.add_scatter(
            x=[count for count, _ in sorted(cells)],
            y=[line[metric] for line in chosen],
            error_y=_errors(chosen, metric),
            mode="lines+markers",
            line=lines_of[kind],
            name=kind,
            hovertemplate="%{x} scans: %{y:.3f}<extra></extra>",
        )
    counts = sorted({count for cells in groups.values() for count, _ in cells})
    first, last = (_best_at(groups, there, metric, count) for count in (counts[0], counts[-1]))
    return figure.update_layout(
        template=TEMPLATE,
        title={"text": f"{counts[0]} scans give {first:.3f}, all {counts[-1]} give {last:.3f}"},
        xaxis={
            "title": {"text": "good parts learned from"},
            "type": "log",
            "tickvals": counts,
            "ticktext": [str(count) for count in counts],
        },
        yaxis={"title": {"text": f"{METRICS[metric]}, {NAMES[BOTH]}"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )


def _train_scans(study: StudyRuns, cell: str) -> int:
    return next(r["counts"]["train"] for key, r in study.results.items() if key[0] == cell)


def _best_at(
    groups: dict[str, list[tuple[int, str]]],
    there: dict[str, dict[str, Any]],
    metric: str,
    count: int,
) -> float:
    return max(
        float(there[cell][metric]) for cells in groups.values() for n, cell in cells if n == count
    )
