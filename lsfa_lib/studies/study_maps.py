"""The same test scans under every setting of a study, from the maps that its runs have kept."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from lsfa_lib.figures.comparator import Compared, comparator
from lsfa_lib.figures.findings import Result
from lsfa_lib.figures.scan_strip import outcome_of
from lsfa_lib.figures.tables import marked
from lsfa_lib.storage.kept_maps import KeptScan, read_maps
from lsfa_lib.studies.study_table import StudyRuns

MOST_SETTINGS, MOST_IMAGES = 20, 260
"""Of one page, which stays below 5 MB."""
RIGHT = ("found", "passed")


def side_by_side(study: StudyRuns) -> go.Figure | Markdown:
    """A figure to compare the settings on single scans, or a sentence on why there is none.

    Settings are the study's first ones, scans those that every run keeps: the first by name of each
    kind of defect and of the good ones, in turn of the categories, of the first seed. No score
    chooses any.
    """
    scans = compared_scans(study)
    if not scans:
        return Markdown(  # type: ignore[no-untyped-call]
            "The runs of this study were made before maps were kept, so that no scan can be shown "
            f"under every setting; `lsfa sweep studies/{html.escape(study.about.name)}.yaml "
            "--force` runs them again."
        )
    return comparator(scans, study.about.reference, changes_sentence(study))


def compared_scans(study: StudyRuns) -> list[Compared]:
    """The scans that the reference has kept, under every setting that kept them too."""
    cells = [study.about.reference, *(c for c in study.cells if c != study.about.reference)]
    cells = cells[:MOST_SETTINGS]
    by_category = [_of_category(study, category, cells) for category in study.about.categories]
    longest = max(map(len, by_category), default=0)
    turns = [own[i] for i in range(longest) for own in by_category if i < len(own)]
    kept = turns[: max(1, MOST_IMAGES // (2 * len(cells)))]
    return sorted(kept, key=lambda scan: scan.label)


def _of_category(study: StudyRuns, category: str, cells: list[str]) -> list[Compared]:
    maps: dict[str, dict[str, KeptScan]] = {}
    results: dict[str, Result] = {}
    trial = (category, study.about.seeds[0], 0)
    for run in study.about.runs:
        if run.done and run.cell in cells and run.key[1:] == trial:
            kept = read_maps(study.about.folder / run.folder)
            if kept:
                maps[run.cell], results[run.cell] = kept, study.results[run.key]
    first = maps.get(study.about.reference, {})
    return [_compared(name, maps, results) for name in first]


def _compared(
    name: str, maps: dict[str, dict[str, KeptScan]], results: dict[str, Result]
) -> Compared:
    category, _, kind, stem = name.split("/")
    return Compared(
        label=f"{category}, {kind} {stem}",
        kept={cell: kept[name] for cell, kept in maps.items() if name in kept},
        outcomes={cell: _outcome(result, name) for cell, result in results.items()},
    )


def _outcome(result: Result, name: str) -> str:
    return outcome_of(next(scan for scan in result["scans"] if scan["name"] == name), result)


def changes_sentence(study: StudyRuns) -> str:
    """How many verdicts on test scans differ in the setting where most do, over all its runs."""
    counts = {cell: changes(study, cell) for cell in study.cells}
    sums = {cell: own[["better", "worse", "scans"]].sum() for cell, own in counts.items()}
    cell = max(sums, key=lambda name: int(sums[name]["better"] + sums[name]["worse"]))
    better, worse, total = map(int, sums[cell])
    reference = html.escape(study.about.reference)
    if not better + worse:
        return f"No verdict differs from that of “{reference}”"
    return (
        f"Of {total} verdicts of “{reference}”, “{html.escape(cell)}” corrects {better} and turns "
        f"{worse} correct ones into errors"
    )


def changes_table(study: StudyRuns) -> Styler:
    """Verdicts that become right (+) and wrong (−) against the reference, by kind and category."""
    rows = {}
    for cell in study.cells:
        own = changes(study, cell)
        if cell != study.about.reference:
            named = [*own.groupby("kind"), *own.groupby("category"), ("all scans", own)]
            rows[cell] = {
                str(name): f"+{part['better'].sum()} −{part['worse'].sum()}" for name, part in named
            }
    caption = (
        f"+: scans judged correctly here but not under “{study.about.reference}”; −: the reverse."
    )
    return marked(pd.DataFrame.from_dict(rows, orient="index").fillna("–"), caption=caption)


def changes(study: StudyRuns, cell: str) -> pd.DataFrame:
    """A line for each labelled test scan of the cell's runs: `better` where the cell alone judges
    it right, `worse` where the reference alone does.
    """
    lines = []
    for (own, category, seed, point), result in study.results.items():
        base = study.results.get((study.about.reference, category, seed, point))
        if own != cell or base is None:
            continue
        for scan, before in zip(result["scans"], base["scans"], strict=True):
            if scan["defective"] is not None:
                now, then = outcome_of(scan, result) in RIGHT, outcome_of(before, base) in RIGHT
                line = {"category": category, "kind": scan["kind"], "scans": 1}
                lines.append({**line, "better": int(now > then), "worse": int(then > now)})
    return pd.DataFrame(lines, columns=["category", "kind", "scans", "better", "worse"])
