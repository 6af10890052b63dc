"""Every method on tiny scans: what it gives, what it costs, what it says when one is missing."""

import importlib.util
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lsfa_lib.methods.running import resident_mb
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.config import TINY, Config, ImageEncoderConfig, resolve_device, with_fields
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.detection.detector import fit as fit_detector
from lsfa_lib.detection.detector import predict as predict_detector
from lsfa_lib.evaluation import metrics
from lsfa_lib.features.extract import distinct_rows, load_encoders
from lsfa_lib.features.geometry import spread
from lsfa_lib.features.lazy_scan import LazyScan, lazy_scan
from lsfa_lib.methods import m3dm, method, patchcore, variation
from lsfa_lib.methods import truncated_backbones as cuts
from lsfa_lib.methods.crossmodal import residuals, train_crossmodal
from lsfa_lib.methods.method import Good, all_methods, find_method
from lsfa_lib.pipeline import run_category
from lsfa_lib.records import MODALITIES
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import read_result

DOCUMENT = Path(__file__).parents[1] / "docs" / "adding_a_method.md"
QUICK = [name for name, own in all_methods().items() if not own.needs]


@pytest.fixture
def good(tiny: Config) -> Good:
    """The seal's good scans."""
    encoders = load_encoders(tiny, resolve_device("cpu"))
    train, validation = (
        [lazy_scan(e, encoders, tiny) for e in split_of(tiny.data, "seal", part).entries]
        for part in ("train", "validation")
    )
    return Good(train, validation, tiny, 0)


@pytest.mark.parametrize("name", QUICK)
def test_every_method_makes_a_result_with_its_cost(name: str, tiny: Config) -> None:
    config = replace(tiny, method=name, timed_scans=2)
    if name.endswith("_ae"):
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
    again = run_category("seal", config, seed=0).result
    for mode in result["modes"]:
        for a, b in zip(result["scans"], again["scans"], strict=True):
            assert a["scores"][mode] == b["scores"][mode]


def test_ours_is_the_same_as_any_method_and_by_itself(tiny: Config, good: Good) -> None:
    predict = find_method("lsfa").fit(good)
    run = run_category("seal", tiny, seed=0)
    encoders = load_encoders(tiny, resolve_device("cpu"))
    entry = split_of(tiny.data, "seal", "test").entries[0]
    found = predict(lazy_scan(entry, encoders, tiny))
    for mode in run.predictions:
        own = run.predictions[mode][0]
        assert found[mode].image_score == pytest.approx(own.image_score, rel=1e-6)
        torch.testing.assert_close(found[mode].anomaly_map, own.anomaly_map)


def test_one_bank_is_the_detectors_bank_of_that_modality(good: Good) -> None:
    config = patchcore.as_published(good.config)
    same = replace(good, config=config)
    train = [scene.features for scene in good.train]
    detector = fit_detector(train, [s.features for s in good.validation], config, 0)
    predict = find_method("patchcore_rgb").fit(same)
    scene = good.validation[0]
    own, other = predict(scene)["rgb"], predict_detector(detector, scene.features)["rgb"]
    assert own.image_score == pytest.approx(other.image_score, rel=1e-5)
    torch.testing.assert_close(own.anomaly_map, other.anomaly_map)


def test_btf_searches_both_features_of_a_patch_in_one_row(good: Good) -> None:
    features = good.validation[0].features
    rows, index = patchcore.joined_rows(features)
    compact = features.by_modality
    whole = torch.cat([spread(compact[m].weights, compact[m].tokens) for m in MODALITIES], 1)
    for p in range(len(features.valid)):
        if features.valid[p]:
            assert torch.equal(rows[index[p]], whole[p])
        else:
            assert index[p] == -1
    train = [scene.features for scene in good.train]
    bank = patchcore.bank_of(train, patchcore.joined_rows, good.config, 0)
    patches, _ = patchcore.distances_to(bank, patchcore.joined_rows, features)
    standard = (rows - bank.mean) / bank.std
    nearest = torch.cdist(standard.double(), bank.rows.double()).min(1).values
    torch.testing.assert_close(patches[features.valid].double(), nearest, rtol=1e-4, atol=1e-5)


