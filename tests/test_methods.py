"""Every method on tiny scans: what it returns and costs, and what a wrong name is answered with."""

import gc
import json
import math
import re
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from typer.testing import CliRunner

import lsfa_lib.methods
from lsfa_lib.adaptation.adaptors import scan_rows
from lsfa_lib.cli.app import app
from lsfa_lib.config import (
    TINY,
    AdaptorConfig,
    Config,
    ImageEncoderConfig,
    configure,
    resolve_device,
    with_losses,
)
from lsfa_lib.datasets.categories import categories
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.detection.building import bank_of
from lsfa_lib.detection.detector import evidence
from lsfa_lib.detection.detector import fit as fit_detector
from lsfa_lib.detection.detector import predict as predict_detector
from lsfa_lib.detection.memory import rows_of_modality, search_bank
from lsfa_lib.evaluation import metrics
from lsfa_lib.features.extract import distinct_rows, load_encoders
from lsfa_lib.features.geometry import spread
from lsfa_lib.features.lazy_scan import LazyScan, fixed_threads, lazy_scan
from lsfa_lib.methods import METHODS, fitting, m3dm, patchcore, variation
from lsfa_lib.methods.cost import resident_mb
from lsfa_lib.methods.crossmodal import residuals, train_crossmodal
from lsfa_lib.methods.fitting import fit_detector as fit_lsfa
from lsfa_lib.methods.fitting import fit_method, require_memory, scored
from lsfa_lib.methods.method import Good, Method, Predict
from lsfa_lib.methods.svm_fusion import svm_weights
from lsfa_lib.methods.table import find_method
from lsfa_lib.methods.truncated_backbones import BLOCKS, TAPS, complete, deployed, narrowed
from lsfa_lib.pipeline import Run, run_category
from lsfa_lib.records import MODALITIES, Prediction
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import Stopwatch, free_memory, read_result

DOCUMENT = Path(__file__).parents[1] / "docs" / "adding_a_method.md"
QUICK = [name for name, own in METHODS.items() if not own.needs]


@pytest.fixture(scope="module")
def good(cached: Config) -> Good:
    """The seal's good scans."""
    encoders = load_encoders(cached, resolve_device("cpu"))
    train, validation = (
        [lazy_scan(e, encoders, cached) for e in split_of(cached.data, "seal", part).entries]
        for part in ("train", "validation")
    )
    return Good(train, validation, cached, 0, encoders)


def test_scans_that_exceed_the_free_memory_are_named_before_they_are_read(good: Good) -> None:
    features = good.train[0].features
    tokens = sum(4 * part.tokens.numel() for part in features.by_modality.values())
    weights = sum(12 * part.weights.values().numel() for part in features.by_modality.values())
    unadapted = with_losses(good.config, "none")
    require_memory(features, 300, unadapted, 300 * (tokens + weights))
    with pytest.raises(InputError, match=r"300 scans need [\d.]+ GB .* lower image_encoder\.size"):
        require_memory(features, 300, unadapted, 300 * (tokens + weights) - 1)
    adapted = with_losses(good.config, "IFC")
    rows = [4 * distinct_rows(features, m)[0].numel() for m in MODALITIES]
    needed = 300 * (tokens + weights + max(sum(rows), 2 * max(rows)))
    require_memory(features, 300, adapted, needed)
    with pytest.raises(InputError, match="300 scans"):
        require_memory(features, 300, adapted, needed - 1)


def test_a_fit_that_exceeds_the_free_memory_ends_after_its_first_scan(
    cached: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "free_memory", lambda: 100_000)
    with pytest.raises(InputError, match=r"9 scans need [\d.]+ GB .* or set shots"):
        fit_method(METHODS["unadapted"], "seal", cached, 0, Stopwatch())


