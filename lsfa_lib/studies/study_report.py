"""What a study's page shows: tables next to the paper's, and an answer in sentences."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from lsfa_lib.config import flat
from lsfa_lib.evaluation.bootstrap import AREA, verdict
from lsfa_lib.figures.findings import BOTH, PLACES, shown
from lsfa_lib.figures.names import METRICS, MODES, SHORT_MODES, metric_label
from lsfa_lib.figures.tables import marked
from lsfa_lib.pages.page import counted
from lsfa_lib.records import MODALITIES
from lsfa_lib.studies import study_table
from lsfa_lib.studies.published import COLUMNS, published_file, published_values
from lsfa_lib.studies.study_table import StudyRuns, config_of, finding, records, spread, spreads

STAGES = {
    "train, s": ("fit", "train adaptors", "finetune"),
    "fit banks, s": ("fit banks",),
    "predict, s": ("predict test",),
}
"""Columns of costs, and the stages of a run that they add up."""
SELECTION = """## Can settings be chosen without the test split?

Each configuration was also scored on pseudo-defects, drawn on validation/good scans. A useful score
orders the configurations as the test split does."""


def comparison(study: StudyRuns, lines: pd.DataFrame, mode: str = BOTH) -> Styler:
    """The cells in one mode: value, difference to the reference, the paper's value; best marked.

    The paper's numbers are for RGB + 3D on MVTec 3D-AD with its backbones.
    """
    about, own = study.about, lines[lines["mode"] == mode].set_index("row")
    frame = pd.DataFrame(index=list(own.index))
    values = pd.DataFrame(index=frame.index)
    for metric in study_table.METRICS:
        name = METRICS[metric]
        frame[name], values[name] = spreads(own, metric), own[metric]
        if metric != "p_auroc":
            frame[f"Δ {name}"] = spreads(own, f"d_{metric}", "+.3f")
        if metric == AREA:
            frame["by I-AUROC"] = [verdict(line) or "–" for line in records(own)]
        if mode == BOTH:
            frame[f"{name}, paper"] = spreads(own, f"published_{metric}")
            values[f"{name}, paper"] = own[f"published_{metric}"]
    frame["Δ I-AUROC to control"] = spreads(own, "c_i_auroc", "+.3f")
    frame["selection"] = spreads(own, "selection")
    always = frame.columns.isin([METRICS[metric] for metric in study_table.METRICS])
    frame = frame.loc[:, always | (frame != "–").any()].rename_axis(columns=MODES[mode])
    lacking = (lines.loc[lines["row"] == about.reference, "mode"] != mode).all()
    points = f", {len(about.grid)} points of the grid" if len(about.grid) > 1 else ""
    caption = (
        f"{MODES[mode]}; means over {counted(len(about.categories), 'category')} and "
        f"{counted(len(about.seeds), 'seed')}{points}, 95 % intervals; "
        f"Δ: difference from “{about.reference}”{f' in {MODES[BOTH]}' if lacking else ''}."
    )
    return marked(frame, values[[*frame.columns.intersection(values.columns)]], caption=caption)


def limits_table(study: StudyRuns, mode: str = BOTH) -> Styler:
    """AUPRO at every limit of the share of good pixels, exact and as MVTec's code computes it."""
    names = [name for name in METRICS if name.startswith("aupro")]
    found = study.frame[study.frame["mode"] == mode].groupby(["cell", "category"])[names].mean()
    frame = _in_order(study, found.groupby("cell").mean())
    frame = frame.rename(columns=metric_label)
    return marked(frame, frame, caption=f"{MODES[mode]}; means over categories.")


def cost_table(study: StudyRuns) -> Styler:
    """Seconds of a run of each cell by stage, means over its runs; its largest bank and memory."""
    rows: dict[str, dict[str, Any]] = {}
    for cell in study.cells:
        results = study.of_cell(cell)
        banks = [shape[0] for r in results for shape in r["banks"].values()]
        rows[cell] = {
            **{
                name: np.mean([sum(r["seconds"].get(s, 0.0) for s in parts) for r in results])
                for name, parts in STAGES.items()
            },
            "memory bank, patches": f"{max(banks):,}" if banks else "–",
            "peak memory, MB": f"{max(r['peak_memory_mb'] for r in results):,.0f}",
        }
    return marked(pd.DataFrame.from_dict(rows, orient="index"), digits=1)


