"""A study as figures: differences with their intervals, and curves over what was changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lsfa_lib.config import fields_of, from_dict
from lsfa_lib.evaluation.bootstrap import AREA, verdict
from lsfa_lib.figures.figures import LINES, TEMPLATE
from lsfa_lib.figures.findings import BOTH
from lsfa_lib.figures.names import METRICS, MODES, SHORT_MODES
from lsfa_lib.selection.selection import rank_correlation
from lsfa_lib.studies.study_table import StudyRuns, config_of, records

FINEST = 0.05
"""Of the metrics' scale: differences of thousandths should not fill a panel."""
NO_INTERVAL = "one seed, no interval"
COLOURS = {
    "confirmed": "#009E73",
    "worse": "#D55E00",
    "no better than untrained": "#E69F00",
    "not confirmed": "#8a94a0",
    NO_INTERVAL: "#8a94a0",
}
ALL_THREE = "rgb+3d+disagreement"
BELOW: dict[str, Any] = {
    "orientation": "h",
    "yref": "container",
    "y": 0,
    "yanchor": "bottom",
    "x": 0,
}
"""A legend measured from the figure's own edge: shares of a low plot would run into its axis."""


def gains_figure(study: StudyRuns, lines: pd.DataFrame, metric: str = AREA) -> go.Figure:
    """Difference of each cell to the reference, with its 95 % interval; zero is no difference.

    Disagreement alone is left out: far below the reference, it would hide the others' differences.
    """
    compared = [
        line
        for line in records(lines[lines["mode"] != "disagreement"])
        if not np.isnan(line.get(f"d_{metric}", np.nan))
    ]
    kinds = [verdict(line, metric) or NO_INTERVAL for line in compared]
    labels = [f"{line['row']}, {SHORT_MODES[line['mode']]}" for line in compared]
    figure = go.Figure()
    for kind in dict.fromkeys(kinds):
        places = [i for i, other in enumerate(kinds) if other == kind]
        own = [compared[i] for i in places]
        figure.add_scatter(
            x=[line[f"d_{metric}"] for line in own],
            y=places,
            text=[labels[i] for i in places],
            mode="markers",
            name=kind,
            marker={"size": 9, "color": COLOURS[kind]},
            error_x={**_errors(own, f"d_{metric}"), "color": COLOURS[kind]},
            hovertemplate="%{text}<br>%{x:+.3f}<extra></extra>",
        )
    for place, label in enumerate(labels):
        # Above its line, not next to it: on a phone there is no room to the left.
        corner = {"x": 0, "xref": "paper", "xanchor": "left", "y": place, "yshift": 14}
        figure.add_annotation(text=label, showarrow=False, font={"size": 12}, **corner)
    figure.add_vline(0.0, line={"width": 1, "dash": "dash", "color": "#6b7682"})
    # A single kind has no legend; on a phone each of several has a line of its own.
    below = 110 if len(set(kinds)) > 1 else 60
    return figure.update_layout(
        template=TEMPLATE,
        height=130 + below + 36 * len(compared),
        title={"text": _gains_title(compared, kinds, labels, metric)},
        margin={"l": 16, "b": below},
        xaxis={
            "title": {"text": f"Δ {METRICS[metric]} to {study.about['reference']}"},
            "nticks": 6,
        },
        yaxis={
            "range": [len(compared) - 0.5, -1],
            "showticklabels": False,
            "showgrid": False,
            "showline": False,
            "ticks": "",
        },
        legend=BELOW,
    )


def _gains_title(
    compared: list[dict[str, Any]], kinds: list[str], labels: list[str], metric: str
) -> str:
    """How many differences are gains for sure; without intervals, the largest difference."""
    name, total = METRICS[metric], len(compared)
    if sure := kinds.count("confirmed"):
        return f"{sure} of {total} changes {'improve' if sure > 1 else 'improves'} {name}"
    if not set(kinds) <= {NO_INTERVAL}:
        return f"None of {total} changes improves {name}"
    gains = [abs(line[f"d_{metric}"]) for line in compared]
    if not gains:
        return "Nothing to compare"
    largest = int(np.argmax(gains))
    return (
        f"Largest difference in {name}: {compared[largest][f'd_{metric}']:+.3f}, {labels[largest]}"
    )


