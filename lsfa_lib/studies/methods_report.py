"""Methods side by side: accuracy, seconds and memory of each, and what was published of it."""

from __future__ import annotations

import html
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from pandas.io.formats.style import Styler

from lsfa_lib.config import OURS, PRESETS
from lsfa_lib.evaluation.bootstrap import AREA, verdict
from lsfa_lib.figures.findings import SHORT
from lsfa_lib.figures.style import TEMPLATE
from lsfa_lib.figures.tables import marked
from lsfa_lib.methods.method import find_method
from lsfa_lib.studies.study_table import (
    PUBLISHED,
    StudyRuns,
    config_of,
    lead_lines,
    published_file,
    spread,
)

DATASET = "mvtec3d"
LSFA_TABLES = "LSFA, tables 1 and 2"
NOT_RUN = "published, not run here"
PAPER_AREA, PAPER_AUPRO = "published I-AUROC", "published AUPRO"


def methods_table(study: StudyRuns, lines: pd.DataFrame, with_others: bool = True) -> Styler:
    """A row a method: what it reads, accuracy with its interval, its cost, and the published value.

    Published numbers are means over the ten categories of MVTec 3D-AD. Methods that are published
    but not run here, or whose package is not installed, have rows that say so; the first only
    `with_others`.
    """
    texts: dict[str, dict[str, str]] = {}
    values: dict[str, dict[str, float]] = {}
    covered: set[tuple[str, str]] = set()
    for line in lead_lines(lines):
        cell, mode = str(line["row"]), str(line["mode"])
        cost, paper = costs(study, cell), _published(study, cell, mode)
        covered |= {(_name(study, cell), other) for other in SHORT}
        texts[cell] = {
            "reads": SHORT[mode],
            "I-AUROC": spread(line, AREA),
            "AUPRO 30 %": spread(line, "aupro_30"),
            **_as_text(paper),
            **{name: _digits(value) for name, value in cost.items()},
        }
        values[cell] = {"I-AUROC": line[AREA], "AUPRO 30 %": line["aupro_30"]}
    for cell, why in study.about.get("unavailable", {}).items():
        texts[cell] = {"I-AUROC": why}
    for row in _others(covered) if with_others else ():
        texts.setdefault(row.pop("name"), row)
    frame = pd.DataFrame(texts).T.reindex(columns=_columns(texts)).fillna("–")
    marks = pd.DataFrame(values).T.reindex(frame.index)
    caption = (
        "Means over categories and seeds with 95 % intervals; one scan's median time after a "
        "warm-up, with loading and preparation apart; published: MVTec 3D-AD."
    )
    return marked(frame.rename_axis(columns="method"), marks, caption=caption)


def _columns(texts: dict[str, dict[str, str]]) -> list[str]:
    """Accuracy beside what was published of it, then costs; where it stands in the end."""
    first = ["reads", "I-AUROC", PAPER_AREA, "AUPRO 30 %", PAPER_AUPRO]
    used = dict.fromkeys(name for row in texts.values() for name in row)
    return [*first, *(name for name in used if name not in (*first, "source")), "source"]


def costs(study: StudyRuns, cell: str) -> dict[str, float]:
    """Medians over the runs of a cell: seconds to learn, milliseconds a scan by part, MB."""
    found = [r for key, r in study.results.items() if key[0] == cell and r.get("cost")]
    if not found:
        return {}
    learning = [
        sum(
            s
            for stage, s in r["seconds"].items()
            if stage in ("fit", "train adaptors", "fit banks")
        )
        for r in found
    ]
    parts: dict[str, list[float]] = {"load, ms": [], "features, ms": [], "detect, ms": []}
    for result in found:
        seconds = result["cost"]["seconds"]
        parts["load, ms"].append(1e3 * (seconds["read"] + seconds["prepare"]))
        parts["features, ms"].append(1e3 * sum(v for k, v in seconds.items() if "features" in k))
        parts["detect, ms"].append(1e3 * seconds["detect"])
    medians = {name: float(np.median(times)) for name, times in parts.items()}
    memory = float(np.median([r["cost"]["memory_mb"] for r in found]))
    return {"learn, s": float(np.median(learning)), **medians, "MB": memory}


