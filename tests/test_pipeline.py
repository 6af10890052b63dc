"""The complete path on small demo data, with real encoders on the CPU."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sklearn.metrics
import torch
from scan_case import write_wider

from lsfa_lib.config import Config, DataConfig, configure, from_dict
from lsfa_lib.datasets.layouts import read_scan, read_split, split_of
from lsfa_lib.features.extract import load_encoders
from lsfa_lib.features.lazy_scan import fixed_threads, good_features
from lsfa_lib.methods.fitting import fit_detector
from lsfa_lib.pipeline import Run, run_category
from lsfa_lib.records import MODALITIES, MODES
from lsfa_lib.storage import results
from lsfa_lib.storage.files import InputError

VARYING = ("created", "seconds", "peak_memory_mb", "config")


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Inside, torch may use that many threads, as it would on a machine with as many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_every_test_scan_is_scored_in_every_mode(seal_run: Run, demo_root: Path) -> None:
    run = seal_run
    names = [entry.name for entry in read_split(demo_root, "seal", "test").entries]
    assert [scan["name"] for scan in run.result["scans"]] == names
    assert run.result["counts"] == {
        "train": 6,
        "validation": 3,
        "test_good": 3,
        "test_defective": 6,
        "test_unlabelled": 0,
    }
    for mode in MODES:
        assert len(run.predictions[mode]) == len(names)
        assert run.predictions[mode][0].anomaly_map.shape == (96, 96)


def test_a_part_that_fills_2_percent_of_the_frame_is_found_and_scored(
    demo_root: Path, tiny: Config, tmp_path: Path
) -> None:
    for split, step in (("train", 3), ("validation", 2), ("test", 3)):
        for entry in read_split(demo_root, "seal", split).entries[::step]:
            write_wider(read_scan(entry), tmp_path / "wide", 4)
    data = DataConfig(root=str(tmp_path / "wide"))
    for heads in (False, True):
        config = configure(replace(tiny, data=data), {"only": "none", "detector.heads": heads})
        run = run_category("seal", config, 0)
        for sample, prediction in zip(run.samples, run.predictions["rgb+3d"], strict=True):
            assert 0.01 < sample.valid.double().mean() < 0.03
            row, column = divmod(int(prediction.anomaly_map.argmax()), 96)
            near = sample.valid[max(row - 8, 0) : row + 9, max(column - 8, 0) : column + 9]
            assert near.any() and prediction.anomaly_map.isfinite().all()
            assert math.isfinite(prediction.image_score)


def test_metrics_are_those_of_the_stored_scores(seal_run: Run) -> None:
    run = seal_run
    labels = [scan["defective"] for scan in run.result["scans"]]
    for mode in MODES:
        scores = [scan["scores"][mode] for scan in run.result["scans"]]
        stored = run.result["modes"][mode]
        expected = sklearn.metrics.roc_auc_score(labels, scores)
        assert stored["i_auroc"] == pytest.approx(expected, abs=1e-12)
        pixels = torch.stack([p.anomaly_map for p in run.predictions[mode]]).flatten()
        truth = torch.stack([sample.defect for sample in run.samples]).flatten()
        expected = sklearn.metrics.roc_auc_score(truth.numpy(), pixels.numpy())
        assert stored["p_auroc"] == pytest.approx(expected, abs=1e-9)
        few = min(sum(labels), len(labels) - sum(labels)) < 5
        low, high = stored["i_auroc_interval"]
        assert (low is None) if few else (low <= stored["i_auroc"] <= high)
        assert ("no interval: fewer than 5 good or defective test scans" in stored["notes"]) == few


def test_the_same_seed_gives_the_same_numbers_whatever_the_number_of_cores(
    seal_run: Run, tiny: Config
) -> None:
    # `tiny` has a cache of its own, so that these runs extract all features again.
    before = torch.get_num_threads()
    for count in {1, 2} - {before}:  # `seal_run` has used the number before
        with cores(count):
            again = run_category("seal", replace(tiny, cache=f"{tiny.cache}{count}"), seed=0)
            assert torch.get_num_threads() == count
        for key in set(seal_run.result) - set(VARYING):
            assert again.result[key] == seal_run.result[key], key
        for mode, predictions in seal_run.predictions.items():
            for one, other in zip(predictions, again.predictions[mode], strict=True):
                assert torch.equal(one.anomaly_map, other.anomaly_map)
    assert torch.get_num_threads() == before


def test_a_pool_of_threads_gives_the_features_of_one_bit_for_bit(
    cached: Config,
) -> None:
    config = replace(cached, cache="")
    encoders = load_encoders(config, torch.device("cpu"))
    split = split_of(config.data, "seal", "train")
    with cores(2):
        assert torch.get_num_threads() == 2
        with fixed_threads(1):
            assert torch.get_num_threads() == 1
            pooled = good_features(split, encoders, config)
        assert torch.get_num_threads() == 2
    with cores(1):
        alone = good_features(split, encoders, config)
    for one, other in zip(pooled, alone, strict=True):
        assert one.name == other.name and torch.equal(one.valid, other.valid)
        for m in MODALITIES:
            a, b = one.by_modality[m], other.by_modality[m]
            assert torch.equal(a.tokens, b.tokens)
            for part in ("crow_indices", "col_indices", "values"):
                assert torch.equal(getattr(a.weights, part)(), getattr(b.weights, part)())


def test_another_seed_gives_another_coreset(cached: Config) -> None:
    config = configure(cached, {"only": "none"})
    banks = [fit_detector("seal", config, seed).detector.banks for seed in (0, 0, 1)]
    for m in MODALITIES:
        assert torch.equal(banks[0][m].source, banks[1][m].source)
        assert not torch.equal(banks[0][m].source, banks[2][m].source)


def test_result_survives_its_file(seal_run: Run, tmp_path: Path) -> None:
    path = results.write_result(seal_run.result, tmp_path)
    assert results.read_result(path) == seal_run.result
    assert from_dict(seal_run.result["config"]) == seal_run.config


@pytest.mark.parametrize("content", ["", "{", "[]", '{"category": "seal"}'])
def test_damaged_result_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"result\.json is not a readable result"):
        results.read_result(path)


def test_result_of_another_schema_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"schema": 0}))
    with pytest.raises(InputError, match="has schema 0, this version reads 1; run its category"):
        results.read_result(path)


def test_not_a_number_is_null_in_json(tmp_path: Path) -> None:
    path = results.write_result({"schema": 1, "i_auroc": float("nan"), "curve": (1, 2)}, tmp_path)
    assert json.loads(path.read_text()) == {"schema": 1, "i_auroc": None, "curve": [1, 2]}


def test_split_without_defects_has_no_metrics_and_says_why(
    cached: Config, demo_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "good only"
    for split in ("train", "validation"):
        (root / "seal").mkdir(parents=True, exist_ok=True)
        (root / "seal" / split).symlink_to(demo_root / "seal" / split)
    (root / "seal" / "test").mkdir()
    (root / "seal" / "test" / "good").symlink_to(demo_root / "seal" / "test" / "good")
    run = run_category("seal", replace(cached, data=DataConfig(root=str(root))), seed=0)
    for mode in MODES:
        found = run.result["modes"][mode]
        assert found["i_auroc"] is found["aupro_30"] is None
        assert found["i_auroc_interval"] == [None, None]
        assert found["notes"][0].startswith("I-AUROC is undefined: all scans are of one class")


def test_category_that_does_not_exist_lists_those_that_do(cached: Config) -> None:
    with pytest.raises(InputError, match="holds biscuit, seal"):
        run_category("bagel", cached, seed=0)


def test_one_setting_moves_every_size(cached: Config) -> None:
    config = configure(cached, {"preprocess.image_size": 128, "shots": 2, "cache": ""})
    run = run_category("seal", config, seed=0)
    assert run.samples[0].rgb.shape == (3, 128, 128)
    assert run.predictions["rgb+3d"][0].anomaly_map.shape == (128, 128)
