import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lsfa_lib.config import BankConfig
from lsfa_lib.detection.memory import (
    Bank,
    build_bank,
    nearest_rows,
    restandardised,
    reweighted_score,
)
from lsfa_lib.storage.files import InputError

CONFIG = BankConfig()


def features(n: int, width: int = 32, seed: int = 0, offset: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, width, generator=generator) + offset


def origins(n: int) -> torch.Tensor:
    return torch.stack([torch.arange(n) // 10, torch.arange(n) % 10], 1)


def plain_bank(rows: torch.Tensor, mean: float = 0.0, std: float = 1.0) -> Bank:
    return Bank(rows, mean, std, origins(len(rows)))


def all_distances(patches: torch.Tensor, bank: Bank) -> torch.Tensor:
    standard = (patches.double() - bank.mean) / bank.std
    return (standard[:, None] - bank.rows.double()).norm(dim=-1)


def test_defect_1_a_bank_is_standardised_by_its_own_mean_and_std():
    rows = features(200)
    bank = build_bank(rows, origins(200), 20, CONFIG, seed=0)
    assert bank.mean == pytest.approx(rows.double().mean().item(), rel=1e-6)
    assert bank.std == pytest.approx(rows.double().std().item(), rel=1e-6)
    whole = build_bank(rows, origins(200), 200, CONFIG, seed=0).rows
    assert whole.mean().item() == pytest.approx(0, abs=1e-5)
    assert whole.std().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("n_keep", [1, 13, 130, 200])
def test_defect_2_a_bank_keeps_as_many_rows_as_asked(n_keep):
    bank = build_bank(features(200), origins(200), n_keep, CONFIG, seed=0)
    assert bank.rows.shape == (n_keep, 32)
    assert len({tuple(pair) for pair in bank.source.tolist()}) == n_keep


def test_defect_3_a_row_of_zeros_may_be_kept_and_none_is_added():
    rows = features(30)
    rows[7] = 0
    rows[11] = rows.mean()
    bank = build_bank(rows, origins(30), 30, CONFIG, seed=0)
    order = bank.source[:, 0] * 10 + bank.source[:, 1]
    assert sorted(order.tolist()) == list(range(30))
    torch.testing.assert_close(bank.rows * bank.std + bank.mean, rows[order], rtol=0, atol=1e-5)


def test_rows_keep_their_origin_and_the_input_is_left_alone():
    rows, source = features(90), origins(90)
    before = rows.clone()
    bank = build_bank(rows, source, 9, CONFIG, seed=4)
    raw = bank.rows * bank.std + bank.mean
    assert torch.equal(rows, before)
    for row, (scan, patch) in zip(raw, bank.source.tolist(), strict=True):
        torch.testing.assert_close(row, rows[10 * scan + patch], rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_bank():
    banks = [build_bank(features(300), origins(300), 30, CONFIG, seed=s) for s in (1, 1, 2)]
    assert torch.equal(banks[0].source, banks[1].source)
    assert not torch.equal(banks[0].source, banks[2].source)


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_rows_that_cannot_be_standardised_are_refused(value):
    with pytest.raises(InputError, match=r"5 feature rows .* standard deviation"):
        build_bank(torch.full((5, 3), value), origins(5), 2, CONFIG, seed=0)


def test_a_bank_under_shared_statistics_is_the_raw_bank_under_them():
    rows = features(50)
    bank = restandardised(build_bank(rows, origins(50), 50, CONFIG, seed=0), 1.25, 0.5)
    order = bank.source[:, 0] * 10 + bank.source[:, 1]
    torch.testing.assert_close(bank.rows, (rows[order] - 1.25) / 0.5, rtol=0, atol=1e-4)
    assert nearest_rows(rows, bank)[0].max() < 1e-3


def test_whitened_distances_equal_those_of_scaled_principal_components():
    rows, queries = features(200), features(20, seed=1)
    bank = build_bank(rows, origins(200), 200, replace(CONFIG, whitening=1.0), seed=0)
    centred = rows.double() - rows.double().mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    variances = singular.square() / 199
    scale = (variances + 0.05 * variances.mean()).rsqrt()
    own, bank_rows = ((x.double() @ directions.T) * scale for x in (queries, rows))
    expected = torch.cdist(own, bank_rows).amin(1)
    torch.testing.assert_close(nearest_rows(queries, bank)[0].double(), expected, rtol=1e-4, atol=0)


def test_whitening_of_half_power_lies_between_none_and_all():
    rows = features(400) * torch.linspace(0.1, 3, 32)
    spreads = [
        build_bank(rows, origins(400), 400, replace(CONFIG, whitening=w), seed=0).rows.std(0)
        for w in (0.5, 1.0)
    ]
    half, whole = ((each.max() / each.min()).item() for each in spreads)
    assert whole < half < 30


def test_a_whitened_bank_takes_no_other_statistics():
    bank = build_bank(features(50), origins(50), 5, replace(CONFIG, whitening=1.0), seed=0)
    with pytest.raises(InputError, match=r"bank\.whitening needs bank.statistics own"):
        restandardised(bank, 0.0, 1.0)


@pytest.mark.parametrize("patches", [1, 15, 16, 17, 50])
@pytest.mark.parametrize("rows", [1, 16, 33])
def test_nearest_rows_equal_all_distances_around_chunk_boundaries(patches, rows):
    queries, bank = features(patches, seed=1), plain_bank(features(rows, seed=2), 0.4, 1.7)
    distances, indices = nearest_rows(queries, bank, chunk=16)
    expected, places = all_distances(queries, bank).min(1)
    torch.testing.assert_close(distances, expected.float(), rtol=1e-5, atol=0)
    assert torch.equal(indices, places)
    assert torch.equal(nearest_rows(queries, bank)[0], distances)


def test_nearest_rows_equal_cdist_with_the_default_chunk():
    queries, bank = features(2050, 48, seed=1), plain_bank(features(2100, 48, seed=2), 3.0, 2.0)
    bank = Bank((bank.rows - 3) / 2, 3.0, 2.0, bank.source)
    standard = (queries.double() - 3) / 2
    expected = torch.cdist(standard, bank.rows.double()).amin(1)
    torch.testing.assert_close(nearest_rows(queries, bank)[0], expected.float())


def test_defect_11_small_distances_survive_a_large_common_offset():
    # In float32 squares of 500 leave steps of 0.03 a number, and the distances are 0.01.
    rows = features(40, 8, offset=0.0) * 0.05 + 500
    queries = rows + 0.01 / math.sqrt(8)
    distances, indices = nearest_rows(queries, plain_bank(rows))
    assert torch.equal(indices, torch.arange(40))
    torch.testing.assert_close(distances, torch.full((40,), 0.01), rtol=0.03, atol=0)
    expanded = (queries.square().sum(1)[:, None] + rows.square().sum(1)) - 2 * queries @ rows.T
    assert not torch.equal(expanded.argmin(1), torch.arange(40))


def test_a_patch_that_is_in_the_bank_has_distance_zero():
    bank = plain_bank(features(100))
    assert nearest_rows(bank.rows, bank)[0].abs().max() == 0


def test_half_precision_patches_score_like_their_float_values():
    queries, bank = features(20).half(), plain_bank(features(30, seed=1))
    assert torch.equal(nearest_rows(queries, bank)[0], nearest_rows(queries.float(), bank)[0])


def test_nearest_rows_leave_their_input_alone():
    queries, bank = features(20), plain_bank(features(30, seed=1))
    before = queries.clone(), bank.rows.clone()
    nearest_rows(queries, bank)
    assert torch.equal(queries, before[0])
    assert torch.equal(bank.rows, before[1])


def test_reweighted_score_by_hand():
    # f* = (3, 0); m* = (0, 0); its neighbour (0, 4) is 5 from f*; (9, 9) plays no part.
    bank = plain_bank(torch.tensor([[0.0, 0], [0, 4], [9, 9]]))
    patches = torch.tensor([[0.0, 1.0], [3.0, 0.0]])
    distances, indices = nearest_rows(patches, bank)
    scale = math.sqrt(2)
    expected = 3 * (1 - math.exp(3 / scale) / (math.exp(3 / scale) + math.exp(5 / scale)))
    assert reweighted_score(patches, distances, indices, bank) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("neighbours", [2, 3, 100])
def test_reweighted_score_equals_the_formula(neighbours):
    patches, bank = features(25, seed=3), plain_bank(features(40, seed=4), 1.0, 2.0)
    distances, indices = nearest_rows(patches, bank)
    table = all_distances(patches, bank).numpy()
    star = table.min(1).argmax()
    closest = table[star].argmin()
    rows = bank.rows.double().numpy()
    near = np.argsort(np.linalg.norm(rows - rows[closest], axis=1))[:neighbours]
    terms = np.exp(table[star][near] / math.sqrt(32))
    expected = (1 - np.exp(table[star].min() / math.sqrt(32)) / terms.sum()) * table[star].min()
    ours = reweighted_score(patches, distances, indices, bank, neighbours)
    assert ours == pytest.approx(expected, rel=1e-5)


def test_reweighted_score_does_not_overflow():
    bank = plain_bank(torch.tensor([[0.0, 0.0], [0.0, 100.0]]))
    patches = torch.tensor([[1e4, 0.0]])
    score = reweighted_score(patches, *nearest_rows(patches, bank), bank)
    far, near = math.hypot(1e4, 100) / math.sqrt(2), 1e4 / math.sqrt(2)
    assert score == pytest.approx(1e4 * (1 - 1 / (1 + math.exp(far - near))), rel=1e-3)


def test_a_patch_found_in_the_bank_scores_zero_and_one_row_gives_the_plain_distance():
    bank = plain_bank(features(10))
    assert reweighted_score(bank.rows, *nearest_rows(bank.rows, bank), bank) == 0
    single = plain_bank(torch.zeros(1, 2))
    patches = torch.tensor([[3.0, 4.0]])
    assert reweighted_score(patches, *nearest_rows(patches, single), single) == 5