def category_table(study: StudyRuns, metric: str, mode: str) -> Styler:
    """Every cell that answers in the mode by category, and the published methods beneath.

    Published numbers are the paper's for MVTec 3D-AD: they stand under a category where the data
    has one of that name, and as the mean over its ten categories.
    """
    categories = study.about.categories
    found = study.frame[study.frame["mode"] == mode]
    frame = found.pivot_table(values=metric, index="cell", columns="category", sort=False)
    frame = _in_order(study, frame).reindex(columns=categories)
    frame["mean"] = frame.mean(axis=1, skipna=False)
    frame.index = [f"{cell} (this run)" for cell in frame.index]
    for row in published_file("lsfa_mvtec3d_per_category"):
        if row["metric"] == COLUMNS[metric] and row["modality"] == mode:
            known = {c: float(row[c]) for c in categories if row.get(c)}
            known["mean, published"] = float(row["mean"])
            frame = pd.concat([frame, pd.DataFrame(known, [row["method"]])])
    named = frame.rename_axis(columns=MODES[mode])
    return marked(named, named, caption=f"{METRICS[metric]}; published: MVTec 3D-AD.")


def _in_order(study: StudyRuns, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame's rows in the order of the study's cells."""
    order = [cell for cell in study.cells if cell in frame.index]
    return frame.loc[order].rename_axis(index=None, columns=None)


def frontier_sets() -> list[str]:
    """The data sets that `frontier_table` knows."""
    return list(dict.fromkeys(row["dataset"] for row in published_file("frontier")))


def frontier_table(dataset: str) -> Styler:
    """What other papers report of a data set: `mvtec3d`, `eyecandies`, `mvtec3d_10shot`, ..."""
    rows = [row for row in published_file("frontier") if row["dataset"] == dataset]
    names = {metric: METRICS[metric] for metric in study_table.METRICS}
    frame = pd.DataFrame(rows).set_index("method")[["venue", *names, "provenance"]]
    frame = frame.rename(columns=names).replace("", "–")
    return marked(frame, caption=dataset)


def drift_table(study: StudyRuns) -> Styler:
    """How far training the backbones moved the features, and how many weights it trained."""
    rows: dict[str, dict[str, float]] = {}
    for cell in study.cells:
        if tuned := [entry for r in study.of_cell(cell) if (entry := r["finetuned"])]:
            rows[cell] = {
                f"{what}, {MODES[mode]}": float(np.mean([entry[name][mode] for entry in tuned]))
                for what, name in (("drift", "drift"), ("trained weights", "trainable"))
                for mode in MODALITIES
            }
    frame = pd.DataFrame(rows).T
    numbers = [name for name in frame if str(name).startswith("trained")]
    return marked(frame.astype(dict.fromkeys(numbers, int)))


def differences(study: StudyRuns) -> Styler:
    """The fields in which the cells differ."""
    frame = pd.DataFrame({cell: dict(flat(config_of(study, cell))) for cell in study.cells})
    frame = frame.drop(index=[*PLACES], errors="ignore").map(shown)
    frame = frame[frame.nunique(axis=1) > 1]
    return marked(frame)


def answer(study: StudyRuns, lines: pd.DataFrame, mode: str = BOTH) -> str:
    """The study's question answered from its numbers, as Markdown."""
    reference = html.escape(study.about.reference)
    said = [f"**{html.escape(finding(study, lines, mode))}.**\n"]
    for line in records(lines[lines["mode"] == mode]):
        if word := verdict(line):
            area, pro = (spread(line, f"d_{name}", "+.3f") for name in (AREA, "aupro_30"))
            cell = html.escape(str(line["row"]))
            said.append(
                f"- **{cell}**: {word}. I-AUROC {area}, AUPRO {pro}{_of_maps(line, word)} compared "
                f"with “{reference}”{_paper_gain(study, line)}."
            )
    said += failures(study)
    if len(study.about.seeds) * len(study.about.grid) == 1:
        said.append(
            "- One seed: intervals cover the choice of test scans only, not chance in training and "
            "coreset."
        )
    return "\n".join(said)


def failures(study: StudyRuns) -> list[str]:
    """A sentence on the runs that failed, if any, as Markdown."""
    if not (failed := study.about.failed):
        return []
    names = ", ".join(sorted({run.cell for run in failed}))
    return [
        f"- {len(failed)} of {len(study.about.runs)} runs failed ({html.escape(names)}): "
        "means are over the categories that were finished with every seed."
    ]


def _of_maps(line: dict[str, Any], word: str) -> str:
    """What AUPRO's intervals say, where it is not what those of I-AUROC say."""
    other = verdict(line, "aupro_30")
    return f" ({other})" if other and other != word else ""


def _paper_gain(study: StudyRuns, line: dict[str, Any]) -> str:
    """The difference the paper reports between the two cells."""
    published = published_values(study.about.published, study.about.reference)
    gain = line[f"published_{AREA}"] - published.get(AREA, np.nan)
    return "" if np.isnan(gain) else f"; the paper reports {gain:+.3f}"


def modes_sentence(study: StudyRuns, lines: pd.DataFrame) -> str:
    """How the reference cell does in each mode, as Markdown."""
    reference = study.about.reference
    own = records(lines[lines["row"] == reference])
    said = "; ".join(f"{SHORT_MODES[line['mode']]} {spread(line, AREA)}" for line in own)
    return f"- {html.escape(reference)}, I-AUROC by source: {said}."
