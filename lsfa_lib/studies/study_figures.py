"""A study as figures: differences with their intervals, and curves over what was changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lsfa_lib.config import fields_of, from_dict
from lsfa_lib.evaluation.bootstrap import AREA, verdict
from lsfa_lib.figures.findings import BOTH
from lsfa_lib.figures.names import METRICS, MODES, SHORT_MODES
from lsfa_lib.figures.style import LINES, TEMPLATE
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
    "title": {"text": ""},
}
"""A legend measured from the figure's own edge: shares of a low plot would run into its axis."""
NO_AXIS = {"showticklabels": False, "showgrid": False, "showline": False, "ticks": "", "title": ""}


def gains_figure(study: StudyRuns, lines: pd.DataFrame, metric: str = AREA) -> go.Figure:
    """Difference of each cell to the reference, with its 95 % interval; zero is no difference.

    Disagreement alone is left out: far below the reference, it would hide the others' differences.
    """
    gain = f"d_{metric}"
    found = lines.assign(**{gain: lines.get(gain, np.nan)}).dropna(subset=gain)
    found = found[found["mode"] != "disagreement"].reset_index(drop=True)
    found["kind"] = [verdict(line, metric) or NO_INTERVAL for line in records(found)]
    found["label"] = found["row"] + ", " + found["mode"].map(SHORT_MODES)
    kinds = list(dict.fromkeys(found["kind"]))
    figure = px.scatter(
        found.assign(**_lengths(found, gain)),
        x=gain,
        y=found.index,
        color="kind",
        hover_name="label",
        error_x="up",
        error_x_minus="down",
        color_discrete_map=COLOURS,
    )
    figure.update_traces(marker_size=9, hovertemplate="%{hovertext}<br>%{x:+.3f}<extra></extra>")
    for place, label in enumerate(found["label"]):
        # Above its line, not next to it: on a phone there is no room to the left.
        corner = {"x": 0, "xref": "paper", "xanchor": "left", "y": place, "yshift": 14}
        figure.add_annotation(text=label, showarrow=False, font={"size": 12}, **corner)
    figure.add_vline(0.0, line={"width": 1, "dash": "dash", "color": "#6b7682"})
    # A single kind has no legend; on a phone each of several has a line of its own.
    below = 110 if len(kinds) > 1 else 60
    title = f"Δ {METRICS[metric]} to {study.about['reference']}"
    return figure.update_layout(
        template=TEMPLATE,
        height=130 + below + 36 * len(found),
        title={"text": _gains_title(found, metric)},
        margin={"l": 16, "b": below},
        xaxis={"title": {"text": title}, "nticks": 6},
        yaxis={**NO_AXIS, "range": [len(found) - 0.5, -1]},
        legend=BELOW,
        showlegend=len(kinds) > 1,
    )


def _gains_title(found: pd.DataFrame, metric: str) -> str:
    """How many differences are gains for sure; without intervals, the largest difference."""
    name, total, kinds = METRICS[metric], len(found), list(found["kind"])
    if sure := kinds.count("confirmed"):
        return f"{sure} of {total} changes {'improve' if sure > 1 else 'improves'} {name}"
    if not set(kinds) <= {NO_INTERVAL}:
        return f"None of {total} changes improves {name}"
    if not total:
        return "Nothing to compare"
    largest = max(records(found), key=lambda line: abs(line[f"d_{metric}"]))
    return f"Largest difference in {name}: {largest[f'd_{metric}']:+.3f}, {largest['label']}"


