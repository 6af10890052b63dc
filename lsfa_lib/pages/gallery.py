"""The gallery of a reports folder, reports/index.html: every run and every study, comparable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from lsfa_lib.config import flat
from lsfa_lib.figures.findings import BOTH, lead, shown
from lsfa_lib.figures.names import SHORT_MODES, metric_label
from lsfa_lib.pages.gallery_data import DAMAGE, Contents, RunEntry, find_contents
from lsfa_lib.pages.gallery_first import products, sentence, study_figure, turning
from lsfa_lib.pages.gallery_means import METRICS, blocks, modes
from lsfa_lib.pages.page import day, embedded_json, page_text, write_text

Exists = Callable[[str], bool]
"""Whether a page may link to a path below the reports folder."""
_FOR_SCRIPT = ("place", "category", "preset", "created", "studies", "text", "values")


def write_index(reports: Path) -> Path:
    """Writes `reports/index.html` and returns its path.

    What is unfinished, damaged or of another version is listed with what to do about it.
    """
    path = reports / "index.html"
    contents = find_contents(reports)
    write_text(path, index_page(contents, lambda name: (reports / name).exists(), reports))
    return path


def index_page(contents: Contents, exists: Exists, reports: Path) -> str:
    """The gallery as HTML; files that do not exist are not linked."""
    entries, cards, problems = [], [], [text for _, text in contents.problems]
    used = {study.folder.name: {run.place for run in study.runs} for study in contents.studies}
    for entry in contents.runs:
        try:
            cards.append(_card(entry, [name for name in used if entry.place in used[name]]))
            entries.append(entry)
        except DAMAGE as error:
            name = entry.place.removeprefix("runs/")
            problems.append(
                f"{name}: result.json has a missing or invalid value ({error}); run it again"
            )
    shown = products(entries)
    labels = {metric: metric_label(metric) for metric in METRICS}
    return page_text(
        "index.html.j2",
        ("base.css", "gallery.css"),
        ("turning.js", "gallery.js"),
        cards=cards,
        sentence=sentence(shown),
        products=shown,
        cloud=turning(shown, reports),
        figures={study.folder: Markup(study_figure(study)) for study in contents.studies},
        contents=contents,
        pages=_by_title(contents.pages),
        link=lambda place: quote(place) if exists(place) else "",
        blocks=blocks(entries),
        metrics=labels,
        modes={mode: SHORT_MODES[mode] for mode in modes(entries)},
        lead=BOTH,
        problems=problems,
        data=embedded_json(_data(cards, labels)),
    )


def _by_title(pages: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """(name, address) of the pages that share a title; the name is its ending in brackets."""
    found: dict[str, list[tuple[str, str]]] = {}
    for title, place in pages:
        shared, _, name = title.removesuffix(")").rpartition(" (")
        found.setdefault(shared or title, []).append((name if shared else "Page", place))
    return found


def _card(entry: RunEntry, studies: list[str]) -> dict[str, Any]:
    result, place = entry.result, entry.place
    about = f"{entry.group} · seed {result['seed']}"
    when = f"{day(result['created'])} · {place.split('/')[1]}"
    category = str(result["category"])
    return {
        "place": place,
        "category": category,
        "preset": str(result["preset"]),
        "created": str(result["created"]),
        "studies": studies,
        "about": about,
        "when": when,
        "text": " ".join([category, about, when, *studies]).lower(),
        "random": any(weights["random"] for weights in result["weights"].values()),
        "values": {mode: _values(values) for mode, values in result["modes"].items()},
        "lead": lead(result),
        "settings": _settings(entry),
    }


def _values(values: dict[str, Any]) -> list[float | None]:
    """The metrics in the order of METRICS, then the interval of I-AUROC.

    Not rounded: rounded twice, a number could differ from that of the report.
    """
    return [*map(values.get, METRICS), *values["i_auroc_interval"]]


def _settings(entry: RunEntry) -> dict[str, str]:
    """In what two runs may differ: category, seed and weights, then the fields of the config."""
    result = entry.result
    named = {name: shown(result[name]) for name in ("category", "preset", "seed", "commit")}
    weights = {
        f"weights, {SHORT_MODES[m]}": shown(w["model"]) for m, w in result["weights"].items()
    }
    fields = {name: shown(value) for name, value in flat(result["config"]) if name != "preset"}
    return named | weights | fields


def _data(cards: list[dict[str, Any]], labels: dict[str, str]) -> dict[str, Any]:
    """What the page's script needs; settings that all runs share are left out."""
    settings = pd.DataFrame([card["settings"] for card in cards]).fillna("–")
    differing = settings.loc[:, settings.nunique() > 1]
    runs = [
        {name: card[name] for name in _FOR_SCRIPT} | {"settings": list(own)}
        for card, own in zip(cards, differing.to_numpy(), strict=True)
    ]
    return {"metrics": labels, "modes": SHORT_MODES, "settings": list(differing), "runs": runs}
