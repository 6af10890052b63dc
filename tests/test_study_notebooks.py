"""Every study of the paper with TINY: one sweep, then each page answers from its own numbers."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
import yaml

from lsfa_lib.studies import study_report, study_table
from lsfa_lib.studies.study import Choices, Study, read_studies
from lsfa_lib.studies.sweep import Swept, run_sweep

STUDIES = Path(__file__).parents[1] / "studies"
INCLUDED = yaml.safe_load((STUDIES / "paper.yaml").read_text(encoding="utf-8"))["include"]
NAMES = [Path(name).stem for name in INCLUDED]
ANSWERED = [name for name in NAMES if name not in ("data", "features", "qualitative")]
"""Studies with a page of their own; the others are the pages of their runs."""


def small_studies(folder: Path, demo_root: Path) -> list[Study]:
    """The studies as they are, in one category, with no more shots than it has scans."""
    shutil.copytree(STUDIES, folder)
    path = folder / "few_shot.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for cell in values["cells"].values():
        cell |= {"shots": {10: 4, 5: 2}[cell["shots"]]} if "shots" in cell else {}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    choices = Choices("tiny", ("seal",), (), {"data.root": str(demo_root), "device": "cpu"})
    return read_studies(folder / "paper.yaml", choices)


@pytest.fixture(scope="module")
def swept(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Swept, Path]:
    """Reports of a sweep over all of them."""
    folder = tmp_path_factory.mktemp("paper")
    studies = small_studies(folder / "studies", demo_root)
    assert [study.name for study in studies] == NAMES
    return run_sweep(studies, folder / "reports", workers=2), folder / "reports"


def test_the_paper_runs_every_notebook() -> None:
    studies = read_studies(STUDIES / "paper.yaml")
    found = {study.run.stem for study in studies} | {study.page for study in studies} - {""}
    there = {path.stem for path in (STUDIES.parent / "notebooks").glob("*.ipynb")}
    # One is live, one reads the cells of `lsfa study`, three are of other methods.
    others = {"13_crossmodal", "14_methods", "15_efficiency"}
    assert found == there - {"explore", "04_components_in_depth"} - others


def test_no_run_fails_and_equal_runs_are_run_once(swept: tuple[Swept, Path]) -> None:
    found, reports = swept
    assert found.failures == {}
    studies = [json.loads((f / "study.json").read_text(encoding="utf-8")) for f in found.folders]
    folders = {run["folder"] for study in studies for run in study["runs"]}
    there = list(reports.glob("runs/sweep/*/run.json"))
    assert len(folders) == len(there) < sum(len(study["runs"]) for study in studies)
    index = (reports / "index.html").read_text(encoding="utf-8")
    assert all(study["title"] in index for study in studies)


@pytest.mark.parametrize("name", ANSWERED)
def test_the_page_answers_from_the_tables(swept: tuple[Swept, Path], name: str) -> None:
    folder = swept[1] / "studies" / f"{name}-tiny"
    study = study_table.load(folder)
    lines = study_table.table(study)
    assert study.about["finding"] == study_table.finding(study, lines)
    assert list(study.about["cells"]) == study.cells
    notebook = nbformat.read(folder / "notebook.ipynb", 4)
    text = notebook.cells[-1].outputs[-1].data["text/markdown"]
    assert text == study_report.answer(study, lines)
    assert "One seed" in text and study.about["finding"] in text
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert study.about["title"] in page
    drawn = [o for c in notebook.cells for o in c.get("outputs", []) if "plotly" in str(o.data)]
    assert drawn and all(list(o.data) == ["application/vnd.plotly.v1+json"] for o in drawn)


@pytest.mark.parametrize("name", ["01_data", "02_features"])
def test_pages_without_numbers_stand_beside_the_studies(
    swept: tuple[Swept, Path], name: str
) -> None:
    (page,) = swept[1].glob(f"{name}-seal-*/report.html")
    (title,) = [s.title for s in read_studies(STUDIES / "paper.yaml") if s.run.stem == name]
    assert f"{title} (seal)" in page.read_text(encoding="utf-8")
    assert not (page.parent / "result.json").exists()
    index = (swept[1] / "index.html").read_text(encoding="utf-8")
    assert f'href="{page.parent.name}/report.html"' in index


def test_what_only_some_studies_show(swept: tuple[Swept, Path]) -> None:
    tuned = study_table.load(swept[1] / "studies" / "finetuning-tiny")
    drift = study_report.drift_table(tuned).data
    assert list(drift.index) == [c for c in tuned.cells if c not in ("frozen", "adaptor")]
    assert (drift["drift, 3D"] == 0).all() and (drift["drift, RGB"] > 0).all()
    blocks = drift["trained weights, RGB"]
    assert blocks["last block"] < blocks["last 2 blocks"] < blocks["last 3 blocks"]
    shots = study_table.load(swept[1] / "studies" / "few_shot-tiny")
    counts = [shots.results[cell, "seal", 0]["counts"]["train"] for cell in shots.cells]
    assert counts == [6, 4, 2, 6, 4, 2]
    recipes = study_table.load(swept[1] / "studies" / "recipes-tiny")
    fields = study_report.differences(recipes).data
    assert list(fields.loc["training.alignment"]) == ["infonce", "literal", "infonce"]