def test_m3dm_adds_the_scores_of_two_banks(good: Good) -> None:
    config = patchcore.as_published(good.config)
    predict = m3dm.fit_sum(replace(good, config=config))
    train = [scene.features for scene in good.train]
    scene = good.validation[1]
    score = 0.0
    for m in MODALITIES:
        rows_of = patchcore.rows_of_modality(m)
        bank = patchcore.bank_of(train, rows_of, config, 0)
        score += patchcore.distances_to(bank, rows_of, scene.features)[1]
    assert predict(scene)["rgb+3d"].image_score == pytest.approx(score)


def test_m3dms_decision_grows_with_every_distance(good: Good) -> None:
    """Its one-class SVM is linear: a weighted sum of distances, no weight below zero."""
    distances = np.abs(np.random.default_rng(0).normal(2, 0.3, (200, 3)))
    weights = m3dm._svm(distances, 0)
    assert weights.shape == (3,)
    assert (weights > 0).all()


def test_fused_features_bring_the_two_views_of_a_patch_together(good: Good) -> None:
    train = [scene.features for scene in good.train]
    config = replace(good.config, training=replace(good.config.training, steps=60, batch=6))
    untrained = replace(config, training=replace(config.training, steps=1, learning_rate=0.0))

    def found(fusion: m3dm.Fusion) -> float:
        """Share of patches whose colour finds its own shape among all."""
        scan = m3dm.scan_rows(train[0], m3dm.AdaptorConfig(attend="valid"))
        a, b = (
            torch.nn.functional.normalize(
                fusion.heads[m](fusion.mlps[m](scan[m].rows))[scan[m].index], dim=1
            )
            for m in MODALITIES
        )
        similar = a @ b.T
        # Patches that share a colour token are told apart by shape alone: any of them counts.
        best = scan["rgb"].index[similar.argmax(1)]
        return float((best == scan["rgb"].index).float().mean())

    assert found(m3dm.train_fusion(train, config, 0)) > 2 * found(
        m3dm.train_fusion(train, untrained, 0)
    )


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
            assert float(distance(new)[0, r, c]) == pytest.approx(expected, rel=1e-4)


def test_voxels_hold_the_points(good: Good) -> None:
    sample = good.train[0].sample
    far = variation.half_depth([sample])
    grid = variation.voxels(sample, far)[0]
    assert set(grid.unique().tolist()) == {0.0, 1.0}
    inside = torch.nn.functional.adaptive_max_pool2d(sample.valid[None].float(), variation.SIDE)[0]
    # One voxel for each measured column, none for the others.
    assert torch.equal(grid.sum(0), inside)


@pytest.mark.parametrize("cut", ["full", "M", "S", "T"])
def test_a_cut_takes_from_whole_backbones_what_the_short_ones_give(
    cut: str, tiny: Config, good: Good
) -> None:
    """On a ViT and the small Point-MAE: one pass of the whole serves every cut."""
    vit = ImageEncoderConfig(model="vit_tiny_patch16_224", weights="random")
    config = replace(tiny, image_encoder=vit, cache="")
    config = replace(config, crossmodal=replace(config.crossmodal, cut=cut))
    entry = split_of(tiny.data, "seal", "train").entries[0]
    found, sizes = [], []
    for own in (cuts.whole(config), cuts.deployed(config)):
        encoders = load_encoders(own, resolve_device("cpu"))
        scene = lazy_scan(entry, encoders, own)
        found.append(cuts.narrowed(scene.features, own))
        assert encoders.points is not None
        image, points = encoders.by_modality["rgb"], encoders.by_modality["3d"]
        sizes.append((len(image.backbone.blocks), len(points.blocks.blocks)))
    for m in MODALITIES:
        torch.testing.assert_close(found[0].by_modality[m].tokens, found[1].by_modality[m].tokens)
    assert sizes[0] == (12, 6)
    assert sizes[1] == {"full": (12, 6), "M": (8, 4), "S": (4, 2), "T": (1, 1)}[cut]


