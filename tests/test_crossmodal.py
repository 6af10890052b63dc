"""CFM: loss, maps and their product against loops, the paper's sizes, saved and loaded."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from lsfa_lib.adaptation.schedule import generator_of
from lsfa_lib.config import DEMO, OURS, TINY, CrossmodalConfig
from lsfa_lib.features.geometry import spread
from lsfa_lib.methods.crossmodal import (
    Crossmodal,
    aggregate,
    batch_loss,
    drawn,
    new_mappings,
    predict_crossmodal,
    predict_released,
    residual_map,
    residuals,
    train_crossmodal,
)
from lsfa_lib.records import ModalityFeatures, PatchFeatures
from lsfa_lib.storage.files import InputError

CPU = torch.device("cpu")


def scan(seed: int, grid: int = 6, dims: tuple[int, int] = (10, 6)) -> PatchFeatures:
    """Patches of which some are invalid; colour tokens are shared by four patches each."""
    generator = torch.Generator().manual_seed(seed)
    patches, tokens = grid * grid, (grid // 2) ** 2
    valid = torch.rand(patches, generator=generator) > 0.3
    rows = torch.arange(patches).view(grid, grid)
    owner = (rows // grid // 2 * (grid // 2) + rows % grid // 2).flatten()
    copy = torch.zeros(patches, tokens)
    copy[torch.arange(patches), owner] = 1
    mix = torch.rand(patches, 9, generator=generator) * valid[:, None]
    return PatchFeatures(
        by_modality={
            "3d": ModalityFeatures(
                torch.randn(9, dims[0], generator=generator), mix.to_sparse_csr()
            ),
            "rgb": ModalityFeatures(
                torch.randn(tokens, dims[1], generator=generator), copy.to_sparse_csr()
            ),
        },
        valid=valid,
        grid=(grid, grid),
        name=f"part/train/good/{seed:03}",
    )


def by_hand(mappings: torch.nn.ModuleDict, features: PatchFeatures, p: int) -> tuple[float, float]:
    """Cosines of predicted and own features of one patch, 3D and RGB, by the layers one by one."""
    own = {m: spread(f.weights, f.tokens)[p].double() for m, f in features.by_modality.items()}
    cosines = []
    for m, other in (("3d", "rgb"), ("rgb", "3d")):
        x = own[other].numpy()
        layers = [layer for layer in mappings[m] if isinstance(layer, torch.nn.Linear)]
        for i, layer in enumerate(layers):
            x = layer.weight.detach().double().numpy() @ x + layer.bias.detach().double().numpy()
            if i < 2:
                x = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
        y = own[m].numpy()
        cosines.append(float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)))
    return cosines[0], cosines[1]


def test_the_published_mappings_have_the_published_number_of_weights() -> None:
    mappings = new_mappings({"3d": 1152, "rgb": 768}, 0)
    count = {m: sum(p.numel() for p in part.parameters()) for m, part in mappings.items()}
    assert round(count["3d"] / 1e6, 3) == 2.768
    assert round(count["rgb"] / 1e6, 3) == 2.767
    assert [layer.out_features for layer in mappings["3d"] if hasattr(layer, "out_features")] == [
        960,
        960,
        1152,
    ]


def test_the_loss_is_that_of_a_loop_over_all_patches_of_the_batch() -> None:
    scans = [scan(1), scan(2)]
    mappings = new_mappings({"3d": 10, "rgb": 6}, 3)
    loss = batch_loss(mappings, [drawn(s, 0, torch.Generator()) for s in scans])
    cosines = [
        by_hand(mappings, s, int(p)) for s in scans for p in torch.nonzero(s.valid).flatten()
    ]
    expected = np.mean([1 - a for a, _ in cosines]) + np.mean([1 - b for _, b in cosines])
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_residuals_and_their_product_are_those_of_a_loop() -> None:
    features = scan(4)
    crossmodal = Crossmodal(new_mappings({"3d": 10, "rgb": 6}, 5), ())
    found = residuals(crossmodal, features)
    for p in range(36):
        if not features.valid[p]:
            assert found["3d"][p] == found["rgb"][p] == 0
            continue
        shape, colour = by_hand(crossmodal.mappings, features, p)
        # || a - b || of unit vectors is the root of 2 - 2 cos.
        assert float(found["3d"][p]) == pytest.approx(math.sqrt(2 - 2 * shape), abs=1e-5)
        assert float(found["rgb"][p]) == pytest.approx(math.sqrt(2 - 2 * colour), abs=1e-5)
    assert torch.equal(aggregate(found, "product"), found["3d"] * found["rgb"])
    assert torch.equal(aggregate(found, "sum"), found["3d"] + found["rgb"])
    assert torch.equal(aggregate(found, "max"), torch.maximum(found["3d"], found["rgb"]))
    assert torch.equal(aggregate(found, "from_rgb"), found["3d"])
    assert torch.equal(aggregate(found, "from_3d"), found["rgb"])


def test_the_map_on_the_image_grid_is_the_smoothed_product() -> None:
    """As published: one patch a pixel, Gaussian of sigma 4.7 at 224 px, score the largest pixel."""
    features = scan(6, grid=48)
    config = replace(TINY, preprocess=replace(TINY.preprocess, image_size=48))
    crossmodal = Crossmodal(new_mappings({"3d": 10, "rgb": 6}, 5), ())
    found = predict_crossmodal(crossmodal, features, config)
    product = aggregate(residuals(crossmodal, features), "product").view(48, 48).numpy()
    smoothed = ndimage.gaussian_filter(product, 4.7 * 48 / 224, mode="mirror", truncate=4)
    np.testing.assert_allclose(found.anomaly_map.numpy(), smoothed, atol=2e-5)
    assert found.image_score == float(found.anomaly_map.max())


def test_the_released_scales_are_three_of_one_map() -> None:
    features = scan(6, grid=48)
    config = replace(TINY, preprocess=replace(TINY.preprocess, image_size=48))
    crossmodal = Crossmodal(new_mappings({"3d": 10, "rgb": 6}, 5), ())
    anomaly = residual_map(crossmodal, features, config)
    inside = anomaly[anomaly != 0].mean()
    found = predict_released(crossmodal, features, config)
    assert list(found) == ["rgb+3d", "rgb+3d, P-AUROC map"]
    values, of_pixels = found.values()
    torch.testing.assert_close(values.anomaly_map, anomaly / inside)
    torch.testing.assert_close(of_pixels.anomaly_map, anomaly / anomaly.mean().sqrt())
    score = float(anomaly.max() / inside.sqrt())
    assert values.image_score == of_pixels.image_score == pytest.approx(score)
    empty = replace(features, valid=torch.zeros_like(features.valid))
    for prediction in predict_released(crossmodal, empty, config).values():
        assert prediction.image_score == 0 == float(prediction.anomaly_map.abs().max())


def test_training_finds_what_one_modality_says_of_the_other() -> None:
    """3D features that follow from colour are predicted; those of another scan are not."""
    mix = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))

    def tied(seed: int, broken: bool) -> PatchFeatures:
        features = scan(seed)
        colour = features.by_modality["rgb"]
        shape = spread(colour.weights, colour.tokens).tanh() @ mix
        if broken:
            shape = shape.roll(7, 0)
        own = torch.eye(36).to_sparse_csr()
        return replace(features, by_modality={"3d": ModalityFeatures(shape, own), "rgb": colour})

    config = CrossmodalConfig(epochs=100, learning_rate=1e-2)
    trained = train_crossmodal([tied(i, False) for i in range(8)], config, seed=1)
    assert trained.losses[-1] < 0.5 * trained.losses[0]
    new, broken = tied(20, False), tied(20, True)
    means = [residuals(trained, f)["3d"][f.valid].mean().item() for f in (new, broken)]
    assert means[0] < 0.8 * means[1]


def test_the_same_seed_trains_the_same_and_another_does_not() -> None:
    scans, config = [scan(i) for i in range(5)], CrossmodalConfig(epochs=2, patches_per_scan=8)
    one, same, other = (train_crossmodal(scans, config, seed) for seed in (0, 0, 1))
    assert one.losses == same.losses
    assert one.losses != other.losses
    for a, b in zip(one.mappings.parameters(), same.mappings.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad


def test_drawn_patches_are_as_many_as_asked_for_and_of_the_scan() -> None:
    features = scan(3)
    rows = drawn(features, 5, generator_of(1))
    assert len(rows["3d"].index) == len(rows["rgb"].index) == 5
    whole = drawn(features, 0, generator_of(1))
    pairs, own = (
        torch.cat([found[m].rows[found[m].index] for m in ("3d", "rgb")], dim=1)
        for found in (rows, whole)
    )
    taken = [(own - pair).abs().amax(1).argmin().item() for pair in pairs]
    assert len(set(taken)) == 5
    # Both modalities of the same patch.
    torch.testing.assert_close(pairs, own[taken])
    assert len(drawn(features, 1000, generator_of(1))["3d"].index) == int(features.valid.sum())


def test_scans_without_a_valid_patch_are_left_out_and_none_at_all_is_said() -> None:
    empty = replace(scan(1), valid=torch.zeros(36, dtype=torch.bool))
    config = CrossmodalConfig(epochs=1)
    assert (
        train_crossmodal([empty, scan(2)], config, 0).losses
        == train_crossmodal([scan(2)], config, 0).losses
    )
    with pytest.raises(InputError, match="none of the 1 training scans has a valid patch"):
        train_crossmodal([empty], config, 0)
    found = residuals(train_crossmodal([scan(2)], config, 0), empty)
    assert found["3d"].abs().max() == 0


def test_the_published_settings_are_the_papers() -> None:
    own = OURS.crossmodal
    assert (own.epochs, own.batch, own.learning_rate, own.patches_per_scan) == (50, 4, 1e-3, 0)
    assert (own.aggregation, own.normalisation, own.blur * 224) == ("product", "none", 4.7)
    assert DEMO.crossmodal == replace(own, patches_per_scan=128)