def pareto_figure(study: StudyRuns, lines: pd.DataFrame, over: str = "ms") -> go.Figure:
    """I-AUROC of each method over `ms` a scan (features and detection) or `MB`.

    The line joins the methods that no other beats in both; these and the reference are named.
    """
    points = []
    for line in lead_lines(lines):
        cost = costs(study, str(line["row"]))
        if cost and not np.isnan(line[AREA]):
            spent = cost["features, ms"] + cost["detect, ms"] if over == "ms" else cost["MB"]
            points.append((max(spent, 0.1), float(line[AREA]), str(line["row"]), str(line["mode"])))
    points.sort()
    best = [p for i, p in enumerate(points) if all(p[1] > other[1] for other in points[:i])]
    named = [*best, *(p for p in points if p[2] == study.about["reference"])]
    ends = np.log10([points[0][0], points[-1][0]]) if points else np.zeros(2)
    margin = 0.12 + 0.12 * float(ends[1] - ends[0])
    figure = go.Figure()
    figure.add_scatter(
        x=[p[0] for p in best],
        y=[p[1] for p in best],
        mode="lines",
        line={"color": "#009E73", "width": 2, "shape": "hv"},
        showlegend=False,
        hoverinfo="skip",
    )
    for mode in dict.fromkeys(p[3] for p in points):
        own = [p for p in points if p[3] == mode]
        figure.add_scatter(
            x=[p[0] for p in own],
            y=[p[1] for p in own],
            mode="markers+text",
            name=SHORT[mode],
            text=[html.escape(p[2]) if p in named else "" for p in own],
            hovertext=[html.escape(p[2]) for p in own],
            textposition=["top center" if p in best else "bottom center" for p in own],
            marker={"size": 10, "color": MODE_COLOURS.get(mode, "#6b7682")},
            hovertemplate="%{hovertext}<br>%{x:.3g} " + over + ", %{y:.3f}<extra></extra>",
        )
    names = " · ".join(html.escape(p[2]) for p in best)
    return figure.update_layout(
        template=TEMPLATE,
        height=460,
        title={"text": f"None is both cheaper and better than: {names}"},
        xaxis={
            "type": "log",
            "range": [float(ends[0]) - margin, float(ends[1]) + margin],
            "title": {"text": "ms a scan" if over == "ms" else "MB in use"},
        },
        yaxis={"title": {"text": "I-AUROC"}},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        margin={"b": 110},
    )


MODE_COLOURS = {"3d": "#0072B2", "rgb": "#D55E00", "rgb+3d": "#009E73"}


def answer(study: StudyRuns, lines: pd.DataFrame) -> str:
    """Which method to take, from the numbers, as Markdown."""
    there = [line for line in lead_lines(lines) if not np.isnan(line[AREA])]
    if not there:
        return "**No method has a finished run with a defined I-AUROC.**"
    best = max(there, key=lambda line: line[AREA])
    located = max(there, key=lambda line: line["aupro_30"])
    timed = {str(line["row"]): costs(study, str(line["row"])) for line in there}
    said = [
        f"**{html.escape(best['row'])} tells defective from good parts best: I-AUROC "
        f"{spread(best, AREA)}.**\n",
        f"- {html.escape(located['row'])} locates defects best: AUPRO "
        f"{spread(located, 'aupro_30')}.",
    ]
    both = {name: cost["features, ms"] + cost["detect, ms"] for name, cost in timed.items() if cost}
    if both:
        fastest, lightest = (
            min(both, key=both.__getitem__),
            min((name for name in timed if timed[name]), key=lambda name: timed[name]["MB"]),
        )
        said.append(
            f"- {html.escape(fastest)} is fastest, {both[fastest]:.0f} ms a scan; "
            f"{html.escape(lightest)} takes least memory, {timed[lightest]['MB']:.0f} MB."
        )
    reference = study.about["reference"]
    for word in ("confirmed", "worse"):
        rows = [str(line["row"]) for line in there if verdict(line) == word]
        if rows:
            better = "Better" if word == "confirmed" else "Worse"
            names = ", ".join(map(html.escape, rows))
            said.append(f"- {better} than {html.escape(reference)} beyond chance: {names}.")
    return "\n".join(said)


def _name(study: StudyRuns, cell: str) -> str:
    """What published tables call the cell's method; "" for a variant, which they do not have."""
    config = config_of(study, cell)
    usual = asdict(PRESETS.get(config["preset"], OURS).crossmodal)
    if config["shots"] or config["crossmodal"] != usual:
        return ""
    return find_method(config["method"]).published


def _published(study: StudyRuns, cell: str, mode: str) -> dict[str, float | str]:
    """Published I-AUROC and AUPRO of the cell's method, and where they stand."""
    name, found = _name(study, cell), dict[str, float | str]()
    for row in published_file("lsfa_mvtec3d_per_category"):
        if name and (row["method"], row["modality"]) == (name, mode) and row["mean"]:
            found |= {row["metric"]: float(row["mean"]), "source": LSFA_TABLES}
    for row in published_file("frontier"):
        if not found and name and (row["dataset"], row["method"]) == (DATASET, name):
            found = {"i_auroc": float(row["i_auroc"]), "aupro": float(row["aupro_30"])}
            found["source"] = f"{row['venue']}, {row['provenance']}"
    return found


def _as_text(paper: dict[str, Any]) -> dict[str, str]:
    names = {PAPER_AREA: "i_auroc", PAPER_AUPRO: PUBLISHED["aupro_30"]}
    shown = {name: f"{paper[key]:.3f}" for name, key in names.items() if key in paper}
    return shown | ({"source": str(paper["source"])} if "source" in paper else {})


def _others(covered: set[tuple[str, str]]) -> list[dict[str, str]]:
    """Published methods that no cell is, one row a method and modality."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in published_file("lsfa_mvtec3d_per_category"):
        key = row["method"], row["modality"]
        if key in covered or row["metric"] not in ("i_auroc", "aupro"):
            continue
        name = f"{row['method']}, {SHORT[row['modality']]}"
        own = rows.setdefault(key, {"name": name, "reads": SHORT[row["modality"]]})
        column = PAPER_AREA if row["metric"] == "i_auroc" else PAPER_AUPRO
        own |= {"I-AUROC": NOT_RUN, column: row["mean"], "source": LSFA_TABLES}
    return list(rows.values())


def _digits(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
