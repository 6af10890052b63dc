"""The table of components against loops: means, paired intervals, verdicts."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lsfa_lib.evaluation.bootstrap import verdict
from lsfa_lib.storage.files import InputError
from lsfa_lib.studies.components_table import read_cells, table

DEFECTIVE = [False] * 12 + [True] * 18
CATEGORIES = ("cap", "ring")


def write_cells(folder: Path, lift: dict[str, float], missing: str = "") -> None:
    """Cells whose scores are those of the baseline, defective ones lifted by a number a variant."""
    for c, category in enumerate(CATEGORIES):
        base = np.random.default_rng(c).normal(size=30) + 0.8 * np.array(DEFECTIVE)
        for variant, gain in lift.items():
            for training in range(1 if variant == "baseline" else 3):
                cells = []
                for coreset in range(2):
                    noise = 0.3 * np.random.default_rng([c, training, coreset]).normal(size=30)
                    scores = base + noise + gain * np.array(DEFECTIVE)
                    for mode in ("3d", "rgb", "rgb+3d"):
                        cells.append(
                            {
                                "mode": mode,
                                "coreset_seed": coreset,
                                "scores": scores.tolist(),
                                "i_auroc": roc_auc_score(DEFECTIVE, scores),
                                "aupro_30": 0.5 + gain + 0.01 * coreset,
                                "p_auroc": 0.9,
                                "stopped": "collapsed"
                                if variant == "IFC" and training == 1
                                else "",
                                "seconds": {"train": 2.0 * training, "fit": 1.0},
                            }
                        )
                unit = {"category": category, "losses": "ours", "variant": variant}
                content = {
                    "unit": {**unit, "training_seed": training},
                    "image_size": 224,
                    "defective": DEFECTIVE,
                    "peak_memory_mb": 100.0 * training,
                    "cells": cells,
                }
                name = f"{category}-{variant}-{training}.json"
                if name != missing:
                    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def line_of(folder: Path, row: str, mode: str = "rgb+3d") -> dict[str, float]:
    (cells,) = read_cells(folder)
    lines = table(cells, "ours")
    (line,) = lines[(lines["row"] == row) & (lines["mode"] == mode)].to_dict("records")
    return line


LIFT = {"baseline": 0.0, "control": 0.0, "IFC": 2.0, "CLC": -0.8, "both": 0.02}


def test_means_and_differences(tmp_path: Path) -> None:
    write_cells(tmp_path, LIFT)
    (cells,) = read_cells(tmp_path)
    assert cells.categories == CATEGORIES and cells.image_size == 224
    assert cells.stopped["ours", "IFC"] == 2 and cells.trainings["ours", "IFC"] == 6
    assert cells.seconds["ours", "IFC"] == {"train": 2.0, "fit": 1.0, "predict": 0.0}
    assert cells.peak_memory_mb == 200.0
    line = line_of(tmp_path, "IFC")
    own = cells.values["ours", "IFC", "rgb+3d"]["i_auroc"]
    base = cells.values["ours", "baseline", "rgb+3d"]["i_auroc"]
    assert own.shape == (2, 3, 2) and base.shape == (2, 1, 2)
    assert line["i_auroc"] == pytest.approx(np.mean(own))
    assert line["d_i_auroc"] == pytest.approx(np.mean(own) - np.mean(base))
    assert line["d_aupro_30"] == pytest.approx(2.0)
    assert line["d_i_auroc_low"] < line["d_i_auroc"] < line["d_i_auroc_high"]
    assert line["i_auroc_low"] < line["i_auroc"] <= line["i_auroc_high"]
    # Seeds alone: the spread of AUPRO is that of the coreset seeds, 0.005 about the mean.
    assert line["aupro_30_high"] - line["aupro_30_low"] == pytest.approx(0.01, abs=1e-9)


def test_intervals_are_those_of_a_loop_over_resampled_scans_and_seeds(tmp_path: Path) -> None:
    write_cells(tmp_path, LIFT)
    (cells,) = read_cells(tmp_path)
    rng = np.random.default_rng(3)

    def wins(scores: np.ndarray) -> float:
        return float((scores[12:, None] > scores[None, :12]).mean())

    gains = []
    for _ in range(600):
        training, coreset = rng.integers(3, size=3), rng.integers(2, size=2)
        gain = 0.0
        for c in range(len(CATEGORIES)):
            drawn = np.concatenate([rng.integers(12, size=12), 12 + rng.integers(18, size=18)])
            own, base = (cells.scores["ours", v, "3d"][c][..., drawn] for v in ("both", "baseline"))
            gain += np.mean([wins(own[t, s]) for t in training for s in coreset])
            gain -= np.mean([wins(base[0, s]) for s in coreset])
        gains.append(gain / len(CATEGORIES))
    line = line_of(tmp_path, "IFC + CLC", "3d")
    low, high = np.quantile(gains, [0.025, 0.975])
    assert line["d_i_auroc_low"] == pytest.approx(low, abs=0.005)
    assert line["d_i_auroc_high"] == pytest.approx(high, abs=0.005)


def test_verdicts_follow_the_intervals(tmp_path: Path) -> None:
    write_cells(tmp_path, LIFT)
    assert verdict(line_of(tmp_path, "IFC")) == "confirmed"
    assert verdict(line_of(tmp_path, "CLC")) == "worse"
    assert verdict(line_of(tmp_path, "IFC + CLC")) == "not confirmed with these features"
    assert verdict(line_of(tmp_path, "random adaptor (control)")) != "confirmed"
    assert verdict(line_of(tmp_path, "baseline")) == ""


def test_a_gain_the_control_has_too_is_not_confirmed(tmp_path: Path) -> None:
    write_cells(tmp_path, {**LIFT, "control": 2.0})
    assert verdict(line_of(tmp_path, "IFC")) == "no better than untrained"


def test_what_lacks_cells_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no cells; run `lsfa study components` first"):
        read_cells(tmp_path)
    write_cells(tmp_path, LIFT, missing="ring-IFC-2.json")
    with pytest.raises(InputError, match="ours, IFC, 3d lacks 2 cells, such as those of ring"):
        read_cells(tmp_path)


def test_features_are_told_and_never_mixed(tmp_path: Path) -> None:
    write_cells(tmp_path, LIFT)
    assert read_cells(tmp_path)[0].encoders == ("efficientnet_lite0", "fpfh")
    path = next(tmp_path.glob("*-IFC-1.json"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "encoders": ["dino", "point_mae"]}))
    with pytest.raises(InputError, match=r"holds cells of dino \+ point_mae and efficientnet"):
        read_cells(tmp_path)
