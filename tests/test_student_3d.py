"""3D-ST: its network against loops, what moves it, and dents that it must find."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lsfa_lib.config import TINY
from lsfa_lib.evaluation import metrics
from lsfa_lib.features import local_descriptors as ld
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods import student_3d
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.methods.patchcore import as_published
from lsfa_lib.pretraining import descriptors
from lsfa_lib.pretraining.masked import chamfer
from lsfa_lib.records import Sample
from lsfa_lib.storage.files import InputError

CONFIG = as_published(replace(TINY, device="cpu", cache=""))
SIDE = CONFIG.preprocess.image_size


def scan_of(depth_mm: np.ndarray, valid: np.ndarray | None = None) -> LazyScan:
    """A scan of that depth above 500 mm, at 1 mm a pixel."""
    rows, columns = np.indices(depth_mm.shape)
    xyz = np.stack([columns, rows, 500 + depth_mm]).astype(np.float32) / 1000
    inside = np.ones(depth_mm.shape, bool) if valid is None else valid
    sample = Sample(
        rgb=torch.zeros(3, *depth_mm.shape),
        xyz=torch.from_numpy(np.where(inside, xyz, np.float32(0))),
        valid=torch.from_numpy(inside),
        defect=torch.zeros(depth_mm.shape, dtype=torch.bool),
        name="part/test/good/000",
        kind="good",
    )
    return LazyScan(sample.name, CONFIG, lambda: sample, lambda read: None)  # type: ignore[arg-type, return-value]


def dome(seed: int, dents: int = 0, size: int = SIDE) -> LazyScan:
    """A shallow dome with a little noise and a shift; dents are 4 mm deep and 7 mm in radius."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((size, size)) - size / 2 + rng.uniform(-3, 3, (2, 1, 1))
    depth = (rows**2 + columns**2) / 400 + 0.05 * rng.standard_normal((size, size))
    for _ in range(dents):
        y, x = rng.uniform(-0.25, 0.25, 2) * size
        depth += 4 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 3.5**2))
    return scan_of(depth)


def fitted(train: list[LazyScan], seed: int = 0) -> Predict:
    """The method fitted to these scans."""
    return student_3d.fit(Good(train, [], CONFIG, seed))


@pytest.fixture(scope="module")
def predict() -> Predict:
    """The method fitted to ten domes."""
    return fitted([dome(i) for i in range(10)])


def test_dents_score_above_good_parts(predict: Predict) -> None:
    good = [predict(dome(100 + i))["3d"].image_score for i in range(10)]
    dented = [predict(dome(200 + i, dents=1))["3d"].image_score for i in range(10)]
    assert metrics.auroc(good + dented, [False] * 10 + [True] * 10) >= 0.9


def random_points(count: int, seed: int = 0) -> torch.Tensor:
    """Points in a flat box of 60 x 60 x 12 mm, half a metre away."""
    rng = torch.Generator().manual_seed(seed)
    box = torch.tensor([0.06, 0.06, 0.012])
    return torch.rand(count, 3, generator=rng) * box + torch.tensor([0.0, 0.0, 0.5])


def test_an_aggregation_is_the_mean_over_neighbours_of_their_offsets_and_features() -> None:
    points = random_points(40)
    cloud = ld.cloud_of(points, 0.004)
    block, features = ld.Aggregation(8), torch.randn(40, 8)
    found = block(features, cloud)
    assert found.shape == (40, 16)
    for p in range(40):
        distances = (points - points[p]).norm(dim=1)
        order = distances.argsort()[1 : ld.NEIGHBOURS + 1]
        rows = []
        for q in order.tolist():
            offset = (points[p] - points[q]) / 0.004
            geometry = torch.cat([offset, offset.norm()[None]])
            rows.append(torch.cat([block.mlp(geometry[None])[0], features[q]]))
        torch.testing.assert_close(found[p], torch.stack(rows).mean(0), rtol=1e-4, atol=1e-4)


def test_descriptors_do_not_change_when_the_part_is_moved_and_do_when_it_is_pressed() -> None:
    network, points = ld.Descriptors(), random_points(200)
    before = network(ld.cloud_of(points, 0.004))
    moved = network(ld.cloud_of(points + torch.tensor([0.05, -0.02, 0.1]), 0.004))
    torch.testing.assert_close(before, moved, rtol=1e-3, atol=1e-4)
    pressed = network(ld.cloud_of(points * torch.tensor([1, 1, 0.5]), 0.004))
    assert float((before - pressed).abs().max()) > 1e-3


def test_a_receptive_field_holds_what_the_descriptor_depends_on() -> None:
    points = random_points(300)
    cloud, network = ld.cloud_of(points, 0.004), ld.Descriptors(16, 1)
    field = set(ld.receptive_field(7, cloud, 2).tolist())
    reached = {7}
    for _ in range(2):
        reached |= {q for p in reached for q in cloud.neighbours[p].tolist()}
    assert field == reached
    assert len(field) < 300
    # Geometry of the points of one hop reaches the descriptor of point 7; that of others does not.
    geometry = cloud.geometry.clone().requires_grad_(True)
    network(ld.Cloud(cloud.neighbours, geometry))[7].sum().backward()
    touched = set(geometry.grad.abs().sum((1, 2)).nonzero()[:, 0].tolist())  # type: ignore[union-attr]
    assert touched == {7, *cloud.neighbours[7].tolist()}


