"""Training on the complete path: adaptors, third score, few shots, and what must stop a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lsfa_lib.adaptation.adaptors import adapt, disagreement, load_adaptors
from lsfa_lib.adaptation.finetune import finetune, load_finetuned
from lsfa_lib.adaptation.training import train_adaptors
from lsfa_lib.config import Config, configure, with_losses
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.datasets.preprocess import prepare
from lsfa_lib.detection.detector import evidence, predict
from lsfa_lib.detection.saved import load, save
from lsfa_lib.features.extract import load_encoders
from lsfa_lib.features.lazy_scan import good_features
from lsfa_lib.methods.fitting import Fitted, fit_detector, fit_method
from lsfa_lib.methods.lsfa import Learned
from lsfa_lib.methods.table import find_method
from lsfa_lib.pipeline import Run, run_category
from lsfa_lib.records import MODALITIES, PatchFeatures
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import Stopwatch

CPU = torch.device("cpu")


def good(config: Config, split: str) -> list[PatchFeatures]:
    encoders = load_encoders(config, CPU)
    entries = read_split(Path(config.data.root), "seal", split)  # type: ignore[arg-type]
    return good_features(entries, encoders, config)


def fitted(config: Config, seed: int = 0, folder: Path | None = None) -> Fitted:
    return fit_method(find_method("lsfa"), "seal", config, seed, Stopwatch(), folder)


def learned(config: Config) -> Learned:
    return fit_detector("seal", config, 0)


def test_a_run_keeps_its_adaptors_and_its_history(
    seal_run: Run, seal_folder: Path, cached: Config
) -> None:
    run = seal_run
    kept = load_adaptors(seal_folder / "adaptors.safetensors", CPU)
    adaptors = learned(cached).detector.adaptors
    assert adaptors is not None
    for name, tensor in adaptors.state_dict().items():
        assert torch.equal(tensor, kept.state_dict()[name])
    assert {path.name for path in seal_folder.iterdir()} == {
        "adaptors.safetensors",
        "adaptors.json",
    }
    assert len(run.result["training"]["history"]) == cached.training.steps
    assert list(run.result["modes"]) == [
        "3d",
        "rgb",
        "rgb+3d",
        "disagreement",
        "rgb+3d+disagreement",
    ]
    assert len(run.result["train_scans"]) == 6


def test_saved_detector_with_adaptors_predicts_the_same(cached: Config, tmp_path: Path) -> None:
    detector = learned(cached).detector
    save(detector, tmp_path / "detector.safetensors")
    again = load(tmp_path / "detector.safetensors", CPU)
    for features in good(cached, "validation"):
        first, second = predict(detector, features), predict(again, features)
        assert list(first) == list(second) == list(detector.modes)
        for mode in first:
            assert torch.equal(first[mode].anomaly_map, second[mode].anomaly_map)
            assert first[mode].image_score == second[mode].image_score


def test_disagreement_is_an_equal_third_on_the_scale_of_validation(cached: Config) -> None:
    plain = replace(cached, detector=replace(cached.detector, blur=0.0, edge_correction=False))
    detector = learned(plain).detector
    validation = good(plain, "validation")
    found = [predict(detector, features) for features in validation]
    for prediction in found:
        parts = [prediction[e].anomaly_map for e in (*MODALITIES, "disagreement")]
        torch.testing.assert_close(
            prediction["rgb+3d+disagreement"].anomaly_map, torch.stack(parts).mean(0)
        )
        parts = [prediction[e].image_score for e in (*MODALITIES, "disagreement")]
        assert prediction["rgb+3d+disagreement"].image_score == pytest.approx(sum(parts) / 3)
    scores = torch.tensor([p["disagreement"].image_score for p in found], dtype=torch.float64)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-6)
    assert float(scores.std()) == pytest.approx(1, abs=1e-6)
    # Raw, a patch's value is 1 - cos of its own projections, in the middle of its pixels too.
    assert detector.adaptors is not None
    raw = evidence(detector, validation[0])["disagreement"]
    values = disagreement(detector.adaptors, adapt(detector.adaptors, validation[0]))
    assert float(raw.anomaly_map.max()) <= float(values.max()) + 1e-6 <= 2 + 1e-6


def test_without_alignment_there_is_no_third_score(cached: Config) -> None:
    assert learned(with_losses(cached, "IFC")).detector.modes == ("3d", "rgb", "rgb+3d")
    off = replace(cached, detector=replace(cached.detector, disagreement=False))
    assert learned(off).detector.modes == ("3d", "rgb", "rgb+3d")


def test_none_leaves_features_unchanged(cached: Config) -> None:
    found = learned(with_losses(cached, "none"))
    assert found.trained is None and found.detector.adaptors is None


def test_shots_are_drawn_by_the_seed_and_named(cached: Config) -> None:
    few = with_losses(replace(cached, shots=3), "none")
    names = [fitted(few, seed).train for seed in (0, 0, 1, 2, 3)]
    assert names[0] == names[1] and len({frozenset(drawn) for drawn in names}) > 1
    every = fitted(replace(few, shots=0)).train
    assert all(len(drawn) == 3 and set(drawn) < set(every) for drawn in names)
    with pytest.raises(InputError, match=r"7 shots of 6 scans; ask for 1 to 6"):
        learned(replace(few, shots=7))


def test_one_shot_trains_local_alignment_alone(cached: Config) -> None:
    one = replace(cached, shots=1)
    with pytest.raises(InputError, match="1 training scan, but LC and GC"):
        learned(one)
    assert learned(with_losses(one, "LA")).trained is not None


TUNED = {"finetune.method": "last_blocks", "finetune.modalities": ["rgb"], "training.steps": 2}


@pytest.mark.parametrize("fields", [{}, TUNED], ids=["adaptors", "backbones"])
def test_a_training_that_stops_leaves_its_last_good_adaptors(
    cached: Config, tmp_path: Path, fields: dict[str, Any]
) -> None:
    fields = {**fields, "training.learning_rate": 1e18, "training.steps": 20}
    wild = configure(cached, fields)
    with pytest.raises(InputError, match=r"step \d+ of 20: .*adaptors-last-good\.safetensors"):
        fitted(wild, folder=tmp_path)
    kept = load_adaptors(tmp_path / "adaptors-last-good.safetensors", CPU)
    assert all(bool(tensor.isfinite().all()) for tensor in kept.state_dict().values())


def test_an_interrupted_run_resumes_from_its_checkpoint(cached: Config, tmp_path: Path) -> None:
    config = replace(cached, training=replace(cached.training, checkpoint_every=2))
    complete = learned(config).detector.adaptors
    kept = tmp_path / "checkpoint.pt"
    longer = replace(config, training=replace(config.training, steps=5))
    changed = good(config, "train")
    changed[0].by_modality["3d"].tokens.mul_(1.5)
    # Of another number of steps, or of other scans with the same names: replaced.
    for train, own in ((good(config, "train"), longer), (changed, config)):
        train_adaptors(train, own, 0, kept)
        assert kept.exists()
        again = fitted(config, folder=tmp_path).predict.detector.adaptors
        assert complete is not None and again is not None and not kept.exists()
        for name, tensor in complete.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name])


def test_a_config_may_train_the_backbone_instead_of_an_adaptor(
    tiny: Config, tmp_path: Path
) -> None:
    config = configure(tiny, TUNED)
    found = run_category("seal", config, 1, tmp_path / "run")
    tuned = found.result["finetuned"]
    assert tuned["drift"]["3d"] == 0.0 and 0.0 < tuned["drift"]["rgb"] < 1.0
    assert tuned["trainable"]["3d"] == 0 and tuned["trainable"]["rgb"] > 0
    assert found.result["weights"]["rgb"]["finetuned"] == "last_blocks"
    assert found.result["weights"]["3d"] == run_weights(tiny)["3d"]
    assert len(found.result["training"]["history"]) == 2
    assert "disagreement" in found.result["modes"]
    kept = tmp_path / "run" / "backbones.safetensors"
    again = load_finetuned(kept, load_encoders(config, CPU), config)
    assert again.keys["rgb"] != load_encoders(config, CPU).keys["rgb"]
    # Only the frozen features may stand in the cache, if any.
    keys = {path.parent.name for path in Path(tiny.cache).glob("*/*.safetensors")}
    assert keys <= set(load_encoders(tiny, CPU).keys.values())
    frozen = run_category("seal", with_losses(tiny, "none"), seed=1).result
    assert frozen["finetuned"] is None
    assert frozen["scans"][0]["scores"]["rgb"] != found.result["scans"][0]["scores"]["rgb"]


def test_an_interrupted_fine_tuning_resumes_from_its_checkpoint(
    cached: Config, tmp_path: Path
) -> None:
    config = configure(cached, {**TUNED, "training.checkpoint_every": 1})
    kept = tmp_path / "checkpoint.pt"
    scans = read_split(Path(config.data.root), "seal", "train")
    samples = [prepare(scan, config.preprocess) for scan in scans]
    finetune(samples, load_encoders(config, CPU), config, 0, kept)
    content = torch.load(kept, weights_only=True)
    content["history"][0]["mark"] = 1.0
    torch.save(content, kept)
    found = fitted(config, folder=tmp_path).predict
    assert found.trained.history[0]["mark"] == 1.0
    assert not kept.exists()


def run_weights(config: Config) -> dict:
    return load_encoders(config, CPU).about


def test_training_a_backbone_without_a_loss_is_refused(cached: Config) -> None:
    with pytest.raises(InputError, match=r"finetune\.method whole without a loss trains nothing"):
        configure(cached, {"only": "none", "finetune.method": "whole"})
