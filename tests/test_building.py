"""Banks are built scan by scan: the same rows as from all at once, and in bounded memory."""

import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power

from lsfa_lib.config import BankConfig
from lsfa_lib.detection.building import (
    Moments,
    _equal_share,
    build_bank,
    restandardised,
    whitening_of,
)
from lsfa_lib.detection.coreset import greedy_k_centre
from lsfa_lib.detection.memory import Bank, nearest_rows
from lsfa_lib.storage.files import InputError

CONFIG = BankConfig()
Pair = tuple[torch.Tensor, torch.Tensor]


def features(n: int, width: int = 32, seed: int = 0, offset: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, width, generator=generator) + offset


def origins(n: int, per_scan: int = 10) -> torch.Tensor:
    return torch.stack([torch.arange(n) // per_scan, torch.arange(n) % per_scan], 1)


def part(rows: torch.Tensor, source: torch.Tensor, scan: int) -> Pair:
    own = source[:, 0] == scan
    return rows[own], source[own]


def bank_from(
    rows: torch.Tensor, source: torch.Tensor, n_keep: int, config: BankConfig, seed: int
) -> Bank:
    scans = range(int(source[:, 0].max()) + 1)
    return build_bank([partial(part, rows, source, i) for i in scans], n_keep, config, seed)


def test_defect_1_a_bank_is_standardised_by_its_own_mean_and_std():
    rows = features(200)
    bank = bank_from(rows, origins(200), 20, CONFIG, seed=0)
    assert bank.mean == pytest.approx(rows.double().mean().item(), rel=1e-6)
    assert bank.std == pytest.approx(rows.double().std().item(), rel=1e-6)
    whole = bank_from(rows, origins(200), 200, CONFIG, seed=0).rows
    assert whole.mean().item() == pytest.approx(0, abs=1e-5)
    assert whole.std().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("n_keep", [1, 13, 130, 200])
def test_defect_2_a_bank_keeps_as_many_rows_as_asked(n_keep):
    bank = bank_from(features(200), origins(200), n_keep, CONFIG, seed=0)
    assert bank.rows.shape == (n_keep, 32)
    assert len({tuple(pair) for pair in bank.source.tolist()}) == n_keep


def test_defect_3_a_row_of_zeros_may_be_kept_and_none_is_added():
    rows = features(30)
    rows[7] = 0
    rows[11] = rows.mean()
    bank = bank_from(rows, origins(30), 30, CONFIG, seed=0)
    order = bank.source[:, 0] * 10 + bank.source[:, 1]
    assert sorted(order.tolist()) == list(range(30))
    torch.testing.assert_close(bank.rows * bank.std + bank.mean, rows[order], rtol=0, atol=1e-5)


def test_rows_keep_their_origin_and_the_input_is_left_alone():
    rows, source = features(90), origins(90)
    before = rows.clone()
    bank = bank_from(rows, source, 9, CONFIG, seed=4)
    raw = bank.rows * bank.std + bank.mean
    assert torch.equal(rows, before)
    for row, (scan, patch) in zip(raw, bank.source.tolist(), strict=True):
        torch.testing.assert_close(row, rows[10 * scan + patch], rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_bank():
    banks = [bank_from(features(300), origins(300), 30, CONFIG, seed=s) for s in (1, 1, 2)]
    assert torch.equal(banks[0].source, banks[1].source)
    assert not torch.equal(banks[0].source, banks[2].source)


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_rows_that_cannot_be_standardised_are_refused(value):
    with pytest.raises(InputError, match=r"5 feature rows .* standard deviation"):
        bank_from(torch.full((5, 3), value), origins(5), 2, CONFIG, seed=0)


def test_a_bank_under_shared_statistics_is_the_raw_bank_under_them():
    rows = features(50)
    bank = restandardised(bank_from(rows, origins(50), 50, CONFIG, seed=0), 1.25, 0.5)
    order = bank.source[:, 0] * 10 + bank.source[:, 1]
    torch.testing.assert_close(bank.rows, (rows[order] - 1.25) / 0.5, rtol=0, atol=1e-4)
    assert nearest_rows(rows, bank)[0].max() < 1e-3


def test_whitened_distances_equal_those_of_scaled_principal_components():
    rows, queries = features(200), features(20, seed=1)
    bank = bank_from(rows, origins(200), 200, replace(CONFIG, whitening=1.0), seed=0)
    centred = rows.double() - rows.double().mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    variances = singular.square() / 199
    scale = (variances + 0.05 * variances.mean()).rsqrt()
    own, bank_rows = ((x.double() @ directions.T) * scale for x in (queries, rows))
    expected = torch.cdist(own, bank_rows).amin(1)
    torch.testing.assert_close(nearest_rows(queries, bank)[0].double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_whitening_is_a_power_of_the_covariance(power: float) -> None:
    covariance = torch.cov(features(200).double().T)
    ridge = 0.05 * covariance.trace() / 32 * torch.eye(32, dtype=torch.float64)
    expected = fractional_matrix_power((covariance + ridge).numpy(), -power / 2)
    np.testing.assert_allclose(whitening_of(covariance, power).numpy(), expected, atol=1e-6)


def test_whitening_of_half_power_lies_between_none_and_all():
    rows = features(400) * torch.linspace(0.1, 3, 32)
    spreads = [
        bank_from(rows, origins(400), 400, replace(CONFIG, whitening=w), seed=0).rows.std(0)
        for w in (0.5, 1.0)
    ]
    half, whole = ((each.max() / each.min()).item() for each in spreads)
    assert whole < half < 30


def test_a_whitened_bank_takes_no_other_statistics():
    bank = bank_from(features(50), origins(50), 5, replace(CONFIG, whitening=1.0), seed=0)
    with pytest.raises(InputError, match=r"bank\.whitening needs bank\.statistics own"):
        restandardised(bank, 0.0, 1.0)


@pytest.mark.parametrize("width", [32, 900])
def test_a_bank_of_many_scans_keeps_the_rows_of_one_selection_from_all(width: int) -> None:
    rows = features(300, width)
    bank = bank_from(rows, origins(300, 50), 40, CONFIG, seed=5)
    kept = greedy_k_centre(rows, 40, seed=5)
    assert (50 * bank.source[:, 0] + bank.source[:, 1]).tolist() == kept.tolist()


def test_no_more_rows_than_exist_or_than_max_rows_are_kept() -> None:
    rows = features(60)
    assert len(bank_from(rows, origins(60), 500, CONFIG, seed=0).rows) == 60
    assert len(bank_from(rows, origins(60), 50, replace(CONFIG, max_rows=7), seed=0).rows) == 7


def test_a_scan_without_rows_is_passed_over() -> None:
    rows, source = features(40), origins(40)
    source[source[:, 0] >= 2, 0] += 1  # scan 2 has none
    bank = bank_from(rows, source, 40, CONFIG, seed=0)
    assert sorted(bank.source[:, 0].unique().tolist()) == [0, 1, 3, 4]
    assert bank.std == pytest.approx(rows.double().std().item(), rel=1e-6)


@pytest.mark.parametrize(("clusters", "factor"), [(0, 1.2), (5, 1.3)])
def test_beyond_the_memory_limit_each_scan_gives_an_equal_share_that_covers_it(
    clusters: int, factor: float
) -> None:
    rows, source = features(400, 8), origins(400, 100)
    if clusters:  # far apart, with copies in each
        rows = rows.round() / 2 + 40 * features(clusters, 8, seed=1)[torch.arange(400) % clusters]
    limited = replace(CONFIG, memory_mb=4e-6 * 8 * 201, projection_eps=0.0)
    every = bank_from(rows, source, 200, limited, seed=1)
    assert torch.bincount(every.source[:, 0]).tolist() == [50, 50, 50, 50]
    bank = bank_from(rows, source, 30, limited, seed=1)
    index = 100 * bank.source[:, 0] + bank.source[:, 1]
    union = rows[100 * every.source[:, 0] + every.source[:, 1]]
    within_scans = torch.cdist(rows, union).amin(1).max()
    of_union = torch.cdist(union, rows[index]).amin(1).max()
    radius = torch.cdist(rows, rows[index]).amin(1).max()
    exact = torch.cdist(rows, rows[greedy_k_centre(rows, 30, 1, 0.0)]).amin(1).max()
    assert radius <= within_scans + of_union
    assert radius <= factor * exact  # 1.03 and 1.23 here
    assert bank.mean == pytest.approx(rows.double().mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("scans", "memory_mb", "passes", "at_once"),
    # A scan's rows and their sources take 7.2 kB; without room: those of the loop's scan, of the
    # next, and of the one that shows width and type.
    [(5, 1.0, 1, 5), (34, 1.0, 1, 34), (40, 1.0, 3, 35), (5, 0.01, 3, 3), (40, 0.01, 3, 3)],
)
def test_rows_are_held_where_those_of_all_scans_fit(
    scans: int, memory_mb: float, passes: int, at_once: int
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def rows_of(scan: int) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal most
        own = features(50, seed=scan)
        held.append(weakref.ref(own))
        most = max(most, sum(each() is not None for each in held))
        patches = torch.arange(50)
        return own, torch.stack((torch.full_like(patches, scan), patches), 1)

    parts = [partial(rows_of, scan) for scan in range(scans)]
    build_bank(parts, 20, replace(CONFIG, memory_mb=memory_mb, projection_eps=0.0), seed=0)
    assert most == at_once
    assert len(held) == scans if passes == 1 else len(held) > 2 * scans


def test_the_rows_a_limited_scan_gives_are_spread_over_it() -> None:
    rows, source = features(200, 4), origins(200, 100)
    rows[::100] += 50  # one outlier in each scan
    limited = replace(CONFIG, memory_mb=4e-6 * 4 * 21)
    bank = bank_from(rows, source, 20, limited, seed=0)
    assert {(0, 0), (1, 0)} <= {tuple(pair) for pair in bank.source.tolist()}


def test_a_limit_below_the_bank_is_a_sentence_with_the_size_that_works() -> None:
    rows, source = features(3000, 200), origins(3000, 1000)
    with pytest.raises(InputError, match=r"holds 1248 of 3000 .* keeps 2000; set it to 2 or more"):
        bank_from(rows, source, 2000, replace(CONFIG, memory_mb=1.0, projection_eps=0.0), seed=0)
    enough = replace(CONFIG, memory_mb=2.0, projection_eps=0.0)
    assert len(bank_from(rows, source, 2000, enough, seed=0).rows) == 2000
    with pytest.raises(InputError, match=r"holds 0 of 3000"):
        bank_from(rows, source, 1, replace(CONFIG, memory_mb=0.001), seed=0)


def test_room_that_small_scans_leave_goes_to_the_others() -> None:
    rows = features(2000, 152)
    source = torch.stack([(torch.arange(2000) >= 10).long(), torch.arange(2000)], 1)
    limited = replace(CONFIG, projection_eps=0.0)
    with pytest.raises(InputError, match="set it to 1 or more"):
        bank_from(rows, source, 1000, replace(limited, memory_mb=0.5), seed=0)
    bank = bank_from(rows, source, 1000, replace(limited, memory_mb=1.0), seed=0)
    assert len(bank.rows) == 1000


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 300))
def test_the_share_is_the_largest_that_fits(counts: list[int], room: int) -> None:
    fitting = [s for s in range(max(counts) + 1) if sum(min(c, s) for c in counts) <= room]
    assert _equal_share(counts, room) == fitting[-1]


@pytest.mark.parametrize("products", [False, True])
def test_moments_equal_those_of_all_rows(products: bool) -> None:
    rows = features(500, 6).double() * torch.arange(1.0, 7) + 1000
    moments = Moments(products)
    for each in rows.split([1, 199, 0, 300]):
        moments.add(each)
    mean, std = moments.overall()
    assert mean == pytest.approx(rows.mean().item(), rel=1e-12)
    assert std == pytest.approx(rows.std().item(), rel=1e-12)
    if products:
        np.testing.assert_allclose(moments.covariance(), np.cov(rows.T), rtol=1e-9)
