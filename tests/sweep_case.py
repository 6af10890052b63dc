"""A study whose runs take no time: its notebook puts numbers into a result that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import v4
from report_case import make_case

KERNEL = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}
PARAMETERS = """category: str = "a"  # of the data
seed: int = 0  # of the run
out: str = ""  # folder of the result
data_root: str = ""  # folder of the data
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
    """A study file in `folder` with its notebooks, its data and the result it starts from."""
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
