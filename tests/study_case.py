"""Small studies: a made-up finished one, one whose runs take no time, and the project's, swept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import yaml
from nbformat import v4
from report_case import LSFA, make_case
from sklearn.metrics import roc_auc_score

from lsfa_lib.config import Config
from lsfa_lib.storage.results import as_json, write_result
from lsfa_lib.storage.study_record import StudyRecord
from lsfa_lib.studies.study import Choices, Study, read_studies

CATEGORIES = ("cap", "ring")
SEEDS = (0, 1)
DEFECTIVE = np.array([False] * 10 + [True] * 14)
LIFT = {"none": 0.0, "IFC": 2.0, "CLC": -0.9, "both": 0.05}
MODES = ("3d", "rgb", "rgb+3d")
SOURCE = Path(__file__).parents[1] / "studies"


def scores_of(
    category: str, cell: str, trial: int | tuple[int, int], mode: str, lift: float
) -> np.ndarray:
    """The scores of the reference, defective ones lifted; a little noise of the trial."""
    place = sum(map(ord, category)), MODES.index(mode) if mode in MODES else 3
    base = np.random.default_rng(place).normal(size=24) + 0.7 * DEFECTIVE
    noise = np.random.default_rng([*place, *np.atleast_1d(trial)]).normal(size=24)
    return base + 0.2 * noise + lift * DEFECTIVE


def write_results(
    folder: Path,
    lift: dict[str, float] = LIFT,
    failed: tuple[tuple[str, str, int], ...] = (),
    seeds: tuple[int, ...] = SEEDS,
    about: dict | None = None,
    configs: dict[str, Config] | None = None,
    categories: tuple[str, ...] = CATEGORIES,
    points: int = 1,
    disagreeing: tuple[str, ...] = (),
) -> Path:
    """Writes study.json and a result.json for each run; `folder` is the study's.

    The cells in `disagreeing` have a further mode, in which they are worse by 1.
    """
    runs = []
    for cell, seed, category, point in product(lift, seeds, categories, range(points)):
        name = f"{category}-{cell.replace('<', '_').replace('/', '_')}-s{seed}-p{point}"
        lost = (cell, category, seed) in failed
        run = {"cell": cell, "category": category, "seed": seed, "point": point}
        outcome = {"state": "failed" if lost else "done", "error": "InputError: no" if lost else ""}
        place = {"folder": f"../../runs/sweep/{name}", "seconds": 3.0, "reused": False}
        runs.append({**run, **outcome, **place})
        if not lost:
            modes = (*MODES, "rgb+3d+disagreement")[: 4 if cell in disagreeing else 3]
            found = _result(run, lift[cell], (configs or {}).get(cell, LSFA), modes, points)
            write_result(found, folder / place["folder"])
    study = {
        "schema": 1,
        "name": "parts",
        "title": "What does each part bring?",
        "preset": "demo",
        "page": "04_components",
        "categories": list(categories),
        "seeds": list(seeds),
        "cells": {cell: {"only": cell} for cell in lift},
        "grid": [{"bank.seed": point} for point in range(points)] if points > 1 else [{}],
        "reference": next(iter(lift)),
        "control": "",
        "published": {"table": "table4_components", "rows": {"none": "none", "both": "IFC+CLC"}},
        "unavailable": {},
        "runs": runs,
        "finding": "",
        "created": "2026-11-22T14:35:00+00:00",
        "wall_seconds": 12.0,
        **(about or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(study), encoding="utf-8")
    return folder


def record(cells: Iterable[str], reference: str = "") -> StudyRecord:
    """A study of these cells without any run."""
    return StudyRecord(
        folder=Path("studies/made-up"),
        name="made-up",
        title="Which?",
        preset="demo",
        finding="",
        created=datetime(2026, 11, 22, tzinfo=UTC),
        cells={cell: {} for cell in cells},
        categories=["seal"],
        seeds=[0],
        runs=[],
        reference=reference,
    )


def _result(
    run: dict[str, Any], gain: float, config: Config, names: tuple[str, ...], points: int
) -> dict[str, Any]:
    trial = (run["seed"], run["point"]) if points > 1 else run["seed"]
    modes, by_mode = {}, {}
    for i, mode in enumerate(names):
        lift = gain - (i == 3)
        by_mode[mode] = scores_of(run["category"], run["cell"], trial, mode, lift)
        modes[mode] = {
            "i_auroc": roc_auc_score(DEFECTIVE, by_mode[mode]),
            "aupro_30": 0.5 + 0.1 * gain + 0.01 * (run["seed"] + run["point"]) + 0.1 * i,
            "aupro_01": 0.2 - 0.01 * gain,
            "p_auroc": 0.9 if mode != "3d" else None,
            "threshold": 1.0,
        }
    scores = {mode: values["i_auroc"] - 0.1 for mode, values in modes.items()}
    return {
        "schema": 1,
        "category": run["category"],
        "preset": "demo",
        "seed": run["seed"],
        "created": "2026-11-22T14:35:00+00:00",
        "config": as_json(asdict(config)),
        "counts": {"train": config.shots or 32, "validation": 8},
        "finetuned": None,
        "modes": modes,
        "validation_scores": {mode: [-1.0, 0.0, 0.5, 2.5] for mode in names},
        "scans": [
            {
                "name": f"{run['category']}/test/{i:03}",
                "kind": ("stain", "dent")[i % 2] if DEFECTIVE[i] else "good",
                "defective": bool(DEFECTIVE[i]),
                "defect_percent": float(i) * DEFECTIVE[i],
                "scores": {mode: float(by_mode[mode][i]) for mode in names},
            }
            for i in range(24)
        ],
        "selection": {"i_auroc": scores, "aupro_30": scores} if config.pseudo_defects else None,
        "banks": {"3d": [100, 33], "rgb": [90, 152]},
        "seconds": {"train adaptors": 2.0, "fit banks": 1.0, "predict test": 4.0},
        "peak_memory_mb": 700.0,
    }


KERNEL = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}
PARAMETERS = """category: str = "a"  # of the data
seed: int = 0  # of the run
out: str = ""  # folder of the result
preset: str = ""  # name or file
fields: dict = {}  # of the config
template: str = ""  # a result to put the numbers into
value: float = 0.5  # I-AUROC of seed 0
pause: float = 0.0  # seconds a run takes
does: str = ""  # raise or kill, after the first cell"""
FIRST = """import json, os, signal, time
from pathlib import Path

with (Path(out) / "pids").open("a") as file:
    print(os.getpid(), file=file)
print("so far")"""
WORK = """time.sleep(pause)
if does == "raise":
    raise ValueError(f"no {value} <b>")
if does == "kill":
    os.kill(os.getpid(), signal.SIGKILL)"""
