"""Test scans of unknown class: scored and drawn, but in no metric."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_case import write_results
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.config import Config, DataConfig
from lsfa_lib.figures import findings, mistakes, result_figures, scan_figures
from lsfa_lib.pipeline import Run, run_category
from lsfa_lib.records import is_defective
from lsfa_lib.storage.results import read_result, write_result
from lsfa_lib.studies import study_table


def tree(demo_root: Path, root: Path, unlabelled: list[str]) -> Path:
    """The seal of the demo with scans of these kinds unlabelled."""
    shutil.copytree(demo_root / "seal", root / "seal")
    target = root / "seal" / "test" / "unlabelled"
    for kind in unlabelled:
        folder = root / "seal" / "test" / kind
        for role in ("rgb", "xyz"):
            (target / role).mkdir(parents=True, exist_ok=True)
            for path in (folder / role).iterdir():
                path.rename(target / role / f"{kind}{path.name}")
        shutil.rmtree(folder)
    return root


def run_on(root: Path, cached: Config) -> Run:
    return run_category("seal", replace(cached, data=DataConfig(str(root))), seed=0)


def test_what_a_kind_says() -> None:
    assert [is_defective(k) for k in ("good", "hole", "unlabelled")] == [False, True, None]


def test_unlabelled_scans_change_no_metric(demo_root: Path, tmp_path: Path, cached: Config) -> None:
    some = run_on(tree(demo_root, tmp_path / "some", ["hole", "cut"]), cached)
    fewer = tree(demo_root, tmp_path / "fewer", [])
    for kind in ("hole", "cut"):
        shutil.rmtree(fewer / "seal" / "test" / kind)
    without = run_on(fewer, cached)
    for mode, values in without.result["modes"].items():
        np.testing.assert_equal(some.result["modes"][mode], values)
        assert findings.counts(some.result, mode) == findings.counts(without.result, mode)
    assert some.result["counts"]["test_unlabelled"] == 2
    assert some.result["counts"]["test_defective"] == 4
    assert len(some.result["scans"]) == len(without.result["scans"]) + 2
    unknown = [s for s in some.result["scans"] if s["defective"] is None]
    assert [s["kind"] for s in unknown] == ["unlabelled", "unlabelled"]
    assert all(math.isfinite(s["scores"]["rgb+3d"]) for s in unknown)
    judged = mistakes.judged(some)
    assert len(judged) == len(without.result["scans"])
    assert [j.above for j in judged] == [j.above for j in mistakes.judged(without)]
    names = [trace.name for trace in result_figures.score_histogram(some.result).data]
    assert names == ["good (3)", "defective (4)", "unlabelled (2)"]
    reasons = scan_figures.chosen_scans(some.result, 8).values()
    assert "highest score of the unlabelled" in reasons
    assert "lowest score of the unlabelled" in reasons


def test_the_tables_of_a_study_leave_unlabelled_scans_out(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "studies" / "parts-demo")
    expected = study_table.table(study_table.load(folder))
    for path in tmp_path.glob("runs/sweep/*/result.json"):
        result = read_result(path)
        unknown = {**result["scans"][0], "kind": "unlabelled", "defective": None}
        result["scans"][5:5] = [unknown, {**unknown, "scores": dict.fromkeys(unknown["scores"], 9)}]
        write_result(result, path.parent)
    pd.testing.assert_frame_equal(study_table.table(study_table.load(folder)), expected)


@pytest.fixture(scope="module")
def unknown_reports(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`lsfa run` on a category without one labelled test scan."""
    folder = tmp_path_factory.mktemp("unknown")
    kinds = [path.name for path in (demo_root / "seal" / "test").iterdir()]
    root = tree(demo_root, folder / "data", sorted(kinds))
    command = ["run", "seal", "--preset", "tiny", "--data", str(root), "--device", "cpu"]
    outcome = CliRunner().invoke(app, [*command, "--reports", str(folder / "reports")])
    assert outcome.exit_code == 0, outcome.output
    return folder / "reports"


def test_without_any_label_all_but_the_metrics_works(unknown_reports: Path) -> None:
    (folder,) = (unknown_reports / "runs" / "quickstart").iterdir()
    result = read_result(folder / "result.json")
    for values in result["modes"].values():
        assert values["i_auroc"] is None
        assert values["aupro_30"] is None
        assert values["notes"] == ["Metrics are undefined: no test scan is labelled"]
        assert values["threshold"] is not None
    assert len({scan["scores"]["3d"] for scan in result["scans"]}) == len(result["scans"]) == 9
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Highest score of the unlabelled" in page
    assert "unlabelled (9)" in page
    assert json.loads((folder / "result.json").read_text())["counts"]["test_unlabelled"] == 9