@pytest.mark.parametrize(("cut", "stages"), [("full", (1, 2)), ("M", (0, 1)), ("T", (0,))])
def test_a_cut_of_a_convolutional_model_takes_earlier_stages_once(
    cut: str, stages: tuple[int, ...], tiny: Config
) -> None:
    config = replace(tiny, image_encoder=replace(tiny.image_encoder, stages=(1, 2)))
    own = cuts.whole(replace(config, crossmodal=replace(config.crossmodal, cut=cut)))
    assert own.image_encoder.stages == cuts.deployed(own).image_encoder.stages == stages
    assert cuts.deployed(own).point_encoder.taps == cuts.TAPS[6][cut]
    assert own.point_encoder.taps == (0, 1, 2, 3, 5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"image_encoder.blocks": [12]},
            "image_encoder.blocks has 12, wanted 0 to 11 for 'vit_tiny_patch16_224'",
        ),
        (
            {"image_encoder.blocks": [0], "image_encoder.stages": [2]},
            "image_encoder.stages and .blocks are both set for 'vit_tiny_patch16_224'",
        ),
        (
            {"point_encoder.taps": [1, 6]},
            "point_encoder.taps has 6, wanted 0 to 5 for 'point_mae_small'",
        ),
    ],
)
def test_blocks_that_are_not_there_are_named(
    changed: dict[str, list[int]], said: str, tiny: Config
) -> None:
    vit = {"image_encoder.model": "vit_tiny_patch16_224", "image_encoder.weights": "random"}
    config = with_fields(tiny, {**vit, "image_encoder.stages": [], **changed})
    with pytest.raises(InputError, match=re.escape(said)):
        load_encoders(config, resolve_device("cpu"))


def test_cuts_are_the_papers() -> None:
    assert cuts.TAPS[12] == {"full": (3, 7, 11), "M": (1, 4, 7), "S": (1, 2, 3), "T": (0,)}
    assert {name: blocks[-1] + 1 for name, blocks in cuts.BLOCKS.items()} == {
        "full": 12,
        "M": 8,
        "S": 4,
        "T": 1,
    }


def test_cuts_share_one_folder_of_the_cache(tiny: Config) -> None:
    """The second cut extracts nothing of the shape anew."""
    configs = [
        replace(tiny, method="cfm", crossmodal=replace(tiny.crossmodal, cut=cut))
        for cut in ("M", "T")
    ]
    run_category("seal", configs[0], seed=0)
    before = {path.name for path in Path(tiny.cache).iterdir()}
    run_category("seal", configs[1], seed=0)
    new = {path.name for path in Path(tiny.cache).iterdir()} - before
    # EfficientNet's stages have grids of their own; the points' blocks are all there.
    assert len(new) == 1
    (about,) = [json.loads((Path(tiny.cache) / n / "about.json").read_text()) for n in new]
    assert about["model"] == "efficientnet_lite0"


def test_released_scales_change_p_auroc_and_scores_alone_where_they_should(tiny: Config) -> None:
    plain, released = (
        run_category(
            "seal",
            replace(
                tiny, method="cfm", crossmodal=replace(tiny.crossmodal, normalisation=normalisation)
            ),
            seed=0,
        )
        for normalisation in ("none", "released")
    )
    maps = [run.predictions["rgb+3d"] for run in (plain, released)]
    masks = [sample.defect for sample in plain.samples]
    aupro = [m.anomaly_map / m.anomaly_map[m.anomaly_map != 0].mean() for m in maps[0]]
    p_auroc = [m.anomaly_map / m.anomaly_map.mean().sqrt() for m in maps[0]]
    values = released.result["modes"]["rgb+3d"]
    assert values["aupro_30"] == pytest.approx(metrics.aupro(aupro, masks, 0.3), abs=1e-6)
    assert values["p_auroc"] == pytest.approx(metrics.p_auroc(p_auroc, masks), abs=1e-6)
    for a, b in zip(*maps, strict=True):
        inside = a.anomaly_map[a.anomaly_map != 0].mean()
        assert b.image_score == pytest.approx(a.image_score / float(inside.sqrt()), rel=1e-5)


