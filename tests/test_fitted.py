"""A category is fitted once and read back; files that changed or broke are made again."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lsfa_lib.config import OURS, TINY, Config, DataConfig, with_losses
from lsfa_lib.explorer.fitted import Fitted, fitted
from lsfa_lib.features.cache import cache_entries
from lsfa_lib.pipeline import run_category
from lsfa_lib.records import MODALITIES
from lsfa_lib.storage.files import InputError, progress_reported_to

FIT, SCORE = "fit banks", "score test scans"


@pytest.fixture(scope="module")
def features(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the features of the category, and no detector."""
    cache = tmp_path_factory.mktemp("features") / "cache"
    data = DataConfig(str(demo_root))
    fitted("seal", replace(with_losses(TINY, "none"), data=data, device="cpu", cache=str(cache)), 0)
    for entry in cache_entries(cache):
        if entry.model == "detector of seal":
            shutil.rmtree(entry.folder)
    return cache


@pytest.fixture
def config(features: Path, demo_root: Path, tmp_path: Path) -> Config:
    """TINY without training, on a copy of one category that a test may change."""
    shutil.copytree(demo_root / "seal", tmp_path / "data" / "seal")
    shutil.copytree(features, tmp_path / "cache")
    data = DataConfig(str(tmp_path / "data"))
    return replace(
        with_losses(TINY, "none"), data=data, device="cpu", cache=str(tmp_path / "cache")
    )


def opened(config: Config, seed: int = 0) -> tuple[Fitted, list[str]]:
    stages: list[str] = []
    with progress_reported_to(lambda label, done, total: stages.append(label)):
        return fitted("seal", config, seed), stages


def kept(config: Config, name: str) -> Path:
    (path,) = Path(config.cache).glob(f"*/{name}-*.safetensors")
    return path


def same(one: Fitted, other: Fitted) -> None:
    assert one.evidence.names == other.evidence.names
    assert np.array_equal(one.evidence.valid, other.evidence.valid)
    for m in MODALITIES:
        assert torch.equal(one.detector.banks[m].rows, other.detector.banks[m].rows)
        assert torch.equal(one.detector.banks[m].source, other.detector.banks[m].source)
        assert np.array_equal(one.evidence.good[m], other.evidence.good[m])
        for part in ("distances", "nearest", "scores"):
            values = (getattr(f.evidence, part)[m] for f in (one, other))
            assert np.array_equal(*values)
    assert one.detector.thresholds == other.detector.thresholds


def test_second_opening_reads_what_the_first_one_kept(config: Config) -> None:
    first, stages = opened(config)
    assert FIT in stages and SCORE in stages
    again, stages = opened(config)
    assert FIT not in stages and SCORE not in stages
    same(first, again)
    assert [entry.name for entry in again.train] == [f"seal/train/good/{i:03}" for i in range(6)]
    models = [entry.model for entry in cache_entries(Path(config.cache))]
    assert "detector of seal" in models


def test_another_seed_recipe_or_training_scan_is_fitted_anew(config: Config) -> None:
    first, _ = opened(config)
    assert FIT in opened(config, seed=1)[1]
    fewer, stages = opened(replace(config, shots=3))
    assert FIT in stages and len(fewer.train) == 3
    rgb = first.train[0].rgb
    shutil.copyfile(first.train[1].rgb, rgb)
    os.utime(rgb, ns=(0, 0))
    changed, stages = opened(config)
    assert FIT in stages
    # What was made of the replaced scan is gone: a cache does not grow with every change.
    assert len(list(Path(config.cache).glob("*/detector-*.safetensors"))) == 3
    rows = [f.detector.banks["rgb"].rows for f in (first, changed)]
    assert rows[0].shape != rows[1].shape or not torch.equal(*rows)


def test_the_detector_that_a_run_has_kept_is_taken(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_category("seal", config, seed=0)
    run.save_detector(tmp_path / "reports" / "runs" / "quickstart" / "seal-tiny-s0")
    found, stages = opened(config)
    assert FIT not in stages
    assert not list(Path(config.cache).glob("*/detector-*"))
    for i, scan in enumerate(run.result["scans"]):
        for m in MODALITIES:
            assert found.evidence.scores[m][i] == scan["scores"][m]
    assert found.detector.thresholds == run.fitted.thresholds
    assert FIT in opened(config, seed=1)[1]


def test_a_changed_test_scan_is_scored_anew_by_the_same_detector(config: Config) -> None:
    first, _ = opened(config)
    entry = first.evidence.entries[0]
    other = first.evidence.entries[-1]
    shutil.copyfile(other.rgb, entry.rgb)
    shutil.copyfile(other.xyz, entry.xyz)
    again, stages = opened(config)
    assert FIT not in stages and SCORE in stages
    scores = again.evidence.scores["3d"]
    assert scores[0] == scores[-1] == first.evidence.scores["3d"][-1]


@pytest.mark.parametrize("name, stage", [("detector", FIT), ("evidence", SCORE)])
def test_a_damaged_file_is_made_again(config: Config, name: str, stage: str) -> None:
    first, _ = opened(config)
    path = kept(config, name)
    path.write_bytes(path.read_bytes()[:-100])
    again, stages = opened(config)
    assert stage in stages
    same(first, again)
    assert stage not in opened(config)[1]


def test_nothing_is_kept_without_a_cache(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    before = sorted(tmp_path.rglob("*"))
    assert FIT in opened(replace(config, cache=""))[1]
    assert sorted(tmp_path.rglob("*")) == before


def test_picture_size_that_is_no_multiple_of_eight_is_kept_whole(config: Config) -> None:
    odd = replace(config, preprocess=replace(config.preprocess, image_size=100))
    first, _ = opened(odd)
    again, stages = opened(odd)
    assert SCORE not in stages and again.evidence.valid.shape[1:] == (100, 100)
    same(first, again)


def test_data_of_the_checkout_is_found_from_a_folder_below(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    for module in ("storage.files", "config.resolve"):
        monkeypatch.setattr(f"lsfa_lib.{module}.CHECKOUT", tmp_path)
    below = replace(config, data=DataConfig("data"), cache="cache/new")
    found = fitted("seal", below, 0)
    assert found.evidence.entries[0].rgb.exists() and (tmp_path / "cache" / "new").is_dir()
    assert list((tmp_path / "notebooks").iterdir()) == []


def test_weights_that_are_missing_are_said_in_a_sentence(config: Config) -> None:
    points = replace(OURS.point_encoder, weights="data/weights/nowhere.pth")
    with pytest.raises(InputError, match=r"nowhere\.pth"):
        fitted("seal", replace(config, point_encoder=points), 0)
