"""The runs of a study as tables: means, how sure they are, and the published values.

A cell is one setting, run in every category with every seed. Cells are compared scan by scan with
the study's reference cell, see `bootstrap`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lsfa_lib.evaluation.bootstrap import AREA, verdict
from lsfa_lib.figures.findings import BOTH, Result, number
from lsfa_lib.figures.names import MODES
from lsfa_lib.storage.files import InputError, atomic_write, located
from lsfa_lib.storage.results import read_result
from lsfa_lib.storage.study_record import Key, StudyRecord, read_study
from lsfa_lib.studies.published import published_values
from lsfa_lib.studies.study_means import Means

METRICS = ("i_auroc", "aupro_30", "p_auroc")


@dataclass(frozen=True)
class StudyRuns:
    """What a sweep left: study.json and the result of every run that was finished."""

    about: StudyRecord
    results: dict[Key, Result]

    @property
    def cells(self) -> list[str]:
        """Cells with at least one finished run, in the study's order."""
        finished = {key[0] for key in self.results}
        return [cell for cell in self.about.cells if cell in finished]

    @property
    def modes(self) -> list[str]:
        """Modes that at least one run has, in the order of tables."""
        return [m for m in MODES if any(m in result["modes"] for result in self.results.values())]

    @property
    def lead(self) -> str:
        """The mode that the finding is about: RGB + 3D, or the first one of images without 3D."""
        return BOTH if BOTH in self.modes else self.modes[0]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One line for each finished run and mode: its numbers, seconds and memory."""
        folders = {run.key: run.folder for run in self.about.runs}
        return pd.DataFrame(
            [
                {
                    **dict(zip(("cell", "category", "seed", "point"), key, strict=True)),
                    "mode": mode,
                    **{n: number(v) for n, v in values.items() if v is None or _is_number(v)},
                    "seconds": sum(result["seconds"].values()),
                    "peak_memory_mb": result["peak_memory_mb"],
                    "folder": folders[key],
                }
                for key, result in self.results.items()
                for mode, values in result["modes"].items()
            ]
        )

    def of_cell(self, cell: str) -> list[Result]:
        """The results of a cell's finished runs."""
        return [result for key, result in self.results.items() if key[0] == cell]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def load(folder: Path | str) -> StudyRuns:
    """The study in `folder`, which is looked for in the checkout too.

    Raises InputError where it was not run, no run was finished, or two runs of a category were
    tested on different scans.
    """
    folder = located(Path(folder))
    path = folder / "study.json"
    if not path.exists():
        raise InputError(
            f"{path} is not a finished study; run `lsfa sweep` with its file in studies/"
        )
    about = read_study(path)
    done = [run for run in about.runs if run.done]
    if not done:
        raise InputError(f"{path}: none of its {len(about.runs)} runs was finished")
    results = {run.key: read_result(folder / run.folder / "result.json") for run in done}
    scans: dict[str, list[str]] = {}
    for (cell, category, *_), result in results.items():
        names = [scan["name"] for scan in result["scans"]]
        if (known := scans.setdefault(category, names)) != names:
            pairs = zip_longest(known, names)
            scan = next(a or b for a, b in pairs if a != b)
            raise InputError(
                f"{path}: runs of {category} were tested on different scans ({cell} differs from "
                f"{scan} on); sweep again with --force if the data changed, else leave out the "
                "cell, or the scan that it refuses"
            )
    return StudyRuns(about, results)


ENCODING = ("preprocess", "image_encoder", "point_encoder", "projection")
"""Parts of a config that decide on the features."""


def against(study: StudyRuns, reference: str, cells: tuple[str, ...]) -> StudyRuns:
    """The study with these cells alone, compared with another reference."""
    kept = {cell: study.about.cells[cell] for cell in (reference, *cells)}
    results = {key: result for key, result in study.results.items() if key[0] in kept}
    return StudyRuns(replace(study.about, cells=kept, reference=reference), results)


def table(study: StudyRuns, seed: int = 0) -> pd.DataFrame:
    """One line for each cell and mode: means over categories of the means over seeds.

    `<metric>_low` and `_high` are the 95 % interval, `_sd` the standard deviation over seeds.
    `d_<metric>` is the paired difference to the reference, for a trained cell `c_<metric>` to the
    control, in the same mode or, where the reference lacks it, in RGB + 3D; over the categories
    both were finished in.
    `published_<metric>` is the paper's value, `selection` the score on pseudo-defects. Means are
    over the categories finished with every seed, `runs` counts what is behind a line and `missing`
    what failed.
    """
    means = Means(study.about, study.results, seed)
    reference, control = study.about.reference, study.about.control
    lines = []
    for cell in study.cells:
        published = published_values(study.about.published, cell)
        judged = _is_judged(study, cell)
        bases = {"d": reference} | ({"c": control} if judged else {})
        for mode in study.modes:
            complete = means.complete(cell, mode)
            if not complete:
                continue
            line: dict[str, Any] = {"row": cell, "mode": mode, "runs": len(study.of_cell(cell))}
            line["is_control"], line["needs_control"] = cell == control, judged
            line["missing"] = len(study.about.categories) * means.count - line["runs"]
            other = mode if means.complete(reference, mode) else BOTH
            for metric in METRICS:
                line |= means.mean(metric, (cell, mode), complete)
                line[f"{metric}_sd"] = means.deviation(cell, mode, metric, complete)
                line[f"published_{metric}"] = published.get(metric, np.nan)
                for prefix, base in bases.items():
                    if (cell, mode) != (base, other) and base:
                        line |= means.difference(f"{prefix}_{metric}", (cell, mode), (base, other))
            line |= _selection(study, cell, mode, complete)
            lines.append(line)
    return pd.DataFrame(lines)


