import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from lsfa_lib.evaluation.bootstrap import half_width
from lsfa_lib.evaluation.curves import CELLS, area_under, rank
from lsfa_lib.evaluation.metrics import (
    aupro,
    aupro_peer,
    auroc,
    bootstrap_interval,
    p_auroc,
    pro_curve,
    roc_curve,
    score_maps,
)

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
LIMITS = [0.3, 0.1, 0.05, 0.01]

needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="the folder of reference cases is not beside this repository"
)


def make_case(
    scans: int = 6, side: int = 24, levels: int = 0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks, the first scan good; scores on a grid of `levels` (0: hardly a tie)."""
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.standard_normal((scans, side, side)), (0, 2, 2))
    masks = blobs > np.quantile(blobs, 0.9)
    masks[0] = False
    maps = rng.standard_normal(masks.shape) + 0.8 * masks
    if levels:
        maps = np.round(maps * levels) / levels
    return maps.astype(np.float32), masks


def components(masks: np.ndarray) -> list[tuple[int, list[tuple[int, int]]]]:
    """8-connected components by flood fill: (scan, pixels)."""
    found = []
    for scan, mask in enumerate(masks):
        left = set(zip(*map(list, np.nonzero(mask)), strict=True))
        while left:
            pixels, front = [], [left.pop()]
            while front:
                y, x = front.pop()
                pixels.append((y, x))
                around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
                left -= around
                front += around
            found.append((scan, pixels))
    return found


def slow_pro_curve(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition: every distinct score a threshold, one loop over components at each."""
    parts = components(masks)
    good = maps[~masks]
    x, y = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        x.append(float((good >= threshold).mean()))
        overlaps = [
            np.mean([maps[scan, row, column] >= threshold for row, column in pixels])
            for scan, pixels in parts
        ]
        y.append(float(np.mean(overlaps)))
    return np.array(x), np.array(y)


def slow_area(curve: tuple[np.ndarray, np.ndarray], limit: float) -> float:
    area = 0.0
    for x0, y0, x1, y1 in zip(curve[0], curve[1], curve[0][1:], curve[1][1:], strict=False):
        if x0 >= limit:
            break
        cut = min(x1, limit)
        y_cut = y1 if x1 == cut else y0 + (y1 - y0) * (cut - x0) / (x1 - x0)
        area += (cut - x0) * (y0 + y_cut) / 2
    return area / limit


def slow_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
    return float(np.mean(pairs))


# --- AUPRO ---------------------------------------------------------------------------------------


@needs_fixtures
def test_aupro_and_p_auroc_of_the_reference_case() -> None:
    case = np.load(FIXTURES / "aupro_case.npz")
    truth = json.loads((FIXTURES / "aupro_case.json").read_text())
    maps, masks = case["maps"], case["gt"] > 0
    for limit, area in zip(LIMITS, aupro(maps, masks, LIMITS), strict=True):
        assert area == pytest.approx(truth["exact"][f"{limit:.2f}"], abs=1e-9)
    for limit in LIMITS:
        key = f"{limit:.2f}"
        hundred = truth["official_100_thresholds"][key]
        assert aupro_peer(maps, masks, limit) == pytest.approx(hundred, abs=1e-6)
        many = truth["official_200000_thresholds"][key]
        assert aupro_peer(maps, masks, limit, 200_000) == pytest.approx(many, abs=1e-9)
    assert p_auroc(maps, masks) == pytest.approx(truth["p_auroc"], abs=1e-9)


@pytest.mark.parametrize("levels", [0, 2, 1])
def test_aupro_is_its_definition(levels: int) -> None:
    maps, masks = make_case(levels=levels)
    curve = slow_pro_curve(maps, masks)
    for limit, area in zip([1.0, *LIMITS], aupro(maps, masks, [1.0, *LIMITS]), strict=True):
        assert area == pytest.approx(slow_area(curve, limit), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_aupro_is_its_definition_on_tiny_maps(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 4))
    count = 2 * rows * columns
    scores = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    pixels = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    maps = np.array(scores, np.float32).reshape(2, rows, columns)
    masks = np.array(pixels).reshape(2, rows, columns)
    if masks.any() and not masks.all():
        limit = data.draw(st.floats(0.01, 1.0))
        slow = slow_area(slow_pro_curve(maps, masks), limit)
        assert aupro(maps, masks, limit) == pytest.approx(slow, abs=1e-9)
        pairs = slow_auroc(maps.ravel(), masks.ravel())
        assert p_auroc(maps, masks) == pytest.approx(pairs, abs=1e-12)


def test_defect_12_ties_are_grouped_where_coarse_aupro_is_wrong() -> None:
    # One good pixel in two ties with the defect: (0.5, 1) is reached in one slanted step.
    maps = np.array([[[1.0, 1.0, 0.0]]], np.float32)
    masks = np.array([[[True, False, False]]])
    assert aupro(maps, masks, 0.5) == pytest.approx(0.5)
    assert aupro(maps, masks, 1.0) == pytest.approx(0.75)
    # A map of four values: the coarse form reads rates off ranks that no threshold can reach.
    maps, masks = make_case(levels=1)
    truth = slow_area(slow_pro_curve(maps, masks), 0.3)
    assert aupro(maps, masks, 0.3) == pytest.approx(truth, abs=1e-12)
    assert abs(aupro_peer(maps, masks, 0.3) - truth) > 0.02


def test_a_constant_map_is_worth_chance() -> None:
    _, masks = make_case()
    maps = np.ones(masks.shape, np.float32)
    assert p_auroc(maps, masks) == 0.5
    assert aupro(maps, masks, 0.3) == pytest.approx(0.15)


def test_a_perfect_map_scores_one_and_an_inverted_one_zero() -> None:
    _, masks = make_case()
    assert aupro(masks.astype(np.float32), masks, LIMITS) == [1.0] * 4
    assert aupro(-masks.astype(np.float32), masks, 0.3) == 0.0


def test_components_touch_by_corners_and_weigh_alike() -> None:
    # A diagonal pair is one component, found; a far block of four is another, missed.
    masks = np.zeros((1, 8, 8), bool)
    masks[0, 1, 1] = masks[0, 2, 2] = True
    masks[0, 5:7, 5:7] = True
    maps = np.zeros((1, 8, 8), np.float32)
    maps[0, 1, 1] = maps[0, 2, 2] = 1
    maps[0, 5:7, 5:7] = -1
    x, y = pro_curve(maps, masks)
    assert np.interp(0.5, x, y) == 0.5
    assert aupro(maps, masks, 0.3) == pytest.approx(0.5)


def test_maps_of_differing_sizes_and_other_kinds_of_arrays() -> None:
    maps, masks = make_case()
    as_list = [maps[0, :20], maps[0, 20:], *maps[1:]]
    masks_list = [masks[0, :20], masks[0, 20:], *masks[1:]]
    expected = aupro(maps, masks, LIMITS)
    assert aupro(as_list, masks_list, LIMITS) == pytest.approx(expected, abs=1e-12)
    tensors = torch.from_numpy(maps), torch.from_numpy(masks)
    assert aupro(*tensors, LIMITS) == expected
    assert aupro(list(tensors[0]), list(tensors[1]), LIMITS) == expected
    assert aupro(maps.astype(np.float64), masks, LIMITS) == expected


def test_peer_is_its_definition() -> None:
    maps, masks = make_case()
    good = np.sort(maps[~masks])
    parts = components(masks)
    for thresholds in (2, 7, 100):
        x, y = [1.0], [1.0]
        for position in np.linspace(0, len(good) - 1, thresholds).astype(int):
            x.append(1 - (position + 1) / len(good))
            overlaps = [
                np.mean([maps[scan, row, column] > good[position] for row, column in pixels])
                for scan, pixels in parts
            ]
            y.append(float(np.mean(overlaps)))
        curve = np.array(x[::-1]), np.array(y[::-1])
        for limit in LIMITS:
            slow = slow_area(curve, limit)
            assert aupro_peer(maps, masks, limit, thresholds) == pytest.approx(slow, abs=1e-12)


# --- AUROC ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [0, 2])
def test_p_auroc_agrees_with_sklearn(levels: int) -> None:
    maps, masks = make_case(levels=levels)
    assert p_auroc(maps, masks) == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_auroc_counts_pairs(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], np.float64)
    labels = np.array([label for _, label in pairs])
    if labels.any() and not labels.all():
        assert auroc(scores, labels) == pytest.approx(slow_auroc(scores, labels), abs=1e-12)