def test_lsfa_and_cfm_joined_are_the_mean_of_their_standard_scores(good: Good) -> None:
    scene = good.validation[0]
    both = find_method("lsfa_cfm_average").fit(good)(scene)["rgb+3d"]
    third = find_method("lsfa_cfm_third").fit(good)(scene)["rgb+3d"]
    lsfa = find_method("lsfa").fit(good)
    crossmodal = find_method("cfm").fit(good)
    raw = torch.tensor([crossmodal(s)["rgb+3d"].image_score for s in good.validation])
    standard = float((raw[0] - raw.mean()) / raw.std())
    own = lsfa(scene)
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
    own = find_method(str(example(tmp_path)))
    config = own.config(good.config)
    scene = good.validation[0]
    found = own.fit(replace(good, config=config))(scene)["rgb"]
    rows = np.concatenate([distinct_rows(s.features, "rgb")[0].numpy() for s in good.train])
    rows = rows.astype(np.float64)
    covariance = np.cov(rows.T) + 0.01 * rows.var(ddof=1) * np.eye(rows.shape[1])
    inverse = np.linalg.inv(covariance)
    off = distinct_rows(scene.features, "rgb")[0].double().numpy() - rows.mean(0)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", off, inverse, off)).max()
    assert found.image_score == pytest.approx(expected, rel=1e-3)


def test_a_file_put_among_the_methods_is_known_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is touched: a copy of the package's folder with one more file."""
    folder = tmp_path / "methods"
    shutil.copytree(Path(method.__file__).parent, folder)
    example(folder)
    monkeypatch.setattr(sys.modules[method.PACKAGE], "__path__", [str(folder)])
    monkeypatch.delitem(sys.modules, "lsfa_lib.methods.mahalanobis", raising=False)
    assert find_method("mahalanobis").title == "Mahalanobis, RGB"
    assert len(all_methods()) == len(QUICK) + 5 + 1
    sys.modules.pop("lsfa_lib.methods.mahalanobis")


def test_wrong_names_are_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no method 'cmf'; the nearest is cfm"):
        find_method("cmf")
    with pytest.raises(InputError, match=r"nowhere.py was not found; give the path"):
        find_method(str(tmp_path / "nowhere.py"))
    empty = tmp_path / "empty.py"
    empty.write_text("METHODS = {}\n")
    with pytest.raises(InputError, match=r"empty.py has 0 entries in METHODS, wanted one"):
        find_method(str(empty))


def test_methods_are_listed_with_what_they_need() -> None:
    outcome = CliRunner().invoke(app, ["methods"])
    assert outcome.exit_code == 0
    lines = outcome.output.splitlines()
    assert [line.split()[0] for line in lines] == sorted(all_methods())
    (padim,) = [line for line in lines if line.startswith("padim")]
    missing = importlib.util.find_spec("anomalib") is None
    assert ("pip install 'lsfa_lib[anomalib]'" in padim) is missing


def test_a_method_without_features_cannot_ask_for_them(tiny: Config) -> None:
    scene = lazy_scan(split_of(tiny.data, "seal", "train").entries[0], None, tiny)
    assert isinstance(scene, LazyScan)
    with pytest.raises(ValueError, match="a method without modalities asked for features"):
        _ = scene.features


def test_residuals_of_good_parts_are_smaller_after_training(good: Good) -> None:
    train = [scene.features for scene in good.train]
    own = replace(TINY.crossmodal, epochs=30, patches_per_scan=0)
    before = train_crossmodal(train, replace(own, epochs=0), 0)
    after = train_crossmodal(train, own, 0)
    held = good.validation[0].features
    for m in MODALITIES:
        means = [float(residuals(c, held)[m][held.valid].mean()) for c in (before, after)]
        assert means[1] < 0.7 * means[0]


def test_costs_are_medians_of_runs() -> None:
    from lsfa_lib.studies.methods_report import costs
    from lsfa_lib.studies.study_table import StudyRuns

    def result(read: float, detect: float, fit: float, memory: float) -> dict[str, object]:
        seconds = {"read": read, "prepare": 0.01, "features 3d": 0.2, "features rgb": 0.1}
        return {
            "seconds": {"fit": fit, "predict test": 9.0},
            "cost": {"seconds": {**seconds, "detect": detect}, "memory_mb": memory},
        }

    found = {("x", "seal", i): result(0.01 * i, 0.1 * i, float(i), 100.0 * i) for i in (1, 2, 4)}
    table = costs(StudyRuns({"cells": {"x": {}}}, found), "x")
    expected = {"learn, s": 2, "load, ms": 30, "features, ms": 300, "detect, ms": 200, "MB": 200}
    assert table == pytest.approx(pd.Series(expected).to_dict())
