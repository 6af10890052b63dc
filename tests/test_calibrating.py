"""More good scans for a threshold: what is added, what is left out, what is said; drift."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.deployment.calibrating import calibrate, with_rule
from lsfa_lib.deployment.drift import drift_warning
from lsfa_lib.deployment.inspector import Inspector, load
from lsfa_lib.detection.saved import save
from lsfa_lib.pipeline import Run
from lsfa_lib.storage.files import InputError


@pytest.fixture(scope="module")
def inspector(seal_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Inspector:
    folder = tmp_path_factory.mktemp("kept")
    seal_run.save_detector(folder)
    return load(next(folder.glob("detector-*.safetensors")), "cpu")


def test_scores_are_added_without_training(
    inspector: Inspector, demo_root: Path, seal_run: Run, tmp_path: Path
) -> None:
    ruled = with_rule(inspector, 1 / 6, "conformal")
    found = calibrate(ruled, [demo_root / "seal" / "test" / "good"])
    scores = [s["scores"]["rgb+3d"] for s in seal_run.result["scans"] if s["kind"] == "good"]
    assert found.added == len(scores) == 3
    grown = found.inspector
    assert grown.good_scores == pytest.approx([*inspector.good_scores, *scores])
    assert grown.threshold == max(grown.good_scores)
    assert grown.promise.startswith(
        "on average, at most 16.7% of good parts like the 6 calibration scans"
    )
    assert len(grown.origin.digests) == len(inspector.origin.digests) + 3
    save(grown.detector, tmp_path / "grown.lsfa", grown.origin)
    again = load(tmp_path / "grown.lsfa", "cpu")
    assert again.good_scores == grown.good_scores and again.threshold == grown.threshold
    assert again.detector.scales == inspector.detector.scales


def test_known_scans_are_left_out(inspector: Inspector, demo_root: Path, tmp_path: Path) -> None:
    for split, stem in (("train", "000"), ("validation", "001"), ("test", "000")):
        for role in ("rgb", "xyz"):
            (tmp_path / role).mkdir(exist_ok=True)
            for path in (demo_root / "seal" / split / "good" / role).glob(f"{stem}.*"):
                shutil.copyfile(path, tmp_path / role / f"{split}{path.suffix}")
    found = calibrate(inspector, [tmp_path])
    assert found.added == 1
    left = [text for text in found.warnings if "was used for this detector already" in text]
    assert [text.split()[2] for text in left] == ["train", "validation"]
    with pytest.raises(InputError, match="no good scan to add"):
        calibrate(found.inspector, [tmp_path])
    with pytest.raises(InputError, match=r"no good scan to add .*times as far"):
        calibrate(inspector, [demo_root / "biscuit" / "test" / "good"])


def test_a_scan_far_above_all_others_is_named(
    inspector: Inspector, demo_root: Path, tmp_path: Path
) -> None:
    # Ten scans with nearly the same score, far below those of the three that are added.
    close = {mode: [-20 + 0.01 * i for i in range(10)] for mode in inspector.detector.modes}
    origin = replace(inspector.origin, calibration=tuple(f"old/{i}" for i in range(10)))
    save(replace(inspector.detector, validation_scores=close), tmp_path / "seal.lsfa", origin)
    words = ["calibrate", str(tmp_path / "seal.lsfa"), str(demo_root / "seal" / "test" / "good")]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "more.lsfa")])
    assert done.exit_code == 0, done.output
    for stem in ("000", "001", "002"):
        assert f"calibration scan {stem} scores" in done.output
    assert "calibration scan old/" not in done.output
    assert "3 scans added, 13 calibration scans" in done.output


def test_drift_is_the_test_of_scipy() -> None:
    draw = np.random.default_rng(0)
    good, same, moved = draw.normal(size=30), draw.normal(size=40), draw.normal(0.9, 1, 40)
    assert drift_warning(same.tolist(), good.tolist(), 9.0) == ""
    said = drift_warning(moved.tolist(), good.tolist(), 9.0)
    p = mannwhitneyu(moved, good).pvalue
    assert said.startswith("the scores of 40 scans called good are higher than those of the 30")
    assert f"(Mann-Whitney U, p = {p:.2g})" in said
    # Both sides are cut at the threshold, else good-looking scores would always be lower.
    cut = drift_warning(same.tolist(), good.tolist(), 0.5)
    assert cut == ""
    assert drift_warning(moved.tolist()[:7], good.tolist(), 9.0) == ""