def test_auroc_takes_lists_and_tensors() -> None:
    assert auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])) == 0.75
    assert auroc([1.0, 2.0, -math.inf], [False, True, False]) == 1.0


def test_roc_curve_agrees_with_sklearn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.6
    scores = np.round(rng.standard_normal(200) + labels, 1)
    x, y = roc_curve(scores, labels, points=None)
    their_x, their_y, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    grid = np.linspace(0.001, 0.999, 500)
    assert np.trapezoid(y, x) == pytest.approx(np.trapezoid(their_y, their_x), abs=1e-12)
    assert np.abs(np.interp(grid, x, y) - np.interp(grid, their_x, their_y)).max() < 1e-9


def test_curves_for_plots_are_short_and_keep_their_shape() -> None:
    maps, masks = make_case(scans=10, side=64)
    x, y = pro_curve(maps, masks, points=None)
    thin_x, thin_y = pro_curve(maps, masks)
    assert len(x) > 2000 and len(thin_x) <= 302
    assert (thin_x[0], thin_y[0], thin_x[-1], thin_y[-1]) == (0, 0, 1, 1)
    assert (np.diff(thin_x) >= 0).all() and (np.diff(thin_y) >= 0).all()
    assert area_under((thin_x, thin_y), 0.3) == pytest.approx(area_under((x, y), 0.3), abs=2e-3)


