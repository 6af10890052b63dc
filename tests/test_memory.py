import math

import numpy as np
import pytest
import torch

from lsfa_lib.config import BankConfig
from lsfa_lib.detection.memory import Bank, nearest_rows, reweighted_score

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
