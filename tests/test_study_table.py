"""The tables of a study against loops over its runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from study_case import CATEGORIES, DEFECTIVE, LIFT, SEEDS, scores_of, write_study

from lsfa_lib.evaluation.bootstrap import verdict
from lsfa_lib.storage.files import InputError
from lsfa_lib.studies import study_table


def line_of(lines: pd.DataFrame, cell: str, mode: str = "rgb+3d") -> dict:
    (line,) = lines[(lines["row"] == cell) & (lines["mode"] == mode)].to_dict("records")
    return line


def area(cell: str, category: str, seed: int, mode: str = "rgb+3d") -> float:
    return roc_auc_score(DEFECTIVE, scores_of(category, cell, seed, mode, LIFT[cell]))


def test_means_spreads_and_published_values(tmp_path: Path) -> None:
    study = study_table.load(write_study(tmp_path / "studies" / "parts-demo"))
    lines = study_table.table(study)
    assert list(lines["row"].unique()) == list(LIFT) == study.cells
    line = line_of(lines, "both")
    by_seed = [np.mean([area("both", c, s) for c in CATEGORIES]) for s in SEEDS]
    assert line["i_auroc"] == pytest.approx(np.mean(by_seed))
    assert line["i_auroc_sd"] == pytest.approx(np.std(by_seed, ddof=1))
    assert line["aupro_30"] == pytest.approx(0.5 + 0.005 + 0.005 + 0.2)
    # Seeds alone: 0 and 1, a hundredth apart.
    assert line["aupro_30_high"] - line["aupro_30_low"] == pytest.approx(0.01)
    assert (line["runs"], line["missing"]) == (4, 0)
    assert (line["published_i_auroc"], line["published_aupro_30"]) == (0.971, 0.968)
    assert np.isnan(line_of(lines, "IFC")["published_i_auroc"])
    assert np.isnan(line_of(lines, "none", "3d")["p_auroc"])


def test_differences_are_paired_and_their_intervals_those_of_a_loop(tmp_path: Path) -> None:
    study = study_table.load(write_study(tmp_path / "studies" / "parts-demo"))
    lines = study_table.table(study)
    line = line_of(lines, "both", "3d")
    gain = np.mean(
        [area("both", c, s, "3d") - area("none", c, s, "3d") for c in CATEGORIES for s in SEEDS]
    )
    assert line["d_i_auroc"] == pytest.approx(gain)
    rng, gains = np.random.default_rng(5), []
    for _ in range(800):
        seeds, total = rng.choice(SEEDS, size=2), 0.0
        for category in CATEGORIES:
            drawn = np.concatenate([rng.integers(10, size=10), 10 + rng.integers(14, size=14)])
            for seed in seeds:
                for cell, sign in (("both", 1), ("none", -1)):
                    own = scores_of(category, cell, seed, "3d", LIFT[cell])[drawn]
                    total += sign * (own[10:, None] > own[None, :10]).mean()
        gains.append(total / 4)
    low, high = np.quantile(gains, [0.025, 0.975])
    assert line["d_i_auroc_low"] == pytest.approx(low, abs=0.006)
    assert line["d_i_auroc_high"] == pytest.approx(high, abs=0.006)
    assert np.isnan(line_of(lines, "none")["d_i_auroc"])


def test_findings_follow_the_intervals(tmp_path: Path) -> None:
    study = study_table.load(write_study(tmp_path / "studies" / "parts-demo"))
    lines = study_table.table(study)
    assert verdict(line_of(lines, "IFC")) == "confirmed"
    assert verdict(line_of(lines, "CLC")) == "worse"
    assert verdict(line_of(lines, "both")) == "not confirmed with these features"
    said = study_table.finding(study, lines)
    gain = line_of(lines, "IFC")["d_i_auroc"]
    assert said.startswith("1 of 3 gains confirmed in RGB + 3D; best: IFC ")
    loss = line_of(lines, "CLC")["d_i_auroc"]
    assert f"IFC {gain:+.3f} [" in said
    assert f"against none; worse: 1 of 3, most CLC {loss:+.3f} [" in said
    fewer = write_study(tmp_path / "studies" / "few-demo", {"none": 0.0, "CLC": -0.9})
    less = study_table.load(fewer)
    said = study_table.finding(less, study_table.table(less))
    assert said.startswith("No gain is confirmed") and said.endswith("against none")
    alone = study_table.load(write_study(tmp_path / "studies" / "one-demo", {"none": 0.0}))
    assert study_table.finding(alone, study_table.table(alone)).startswith("RGB + 3D: I-AUROC 0.")


def test_one_seed_has_no_interval_of_seeds(tmp_path: Path) -> None:
    study = study_table.load(write_study(tmp_path / "studies" / "parts-demo", seeds=(1,)))
    line = line_of(study_table.table(study), "IFC")
    assert np.isnan(line["aupro_30_low"]) and np.isnan(line["d_aupro_30_high"])
    assert np.isnan(line["i_auroc_sd"])
    assert line["d_i_auroc_low"] < line["d_i_auroc"] < line["d_i_auroc_high"]
    assert study_table.spread(line, "aupro_30") == "0.910"


def test_failed_runs_leave_their_category_out_of_the_cell_and_of_its_differences(
    tmp_path: Path,
) -> None:
    folder = write_study(tmp_path / "studies" / "parts-demo", failed=(("IFC", "ring", 1),))
    study = study_table.load(folder)
    line = line_of(study_table.table(study), "IFC")
    assert (line["runs"], line["missing"]) == (3, 1)
    assert line["i_auroc"] == pytest.approx(np.mean([area("IFC", "cap", s) for s in SEEDS]))
    gains = [area("IFC", "cap", s) - area("none", "cap", s) for s in SEEDS]
    assert line["d_i_auroc"] == pytest.approx(np.mean(gains))
    # The interval is that of the one category: the same as in a study of it alone.
    assert line["d_i_auroc_low"] <= line["d_i_auroc"] <= line["d_i_auroc_high"]


def test_a_cell_without_any_run_and_a_study_without_any(tmp_path: Path) -> None:
    lost = tuple(("CLC", c, s) for c in CATEGORIES for s in SEEDS)
    study = study_table.load(write_study(tmp_path / "studies" / "parts-demo", failed=lost))
    assert study.cells == ["none", "IFC", "both"]
    assert "CLC" not in set(study_table.table(study)["row"])
    every = tuple((cell, c, s) for cell in LIFT for c in CATEGORIES for s in SEEDS)
    with pytest.raises(InputError, match="none of its 16 runs was finished"):
        study_table.load(write_study(tmp_path / "studies" / "none-demo", failed=every))


def test_the_reference_that_failed_leaves_values_without_differences(tmp_path: Path) -> None:
    lost = tuple(("none", c, s) for c in CATEGORIES for s in SEEDS)
    study = study_table.load(write_study(tmp_path / "studies" / "parts-demo", failed=lost))
    lines = study_table.table(study)
    assert "d_i_auroc" not in lines.columns
    assert study_table.finding(study, lines).startswith("RGB + 3D: I-AUROC")


def test_what_is_not_a_study_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study\.json is not a finished study; run `lsfa sweep`"):
        study_table.load(tmp_path)
    folder = write_study(tmp_path / "studies" / "parts-demo", about={"schema": 0})
    with pytest.raises(InputError, match="has schema 0, this version reads 1; sweep the study"):
        study_table.load(folder)
    folder = write_study(tmp_path / "studies" / "mixed-demo")
    path = folder / "../../runs/sweep/ring-IFC-s1/result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    result["scans"][0]["name"] = "ring/test/999"
    path.write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(InputError, match="runs of ring were tested on different scans"):
        study_table.load(folder)


def test_files_hold_the_same_table(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies" / "parts-demo")
    said = study_table.write_tables(folder)
    study = study_table.load(folder)
    lines = study_table.table(study)
    assert said == study_table.finding(study, lines)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "table.parquet"), lines)
    text = pd.read_csv(folder / "table.csv")
    assert text["d_i_auroc"].to_numpy() == pytest.approx(lines["d_i_auroc"], abs=1e-6, nan_ok=True)
    runs = pd.read_parquet(folder / "runs.parquet")
    assert len(runs) == len(LIFT) * len(CATEGORIES) * len(SEEDS) * 3
    assert set(runs["seconds"]) == {7.0}
    assert not (folder / runs["folder"][0] / "nothing").exists()
    assert (folder / runs["folder"][0] / "result.json").exists()


def test_splits_without_good_or_defective_scans_have_no_area(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies" / "parts-demo")
    for path in folder.parents[1].glob("runs/sweep/*/result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        for scan in result["scans"]:
            scan["defective"] = False
        for values in result["modes"].values():
            values |= {"i_auroc": None, "aupro_30": None, "p_auroc": None}
        path.write_text(json.dumps(result), encoding="utf-8")
    study = study_table.load(folder)
    lines = study_table.table(study)
    assert lines["i_auroc"].isna().all() and lines["d_i_auroc_low"].isna().all()
    assert study_table.finding(study, lines) == "RGB + 3D: I-AUROC –"