def test_area_stops_inside_a_segment() -> None:
    line = np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0])
    for limit in (0.25, 0.5, 0.75, 1.0):
        assert area_under(line, limit) == pytest.approx(limit / 2)
    for limit in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"in \\(0, 1\\], not {limit}"):
            area_under(line, limit)


@pytest.mark.parametrize(
    "spread",
    [
        lambda scores: scores,
        lambda scores: np.round(scores, 2),
        lambda scores: scores.astype(np.float64),
        lambda scores: scores.astype(np.float16),
        lambda scores: np.exp(5 * scores),
        lambda scores: 1000 + 1e-4 * scores,
        lambda scores: np.where(scores > 3, np.inf, scores),
        lambda scores: np.float32(1e-41) * scores,
        lambda scores: np.zeros_like(scores),
    ],
    ids=["plain", "ties", "float64", "float16", "skewed", "narrow", "inf", "denormal", "constant"],
)
def test_ranking_of_many_scores_is_that_of_sorting_them(
    spread: Callable[[np.ndarray], np.ndarray],
) -> None:
    rng = np.random.default_rng(0)
    good = spread(rng.standard_normal(CELLS + 1000, np.float32))
    defect = spread(rng.standard_normal(5000, np.float32) + np.float32(1))
    ranking = rank(good, defect)
    levels, rising = np.unique(defect)[::-1], np.sort(good)
    above = 1 - np.searchsorted(rising, levels, side="right") / len(good)
    reached = 1 - np.searchsorted(rising, levels, side="left") / len(good)
    assert (ranking.above == above).all() and (ranking.reached == reached).all()
    assert (defect[ranking.order][ranking.ends] == levels).all()


# --- a split at once -----------------------------------------------------------------------------


def test_score_maps_is_each_metric_alone() -> None:
    maps, masks = make_case(levels=5)
    image_scores, labels = maps.max((1, 2)), masks.any((1, 2))
    scores = score_maps(maps, masks, image_scores, labels)
    assert scores.i_auroc == auroc(image_scores, labels)
    assert scores.p_auroc == p_auroc(maps, masks)
    exact = [scores.aupro_30, scores.aupro_10, scores.aupro_05, scores.aupro_01]
    assert exact == aupro(maps, masks, LIMITS)
    assert scores.aupro_30_peer == aupro_peer(maps, masks, 0.3)
    assert scores.aupro_01_peer == aupro_peer(maps, masks, 0.01)
    assert scores.notes == ()


def test_a_split_of_one_class_is_nan_with_the_reason() -> None:
    maps, masks = make_case()
    scores = score_maps(maps, np.zeros_like(masks), maps.max((1, 2)), [False] * 6)
    assert scores.notes == (
        "I-AUROC is undefined: all scans are of one class",
        "P-AUROC and AUPRO are undefined: no defect pixel",
    )
    numbers = [value for value in vars(scores).values() if isinstance(value, float)]
    assert len(numbers) == 8 and all(math.isnan(value) for value in numbers)
    # Defective scans without masks still have an image score.
    scores = score_maps(maps, np.zeros_like(masks), maps.max((1, 2)), masks.any((1, 2)))
    assert not math.isnan(scores.i_auroc) and math.isnan(scores.aupro_30)
    scores = score_maps(maps, np.ones_like(masks), maps.max((1, 2)), [True] * 6)
    assert scores.notes[1] == "P-AUROC and AUPRO are undefined: no good pixel"


