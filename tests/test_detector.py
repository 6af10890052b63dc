"""Banks, maps, calibration and fusion of the detector, against closed forms and brute force."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from lsfa_lib.config import OURS
from lsfa_lib.detection import detector as detection
from lsfa_lib.detection.detector import fit, fit_banks, fuse, predict, require_validation
from lsfa_lib.detection.maps import contrast, smooth_map
from lsfa_lib.detection.saved import load, save
from lsfa_lib.records import MODALITIES, ModalityFeatures, PatchFeatures, Prediction
from lsfa_lib.storage.files import InputError

CONFIG = replace(
    OURS,
    preprocess=replace(OURS.preprocess, image_size=32),
    bank=replace(OURS.bank, projection_eps=0.0),
)
CPU = torch.device("cpu")


def scan(seed: int, shift: float = 0.0, valid_share: float = 0.8) -> PatchFeatures:
    """8 x 8 patches; image tokens 4 x 4, each copied to four patches; 16 point groups, mixed."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(64, generator=generator) < valid_share
    copies = torch.zeros(64, 16)
    rows, columns = torch.arange(64) // 8, torch.arange(64) % 8
    copies[torch.arange(64), (rows // 2) * 4 + columns // 2] = 1
    mixed = torch.rand(64, 16, generator=generator) * valid[:, None]
    image = torch.randn(16, 6, generator=generator) + shift
    points = 5 * torch.randn(16, 4, generator=generator) + 20 + shift
    return PatchFeatures(
        {
            "3d": ModalityFeatures(points, mixed.to_sparse_csr()),
            "rgb": ModalityFeatures(image, copies.to_sparse_csr()),
        },
        valid,
        (8, 8),
        f"part/train/good/{seed:03d}",
    )


TRAIN = [scan(seed) for seed in range(6)]
VALIDATION = [scan(seed) for seed in range(10, 15)]


def dense(features: PatchFeatures, modality: str) -> torch.Tensor:
    compact = features.by_modality[modality]  # type: ignore[index]
    return (compact.weights.to_dense() @ compact.tokens)[features.valid]


def test_defect_1_each_modality_has_its_own_mean_and_std() -> None:
    banks = fit_banks(TRAIN, CONFIG, seed=0)
    rows = torch.cat([dense(features, "3d") for features in TRAIN])
    assert banks["3d"].mean == pytest.approx(float(rows.mean()), rel=1e-5)
    assert banks["3d"].std == pytest.approx(float(rows.std()), rel=1e-4)
    assert abs(banks["rgb"].mean) < 1 < banks["3d"].mean


def test_one_modality_has_nothing_to_share() -> None:
    config = replace(CONFIG, bank=replace(CONFIG.bank, statistics="shared"))
    train = [replace(each, by_modality={"3d": each.by_modality["3d"]}) for each in TRAIN]
    alone = fit_banks(train, config, 0)["3d"]
    own = fit_banks(train, CONFIG, 0)["3d"]
    assert torch.equal(alone.rows, own.rows)


def test_released_statistics_take_the_mean_of_3d_and_the_std_of_rgb() -> None:
    own = fit_banks(TRAIN, CONFIG, seed=0)
    config = replace(CONFIG, bank=replace(CONFIG.bank, statistics="shared"))
    shared = fit_banks(TRAIN, config, seed=0)
    for modality in MODALITIES:
        assert shared[modality].mean == pytest.approx(own["3d"].mean)
        assert shared[modality].std == pytest.approx(own["rgb"].std, rel=1e-5)


def test_defect_2_both_banks_keep_the_same_share_of_valid_patches() -> None:
    patches = sum(int(features.valid.sum()) for features in TRAIN)
    banks = fit_banks(TRAIN, CONFIG, seed=0)
    for modality in MODALITIES:
        assert banks[modality].rows.shape[0] == round(0.10 * patches)
    released = replace(CONFIG, bank=replace(CONFIG.bank, keep_ratio_rgb=0.01))
    assert fit_banks(TRAIN, released, seed=0)["rgb"].rows.shape[0] == round(0.01 * patches)


def test_source_names_the_scan_and_patch_each_row_came_from() -> None:
    banks = fit_banks(TRAIN, CONFIG, seed=0)
    for modality, bank in banks.items():
        for row, (index, patch) in zip(bank.rows, bank.source.tolist(), strict=True):
            compact = TRAIN[index].by_modality[modality]
            original = compact.weights.to_dense()[patch] @ compact.tokens
            torch.testing.assert_close(row * bank.std + bank.mean, original, rtol=1e-4, atol=1e-4)


def test_prediction_equals_brute_force() -> None:
    config = replace(
        CONFIG,
        detector=replace(
            CONFIG.detector, calibrate=False, edge_correction=False, blur=0.0, image_score="max"
        ),
    )
    detector = fit(TRAIN, VALIDATION, config, seed=0)
    features = scan(99, shift=1.0)
    found = predict(detector, features)
    for modality in MODALITIES:
        bank = detector.banks[modality]
        rows = (dense(features, modality) - bank.mean) / bank.std
        distances = torch.cdist(rows.double(), bank.rows.double()).min(dim=1).values
        grid = torch.zeros(64, dtype=torch.float64)
        grid[features.valid] = distances
        expected = torch.nn.functional.interpolate(
            grid.view(1, 1, 8, 8), (32, 32), mode="bilinear"
        )[0, 0]
        torch.testing.assert_close(
            found[modality].anomaly_map, expected.float(), rtol=1e-4, atol=1e-5
        )
        assert found[modality].image_score == pytest.approx(float(distances.max()), rel=1e-5)
    mean = (found["3d"].anomaly_map + found["rgb"].anomaly_map) / 2
    torch.testing.assert_close(found["rgb+3d"].anomaly_map, mean)


def test_reweighted_score_is_that_of_the_farthest_patch() -> None:
    detector_config = replace(CONFIG.detector, image_score="reweighted", calibrate=False)
    detector = fit(TRAIN, VALIDATION, replace(CONFIG, detector=detector_config), seed=0)
    features = scan(99, shift=1.0)
    found = predict(detector, features)
    for modality in MODALITIES:
        bank = detector.banks[modality]
        rows = (dense(features, modality) - bank.mean) / bank.std
        every = torch.cdist(rows.double(), bank.rows.double())
        farthest = every.min(dim=1).values.argmax()
        star, nearest = every[farthest].min(dim=0)
        around = torch.cdist(bank.rows[nearest][None].double(), bank.rows.double())[0]
        two = around.topk(2, largest=False).indices
        root = bank.rows.shape[1] ** 0.5
        weight = 1 - torch.exp(star / root) / torch.exp(every[farthest][two] / root).sum()
        assert found[modality].image_score == pytest.approx(float(weight * star), rel=1e-4)


def test_defect_13_one_map_and_one_score_serve_every_metric() -> None:
    config = replace(CONFIG, detector=replace(CONFIG.detector, image_score="top_fraction"))
    found = predict(fit(TRAIN, VALIDATION, config, seed=0), scan(99))
    for modality in MODALITIES:
        # One pixel is the top 0.1 % of 32 x 32: the score is a statistic of the very map.
        scales = fit(TRAIN, VALIDATION, config, seed=0).scales[modality]
        top = float(found[modality].anomaly_map.max()) * scales.map_std + scales.map_mean
        score = found[modality].image_score * scales.score_std + scales.score_mean
        assert score == pytest.approx(top, rel=1e-5)


def test_contrast_is_the_map_minus_the_mean_of_valid_pixels_around() -> None:
    generator = torch.Generator().manual_seed(0)
    anomaly, inside = torch.rand(16, 16, generator=generator), torch.zeros(16, 16, dtype=torch.bool)
    inside[2:14, 4:16] = True
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    expected = torch.zeros(16, 16, dtype=torch.float64)
    # Only pixels that no mirrored border reaches: 4 sigma is 4 px.
    for y in range(4, 12):
        for x in range(4, 12):
            near = ((rows - y).abs() <= 4) & ((columns - x).abs() <= 4) & inside
            away = (rows - y).square() + (columns - x).square()
            weights = torch.where(near, torch.exp(-away / 2.0).double(), 0.0)
            around = (weights * anomaly).sum() / weights.sum()
            expected[y, x] = anomaly[y, x] - around
    found = contrast(anomaly, inside, 1.0)
    np.testing.assert_allclose(found[4:12, 4:12], expected[4:12, 4:12], atol=1e-5)
    assert not found[~inside].any()


def test_a_part_that_is_brighter_all_over_has_no_more_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    anomaly, inside = torch.rand(32, 32, generator=generator), torch.zeros(32, 32, dtype=torch.bool)
    inside[3:29, 3:29] = True
    raised = contrast(anomaly + 5 * inside, inside, 3.0)
    torch.testing.assert_close(raised, contrast(anomaly, inside, 3.0), rtol=0, atol=1e-4)


def test_defect_8_blur_is_done_in_float() -> None:
    patches = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    config = replace(CONFIG, detector=replace(CONFIG.detector, blur=1 / 8, edge_correction=False))
    everywhere = torch.ones(32, 32, dtype=torch.bool)
    found = smooth_map(patches, everywhere, config)
    large = torch.nn.functional.interpolate(patches[None, None], (32, 32), mode="bilinear")
    # scipy's "mirror" is what torchvision calls reflect.
    expected = scipy.ndimage.gaussian_filter(large[0, 0].numpy(), sigma=4, mode="mirror")
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    rounded = smooth_map(
        patches, everywhere, replace(config, detector=replace(config.detector, blur_8bit=True))
    )
    assert 1e-5 < float((rounded - found).abs().max()) < 1 / 255


def test_edge_correction_keeps_a_constant_map_constant_up_to_the_rim() -> None:
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[:, :16] = True
    patches = torch.zeros(8, 8)
    patches[:, :4] = 1.0
    config = replace(CONFIG, detector=replace(CONFIG.detector, blur=2 / 32))
    corrected = smooth_map(patches, inside, config)
    off = replace(config, detector=replace(config.detector, edge_correction=False))
    diluted = smooth_map(patches, inside, off)
    assert float(corrected[:, 15].min()) > 0.93 > 0.6 > float(diluted[:, 15].max())
    torch.testing.assert_close(corrected[:, :6], torch.ones(32, 6), rtol=1e-3, atol=1e-3)
    assert float(corrected[:, 26:].abs().max()) < 1e-3


def test_validation_scans_have_mean_0_and_spread_1_in_each_modality() -> None:
    detector = fit(TRAIN, VALIDATION, CONFIG, seed=0)
    for modality in MODALITIES:
        scores = detector.validation_scores[modality]
        assert np.mean(scores) == pytest.approx(0, abs=1e-5)
        assert np.std(scores, ddof=1) == pytest.approx(1, rel=1e-5)


def test_threshold_rejects_the_asked_share_of_normal_scores() -> None:
    detector = fit(TRAIN, VALIDATION, CONFIG, seed=0)
    for mode, scores in detector.validation_scores.items():
        fitted = scipy.stats.norm(np.mean(scores), np.std(scores, ddof=1))
        assert fitted.sf(detector.thresholds[mode]) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize(("fusion", "score"), [("mean", 2.5), ("sum", 5.0), ("product", 6.0)])
def test_fusion(fusion: str, score: float) -> None:
    found = {
        "3d": Prediction(torch.full((2, 2), 2.0), 2.0),
        "rgb": Prediction(torch.full((2, 2), 3.0), 3.0),
    }
    fused = fuse(found, replace(OURS.detector, fusion=fusion))["rgb+3d"]  # type: ignore[arg-type]
    assert fused.image_score == score
    assert fused.anomaly_map.tolist() == [[score] * 2] * 2


def test_fusion_names_one_evidence_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each evidence alone, all modalities, then one further evidence at a time."""
    values = {"3d": 1.0, "rgb": 2.0, "normals": 6.0, "disagreement": 7.0, "cfm": 14.0}
    found = {e: Prediction(torch.full((2, 2), v), 10 * v) for e, v in values.items()}
    two = {e: found[e] for e in ("3d", "rgb")}
    assert list(fuse(two, OURS.detector)) == ["3d", "rgb", "rgb+3d"]
    assert list(fuse({"3d": found["3d"]}, OURS.detector)) == ["3d"]
    one = {**two, "disagreement": found["disagreement"]}
    assert list(fuse(one, OURS.detector)) == [*fuse(two, OURS.detector), *THIRD]
    monkeypatch.setattr(detection, "MODALITIES", ("3d", "rgb", "normals"))
    means = {
        **{e: values[e] for e in ("3d", "rgb", "normals")},
        "normals+rgb+3d": 3.0,
        "disagreement": 7.0,
        "normals+rgb+3d+disagreement": 4.0,
        "cfm": 14.0,
        "normals+rgb+3d+disagreement+cfm": 6.0,
    }
    fused = fuse(found, OURS.detector)
    assert list(fused) == list(means)
    for mode, mean in means.items():
        assert fused[mode].image_score == pytest.approx(10 * mean)
        assert fused[mode].anomaly_map.tolist() == [[mean] * 2] * 2


THIRD = ["disagreement", "rgb+3d+disagreement"]


def test_product_of_signed_scores_is_refused() -> None:
    config = replace(CONFIG, detector=replace(CONFIG.detector, fusion="product"))
    with pytest.raises(InputError, match="fusion product needs"):
        fit(TRAIN, VALIDATION, config, seed=0)


def test_one_validation_scan_is_too_few() -> None:
    with pytest.raises(InputError, match="1 validation/good scans, at least 2 are needed"):
        fit(TRAIN, VALIDATION[:1], CONFIG, seed=0)
    require_validation(2)


def test_identical_validation_scans_are_centred_only() -> None:
    detector = fit(TRAIN, [VALIDATION[0]] * 3, CONFIG, seed=0)
    assert detector.scales["3d"].score_std == 1.0
    assert detector.validation_scores["3d"] == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("whitening", [0.0, 1.0])
def test_saved_detector_predicts_the_same(tmp_path: Path, whitening: float) -> None:
    config = replace(CONFIG, bank=replace(CONFIG.bank, whitening=whitening))
    detector = fit(TRAIN, VALIDATION, config, seed=0)
    save(detector, tmp_path / "part.safetensors")
    again = load(tmp_path / "part.safetensors", CPU)
    assert again.config == detector.config
    assert again.scales == detector.scales
    before, after = predict(detector, scan(7)), predict(again, scan(7))
    for mode, prediction in before.items():
        assert torch.equal(prediction.anomaly_map, after[mode].anomaly_map)
        assert prediction.image_score == after[mode].image_score


@pytest.mark.parametrize("content", [b"", b"not a detector", None])
def test_broken_detector_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "part.safetensors"
    if content is None:
        save(fit(TRAIN, VALIDATION, CONFIG, seed=0), path)
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a saved detector"):
        load(path, CPU)
