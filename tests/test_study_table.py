"""The tables of a study against loops over its runs."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from study_case import CATEGORIES, DEFECTIVE, LIFT, SEEDS, scores_of, write_results

from lsfa_lib.config import DEMO, Config, configure, with_losses
from lsfa_lib.evaluation.bootstrap import verdict
from lsfa_lib.storage.files import InputError
from lsfa_lib.studies import study_table


def line_of(lines: pd.DataFrame, cell: str, mode: str = "rgb+3d") -> dict:
    (line,) = lines[(lines["row"] == cell) & (lines["mode"] == mode)].to_dict("records")
    return line


def area(cell: str, category: str, seed: int, mode: str = "rgb+3d") -> float:
    return roc_auc_score(DEFECTIVE, scores_of(category, cell, seed, mode, LIFT[cell]))


def test_means_spreads_and_published_values(tmp_path: Path) -> None:
    study = study_table.load(write_results(tmp_path / "studies" / "parts-demo"))
    lines = study_table.table(study)
    assert list(lines["row"].unique()) == list(LIFT) == study.cells
    line = line_of(lines, "both")
    by_seed = [np.mean([area("both", c, s) for c in CATEGORIES]) for s in SEEDS]
    assert line["i_auroc"] == pytest.approx(np.mean(by_seed))
    assert line["i_auroc_sd"] == pytest.approx(np.std(by_seed, ddof=1))
    assert line["aupro_30"] == pytest.approx(0.5 + 0.005 + 0.005 + 0.2)
    # Seeds alone: 0 and 1, a hundredth apart.
    expected = stats.ttest_1samp([0.705, 0.715], 0).confidence_interval()
    assert (line["aupro_30_low"], line["aupro_30_high"]) == pytest.approx(expected)
    assert (line["runs"], line["missing"]) == (4, 0)
    assert (line["published_i_auroc"], line["published_aupro_30"]) == (0.971, 0.968)
    assert np.isnan(line_of(lines, "IFC")["published_i_auroc"])
    assert np.isnan(line_of(lines, "none", "3d")["p_auroc"])


def test_differences_are_paired_and_their_intervals_those_of_a_loop(tmp_path: Path) -> None:
    study = study_table.load(write_results(tmp_path / "studies" / "parts-demo"))
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
    study = study_table.load(write_results(tmp_path / "studies" / "parts-demo"))
    lines = study_table.table(study)
    assert verdict(line_of(lines, "IFC")) == "confirmed"
    assert verdict(line_of(lines, "CLC")) == "worse"
    assert verdict(line_of(lines, "both")) == "not confirmed"
    said = study_table.finding(study, lines)
    gain = line_of(lines, "IFC")["d_i_auroc"]
    assert said.startswith("1 of 3 variants beats “none” in RGB + 3D; largest gain: IFC ")
    loss = line_of(lines, "CLC")["d_i_auroc"]
    assert f"IFC {gain:+.3f} [" in said
    assert f"] I-AUROC; 1 of 3 worse, most CLC {loss:+.3f} [" in said
    fewer = write_results(tmp_path / "studies" / "few-demo", {"none": 0.0, "CLC": -0.9})
    less = study_table.load(fewer)
    said = study_table.finding(less, study_table.table(less))
    assert said.startswith("No variant beats “none” in RGB + 3D (largest difference: CLC -")
    assert "best" not in said
    alone = study_table.load(write_results(tmp_path / "studies" / "one-demo", {"none": 0.0}))
    assert study_table.finding(alone, study_table.table(alone)).startswith("RGB + 3D: I-AUROC 0.")


def test_one_seed_has_no_interval_of_seeds(tmp_path: Path) -> None:
    study = study_table.load(write_results(tmp_path / "studies" / "parts-demo", seeds=(1,)))
    line = line_of(study_table.table(study), "IFC")
    assert np.isnan(line["aupro_30_low"]) and np.isnan(line["d_aupro_30_high"])
    assert np.isnan(line["i_auroc_sd"])
    assert line["d_i_auroc_low"] < line["d_i_auroc"] < line["d_i_auroc_high"]
    assert study_table.spread(line, "aupro_30") == "0.910"


def test_failed_runs_leave_their_category_out_of_the_cell_and_of_its_differences(
    tmp_path: Path,
) -> None:
    folder = write_results(tmp_path / "studies" / "parts-demo", failed=(("IFC", "ring", 1),))
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
    study = study_table.load(write_results(tmp_path / "studies" / "parts-demo", failed=lost))
    assert study.cells == ["none", "IFC", "both"]
    assert "CLC" not in set(study_table.table(study)["row"])
    every = tuple((cell, c, s) for cell in LIFT for c in CATEGORIES for s in SEEDS)
    with pytest.raises(InputError, match="none of its 16 runs was finished"):
        study_table.load(write_results(tmp_path / "studies" / "none-demo", failed=every))


def test_the_reference_that_failed_leaves_values_without_differences(tmp_path: Path) -> None:
    lost = tuple(("none", c, s) for c in CATEGORIES for s in SEEDS)
    study = study_table.load(write_results(tmp_path / "studies" / "parts-demo", failed=lost))
    lines = study_table.table(study)
    assert "d_i_auroc" not in lines.columns
    assert study_table.finding(study, lines).startswith("RGB + 3D: I-AUROC")


def test_what_is_not_a_study_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study\.json is not a finished study; run `lsfa sweep`"):
        study_table.load(tmp_path)
    folder = write_results(tmp_path / "studies" / "parts-demo", about={"schema": 0})
    with pytest.raises(InputError, match="has schema 0, this version reads 1; sweep the study"):
        study_table.load(folder)
    (folder / "study.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"study\.json is damaged; start the sweep of that study"):
        study_table.load(folder)
    folder = write_results(tmp_path / "studies" / "mixed-demo")
    path = folder / "../../runs/sweep/ring-IFC-s1-p0/result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    result["scans"][0]["name"] = "ring/test/999"
    path.write_text(json.dumps(result), encoding="utf-8")
    said = r"runs of ring were tested on different scans \(\w+ differs from ring/test/000 on\)"
    with pytest.raises(InputError, match=said):
        study_table.load(folder)


def test_files_hold_the_same_table(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "studies" / "parts-demo")
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
    folder = write_results(tmp_path / "studies" / "parts-demo")
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


@pytest.fixture(scope="module")
def gridded(tmp_path_factory: pytest.TempPathFactory) -> study_table.StudyRuns:
    """Three seeds of training, two of the coreset, a control, and a cell with a further mode."""
    lift = {"none": 0.0, "control": 0.0, "IFC": 2.0, "both": 0.02}
    folder = tmp_path_factory.mktemp("grid") / "studies" / "parts-demo"
    how = {"seeds": (0, 1, 2), "points": 2, "disagreeing": ("both",)}
    return study_table.load(write_results(folder, lift, about={"control": "control"}, **how))


def test_points_of_a_grid_are_averaged_like_seeds(gridded: study_table.StudyRuns) -> None:
    line = line_of(study_table.table(gridded), "IFC")
    own = [r["modes"]["rgb+3d"]["i_auroc"] for r in gridded.of_cell("IFC")]
    base = [r["modes"]["rgb+3d"]["i_auroc"] for r in gridded.of_cell("none")]
    assert line["runs"] == len(own) == 2 * 3 * 2 and line["missing"] == 0
    assert line["i_auroc"] == pytest.approx(np.mean(own))
    assert line["d_i_auroc"] == pytest.approx(np.mean(own) - np.mean(base))
    assert line["d_aupro_30"] == pytest.approx(0.2)
    assert line["i_auroc_low"] < line["i_auroc"] <= line["i_auroc_high"]
    assert line["i_auroc_sd"] > 0


def test_maps_vary_over_training_seeds_and_coreset_seeds(
    gridded: study_table.StudyRuns,
) -> None:
    """Differences: training seeds of each cell by itself, those of the coreset for both."""
    gridded = copy.deepcopy(gridded)
    for key, result in gridded.results.items():
        drawn = np.random.default_rng([sum(map(ord, key[0])), key[2], key[3]])
        result["modes"]["3d"]["aupro_30"] = drawn.uniform()
    tables = {
        cell: np.array(
            [
                [gridded.results[cell, "cap", s, p]["modes"]["3d"]["aupro_30"] for p in range(2)]
                for s in range(3)
            ]
        )
        for cell in ("none", "both")
    }
    line = line_of(study_table.table(gridded), "both", "3d")
    own, other = tables["both"], tables["none"]
    parts = [(own - other).mean(0), own.mean(1), other.mean(1)]
    squares = [part.var(ddof=1) / part.size for part in parts]
    freedom = sum(squares) ** 2 / sum(
        square**2 / (part.size - 1) for square, part in zip(squares, parts, strict=True)
    )
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(squares))
    gain = own.mean() - other.mean()
    assert line["d_aupro_30"] == pytest.approx(gain)
    assert line["d_aupro_30_low"] == pytest.approx(gain - half)
    assert line["d_aupro_30_high"] == pytest.approx(gain + half)


def test_intervals_draw_scans_training_seeds_and_coreset_seeds(
    gridded: study_table.StudyRuns,
) -> None:
    """Training seeds of each cell by itself, those of the coreset for both."""
    scores = {
        (cell, category): np.array(
            [
                [
                    [s["scores"]["3d"] for s in gridded.results[cell, category, seed, p]["scans"]]
                    for p in range(2)
                ]
                for seed in range(3)
            ]
        )
        for cell in ("none", "both")
        for category in CATEGORIES
    }
    rng, gains = np.random.default_rng(3), []
    for _ in range(600):
        training = {"both": rng.integers(3, size=3), "none": rng.integers(3, size=3)}
        coreset, gain = rng.integers(2, size=2), 0.0
        for category in CATEGORIES:
            drawn = np.concatenate([rng.integers(10, size=10), 10 + rng.integers(14, size=14)])
            for cell, sign in (("both", 1), ("none", -1)):
                own = scores[cell, category][np.ix_(training[cell], coreset, drawn)]
                wins = own[..., 10:, None] > own[..., None, :10]
                gain += sign * wins.mean() / len(CATEGORIES)
        gains.append(gain)
    line = line_of(study_table.table(gridded), "both", "3d")
    low, high = np.quantile(gains, [0.025, 0.975])
    assert line["d_i_auroc_low"] == pytest.approx(low, abs=0.007)
    assert line["d_i_auroc_high"] == pytest.approx(high, abs=0.007)


def test_a_gain_the_control_has_too_is_not_confirmed(
    gridded: study_table.StudyRuns, tmp_path: Path
) -> None:
    lines = study_table.table(gridded)
    line = line_of(lines, "IFC")
    assert verdict(line) == "confirmed" and line["c_i_auroc_low"] > 0
    assert verdict(line_of(lines, "control")) == "control"
    assert np.isnan(line_of(lines, "control")["c_i_auroc"])
    folder = tmp_path / "studies" / "parts-demo"
    lift, about = {"none": 0.0, "control": 2.0, "IFC": 2.0}, {"control": "control"}
    study = study_table.load(write_results(folder, lift, about=about))
    assert verdict(line_of(study_table.table(study), "IFC")) == "no better than untrained"


def test_no_gain_is_confirmed_where_the_control_failed(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "parts-demo"
    lift, about = {"none": 0.0, "control": 0.0, "IFC": 2.0}, {"control": "control"}
    failed = tuple(("control", category, seed) for category in CATEGORIES for seed in SEEDS)
    lines = study_table.table(study_table.load(write_results(folder, lift, failed, about=about)))
    line = line_of(lines, "IFC")
    assert line["d_i_auroc_low"] > 0 and verdict(line) == "not confirmed"


def test_a_study_without_a_complete_cell_says_so(tmp_path: Path) -> None:
    failed = tuple((cell, category, 1) for cell in LIFT for category in CATEGORIES)
    folder = write_results(tmp_path / "studies" / "parts-demo", failed=failed)
    with pytest.raises(InputError, match="no cell was finished in any category with every seed"):
        study_table.write_tables(folder)


@pytest.mark.parametrize(
    "config",
    [with_losses(DEMO, "none"), configure(DEMO, {"image_encoder.size": 448})],
    ids=["trains nothing", "other size"],
)
def test_a_control_judges_cells_that_train_on_its_features(tmp_path: Path, config: Config) -> None:
    folder = tmp_path / "studies" / "parts-demo"
    lift, about = {"none": 0.0, "control": 2.0, "larger": 2.0}, {"control": "control"}
    study = write_results(folder, lift, about=about, configs={"larger": config})
    lines = study_table.table(study_table.load(study))
    assert verdict(line_of(lines, "larger")) == "confirmed"
    assert np.isnan(line_of(lines, "larger")["c_i_auroc"])
    found = study_table.finding(study_table.load(study), lines)
    assert found.startswith("1 of 1 variants beats “none” in RGB + 3D; largest gain: larger +")


def test_a_mode_the_reference_lacks_is_compared_with_its_rgb_and_3d(
    gridded: study_table.StudyRuns,
) -> None:
    lines = study_table.table(gridded)
    line = line_of(lines, "both", "rgb+3d+disagreement")
    for prefix, base in (("d", "none"), ("c", "control")):
        difference = line["i_auroc"] - line_of(lines, base)["i_auroc"]
        assert line[f"{prefix}_i_auroc"] == pytest.approx(difference)
    assert verdict(line) == "worse"


def test_scores_on_pseudo_defects_are_a_column(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "parts-demo"
    scored = replace(DEMO, pseudo_defects=True)
    configs = {cell: scored for cell in LIFT if cell != "both"}
    lines = study_table.table(study_table.load(write_results(folder, configs=configs)))
    line = line_of(lines, "IFC")
    assert line["selection"] == pytest.approx(line["i_auroc"] - 0.1)
    assert np.isnan(line_of(lines, "both")["selection"])