@pytest.mark.parametrize("metric", [p_auroc, aupro, aupro_peer])
def test_one_class_of_pixels_warns(metric: Callable[..., float]) -> None:
    maps, masks = make_case()
    with pytest.warns(UserWarning, match="AU.* is undefined: no defect pixel"):
        assert math.isnan(metric(maps, np.zeros_like(masks)))
    with pytest.warns(UserWarning, match="AU.* is undefined: no good pixel"):
        assert math.isnan(metric(maps, np.ones_like(masks)))
    with pytest.raises(ValueError, match="no PRO curve: no defect pixel"):
        pro_curve(maps, np.zeros_like(masks))


@pytest.mark.parametrize("label", [True, False])
def test_one_class_of_scans_warns(label: bool) -> None:
    with pytest.warns(UserWarning, match="AUROC is undefined: all scans are of one class"):
        assert math.isnan(auroc([0.1, 0.2], [label, label]))
    with pytest.warns(UserWarning, match="interval of AUROC is undefined"):
        assert math.isnan(bootstrap_interval([0.1, 0.2], [label, label], seed=0)[0])
    with pytest.raises(ValueError, match="no ROC curve: all scans are of one class"):
        roc_curve([0.1, 0.2], [label, label])


def test_nan_scores_and_odd_sizes_are_refused() -> None:
    maps, masks = make_case()
    broken = maps.copy()
    broken[2, 3, 4] = np.nan
    with pytest.raises(ValueError, match="1 of 576 scores are NaN"):
        aupro(broken, masks)
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        auroc([0.1, math.nan], [True, False])
    with pytest.raises(ValueError, match=r"map 1 is \(24, 24\) and its mask is \(12, 24\)"):
        aupro(list(maps[:2]), [masks[0], masks[1, :12]])
    with pytest.raises(ValueError, match="3 scores and 2 labels"):
        auroc([0.1, 0.2, 0.3], [True, False])


def test_inputs_are_left_as_they_were() -> None:
    maps, masks = make_case()
    kept = maps.copy(), masks.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_maps(maps, masks, maps.max((1, 2)), masks.any((1, 2)))
    assert (maps == kept[0]).all() and (masks == kept[1]).all()


# --- intervals -----------------------------------------------------------------------------------


def test_bootstrap_interval_is_that_of_a_loop_over_resamples() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(60) < 35
    scores = np.round(rng.standard_normal(60) + labels, 1)
    low, high = bootstrap_interval(scores, labels, seed=0, resamples=4000)
    areas = []
    for _ in range(1000):
        high_drawn = rng.choice(scores[labels], labels.sum())[:, None]
        low_drawn = rng.choice(scores[~labels], (~labels).sum())
        areas.append(np.mean((high_drawn > low_drawn) + 0.5 * (high_drawn == low_drawn)))
    assert (low, high) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])), abs=0.015)
    assert low < auroc(scores, labels) < high
    assert bootstrap_interval(scores, labels, seed=0, resamples=4000) == (low, high)
    inner = bootstrap_interval(scores, labels, seed=0, level=0.5, resamples=4000)
    assert low < inner[0] < inner[1] < high


def test_half_widths_are_those_of_students_t() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 0.02, 3), rng.normal(0.8, 0.1, 7)
    for found, test in (
        (half_width(a), stats.ttest_1samp(a, 0)),
        (half_width(a, b), stats.ttest_ind(a, b, equal_var=False)),
    ):
        low, high = test.confidence_interval()
        assert found == pytest.approx((high - low) / 2)
    low, high = stats.ttest_1samp(b, 0).confidence_interval(0.5)
    assert half_width(b, level=0.5) == pytest.approx((high - low) / 2)
    assert half_width(a, a[:1]) == half_width(a)
    assert half_width(np.full(3, 0.5)) == 0 and np.isnan(half_width(a[:1]))
