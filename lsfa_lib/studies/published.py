"""The papers' numbers, from data/published of the checkout."""

from __future__ import annotations

import csv
from pathlib import Path

from lsfa_lib.storage.files import CHECKOUT, InputError

ABLATIONS = "lsfa_ablations"


def published_file(name: str) -> list[dict[str, str]]:
    """Rows of data/published/<name>.csv of the checkout, or of the working folder."""
    for folder in (CHECKOUT, Path()):
        path = folder / "data" / "published" / f"{name}.csv"
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
    raise InputError(f"data/published/{name}.csv was not found; run from the project's folder")