RESULT = """result = json.loads(Path(template).read_text())
result |= {"category": category, "seed": seed}
for numbers in result["modes"].values():
    numbers["i_auroc"] = value + seed / 100
Path(out, "result.json").write_text(json.dumps(result))"""
PAGE = """from lsfa_lib.studies.study_table import load

runs = load(study)
print(sorted(runs.cells), len(runs.results))"""


def write_study(folder: Path, cells: dict[str, Any], **fields: Any) -> Path:
    """A study file in `folder` with notebooks that take no time: they fill in a stored result."""
    folder.mkdir(parents=True, exist_ok=True)
    write_notebook(folder / "quick.ipynb", PARAMETERS, FIRST, WORK, RESULT)
    write_notebook(folder / "page.ipynb", 'study: str = ""  # its folder', PAGE)
    template = folder / "template.json"
    template.write_text(json.dumps(make_case(size=48, each=2).result), encoding="utf-8")
    study = {
        "title": "Does <i>it</i> help?",
        "run": "quick.ipynb",
        "page": "page.ipynb",
        "preset": "tiny",
        "cells": cells,
        **fields,
    }
    study["parameters"] = {"template": str(template), **study.get("parameters", {})}
    path = folder / f"{fields.pop('name', 'quick')}.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def write_notebook(path: Path, parameters: str, *cells: str) -> Path:
    """A notebook of these code cells, the first of them its parameters."""
    tagged = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    code = [v4.new_code_cell(source) for source in cells]
    nbformat.write(v4.new_notebook(cells=[tagged, *code], metadata=KERNEL), path)
    return path


