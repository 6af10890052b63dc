"""Nearest rows: the index is that of all distances, whatever the chunks and the offset."""

import pytest
import torch
from torch import Tensor

from lsfa_lib.adaptation.nearest import nearest_index


def normal(n: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("bank", [1, 16, 17, 48])
@pytest.mark.parametrize("some", [False, True])
def test_nearest_index_equals_all_distances_around_chunk_boundaries(rows, bank, some):
    queries, held = normal(rows, 8, 1), normal(bank, 8, 2)
    allowed = torch.arange(bank) % 3 == 0
    table = (queries[:, None] - held).norm(dim=-1)
    if some:
        table[:, ~allowed] = torch.inf
    found = nearest_index(queries, held, allowed if some else None, chunk=16)
    assert torch.equal(found, table.argmin(1))


@pytest.mark.parametrize("only", [0, 15, 16, 31, 32])
def test_one_allowed_row_is_the_answer_wherever_it_lies(only):
    queries, bank = normal(40, 3, 1), normal(33, 3, 2)
    allowed = torch.arange(33) == only
    assert (nearest_index(queries, bank, allowed, chunk=16) == only).all()


def test_rows_of_the_same_scan_can_be_left_out():
    bank = normal(60, 6).float()
    scans = torch.arange(60) // 20
    found = nearest_index(bank[20:40], bank, scans != 1)
    table = torch.cdist(bank[20:40].double(), bank.double())
    table[:, 20:40] = torch.inf
    assert torch.equal(found, table.argmin(1))


def test_default_chunks_and_a_large_common_offset():
    bank = normal(2100, 8, 1).float() * 0.05 + 500
    rows = bank[:1030] + 0.001
    assert torch.equal(nearest_index(rows, bank), torch.arange(1030))
    # The plain expansion, in the same precision, mistakes most of them.
    plain = (bank.square().sum(1) - 2 * rows @ bank.T).argmin(1)
    assert (plain != torch.arange(1030)).float().mean() > 0.5


def test_the_search_passes_no_gradient_and_leaves_its_input_alone():
    rows, bank = normal(5, 3, 1).requires_grad_(), normal(9, 3, 2).requires_grad_()
    allowed = torch.arange(9) > 2
    before = rows.detach().clone(), bank.detach().clone()
    found = nearest_index(rows, bank, allowed)
    assert not found.requires_grad
    assert torch.equal(rows, before[0]) and torch.equal(bank, before[1])
    # The answer must be usable in a differentiable expression.
    (rows * bank[found]).sum().backward()


@pytest.mark.parametrize("bank", [0, 4])
def test_a_bank_without_an_allowed_row_is_refused(bank):
    allowed = None if bank == 0 else torch.zeros(bank, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"none of the {bank} bank rows may be chosen"):
        nearest_index(torch.zeros(2, 3), torch.zeros(bank, 3), allowed)
