"""The papers' numbers, from data/published of the checkout."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lsfa_lib.storage.files import CHECKOUT, InputError

ABLATIONS = "lsfa_ablations"
COLUMNS = {"i_auroc": "i_auroc", "aupro_30": "aupro", "p_auroc": "p_auroc"}
"""Of the papers' tables, by our metrics."""


def published_file(name: str) -> list[dict[str, str]]:
    """Rows of data/published/<name>.csv of the checkout, or of the working folder."""
    for folder in (CHECKOUT, Path()):
        path = folder / "data" / "published" / f"{name}.csv"
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
    raise InputError(f"data/published/{name}.csv was not found; run from the project's folder")


def published_values(about: dict[str, Any] | None, cell: str) -> dict[str, float]:
    """The paper's values of a study's cell, in RGB + 3D; empty where it names no table or row.

    `about` has the table's name, and rows by cell.
    """
    if about is None or cell not in about["rows"]:
        return {}
    for row in published_file(ABLATIONS):
        if (row["table"], row["setting"]) == (about["table"], about["rows"][cell]):
            return {ours: float(row[name]) for ours, name in COLUMNS.items() if row[name]}
    return {}
