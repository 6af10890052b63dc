import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lsfa_lib.adaptation.monitors import alignment_accuracy, effective_rank, feature_variance


def normal(n: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator)


def counted(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 5, (n,), generator=generator).float()


@pytest.mark.parametrize(("n", "width"), [(40, 6), (12, 30), (2, 1)])
def test_both_equal_numpy_on_the_expanded_patches(n, width):
    rows, counts = normal(n, width) * torch.linspace(0.1, 3, width) + 5, counted(n, 1)
    counts[:2] = torch.tensor([3.0, 1.0])
    expanded = rows.double().numpy().repeat(counts.long().numpy(), axis=0)
    assert feature_variance(rows, counts) == pytest.approx(expanded.var(axis=0).mean(), rel=1e-9)
    spectrum = np.linalg.svd(expanded - expanded.mean(0), compute_uv=False) ** 2
    p = spectrum[spectrum > 1e-12] / spectrum.sum()
    assert effective_rank(rows, counts) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("width", [10, 500])
def test_orthogonal_rows_have_one_rank_less_than_rows(n, width):
    rows = 2 * torch.eye(width)[:n] + 7
    assert effective_rank(rows, torch.ones(n)) == pytest.approx(n - 1)
    # Each of the n columns is 2 in one of n rows.
    variance = 4 * (1 / n - 1 / n**2) * n / width
    assert feature_variance(rows, torch.ones(n)) == pytest.approx(variance, rel=1e-6)


def test_opposite_pairs_show_the_spectrum_they_were_made_with():
    spectrum = torch.tensor([4.0, 2.0, 1.0, 1.0])
    half = torch.diag(spectrum.sqrt())
    rows, counts = torch.cat((half, -half)), torch.full((8,), 3.0)
    # p = 1/2, 1/4, 1/8, 1/8: entropy 7/4 bits.
    assert effective_rank(rows, counts) == pytest.approx(2**1.75, rel=1e-6)
    assert feature_variance(rows, counts) == pytest.approx((4 + 2 + 1 + 1) / 4 / 4, rel=1e-6)


def test_counts_weigh_the_spectrum():
    rows, counts = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), torch.tensor([9.0, 9, 1, 1])
    p = 0.9
    expected = math.exp(-p * math.log(p) - (1 - p) * math.log(1 - p))
    assert effective_rank(rows, counts) == pytest.approx(expected, rel=1e-6)


def test_rows_on_one_line_have_rank_one():
    rows = normal(50, 1) * normal(1, 20, 1) + 3
    assert effective_rank(rows, counted(50, 2)) == pytest.approx(1, abs=1e-6)
    assert feature_variance(rows, counted(50, 2)) > 0.1


@pytest.mark.parametrize("value", [0.0, 0.1, -1e3, 1e-20])
def test_constant_rows_have_neither_variance_nor_rank(value):
    rows, counts = torch.full((37, 8), value), counted(37, 1)
    rows[counts == 0] = torch.nan
    assert (counts == 0).any()
    assert feature_variance(rows, counts) == 0
    assert effective_rank(rows, counts) == 0


def test_rounding_about_a_constant_is_no_rank_but_a_small_spread_is():
    constant, counts = normal(1, 30).repeat(60, 1), torch.ones(60)
    noise = normal(60, 30, 1)
    assert effective_rank(constant + 1e-7 * noise, counts) == 0
    assert effective_rank(constant + 1e-5 * noise, counts) > 15
    # A shrunk but varied set of features has not collapsed in rank.
    assert effective_rank(1e-12 * noise, counts) == pytest.approx(
        effective_rank(noise, counts), rel=1e-6
    )


def test_variance_and_rank_each_show_a_collapse():
    rows, counts = normal(200, 16), torch.ones(200)
    shrunk = rows * 1e-3 + 2
    flat = rows * torch.tensor([1.0] + [1e-3] * 15)
    assert feature_variance(shrunk, counts) < 1e-5 < 0.9 < feature_variance(rows, counts)
    assert effective_rank(flat, counts) < 1.01 < 14 < effective_rank(rows, counts)


def accuracy_by_loops(a: Tensor, b: Tensor, index_a: Tensor, index_b: Tensor) -> float:
    x, y = a[index_a].double(), b[index_b].double()
    right = 0
    for t in range(len(x)):
        to_b = [torch.cosine_similarity(x[t], y[k], dim=0).item() for k in range(len(y))]
        to_a = [torch.cosine_similarity(x[k], y[t], dim=0).item() for k in range(len(x))]
        right += int(index_b[int(np.argmax(to_b))] == index_b[t])
        right += int(index_a[int(np.argmax(to_a))] == index_a[t])
    return right / (2 * len(x))


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, 5.0])
def test_accuracy_equals_loops_over_the_expanded_patches(noise):
    base, index_a = normal(12, 6), torch.randint(11, (40,), generator=torch.manual_seed(0))
    index_b = index_a // 2
    a = base + noise * normal(12, 6, 1)
    b = base[::2] * torch.linspace(0.1, 10, 6)[:, None] + noise * normal(6, 6, 2)
    found = alignment_accuracy((a, index_a), (b, index_b))
    assert found == pytest.approx(accuracy_by_loops(a, b, index_a, index_b))
    assert 0 < found < 1


def test_accuracy_by_hand():
    each = torch.arange(4)
    assert alignment_accuracy((torch.eye(4), each), (9 * torch.eye(4), each)) == 1
    assert alignment_accuracy((torch.eye(4), each), (torch.eye(4), each.flip(0))) == 0
    # a_0 and a_1 both find b_0: right once; b_0 finds a_0, b_1 finds a_1 (0.8 against 0.6).
    a, b = torch.tensor([[1.0, 0.0], [0.8, 0.6]]), torch.tensor([[1.0, 0.1], [-1.0, 1.0]])
    assert alignment_accuracy((a, each[:2]), (b, each[:2])) == 0.75


def test_patches_that_share_a_row_and_a_partner_are_all_right():
    index = torch.tensor([0, 0, 0, 1, 2, 2])
    assert alignment_accuracy((torch.eye(3), index), (torch.eye(3), index)) == 1


def test_four_patches_of_one_row_find_one_of_four_partners():
    index_a, index_b = torch.arange(8) // 4, torch.arange(8)
    a = torch.eye(10)[:2]
    b = a[index_a] + torch.diag(torch.linspace(0.1, 0.8, 8))[:, :8] @ torch.eye(10)[2:]
    # From a one patch of four is right, from b all are.
    assert alignment_accuracy((a, index_a), (b, index_b)) == (2 / 8 + 1) / 2


def test_rows_of_no_patch_are_no_partners():
    a, b = torch.eye(3), torch.cat((0.9 * torch.eye(3) + 0.1, torch.eye(3)))
    index = torch.arange(3)
    assert alignment_accuracy((a, index), (b, index)) == 1
    assert alignment_accuracy((b, index), (a, index)) == 1


@pytest.mark.parametrize("n", [2, 10, 200])
def test_features_that_are_all_alike_align_by_chance(n):
    each = torch.arange(n)
    assert alignment_accuracy((torch.ones(n, 4), each), (torch.ones(n, 4), each)) == 1 / n


def test_the_monitors_keep_no_gradient_graph():
    rows = normal(6, 3).requires_grad_()
    each, counts = torch.arange(6), torch.ones(6)
    values = (
        feature_variance(rows, counts),
        effective_rank(rows, counts),
        alignment_accuracy((rows, each), (rows, each)),
    )
    assert all(type(value) is float for value in values)
