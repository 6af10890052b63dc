"""The project's studies with TINY: one sweep over all, then each page answers from its numbers."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from study_case import SOURCE, record

from lsfa_lib.config import TINY, DataConfig, configure
from lsfa_lib.figures import findings
from lsfa_lib.figures.names import SHORT_MODES
from lsfa_lib.pipeline import run_category
from lsfa_lib.storage.results import read_result
from lsfa_lib.studies import (
    efficiency,
    methods_report,
    study_report,
    study_table,
    validity,
    validity_report,
)
from lsfa_lib.studies.published import published_file
from lsfa_lib.studies.study import Study, read_studies
from lsfa_lib.studies.study_runs import runs_of
from lsfa_lib.studies.sweep import Swept

pytestmark = pytest.mark.slow
Small = tuple[dict[str, Study], Swept]
PAGES = {path.stem for path in SOURCE.glob("*.yaml")} - {
    *("paper", "in_depth", "methods_more"),
    *("data", "features", "walkthrough", "qualitative", "efficiency"),
    *("validity", "validity_demo1", "validity_demo2"),
}
"""Studies with a page of their own that are swept here; others are the pages of their runs."""
DEMOS = {"demo 1": "validity_demo1", "demo 2": "validity_demo2"}


def folder_of(swept: Small, name: str) -> Path:
    return swept[1].index.parent / "studies" / f"{name}-tiny"


def read(swept: Small, name: str) -> tuple[study_table.StudyRuns, pd.DataFrame]:
    study = study_table.load(folder_of(swept, name))
    return study, study_table.table(study)


def test_the_paper_runs_every_notebook() -> None:
    studies = read_studies(SOURCE / "paper.yaml")
    found = {study.notebook.stem for study in studies} | {study.page for study in studies} - {""}
    there = {path.stem for path in (SOURCE.parent / "notebooks").glob("*.ipynb")}
    # One is live, three are of other methods, one compares data sets, one banks.
    beside = {"explore", "13_crossmodal", "14_methods", "15_efficiency", "16_validity", "17_bank"}
    assert found == there - beside


def test_no_run_fails_and_equal_runs_are_run_once(swept: Small) -> None:
    studies, found = swept
    assert found.failures == {}
    abouts = [json.loads((f / "study.json").read_text(encoding="utf-8")) for f in found.folders]
    folders = {run["folder"] for about in abouts for run in about["runs"]}
    there = list(found.index.parent.glob("runs/sweep/*/run.json"))
    assert len(folders) == len(there) < sum(len(about["runs"]) for about in abouts)
    # Terms in titles without a page to link to are explained, inside tags.
    index = re.sub("<[^>]+>", "", found.index.read_text(encoding="utf-8"))
    assert all(study.title in index for study in studies.values() if study.has_numbers)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_page_answers_from_the_tables(swept: Small, name: str) -> None:
    folder = folder_of(swept, name)
    study, lines = read(swept, name)
    assert study.about.finding == study_table.finding(study, lines, study.lead)
    assert list(study.about.cells) == study.cells
    notebook = nbformat.read(folder / "notebook.ipynb", 4)
    report = methods_report if name == "methods" else study_report
    text = notebook.cells[-1].outputs[-1].data["text/markdown"]
    if name == "validity_real":
        assert text == validity_report.answer(validity.load(folder, DEMOS))
    else:
        assert text == report.answer(study, lines)
    if name not in ("methods", "components_in_depth", "bank", "validity_real"):
        assert "One seed" in text and study.about.finding in text
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert study.about.title in page
    drawn = [o for c in notebook.cells for o in c.get("outputs", []) if "plotly" in str(o.data)]
    assert drawn and all(list(o.data) == ["application/vnd.plotly.v1+json"] for o in drawn)


def test_real_photographs_are_compared_with_both_demos(swept: Small) -> None:
    study, _ = read(swept, "validity_real")
    assert study.about.categories == ["tire"] and study.modes == ["rgb"]
    assert " in RGB" in study.about.finding and "3D" not in study.about.finding
    found = validity.load(folder_of(swept, "validity_real"), DEMOS)
    assert [each.data for each in found.generated] == list(DEMOS) and found.left_out == []
    assert found.recipes == [cell for cell in study.cells if cell != "PatchCore, 224 px"]
    assert len(found.recipes) == 3
    page = (folder_of(swept, "validity_real") / "report.html").read_text(encoding="utf-8")
    assert (
        "Do gains on the demo data carry over to real photographs?" in page
        and "in the order of the real" in page
    )


@pytest.mark.parametrize("name", ["data", "features", "walkthrough", "efficiency"])
def test_pages_without_numbers_stand_beside_the_studies(swept: Small, name: str) -> None:
    study, reports = swept[0][name], swept[1].index.parent
    (page,) = reports.glob(f"{study.notebook.stem}-seal-*/report.html")
    assert f"{study.title} (seal)" in page.read_text(encoding="utf-8")
    assert not (page.parent / "result.json").exists()
    index = (reports / "index.html").read_text(encoding="utf-8")
    assert f'href="{page.parent.name}/report.html"' in index


def test_the_quickstart_is_swept_with_the_numbers_of_a_plain_run(
    swept: Small, demo_root: Path, tmp_path: Path
) -> None:
    reports = swept[1].index.parent
    (run,) = (run for run in runs_of(swept[0]["components"], reports) if run.cell == "IFC")
    folder = run.folder
    result = read_result(folder / "result.json")
    assert (folder / "adaptors.safetensors").exists() and (folder / "thumbnail.png").exists()
    assert list((reports.parent / "data" / "cache").glob("*/*.safetensors"))
    fields = {"data.root": str(demo_root), "device": "cpu", "cache": str(tmp_path), "only": "IFC"}
    plain = run_category("seal", configure("tiny", fields), 0).result["modes"]
    assert list(result["modes"]) == list(plain)
    for mode, scores in plain.items():
        for metric in study_table.METRICS:
            assert result["modes"][mode][metric] == scores[metric], (mode, metric)


def test_what_only_some_studies_show(swept: Small) -> None:
    tuned, _ = read(swept, "finetuning")
    drift = study_report.drift_table(tuned).data
    assert list(drift.index) == [c for c in tuned.cells if c not in ("frozen", "adaptor")]
    assert (drift["drift, 3D"] == 0).all() and (drift["drift, RGB"] > 0).all()
    blocks = drift["trained weights, RGB"]
    assert blocks["last block"] < blocks["last 2 blocks"]
    shots, _ = read(swept, "few_shot")
    counts = [shots.of_cell(cell)[0]["counts"]["train"] for cell in shots.cells]
    assert counts == [6, 2, 6, 2]
    recipes, _ = read(swept, "recipes")
    fields = study_report.differences(recipes).data
    assert list(fields.loc["training.alignment"]) == ["infonce", "literal", "infonce", "infonce"]


def test_components_in_depth_have_a_control(swept: Small) -> None:
    study, lines = read(swept, "components_in_depth")
    control = study.of_cell("random control")[0]
    assert control["training"] is None and "disagreement" in control["modes"]
    assert "adaptors are random" in findings.training_sentence(control)
    trained = lines[lines["row"] == "IFC + CLC"]
    assert trained["c_i_auroc"].notna().all()
    three = trained.set_index("mode")["d_i_auroc"]["rgb+3d+disagreement"]
    own, base = (lines[lines["row"] == row].set_index("mode") for row in ("IFC + CLC", "baseline"))
    expected = own["i_auroc"]["rgb+3d+disagreement"] - base["i_auroc"]["rgb+3d"]
    assert three == pytest.approx(expected)


def test_selection_scores_every_mode_of_every_run(swept: Small) -> None:
    study, lines = read(swept, "selection")
    for result in study.results.values():
        assert set(result["selection"]["i_auroc"]) == set(result["modes"])
        assert set(result["selection"]["aupro_30"]) == set(result["modes"])
    assert lines["selection"].between(0, 1).all()
    page = (folder_of(swept, "selection") / "report.html").read_text(encoding="utf-8")
    assert "Rank correlation" in page and "pseudo-defects" in page
    others = (folder_of(swept, "sensitivity") / "report.html").read_text(encoding="utf-8")
    assert "Rank correlation" not in others


def test_the_table_has_every_method_and_every_published_number(
    swept: Small,
) -> None:
    table = methods_report.methods_table(*read(swept, "methods")).data
    study, _ = read(swept, "methods")
    for cell in study.about.cells:
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
    # Depth alone is read here; the paper also has it beside colour.
    assert table.loc["Depth VM, RGB + 3D", "I-AUROC"] == "published, not run here"
    assert "Depth VM, 3D" not in table.index
    notebook = nbformat.read(folder_of(swept, "methods") / "notebook.ipynb", 4)
    shown = " ".join(
        output.data.get("text/html", "") for c in notebook.cells for output in c.get("outputs", [])
    )
    for row in published_file("lsfa_mvtec3d_per_category"):
        assert row["method"].replace("&", "&amp;") in shown
        assert row["mean"] in shown
    for row in published_file("frontier"):
        assert row["method"] in shown and row["provenance"].split(";")[0] in shown


def test_a_variant_has_no_published_number(swept: Small) -> None:
    table = methods_report.methods_table(*read(swept, "crossmodal"), with_others=False).data
    published = table["published I-AUROC"]
    assert published["CFM"] == "0.954"
    assert published["LSFA"] == "0.971"
    assert set(published.drop(["CFM", "LSFA"])) == {"–"}


def test_the_line_joins_what_none_beats() -> None:
    cells = {"slow best": (9.0, 0.9), "fast": (1.0, 0.7), "beaten": (5.0, 0.6), "mid": (3.0, 0.8)}
    results = {
        (cell, "seal", 0, 0): {
            "seconds": {"fit": 1.0},
            "modes": {"rgb": {}},
            "cost": {
                "seconds": {"read": 0.0, "prepare": 0.0, "detect": ms / 1e3},
                "memory_mb": 10 * ms,
            },
        }
        for cell, (ms, _) in cells.items()
    }
    study = study_table.StudyRuns(record(cells, "beaten"), results)
    lines = pd.DataFrame(
        [{"row": cell, "mode": "rgb", "i_auroc": area} for cell, (_, area) in cells.items()]
    )
    # Without an interval none can be told from chance; with one, `fast` is not better.
    by_chance = lines.assign(i_auroc_low=lines["i_auroc"] - 0.25)
    line = methods_report.pareto_figure(study, by_chance).data[1]
    assert list(line.y) == [0.8, 0.9]
    for over, scale in (("ms", 1), ("MB", 10)):
        points, line = methods_report.pareto_figure(study, lines, over).data
        np.testing.assert_allclose(line.x, [1 * scale, 3 * scale, 9 * scale])
        assert list(line.y) == [0.7, 0.8, 0.9]
        assert list(points.text) == ["fast", "mid", "beaten", "slow best"]
        assert points.name == SHORT_MODES["rgb"]


def test_a_missing_package_is_said_and_breaks_nothing(demo_root: Path, tmp_path: Path) -> None:
    """In a process that has no anomalib."""
    study = tmp_path / "two.yaml"
    study.write_text(
        "run: 00_quickstart\npage: 14_methods\nparameters: {scans: 1}\ncells:\n"
        "  Depth VM: {method: depth_vm, timed_scans: 1}\n"
        "  PaDiM: {method: padim, timed_scans: 1}\n"
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


def test_lsfa_beside_cfm_is_compared_with_itself(swept: Small) -> None:
    study, _ = read(swept, "crossmodal")
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
        "CFM, one patch per pixel",
        "M3DM",
        efficiency.BRUTE,
    ]
    for _, row in table.iterrows():
        scored = row["features, 3D"] + row["features, RGB"] + row["detect"]
        assert row["frames/s"] == pytest.approx(1e3 / scored)
        assert row["MB"] > 0
    said = efficiency.answer(table)
    assert f"{table.loc[efficiency.OWN, 'detect']:.1f} ms/scan" in said
    sizes = efficiency.batches("seal", config, (1, 2))
    assert list(sizes.index) == [1, 2] and (sizes["ms/image"] > 0).all()
    page = efficiency.numbers_table(table, config).to_html()
    # The least of each column, and the most frames.
    best = re.findall(r'class="[^"]*best[^"]*"[^>]*>\s*([^<]+?)\s*<', page)
    assert f"{table['detect'].min():.1f}" in best and f"{table['frames/s'].max():.1f}" in best
    assert "device cpu, cpu " in page
    assert f"{sizes.loc[2, 'ms/image']:.1f}" in efficiency.batches_table(sizes).to_html()