def _errors(lines: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    means, lows, highs = (
        np.array([line[metric + end] for line in lines]) for end in ("", "_low", "_high")
    )
    return {"array": highs - means, "arrayminus": means - lows, "thickness": 1.5}


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

    All panels share one scale, no finer than `FINEST`, so that a flat line means little effect.
    """
    fields = changed_fields(study)
    rows = max(len(fields), 1)
    figure = make_subplots(rows=rows, cols=1, vertical_spacing=0.55 / (len(fields) + 1))
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
        values = sorted(cells.values())
        wide = values[0] > 0 and values[-1] / values[0] >= 8
        axis = {"type": "log" if wide else "linear", "title_text": field}
        ticks = {"tickvals": values, "ticktext": [f"{v:.4g}" for v in values]}
        figure.update_xaxes(row=place, col=1, **axis, **ticks)
    drawn = [by_cell[cell] for cells in fields.values() for cell in cells if cell in by_cell]
    figure.update_yaxes(
        title_text=METRICS[metric],
        title_standoff=12,
        automargin=True,
        range=common_range(drawn, metric),
        tickformat=".2f",
        nticks=5,
    )
    title = {"text": _largest_effect(by_cell, fields, metric)}
    return figure.update_layout(template=TEMPLATE, height=110 + 210 * rows, title=title)


def common_range(lines: list[dict[str, Any]], metric: str) -> list[float] | None:
    """Room for every mean and interval, at least `FINEST` wide; None where there is nothing."""
    ends = np.array([line[metric + end] for line in lines for end in ("", "_low", "_high")], float)
    if not np.isfinite(ends).any():
        return None
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    pad = max(0.06 * (high - low), (FINEST - (high - low)) / 2)
    return [low - pad, high + pad]


def _largest_effect(
    by_cell: dict[str, dict[str, Any]], fields: dict[str, dict[str, float]], metric: str
) -> str:
    """Which field changes the metric most, and by how much."""
    ranges = {
        field: np.ptp([by_cell[cell][metric] for cell in cells if cell in by_cell])
        for field, cells in fields.items()
    }
    if not ranges:
        return "No cell differs from the reference in one number alone"
    most = max(ranges, key=ranges.__getitem__)
    return f"Largest effect: {most} changes {METRICS[metric]} by {ranges[most]:.3f}"


def shots_figure(study: StudyRuns, lines: pd.DataFrame, metric: str = AREA) -> go.Figure:
    """The metric over the number of training scans, a line for each kind of training."""
    both = lines[lines["mode"] == BOTH].copy()
    both["scans"] = [study.of_cell(cell)[0]["counts"]["train"] for cell in both["row"]]
    trained = [any(config_of(study, c)["training"]["weights"].values()) for c in both["row"]]
    both["kind"] = np.where(trained, "adapted", "unadapted")
    figure = go.Figure()
    for kind, line in (("adapted", LINES[BOTH]), ("unadapted", LINES["rgb"])):
        own = records(both[both["kind"] == kind].sort_values("scans"))
        figure.add_scatter(
            x=[each["scans"] for each in own],
            y=[each[metric] for each in own],
            error_y=_errors(own, metric),
            mode="lines+markers",
            line=line,
            name=kind,
            hovertemplate="%{x} scans: %{y:.3f}<extra></extra>",
        )
    highest = both.groupby("scans")[metric].max()
    few, every = highest.index[0], highest.index[-1]
    said = f"{few} scans: {highest[few]:.3f}, all {every}: {highest[every]:.3f}"
    ticks = {"tickvals": list(highest.index), "ticktext": [str(n) for n in highest.index]}
    return figure.update_layout(
        template=TEMPLATE,
        title={"text": f"{METRICS[metric]} with {said}"},
        xaxis={"title": {"text": "good parts for training"}, "type": "log", **ticks},
        yaxis={"title": {"text": f"{METRICS[metric]}, {MODES[BOTH]}"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )


def selection_cells(lines: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Score on pseudo-defects and on the test split of each cell, and their rank correlation.

    Both are the mean of I-AUROC and AUPRO, of all three sources or, for a cell without
    disagreement, of RGB + 3D.
    """
    scored = lines[lines["selection"].notna()]
    scored = scored.sort_values("mode", key=lambda modes: modes != ALL_THREE, kind="stable")
    found = pd.DataFrame(
        {
            "configuration": line["row"],
            "selection": line["selection"],
            "test": (line[AREA] + line["aupro_30"]) / 2,
        }
        for line in records(scored)
        if line["mode"] in (ALL_THREE, BOTH)
    )
    found = found.drop_duplicates("configuration").sort_values("selection", ascending=False)
    return found, rank_correlation(found["selection"].tolist(), found["test"].tolist())


def selection_figure(lines: pd.DataFrame) -> go.Figure:
    """Score on pseudo-defects against score on the test split, a dot for each cell."""
    found, correlation = selection_cells(lines)
    figure = go.Figure()
    figure.add_scatter(
        x=found["selection"],
        y=found["test"],
        text=found["configuration"],
        mode="markers",
        marker={"size": 10, "color": "#0072B2"},
        hovertemplate="%{text}<br>selection %{x:.3f}<br>test %{y:.3f}<extra></extra>",
    )
    return figure.update_layout(
        template=TEMPLATE,
        title={"text": f"Rank correlation {correlation:.2f} over {len(found)} configurations"},
        xaxis={"title": {"text": "score on pseudo-defects of validation scans"}},
        yaxis={"title": {"text": "score on the test split"}},
    )