def test_the_score_is_the_distance_from_the_teachers_whitened_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clouds = [ld.cloud_of(random_points(60, seed), 0.004) for seed in (1, 2)]
    errors = student_3d.learned(clouds, seed=3)
    network = descriptors.teacher().network
    mean, whiten = student_3d.whitening(torch.cat([network(cloud) for cloud in clouds]))
    # A student that returns zeros would have their lengths as scores.
    for cloud in clouds:
        white = (network(cloud) - mean) @ whiten
        assert float(errors(cloud).square().mean()) < float(white.square().sum(1).mean())
    monkeypatch.setattr(student_3d, "EPOCHS", 0)
    torch.manual_seed(3)
    student = ld.Descriptors()  # untrained, so that its outputs are known
    found = student_3d.learned(clouds, seed=3)(clouds[1])
    for p in (0, 7, 59):
        apart = student(clouds[1])[p] - (network(clouds[1])[p] - mean) @ whiten
        assert float(found[p]) == pytest.approx(math.sqrt(float((apart**2).sum())), rel=1e-4)
    monkeypatch.undo()
    assert torch.equal(errors(clouds[0]), student_3d.learned(clouds, seed=3)(clouds[0]))
    assert not torch.equal(errors(clouds[0]), student_3d.learned(clouds, seed=4)(clouds[0]))


def test_white_descriptors_have_unit_variance_and_drop_faint_components() -> None:
    rng = torch.Generator().manual_seed(0)
    scales = torch.tensor([10.0, 3.0, 1.5, 0.5])  # the last has 1/400 of the largest variance
    turn = torch.linalg.qr(torch.randn(4, 4, generator=rng)).Q
    rows = torch.randn(2000, 4, generator=rng) * scales @ turn.T + 5
    mean, whiten = student_3d.whitening(rows)
    covariance = ((rows - mean) @ whiten).T.cov(correction=0)
    torch.testing.assert_close(
        covariance, torch.diag(torch.tensor([0.0, 1, 1, 1])), atol=1e-3, rtol=0
    )


def test_errors_are_standardised_among_points_that_are_as_one_sided() -> None:
    clouds = [ld.cloud_of(random_points(300, seed), 0.004) for seed in (1, 2)]
    sides = [ld.one_sidedness(cloud) for cloud in clouds]
    offsets = clouds[0].geometry[7, :, :3].mean(0)
    assert float(sides[0][7]) == pytest.approx(float(offsets.norm()))
    raw = {id(c): torch.rand(300) * (1 + 5 * side) for c, side in zip(clouds, sides, strict=True)}
    found = student_3d.standardised(lambda cloud: raw[id(cloud)], clouds)
    order = torch.cat(sides).argsort()
    both = torch.cat([found(cloud) for cloud in clouds])[order]
    before = torch.cat(list(raw.values()))[order]
    for group, own in zip(both.chunk(20), before.chunk(20), strict=True):
        expected = (own - own.mean()) / own.std(correction=0)
        torch.testing.assert_close(group, expected, atol=1e-4, rtol=1e-4)


def test_the_teacher_reconstructs_receptive_fields_and_is_trained_once() -> None:
    taught = descriptors.teacher()
    assert taught is descriptors.teacher()
    assert len(taught.losses) == descriptors.CLOUDS * descriptors.EPOCHS
    lessons = [descriptors.lesson(i) for i in range(5)]
    # Points that all lie in the middle of their field would cost its mean squared radius.
    collapsed = [chamfer(torch.zeros_like(one.fields), one.fields).item() for one in lessons]
    assert np.mean(taught.losses[-descriptors.CLOUDS :]) < 0.25 * np.mean(collapsed)


def test_a_patch_takes_the_scores_of_its_points() -> None:
    scan = dome(0)
    points = ld.points_of(scan.sample)
    found = student_3d.prediction_from(torch.full((len(points),), 3.0), points, scan.sample, CONFIG)
    assert found.image_score == pytest.approx(3, rel=1e-5)
    assert found.anomaly_map.shape == (SIDE, SIDE)
    torch.testing.assert_close(found.anomaly_map, torch.full((SIDE, SIDE), 3.0))


def test_one_scan_and_constant_depth_give_finite_scores() -> None:
    flat = scan_of(np.zeros((SIDE, SIDE)))
    found = fitted([flat])(flat)["3d"]
    assert math.isfinite(found.image_score)
    assert bool(found.anomaly_map.isfinite().all())


def test_too_few_points_are_said(predict: Predict) -> None:
    valid = np.zeros((SIDE, SIDE), bool)
    valid[:4, :4] = True
    with pytest.raises(InputError, match=r"part/test/good/000 has 16 valid points; .* 17 or more"):
        predict(scan_of(np.zeros((SIDE, SIDE)), valid))