def test_the_limit_of_a_container_counts_as_free_memory(tmp_path: Path) -> None:
    machine = free_memory(tmp_path)
    assert machine == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 150000\n")
    for limit, expected in (("1000000", 450_000), ("600000", 50_000), ("400000", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert free_memory(tmp_path) == expected
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 1_000_000


def test_a_fitted_method_holds_no_features_of_its_scans(cached: Config) -> None:
    before = [each for each in gc.get_objects() if isinstance(each, LazyScan)]
    fitted = fit_method(METHODS["cfm"], "seal", cached, 0, Stopwatch())
    scans = [each for each in gc.get_objects() if isinstance(each, LazyScan)]
    own = [each for each in scans if not any(each is other for other in before)]
    # `predict` refers to them.
    assert len(own) >= len(fitted.train)
    assert not any(each.kept for each in own)


def test_stages_inside_a_stage_are_counted_once() -> None:
    clock = Stopwatch()
    start = time.perf_counter()
    with clock("outer"):
        time.sleep(0.02)
        with clock("inner"):
            time.sleep(0.05)
        with clock("inner"):
            time.sleep(0.01)
    total = time.perf_counter() - start
    assert clock.seconds["inner"] >= 0.06 and clock.seconds["outer"] >= 0.02
    assert sum(clock.seconds.values()) == pytest.approx(total, abs=5e-3)


def fitted(name: str, good: Good) -> Predict:
    """The method of that name, fitted to the good scans with its own config."""
    method = find_method(name)
    with fixed_threads(good.config.threads):
        return method.call("fit", replace(good, config=method.call("config", good.config)))


@pytest.mark.parametrize("name", QUICK)
def test_every_method_makes_a_result_with_its_cost(name: str, cached: Config) -> None:
    config = replace(cached, method=name, timed_scans=2)
    if name.endswith(("_ae", "_gan")):
        config = replace(config, shots=2)
    run = run_category("seal", config, seed=0)
    result, own = run.result, find_method(name)
    assert result["method"] == {"title": own.title, "source": own.source}
    assert set(result["weights"]) == set(own.modalities)
    for mode, values in result["modes"].items():
        maps = [p.anomaly_map for p in run.predictions[mode]]
        assert all(m.shape == (96, 96) and bool(m.isfinite().all()) for m in maps)
        scores = [scan["scores"][mode] for scan in result["scans"]]
        assert len(set(scores)) == len(scores) == 9
        labels = [scan["defective"] for scan in result["scans"]]
        assert values["i_auroc"] == pytest.approx(metrics.auroc(scores, labels))
        assert math.isfinite(values["aupro_30"]) and math.isfinite(values["threshold"])
    stages = {"read", "prepare", "detect", *(f"features {m}" for m in own.modalities)}
    assert set(result["cost"]["seconds"]) == stages
    assert all(seconds > 0 for seconds in result["cost"]["seconds"].values())
    assert result["cost"]["scans"] == 2


TRAINED = [
    "lsfa_cfm_third",
    "lsfa_svm",
    "m3dm",
    "m3dm_shared",
    "depth_ae",
    "voxel_ae",
    "depth_gan",
    "voxel_gan",
    "ast",
    "differnet",
    "st_3d",
]


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_seed_fits_the_same_method(name: str, good: Good) -> None:
    """Those that train; of the others the coreset alone is drawn."""
    if needs := find_method(name).needs:
        pytest.importorskip(needs)
    few = replace(good, train=good.train[:3])
    one, again = (fitted(name, few)(good.validation[0]) for _ in range(2))
    for mode, found in one.items():
        assert found.image_score == again[mode].image_score
        assert torch.equal(found.anomaly_map, again[mode].anomaly_map)


@pytest.mark.parametrize("name", ["unadapted", "btf", "m3dm", "cfm", "voxel_vm", "depth_ae"])
def test_one_training_scan_gives_finite_scores(name: str, good: Good) -> None:
    one = replace(good, train=good.train[:1])
    for prediction in scored(fitted(name, one), good.validation[0]).values():
        assert prediction.anomaly_map.shape == (96, 96)


@pytest.mark.parametrize("name", ["depth_vm", "voxel_vm", "depth_ae", "voxel_ae"])
def test_constant_depth_gives_finite_scores(name: str, good: Good) -> None:
    def flat(scan: LazyScan) -> LazyScan:
        sample = scan.sample
        level = torch.where(sample.valid, 0.5, 0.0)
        xyz = torch.cat([sample.xyz[:2], level[None].to(sample.xyz)])
        same = replace(sample, xyz=xyz)
        return LazyScan(scan.name, good.config, lambda: same, lambda read: scan.features)

    predict = fitted(name, replace(good, train=[flat(scan) for scan in good.train[:2]]))
    scored(predict, flat(good.validation[0]))
    # A part that is not flat is farther from them than one that is.
    (own,), (other,) = (predict(s).values() for s in (flat(good.train[0]), good.train[0]))
    assert own.image_score <= other.image_score


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["score", "map"])
def test_what_is_not_finite_is_said_and_not_ranked(odd: float, where: str, good: Good) -> None:
    scan = good.validation[0]
    values = torch.zeros(96, 96)
    values[3, 4] = odd if where == "map" else 1.0
    score = odd if where == "score" else 1.0
    with pytest.raises(InputError, match=rf"{scan.name} a score that is not finite \(rgb\)"):
        scored(lambda scan: {"rgb": Prediction(values, score)}, scan)


def test_ours_is_the_same_as_any_method_and_by_itself(
    cached: Config, good: Good, seal_run: Run
) -> None:
    predict, detector = fitted("lsfa", good), fit_lsfa("seal", cached, 0).detector
    entry = split_of(cached.data, "seal", "test").entries[0]
    scan = lazy_scan(entry, good.encoders, cached)
    for found in (predict(scan), predict_detector(detector, scan.features)):
        assert list(found) == list(seal_run.predictions)
        for mode, predictions in seal_run.predictions.items():
            own = predictions[0]
            assert found[mode].image_score == pytest.approx(own.image_score, rel=1e-6)
            torch.testing.assert_close(found[mode].anomaly_map, own.anomaly_map)


def test_unadapted_is_ours_without_a_loss(cached: Config) -> None:
    runs = [
        run_category("seal", config, 0).result
        for config in (replace(cached, method="unadapted"), with_losses(cached, "none"))
    ]
    assert runs[0]["scans"] == runs[1]["scans"]
    assert runs[0]["training"] is runs[1]["training"] is None


def test_one_bank_is_the_detectors_bank_of_that_modality(good: Good) -> None:
    config = patchcore.as_published(good.config)
    train = [scan.features for scan in good.train]
    detector = fit_detector(train, [s.features for s in good.validation], config, 0)
    scan = good.validation[0]
    own = fitted("patchcore_rgb", good)(scan)["rgb"]
    other = predict_detector(detector, scan.features)["rgb"]
    assert own.image_score == pytest.approx(other.image_score, rel=1e-5)
    torch.testing.assert_close(own.anomaly_map, other.anomaly_map)


def test_btf_searches_both_features_of_a_patch_in_one_row(good: Good) -> None:
    features = good.validation[0].features
    rows, index = patchcore.joined_rows(features)
    compact = features.by_modality
    joined = torch.cat([spread(compact[m].weights, compact[m].tokens) for m in MODALITIES], 1)
    for p in range(len(features.valid)):
        if features.valid[p]:
            assert torch.equal(rows[index[p]], joined[p])
        else:
            assert index[p] == -1
    train, own = [scan.features for scan in good.train], good.config.bank
    bank = bank_of(train, patchcore.joined_rows, own.keep_ratio, own, 0)
    found = search_bank(bank, patchcore.joined_rows, features, reweighted=True)
    standard = (rows - bank.mean) / bank.std
    every = torch.cdist(standard.double(), bank.rows.double())
    valid, expected = features.valid, every.min(1)
    torch.testing.assert_close(
        found.distances[valid].double(), expected.values, rtol=1e-4, atol=1e-5
    )
    assert torch.equal(found.nearest[valid], expected.indices)
    assert bool((found.nearest[~valid] == -1).all() and (found.distances[~valid] == 0).all())
    plain = search_bank(bank, patchcore.joined_rows, features, reweighted=False)
    assert found.largest < plain.largest == pytest.approx(float(expected.values.max()), rel=1e-5)


def test_m3dm_adds_the_scores_of_two_banks(good: Good) -> None:
    own = good.config.bank
    train = [scan.features for scan in good.train]
    scan = good.validation[1]
    score = 0.0
    for m in MODALITIES:
        rows_of = rows_of_modality(m)
        bank = bank_of(train, rows_of, own.keep_ratio, own, 0)
        score += search_bank(bank, rows_of, scan.features, reweighted=True).largest
    assert fitted("m3dm_sum", good)(scan)["rgb+3d"].image_score == pytest.approx(score)


def test_m3dms_decision_grows_with_every_distance(good: Good) -> None:
    """Its one-class SVM is linear: a weighted sum of distances, no weight below zero."""
    distances = np.abs(np.random.default_rng(0).normal(2, 0.3, (200, 3)))
    weights = svm_weights(distances, 0)
    assert weights.shape == (3,)
    assert (weights > 0).all()


def test_fused_features_bring_the_two_views_of_a_patch_together(good: Good) -> None:
    train = [scan.features for scan in good.train[:2]]
    config = configure(good.config, {"training.steps": 20, "training.batch": 2})
    untrained = replace(config, training=replace(config.training, steps=1, learning_rate=0.0))

    def found(fusion: m3dm.Fusion) -> float:
        """Share of patches whose colour finds its own shape among all."""
        rows = scan_rows(train[0], AdaptorConfig(attend="valid"))
        a, b = (
            torch.nn.functional.normalize(
                fusion.heads[m](fusion.mlps[m](rows[m].rows))[rows[m].index], dim=1
            )
            for m in MODALITIES
        )
        similar = a @ b.T
        # Patches that share a colour token are told apart by shape alone: any of them counts.
        best = rows["rgb"].index[similar.argmax(1)]
        return float((best == rows["rgb"].index).float().mean())

    own, start = (m3dm.train_fusion(train.__getitem__, 2, c, 0) for c in (config, untrained))
    assert found(own) > 2 * found(start)


def test_a_shared_fusion_is_trained_on_every_category(good: Good, tmp_path: Path) -> None:
    scan = good.validation[0]

    def score(name: str, **data: Path) -> float:
        config = configure(good.config, {f"data.{key}": value for key, value in data.items()})
        own = replace(good, config=find_method(name).call("config", config))
        return find_method(name).call("fit", own)(scan)["rgb+3d"].image_score

    alone = tmp_path / "data"
    alone.mkdir()
    (alone / "seal").symlink_to((Path(good.config.data.root) / "seal").resolve())
    assert score("m3dm_shared", root=alone) == score("m3dm")
    assert len(categories(Path(good.config.data.root))) > 1
    assert score("m3dm_shared") != score("m3dm")


def test_svms_weigh_the_scores_and_maps_of_both_modalities(good: Good) -> None:
    detector = fit_lsfa("seal", good.config, 0).detector
    predict = fitted("lsfa_svm", good)
    found = [evidence(detector, scan.features) for scan in good.validation]
    fused = [predict(scan)["rgb+3d"] for scan in good.validation]
    scores = np.array([[each[m].image_score for m in MODALITIES] for each in found])
    weights, _, rank, _ = np.linalg.lstsq(scores, [each.image_score for each in fused])
    assert rank == 2 and (weights > 0).all()
    np.testing.assert_allclose(scores @ weights, [each.image_score for each in fused], rtol=1e-5)


def test_the_variation_model_is_the_distance_in_standard_deviations() -> None:
    generator = torch.Generator().manual_seed(0)
    grids = torch.randn(6, 1, 5, 5, generator=generator)
    grids[:, 0, 2, 2] = 1.0  # a cell without any spread
    distance = variation.variation(grids, 0)
    new = torch.randn(1, 5, 5, generator=generator)
    values, std = grids.numpy(), grids.numpy().std(0)
    floor = 0.01 * std.max()
    for r in range(5):
        for c in range(5):
            expected = abs(new[0, r, c].item() - values[:, 0, r, c].mean())
            expected /= max(std[0, r, c], floor)
            assert float(distance(new)[0][0, r, c]) == pytest.approx(expected, rel=1e-4)


def test_voxels_hold_the_points(good: Good) -> None:
    sample = good.train[0].sample
    far = variation.half_depth([sample])
    grid = variation.voxels(sample, far)[0]
    depth, valid = sample.xyz[2].numpy(), sample.valid.numpy()
    median = float(sample.xyz[2][sample.valid].median())
    points = set()
    for r, c in zip(*valid.nonzero(), strict=True):
        layer = ((depth[r, c] - median) / np.float32(far) + 1) / 2 * (variation.SIDE - 1)
        points.add((round(float(layer)), *(at * variation.SIDE // len(valid) for at in (r, c))))
    assert {tuple(cell) for cell in grid.nonzero().tolist()} == points
    assert float(grid.sum()) == len(points)


def test_a_cell_is_the_mean_depth_of_its_measured_pixels(
    good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variation, "SIDE", 32)
    sample = good.train[0].sample
    side = len(sample.valid) // variation.SIDE * variation.SIDE  # windows without overlap
    whole = {"valid": sample.valid, "defect": sample.defect}
    cut = replace(
        sample,
        xyz=sample.xyz[:, :side, :side],
        **{name: part[:side, :side] for name, part in whole.items()},
    )
    found = variation.depth_image(cut, 0.01)[0].numpy()
    each = side // variation.SIDE
    depth = np.where(cut.valid, cut.xyz[2], np.nan).reshape(*[variation.SIDE, each] * 2)
    median = float(cut.xyz[2][cut.valid].median())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # cells without a measured pixel
        expected = (np.nanmean(depth, axis=(1, 3)) - median) / 0.01
    assert 0 < np.isnan(expected).mean() < 1
    np.testing.assert_allclose(found, np.nan_to_num(expected), atol=1e-4)


@pytest.mark.parametrize("cut", ["full", "M", "S", "T"])
def test_a_cut_takes_from_complete_backbones_what_the_short_ones_give(
    cut: str, cached: Config
) -> None:
    """On a ViT and the small Point-MAE: one pass of the complete backbones serves every cut."""
    vit = ImageEncoderConfig(model="vit_tiny_patch16_224", weights="random")
    config = replace(cached, image_encoder=vit, cache="")
    config = replace(config, crossmodal=replace(config.crossmodal, cut=cut))
    entry = split_of(cached.data, "seal", "train").entries[0]
    found, sizes = [], []
    for own in (complete(config), deployed(config)):
        encoders = load_encoders(own, resolve_device("cpu"))
        scan = lazy_scan(entry, encoders, own)
        found.append(narrowed(scan.features, own))
        image, points = encoders.by_modality["rgb"], encoders.by_modality["3d"]
        sizes.append((len(image.backbone.blocks), len(points.blocks.blocks)))
    for m in MODALITIES:
        torch.testing.assert_close(found[0].by_modality[m].tokens, found[1].by_modality[m].tokens)
    assert sizes[0] == (12, 6)
    assert sizes[1] == {"full": (12, 6), "M": (8, 4), "S": (4, 2), "T": (1, 1)}[cut]


@pytest.mark.parametrize(("cut", "stages"), [("full", (1, 2)), ("M", (0, 1)), ("T", (0,))])
def test_a_cut_of_a_convolutional_model_takes_earlier_stages_once(
    cut: str, stages: tuple[int, ...], cached: Config
) -> None:
    config = replace(cached, image_encoder=replace(cached.image_encoder, stages=(1, 2)))
    own = complete(replace(config, crossmodal=replace(config.crossmodal, cut=cut)))
    assert own.image_encoder.stages == deployed(own).image_encoder.stages == stages
    assert deployed(own).point_encoder.taps == TAPS[6][cut]
    assert own.point_encoder.taps == (0, 1, 2, 3, 5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"image_encoder.blocks": [12]},
            "image_encoder.blocks has 12, expected 0 to 11 for 'vit_tiny_patch16_224'",
        ),
        (
            {"image_encoder.blocks": [0], "image_encoder.stages": [2]},
            "image_encoder.stages and .blocks are both set for 'vit_tiny_patch16_224'",
        ),
        (
            {"point_encoder.taps": [1, 6]},
            "point_encoder.taps has 6, expected 0 to 5 for 'point_mae_small'",
        ),
    ],
)
def test_blocks_that_are_not_there_are_named(
    changed: dict[str, list[int]], said: str, cached: Config
) -> None:
    vit = {"image_encoder.model": "vit_tiny_patch16_224", "image_encoder.weights": "random"}
    config = configure(cached, {**vit, "image_encoder.stages": [], **changed})
    with pytest.raises(InputError, match=re.escape(said)):
        load_encoders(config, resolve_device("cpu"))


def test_cuts_are_the_papers() -> None:
    assert TAPS[12] == {
        "full": (3, 7, 11),
        "M": (1, 4, 7),
        "S": (1, 2, 3),
        "T": (0,),
    }
    assert {name: blocks[-1] + 1 for name, blocks in BLOCKS.items()} == {
        "full": 12,
        "M": 8,
        "S": 4,
        "T": 1,
    }


def test_cuts_share_one_folder_of_the_cache(tiny: Config) -> None:
    """The second cut extracts no shape features again."""
    method, folders = find_method("cfm"), []
    for cut in ("M", "T"):
        config = replace(tiny, shots=1, crossmodal=replace(tiny.crossmodal, cut=cut))
        fit_method(method, "seal", method.call("config", config), 0, Stopwatch())
        folders.append({path.name for path in Path(tiny.cache).iterdir()})
    new = folders[1] - folders[0]
    # EfficientNet's stages have grids of their own; all blocks of the points exist already.
    assert len(folders[0]) == 2 and len(new) == 1
    (about,) = [json.loads((Path(tiny.cache) / n / "about.json").read_text()) for n in new]
    assert about["model"] == "efficientnet_lite0"


def test_released_scales_change_p_auroc_and_scores_alone_where_they_should(cached: Config) -> None:
    own = replace(cached, method="cfm")
    plain, released = (
        run_category("seal", configure(own, {"crossmodal.normalisation": scale}), seed=0)
        for scale in ("none", "released")
    )
    maps = [run.predictions["rgb+3d"] for run in (plain, released)]
    masks = [sample.defect for sample in plain.samples]
    aupro = [m.anomaly_map / m.anomaly_map[m.anomaly_map != 0].mean() for m in maps[0]]
    p_auroc = [m.anomaly_map / m.anomaly_map.mean().sqrt() for m in maps[0]]
    modes = released.result["modes"]
    assert list(modes) == ["rgb+3d", "rgb+3d, P-AUROC map"]
    values, of_pixels = modes.values()
    assert values["aupro_30"] == pytest.approx(metrics.aupro(aupro, masks, 0.3), abs=1e-6)
    assert of_pixels["p_auroc"] == pytest.approx(metrics.p_auroc(p_auroc, masks), abs=1e-6)
    assert values["i_auroc"] == of_pixels["i_auroc"]
    assert values["p_auroc"] == of_pixels["p_auroc"]
    for a, b in zip(*maps, strict=True):
        inside = a.anomaly_map[a.anomaly_map != 0].mean()
        assert b.image_score == pytest.approx(a.image_score / float(inside.sqrt()), rel=1e-5)


def test_lsfa_and_cfm_joined_are_the_mean_of_their_standard_scores(good: Good) -> None:
    good, scan = replace(good, train=good.train[:3]), good.validation[0]
    both = fitted("lsfa_cfm_average", good)(scan)["rgb+3d"]
    third = fitted("lsfa_cfm_third", good)(scan)["rgb+3d"]
    lsfa, crossmodal = fitted("lsfa", good), fitted("cfm", good)
    raw = torch.tensor([crossmodal(s)["rgb+3d"].image_score for s in good.validation])
    standard = float((raw[0] - raw.mean()) / raw.std())
    own = lsfa(scan)
    pair = (own["3d"].image_score + own["rgb"].image_score) / 2
    assert both.image_score == pytest.approx((pair + standard) / 2, rel=1e-3, abs=1e-4)
    assert third.image_score == pytest.approx((2 * pair + standard) / 3, rel=1e-3, abs=1e-4)


def test_a_larger_fit_takes_more_memory_and_the_measure_sees_it() -> None:
    before = resident_mb()
    kept = torch.ones(50_000_000)
    held = resident_mb()
    del kept
    after = resident_mb()
    assert held - before == pytest.approx(200, abs=20)
    assert after - before < 20


def example(folder: Path) -> Path:
    """The file that docs/adding_a_method.md shows."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    assert len(block.splitlines()) < 80
    path = folder / "mahalanobis.py"
    path.write_text(block, encoding="utf-8")
    return path


def test_the_documented_method_runs_from_its_one_file(demo_root: Path, tmp_path: Path) -> None:
    path = example(tmp_path)
    command = ["run", "seal", "--preset", "tiny", "--data", str(demo_root), "--device", "cpu"]
    command += ["--method", str(path), "--reports", str(tmp_path)]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    folder = tmp_path / "runs" / "quickstart" / "seal-tiny-mahalanobis-s0"
    result = read_result(folder / "result.json")
    assert result["method"]["title"] == "Mahalanobis, RGB"
    assert list(result["modes"]) == ["rgb"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Mahalanobis, RGB" in page
    gallery = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Mahalanobis, RGB" in gallery


def test_the_documented_method_is_the_mahalanobis_distance(good: Good, tmp_path: Path) -> None:
    scan = good.validation[0]
    found = fitted(str(example(tmp_path)), good)(scan)["rgb"]
    rows = np.concatenate([distinct_rows(s.features, "rgb")[0].numpy() for s in good.train])
    rows = rows.astype(np.float64)
    covariance = np.cov(rows.T) + 0.01 * rows.var(ddof=1) * np.eye(rows.shape[1])
    inverse = np.linalg.inv(covariance)
    off = distinct_rows(scan.features, "rgb")[0].double().numpy() - rows.mean(0)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", off, inverse, off)).max()
    assert found.image_score == pytest.approx(expected, rel=1e-3)


def test_a_file_among_the_methods_is_known_by_its_entry_in_the_table(
    good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the document says; here the folder is another one that the package looks into."""
    block = re.findall(r"```\n( +\"mahalanobis\".*?)```", DOCUMENT.read_text("utf-8"), re.S)[0]
    entry = eval(f"{{{block}}}", {"Method": Method})
    monkeypatch.setitem(METHODS, "mahalanobis", entry["mahalanobis"])
    path = example(tmp_path)
    monkeypatch.setattr(lsfa_lib.methods, "__path__", [*lsfa_lib.methods.__path__, str(tmp_path)])
    try:
        own, scan = find_method("mahalanobis"), good.validation[0]
        assert own.title == find_method(str(path)).title == "Mahalanobis, RGB"
        found, same = (fitted(name, good)(scan)["rgb"] for name in ("mahalanobis", str(path)))
        assert found.image_score == same.image_score
    finally:
        sys.modules.pop("lsfa_lib.methods.mahalanobis", None)


def test_wrong_names_are_reported_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no method 'cmf'; the nearest is cfm"):
        find_method("cmf")
    with pytest.raises(InputError, match=r"nowhere.py was not found; give the path"):
        find_method(str(tmp_path / "nowhere.py"))
    empty = tmp_path / "empty.py"
    empty.write_text("METHODS = {}\n")
    with pytest.raises(InputError, match=r"empty.py has 0 entries in METHODS, expected one"):
        find_method(str(empty))


def test_a_methods_file_may_hold_dataclasses(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from lsfa_lib.methods import Method\n"
        "@dataclass\n"
        "class Scale:\n"
        "    value: float = 2.0\n"
        'METHODS = {"own": Method("Own", lambda good: Scale().value, "")}\n'
    )
    assert find_method(str(path)).call("fit", None) == 2.0


def test_distances_that_are_all_zero_teach_no_weights() -> None:
    with pytest.raises(InputError, match=r"are 0, .*; set bank\.keep_ratio below 1"):
        svm_weights(np.zeros((6, 2)), 0)


def test_methods_are_listed_with_what_they_need() -> None:
    outcome = CliRunner().invoke(app, ["methods"])
    assert outcome.exit_code == 0
    lines = outcome.output.splitlines()
    assert [line.split()[0] for line in lines] == sorted(METHODS)
    for line, (_, method) in zip(lines, sorted(METHODS.items()), strict=True):
        if method.needs:
            assert line.endswith(method.missing or f"extra {method.needs}")


@pytest.mark.parametrize("package", ["anomalib", "FrEIA"])
def test_without_an_extra_its_methods_alone_are_missing(
    package: str, cached: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    wanted = f"{package} is not installed; pip install 'lsfa_lib[{package}]'"
    lines = CliRunner().invoke(app, ["methods"]).output.splitlines()
    told = {line.split()[0] for line in lines if wanted in line}
    needing = {name for name, method in METHODS.items() if method.needs == package}
    assert told == needing != set()
    name = min(needing)
    with pytest.raises(InputError, match=re.escape(f"{METHODS[name].title}: {wanted}")):
        run_category("seal", replace(cached, method=name), 0)


def test_methods_are_listed_without_torch() -> None:
    code = (
        "import sys; from lsfa_lib.methods import METHODS, find_method; find_method('cfm').missing;"
        "[m.title for m in METHODS.values()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_entry_of_the_table_names_functions_that_exist(cached: Config) -> None:
    for name in QUICK:
        for each in ("config", "deployed"):
            assert isinstance(find_method(name).call(each, cached), Config)
    published = {own.published for own in METHODS.values() if own.published}
    assert len(published) == len([own for own in METHODS.values() if own.published])


def test_a_method_without_features_cannot_ask_for_them(cached: Config) -> None:
    scan = lazy_scan(split_of(cached.data, "seal", "train").entries[0], None, cached)
    assert isinstance(scan, LazyScan)
    with pytest.raises(ValueError, match="a method without modalities asked for features"):
        _ = scan.features


def test_residuals_of_good_parts_are_smaller_after_training(good: Good) -> None:
    train = [scan.features for scan in good.train[:3]]
    own = replace(TINY.crossmodal, epochs=30, patches_per_scan=0)
    before = train_crossmodal(train, replace(own, epochs=0), 0)
    after = train_crossmodal(train, own, 0)
    held = good.validation[0].features
    for m in MODALITIES:
        means = [float(residuals(c, held)[m][held.valid].mean()) for c in (before, after)]
        assert means[1] < 0.7 * means[0]


def test_costs_are_medians_of_runs() -> None:
    from study_case import record

    from lsfa_lib.studies.methods_report import costs
    from lsfa_lib.studies.study_table import StudyRuns

    def result(read: float, detect: float, fit: float, memory: float) -> dict[str, object]:
        seconds = {"read": read, "prepare": 0.01, "features 3d": 0.2, "features rgb": 0.1}
        return {
            "seconds": {"fit": fit, "predict test": 9.0},
            "cost": {"seconds": {**seconds, "detect": detect}, "memory_mb": memory},
        }

    found = {("x", "seal", i, 0): result(0.01 * i, 0.1 * i, float(i), 100.0 * i) for i in (1, 2, 4)}
    table = costs(StudyRuns(record(["x"]), found), "x")
    expected = {"learn, s": 2, "load, ms": 30, "features, ms": 300, "detect, ms": 200, "MB": 200}
    assert table == pytest.approx(pd.Series(expected).to_dict())


@pytest.mark.parametrize("name", ["padim", "stfpm", "cs_flow", "dinomaly", "efficient_ad"])
def test_anomalibs_methods_need_two_training_scans(name: str, good: Good) -> None:
    pytest.importorskip("anomalib")
    with pytest.raises(InputError, match=r"\w+ was given 1 training scan; it needs at least 2"):
        fitted(name, replace(good, train=good.train[:1]))
