"""Methods compared: accuracy, seconds and memory of each, and what was published of it."""

from __future__ import annotations

import html
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from pandas.io.formats.style import Styler

from lsfa_lib.config import OURS, PRESETS
from lsfa_lib.evaluation.bootstrap import AREA, verdict
from lsfa_lib.figures.names import METRICS, SHORT_MODES
from lsfa_lib.figures.style import LINES, TEMPLATE
from lsfa_lib.figures.tables import marked
from lsfa_lib.methods import find_method
from lsfa_lib.studies.published import COLUMNS, published_file
from lsfa_lib.studies.study_figures import BELOW
from lsfa_lib.studies.study_report import failures
from lsfa_lib.studies.study_table import StudyRuns, config_of, lead_lines, spread

DATASET = "mvtec3d"
LSFA_TABLES = "LSFA, tables 1 and 2"
NOT_RUN = "published, not run here"
ACCURACY = {AREA: METRICS[AREA], "aupro_30": METRICS["aupro_30"]}
PAPER = {AREA: "published I-AUROC", "aupro_30": "published AUPRO"}
FIRST = ["reads", ACCURACY[AREA], PAPER[AREA], ACCURACY["aupro_30"], PAPER["aupro_30"]]
"""Columns of a table of methods, accuracy beside what was published of it; then costs, `source`."""
CHANCE = 0.5
"""I-AUROC of random scores."""


def methods_table(study: StudyRuns, lines: pd.DataFrame, with_others: bool = True) -> Styler:
    """A row for each method: what it reads, accuracy with its interval, cost, published values.

    Published numbers are means over the ten categories of MVTec 3D-AD. Methods that are published
    but not run here, or whose package is not installed, have rows that say so; the first only
    `with_others`.
    """
    rows: dict[str, dict[str, str]] = {}
    values: dict[str, dict[str, float]] = {}
    published, covered = _published(), set[tuple[str, str]]()
    for line in lead_lines(lines):
        cell, mode = str(line["row"]), str(line["mode"])
        name = _published_name(study, cell)
        covered |= {(name, str(each)) for each in lines.loc[lines["row"] == cell, "mode"]}
        rows[cell] = {
            "reads": SHORT_MODES[mode],
            **{label: spread(line, metric) for metric, label in ACCURACY.items()},
            **(published.get((name, mode)) or _collected(name)),
            **{label: _digits(cost) for label, cost in costs(study, cell).items()},
        }
        values[cell] = {label: line[metric] for metric, label in ACCURACY.items()}
    for cell, why in study.about.unavailable.items():
        rows[cell] = {ACCURACY[AREA]: why}
    for (name, mode), row in published.items() if with_others else ():
        if (name, mode) not in covered:
            reads = SHORT_MODES[mode]
            rows.setdefault(f"{name}, {reads}", {"reads": reads, ACCURACY[AREA]: NOT_RUN, **row})
    named = dict.fromkeys(column for row in rows.values() for column in row)
    columns = [*FIRST, *(name for name in named if name not in (*FIRST, "source")), "source"]
    frame = pd.DataFrame(rows).T.reindex(columns=columns).fillna("–")
    caption = (
        "Means over categories and seeds with 95 % intervals. Median time per scan after a "
        "warm-up, measured with the first seed; loading and preparation are listed separately. "
        "Published: MVTec 3D-AD."
    )
    marks = pd.DataFrame(values).T.reindex(frame.index)
    return marked(frame.rename_axis(columns="method"), marks, caption=caption)


def costs(study: StudyRuns, cell: str) -> dict[str, float]:
    """Medians over the runs of a cell: seconds to learn, ms/scan by stage, MB; {} if not timed."""
    rows = []
    for result in study.of_cell(cell):
        if not result.get("cost"):
            continue
        seconds = result["cost"]["seconds"]
        learning = ("fit", "train adaptors", "finetune", "fit banks")
        rows.append(
            {
                "learn, s": sum(result["seconds"].get(stage, 0.0) for stage in learning),
                "load, ms": 1e3 * (seconds["read"] + seconds["prepare"]),
                "features, ms": 1e3 * sum(v for k, v in seconds.items() if "features" in k),
                "detect, ms": 1e3 * seconds["detect"],
                "MB": result["cost"]["memory_mb"],
            }
        )
    return {str(name): float(value) for name, value in pd.DataFrame(rows).median().items()}


