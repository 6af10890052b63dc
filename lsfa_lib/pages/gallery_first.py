"""The gallery's first screen: a sentence, a turning cloud, a card for each product, studies."""

from __future__ import annotations

import base64
import html
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lsfa_lib.figures.findings import BOTH, counts, lead
from lsfa_lib.figures.names import MODES, mode_label
from lsfa_lib.figures.scan_images import TOP, level_of, shades
from lsfa_lib.figures.scan_strip import outcome_of
from lsfa_lib.pages.gallery_data import RunEntry
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.kept_maps import KeptScan, read_maps
from lsfa_lib.storage.study_record import StudyRecord

WIDTH, ROW, NAMES = 470, 22, 200
"""Of a study's figure, in pixels: all, a setting's row, and its names."""
NUMBERS = ("d_i_auroc", "d_i_auroc_low", "d_i_auroc_high")
"""Columns of a study's table: the difference in I-AUROC and its interval."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Product:
    """A category and the run that speaks for it."""

    entry: RunEntry
    found: int
    defective: int
    rejected: int
    good: int

    @property
    def share(self) -> float:
        """Of the defective parts, those found; 1 without one."""
        return self.found / self.defective if self.defective else 1.0


def products(entries: list[RunEntry]) -> list[Product]:
    """A run for each category: of `lsfa run` before those of sweeps, then of the settings with runs
    of the most categories, so that few settings are mixed, then the newest.

    The category of which most defects are found comes first.
    """
    of_settings: dict[str, set[str]] = {}
    for entry in entries:
        of_settings.setdefault(entry.key, set()).add(str(entry.result["category"]))

    def rank(entry: RunEntry) -> tuple[bool, int, str]:
        return _is_own(entry), len(of_settings[entry.key]), str(entry.result["created"])

    chosen = {str(entry.result["category"]): entry for entry in sorted(entries, key=rank)}
    found = [Product(entry, *counts(entry.result)) for entry in chosen.values()]
    return sorted(found, key=lambda p: (-p.share, p.entry.result["category"]))


def _is_own(entry: RunEntry) -> bool:
    return not entry.place.startswith("runs/sweep/")


def sentence(found: list[Product]) -> str:
    """How many defective parts are found and good ones rejected, over all products."""
    if not found:
        return ""
    sums = [sum(getattr(p, n) for p in found) for n in ("found", "defective", "rejected", "good")]
    modes = {lead(product.entry.result) for product in found}
    name = mode_label(modes.pop()) if len(modes) == 1 else "Each product's main score"
    many = f"{len(found)} products" if len(found) > 1 else str(found[0].entry.result["category"])
    return (
        f"{name} finds {sums[0]} of {sums[1]} defective parts of {many} and rejects {sums[2]} of "
        f"{sums[3]} good ones."
    )


def turning(found: list[Product], reports: Path) -> dict[str, Any] | None:
    """The cloud of the clearest detection among the scans that runs have kept, for a script.

    Points in steps of 1/2000 of their extent, a photo's colours and a map's, one byte a channel.
    """
    best: tuple[float, KeptScan, RunEntry] | None = None
    for product in found:
        result = product.entry.result
        mode = lead(result)
        scans = {s["name"]: s for s in result["scans"] if s["defective"]}
        for name, kept in _maps(reports / product.entry.place).items():
            if name in scans and outcome_of(scans[name], result) == "found":
                over = scans[name]["scores"][mode] / max(result["modes"][mode]["threshold"], 1e-6)
                if best is None or over > best[0]:
                    best = over, kept, product.entry
    if best is None:
        return None
    _, kept, entry = best
    scale = 1000 / np.abs(kept.points).max()
    rows, columns = kept.places.astype(int)
    score = shades(TOP + 1)[level_of(kept.anomaly, kept.good)[rows, columns]]
    return {
        "place": entry.place,
        "label": " ".join(kept.name.split("/")[::2]) + f" {kept.name.split('/')[-1]}",
        "points": _bytes(np.rint(kept.points * scale).astype("<i2")),
        "photo": _bytes(kept.photo[rows, columns]),
        "score": _bytes(score),
    }


def _maps(folder: Path) -> dict[str, KeptScan]:
    try:
        return read_maps(folder)
    except InputError as error:
        _log.warning("its cloud is not shown: %s", error)
        return {}


def _bytes(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def study_figure(study: StudyRecord) -> str:
    """Differences to the reference with their intervals as a small SVG.

    "" without a table, or with one that is damaged.
    """
    path = study.folder / "table.csv"
    if not path.exists():
        return ""
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(NUMBERS, float))
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        _log.warning("%s is damaged (%s); sweep the study again", path, error)
        return ""
    if not {"row", "mode", "d_i_auroc"} <= set(table.columns):
        return ""
    modes = [mode for mode in (BOTH, *MODES) if (table["mode"] == mode).any()]
    own = (
        table[table["mode"] == modes[0]].dropna(subset="d_i_auroc").head(12) if modes else table[:0]
    )
    if own.empty:
        return ""
    own = own.reindex(columns=["row", *NUMBERS])
    low = own["d_i_auroc_low"].fillna(own["d_i_auroc"])
    high = own["d_i_auroc_high"].fillna(own["d_i_auroc"])
    reach = max(0.02, float(np.abs([low, high]).max()) * 1.05)
    lines = zip(own["row"].astype(str), own["d_i_auroc"], low, high, strict=True)
    return _svg(list(lines), reach, study.reference)


def _svg(lines: list[tuple[str, float, float, float]], reach: float, reference: str) -> str:
    def x(value: float) -> float:
        return round(NAMES + (WIDTH - NAMES - 8) * (value / reach + 1) / 2, 1)

    rows = []
    for i, (name, value, low, high) in enumerate(lines):
        y = ROW * i + ROW // 2
        kind = "better" if low > 0 else "worse" if high < 0 else "open"
        short = html.escape(name if len(name) <= 34 else f"{name[:33]}…")
        rows.append(
            f'<g class="{kind}"><title>{html.escape(name)}: {value:+.3f} I-AUROC</title>'
            f'<text x="0" y="{y + 4}">{short}</text>'
            f'<line x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}"/>'
            f'<circle cx="{x(value)}" cy="{y}" r="4.5"/></g>'
        )
    bottom, zero = ROW * len(lines), x(0.0)
    about = html.escape(f"Difference in I-AUROC from “{reference}”")
    return (
        f'<svg class="gains" viewBox="0 0 {WIDTH} {bottom + 20}" role="img" aria-label="{about}">'
        f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="{bottom}"/>{"".join(rows)}'
        f'<text class="axis" x="{zero}" y="{bottom + 14}" text-anchor="middle">{about}</text></svg>'
    )
