"""The whole path on small demo data, with real encoders on the CPU."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sklearn.metrics
import torch

from lsfa_lib.config import Config, DataConfig, from_dict
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.pipeline import Run, run_category
from lsfa_lib.records import MODES
from lsfa_lib.storage import results
from lsfa_lib.storage.files import InputError

VARYING = ("created", "seconds", "peak_memory_mb", "config")


@pytest.fixture(scope="module")
def run(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    from lsfa_lib.config import TINY

    cache = str(tmp_path_factory.mktemp("cache"))
    data = DataConfig(root=str(demo_root))
    return run_category("seal", replace(TINY, data=data, device="cpu", cache=cache), seed=0)


def test_every_test_scan_is_scored_in_every_mode(run: Run, demo_root: Path) -> None:
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


def test_metrics_are_those_of_the_stored_scores(run: Run) -> None:
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
        low, high = stored["i_auroc_interval"]
        assert low <= stored["i_auroc"] <= high


def test_same_seed_gives_the_same_numbers_twice(run: Run, tiny: Config) -> None:
    # `tiny` has a cache of its own, so that this run extracts everything anew.
    again = run_category("seal", tiny, seed=0)
    for key in set(run.result) - set(VARYING):
        assert again.result[key] == run.result[key], key


def test_another_seed_gives_another_coreset(run: Run, tiny: Config) -> None:
    config = replace(tiny, cache=run.result["config"]["cache"])
    other = run_category("seal", config, seed=1)
    assert other.result["scans"] != run.result["scans"]


def test_result_survives_its_file(run: Run, tmp_path: Path) -> None:
    path = results.write_result(run.result, tmp_path)
    assert results.read_result(path) == run.result
    assert from_dict(run.result["config"]).preset == "tiny"


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
    tiny: Config, demo_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "good only"
    for split in ("train", "validation"):
        (root / "seal").mkdir(parents=True, exist_ok=True)
        (root / "seal" / split).symlink_to(demo_root / "seal" / split)
    (root / "seal" / "test").mkdir()
    (root / "seal" / "test" / "good").symlink_to(demo_root / "seal" / "test" / "good")
    run = run_category("seal", replace(tiny, data=DataConfig(root=str(root))), seed=0)
    for mode in MODES:
        found = run.result["modes"][mode]
        assert found["i_auroc"] is found["aupro_30"] is None
        assert found["i_auroc_interval"] == [None, None]
        assert found["notes"][0].startswith("I-AUROC is undefined: all scans are of one class")


def test_category_that_does_not_exist_lists_those_that_do(tiny: Config) -> None:
    with pytest.raises(InputError, match="holds biscuit, seal"):
        run_category("bagel", tiny, seed=0)


def test_one_setting_moves_every_size(tiny: Config) -> None:
    config = replace(tiny, preprocess=replace(tiny.preprocess, image_size=128))
    run = run_category("seal", config, seed=0)
    assert run.samples[0].rgb.shape == (3, 128, 128)
    assert run.predictions["rgb+3d"][0].anomaly_map.shape == (128, 128)