def pareto_figure(study: StudyRuns, lines: pd.DataFrame, over: str = "ms") -> go.Figure:
    """I-AUROC of each method over `ms` per scan (features and detection) or `MB`.

    The line joins those whose interval lies above chance and that no other such method beats in
    both; they and the reference are named. Methods with failed runs are not compared.
    """
    points = _points(study, lines, over)
    whole = points["missing"] == 0
    compared = points[whole] if whole.any() else points
    better = compared[~(compared[f"{AREA}_low"] <= CHANCE)]
    best = better[better[AREA] > better[AREA].cummax().shift(fill_value=-1.0)]
    named = points["row"].isin([*best["row"], study.about.reference])
    figure = px.scatter(
        points.assign(text=points["row"].where(named, "").map(html.escape)),
        x="cost",
        y=AREA,
        error_y="above",
        error_y_minus="below",
        color=points["mode"].map(SHORT_MODES),
        color_discrete_map={SHORT_MODES[mode]: line["color"] for mode, line in LINES.items()},
        text="text",
        hover_name=points["row"].map(html.escape),
    )
    hover = "%{hovertext}<br>%{x:.3g} " + over + ", %{y:.3f}<extra></extra>"
    figure.update_traces(
        marker_size=10,
        textposition="top right",  # beside the interval
        hovertemplate=hover,
        error_y={"thickness": 1, "width": 3},
    )
    stairs = {"color": LINES["rgb+3d"]["color"], "width": 2, "shape": "hv"}
    front = {"x": best["cost"], "y": best[AREA], "mode": "lines", "line": stairs}
    figure.add_scatter(**front, showlegend=False, hoverinfo="skip")
    ends = np.log10(points["cost"].iloc[[0, -1]]) if len(points) else np.zeros(2)
    margin = 0.12 + 0.12 * float(np.ptp(ends))
    axis = {"type": "log", "range": [float(min(ends)) - margin, float(max(ends)) + margin]}
    names = " · ".join(best["row"].map(html.escape))
    title = f"No method is both cheaper and better than: {names}"
    return figure.update_layout(
        template=TEMPLATE,
        height=460,
        title={"text": title if names else "No method is better than chance"},
        xaxis={**axis, "title": {"text": "ms/scan" if over == "ms" else "MB in use"}},
        yaxis={"title": {"text": METRICS[AREA]}},
        legend=BELOW,
        margin={"b": 110},
    )


def _points(study: StudyRuns, lines: pd.DataFrame, over: str) -> pd.DataFrame:
    """The leading line of each timed method with its `cost`, cheapest first."""
    points = []
    for line in lead_lines(lines):
        cost = costs(study, str(line["row"]))
        if cost and not np.isnan(line[AREA]):
            spent = cost["features, ms"] + cost["detect, ms"] if over == "ms" else cost["MB"]
            low, high = (line.get(AREA + end, np.nan) for end in ("_low", "_high"))
            ends = {"above": high - line[AREA], "below": line[AREA] - low}
            points.append({**line, **ends, "cost": max(spent, 0.1)})
    columns = ["row", "mode", AREA, f"{AREA}_low", "missing", "cost", "above", "below"]
    frame = pd.DataFrame(points, columns=columns)
    return frame.sort_values(["cost", AREA], ignore_index=True)


def answer(study: StudyRuns, lines: pd.DataFrame) -> str:
    """How the methods compare, from the numbers, as Markdown."""
    found = [line for line in lead_lines(lines) if not np.isnan(line[AREA])]
    if not found:
        return "**No method has a finished run with a defined I-AUROC.**"
    # Means over other categories cannot be ranked.
    there = [line for line in found if not line["missing"]] or found
    highest = max(there, key=lambda line: line[AREA])
    said = [
        f"**{html.escape(highest['row'])} has the highest I-AUROC: {spread(highest, AREA)}.**\n"
    ]
    if mapped := [line for line in there if not np.isnan(line["aupro_30"])]:
        located = max(mapped, key=lambda line: line["aupro_30"])
        said.append(
            f"- {html.escape(located['row'])} locates defects best: AUPRO "
            f"{spread(located, 'aupro_30')}."
        )
    if len(ms := _points(study, lines, "ms")):
        light = _points(study, lines, "MB").iloc[0]
        said.append(
            f"- {html.escape(ms['row'][0])} is fastest, {ms['cost'][0]:.0f} ms/scan; "
            f"{html.escape(light['row'])} uses the least memory, {light['cost']:.0f} MB."
        )
    reference = html.escape(study.about.reference)
    for word, better in (("confirmed", "Better"), ("worse", "Worse")):
        rows = [html.escape(str(line["row"])) for line in found if verdict(line) == word]
        if rows:
            said.append(f"- {better} than {reference} beyond chance: {', '.join(rows)}.")
    # Lines without an interval cannot be told from chance either way.
    chance = [line["row"] for line in found if line.get(f"{AREA}_low", np.nan) <= CHANCE]
    if chance:
        names = ", ".join(map(html.escape, chance))
        said.append(f"- I-AUROC not above {CHANCE} beyond chance: {names}.")
    return "\n".join([*said, *failures(study)])


def _published_name(study: StudyRuns, cell: str) -> str:
    """What published tables call the cell's method; "" for a variant, which they do not have."""
    config = config_of(study, cell)
    usual = asdict(PRESETS.get(config["preset"], OURS).crossmodal)
    if config["shots"] or config["crossmodal"] != usual:
        return ""
    return find_method(config["method"]).published


def _published() -> dict[tuple[str, str], dict[str, str]]:
    """Published I-AUROC and AUPRO with their source, by method and mode: LSFA's tables 1 and 2."""
    ours = {name: metric for metric, name in COLUMNS.items()}
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in published_file("lsfa_mvtec3d_per_category"):
        if (metric := ours[row["metric"]]) in PAPER:
            own = found.setdefault((row["method"], row["modality"]), {"source": LSFA_TABLES})
            own[PAPER[metric]] = row["mean"]
    return found


def _collected(name: str) -> dict[str, str]:
    """The same of a method that LSFA's tables leave out, from its own paper."""
    for row in published_file("frontier"):
        if (row["dataset"], row["method"]) == (DATASET, name):
            numbers = {PAPER[metric]: f"{float(row[metric]):.3f}" for metric in PAPER}
            return {**numbers, "source": f"{row['venue']}, {row['provenance']}"}
    return {}


def _digits(value: Any) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
