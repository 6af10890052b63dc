"""The studies of methods with TINY: swept, their pages looked into, a missing package told."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

from lsfa_lib.config import TINY, DataConfig
from lsfa_lib.figures.findings import SHORT
from lsfa_lib.studies import efficiency, methods_report, study_table
from lsfa_lib.studies.published import published_file
from lsfa_lib.studies.study import Choices, Study, read_studies
from lsfa_lib.studies.sweep import Swept, run_sweep

STUDIES = Path(__file__).parents[1] / "studies"
NAMES = ("methods", "crossmodal", "efficiency")


def small_studies(folder: Path, demo_root: Path) -> list[Study]:
    """The studies as they are, in one category with one seed and few shots."""
    shutil.copytree(STUDIES, folder)
    path = folder / "crossmodal.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for cell in values["cells"].values():
        cell |= {"shots": {10: 4, 5: 2}[cell["shots"]]} if "shots" in cell else {}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    choices = Choices("tiny", ("seal",), (0,), {"data.root": str(demo_root), "device": "cpu"})
    return [read_studies(folder / f"{name}.yaml", choices)[0] for name in NAMES]


@pytest.fixture(scope="module")
def swept(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Swept, Path]:
    """Reports of a sweep over all of them."""
    folder = tmp_path_factory.mktemp("methods")
    studies = small_studies(folder / "studies", demo_root)
    return run_sweep(studies, folder / "reports", workers=2), folder / "reports"


def test_no_run_and_no_page_fails(swept: tuple[Swept, Path]) -> None:
    found, reports = swept
    assert found.failures == {}
    for name in ("methods", "crossmodal"):
        assert (reports / "studies" / f"{name}-tiny" / "report.html").exists()
    (page,) = reports.glob("15_efficiency-seal-*/report.html")
    assert "Where does the time go?" in page.read_text(encoding="utf-8")


def test_the_table_has_every_method_and_every_published_number(
    swept: tuple[Swept, Path],
) -> None:
    study = study_table.load(swept[1] / "studies" / "methods-tiny")
    table = methods_report.methods_table(study, study_table.table(study)).data
    for cell in study.about["cells"]:
        assert re.match(r"0\.\d{3}|1\.000", table.loc[cell, "I-AUROC"]), cell
        assert float(table.loc[cell, "MB"]) > 0
        assert float(table.loc[cell, "detect, ms"]) > 0
    assert table.loc["PaDiM", "published I-AUROC"] == "0.764"
    assert table.loc["CFM", "published I-AUROC"] == "0.954"
    assert table.loc["CFM", "source"] == "CVPR 2024, secondary"
    for name in ("AST", "DifferNet", "3D-ST", "Voxel GAN"):
        rows = table[[str(row).startswith(name) for row in table.index]]
        assert len(rows) >= 1
        assert (rows["I-AUROC"] == "published, not run here").all()
    notebook = nbformat.read(swept[1] / "studies" / "methods-tiny" / "notebook.ipynb", 4)
    shown = " ".join(
        output.data.get("text/html", "") for c in notebook.cells for output in c.get("outputs", [])
    )
    for row in published_file("lsfa_mvtec3d_per_category"):
        assert row["method"].replace("&", "&amp;") in shown
        assert row["mean"] in shown
    for row in published_file("frontier"):
        assert row["method"] in shown and row["provenance"].split(";")[0] in shown


def test_a_variant_has_no_published_number(swept: tuple[Swept, Path]) -> None:
    study = study_table.load(swept[1] / "studies" / "crossmodal-tiny")
    table = methods_report.methods_table(study, study_table.table(study), with_others=False).data
    published = table["published I-AUROC"]
    assert published["CFM"] == published["a patch a pixel"] == "0.954"
    assert published["LSFA"] == "0.971"
    assert set(published.drop(["CFM", "a patch a pixel", "LSFA"])) == {"–"}


def test_the_line_joins_what_none_beats() -> None:
    cells = {"slow best": (9.0, 0.9), "fast": (1.0, 0.7), "beaten": (5.0, 0.6), "mid": (3.0, 0.8)}
    results = {
        (cell, "seal", 0): {
            "seconds": {"fit": 1.0},
            "modes": {"rgb": {}},
            "cost": {
                "seconds": {"read": 0.0, "prepare": 0.0, "detect": ms / 1e3},
                "memory_mb": 10 * ms,
            },
        }
        for cell, (ms, _) in cells.items()
    }
    study = study_table.StudyRuns({"cells": dict.fromkeys(cells), "reference": "beaten"}, results)
    lines = pd.DataFrame(
        [{"row": cell, "mode": "rgb", "i_auroc": area} for cell, (_, area) in cells.items()]
    )
    for over, scale in (("ms", 1), ("MB", 10)):
        line, points = methods_report.pareto_figure(study, lines, over).data
        np.testing.assert_allclose(line.x, [1 * scale, 3 * scale, 9 * scale])
        assert list(line.y) == [0.7, 0.8, 0.9]
        assert list(points.text) == ["fast", "mid", "beaten", "slow best"]
        assert points.name == SHORT["rgb"]


def test_a_missing_package_is_said_and_breaks_nothing(demo_root: Path, tmp_path: Path) -> None:
    """In a process that has no anomalib."""
    study = tmp_path / "two.yaml"
    study.write_text(
        "run: 00_quickstart\npage: 14_methods\nparameters: {scans: 1}\ncells:\n"
        "  Depth VM: {fields: {method: depth_vm, timed_scans: 1}}\n"
        "  PaDiM: {fields: {method: padim, timed_scans: 1}}\n"
    )
    script = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n == 'anomalib' else real(n, *a)\n"
        "sys.modules['anomalib'] = None\n"
        "from lsfa_lib.cli.app import main\n"
        f"sys.argv = ['lsfa', 'sweep', {str(study)!r}, '--preset', 'tiny', '--categories', 'seal',"
        f" '--seeds', '0', '--workers', '1', '--data', {str(demo_root)!r}, '--reports',"
        f" {str(tmp_path / 'reports')!r}]\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "PaDiM: anomalib is not installed; pip install 'lsfa_lib[anomalib]'" in ended.stdout
    folder = tmp_path / "reports" / "studies" / "two-tiny"
    about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert [run["cell"] for run in about["runs"]] == ["Depth VM"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "anomalib is not installed; pip install" in page


def test_lsfa_beside_cfm_is_compared_with_itself(swept: tuple[Swept, Path]) -> None:
    study = study_table.load(swept[1] / "studies" / "crossmodal-tiny")
    beside = study_table.against(study, "LSFA", ("CFM", "LSFA and CFM averaged"))
    lines = study_table.table(beside)
    assert set(lines["row"]) == {"LSFA", "CFM", "LSFA and CFM averaged"}
    both = lines[lines["mode"] == "rgb+3d"].set_index("row")
    for cell in ("CFM", "LSFA and CFM averaged"):
        difference = both.loc[cell, "i_auroc"] - both.loc["LSFA", "i_auroc"]
        assert both.loc[cell, "d_i_auroc"] == pytest.approx(difference)
    assert np.isnan(both.loc["LSFA", "d_i_auroc"])


def test_the_stages_of_a_scan_add_up(demo_root: Path, tmp_path: Path) -> None:
    config = replace(TINY, data=DataConfig(str(demo_root)), device="cpu", cache=str(tmp_path))
    table = efficiency.measure("seal", efficiency.candidates(config), scans=2)
    assert list(table.index) == [
        efficiency.OWN,
        "PatchCore, both",
        efficiency.CROSSMODAL,
        "CFM, a patch a pixel",
        "M3DM",
        efficiency.BRUTE,
    ]
    for _, row in table.iterrows():
        scored = row["features, 3D"] + row["features, RGB"] + row["detect"]
        assert row["frames/s"] == pytest.approx(1e3 / scored)
        assert row["MB"] > 0
    said = efficiency.answer(table)
    assert f"{table.loc[efficiency.OWN, 'detect']:.1f} ms a scan" in said
    sizes = efficiency.batches("seal", config, (1, 2))
    assert list(sizes.index) == [1, 2] and (sizes["ms a picture"] > 0).all()
    page = efficiency.numbers_table(table, config).to_html()
    # The least of each column, and the most frames.
    best = re.findall(r'class="[^"]*best[^"]*"[^>]*>\s*([^<]+?)\s*<', page)
    assert f"{table['detect'].min():.1f}" in best and f"{table['frames/s'].max():.1f}" in best
    assert "device cpu, cpu " in page
    assert f"{sizes.loc[2, 'ms a picture']:.1f}" in efficiency.batches_table(sizes).to_html()
