"""report.html of new scans: what was found, the table, and the scans to look at, interactive."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import plotly.io
import torch

from lsfa_lib.deployment.inspector import (
    DEFECTIVE,
    GOOD,
    NOT_SCORED,
    UNLIKE,
    VERDICTS,
    Inspection,
    Inspector,
)
from lsfa_lib.figures.scan_figures import scan_figure
from lsfa_lib.pages.page import counted

Record = dict[str, Any]
MOST_FIGURES, MOST_ROWS = 12, 300


def figure_of(inspector: Inspector, found: Inspection) -> str:
    """The interactive view of a scan as plotly's JSON, its marked regions outlined."""
    sample, maps = found.sample, found.predictions
    assert sample is not None
    above = maps[inspector.mode].anomaly_map > inspector.pixel_threshold
    marked = replace(sample, defect=torch.logical_and(above, sample.valid))
    title = (
        f"<b>{html.escape(found.name)}</b>: {found.verdict}, score {found.score:.2f} "
        f"(threshold {found.threshold:.2f}), p = {found.p_value:.3f}"
    )
    figure = scan_figure(marked, maps, inspector.detector.surface, title, marks="marked regions")
    return str(plotly.io.to_json(figure, validate=False))


def write_report(
    folder: Path, records: Sequence[Record], inspector: Inspector, warning: str
) -> Path:
    """Writes report.html, one file that opens anywhere, from the records and their figures."""
    # Here, since nbconvert takes a second to import: the first verdict does not wait for it.
    from lsfa_lib.pages.report import render

    order = sorted(records, key=_urgency)
    cells = [_text_cell(_summary(records, inspector, warning)), _text_cell(_table(order))]
    scored = [r["scan"] for r in order if r["score"] is not None]
    paths = [folder / "figures" / f"{name}.json" for name in scored]
    if chosen := [path for path in paths if path.exists()][:MOST_FIGURES]:
        more = f", the first {len(chosen)} of {len(scored)}" if len(scored) > len(chosen) else ""
        cells.append(_text_cell(f"## Scans\n\nIn the order of the table{more}."))
        cells += map(_figure_cell, chosen)
    metadata = {"papermill": {"parameters": _provenance(inspector)}}
    notebook = {"nbformat": 4, "nbformat_minor": 4, "metadata": metadata, "cells": cells}
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "report.ipynb"
        path.write_text(json.dumps(notebook), encoding="utf-8")
        return render(path, folder / "report.html", plotly="inline")


def is_shown(record: Record, others: Sequence[Record]) -> bool:
    """Whether the report has an interactive view of this scan among the others."""
    before = [r for r in others if r["score"] is not None and r["scan"] != record["scan"]]
    return sum(_urgency(other) < _urgency(record) for other in before) < MOST_FIGURES


def _urgency(record: Record) -> tuple[int, float]:
    """Orders scans as a person should look at them."""
    return VERDICTS.index(record["verdict"]), -(record["score"] or 0.0)


def verdict_sentence(records: Sequence[Record]) -> str:
    """How many scans have which verdict."""
    count = Counter(record["verdict"] for record in records)
    parts = [f"{count[DEFECTIVE]} of {counted(len(records), 'scan')} defective"]
    parts += [f"{count[GOOD]} good"]
    parts += [f"{count[verdict]} {verdict}" for verdict in (UNLIKE, NOT_SCORED) if count[verdict]]
    return ", ".join(parts)


def _summary(records: Sequence[Record], inspector: Inspector, warning: str) -> str:
    lines = [
        f"# {inspector.origin.category}: inspection of {counted(len(records), 'scan')}\n",
        f"**{verdict_sentence(records).capitalize()}.** A scan is called defective if its score "
        f"exceeds {inspector.threshold:.2f}. {_sentence(inspector.promise)}",
    ]
    if warning:
        lines.append(f"\n**Drift:** {html.escape(warning)}.")
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _table(records: Sequence[Record]) -> str:
    """The rows as HTML, each scan linked to its overlay."""
    heads = ("scan", "verdict", "score", "p", "area, mm²", "largest at x, y, z, mm", "note")
    lines = ["## Table\n", '<div class="box"><table class="metrics"><thead><tr>']
    lines += [f"<th>{head}</th>" for head in heads]
    lines.append("</tr></thead><tbody>")
    lines += [_row(record) for record in records[:MOST_ROWS]]
    lines.append("</tbody></table></div>\n")
    if len(records) > MOST_ROWS:
        lines.append(f"\nThe first {MOST_ROWS} of {len(records)} rows; all are in scores.csv.")
    return "".join(lines)


def _row(record: Record) -> str:
    name, score = html.escape(record["scan"]), record["score"]
    if score is not None:
        address = quote(f"overlays/{record['scan']}.png")
        name = f'<a href="{address}">{name}</a>'
    largest = record["regions"][0] if record["regions"] else {}
    place = largest.get("centroid_mm")
    areas = [region["area_mm2"] for region in record["regions"] if region["area_mm2"]]
    cells = (
        name,
        record["verdict"],
        "–" if score is None else f"{score:.2f}",
        "–" if score is None else f"{record['p_value']:.3f}",
        f"{sum(areas):.1f}" if areas else "–",
        ", ".join(f"{value:.1f}" for value in place) if place else "–",
        html.escape(record["note"]),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _text_cell(source: str) -> dict[str, Any]:
    """A notebook's cell of Markdown."""
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _figure_cell(path: Path) -> dict[str, Any]:
    """A notebook's cell with a figure and no code."""
    from lsfa_lib.pages.notebook_html import PLOTLY

    figure = json.loads(path.read_text(encoding="utf-8"))
    output = {"output_type": "display_data", "metadata": {}, "data": {PLOTLY: figure}}
    code: dict[str, Any] = {
        "cell_type": "code",
        "metadata": {},
        "source": "",
        "execution_count": None,
    }
    return {**code, "outputs": [output]}


def _provenance(inspector: Inspector) -> dict[str, Any]:
    """How the page was made."""
    origin, config = inspector.origin, inspector.config
    return {
        "detector": f"{origin.category}, sha256 {inspector.sha256}",
        "preset": config.preset,
        "training scans": len(origin.train),
        "calibration scans": len(origin.calibration),
        "false-alarm rate wanted": config.detector.false_alarm_rate,
        "threshold": f"{config.detector.threshold}, {inspector.threshold:.4f}",
        "pixel threshold": round(inspector.pixel_threshold, 4),
        "fitted with": f"lsfa_lib {origin.versions['lsfa_lib']}",
    }
