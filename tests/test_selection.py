"""Selection by pseudo-defects: its numbers, its order, and that it cannot see the test split."""

import ast
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch

import lsfa_lib
from lsfa_lib.adaptation.adaptors import Adaptors, new_adaptors
from lsfa_lib.config import OURS, TINY, Config, DataConfig, LossWeights, with_losses
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.detection.detector import fit, predict
from lsfa_lib.detection.saved import save
from lsfa_lib.evaluation import metrics
from lsfa_lib.features.extract import Encoders, load_encoders
from lsfa_lib.features.lazy_scan import good_features, read_sample
from lsfa_lib.methods.fitting import fit_detector, fit_method
from lsfa_lib.methods.lsfa import Learned
from lsfa_lib.methods.table import find_method
from lsfa_lib.pseudo.defects import KINDS, pseudo_defects
from lsfa_lib.records import MODALITIES, ModalityFeatures, Mode, PatchFeatures
from lsfa_lib.selection.pseudo_set import PseudoSet, pseudo_set
from lsfa_lib.selection.selection import (
    Choice,
    Separation,
    folds,
    learned,
    rank_correlation,
    select,
    separation,
)
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import Stopwatch

CPU = torch.device("cpu")
LSFA = find_method("lsfa")
SMALL = replace(
    OURS,
    preprocess=replace(OURS.preprocess, image_size=32),
    bank=replace(OURS.bank, projection_eps=0.0),
    adaptor=replace(OURS.adaptor, projection=8),
    training=replace(OURS.training, weights=LossWeights()),
)


