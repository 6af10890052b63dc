"""The exact search by a sketch, against all distances in double precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lsfa_lib.adaptation.nearest import nearest_index
from lsfa_lib.detection import sketch as module
from lsfa_lib.detection.memory import SKETCHED, Bank, nearest_rows
from lsfa_lib.detection.sketch import nearest_by_sketch, sketch_of


def decaying(n: int, width: int, seed: int, power: float = 1.0, offset: float = 0.0) -> Tensor:
    """Rows whose variance falls from one direction to the next, as that of features does."""
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(9))
    scales = torch.arange(1, width + 1).float().pow(-power)
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return (rows * scales) @ torch.linalg.qr(mixing).Q + offset


def distances(queries: Tensor, bank: Tensor) -> Tensor:
    return torch.cdist(queries.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist")


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_no_distance_in_the_sketch_exceeds_the_true_one(power: float) -> None:
    queries, bank = decaying(40, 64, 1, power), decaying(200, 64, 2, power)
    sketch = sketch_of(bank)
    short, squares = sketch.of(queries)
    assert short.shape == (40, 9) and sketch.rows.shape == (200, 9)
    below = torch.cdist(short.double(), sketch.rows.double())
    assert bool((below <= distances(queries, bank) + 1e-3).all())
    true = (queries.double() - bank.double().mean(0)).square().sum(1)
    torch.testing.assert_close(squares.double(), true, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33, 500])
@pytest.mark.parametrize("queries", [1, 16, 40])
@pytest.mark.parametrize("power", [0.0, 1.5])
def test_the_nearest_row_is_that_of_all_distances(rows: int, queries: int, power: float) -> None:
    bank, wanted = decaying(rows, 48, 3, power, 2.0), decaying(queries, 48, 4, power, 2.0)
    found = nearest_by_sketch(wanted, bank, sketch_of(bank), chunk=16)
    assert torch.equal(found, distances(wanted, bank).argmin(1))
    assert torch.equal(nearest_by_sketch(wanted, bank, sketch_of(bank)), found)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 40),
    st.integers(1, 20),
    st.floats(0, 3),
    st.floats(-300, 300),
    st.integers(0, 99),
)
def test_any_size_decay_and_offset(
    rows: int, queries: int, width: int, power: float, offset: float, seed: int
) -> None:
    bank = decaying(rows, width, seed, power, offset)
    wanted = decaying(queries, width, seed + 100, power, offset)
    found = nearest_by_sketch(wanted, bank, sketch_of(bank), chunk=16)
    far = distances(wanted, bank)
    chosen = far.gather(1, found[:, None])[:, 0]
    # An offset leaves few digits for differences: rows as near as these tell apart count alike.
    torch.testing.assert_close(chosen, far.amin(1), rtol=1e-5, atol=1e-6 * abs(offset))


def test_of_equal_rows_the_first_is_taken() -> None:
    bank = decaying(60, 32, 5).repeat(3, 1)
    assert torch.equal(
        nearest_by_sketch(bank, bank, sketch_of(bank), 32), torch.arange(60).repeat(3)
    )


def test_rows_of_one_point_and_queries_elsewhere() -> None:
    bank = torch.ones(50, 32)
    found = nearest_by_sketch(decaying(9, 32, 6), bank, sketch_of(bank))
    assert torch.equal(found, torch.zeros(9, dtype=torch.long))


@pytest.mark.parametrize(("power", "in_full"), [(0.0, 1.0), (1.5, 0.01)])
def test_few_pairs_are_compared_in_full_where_variance_decays(
    power: float, in_full: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, compare = [], module._compare

    def counting(queries: Tensor, bank: Tensor, pairs: tuple[Tensor, Tensor], *rest: Tensor):
        counted.append(len(pairs[0]))
        compare(queries, bank, pairs, *rest)

    monkeypatch.setattr(module, "_compare", counting)
    bank, wanted = decaying(4000, 128, 7, power), decaying(300, 128, 8, power)
    found = nearest_by_sketch(wanted, bank, sketch_of(bank))
    assert torch.equal(found, distances(wanted, bank).argmin(1))
    if power == 0:
        # Nothing is gained by a sketch: after the first look everything is compared by products.
        assert counted == [300]
    else:
        assert sum(counted) < in_full * 300 * 4000


def test_a_bank_of_long_rows_is_searched_by_its_sketch_to_the_same_end() -> None:
    rows = decaying(900, SKETCHED, 1)
    bank = Bank(rows, 0.25, 2.0, torch.zeros(900, 2, dtype=torch.long))
    queries = decaying(200, SKETCHED, 2) * 2 + 0.25
    found, index = nearest_rows(queries, bank)
    assert "sketch" in vars(bank)
    standard = (queries - 0.25) / 2
    assert torch.equal(index, nearest_index(standard, rows))
    torch.testing.assert_close(found.double(), distances(standard, rows).amin(1))
