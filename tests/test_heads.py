"""Heads trained on pseudo-defects: what they learn from, their score, and where it is used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch

from lsfa_lib.config import OURS, Config, configure, with_losses
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.detection import head_training
from lsfa_lib.detection.building import bank_of
from lsfa_lib.detection.detector import Detector, evidence, fit, predict, search
from lsfa_lib.detection.head_training import nearest_elsewhere, partial_whitening, train_heads
from lsfa_lib.detection.heads import Head, Inputs, head_scores, new_network
from lsfa_lib.detection.labelled import Labelled, labelled_patches, patch_labels
from lsfa_lib.detection.memory import Bank, rows_of_modality, search_bank
from lsfa_lib.detection.saved import load, save
from lsfa_lib.explorer.evidence import scored
from lsfa_lib.explorer.fitted import Fitted as Opened
from lsfa_lib.explorer.inspection import Inspection
from lsfa_lib.features.cache import extract
from lsfa_lib.features.extract import Encoders, load_encoders
from lsfa_lib.features.lazy_scan import LazyScan, good_features, lazy_scan
from lsfa_lib.figures.names import GLOSSARY, MODES, SHORT_MODES
from lsfa_lib.figures.style import LINES
from lsfa_lib.methods.fitting import fit_detector
from lsfa_lib.pseudo.defects import CHANGES, KINDS, pseudo_defect
from lsfa_lib.records import MODALITIES, ModalityFeatures, PatchFeatures, Sample
from lsfa_lib.selection.pseudo_set import pseudo_set, unseen
from lsfa_lib.selection.selection import learned, select, separation
from lsfa_lib.storage.files import InputError

CPU = torch.device("cpu")
BANK = replace(OURS.bank, projection_eps=0.0)


@pytest.fixture(scope="module")
def config(cached: Config) -> Config:
    return configure(with_losses(cached, "none"), {"detector.heads": True})


@pytest.fixture(scope="module")
def encoders(config: Config) -> Encoders:
    return load_encoders(config, CPU)


@pytest.fixture(scope="module")
def detector(config: Config) -> Detector:
    return fit_detector("seal", config, 0).detector


@pytest.fixture(scope="module")
def train(config: Config, encoders: Encoders) -> list[LazyScan]:
    split = split_of(config.data, "seal", "train")
    return [lazy_scan(entry, encoders, config) for entry in split.entries]


def blank(side: int, defect: torch.Tensor) -> Sample:
    valid = torch.ones(side, side, dtype=torch.bool)
    valid[:, :4] = False
    return Sample(torch.zeros(3, side, side), torch.zeros(3, side, side), valid, defect, "s", "d")


def labels_by_hand(sample: Sample, px: int) -> tuple[list[bool], list[bool]]:
    side = len(sample.defect) // px
    shares = np.zeros((side, side))
    held = np.zeros((side, side), bool)
    for r in range(side):
        for c in range(side):
            block = np.s_[r * px : (r + 1) * px, c * px : (c + 1) * px]
            shares[r, c] = sample.defect.numpy()[block].mean()
            held[r, c] = sample.valid.numpy()[block].any()
    normal = held.copy()
    for r, c in np.argwhere(shares > 0):
        for y, x in np.ndindex(side, side):
            if max(abs(y - r), abs(x - c)) <= 3:
                normal[y, x] = False
    defective = shares >= 0.5
    if not defective.any() and shares.any():
        defective.flat[shares.argmax()] = True
    return defective.flatten().tolist(), normal.flatten().tolist()


def test_labels_are_those_of_brute_force() -> None:
    defect = torch.zeros(48, 48, dtype=torch.bool)
    defect[9:15, 14:22] = True
    sample = blank(48, defect)
    defective, normal = patch_labels(sample, 4)
    assert (defective.tolist(), normal.tolist()) == labels_by_hand(sample, 4)
    # Rows 9 to 14 and columns 14 to 21: two patches at 3/4, four at 3/8.
    assert int(defective.sum()) == 2 and int(normal.sum()) > 20
    assert not (defective & normal).any()


@pytest.mark.parametrize("pixels", [1, 0])
def test_a_defect_without_a_patch_of_its_own_takes_the_most_covered_one(pixels: int) -> None:
    defect = torch.zeros(48, 48, dtype=torch.bool)
    defect[17:18, 21 : 21 + pixels] = True
    sample = blank(48, defect)
    defective, normal = patch_labels(sample, 4)
    assert (defective.tolist(), normal.tolist()) == labels_by_hand(sample, 4)
    assert defective.nonzero().flatten().tolist() == [4 * 12 + 5] * pixels
    assert int(normal.sum()) == (12 * 11 - 7 * 7 if pixels else 12 * 11)


def test_the_nearest_row_elsewhere_is_that_of_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, bank_rows = (torch.randn(n, 5, generator=generator) for n in (40, 60))
    source = torch.randint(4, (60, 2), generator=generator)
    scan = torch.randint(5, (40,), generator=generator)
    found = nearest_elsewhere(rows, scan, Bank(bank_rows, 0.0, 1.0, source))
    distances = torch.cdist(rows, bank_rows)
    distances[scan[:, None] == source[None, :, 0]] = torch.inf
    assert torch.equal(found, distances.argmin(1))
    assert not (source[found, 0] == scan).any()
    with pytest.raises(InputError, match=r"all 60 rows of a bank come from one .*keep_ratio"):
        nearest_elsewhere(rows, scan, Bank(bank_rows, 0.0, 1.0, torch.ones_like(source)))


def test_partial_whitening_goes_half_way_to_equal_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 3, generator=generator) * torch.tensor([4.0, 1.0, 0.0])
    scale = partial_whitening(rows)
    variance = rows.var(0)
    wanted = (variance + 0.02 * variance.mean()) ** -0.25
    torch.testing.assert_close(scale / scale[0], wanted / wanted[0])
    assert float((rows * scale).std()) == pytest.approx(1, abs=1e-5)
    assert bool(partial_whitening(torch.ones(4, 3)).isfinite().all())


def test_inputs_are_row_residual_and_distance() -> None:
    rows, nearest = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 8.0]])
    inputs = Inputs(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.5]), mean=1.0, std=2.0)
    assert inputs(rows, nearest).tolist() == [[6.0, 4.0, 3.0, -2.0, 2.0]]


def test_a_score_is_zero_below_the_level_and_scaled_above() -> None:
    torch.manual_seed(0)
    inputs = Inputs(torch.ones(4), torch.ones(4), 0.0, 1.0)
    head = Head(new_network(9).eval(), inputs)
    rows, nearest = torch.randn(50, 4), torch.randn(50, 4)
    logits = head.logits(rows, nearest)
    level = float(logits.median())
    found = replace(head, level=level, spread=2.0).scores(rows, nearest)
    assert int((found == 0).sum()) >= 25
    torch.testing.assert_close(found, torch.relu(logits - level) / 2)


def test_level_and_spread_are_those_of_validation_patches(
    detector: Detector, config: Config, encoders: Encoders
) -> None:
    validation = good_features(split_of(config.data, "seal", "validation"), encoders, config)
    for m, head in detector.heads.items():
        bank, logits = detector.banks[m], []
        for features in validation:
            compact = features.by_modality[m]
            rows = bank.standardised((compact.weights.to_dense() @ compact.tokens)[features.valid])
            logits.append(head.logits(rows, bank.rows[torch.cdist(rows, bank.rows).argmin(1)]))
        every = torch.cat(logits).numpy()
        assert head.level == pytest.approx(np.quantile(every, 0.02), rel=1e-2, abs=1e-2)
        spread = np.maximum(every - head.level, 0).std(ddof=1)
        assert head.spread == pytest.approx(spread, rel=1e-2)


def test_the_evidence_is_the_sum_over_modalities_and_fused_as_a_third(
    detector: Detector, config: Config, encoders: Encoders
) -> None:
    assert detector.modes == ("3d", "rgb", "rgb+3d", "heads", "rgb+3d+heads")
    assert set(detector.heads) == set(MODALITIES)
    features = good_features(split_of(config.data, "seal", "validation"), encoders, config)[0]
    searched = search(detector.banks, features, config)
    apart = [
        head_scores({m: head}, detector.banks, searched, features)
        for m, head in detector.heads.items()
    ]
    both = head_scores(detector.heads, detector.banks, searched, features)
    torch.testing.assert_close(both, apart[0] + apart[1])
    assert not both[~features.valid].any() and float(both.max()) > 0
    found = predict(detector, features)
    parts = [found[e].image_score for e in (*MODALITIES, "heads")]
    assert found["rgb+3d+heads"].image_score == pytest.approx(sum(parts) / 3)
    raw = replace(config, detector=replace(config.detector, image_score="max"))
    alone = evidence(replace(detector, config=raw), features)["heads"]
    assert alone.image_score == pytest.approx(float(both.max()))


def test_every_mode_with_heads_has_a_name_and_a_line() -> None:
    heads = {"heads", "rgb+heads", "rgb+3d+heads", "rgb+3d+disagreement+heads"}
    assert heads < set(MODES) == set(SHORT_MODES) == set(LINES)
    assert len(set(SHORT_MODES.values())) == len(SHORT_MODES)
    assert {SHORT_MODES[mode] for mode in heads} <= set(GLOSSARY)


def test_a_head_finds_defects_on_a_scan_it_never_saw(
    config: Config, encoders: Encoders, train: list[LazyScan]
) -> None:
    labelled = labelled_patches(train[:5], encoders, None, config, 0)
    features = [scan.features for scan in train]
    # Too few and too coarse points here for a head of shapes: see the next test.
    held = fit(features[:5], features[3:5], config, 0, None, {"rgb": labelled["rgb"]})
    assert list(held.heads) == ["rgb"]
    values, truth = [], []
    for seed, kind in enumerate(kind for kind in KINDS if "rgb" in CHANGES[kind]):
        made = pseudo_defect(train[5].sample, train[4].sample, kind, seed)
        found = extract(made, encoders, config)
        searched = search(held.banks, found, config)
        patches = head_scores(held.heads, held.banks, searched, found)
        defective, normal = patch_labels(made, config.projection.patch_px)
        values.append(patches[defective | normal])
        truth.append(defective[defective | normal])
    area = sklearn.metrics.roc_auc_score(torch.cat(truth).numpy(), torch.cat(values).numpy())
    assert area > 0.9


def test_a_head_learns_a_direction_that_distances_do_not_know() -> None:
    """Normal patches vary widely in one direction; defects shift a little in another."""
    generator = torch.Generator().manual_seed(0)

    def drawn(shift: float, patches: int) -> torch.Tensor:
        rows = torch.randn(patches, 6, generator=generator) * torch.tensor([4.0, 1, 1, 1, 1, 0.3])
        rows[:, 5] += shift
        return rows

    def scan(rows: torch.Tensor) -> PatchFeatures:
        compact = ModalityFeatures(rows, torch.eye(len(rows)).to_sparse_csr())
        return PatchFeatures({"3d": compact}, torch.ones(len(rows)).bool(), (20, 20), "s")

    train, validation = ([scan(drawn(0.0, 400)) for _ in range(n)] for n in (4, 2))
    defects = torch.cat([drawn(1.0, 100) for _ in range(4)])
    places = torch.arange(4).repeat_interleave(100)
    labelled = {"3d": Labelled(defects, torch.ones(400).bool(), places)}
    banks = {"3d": bank_of(train, rows_of_modality("3d"), 0.25, BANK, 0)}
    heads = train_heads(banks, train, validation, labelled, 0)
    new = scan(torch.cat((drawn(0.0, 200), drawn(1.0, 200))))
    searched = {"3d": search_bank(banks["3d"], rows_of_modality("3d"), new, False)}
    truth = torch.arange(400) >= 200
    areas = [
        sklearn.metrics.roc_auc_score(truth, values)
        for values in (head_scores(heads, banks, searched, new), searched["3d"].distances)
    ]
    assert areas[0] > 0.95 > 0.85 > areas[1]


def test_labelled_patches_are_of_every_kind_that_changes_a_modality(
    config: Config, encoders: Encoders, train: list[LazyScan]
) -> None:
    two = train[:2]
    every = labelled_patches(two, encoders, None, config, 0)
    assert set(every) == set(MODALITIES)
    for own in every.values():
        assert own.scan.unique().tolist() == [0, 1]
        # 3 kinds on 2 scans, each with up to 40 normal patches
        assert int((~own.defective).sum()) == 6 * 40 and int(own.defective.sum()) >= 6
    without = replace(config.detector, heads_without=("pasted", "dent", "bump"))
    colour = labelled_patches(two, encoders, None, replace(config, detector=without), 0)
    assert list(colour) == ["rgb"] and int((~colour["rgb"].defective).sum()) == 4 * 40
    assert (
        labelled_patches(two, encoders, None, configure(config, {"detector.heads": False}), 0) == {}
    )
    none = replace(config, detector=replace(config.detector, heads_without=KINDS))
    with pytest.raises(InputError, match="heads_without pasted, blended, dent, bump, colour leav"):
        labelled_patches(two, encoders, None, none, 0)


def test_samples_are_not_kept_for_the_labelled_patches(
    config: Config, encoders: Encoders, train: list[LazyScan]
) -> None:
    fresh = [replace(scan, kept={}) for scan in train[:2]]
    labelled_patches(fresh, encoders, None, config, 0)
    assert all(not scan.kept for scan in fresh)


def test_heads_are_the_same_each_time_and_differ_by_the_seed(
    detector: Detector, config: Config
) -> None:
    again, other = (fit_detector("seal", config, seed).detector for seed in (0, 1))
    for m, head in detector.heads.items():
        first, second, third = (
            torch.cat([t.flatten() for t in d.heads[m].network.state_dict().values()])
            for d in (detector, again, other)
        )
        assert torch.equal(first, second) and not torch.equal(first, third)
        assert head.level == again.heads[m].level != other.heads[m].level


def test_saved_heads_predict_the_same(
    detector: Detector, config: Config, encoders: Encoders, tmp_path: Path
) -> None:
    save(detector, tmp_path / "detector.safetensors")
    again = load(tmp_path / "detector.safetensors", CPU)
    for features in good_features(split_of(config.data, "seal", "test"), encoders, config):
        first, second = predict(detector, features), predict(again, features)
        assert list(first) == list(second) == list(again.modes)
        for mode in first:
            assert torch.equal(first[mode].anomaly_map, second[mode].anomaly_map)
            assert first[mode].image_score == second[mode].image_score


def test_with_adaptors_heads_are_fourth(cached: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_training, "STEPS", 20)
    found = fit_detector("seal", configure(cached, {"detector.heads": True}), 0).detector
    assert found.modes[3:] == (
        *("disagreement", "rgb+3d+disagreement", "heads", "rgb+3d+disagreement+heads"),
    )
    assert set(found.modes) <= set(MODES)


def test_tuned_backbones_make_the_labelled_patches(
    cached: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_training, "STEPS", 5)
    tuned = {"finetune.method": "last_blocks", "finetune.modalities": ["rgb"], "training.steps": 2}
    found = fit_detector("seal", configure(cached, {**tuned, "detector.heads": True}), 0)
    assert set(found.detector.heads) == set(MODALITIES)


def test_one_training_scan_is_refused(config: Config) -> None:
    with pytest.raises(InputError, match=r"1 training scan, but .* at least 2; set detector"):
        fit_detector("seal", replace(config, shots=1), 0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"detector.calibrate": False}, r"detector\.heads needs detector\.calibrate true"),
        ({"pseudo_defects": True}, r"on the kinds they were trained on; leave kinds out"),
        ({"detector.heads_without": ["blend"]}, "'blend', expected one of .* nearest is blended"),
    ],
)
def test_fields_that_contradict_heads_are_refused(
    config: Config, fields: dict[str, object], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        configure(config, fields)


def test_selection_scores_only_kinds_the_heads_never_saw(
    config: Config, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_training, "STEPS", 10)
    pseudo = pseudo_set("seal", config, encoders, 0)
    with pytest.raises(InputError, match=r"so none can rank them; .* detector\.heads_without"):
        separation(learned(config, pseudo, 0), pseudo)
    plain = configure(config, {"detector.heads": False})
    with pytest.raises(InputError, match="none can rank"):
        select({"heads": config, "plain": plain}, pseudo, [0], "rgb+3d")
    some = configure(config, {"detector.heads_without": ["bump", "colour"]})
    assert unseen(pseudo, [plain]) is pseudo
    left = unseen(pseudo, [some, plain])
    assert set(left.kinds) == {"pseudo_bump", "pseudo_colour"}
    assert [f.name.split("#")[1] for f in left.pseudo] == ["bump", "colour"] * 3
    fitted = learned(some, pseudo, 0)
    assert separation(fitted, pseudo) == separation(fitted, left)
    assert "rgb+3d+heads" in separation(fitted, pseudo).i_auroc
    # Both are ranked by the same kinds.
    chosen = {c.name: c for c in select({"h": some, "p": plain}, pseudo, [0], "rgb+3d")}
    assert chosen["p"].separations == (separation(learned(plain, pseudo, 0), left),)


def test_the_straight_path_and_selection_train_the_same_heads(
    config: Config, encoders: Encoders, detector: Detector, tmp_path: Path
) -> None:
    pseudo = pseudo_set("seal", config, encoders, 7)
    save(learned(config, pseudo, 0), tmp_path / "selection")
    save(detector, tmp_path / "path")
    assert (tmp_path / "selection").read_bytes() == (tmp_path / "path").read_bytes()


def test_the_explorer_shows_a_detector_with_heads(
    config: Config, encoders: Encoders, detector: Detector
) -> None:
    splits = [split_of(config.data, "seal", name) for name in ("train", "validation", "test")]
    found = scored(*splits[1:], detector, encoders, config)
    inspection = Inspection(Opened(config, detector, splits[0].entries, found))
    assert inspection.own_threshold == pytest.approx(detector.thresholds["rgb+3d"])
    features = good_features(splits[2], encoders, config)[inspection.scan]
    score = predict(detector, features)["rgb+3d"].image_score
    assert inspection.scores[inspection.scan] == pytest.approx(score, rel=1e-5)
    assert inspection.why().reasons
