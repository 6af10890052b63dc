import numpy as np
import pytest
import torch
from sklearn.random_projection import johnson_lindenstrauss_min_dim

from lsfa_lib.detection import coreset
from lsfa_lib.detection.coreset import greedy_k_centre, johnson_lindenstrauss_width
from lsfa_lib.storage.files import InputError, progress_reported_to


def features(n: int, width: int, seed: int = 0) -> torch.Tensor:
    """Rows with fewer degrees of freedom than columns and an offset, as backbone features have."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, 6, generator=generator)
    mixed = hidden @ torch.randn(6, width, generator=generator)
    return torch.tanh(mixed) + 0.2 * torch.randn(n, width, generator=generator) + 5


def one_at_a_time(rows: torch.Tensor, n_keep: int, first: int) -> list[int]:
    x = rows.double().numpy()
    kept, gap = [first], np.full(len(x), np.inf)
    while len(kept) < n_keep:
        gap = np.minimum(gap, ((x - x[kept[-1]]) ** 2).sum(1))
        gap[kept] = -1
        kept.append(int(gap.argmax()))
    return kept


@pytest.mark.parametrize("n", [2, 31, 32, 33, 34, 500])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_selection_equals_one_row_at_a_time(monkeypatch, n, share):
    monkeypatch.setattr(coreset, "CANDIDATES", 32)
    monkeypatch.setattr(coreset, "FEWEST", 8)
    monkeypatch.setattr(coreset, "CHUNK_ROWS", 33)
    rows, n_keep = features(n, 24), max(1, int(n * share))
    ours = greedy_k_centre(rows, n_keep, seed=3, projection_eps=0.0).tolist()
    assert ours == one_at_a_time(rows, n_keep, ours[0])


@pytest.mark.parametrize("candidates", [1, 2, 1024])
def test_selection_does_not_depend_on_the_block(monkeypatch, candidates):
    rows = features(300, 40, seed=1)
    expected = one_at_a_time(rows, 60, int(greedy_k_centre(rows, 1, seed=0)[0]))
    monkeypatch.setattr(coreset, "CANDIDATES", candidates)
    monkeypatch.setattr(coreset, "FEWEST", 8)
    assert greedy_k_centre(rows, 60, seed=0, projection_eps=0.0).tolist() == expected


def test_more_rows_than_one_block_and_one_chunk():
    n = 2 * coreset.CHUNK_ROWS + 1
    rows = features(n, 16, seed=2)
    ours = greedy_k_centre(rows, 400, seed=5, projection_eps=0.0).tolist()
    assert ours == one_at_a_time(rows, 400, ours[0])


@pytest.mark.parametrize("candidates", [8, 1024])
def test_copies_come_last_and_lowest_index_first(monkeypatch, candidates):
    monkeypatch.setattr(coreset, "CANDIDATES", candidates)
    monkeypatch.setattr(coreset, "FEWEST", 8)
    rows = features(50, 64).repeat(3, 1)
    ours = greedy_k_centre(rows, 150, seed=0, projection_eps=0.0).tolist()
    assert ours == one_at_a_time(rows, 150, ours[0])
    assert sorted(i % 50 for i in ours[:50]) == list(range(50))
    assert ours[50:] == sorted(ours[50:])


def test_ties_beyond_the_candidates_go_to_the_lowest_index(monkeypatch):
    # Corners at unit distance from the kept centre, every number exact in float32.
    monkeypatch.setattr(coreset, "CANDIDATES", 4)
    monkeypatch.setattr(coreset, "FEWEST", 8)
    rows = torch.cat([torch.zeros(1, 8), torch.eye(8), -torch.eye(8)])
    points = coreset._blocks(rows, torch.tensor([0]), 17)
    assert torch.cat(list(points)).tolist() == one_at_a_time(rows, 17, 0)


def test_one_row_and_all_rows_can_be_kept():
    rows = features(70, 9)
    assert greedy_k_centre(rows[:1], 1, seed=0).tolist() == [0]
    assert len(greedy_k_centre(rows, 1, seed=0)) == 1
    assert sorted(greedy_k_centre(rows, 70, seed=0).tolist()) == list(range(70))


def test_the_seed_draws_the_first_row_and_nothing_else_is_random():
    rows = features(400, 30)
    firsts = {int(greedy_k_centre(rows, 1, seed=s)[0]) for s in range(20)}
    assert len(firsts) > 10
    assert torch.equal(greedy_k_centre(rows, 40, seed=7), greedy_k_centre(rows, 40, seed=7))


def test_projection_has_the_johnson_lindenstrauss_width_and_keeps_distances():
    rows = features(200, 900)
    projection = coreset.projection_of(200, rows, 0.5, torch.Generator().manual_seed(0))
    assert projection is not None
    projected = rows @ projection
    assert projected.shape[1] == johnson_lindenstrauss_min_dim(200, eps=0.5) < 900
    ratio = torch.pdist(projected).square() / torch.pdist(rows).square()
    assert ((ratio > 0.5) & (ratio < 1.5)).all()
    assert abs(ratio.mean() - 1) < 0.1


def test_projection_is_skipped_unless_it_at_least_halves_the_width():
    width = johnson_lindenstrauss_width(600, 0.9)
    for columns, projected in ((40, False), (2 * width - 1, False), (2 * width, True)):
        rows = features(600, columns)
        found = coreset.projection_of(600, rows, 0.9, torch.Generator())
        assert (found is not None) is projected
        assert found is None or found.shape == (columns, width)
    assert coreset.projection_of(600, rows, 0.0, torch.Generator()) is None
    # Exact greedy on the rows themselves, although their width exceeds the bound.
    rows = features(600, 2 * width - 1)
    ours = greedy_k_centre(rows, 60, seed=11).tolist()
    assert ours == one_at_a_time(rows, 60, ours[0])


def test_selection_after_projection_equals_one_at_a_time_on_the_projected_rows():
    rows = features(600, 500)
    ours = greedy_k_centre(rows, 60, seed=11).tolist()
    generator = torch.Generator().manual_seed(11)
    first = int(torch.randint(600, (1,), generator=generator))
    projection = coreset.projection_of(600, rows, 0.9, generator)
    assert projection is not None
    projected = rows @ projection
    assert projected.shape[1] < 500
    assert ours == one_at_a_time(projected, 60, first)


def test_progress_counts_the_rows_that_are_kept() -> None:
    told: list[tuple[str, int, int]] = []
    with progress_reported_to(lambda *each: told.append(each)):
        greedy_k_centre(features(400, 8), 90, seed=0)
    assert told == [("coreset", done, 90) for done in range(91)]


def test_every_row_is_within_the_radius_of_the_last_pick():
    rows = features(800, 20)
    kept = greedy_k_centre(rows, 81, seed=0, projection_eps=0.0)
    to_kept = torch.cdist(rows.double(), rows[kept[:80]].double()).amin(1)
    assert int(to_kept.argmax()) == int(kept[80])


def test_half_precision_rows_select_like_their_float_values():
    rows = features(300, 32).half()
    assert torch.equal(greedy_k_centre(rows, 30, 0), greedy_k_centre(rows.float(), 30, 0))


def test_input_is_left_alone():
    rows = features(100, 12)
    before = rows.clone()
    greedy_k_centre(rows, 10, seed=0)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("n_keep", [0, 6])
def test_an_impossible_number_is_refused(n_keep):
    with pytest.raises(InputError, match=f"cannot keep {n_keep} of 5 rows; keep 1 to 5"):
        greedy_k_centre(features(5, 3), n_keep, seed=0)


@pytest.mark.parametrize("n", [10, 5000, 200_000])
@pytest.mark.parametrize("eps", [0.3, 0.9])
def test_width_of_the_projection_is_scikit_learns(n: int, eps: float) -> None:
    assert johnson_lindenstrauss_width(n, eps) == johnson_lindenstrauss_min_dim(n, eps=eps)
