"""What a page shows above and below its notebook: key numbers and provenance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nbformat

from lsfa_lib.config import flat
from lsfa_lib.figures.findings import (
    Result,
    counts,
    found_sentence,
    lead,
    settings,
    shown,
    training_sentence,
)
from lsfa_lib.figures.names import mode_label
from lsfa_lib.pages.page import day

Rows = list[tuple[str, str]]
_LOSSES = ("loss", "LA", "GA", "LC", "GC")


def run_head(result: Result) -> dict[str, Any]:
    """What the head of a run's page shows: its settings, its numbers in one mode, its counts."""
    preset, *rest = settings(result)
    mode = lead(result)
    shown_numbers = ("i_auroc", "i_auroc_interval", "aupro_30", "threshold")
    return {
        "eyebrow": [f"{preset} preset", *rest, f"seed {result['seed']}", day(result["created"])],
        "finding": f"{found_sentence(result, mode)}.",
        "mode": mode_label(mode),
        "run": {name: result["modes"][mode][name] for name in shown_numbers},
        "counts": counts(result),
        "random": [mode_label(m) for m, w in result["weights"].items() if w["random"]],
    }


def provenance(
    notebook: nbformat.NotebookNode, result: Result | None
) -> Iterator[tuple[str, Rows, bool]]:
    """(caption, rows, open at first) of the tables that say how the page came about."""
    parameters = notebook.metadata.get("papermill", {}).get("parameters", {})
    if parameters:
        yield "Parameters", _rows(parameters), True
    if result is None:
        return
    yield "Weights", _rows(result["weights"]), True
    machine = {
        **result["machine"],
        "commit": result["commit"] or "outside a checkout",
        "peak memory": f"{result['peak_memory_mb']:.0f} MB",
    }
    yield "Machine and code", _rows(machine), True
    training = _training(result)
    yield "Training", training, "note" in dict(training)
    drawn = {}
    if result["config"].get("shots"):
        drawn["drawn for training"] = [name.split("/")[-1] for name in result["train_scans"]]
    yield "Scans", _rows({**result["counts"], **drawn}), False
    yield "Seconds", [(k, f"{v:.1f}") for k, v in result["seconds"].items()], False
    yield "Configuration", _rows(result["config"]), False


def _training(result: Result) -> Rows:
    """Steps, first and last value of each loss, and notes on what deviated from the settings."""
    training = result.get("training")
    if not training:
        return [("adaptors", training_sentence(result))]
    history = training["history"]
    rows = [("steps", str(len(history)))]
    for term in _LOSSES:
        if values := [step[term] for step in history if term in step]:
            name = term if term == "loss" else f"loss {term}"
            rows.append((name, f"{values[0]:.4g} (first step), {values[-1]:.4g} (last step)"))
    return rows + [("note", note) for note in training["notes"]]


def _rows(values: dict[str, Any]) -> Rows:
    return [(name, shown(value)) for name, value in flat(values)]
