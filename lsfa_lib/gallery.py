"""The index of all runs: reports/index.html, from the result.json files below reports/runs."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from lsfa_lib.config_io import config_hash
from lsfa_lib.files import InputError, write_whole
from lsfa_lib.findings import BOTH, PLACES, SHORT, Result, flat, number, settings, three_digits
from lsfa_lib.results import read_result

METRICS = {"I-AUROC": "i_auroc", "AUPRO 30 %": "aupro_30"}
TERMS = (
    "Scans of MVTec 3D-AD are shown under CC BY-NC-SA 4.0 (MVTec Software GmbH). "
    "Scans of the generated demo data are this project's own, under its licence."
)
_TEMPLATES = Path(__file__).parent / "templates"
_environment = Environment(
    loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True)
class RunEntry:
    """A finished run as the index shows it."""

    folder: Path
    result: Result

    @property
    def group(self) -> str:
        """What its numbers follow from, in words: preset, image size, losses, shots, changes."""
        return ", ".join(settings(self.result))

    @property
    def key(self) -> str:
        """Equal for runs that may be averaged with each other: of one group and one config."""
        config = {n: v for n, v in flat(self.result["config"]) if n not in PLACES}
        return f"{self.group} ({config_hash(config)[:6]})"


def write_index(reports: Path) -> Path:
    """Writes `reports/index.html` and returns its path.

    A run that is unfinished, damaged or of another version is listed with what to do about it.
    """
    entries, problems = find_runs(reports)
    cards = []
    for entry in entries:
        try:
            cards.append((entry, _card(entry, reports)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(
                f"{_name(entry.folder)}: result.json lacks or garbles {error}; run it again"
            )
    path = reports / "index.html"
    write_page(
        path,
        "index.html.j2",
        cards=[card for _, card in cards],
        means=_means([entry for entry, _ in cards]),
        metrics=list(METRICS),
        modes=[SHORT[mode] for mode in _modes([entry for entry, _ in cards])],
        problems=problems,
        terms=TERMS,
    )
    return path


def find_runs(reports: Path) -> tuple[list[RunEntry], list[str]]:
    """Finished runs by folder name, and one sentence about each that is not."""
    entries, problems = [], []
    for folder in sorted(path for path in reports.glob("runs/*/*") if path.is_dir()):
        name = _name(folder)
        if (folder / "notebook-failed.ipynb").exists():
            problems.append(f"{name}: its last attempt failed; notebook-failed.ipynb says where")
        elif not (folder / "result.json").exists():
            problems.append(f"{name}: unfinished, it has no result.json; run it again")
        if not (folder / "result.json").exists():
            continue
        try:
            entries.append(RunEntry(folder, read_result(folder / "result.json")))
        except InputError as error:
            problems.append(str(error).replace(str(folder), name))
    return entries, problems


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fills a template of this package and writes it whole; all text is escaped."""
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    text = _environment.get_template(template).render(style=style, **values)
    with write_whole(path) as file:
        file.write_text(text, encoding="utf-8")


def day(created: str) -> str:
    """22 Nov 2026, from the time in result.json."""
    moment = datetime.fromisoformat(created)
    return f"{moment.day} {moment:%b %Y}"


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _card(entry: RunEntry, reports: Path) -> dict[str, Any]:
    result, folder = entry.result, entry.folder
    modes = result["modes"]
    about = [entry.group, f"seed {result['seed']}", day(result["created"]), folder.parent.name]
    picture = folder / "thumbnail.png"
    return {
        "category": str(result["category"]),
        "created": str(result["created"]),
        "auroc": _sortable(modes[BOTH]["i_auroc"]),
        "aupro": _sortable(modes[BOTH]["aupro_30"]),
        "text": " ".join([str(result["category"]), *about]).lower(),
        "about": " · ".join(about),
        "random": any(weights["random"] for weights in result["weights"].values()),
        "rows": [
            (SHORT.get(m, m), [three_digits(v[key]) for key in METRICS.values()], m == BOTH)
            for m, v in modes.items()
        ],
        "thumbnail": _data_uri(picture) if picture.exists() else "",
        "page": _link(folder / "report.html", reports),
        "notebook": _link(folder / "notebook.ipynb", reports),
        "result": _link(folder / "result.json", reports),
    }


def _means(entries: list[RunEntry]) -> list[dict[str, Any]]:
    """Two rows for each config: seeds are averaged first, then categories."""
    same: dict[str, list[RunEntry]] = {}
    for entry in entries:
        same.setdefault(entry.key, []).append(entry)
    groups = [runs[0].group for runs in same.values()]
    rows = []
    for key, runs in sorted(same.items()):
        categories: dict[str, list[Result]] = {}
        for entry in runs:
            categories.setdefault(entry.result["category"], []).append(entry.result)
        group = runs[0].group
        rows.append(
            {
                # The words of two configs may be equal: one of their names was given twice.
                "group": group if groups.count(group) == 1 else key,
                "runs": len(runs),
                "categories": len(categories),
                "rows": [
                    (label, [_cell(categories, mode, key) for mode in _modes(entries)])
                    for label, key in METRICS.items()
                ],
            }
        )
    return rows


def _modes(entries: list[RunEntry]) -> list[str]:
    """The modes that at least one run has, in the order of tables."""
    return [mode for mode in SHORT if any(mode in entry.result["modes"] for entry in entries)]


def _cell(categories: dict[str, list[Result]], mode: str, key: str) -> str:
    """Mean over categories of the mean over runs; a dash where a run has no such value."""
    values = [
        _mean(number(run["modes"].get(mode, {}).get(key)) for run in runs)
        for runs in categories.values()
    ]
    return three_digits(_mean(values))


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _sortable(value: float | None) -> float:
    return -1.0 if value is None else float(value)


def _link(path: Path, reports: Path) -> str:
    return quote(path.relative_to(reports).as_posix()) if path.exists() else ""


def _data_uri(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
