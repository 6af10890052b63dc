import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from lsfa_lib.adaptation import instances
from lsfa_lib.adaptation.instances import instance_features
from lsfa_lib.storage.files import InputError


def normal(n: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64)


def counted(n: int, seed: int, least: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(least, 5, (n,), generator=generator).double()


def closest(rows: Tensor, centres: Tensor) -> Tensor:
    return (rows[:, None] - centres).norm(dim=-1).argmin(1)


def inertia(rows: Tensor, counts: Tensor, centres: Tensor) -> float:
    gaps = (rows[:, None] - centres).square().sum(-1).amin(1)
    return float(counts @ gaps)


def blobs(k: int, each: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    label = torch.arange(k).repeat_interleave(each)
    return 40 * normal(k, width, seed)[label] + normal(k * each, width, seed + 1), label


def test_one_instance_feature_is_the_mean_over_the_patches():
    rows, counts = normal(30, 6, 1), counted(30, 2)
    expanded = rows.repeat_interleave(counts.long(), 0)
    assert len(expanded) not in (30, int((counts > 0).sum()))
    found = instance_features(rows, counts, 1, seed=0)
    torch.testing.assert_close(found, expanded.mean(0, keepdim=True), rtol=1e-12, atol=1e-14)


def test_one_instance_feature_has_the_gradient_of_the_mean():
    rows, counts = normal(5, 2).requires_grad_(), torch.tensor([1.0, 0.0, 4.0, 2.0, 1.0]).double()
    instance_features(rows, counts, 1, seed=0)[0, 1].backward()
    expected = torch.stack((torch.zeros(5), counts / 8), 1)
    torch.testing.assert_close(rows.grad, expected.double())


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_separate_groups_are_found_as_by_scikit_learn(k, seed):
    rows, label = blobs(k, 20, 4, seed=10 * k)
    counts = counted(len(rows), 5, least=1)
    theirs = KMeans(k, n_init=10, random_state=0).fit(rows.numpy(), sample_weight=counts.numpy())
    found = instance_features(rows, counts, k, seed)
    order = closest(torch.from_numpy(theirs.cluster_centers_), found)
    assert sorted(order.tolist()) == list(range(k))
    expected = torch.from_numpy(theirs.cluster_centers_)
    torch.testing.assert_close(found[order], expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(closest(rows, found), order[torch.from_numpy(theirs.labels_).long()])
    assert len(set(zip(label.tolist(), closest(rows, found).tolist(), strict=True))) == k


@pytest.mark.parametrize("k", [2, 4, 8])
def test_inertia_on_shapeless_data_is_a_few_per_cent_above_the_best_of_scikit_learn(k):
    ratios = []
    for scan in range(12):
        rows, counts = normal(300, 5, scan), counted(300, scan + 50)
        best = KMeans(k, n_init=20, random_state=0).fit(rows.numpy(), sample_weight=counts.numpy())
        # One start varies by some per cent with its seed: only the mean of many is a measure.
        for seed in range(100, 108):
            found = instance_features(rows, counts, k, seed, iterations=50)
            ratios.append(inertia(rows, counts, found) / best.inertia_)
    assert 1 - 1e-9 < np.mean(ratios) < 1.05


def test_lloyd_lowers_the_inertia_until_nothing_changes():
    rows, counts = normal(300, 3), counted(300, 1)
    found = [instance_features(rows, counts, 6, 3, iterations=i) for i in (0, 1, 3, 100, 101)]
    values = [inertia(rows, counts, centres) for centres in found]
    assert values[0] > values[1] > values[2] > values[3]
    assert torch.equal(found[3], found[4])
    # At rest every centroid is the mean of the rows that are closest to it.
    cluster = closest(rows, found[3])
    for j in range(6):
        own = counts * (cluster == j)
        torch.testing.assert_close(found[3][j], own @ rows / own.sum())


def test_counts_are_copies():
    # With every row its own first centre the outcome does not hang on the draw.
    rows, counts = blobs(3, 6, 2, seed=4)[0], counted(18, 7, least=1)
    expanded = rows.repeat_interleave(counts.long(), 0)
    ours = instance_features(rows, counts, 3, seed=0)
    theirs = instance_features(expanded, torch.ones(len(expanded)).double(), 3, seed=1)
    torch.testing.assert_close(ours[closest(theirs, ours)], theirs)


def test_rows_of_no_patch_take_no_part():
    rows, counts = normal(40, 3), counted(40, 1)
    other = rows.clone()
    other[counts == 0] = torch.nan
    assert (counts == 0).any()
    for k in (1, 4):
        ours, same = (instance_features(r, counts, k, seed=2) for r in (rows, other))
        assert torch.equal(ours, same)


def test_the_seed_decides_and_the_global_generator_does_not():
    rows, counts = normal(200, 4), counted(200, 1)
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(found))
        found.append(instance_features(rows, counts, 7, seed))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("k", [1, 3])
def test_gradient_passes_through_the_means_and_not_through_the_clusters(k):
    rows, counts = normal(25, 3).requires_grad_(), counted(25, 1)
    weight = normal(k, 3, seed=9)
    found = instance_features(rows, counts, k, seed=0, iterations=100)
    cluster = closest(rows.detach(), found.detach())
    members = (cluster == torch.arange(k)[:, None]) * counts
    expected = (members / members.sum(1, keepdim=True)).T @ weight
    (found * weight).sum().backward()
    torch.testing.assert_close(rows.grad, expected)
    assert torch.autograd.gradcheck(lambda r: instance_features(r, counts, k, 0), (rows,))


def test_every_first_centre_is_another_row_and_far_ones_are_preferred():
    rows = 1e4 * blobs(6, 1, 3, seed=2)[0].repeat_interleave(10, 0) + normal(60, 3)
    for seed in range(20):
        centres = instances._first_centres(rows, torch.ones(60).double(), 6, seed)
        assert len(set(closest(centres, rows).tolist())) == 6
        # Groups so far apart that a second centre in one has odds below one in a million.
        assert len(set((closest(centres, rows) // 10).tolist())) == 6


def test_the_first_centre_is_drawn_by_counts():
    rows, counts = normal(3, 2), torch.tensor([1.0, 6.0, 3.0]).double()
    firsts = [closest(instances._first_centres(rows, counts, 1, s), rows) for s in range(2000)]
    shares = torch.bincount(torch.cat(firsts), minlength=3) / 2000
    # Four standard deviations of a share of 0.6 in 2000 draws.
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.6, 0.3]), rtol=0, atol=0.044)


def test_later_centres_are_drawn_by_counts_times_squared_distance():
    # The first row is as good as certain; odds of the others are then 2 x 1^2 to 1 x 2^2.
    rows, counts = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([1e9, 2.0, 1.0])
    pairs = [instances._first_centres(rows, counts, 2, s).tolist() for s in range(2000)]
    assert all(first == [0.0] for first, _ in pairs)
    share = sum(second == [2.0] for _, second in pairs) / 2000
    assert share == pytest.approx(2 / 3, abs=0.043)


def test_an_empty_cluster_takes_the_row_farthest_from_its_centre():
    rows = torch.tensor([[0.0], [1.0], [2.0], [10.0], [14.0]])
    centres = torch.tensor([[1.0], [100.0], [11.0], [-100.0]])
    # Gaps 1 0 1 1 3: row 4 goes to cluster 1; row 3 is then alone; row 0 goes to cluster 3.
    assert instances._assigned(rows, centres).tolist() == [3, 0, 0, 2, 1]


def test_a_row_alone_in_its_cluster_is_not_taken_from_it():
    rows, centres = torch.tensor([[0.0], [0.5], [60.0]]), torch.tensor([[0.0], [90.0], [-900.0]])
    assert instances._assigned(rows, centres).tolist() == [0, 2, 1]


def test_as_many_instances_as_rows_are_the_rows():
    rows, counts = normal(7, 3), counted(7, 3, least=1)
    found = instance_features(rows, counts, 7, seed=0)
    torch.testing.assert_close(found[closest(rows, found)], rows)


@pytest.mark.parametrize("k", [-1, 0, 6, 9])
def test_an_impossible_number_of_instances_is_refused(k):
    rows, counts = normal(7, 3), torch.tensor([1.0, 0.0, 2.0, 1.0, 4.0, 0.0, 1.0]).double()
    message = f"K = {k} instance features exceed the 5 distinct patch features of a scan"
    with pytest.raises(InputError, match=message):
        instance_features(rows, counts, k, seed=0)


def test_rows_of_equal_value_are_one_feature():
    rows = normal(3, 4)[[0, 1, 2, 0, 1, 2]]
    found = instance_features(rows, torch.ones(6).double(), 3, seed=0)
    torch.testing.assert_close(found[closest(rows, found)], rows)
    with pytest.raises(InputError, match=r"K = 4 .* exceed the 3 distinct patch features"):
        instance_features(rows, torch.ones(6).double(), 4, seed=0)


def test_a_scan_without_patches_is_refused():
    with pytest.raises(InputError, match=r"K = 1 .* exceed the 0 distinct patch features"):
        instance_features(normal(3, 2), torch.zeros(3).double(), 1, seed=0)