def scan(seed: int, name: str, defect: bool = False) -> PatchFeatures:
    """8 x 8 patches, all valid, with a token each; a defect moves 2 x 3 patches a little."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(64, 6, generator=generator)
    # Spread unlike that of the image and from scan to scan, so that scales matter to the fusion.
    points = (1 + seed % 5) * torch.randn(64, 4, generator=generator) + 20
    if defect:
        image[MOVED], points[MOVED] = image[MOVED] + 1.5, points[MOVED] + 3.0
    each = torch.eye(64).to_sparse_csr()
    by_modality = {"3d": ModalityFeatures(points, each), "rgb": ModalityFeatures(image, each)}
    return PatchFeatures(by_modality, torch.ones(64, dtype=torch.bool), (8, 8), name)


MOVED = torch.tensor([18, 19, 20, 26, 27, 28])
MASK = torch.zeros(32, 32, dtype=torch.bool)
MASK[8:16, 8:20] = True


def made_set(good: int, config: Config = SMALL) -> PseudoSet:
    names = [f"part/validation/good/{i:03d}" for i in range(good)]
    kinds = ["pseudo_dent", "pseudo_colour"]
    return PseudoSet(
        train=[scan(100 + i, f"part/train/good/{i:03d}") for i in range(5)],
        good=[scan(i, name) for i, name in enumerate(names)],
        pseudo=[
            scan(10 * i + k, f"{name}#{kind}", defect=True)
            for i, name in enumerate(names)
            for k, kind in enumerate(("dent", "colour"))
        ],
        masks=[MASK] * (2 * good),
        kinds=kinds * good,
        config=config,
    )


def areas_by_hand(
    pseudo: PseudoSet, calibrating: list[int], scored: list[int], adaptors: Adaptors | None
) -> dict[Mode, tuple[float, float]]:
    """A detector fitted anew with the calibrating scans as its validation split, and sklearn."""
    validation = [pseudo.good[i] for i in calibrating]
    detector = fit(pseudo.train, validation, pseudo.config, 0, adaptors)
    cases = [(pseudo.good[i], torch.zeros_like(MASK)) for i in scored]
    cases += [(pseudo.pseudo[2 * i + k], pseudo.masks[2 * i + k]) for i in scored for k in (0, 1)]
    found = [(predict(detector, features), mask) for features, mask in cases]
    labels = [0] * len(scored) + [1] * 2 * len(scored)
    return {
        mode: (
            float(sklearn.metrics.roc_auc_score(labels, [p[mode].image_score for p, _ in found])),
            metrics.aupro([p[mode].anomaly_map for p, _ in found], [mask for _, mask in found]),
        )
        for mode in detector.modes
    }


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(
    ("scans", "halves"),
    [
        (3, [([0, 1, 2], [0, 1, 2])]),
        (4, [([0, 2], [1, 3]), ([1, 3], [0, 2])]),
        (7, [([0, 2, 4, 6], [1, 3, 5]), ([1, 3, 5], [0, 2, 4, 6])]),
    ],
)
def test_separation_is_that_of_detectors_calibrated_on_the_other_half(
    scans: int, halves: list[tuple[list[int], list[int]]], adapted: bool
) -> None:
    pseudo = made_set(scans)
    adaptors = new_adaptors(pseudo.train, SMALL.adaptor, 0) if adapted else None
    found = separation(fit(pseudo.train, pseudo.good, SMALL, 0, adaptors), pseudo)
    expected = [areas_by_hand(pseudo, *half, adaptors) for half in halves]
    assert set(found.i_auroc) == set(expected[0]) == set(found.aupro_30)
    assert len(found.i_auroc) == (5 if adapted else 3)
    for mode in expected[0]:
        i_auroc, aupro = np.mean([fold[mode] for fold in expected], axis=0)
        assert found.i_auroc[mode] == pytest.approx(i_auroc, abs=1e-9)
        assert found.aupro_30[mode] == pytest.approx(aupro, abs=1e-6)
        assert found.score(mode) == pytest.approx((i_auroc + aupro) / 2, abs=1e-6)


def test_scales_of_the_scored_scans_themselves_would_give_other_numbers() -> None:
    # Else the test above, exact to 1e-6, could not tell a fold from none.
    pseudo = made_set(7)
    folded = separation(fit(pseudo.train, pseudo.good, SMALL, 0), pseudo)
    leaking = [areas_by_hand(pseudo, list(range(7)), half, None) for _, half in folds(7)]
    aupro = np.mean([fold["rgb+3d"][1] for fold in leaking])
    assert abs(folded.aupro_30["rgb+3d"] - aupro) > 1e-4


def test_without_calibration_the_detector_scores_as_it_is() -> None:
    config = replace(SMALL, detector=replace(SMALL.detector, calibrate=False))
    pseudo = made_set(5, config)
    found = separation(fit(pseudo.train, pseudo.good, config, 0), pseudo)
    halves = [areas_by_hand(pseudo, [0, 1], each, None)["rgb+3d"] for each in ([1, 3], [0, 2, 4])]
    i_auroc, aupro = np.mean(halves, axis=0)
    assert found.i_auroc["rgb+3d"] == pytest.approx(i_auroc, abs=1e-9)
    assert found.aupro_30["rgb+3d"] == pytest.approx(aupro, abs=1e-6)


def test_a_pseudo_defect_is_scored_in_the_fold_of_its_scan_wherever_it_stands() -> None:
    pseudo = made_set(7)
    detector = fit(pseudo.train, pseudo.good, SMALL, 0)
    order = np.random.default_rng(0).permutation(len(pseudo.pseudo)).tolist()
    shuffled = replace(pseudo, pseudo=[pseudo.pseudo[i] for i in order])
    found, wanted = separation(detector, shuffled), separation(detector, pseudo)
    assert found.i_auroc == pytest.approx(wanted.i_auroc, abs=1e-12)
    assert found.aupro_30 == pytest.approx(wanted.aupro_30, abs=1e-12)


@pytest.mark.parametrize("scans", range(2, 12))
def test_every_scan_is_scored_once_by_scales_of_others(scans: int) -> None:
    found = folds(scans)
    assert sorted(i for _, scored in found for i in scored) == list(range(scans))
    for calibrating, scored in found:
        assert len(calibrating) >= 2
        assert bool(set(calibrating) & set(scored)) == (scans < 4)
        assert sorted({*calibrating, *scored}) == list(range(scans))


def test_a_mode_the_detector_lacks_is_named() -> None:
    found = Separation({"3d": 0.5, "rgb": 0.75}, {"3d": 0.25, "rgb": 0.5})
    assert found.score("rgb") == 0.625
    with pytest.raises(InputError, match=r"no mode disagreement, the detector answers in 3d, rgb;"):
        found.score("disagreement")


@dataclass(frozen=True)
class Case:
    config: Config
    encoders: Encoders
    pseudo: PseudoSet


@pytest.fixture(scope="module")
def case(cached: Config) -> Case:
    """`seal` of the small demo tree, three validation scans."""
    encoders = load_encoders(cached, CPU)
    return Case(cached, encoders, pseudo_set("seal", cached, encoders, seed=0))


def bits(features: PatchFeatures, modality: str) -> bytes:
    compact = features.by_modality[modality]  # type: ignore[index]
    return compact.tokens.numpy().tobytes() + compact.weights.to_dense().numpy().tobytes()


def test_pseudo_set_holds_train_validation_and_every_kind_of_defect(case: Case) -> None:
    root, pseudo = Path(case.config.data.root), case.pseudo
    validation = read_split(root, "seal", "validation").entries
    train = read_split(root, "seal", "train").entries
    assert [features.name for features in pseudo.train] == [entry.name for entry in train]
    assert [features.name for features in pseudo.good] == [entry.name for entry in validation]
    made = pseudo_defects([read_sample(entry, case.config) for entry in validation], 0)
    assert [features.name for features in pseudo.pseudo] == [sample.name for sample in made]
    assert pseudo.kinds == [f"pseudo_{kind}" for kind in KINDS] * 3
    for mask, sample in zip(pseudo.masks, made, strict=True):
        assert torch.equal(mask, sample.defect)


def test_a_defect_of_one_modality_leaves_features_of_the_other_bit_for_bit(case: Case) -> None:
    touched = {
        "pseudo_pasted": {"3d", "rgb"},
        "pseudo_blended": {"rgb"},
        "pseudo_dent": {"3d"},
        "pseudo_bump": {"3d"},
        "pseudo_colour": {"rgb"},
    }
    good = {features.name: features for features in case.pseudo.good}
    for features, kind in zip(case.pseudo.pseudo, case.pseudo.kinds, strict=True):
        own = good[features.name.split("#")[0]]
        changed = {m for m in MODALITIES if bits(features, m) != bits(own, m)}
        assert changed == touched[kind], features.name


def test_seed_and_shots_of_a_pseudo_set(case: Case) -> None:
    few = pseudo_set("seal", replace(case.config, shots=2), case.encoders, seed=1)
    assert len(few.train) == 2
    pairs = zip(few.masks, case.pseudo.masks, strict=True)
    assert not any(torch.equal(mask, other) for mask, other in pairs)


def test_learned_is_the_detector_of_the_straight_path(case: Case, tmp_path: Path) -> None:
    for name, config in {"own": case.config, "none": with_losses(case.config, "none")}.items():
        save(learned(config, case.pseudo, 3), tmp_path / name)
        save(fit_detector("seal", config, 3).detector, tmp_path / "path")
        assert (tmp_path / name).read_bytes() == (tmp_path / "path").read_bytes()


def test_select_puts_the_sane_first_and_the_collapsed_last_with_the_reason(case: Case) -> None:
    own = case.config
    configs = {
        "diverging": replace(
            own, training=replace(own.training, learning_rate=1e6, steps=20, warmup=0.0)
        ),
        "one row": replace(with_losses(own, "none"), bank=replace(own.bank, keep_ratio=1e-9)),
        "unadapted": with_losses(own, "none"),
        "own": own,
    }
    found = select(configs, case.pseudo, [0, 1], "rgb+3d")
    names = [choice.name for choice in found]
    assert set(names[:2]) == {"own", "unadapted"}
    assert names[2:] == ["one row", "diverging"]
    assert found[0].score >= found[1].score > found[2].score + 0.1
    assert found[3].reason.count("training stopped at step") == 2
    assert math.isnan(found[3].score)
    assert math.isnan(found[3].spread)
    for choice in found[:3]:
        each = [
            separation(learned(configs[choice.name], case.pseudo, s), case.pseudo) for s in (0, 1)
        ]
        assert choice.separations == tuple(each)
        scores = [one.score("rgb+3d") for one in each]
        assert choice.score == pytest.approx((scores[0] + scores[1]) / 2)
        assert choice.spread == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
        assert choice.reason == ""


def test_one_seed_has_no_spread_and_no_seed_is_refused() -> None:
    pseudo = made_set(4)
    found = select({"none": with_losses(SMALL, "none")}, pseudo, [0], "3d")
    assert math.isnan(found[0].spread)
    with pytest.raises(InputError, match="no seed to train with"):
        select({"none": with_losses(SMALL, "none")}, pseudo, [], "3d")


def test_a_configuration_without_the_mode_comes_last() -> None:
    training = replace(SMALL.training, steps=2, patches_per_scan=16)
    both = replace(SMALL, training=training)
    configs = {"IFC": with_losses(both, "IFC"), "CLC": with_losses(both, "CLC")}
    found = select(configs, made_set(4), [0], "rgb+3d+disagreement")
    assert [choice.name for choice in found] == ["CLC", "IFC"]
    assert "no mode rgb+3d+disagreement" in found[1].reason


def test_ranking_follows_the_mode_asked_for() -> None:
    one = replace(SMALL.bank, keep_ratio_rgb=1e-9)
    base = with_losses(SMALL, "none")
    configs = {"a": replace(base, bank=one), "b": base}
    pseudo = made_set(7)
    for mode in ("rgb", "rgb+3d"):
        found = select(configs, pseudo, [0], mode)
        scores = {c.name: c.separations[0].score(mode) for c in found}
        assert [c.name for c in found] == sorted(scores, key=lambda n: -scores[n])
        assert scores["a"] != scores["b"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"preprocess": replace(TINY.preprocess, image_size=128)}, "preprocess.image_size is 128"),
        ({"point_encoder": replace(TINY.point_encoder, spacing_m=0.002)}, "spacing_m is 0.002"),
        ({"shots": 3}, "shots is 3"),
    ],
)
def test_a_configuration_that_needs_other_features_is_refused(
    case: Case, change: dict[str, object], text: str
) -> None:
    other = replace(case.config, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"configuration far: \S*{text}, but the pseudo-defects"):
        select({"own": case.config, "far": other}, case.pseudo, [0], "3d")


def test_rank_correlation_without_ties_is_spearmans_formula() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 4, 9):
        a, b = rng.permutation(n), rng.permutation(n)
        wanted = 1 - 6 * float(((a - b) ** 2).sum()) / (n * (n**2 - 1))
        # Any increasing map of the ranks: only order counts.
        found = rank_correlation(np.exp(a).tolist(), (b / 7 - 2).tolist())
        assert found == pytest.approx(wanted, abs=1e-12)


def test_rank_correlation_with_ties_is_pearsons_of_mean_ranks() -> None:
    a, b = [0.1, 0.4, 0.4, 0.9, 0.4, 0.2], [0.3, 0.3, 0.7, 0.8, 0.1, 0.1]
    ranks = np.array([scipy.stats.rankdata(a), scipy.stats.rankdata(b)])
    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-12)


def test_rank_correlation_leaves_out_the_failed_and_is_nan_without_evidence() -> None:
    nan = math.nan
    a, b = [0.1, nan, 0.5, 0.9, 0.2], [0.2, 0.0, 0.6, 0.4, nan]
    assert rank_correlation(a, b) == rank_correlation([0.1, 0.5, 0.9], [0.2, 0.6, 0.4]) == 0.5
    for pair in (
        ([], []),
        ([0.1, 0.2], [0.3, 0.4]),
        ([0.1, 0.2, nan], [0.3, 0.4, 0.5]),
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]),
        ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5]),
    ):
        assert math.isnan(rank_correlation(*pair))
    with pytest.raises(ValueError, match="2 scores of selection and 3 of the test"):
        rank_correlation([0.1, 0.2], [0.1, 0.2, 0.3])


def outcome(config: Config, encoders: Encoders, folder: Path) -> tuple[bytes, list[Choice]]:
    """Everything learnt, as bytes of the saved detector, and everything selected by."""
    fitted = fit_method(LSFA, "seal", config, 0, Stopwatch(), folder).predict
    assert isinstance(fitted, Learned)
    save(fitted.detector, folder / "detector")
    pseudo = pseudo_set("seal", config, encoders, 0)
    chosen = select({"own": config, "none": with_losses(config, "none")}, pseudo, [0], "rgb+3d")
    return (folder / "detector").read_bytes(), chosen


def test_training_and_selection_are_the_same_bit_for_bit_whatever_the_test_split_holds(
    tiny: Config, demo_root: Path, tmp_path: Path, case: Case
) -> None:
    root = tmp_path / "data"
    shutil.copytree(demo_root / "seal", root / "seal")
    # No cache: every pixel that is wanted is read.
    config = replace(tiny, data=DataConfig(root=str(root)), cache="", shots=3)
    whole = outcome(config, case.encoders, tmp_path / "whole")
    folder = root / "seal" / "test"
    assert len(read_split(root, "seal", "test")) == 9
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no scans in here"):
        read_split(root, "seal", "test")
    assert outcome(config, case.encoders, tmp_path / "without") == whole
    for kind in ("good", "hole"):
        for file in ("rgb/000.png", "xyz/000.tiff", "gt/000.png"):
            path = folder / kind / file
            path.parent.mkdir(parents=True)
            path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be decoded"):
        good_features(read_split(root, "seal", "test"), case.encoders, config)
    assert outcome(config, case.encoders, tmp_path / "garbage") == whole


READERS = {"read_split", "split_of", "entries", "pair_files"}
SCORERS = {"run_category", "score_split", "evaluate"}
BLIND = ("pseudo", "features", "adaptation", "detection", "selection", "methods")
"""Packages that learn or select."""
READING = {
    "pseudo_set.py": ["train", "validation"],
    "fitting.py": ["train", "validation"],
    "m3dm.py": ["train"],  # of all categories
}
"""The modules in them that read splits, and which ones."""


def splits_read(source: str) -> list[str | None]:
    """The split of each call that reads one, None where it is no literal; "test" of scorers."""
    found: list[str | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.alias) and node.name in SCORERS:
            found.append("test")
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        called = node.func.id if isinstance(node.func, ast.Name) else called
        if called in READERS:
            named = [keyword.value for keyword in node.keywords if keyword.arg == "split"]
            split = (named or node.args[2:3] or [None])[0]
            found.append(split.value if isinstance(split, ast.Constant) else None)
    return found


def test_no_module_that_learns_or_selects_reads_the_test_split() -> None:
    folder = Path(lsfa_lib.__file__).parent
    seen = {}
    for path in (path for package in BLIND for path in (folder / package).glob("*.py")):
        seen[path.name] = sorted(splits_read(path.read_text(encoding="utf-8")), key=str)
    assert {"training.py", "trainer.py", "detector.py", "lsfa.py", "defects.py"} < set(seen)
    assert {name: splits for name, splits in seen.items() if splits} == READING


def test_the_check_of_the_source_sees_every_way_to_read_the_test_split() -> None:
    assert splits_read('read_split(root, category, "test")') == ["test"]
    assert splits_read('layouts.read_split(root, category, split="test")') == ["test"]
    assert splits_read("entries(root, category, name)") == [None]
    assert splits_read("from lsfa_lib.pipeline import Run, run_category") == ["test"]
    pipeline = Path(lsfa_lib.__file__).parent / "pipeline.py"
    # The import of `evaluate`, and the one call that reads a split.
    assert splits_read(pipeline.read_text(encoding="utf-8")) == ["test", "test"]
