import math

import pytest
import torch
from torch import Tensor

from lsfa_lib.adaptation.losses import compactness, global_alignment, local_alignment
from lsfa_lib.adaptation.nearest import nearest_index


def normal(n: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64)


def places(patches: int, rows: int, seed: int) -> Tensor:
    """Rows of `patches`, with repeats; the last row has none."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(rows - 1, (patches,), generator=generator)


def dot(x: Tensor, y: Tensor) -> float:
    return sum(p * q for p, q in zip(x.tolist(), y.tolist(), strict=True))


def infonce_by_loops(a: Tensor, b: Tensor, temperature: float) -> float:
    n, total = len(a), 0.0
    s = [[dot(x, y) / math.sqrt(dot(x, x) * dot(y, y)) / temperature for y in b] for x in a]
    for t in range(n):
        total -= math.log(math.exp(s[t][t]) / sum(math.exp(s[t][k]) for k in range(n)))
        total -= math.log(math.exp(s[t][t]) / sum(math.exp(s[k][t]) for k in range(n)))
    return total / (2 * n)


def literal_by_loops(a: Tensor, b: Tensor) -> float:
    everything = sum(math.exp(dot(x, y)) for x in a for y in b)
    terms = [math.log(math.exp(dot(x, y)) / everything) for x, y in zip(a, b, strict=True)]
    return -sum(terms) / len(terms)


@pytest.mark.parametrize(("patches", "temperature"), [(1, 1.0), (2, 0.1), (17, 0.1), (40, 1.0)])
def test_alignment_equals_loops_over_the_expanded_patches(patches, temperature):
    a, b = normal(9, 6, 1), normal(5, 6, 2)
    index_a, index_b = places(patches, 9, 3), places(patches, 5, 4)
    x, y = a[index_a], b[index_b]
    found = local_alignment((a, index_a), (b, index_b), temperature)
    assert found.item() == pytest.approx(infonce_by_loops(x, y, temperature), rel=1e-12, abs=1e-12)
    found = local_alignment((a, index_a), (b, index_b), temperature, literal=True)
    assert found.item() == pytest.approx(literal_by_loops(x, y), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("literal", [False, True])
def test_global_alignment_equals_loops_over_the_instances(literal):
    a, b = normal(8, 5, 1), normal(8, 5, 2)
    expected = literal_by_loops(a, b) if literal else infonce_by_loops(a, b, 0.3)
    assert global_alignment(a, b, 0.3, literal).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("literal", [False, True])
def test_the_gradient_on_rows_is_that_on_the_expanded_patches(literal):
    a, b = normal(9, 6, 1).requires_grad_(), normal(5, 6, 2).requires_grad_()
    index_a, index_b, each = places(30, 9, 3), places(30, 5, 4), torch.arange(30)
    compact = local_alignment((a, index_a), (b, index_b), 0.2, literal)
    expanded = local_alignment((a[index_a], each), (b[index_b], each), 0.2, literal)
    for row, patch in zip(
        torch.autograd.grad(compact, (a, b)), torch.autograd.grad(expanded, (a, b)), strict=True
    ):
        torch.testing.assert_close(row, patch, rtol=1e-10, atol=1e-13)
        assert row.isfinite().all()
        assert (row[-1] == 0).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("patches", [1, 2, 12])
def test_orthogonal_rows_that_find_themselves(patches, temperature):
    rows, each = 3 * torch.eye(12, dtype=torch.float64)[:patches], torch.arange(patches)
    expected = math.log(1 + (patches - 1) * math.exp(-1 / temperature))
    assert global_alignment(rows, rows, temperature).item() == pytest.approx(expected, abs=1e-14)
    # Each row twice: the copy is no worse a partner than the patch itself.
    twice = local_alignment((rows, each.repeat(2)), (rows, each.repeat(2)), temperature)
    assert twice.item() == pytest.approx(expected + math.log(2), abs=1e-14)
    literal = math.log(patches) + math.log(math.exp(9) + patches - 1) - 9
    assert global_alignment(rows, rows, temperature, literal=True).item() == pytest.approx(literal)


def test_rows_that_are_all_alike_are_told_apart_by_chance():
    rows, index = torch.ones(4, 3), torch.tensor([0, 1, 1, 2, 2, 2, 3])
    assert local_alignment((rows, index), (rows, index), 0.1).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("size", [0.01, 1.0, 5.0, 100.0])
def test_the_literal_loss_never_falls_below_its_floor(size):
    floor = math.log(8)
    for seed in range(5):
        a, b = size * normal(8, 4, seed), size * normal(8, 4, seed + 50)
        assert global_alignment(a, b, 1.0, literal=True).item() >= floor - 1e-12
    # Equal products with the partner and none with others reach it in the limit.
    rows = size * torch.eye(8, dtype=torch.float64)
    gap = math.log(1 + 7 * math.exp(-(size**2)))
    found = global_alignment(rows, rows, 1.0, literal=True).item()
    assert found == pytest.approx(floor + gap, rel=1e-12)


def test_literal_ignores_the_temperature_and_infonce_the_lengths():
    a, b = normal(6, 4, 1), normal(6, 4, 2)
    stretch = torch.arange(1, 7, dtype=torch.float64)[:, None]
    once, again = (global_alignment(a, b, t, literal=True) for t in (0.1, 1.0))
    assert torch.equal(once, again)
    long, plain = global_alignment(a * stretch, b, 0.1), global_alignment(a, b, 0.1)
    torch.testing.assert_close(long, plain, rtol=1e-12, atol=0)
    assert not torch.isclose(global_alignment(a, b, 1.0), plain)


def test_large_products_do_not_overflow():
    a, b = 1e3 * torch.eye(4), 1e3 * torch.eye(4)
    assert global_alignment(a, b, 1.0, literal=True).item() == pytest.approx(math.log(4))
    assert global_alignment(-a, b, 1.0, literal=True).item() == pytest.approx(1e6 + math.log(12))
    assert global_alignment(a, -b, 1e-3).item() == pytest.approx(1000 + math.log(3))


@pytest.mark.parametrize("literal", [False, True])
def test_one_instance_has_loss_zero_and_no_gradient(literal):
    a, b = torch.randn(1, 5).requires_grad_(), torch.randn(1, 5).requires_grad_()
    loss = global_alignment(a, b, 0.1, literal)
    loss.backward()
    assert loss.item() == 0
    assert a.grad is not None and a.grad.abs().max() < 1e-6


def test_half_precision_rows_are_aligned_in_single_precision():
    a, b = (normal(30, 16, s).bfloat16() for s in (1, 2))
    loss = global_alignment(a, b, 0.05)
    assert loss.dtype == torch.float32
    exact = infonce_by_loops(a.double(), b.double(), 0.05)
    assert loss.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("literal", [False, True])
def test_gradcheck_of_alignment_with_repeated_rows(literal):
    index_a, index_b = torch.tensor([0, 0, 1, 3, 3, 3]), torch.tensor([2, 1, 1, 0, 2, 2])
    a, b = normal(5, 3, 1).requires_grad_(), normal(4, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, y: local_alignment((x, index_a), (y, index_b), 0.5, literal), (a, b)
    )
    a, b = normal(4, 3, 3).requires_grad_(), normal(4, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: global_alignment(x, y, 0.5, literal), (a, b))


def compactness_by_loops(rows: Tensor, nearest: Tensor) -> dict[str, float]:
    squares = [dot(p, p) for p in rows - nearest]
    total = sum(math.sqrt(s) for s in squares)
    return {
        "mean": total / len(rows),
        "sum": total,
        "mean_squared": sum(squares) / len(rows),
    }


@pytest.mark.parametrize("reduction", ["mean", "sum", "mean_squared"])
def test_compactness_equals_loops_over_the_expanded_patches(reduction):
    rows, bank, index = normal(7, 4, 1), normal(20, 4, 2), places(25, 7, 3)
    nearest = bank[nearest_index(rows, bank)]
    counts = torch.bincount(index, minlength=7).double()
    found = compactness(rows, counts, nearest, reduction).item()
    expected = compactness_by_loops(rows[index], nearest[index])[reduction]
    assert found == pytest.approx(expected, rel=1e-12)
    ones = torch.ones(25, dtype=torch.float64)
    assert compactness(rows[index], ones, nearest[index], reduction).item() == pytest.approx(found)


def test_compactness_by_hand():
    rows = torch.tensor([[3.0, 4.0], [1.0, 0.0], [100.0, 0.0]])
    counts, nearest = torch.tensor([1.0, 3.0, 0.0]), torch.zeros(3, 2)
    assert compactness(rows, counts, nearest).item() == 2
    assert compactness(rows, counts, nearest, "sum").item() == 8
    assert compactness(rows, counts, nearest, "mean_squared").item() == 7


@pytest.mark.parametrize("reduction", ["mean", "sum", "mean_squared"])
def test_a_bank_that_holds_the_rows_gives_zero_and_gradient_zero(reduction):
    bank = normal(30, 8)
    rows = bank[[4, 20, 7]].requires_grad_()
    chosen = nearest_index(rows, bank)
    assert chosen.tolist() == [4, 20, 7]
    loss = compactness(rows, torch.tensor([1.0, 4.0, 2.0]).double(), bank[chosen], reduction)
    loss.backward()
    assert loss.item() == 0
    assert rows.grad is not None and (rows.grad == 0).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "mean_squared"])
def test_gradcheck_of_compactness_and_no_gradient_to_the_bank(reduction):
    rows, bank = normal(6, 4, 1).requires_grad_(), normal(9, 4, 2).requires_grad_()
    counts = torch.tensor([1.0, 4.0, 0.0, 2.0, 1.0, 3.0]).double()
    nearest = bank[nearest_index(rows, bank)]
    assert torch.autograd.gradcheck(lambda x: compactness(x, counts, nearest, reduction), (rows,))
    compactness(rows, counts, nearest, reduction).backward()
    assert rows.grad is not None and bank.grad is None
    assert (rows.grad[2] == 0).all() and (rows.grad[[0, 1, 3, 4, 5]].norm(dim=1) > 0).all()
