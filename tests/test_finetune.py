"""Tuned backbones: only what was asked for changes, and the result is a plain encoder again."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finetune_case import CONFIG, DEPTH, DIM, PREFIX, changed, good_samples, narrow_encoders, tuned
from safetensors.torch import save_file

from lsfa_lib.adaptation.finetune import drift, load_finetuned, save_encoders
from lsfa_lib.adaptation.trainable import blocks_of
from lsfa_lib.adaptation.training import train_adaptors
from lsfa_lib.config import TINY, Config, DataConfig, LossWeights, PointEncoderConfig
from lsfa_lib.detection.detector import fit, predict
from lsfa_lib.features.cache import extract
from lsfa_lib.features.checkpoints import fingerprint
from lsfa_lib.features.extract import Encoders, load_encoders
from lsfa_lib.features.image import load_image_encoder
from lsfa_lib.features.point_mae import Architecture, PointMAE
from lsfa_lib.records import MODALITIES, ModalityFeatures, PatchFeatures, Sample
from lsfa_lib.storage.files import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def samples(demo_root: Path) -> list[Sample]:
    return good_samples(demo_root)


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return narrow_encoders()


@pytest.fixture(scope="module")
def lite0(demo_root: Path) -> tuple[Encoders, Config]:
    """EfficientNet-Lite0 and FPFH."""
    fpfh = PointEncoderConfig(model="fpfh", weights="", sha256="")
    data = DataConfig(str(demo_root))
    config = replace(TINY, data=data, device="cpu", cache="", point_encoder=fpfh)
    return load_encoders(config, CPU), config


@pytest.mark.parametrize("blocks", [1, 2])
def test_last_blocks_alone_change(samples, encoders, blocks):
    before = {m: fingerprint(encoders.by_modality[m]) for m in MODALITIES}
    found = tuned(samples, encoders, blocks=blocks)
    for m in MODALITIES:
        own, new = encoders.by_modality[m], found.encoders.by_modality[m]
        last = own.get_submodule(PREFIX[m])[-blocks:]
        names = {
            f"{PREFIX[m]}.{DEPTH - blocks + k}.{name}"
            for k, block in enumerate(last)
            for name, _ in block.named_parameters()
        }
        assert changed(own, new) == names
        assert found.trainable[m] == sum(p.numel() for p in last.parameters())
        assert fingerprint(own) == before[m]
        assert not any(p.requires_grad for p in (*own.parameters(), *new.parameters()))
        assert not any(module.training for module in new.modules())
        assert found.drift[m] > 0
        assert found.encoders.keys[m] != encoders.keys[m]
        assert found.encoders.about[m]["sha256"] == fingerprint(new)
        assert found.encoders.about[m]["finetuned"] == "last_blocks"


def test_one_modality_leaves_the_other_as_it_was(samples, encoders):
    found = tuned(samples, encoders, modalities=("3d",))
    assert found.encoders.by_modality["rgb"] is encoders.by_modality["rgb"]
    assert found.encoders.keys["rgb"] == encoders.keys["rgb"]
    assert "finetuned" not in found.encoders.about["rgb"]
    assert found.trainable["rgb"] == 0 and found.drift["rgb"] == 0.0
    assert found.trainable["3d"] > 0 and found.drift["3d"] > 0


@pytest.mark.parametrize("method", ["last_blocks", "whole", "lora", "adalora"])
def test_nothing_drifts_without_steps_of_any_length(samples, encoders, method):
    config = replace(CONFIG, training=replace(CONFIG.training, steps=2, learning_rate=0.0))
    found = tuned(samples, encoders, config, method=method)
    assert found.drift == {"3d": 0.0, "rgb": 0.0}
    for m in MODALITIES:
        assert not changed(encoders.by_modality[m], found.encoders.by_modality[m])


def test_whole_trains_all_that_the_features_depend_on(samples, encoders):
    config = replace(CONFIG, training=replace(CONFIG.training, learning_rate=1e-4))
    found = tuned(samples, encoders, config, method="whole")
    vit = encoders.by_modality["rgb"].backbone
    count = {m: sum(p.numel() for p in encoders.by_modality[m].parameters()) for m in MODALITIES}
    assert found.trainable["3d"] == count["3d"]
    assert found.trainable["rgb"] == count["rgb"] - sum(p.numel() for p in vit.head.parameters())
    names = {f"backbone.{n}" for n, _ in vit.named_parameters() if not n.startswith("head.")}
    assert changed(encoders.by_modality["rgb"], found.encoders.by_modality["rgb"]) == names


def test_drift_is_one_minus_the_mean_cosine_of_valid_patches(samples):
    generator = torch.Generator().manual_seed(0)

    def features(seed: int) -> PatchFeatures:
        weights = torch.rand(6, 4, generator=torch.Generator().manual_seed(9))
        copies = torch.eye(4)[[0, 0, 1, 3, 2, 2]]
        tokens = torch.randn(4, 5, generator=generator)
        valid = torch.tensor([True, True, False, True, True, True])
        return PatchFeatures(
            {
                "3d": ModalityFeatures(tokens, weights.to_sparse_csr()),
                "rgb": ModalityFeatures(tokens, copies.to_sparse_csr()),
            },
            valid,
            (2, 3),
            str(seed),
        )

    before, after = [features(i) for i in range(2)], [features(i) for i in range(2, 4)]
    for m in MODALITIES:
        each = []
        for old, new in zip(before, after, strict=True):
            a, b = (
                f.by_modality[m].weights.to_dense() @ f.by_modality[m].tokens for f in (old, new)
            )
            for patch in range(6):
                if old.valid[patch]:
                    cosine = float(a[patch] @ b[patch] / (a[patch].norm() * b[patch].norm()))
                    each.append(1 - cosine)
        assert drift(before, after)[m] == pytest.approx(sum(each) / len(each), rel=1e-5)
    assert drift(before, before) == {"3d": 0.0, "rgb": 0.0}


@pytest.mark.parametrize(
    ("method", "rate", "alpha"),
    # AdaLoRA starts from factors near 0 and is slow to leave them.
    [("last_blocks", 1e-3, 16), ("whole", 1e-3, 16), ("lora", 1e-3, 16), ("adalora", 1e-2, 128)],
)
def test_the_loss_falls_below_that_of_the_heads_alone(samples, encoders, method, rate, alpha):
    # Each step sees every patch of the same two scans, so that only the weights differ.
    training = replace(
        CONFIG.training,
        weights=LossWeights(la=1.0, ga=0.0, lc=0.0, gc=0.0),
        steps=10,
        patches_per_scan=0,
        learning_rate=rate,
    )
    adaptor = replace(CONFIG.adaptor, structure="none")
    config = replace(CONFIG, training=training, adaptor=adaptor)
    frozen = [extract(sample, encoders, config) for sample in samples[:2]]
    heads = [step["loss"] for step in train_adaptors(frozen, config, 3).history]
    found = tuned(samples[:2], encoders, config, method=method, alpha=alpha)
    losses = [step["loss"] for step in found.trained.history]
    assert losses[0] == pytest.approx(heads[0], abs=0.01)  # heads see half precision
    assert losses[-1] < heads[-1] - 0.05 < heads[0]


def test_recomputed_activations_train_the_same_weights(samples, encoders):
    states = []
    for recompute in (True, False):
        found = tuned(samples, encoders, method="lora", rank=2, recompute=recompute)
        states.append({m: found.encoders.by_modality[m].state_dict() for m in MODALITIES})
    for m in MODALITIES:
        torch.testing.assert_close(states[0][m], states[1][m], atol=1e-6, rtol=1e-5)


def test_stages_of_a_convolutional_model(samples, lite0):
    encoders, config = lite0
    config = replace(config, training=replace(CONFIG.training, steps=1))
    model = encoders.by_modality["rgb"].backbone
    # Features of reductions 8 and 16 end with entry 4 of the 7 in `blocks`.
    assert blocks_of(encoders.by_modality["rgb"], "rgb", config) == list(model.blocks[:5])
    found = tuned(samples[:2], encoders, config, blocks=2, modalities=("rgb",))
    names = {
        f"backbone.blocks.{k}.{name}"
        for k in (3, 4)
        for name, _ in model.blocks[k].named_parameters()
    }
    assert changed(encoders.by_modality["rgb"], found.encoders.by_modality["rgb"]) == names
    assert found.encoders.by_modality["3d"] is None and found.drift["3d"] == 0.0


def test_lora_of_a_convolutional_model_adds_to_its_pointwise_convolutions(samples, lite0):
    encoders, config = lite0
    config = replace(config, training=replace(CONFIG.training, steps=2))
    found = tuned(samples[:2], encoders, config, method="lora", rank=2, modalities=("rgb",))
    model = encoders.by_modality["rgb"].backbone
    pointwise = {
        f"backbone.{name}.weight": layer
        for name, layer in model.named_modules()
        if name.split("_")[-1] in ("pw", "pwl") and int(name.split(".")[1]) < 5
    }
    assert (
        changed(encoders.by_modality["rgb"], found.encoders.by_modality["rgb"]) == pointwise.keys()
    )
    width = sum(layer.in_channels + layer.out_channels for layer in pointwise.values())
    assert found.trainable["rgb"] == 2 * width


def test_blocks_of_residual_stages():
    image = replace(CONFIG.image_encoder, model="resnet18", weights="random", stages=(0, 2))
    encoder = load_image_encoder(image, 96, CPU)
    model = encoder.backbone
    found = blocks_of(encoder, "rgb", replace(CONFIG, image_encoder=image))
    assert found == [model.layer1, model.layer2]


def test_blocks_after_the_last_tap_are_left_out():
    points = PointMAE(16, 8, architecture=Architecture(DIM, DEPTH, 2, (0, 1)))
    assert blocks_of(points, "3d", CONFIG) == list(points.blocks.blocks[:2])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"blocks": 0}, r"blocks is 0, expected 1 to 3, the blocks of (vit_tiny|point_mae)"),
        ({"blocks": 4}, r"blocks is 4, expected 1 to 3"),
        ({"method": "lora", "rank": 0}, r"rank is 0, expected at least 1"),
        ({"modalities": ()}, r"modalities is empty; name rgb, 3d or both"),
    ],
)
def test_what_does_not_fit_is_refused(samples, encoders, how, message):
    with pytest.raises(InputError, match=message):
        tuned(samples[:2], encoders, **how)


def test_what_does_not_fit_the_demo_backbones_is_refused(samples, lite0):
    encoders, config = lite0
    with pytest.raises(InputError, match=r"FPFH has no weights to train; .* \[rgb\], or choose"):
        tuned(samples, encoders, config)
    with pytest.raises(InputError, match=r"efficientnet_lite0 has no layers for adalora"):
        tuned(samples[:2], encoders, config, method="adalora", modalities=("rgb",))
    with pytest.raises(InputError, match=r"0 training scans"):
        tuned([], encoders, config, modalities=("rgb",))


def test_saved_encoders_come_back_exactly_and_serve_a_detector(samples, encoders, tmp_path):
    found = tuned(samples, encoders, method="lora", modalities=("3d",))
    path = tmp_path / "tuned.safetensors"
    save_encoders(found, path)
    again = load_finetuned(path, encoders, CONFIG)
    assert (
        again.by_modality["rgb"] is encoders.by_modality["rgb"]
        and again.keys == found.encoders.keys
    )
    assert again.about["3d"]["finetuned"] == "tuned.safetensors"
    features = [extract(sample, again, CONFIG) for sample in samples]
    for sample, scan in zip(samples, features, strict=True):
        expected = extract(sample, found.encoders, CONFIG)
        for m in MODALITIES:
            assert torch.equal(scan.by_modality[m].tokens, expected.by_modality[m].tokens)
    assert drift([extract(s, encoders, CONFIG) for s in samples], features) == found.drift
    detector = fit(features[:2], features[2:], CONFIG, 0, found.trained.adaptors)
    prediction = predict(detector, features[3])["rgb+3d+disagreement"]
    assert math.isfinite(prediction.image_score) and prediction.anomaly_map.isfinite().all()


def test_weights_of_other_backbones_are_refused(samples, encoders, lite0, tmp_path):
    found = tuned(samples[:2], encoders)
    path = tmp_path / "tuned.safetensors"
    save_encoders(found, path)
    with pytest.raises(InputError, match=r"has weights of '3d', for which there is no backbone"):
        load_finetuned(path, *lite0)
    save_file({"rgb.backbone.cls_token": torch.zeros(1, 1, DIM)}, path)
    with pytest.raises(InputError, match=r"lacks 'backbone.pos_embed'"):
        load_finetuned(path, encoders, CONFIG)
    save_file({"backbone.cls_token": torch.zeros(1, 1, DIM)}, path)
    with pytest.raises(InputError, match=r"has weights of 'backbone'"):
        load_finetuned(path, encoders, CONFIG)


def test_an_interrupted_training_resumes_but_not_from_another_ones_checkpoint(
    samples, encoders, tmp_path, caplog
):
    config = replace(CONFIG, training=replace(CONFIG.training, steps=3, checkpoint_every=2))
    path = tmp_path / "checkpoint.pt"
    how = {"checkpoint": path, "method": "lora", "rank": 2}
    first = tuned(samples, encoders, config, **how)
    # The checkpoint is of step 2: a mark in it shows that the third step goes on from there.
    content = torch.load(path, weights_only=True)
    assert len(content["history"]) == 2
    content["history"][0]["mark"] = 1.0
    torch.save(content, path)
    again = tuned(samples, encoders, config, **how)
    assert again.trained.history[0]["mark"] == 1.0
    assert again.trained.history[2] == first.trained.history[2]
    assert again.encoders.keys == first.encoders.keys
    assert not caplog.records
    other = tuned(samples, encoders, config, **how, alpha=8)
    assert "mark" not in other.trained.history[0]
    assert "is of another training" in caplog.text


def test_adalora_says_that_it_writes_no_checkpoints(samples, encoders, tmp_path):
    config = replace(CONFIG, training=replace(CONFIG.training, steps=2, checkpoint_every=1))
    path = tmp_path / "checkpoint.pt"
    how = {"method": "adalora", "rank": 2, "modalities": ("rgb",)}
    found = tuned(samples[:2], encoders, config, checkpoint=path, **how)
    assert not path.exists()
    assert found.trained.notes[-1].startswith("no checkpoints")


def test_the_same_seed_gives_the_same_encoders(samples, encoders):
    torch.manual_seed(1)
    first = tuned(samples[:2], encoders, method="lora", rank=2)
    torch.manual_seed(2)
    again = tuned(samples[:2], encoders, method="lora", rank=2)
    assert first.encoders.keys == again.encoders.keys
    other = tuned(samples[:2], encoders, seed=4, method="lora", rank=2)
    assert first.encoders.keys != other.encoders.keys