def _is_judged(study: StudyRuns, cell: str) -> bool:
    """True if the cell trains by LSFA's losses, on the features that the control has too.

    Also where the control was not finished: then a gain cannot be confirmed.
    """
    config, control = config_of(study, cell), study.about.control
    if not control:
        return False
    if control in study.cells:
        untrained = config_of(study, control)
        if any(config.get(part) != untrained.get(part) for part in ENCODING):
            return False
    training = config["training"]
    weighted = config.get("method", "lsfa") == "lsfa" and any(training["weights"].values())
    return weighted and bool(training["steps"] or training["epochs"])


def _selection(
    study: StudyRuns, cell: str, mode: str, categories: tuple[str, ...]
) -> dict[str, float]:
    """The mean of I-AUROC and AUPRO on pseudo-defects, over the cell's runs in these categories."""
    runs = [result for result in study.of_cell(cell) if result["category"] in categories]
    found = [result.get("selection") for result in runs]
    scores = [
        (number(each["i_auroc"][mode]) + number(each["aupro_30"][mode])) / 2
        for each in found
        if each and mode in each["i_auroc"]
    ]
    return {"selection": float(np.mean(scores))} if scores else {}


def finding(study: StudyRuns, lines: pd.DataFrame, mode: str = BOTH) -> str:
    """The study's result in one sentence, by I-AUROC in one mode."""
    name, reference = MODES[mode], study.about.reference
    there = records(lines[lines["mode"] == mode])
    compared = [line for line in there if verdict(line) not in ("", "control")]
    if not compared:
        return f"{name}: I-AUROC {spread(there[0], AREA)}" if there else f"{name}: no finished run"
    ordered = sorted(compared, key=lambda line: line[f"d_{AREA}"])
    better = [line for line in ordered if verdict(line) == "confirmed"]
    worse = [line for line in ordered if verdict(line) == "worse"]
    named = better[-1] if better else max(ordered, key=lambda line: abs(line[f"d_{AREA}"]))
    if better:
        beat = "beats" if len(better) == 1 else "beat"
        said = f"{len(better)} of {len(compared)} variants {beat} “{reference}” in {name}"
        said += f"; largest gain: {_gain(named)} I-AUROC"
    else:
        said = f"No variant beats “{reference}” in {name}"
        said += f" (largest difference: {_gain(named)} I-AUROC)"
    if worse and len(compared) > 1:
        said += f"; {len(worse)} of {len(compared)} worse"
        said += f", most {_gain(worse[0])}" if worse[0] is not named else ""
    return said


def _gain(line: dict[str, Any]) -> str:
    return f"{line['row']} {spread(line, f'd_{AREA}', '+.3f')}"


def spread(line: dict[str, Any], name: str, form: str = ".3f") -> str:
    """A value of a line with its interval: `0.934 [0.901, 0.960]`; a dash where there is none."""
    value, low, high = (line.get(name + end, np.nan) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "–"
    return f"{value:{form}}" + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def spreads(lines: pd.DataFrame, name: str, form: str = ".3f") -> list[str]:
    """`spread` of each line."""
    return [spread(line, name, form) for line in records(lines)]


def write_tables(folder: Path | str) -> str:
    """Writes runs.parquet, table.parquet and table.csv into the study's folder.

    Returns the study's finding, one sentence.
    """
    study, folder = load(folder), Path(folder)
    lines = table(study)
    if lines.empty:
        raise InputError(
            f"{folder}: no cell was finished in any category with every seed; see why its runs "
            "failed, and sweep it again"
        )
    with atomic_write(folder / "runs.parquet") as file:
        study.frame.to_parquet(file)
    with atomic_write(folder / "table.parquet") as file:
        lines.to_parquet(file)
    with atomic_write(folder / "table.csv") as file:
        lines.to_csv(file, index=False, float_format="%.6f")
    return finding(study, lines, study.lead)


def config_of(study: StudyRuns, cell: str) -> dict[str, Any]:
    """The config of a cell's runs, as result.json keeps it."""
    return study.of_cell(cell)[0]["config"]


def lead_lines(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """One line for each cell: RGB + 3D, or the one mode that a method of one modality has."""
    found: dict[str, dict[str, Any]] = {}
    for line in records(lines):
        if line["mode"] == BOTH or line["row"] not in found:
            found[line["row"]] = line
    return list(found.values())


def records(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines one by one."""
    return [{str(name): value for name, value in line.items()} for line in lines.to_dict("records")]
