"""f-AnoGAN: its loss and score against loops and closed forms, and a hole that it must find."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from lsfa_lib.config import TINY
from lsfa_lib.evaluation import metrics
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods import gan, variation
from lsfa_lib.methods.method import Good
from lsfa_lib.records import Sample

METHODS = {"depth_gan": gan.depth_gan, "voxel_gan": gan.voxel_gan}
SIZE = TINY.preprocess.image_size


def plate(seed: int, hole_mm: float = 0.0) -> LazyScan:
    """A plate 4 mm above the ground, noise of 0.05 mm, and a square hole of 1/6 of its side."""
    rng = np.random.default_rng(seed)
    depth = np.full((SIZE, SIZE), 400.0)
    border = SIZE // 6
    depth[border:-border, border:-border] -= 4.0
    row, column = rng.integers(SIZE // 4, SIZE // 2, 2)
    depth[row : row + SIZE // 6, column : column + SIZE // 6] += hole_mm
    depth += rng.normal(0, 0.05, depth.shape)
    xyz = torch.zeros(3, SIZE, SIZE)
    xyz[2] = torch.from_numpy(depth / 1000)
    every = torch.ones(SIZE, SIZE, dtype=torch.bool)
    sample = Sample(torch.zeros(3, SIZE, SIZE), xyz, every, ~every, f"plate/{seed}", "good")
    return LazyScan(sample.name, TINY, lambda: sample, _no_features)


def _no_features(read: Callable[[], Sample]) -> None:
    raise AssertionError("a method without modalities asked for features")


def good_of(scans: list[LazyScan]) -> Good:
    return Good(scans, (), TINY, 0)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network() -> gan.Networks:
    """Of one convolution each, on grids of 8 x 8."""
    torch.manual_seed(0)
    return gan.Networks(2, (3,)).eval().requires_grad_(False)


def halved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 4 x 4 convolution with stride 2 and padding 1, then a leaky ReLU, by a loop."""
    padded, out = np.pad(x, 1), np.zeros((3, 4, 4))
    for c, i, j in np.ndindex(out.shape):
        window = padded[2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
        out[c, i, j] = (window * weight[c, 0]).sum() + bias[c]
    return np.where(out > 0, out, 0.2 * out)


def doubled(maps: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The transpose of that convolution, then tanh, by a loop."""
    out = np.zeros((10, 10))
    for c, i, j in np.ndindex(maps.shape):
        out[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += maps[c, i, j] * weight[c, 0]
    return np.tanh(out[1:-1, 1:-1] + bias[0])


def test_the_score_is_the_residual_of_cells_and_of_the_critics_features(
    network: gan.Networks,
) -> None:
    grid = drawn(1, 8, 8, seed=1)
    x = grid[0].double().numpy()

    def weights(layer: torch.nn.Module) -> Iterator[np.ndarray]:
        return (parameter.double().numpy() for parameter in layer.parameters())

    (convolution, _), _, to_code = network.encoder
    weight, bias = weights(to_code)
    code = weight @ halved(x, *weights(convolution)).ravel() + bias
    from_code, _, norm, _, back, _ = network.generator
    weight, bias = weights(from_code)
    # Running mean 0 and variance 1 before any training.
    maps = np.maximum((weight @ code + bias) / np.sqrt(1 + norm.eps), 0).reshape(3, 4, 4)
    made = doubled(maps, *weights(back))
    features = [halved(each, *weights(network.critic[0][0])) for each in (x, made)]
    cells, of_scan = gan.distance(network, grid)
    assert cells[0].numpy() == pytest.approx(np.abs(x - made), rel=1e-4, abs=1e-6)
    expected = gan.KAPPA * np.square(features[0] - features[1]).mean()
    assert of_scan == pytest.approx(expected, rel=1e-4)


def test_the_penalty_of_a_linear_critic_is_that_of_its_slope(network: gan.Networks) -> None:
    network.critic[0][1].negative_slope = 1.0
    with torch.no_grad():
        network.critic[0][0].bias.zero_()
        network.critic[2].bias.zero_()
    slope = network.critic(torch.eye(64).view(64, 1, 8, 8))[:, 0]
    real = drawn(5, 1, 8, 8)
    fake = network.drawn(5, torch.Generator().manual_seed(3))
    found = gan.critic_loss(network, real, torch.Generator().manual_seed(3))
    difference = (fake - real).flatten(1) @ slope
    expected = difference.mean() + 10 * (slope.norm() - 1) ** 2
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_the_encoder_is_trained_alone_and_comes_closer(network: gan.Networks) -> None:
    # Grids that the generator can make, so that an encoder can bring both residuals down.
    grids = network.drawn(8, torch.Generator().manual_seed(1))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    before = network.residuals(grids)
    gan.train_encoder(network, grids, seed=0, epochs=100)
    after = network.residuals(grids)
    assert float(after[0].square().mean()) < 0.5 * float(before[0].square().mean())
    assert float(after[1].mean()) < 0.5 * float(before[1].mean())
    changed = {n for n, value in network.state_dict().items() if not torch.equal(value, state[n])}
    assert changed == {n for n in state if n.startswith("encoder.")}


def test_a_scan_scores_its_largest_cell_and_the_term_of_the_whole() -> None:
    def learn(grids: Tensor, seed: int) -> variation.Model:
        return lambda grid: ((grid - grids.mean(0)).abs(), 2.5)

    good, scan = good_of([plate(seed) for seed in range(3)]), plate(7, hole_mm=4.0)
    predict = variation.fit_grids(good, variation.depth_image, learn)
    far = variation.half_depth([each.sample for each in good.train])
    mean = torch.stack([variation.depth_image(s.sample, far) for s in good.train]).mean(0)
    cells = (variation.depth_image(scan.sample, far) - mean).abs()
    expected = variation.in_pixels(cells, scan.sample.valid, good.config)
    found = predict(scan)["3d"]
    assert found.image_score == pytest.approx(expected.image_score + 2.5, rel=1e-5)
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map)


@pytest.mark.parametrize("name", METHODS)
def test_a_hole_in_a_plate_is_found(name: str) -> None:
    predict = METHODS[name](good_of([plate(seed) for seed in range(16)]))
    good = [predict(plate(seed))["3d"] for seed in range(16, 22)]
    holed = [predict(plate(seed, hole_mm=4.0))["3d"] for seed in range(22, 28)]
    assert min(p.image_score for p in holed) > max(p.image_score for p in good)
    masks = [_hole(seed) for seed in range(22, 28)]
    assert metrics.p_auroc([p.anomaly_map for p in holed], masks) > 0.9


def _hole(seed: int) -> Tensor:
    """Where `plate` makes the hole."""
    with_hole, without = (plate(seed, mm).sample.xyz[2] for mm in (4.0, 0.0))
    return with_hole != without


@pytest.mark.parametrize("name", METHODS)
def test_one_scan_or_a_constant_depth_give_finite_scores(name: str) -> None:
    flat = plate(0)
    flat.sample.xyz[2] = 0.4
    for scans in ([plate(0)], [flat, flat]):
        predict = METHODS[name](good_of(scans))
        for found in (predict(scan)["3d"] for scan in (flat, plate(1, hole_mm=4.0))):
            assert bool(found.anomaly_map.isfinite().all())
            assert 0 <= found.image_score < float("inf")


def test_a_coarse_voxel_is_full_where_one_of_eight_is() -> None:
    sample = plate(0).sample
    fine, coarse = variation.voxels(sample, 0.01)[0], gan.coarse_voxels(sample, 0.01)[0]
    half = variation.SIDE // 2
    assert coarse.shape == (half, half, half)
    points = {tuple(cell // 2) for cell in fine.nonzero().numpy()}
    assert {tuple(cell) for cell in coarse.nonzero().numpy()} == points
