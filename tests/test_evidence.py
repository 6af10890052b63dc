"""Why a patch is called what it is called, against loops over the bank; blends against `fuse`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lsfa_lib.adaptation.adaptors import adapt
from lsfa_lib.config import TINY, Config, DataConfig
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.detection.detector import fuse, predict
from lsfa_lib.explorer.evidence import (
    blended,
    blended_threshold,
    middle_of,
    patch_at,
    reasons,
    standardised_maps,
)
from lsfa_lib.explorer.fitted import Fitted, fitted
from lsfa_lib.explorer.inspection import Inspection
from lsfa_lib.features.cache import extract
from lsfa_lib.features.extract import load_encoders
from lsfa_lib.features.lazy_scan import read_sample
from lsfa_lib.figures.findings import counts
from lsfa_lib.records import MODALITIES, PatchFeatures, Prediction

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    cache = tmp_path_factory.mktemp("evidence")
    return replace(TINY, data=DataConfig(str(demo_root)), device="cpu", cache=str(cache))


@pytest.fixture(scope="module")
def seal(config: Config) -> Fitted:
    return fitted("seal", config, seed=0)


@pytest.fixture(scope="module")
def encoders(config: Config):
    return load_encoders(config, CPU)


def features_of(name: str, config: Config, encoders) -> PatchFeatures:
    category, split, *_ = name.split("/")
    entries = read_split(Path(config.data.root), category, split).entries  # type: ignore[arg-type]
    (entry,) = [entry for entry in entries if entry.name == name]
    return extract(read_sample(entry, config), encoders, config)


def rows_of(name: str, config: Config, encoders, seal: Fitted, modality: str) -> np.ndarray:
    """Adapted and standardised feature of every patch of a scan, one by one; no shared rows."""
    assert seal.detector.adaptors is not None
    features = adapt(seal.detector.adaptors, features_of(name, config, encoders))
    compact = features.by_modality[modality]  # type: ignore[index]
    with torch.inference_mode():
        dense = (compact.weights @ compact.tokens).double().numpy()
    bank = seal.detector.banks[modality]  # type: ignore[index]
    return (dense - bank.mean) / bank.std


@pytest.mark.parametrize("modality", MODALITIES)
def test_reason_is_the_closest_of_all_bank_rows_and_names_where_it_came_from(
    seal: Fitted, config: Config, encoders, modality: str
) -> None:
    scan = 3
    queries = rows_of(seal.evidence.names[scan], config, encoders, seal, modality)
    bank = seal.detector.banks[modality].rows.double().numpy()
    inside = np.flatnonzero(seal.evidence.nearest[modality][scan] >= 0)
    for patch in inside[:: len(inside) // 12].tolist():
        every = [float(np.sqrt(((queries[patch] - row) ** 2).sum())) for row in bank]
        found = reasons(seal.evidence, scan, patch, seal.detector, seal.train)
        (reason,) = [reason for reason in found if reason.modality == modality]
        assert reason.distance == pytest.approx(min(every), rel=1e-3)
        # The patch of the training scan that the reason names has exactly this feature.
        source = rows_of(reason.source.name, config, encoders, seal, modality)
        again = float(np.linalg.norm(queries[patch] - source[reason.patch]))
        assert again == pytest.approx(min(every), rel=1e-3)


@pytest.mark.parametrize("modality", MODALITIES)
def test_good_distances_are_those_of_every_valid_patch_of_validation(
    seal: Fitted, config: Config, encoders, modality: str
) -> None:
    bank = seal.detector.banks[modality].rows.double().numpy()
    found = []
    for entry in read_split(Path(config.data.root), "seal", "validation").entries:
        rows = rows_of(entry.name, config, encoders, seal, modality)
        valid = features_of(entry.name, config, encoders).valid.numpy()
        found += [min(np.linalg.norm(bank - row, axis=1)) for row in rows[valid]]
    np.testing.assert_allclose(seal.evidence.good[modality], sorted(found), rtol=2e-3, atol=1e-4)
    patch = int(np.flatnonzero(seal.evidence.nearest[modality][0] >= 0)[7])
    chosen = reasons(seal.evidence, 0, patch, seal.detector, seal.train)
    (reason,) = [reason for reason in chosen if reason.modality == modality]
    nearer = sum(d < reason.distance for d in seal.evidence.good[modality].tolist()) / len(found)
    assert reason.nearer == pytest.approx(nearer)
    assert reason.median == pytest.approx(np.median(found), rel=2e-3)
    assert reason.usual == pytest.approx(np.quantile(found, 0.99), rel=2e-3)


def test_no_reason_off_the_part(seal: Fitted) -> None:
    # The corner of a seal's picture is background.
    assert not seal.evidence.valid[0][:4, :4].any()
    assert reasons(seal.evidence, 0, 0, seal.detector, seal.train) == []


def test_pixels_lie_in_the_patch_they_are_counted_to(config: Config) -> None:
    size, px = config.preprocess.image_size, config.projection.patch_px
    number = 0
    for top in range(0, size, px):
        for left in range(0, size, px):
            held = [(row, col) for row in range(top, top + px) for col in range(left, left + px)]
            assert {patch_at(row, col, config) for row, col in held} == {number}
            assert middle_of(number, config) in held
            number += 1
    assert number == config.grid**2


def test_blend_is_the_detector_itself_at_both_ends_and_in_the_middle(
    seal: Fitted, config: Config, encoders
) -> None:
    for scan, name in enumerate(seal.evidence.names):
        told = predict(seal.detector, features_of(name, config, encoders))
        maps = standardised_maps(seal.evidence, scan, seal.detector)
        for mode, position in (("rgb", 0.0), ("rgb+3d", 0.5), ("3d", 1.0)):
            expected = told[mode]  # type: ignore[index]
            assert np.array_equal(blended(maps, position, "mean"), expected.anomaly_map.numpy())
            score = blended(seal.evidence.scores, position, "mean")[scan]
            assert score == expected.image_score


@pytest.mark.parametrize("fusion", ["mean", "sum", "product"])
def test_blend_fuses_as_the_detector_does(fusion: str) -> None:
    random = np.random.default_rng(0)
    maps = {m: random.random((5, 5), dtype=np.float32) for m in MODALITIES}
    rules = replace(TINY.detector, fusion=fusion)
    scores = {"3d": 0.3, "rgb": 2.5}
    modes = fuse({m: Prediction(torch.from_numpy(maps[m]), scores[m]) for m in MODALITIES}, rules)
    for mode, position in (("rgb", 0.0), ("rgb+3d", 0.5), ("3d", 1.0)):
        expected = modes[mode]  # type: ignore[index]
        found = blended(maps, position, fusion)  # type: ignore[arg-type]
        assert np.array_equal(found, expected.anomaly_map.numpy())
        assert blended(scores, position, fusion) == expected.image_score  # type: ignore[arg-type]


def test_blend_between_the_modes_is_between_them() -> None:
    assert blended({"3d": 2.0, "rgb": 10.0}, 0.25, "mean") == 8.0
    assert blended({"3d": 2.0, "rgb": 10.0}, 0.75, "sum") == 2.0 + 5.0
    assert blended({"3d": 2.0, "rgb": 9.0}, 0.75, "product") == pytest.approx(2.0 * 3.0)


def test_threshold_is_the_detectors_in_its_own_modes(seal: Fitted) -> None:
    for mode, position in (("rgb", 0.0), ("rgb+3d", 0.5), ("3d", 1.0)):
        own = seal.detector.thresholds[mode]  # type: ignore[index]
        assert blended_threshold(seal.detector, position) == own
    scores = seal.detector.validation_scores
    mixed = np.array([0.2 * c + 0.8 * s for c, s in zip(scores["rgb"], scores["3d"], strict=True)])
    expected = mixed.mean() + 1.6448536 * mixed.std(ddof=1)
    assert blended_threshold(seal.detector, 0.8) == pytest.approx(expected)


def test_counts_are_those_of_a_result_at_every_threshold(seal: Fitted) -> None:
    inspection, mode = Inspection(seal), "rgb+3d"
    for threshold in (-1e9, *inspection.scores.tolist(), inspection.own_threshold, 1e9):
        inspection.threshold = threshold
        scans = [
            {"name": name, "defective": "/good/" not in name, "scores": {mode: score}}
            for name, score in zip(seal.evidence.names, inspection.scores.tolist(), strict=True)
        ]
        result = {"modes": {mode: {"threshold": threshold}}, "scans": scans}
        assert inspection.counts == counts(result)
