"""What a study's notebook shows: tables beside the paper's, figures, and an answer in sentences."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from lsfa_lib.config import flat
from lsfa_lib.evaluation.bootstrap import AREA, verdict
from lsfa_lib.figures.findings import BOTH, NAMES, PLACES, SHORT, number, shown
from lsfa_lib.figures.tables import marked
from lsfa_lib.records import MODALITIES
from lsfa_lib.studies.study_table import (
    METRICS,
    PUBLISHED,
    StudyRuns,
    config_of,
    finding,
    published_file,
    published_values,
    records,
    spread,
)


def comparison(study: StudyRuns, lines: pd.DataFrame, mode: str = BOTH) -> Styler:
    """The cells in one mode: value, difference to the reference, and the paper's where it has one.

    The paper's numbers are for RGB + 3D on MVTec 3D-AD with its backbones.
    """
    there = records(lines[lines["mode"] == mode])
    texts: dict[str, list[str]] = {}
    values: dict[str, list[float]] = {}
    for metric, name in METRICS.items():
        texts[name] = [spread(line, metric) for line in there]
        values[name] = [line[metric] for line in there]
        if metric != "p_auroc" and len(there) > 1:
            texts[f"Δ {name}"] = [spread(line, f"d_{metric}", "+.3f") for line in there]
        paper = [line[f"published_{metric}"] for line in there]
        if mode == BOTH and not np.all(np.isnan(paper)):
            texts[f"{name}, paper"] = [spread({"": v}, "") for v in paper]
            values[f"{name}, paper"] = paper
    rows = [str(line["row"]) for line in there]
    categories = _count(len(study.about["categories"]), "category", "categories")
    seeds = _count(len(study.about["seeds"]), "seed", "seeds")
    caption = (
        f"{NAMES[mode]}; means over {categories} and {seeds}, 95 % intervals; "
        f"Δ to {study.about['reference']}."
    )
    frame = pd.DataFrame(texts, rows).rename_axis(columns=NAMES[mode])
    return marked(frame, pd.DataFrame(values, rows), caption=caption)


def limits_table(study: StudyRuns, mode: str = BOTH) -> Styler:
    """AUPRO at every limit of the share of good pixels, exact and in the form papers print."""
    names = {
        "aupro_30": "30 %",
        "aupro_10": "10 %",
        "aupro_05": "5 %",
        "aupro_01": "1 %",
        "aupro_30_peer": "30 %, peer",
        "aupro_01_peer": "1 %, peer",
    }
    rows = {
        cell: {
            label: float(
                np.mean([_mean(study, cell, c, mode, m) for c in study.about["categories"]])
            )
            for m, label in names.items()
        }
        for cell in study.cells
    }
    frame = pd.DataFrame(rows).T
    return marked(frame, frame, caption=f"AUPRO, {NAMES[mode]}, by limit; means over categories.")


def cost_table(study: StudyRuns) -> Styler:
    """Seconds and memory of a run of each cell, means over categories and seeds."""
    stages = {
        "train": ("train adaptors", "finetune"),
        "fit banks": ("fit banks",),
        "predict": ("predict test",),
    }
    rows: dict[str, dict[str, float]] = {}
    for cell in study.cells:
        results = [result for key, result in study.results.items() if key[0] == cell]
        rows[cell] = {
            f"{name}, s": float(
                np.mean([sum(r["seconds"].get(s, 0.0) for s in parts) for r in results])
            )
            for name, parts in stages.items()
        }
        rows[cell]["largest bank, rows"] = max(
            float(shape[0]) for r in results for shape in r["banks"].values()
        )
    frame = pd.DataFrame(rows).T
    return marked(frame, frame.iloc[:, :0], digits=1)


def category_table(study: StudyRuns, metric: str, mode: str) -> Styler:
    """Every cell that answers in the mode by category, and the published methods beneath.

    Published numbers are the paper's for MVTec 3D-AD: they stand under a category where the data
    has one of that name, and as the mean over its ten categories.
    """
    categories = list(study.about["categories"])
    rows: dict[str, dict[str, float]] = {}
    for cell in study.cells:
        by_category = {c: _mean(study, cell, c, mode, metric) for c in categories}
        if np.isnan([*by_category.values()]).all():
            continue
        rows[f"{cell} (this run)"] = {
            **by_category,
            "mean": float(np.mean([*by_category.values()])),
        }
    for row in published_file("lsfa_mvtec3d_per_category"):
        if row["metric"] == PUBLISHED[metric] and row["modality"] == mode:
            known = {c: float(row[c]) if row.get(c) else np.nan for c in categories}
            rows[row["method"]] = {**known, "mean, published": float(row["mean"])}
    frame = pd.DataFrame(rows).T
    named = frame.rename_axis(columns=NAMES[mode])
    return marked(named, named, caption=f"{METRICS[metric]}; published: MVTec 3D-AD.")


def frontier_sets() -> list[str]:
    """The data sets that `frontier_table` knows."""
    return list(dict.fromkeys(row["dataset"] for row in published_file("frontier")))


def frontier_table(dataset: str) -> Styler:
    """What other papers report of a data set: `mvtec3d`, `eyecandies`, `mvtec3d_10shot`, ..."""
    rows = [row for row in published_file("frontier") if row["dataset"] == dataset]
    frame = pd.DataFrame(rows).set_index("method")
    shown = frame[["venue", *METRICS, "provenance"]].rename(columns=METRICS).replace("", "–")
    return marked(shown, shown.iloc[:, :0], caption=dataset)


def drift_table(study: StudyRuns) -> Styler:
    """How far training the backbones moved the features, and how many weights it trained."""
    rows: dict[str, dict[str, float]] = {}
    for cell in study.cells:
        found = [r["finetuned"] for key, r in study.results.items() if key[0] == cell]
        if tuned := [entry for entry in found if entry]:
            rows[cell] = {
                f"{what}, {NAMES[mode]}": float(np.mean([entry[name][mode] for entry in tuned]))
                for what, name in (("drift", "drift"), ("trained weights", "trainable"))
                for mode in MODALITIES
            }
    frame = pd.DataFrame(rows).T
    counts = [name for name in frame if str(name).startswith("trained")]
    return marked(frame.astype(dict.fromkeys(counts, int)), frame.iloc[:, :0])


def differences(study: StudyRuns) -> Styler:
    """The fields in which the cells differ."""
    configs = {cell: dict(flat(config_of(study, cell))) for cell in study.cells}
    names = list(dict.fromkeys(name for config in configs.values() for name in config))
    rows = {
        name: {cell: shown(config.get(name)) for cell, config in configs.items()}
        for name in names
        if name not in PLACES and len({str(c.get(name)) for c in configs.values()}) > 1
    }
    frame = pd.DataFrame(rows).T
    return marked(frame, frame.iloc[:, :0])


def _mean(study: StudyRuns, cell: str, category: str, mode: str, metric: str) -> float:
    """Mean over the seeds that were finished; NaN where there are none."""
    found = [
        number(result["modes"][mode][metric])
        for (name, where, _), result in study.results.items()
        if (name, where) == (cell, category) and mode in result["modes"]
    ]
    return float(np.mean(found)) if found else float("nan")


def answer(study: StudyRuns, lines: pd.DataFrame, mode: str = BOTH) -> str:
    """The study's question answered from its numbers, as Markdown."""
    reference = html.escape(str(study.about["reference"]))
    said = [f"**{html.escape(finding(study, lines, mode))}.**\n"]
    for line in records(lines[lines["mode"] == mode]):
        if word := verdict(line):
            word = "not confirmed here" if word.startswith("not confirmed") else word
            area, pro = (spread(line, f"d_{name}", "+.3f") for name in (AREA, "aupro_30"))
            cell = html.escape(str(line["row"]))
            said.append(
                f"- **{cell}**: {word}. I-AUROC {area}, AUPRO {pro} against "
                f"{reference}{_paper_gain(study, line)}."
            )
    failed = [run for run in study.about["runs"] if run["state"] != "done"]
    if failed:
        names = ", ".join(sorted({str(run["cell"]) for run in failed}))
        said.append(
            f"- {len(failed)} of {len(study.about['runs'])} runs failed ({html.escape(names)}): "
            "means are over the categories that were finished with every seed."
        )
    if len(study.about["seeds"]) == 1:
        said.append(
            "- One seed: intervals are over test scans alone; chance in training and coreset is "
            "not in them."
        )
    return "\n".join(said)


def _paper_gain(study: StudyRuns, line: dict[str, Any]) -> str:
    """The difference the paper reports between the two cells."""
    reference = published_values(study, study.about["reference"]).get(AREA, np.nan)
    gain = line[f"published_{AREA}"] - reference
    return "" if np.isnan(gain) else f"; the paper reports {gain:+.3f}"


def modes_sentence(study: StudyRuns, lines: pd.DataFrame) -> str:
    """How the reference cell does in each mode, as Markdown."""
    own = {line["mode"]: line for line in records(lines[lines["row"] == study.about["reference"]])}
    said = "; ".join(f"{SHORT[mode]} {spread(line, AREA)}" for mode, line in own.items())
    return f"- {html.escape(str(study.about['reference']))}, I-AUROC by source: {said}."


def _count(number_of: int, one: str, many: str) -> str:
    return f"{number_of} {one if number_of == 1 else many}"
