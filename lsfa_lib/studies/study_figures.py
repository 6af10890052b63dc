"""A study as figures: differences with their intervals, few shots, selection scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from lsfa_lib.evaluation.bootstrap import AREA, verdict
from lsfa_lib.figures.findings import BOTH
from lsfa_lib.figures.names import METRICS, MODES, SHORT_MODES
from lsfa_lib.figures.style import LINES, TEMPLATE
from lsfa_lib.selection.selection import rank_correlation
from lsfa_lib.studies.study_table import StudyRuns, config_of, records

NO_INTERVAL = "one seed, no interval"
COLOURS = {
    "confirmed": "#009E73",
    "worse": "#D55E00",
    "no better than untrained": "#E69F00",
    "not confirmed": "#8a94a0",
    "control": "#0072B2",
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
    several = found["kind"].nunique() > 1
    figure = px.scatter(
        found.assign(**reach(found, gain)),
        x=gain,
        y=found.index,
        color="kind",
        hover_name="label",
        error_x="up",
        error_x_minus="down",
        color_discrete_map=COLOURS,
    )
    figure.update_traces(marker_size=9, hovertemplate="%{hovertext}<br>%{x:+.3f}<extra></extra>")
    _write_labels(figure, found["label"])
    figure.add_vline(0.0, line={"width": 1, "dash": "dash", "color": "#6b7682"})
    # A single kind has no legend; on a phone each of several has a line of its own.
    below = 110 if several else 60
    return figure.update_layout(
        template=TEMPLATE,
        height=130 + below + 36 * len(found),
        title={"text": _gains_title(found, metric)},
        margin={"l": 16, "b": below},
        xaxis={"title": f"Change in {METRICS[metric]} from “{study.about.reference}”", "nticks": 6},
        yaxis={**NO_AXIS, "range": [len(found) - 0.5, -1]},
        legend=BELOW,
        showlegend=several,
    )


def _write_labels(figure: go.Figure, labels: Iterable[str]) -> None:
    """What stands at y = 0, 1, ...: above its line, as on a phone there is no room to the left."""
    for place, label in enumerate(labels):
        corner = {"x": 0, "xref": "paper", "xanchor": "left", "y": place, "yshift": 14}
        figure.add_annotation(text=label, showarrow=False, font={"size": 12}, **corner)


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


def reach(lines: pd.DataFrame, metric: str) -> dict[str, Any]:
    """How far the interval reaches above and below the mean."""
    ends = lines.reindex(columns=[f"{metric}_low", f"{metric}_high"])
    return {"up": ends.iloc[:, 1] - lines[metric], "down": lines[metric] - ends.iloc[:, 0]}


def shots_figure(study: StudyRuns, lines: pd.DataFrame, metric: str = AREA) -> go.Figure:
    """The metric over the number of training scans, a line for each kind of training."""
    both = lines[lines["mode"] == BOTH].copy()
    both["scans"] = [study.of_cell(cell)[0]["counts"]["train"] for cell in both["row"]]
    weights = [config_of(study, cell)["training"]["weights"] for cell in both["row"]]
    both["kind"] = ["adapted" if any(own.values()) else "unadapted" for own in weights]
    figure = px.line(
        both.sort_values("scans").assign(**reach(both, metric)),
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
