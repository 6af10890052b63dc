"""Studies as a Markdown document: every number from their tables, none by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lsfa_lib.evaluation.bootstrap import AREA
from lsfa_lib.figures.findings import labelled
from lsfa_lib.figures.names import METRICS, MODES
from lsfa_lib.pages.page import counted
from lsfa_lib.storage.files import InputError, atomic_write
from lsfa_lib.studies.methods_report import costs
from lsfa_lib.studies.study_figures import selection_cells
from lsfa_lib.studies.study_report import answer, comparison, cost_table
from lsfa_lib.studies.study_table import StudyRuns, config_of, load, table

HEAD = """# {title}

Written by `{command}` from the runs of the studies, not by hand. Paired differences from the
reference with 95 % intervals: of I-AUROC by bootstrap over test scans, training seeds and coreset
seeds, of AUPRO and P-AUROC by Student's t over seeds only. Results hold for these categories only.
*Confirmed*: the interval of the difference from the reference lies above 0 and, in studies with a
random control, so does that of the difference from the control. About one in forty comparisons
would be confirmed by chance; there is no correction for multiple comparisons.
"""


def write_document(folders: Sequence[Path], path: Path) -> Path:
    """Writes a section for each study that has a table; returns the document's path.

    Raises InputError where none has.
    """
    studies = [load(folder) for folder in folders if (folder / "table.parquet").exists()]
    if not studies:
        raise InputError(f"{path}: no study has a table to write; see what failed above")
    with atomic_write(path) as file:
        file.write_text("\n".join(_document(studies, path)) + "\n", encoding="utf-8")
    return path


def _document(studies: list[StudyRuns], path: Path) -> Iterator[str]:
    title = studies[0].about.title if len(studies) == 1 else "How much each component contributes"
    yield HEAD.format(title=title, command=f"lsfa sweep STUDY --document {path.name}")
    tables = [(study, table(study)) for study in studies]
    for study, lines in tables:
        yield from _section(study, lines)
    yield "## The references\n"
    references = _references(tables).astype(object)
    known = references.where(references.notna(), None)
    yield known.to_markdown(floatfmt=".3f", missingval="–") + "\n"


def _section(study: StudyRuns, lines: pd.DataFrame) -> Iterator[str]:
    """What was run, the answer, the table of each mode, and what it costs."""
    about = study.about
    config = config_of(study, study.cells[0])
    encoders = f"{config['image_encoder']['model']} and {config['point_encoder']['model']}"
    size, colour = config["preprocess"]["image_size"], config["image_encoder"].get("size", 0)
    images = f", images {colour} px" if colour not in (0, size) else ""
    yield f"## {about.title} ({size} px{images})\n"
    finished = dict.fromkeys(key[1] for key in study.results)
    tests = ", ".join(f"{name} {_test_scans(study, name)}" for name in finished)
    points = len(about.grid)
    seeds = counted(len(about.seeds), "training seed") + f" x {points} coreset seeds" * (points > 1)
    yield f"Features: {encoders}. {seeds}. Test scans: {tests}.\n"
    yield answer(study, lines) + "\n"
    if "selection" in lines:
        found, correlation = selection_cells(lines)
        yield (
            "Configurations were scored on pseudo-defects of validation/good scans and on the test "
            f"split. Spearman's rank correlation over {len(found)} configurations: "
            f"{correlation:.2f}.\n"
        )
        yield found.to_markdown(index=False, floatfmt=".3f") + "\n"
    for mode in study.modes:
        compared: Any = comparison(study, lines, mode)
        yield f"{compared.caption}\n"
        yield compared.data.to_markdown() + "\n"
    runs = cost_table(study).data  # type: ignore[attr-defined]
    yield runs.to_markdown(floatfmt=".1f") + "\n"
    if timed := {cell: own for cell in study.cells if (own := costs(study, cell))}:
        yield "Seconds to learn, then time and memory of one scan: medians over the timed runs.\n"
        yield pd.DataFrame(timed).T.to_markdown(floatfmt=".1f") + "\n"


def _test_scans(study: StudyRuns, category: str) -> str:
    """`40 good + 60 defective`."""
    result = next(found for key, found in study.results.items() if key[1] == category)
    defective = [scan["defective"] for scan in labelled(result)]
    return f"{defective.count(False)} good + {defective.count(True)} defective"


def _references(tables: list[tuple[StudyRuns, pd.DataFrame]]) -> pd.DataFrame:
    """Each study's reference in every mode: what the image size alone contributes, say."""
    rows = {}
    for study, lines in tables:
        reference = study.about.reference
        size = config_of(study, study.cells[0])["preprocess"]["image_size"]
        own = lines[lines["row"] == reference].set_index("mode")
        rows[f"{study.about.name}, {size} px: {reference}"] = {
            f"{MODES[str(mode)]} {METRICS[metric]}": value
            for metric in (AREA, "aupro_30")
            for mode, value in own[metric].items()
        }
    return pd.DataFrame(rows).T
