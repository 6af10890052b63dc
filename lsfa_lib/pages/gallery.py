"""The gallery of a reports folder, reports/index.html: every run, every study, side by side."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lsfa_lib.config import flat
from lsfa_lib.figures.findings import BOTH, SHORT, lead, shown, three_digits
from lsfa_lib.pages.gallery_data import (
    DAMAGE,
    Contents,
    Problem,
    RunEntry,
    StudyEntry,
    find_contents,
)
from lsfa_lib.pages.gallery_means import METRICS, blocks, modes
from lsfa_lib.pages.page import day, embedded_json, page_text, write_text

Exists = Callable[[str], bool]
"""Whether a page may link to a path below the reports folder."""
_KEPT = ("place", "category", "preset", "created", "studies", "about", "text", "values")


def write_index(reports: Path) -> Path:
    """Writes `reports/index.html` and returns its path.

    What is unfinished, damaged or of another version is listed with what to do about it.
    """
    path = reports / "index.html"
    write_text(path, index_page(find_contents(reports), lambda name: (reports / name).exists()))
    return path


def index_page(contents: Contents, exists: Exists) -> str:
    """The gallery as HTML; files that do not exist are not linked."""
    used = _used_in(contents.studies)
    entries, cards, problems = [], [], list(contents.problems)
    for entry in contents.runs:
        try:
            cards.append(_card(entry, used.get(entry.place, []), exists))
            entries.append(entry)
        except DAMAGE as error:
            problems.append(_garbled(entry, error))
    return page_text(
        "index.html.j2",
        ("base.css", "gallery.css"),
        ("gallery.js",),
        cards=cards,
        studies=[_study_card(study, exists) for study in contents.studies],
        pages=[(title, quote(f"{path.parent.name}/{path.name}")) for title, path in contents.pages],
        blocks=blocks(entries),
        metrics=METRICS,
        modes={mode: SHORT[mode] for mode in modes(entries)},
        lead=BOTH,
        problems=[text for _, text in problems],
        data=embedded_json(_data(cards)),
    )


def _garbled(entry: RunEntry, error: Exception) -> Problem:
    name = f"{entry.folder.parent.name}/{entry.folder.name}"
    return entry.place, f"{name}: result.json lacks or garbles {error}; run it again"


def _used_in(studies: list[StudyEntry]) -> dict[str, list[str]]:
    """Place of a run -> names of the studies that use it."""
    used: dict[str, list[str]] = {}
    for study in studies:
        for place in dict.fromkeys(run.place for run in study.runs):
            used.setdefault(place, []).append(study.name)
    return used


def _card(entry: RunEntry, studies: list[str], exists: Exists) -> dict[str, Any]:
    result, place = entry.result, entry.place
    category, preset = str(result["category"]), str(result["preset"])
    about = [entry.group, f"seed {result['seed']}"]
    date = day(result["created"])
    folder = entry.folder.parent.name
    return {
        "place": place,
        "category": category,
        "preset": preset,
        "created": str(result["created"]),
        "studies": studies,
        "about": " · ".join(about),
        "when": f"{date} · {folder}",
        "text": " ".join([category, *about, date, folder, *studies]).lower(),
        "random": any(weights["random"] for weights in result["weights"].values()),
        "values": {mode: _values(values) for mode, values in result["modes"].items()},
        "number": three_digits(result["modes"][lead(result)].get("i_auroc")),
        "first": [(mode, three_digits(v["i_auroc"])) for mode, v in result["modes"].items()],
        "settings": _settings(entry),
        "thumbnail": _link(f"{place}/thumbnail.png", exists),
        "page": _link(f"{place}/report.html", exists),
        "notebook": _link(f"{place}/notebook.ipynb", exists),
        "result": _link(f"{place}/result.json", exists),
    }


def _values(values: dict[str, Any]) -> list[float | None]:
    """The metrics in the order of METRICS, then the interval of I-AUROC."""
    found = [*map(values.get, METRICS.values()), *values["i_auroc_interval"]]
    return [None if value is None else round(float(value), 4) for value in found]


def _settings(entry: RunEntry) -> dict[str, str]:
    """What two runs may differ in: category, seed and weights, then the fields of the config."""
    result = entry.result
    named = {name: shown(result[name]) for name in ("category", "preset", "seed", "commit")}
    weights = {f"weights, {SHORT[m]}": shown(w["model"]) for m, w in result["weights"].items()}
    fields = {name: shown(value) for name, value in flat(result["config"]) if name != "preset"}
    return named | weights | fields


def _data(cards: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page's script needs; settings that all runs share are left out."""
    settings = [card["settings"] for card in cards]
    names = list(dict.fromkeys(name for own in settings for name in own))
    differing = [name for name in names if len({own.get(name, "–") for own in settings}) > 1]
    return {
        "metrics": METRICS,
        "modes": SHORT,
        "settings": differing,
        "runs": [
            {
                **{name: card[name] for name in _KEPT},
                "settings": [card["settings"].get(name, "–") for name in differing],
            }
            for card in cards
        ],
    }


def _study_card(study: StudyEntry, exists: Exists) -> dict[str, Any]:
    place = f"studies/{study.name}"
    counts = [
        _count(len(study.categories), "category"),
        _count(len(study.seeds), "seed"),
        f"{study.preset} preset",
        day(study.created),
    ]
    return {
        "name": study.name,
        "title": study.title,
        "finding": study.finding,
        "about": " · ".join(counts),
        "runs": _count(len(study.runs), "run"),
        "failed": len(study.failed),
        "page": _link(f"{place}/report.html", exists),
        "table": _link(f"{place}/table.csv", exists),
    }


def _count(number: int, word: str) -> str:
    """2 categories, 1 seed."""
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{number} {word if number == 1 else plural}"


def _link(place: str, exists: Exists) -> str:
    return quote(posixpath.normpath(place)) if exists(place) else ""