KEPT = {
    "clc": ("none", "LA + GA"),
    "ifc": ("none", "LC + GC"),
    "adaptor": ("none", "one encoder layer", "linear"),
    "few_shot": ("all", "5 shots", "all, unadapted", "5 shots, unadapted"),
    "finetuning": ("frozen", "adaptor", "last block", "last 2 blocks"),
    "sensitivity": ("starting point", "temperature 0.03"),
    "methods": ("LSFA", "CFM", "PatchCore, RGB", "PaDiM", "Depth VM"),
    "crossmodal": ("CFM", "LSFA", "LSFA and CFM averaged", "CFM as third score"),
    "components_in_depth": ("baseline", "random control", "IFC + CLC"),
    "selection": ("starting point", "random control", "baseline"),
    "recipe": ("PatchCore, 224 px", "PatchCore, 672 px, contrast", "random control, 672 px"),
    "precision": ("float32", "bfloat16 for points"),
    "bank": ("10 % of the patches", "1 %"),
    # Those of demo 1 and of the real photographs are the same.
    "validity_demo2": (
        *("PatchCore, 224 px", "score by top fraction"),
        *("score by the maximum", "half the blur"),
    ),
}
"""Cells of the project's studies that are enough to look into their pages."""
STEPS = {
    "recipes": ("released", "published", "ours with LSFA"),
    "selection": ("starting point",),
}
"""Cells that train for two steps: their own number takes minutes."""
SMALLER: dict[str, dict[str, Any]] = {
    "precision": {"shots": 2, "timed_scans": 1, "point_encoder.groups": 32},
    "bank": {"only": "none"},
    "recipes": {"image_encoder.size": 192},
}
"""Parameters of studies whose runs would take minutes."""


def small_studies(folder: Path, demo_root: Path) -> Iterator[Study]:
    """The project's studies with TINY in one category, few cells, one seed and few shots each."""
    shutil.copytree(SOURCE, folder)
    for name, cells in KEPT.items():
        path = folder / f"{name}.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        values["cells"] = {cell: values["cells"][cell] for cell in cells}
        for cell in values["cells"].values():
            cell |= {"shots": 2} if "shots" in cell else {}
            cell |= {"timed_scans": 1} if "timed_scans" in cell else {}
            cell |= {"image_encoder.size": 192} if cell.get("image_encoder.size") else {}
        for points in values.get("grid", {}).values():
            del points[2:]
        rows = values.get("published", {}).get("rows", {})
        for cell in rows.keys() - values["cells"].keys():
            del rows[cell]
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    for name, cells in STEPS.items():
        path = folder / f"{name}.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for cell in cells:
            values["cells"][cell]["training.steps"] = 2
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    for name, parameters in SMALLER.items():
        path = folder / f"{name}.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        values.setdefault("parameters", {}).update(parameters)
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    choices = Choices("tiny", ("seal",), (0,), {"data.root": str(demo_root), "device": "cpu"})
    for name in (
        "paper",
        "methods",
        "crossmodal",
        "efficiency",
        "components_in_depth",
        "selection",
        "recipe",
        "precision",
        "bank",
    ):
        yield from read_studies(folder / f"{name}.yaml", choices)
    # Real photographs are not at hand: another product of the demo stands in, without its points.
    images = _images(folder.parent / "images", demo_root)
    for name, category, root in (
        ("demo1", "biscuit", demo_root),
        ("demo2", "seal", demo_root),
        ("real", "tire", images),
    ):
        fields = {**choices.fields, "data.root": str(root)}
        chosen = replace(choices, categories=(category,), fields=fields)
        yield from read_studies(folder / f"validity_{name}.yaml", chosen)


def _images(root: Path, demo_root: Path) -> Path:
    """Data of one category called tire: the biscuit of the demo without points."""
    ignore = shutil.ignore_patterns("xyz")
    shutil.copytree(demo_root / "biscuit", root / "tire", ignore=ignore)
    return root