def _lengths(lines: pd.DataFrame, metric: str) -> dict[str, Any]:
    """How far the interval reaches above and below the mean."""
    ends = lines.reindex(columns=[f"{metric}_low", f"{metric}_high"])
    return {"up": ends.iloc[:, 1] - lines[metric], "down": lines[metric] - ends.iloc[:, 0]}


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
    by_cell = lines[lines["mode"] == mode].set_index("row")
    for place, (field, cells) in enumerate(fields.items(), start=1):
        values = pd.Series(cells).sort_values()
        own = by_cell.reindex(values.index).dropna(subset=metric)
        reach = _lengths(own, metric)
        figure.add_scatter(
            row=place,
            col=1,
            x=values[own.index],
            y=own[metric],
            error_y={"array": reach["up"], "arrayminus": reach["down"], "thickness": 1.5},
            text=own.index,
            mode="lines+markers",
            line=LINES[mode],
            marker={"size": 8},
            showlegend=False,
            hovertemplate="%{text}<br>%{y:.3f}<extra></extra>",
        )
        wide = values.iloc[0] > 0 and values.iloc[-1] / values.iloc[0] >= 8
        axis = {"type": "log" if wide else "linear", "title_text": field}
        ticks = {"tickvals": values, "ticktext": [f"{v:.4g}" for v in values]}
        figure.update_xaxes(row=place, col=1, **axis, **ticks)
    drawn = by_cell.reindex([cell for cells in fields.values() for cell in cells])
    figure.update_yaxes(
        title_text=METRICS[metric],
        title_standoff=12,
        automargin=True,
        range=common_range(drawn, metric),
        tickformat=".2f",
        nticks=5,
    )
    ranges = {
        field: np.ptp(by_cell.reindex(list(cells))[metric].dropna())
        for field, cells in fields.items()
    }
    said = "No cell differs from the reference in one number alone"
    if ranges:
        most = max(ranges, key=ranges.__getitem__)
        said = f"Largest effect: {most} changes {METRICS[metric]} by {ranges[most]:.3f}"
    return figure.update_layout(template=TEMPLATE, height=110 + 210 * rows, title={"text": said})


def common_range(lines: pd.DataFrame, metric: str) -> list[float] | None:
    """Room for every mean and interval, at least `FINEST` wide; None where there is nothing."""
    ends = lines.reindex(columns=[metric, f"{metric}_low", f"{metric}_high"]).to_numpy(float)
    if not np.isfinite(ends).any():
        return None
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    pad = max(0.06 * (high - low), (FINEST - (high - low)) / 2)
    return [low - pad, high + pad]


def shots_figure(study: StudyRuns, lines: pd.DataFrame, metric: str = AREA) -> go.Figure:
    """The metric over the number of training scans, a line for each kind of training."""
    both = lines[lines["mode"] == BOTH].copy()
    both["scans"] = [study.of_cell(cell)[0]["counts"]["train"] for cell in both["row"]]
    weights = [config_of(study, cell)["training"]["weights"] for cell in both["row"]]
    both["kind"] = ["adapted" if any(own.values()) else "unadapted" for own in weights]
    figure = px.line(
        both.sort_values("scans").assign(**_lengths(both, metric)),
        x="scans",
        y=metric,
        color="kind",
        error_y="up",
        error_y_minus="down",
        markers=True,
        log_x=True,
        category_orders={"kind": ["adapted", "unadapted"]},
        color_discrete_sequence=[LINES[BOTH]["color"], LINES["rgb"]["color"]],
    )
    highest = both.groupby("scans")[metric].max()
    (few, least), (every, most) = highest.iloc[[0, -1]].items()
    return figure.update_traces(hovertemplate="%{x} scans: %{y:.3f}<extra></extra>").update_layout(
        template=TEMPLATE,
        title={"text": f"{METRICS[metric]} with {few} scans: {least:.3f}, all {every}: {most:.3f}"},
        xaxis={
            "title": {"text": "good parts for training"},
            "tickvals": highest.index,
            "ticktext": highest.index.map(str),
        },
        yaxis={"title": {"text": f"{METRICS[metric]}, {MODES[BOTH]}"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "title": {"text": ""}},
    )


def selection_cells(lines: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Score on pseudo-defects and on the test split of each cell, and their rank correlation.

    Both are the mean of I-AUROC and AUPRO, of all three sources or, for a cell without
    disagreement, of RGB + 3D.
    """
    scored = lines[lines["selection"].notna() & lines["mode"].isin([ALL_THREE, BOTH])]
    # The longer name of all three comes before that of both.
    scored = scored.sort_values("mode", ascending=False).drop_duplicates("row")
    scored = scored.assign(test=(scored[AREA] + scored["aupro_30"]) / 2)
    found = scored.rename(columns={"row": "configuration"})[["configuration", "selection", "test"]]
    found = found.sort_values("selection", ascending=False)
    return found, rank_correlation(found["selection"].tolist(), found["test"].tolist())


def selection_figure(lines: pd.DataFrame) -> go.Figure:
    """Score on pseudo-defects against score on the test split, a dot for each cell."""
    found, correlation = selection_cells(lines)
    figure = px.scatter(found, x="selection", y="test", hover_name="configuration")
    said = f"Rank correlation {correlation:.2f} over {len(found)} configurations"
    return figure.update_traces(marker_size=10).update_layout(
        template=TEMPLATE,
        title={"text": said},
        xaxis={"title": {"text": "score on pseudo-defects of validation scans"}},
        yaxis={"title": {"text": "score on the test split"}},
    )
