"""AST: its flow's density, its score position by position, and a dent that it finds."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lsfa_lib.config import Config, configure, resolve_device
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.features.cache import extract
from lsfa_lib.features.extract import load_encoders
from lsfa_lib.features.lazy_scan import LazyScan, lazy_scan
from lsfa_lib.methods import asymmetric, asymmetric_pair
from lsfa_lib.methods.flow import negative_log_likelihood, new_flow
from lsfa_lib.methods.method import Good
from lsfa_lib.pipeline import run_category
from lsfa_lib.records import Sample
from lsfa_lib.storage.files import InputError

pytest.importorskip("FrEIA")


@pytest.fixture(scope="module")
def good(cached: Config) -> Good:
    """The seal's good scans with image features alone."""
    config = asymmetric.at_map_size(cached)
    encoders = load_encoders(config, resolve_device("cpu"), ["rgb"])
    train, validation = (
        [lazy_scan(e, encoders, config) for e in split_of(config.data, "seal", part).entries]
        for part in ("train", "validation")
    )
    return Good(train, validation, config, 0, encoders)


def of(sample: Sample, good: Good) -> LazyScan:
    """A sample as a scan, whose features are computed, not read."""
    assert good.encoders is not None
    own = good.encoders
    return LazyScan(
        sample.name, good.config, lambda: sample, lambda read: extract(read(), own, good.config)
    )


@pytest.mark.parametrize("condition", [0, 3])
def test_the_density_of_a_flow_is_the_change_of_variables(condition: int) -> None:
    """By the Jacobian of the whole map, against the sum over positions."""
    torch.manual_seed(0)
    size = (5, 2, 3)
    flow = new_flow(size, 3, 1.9, asymmetric_pair.subnet, condition).double()
    at = torch.randn(1, condition, 2, 3, dtype=torch.float64)
    x = torch.randn(1, *size, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v, [at])[0].flatten(), x)
    z, log_det = flow(x, [at])
    assert log_det.shape == (1, 2, 3)
    expected = torch.linalg.slogdet(jacobian.reshape(30, 30)).logabsdet
    assert float(log_det.sum()) == pytest.approx(float(expected))
    normal = torch.distributions.Normal(0, 1).log_prob(z).sum() + expected
    constant = 30 / 2 * np.log(2 * np.pi)
    found = negative_log_likelihood(z, log_det).sum() + constant
    assert float(found) == pytest.approx(-float(normal))
    torch.testing.assert_close(flow(z, [at], rev=True)[0], x)


def test_scales_are_clamped() -> None:
    """A block multiplies by at most exp(clamp), whatever its subnet says."""
    flow = new_flow((4,), 1, 1.9, lambda i, o: torch.nn.Linear(i, o))
    for parameter in flow.parameters():
        if parameter.requires_grad:
            torch.nn.init.constant_(parameter, 1e4)
    _, log_det = flow(torch.ones(1, 4))
    assert float(log_det) == pytest.approx(4 * 1.9, rel=2e-3)


def test_whitened_channels_are_uncorrelated_and_zero_outside_the_part() -> None:
    torch.manual_seed(0)
    channels = torch.einsum("dc,chw->dhw", torch.randn(6, 6), torch.randn(6, 30, 30)) + 5
    part = torch.arange(30).expand(30, 30) < 25
    own = asymmetric.whitening(channels[:, part].T)
    found = own(channels, part)
    assert not found[:, ~part].any()
    covariance = found[:, part].cov(correction=0)
    torch.testing.assert_close(covariance, torch.eye(6), atol=1e-3, rtol=0)


def test_depths_of_a_position_are_means_of_its_measured_pixels(good: Good) -> None:
    scan = good.train[0]
    side = good.config.grid // 2
    found = asymmetric.depths(scan, side)
    depth, valid = scan.sample.xyz[2].numpy(), scan.sample.valid.numpy()
    mean, px = depth[valid].mean(), 96 // (4 * side)
    assert found.shape == (16, side, side)
    measured = scan.sample.valid.unflatten(0, (side, 8)).unflatten(2, (side, 8)).any(3).any(1)
    seen = set()
    for row, column in [(0, 0), *measured.nonzero().tolist()]:
        whole = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        for channel in range(16):
            top, left = 8 * row + channel // 4 * px, 8 * column + channel % 4 * px
            cell = np.s_[top : top + px, left : left + px]
            # An unmeasured cell has the mean of its position, a position without the part zero.
            area = cell if valid[cell].any() else whole
            inside = depth[area][valid[area]]
            expected = inside.mean() - mean if len(inside) else 0.0
            assert float(found[channel, row, column]) == pytest.approx(expected, abs=1e-6)
            seen.add((bool(valid[cell].any()), len(inside) > 0))
    assert seen == {(True, True), (False, True), (False, False)}


def test_the_score_of_a_position_is_the_squared_distance_of_the_networks(good: Good) -> None:
    few, scan = replace(good, train=good.train[:2]), good.validation[0]
    found = asymmetric.fit(few)(scan)
    side, own = good.config.grid // 2, scan.sample
    parts = torch.stack([asymmetric.part_of(s.sample, side) for s in few.train])
    part = asymmetric.part_of(own, side)
    inputs, tested = [], []
    for channels in (asymmetric.depths, asymmetric.colours):
        raw = [channels(s, side) for s in few.train]
        white = asymmetric.whitening(torch.stack(raw).movedim(1, -1)[parts])
        inputs.append(torch.stack([white(r, p) for r, p in zip(raw, parts, strict=True)]))
        tested.append(white(channels(scan, side), part)[None])
    apart = {}
    for mode, used in (("3d", slice(1)), ("rgb", slice(1, 2)), ("rgb+3d", slice(2))):
        # The order of the joined channels is that of the mode's name.
        order = -1 if mode == "rgb+3d" else 1
        pair = asymmetric_pair.train_pair(torch.cat(inputs[used][::order], 1), parts, "again", 0)
        batch = torch.cat(tested[used][::order], 1)
        taught = pair.teacher(batch, [pair.position[None]])[0][0]
        learned = pair.student(torch.cat([batch, pair.position[None]], dim=1))[0]
        apart[mode] = [
            float(((taught[:, r, c] - learned[:, r, c]) ** 2).sum())
            for r, c in part.nonzero().tolist()
        ]
    assert list(found) == list(apart)
    assert found["3d"].image_score == pytest.approx(max(apart["3d"]), rel=1e-4)
    assert found["rgb"].image_score == pytest.approx(np.mean(apart["rgb"]), rel=1e-4)
    assert found["rgb+3d"].image_score == pytest.approx(max(apart["rgb+3d"]), rel=1e-4)


def test_the_students_loss_falls_and_the_teacher_becomes_likely(good: Good) -> None:
    """Both losses are the mean over the part of what they are named after."""
    side = good.config.grid // 2
    parts = torch.stack([asymmetric.part_of(s.sample, side) for s in good.train])
    raw = torch.stack([asymmetric.depths(s, side) for s in good.train])
    white = asymmetric.whitening(raw.movedim(1, -1)[parts])
    inputs = torch.stack([white(r, p) for r, p in zip(raw, parts, strict=True)])
    at = asymmetric_pair.position_encoding(side).expand(len(inputs), -1, -1, -1)
    torch.manual_seed(0)
    new = asymmetric_pair.Pair(16, side).eval()
    losses = []
    for pair in (new, asymmetric_pair.train_pair(inputs, parts, "x", 0)):
        taught, log_det = pair.teacher(inputs, [at])
        learned = pair.student(torch.cat([inputs, at], dim=1))
        apart = (taught - learned).square().sum(1)[parts].mean() / taught.square().sum(1).mean()
        losses.append((float(negative_log_likelihood(taught, log_det)[parts].mean()), float(apart)))
    assert losses[1][0] < losses[0][0] - 0.1 * 16
    assert losses[1][1] < 0.8 * losses[0][1]


def plate(seed: int, dent: float, good: Good) -> LazyScan:
    """A square plate of 60 px, tilted and rough by 0.1 mm, pressed in by `dent` metres on 10 px."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(*(torch.arange(96) - 48,) * 2, indexing="ij")
    slope = 1e-4 * torch.randn(2, generator=generator)
    depth = 0.5 + slope[0] * rows + slope[1] * columns
    depth = depth + 1e-4 * torch.randn(96, 96, generator=generator)
    depth[50:60, 40:50] += dent
    valid = (rows.abs() < 30) & (columns.abs() < 30)
    xyz = torch.stack([columns * 1e-3, rows * 1e-3, depth]) * valid
    sample = good.train[0].sample
    return of(replace(sample, xyz=xyz, valid=valid, defect=torch.zeros_like(valid)), good)


def test_every_dented_plate_scores_above_every_good_one(good: Good) -> None:
    """Parts that vary by tilt and noise alone, so that a few scans are enough."""
    alone = replace(good.config, modalities=("3d",))
    train = [plate(seed, 0.0, good) for seed in range(12)]
    predict = asymmetric.fit(replace(good, train=train, config=alone))
    held = [predict(plate(seed, 0.0, good))["3d"] for seed in range(20, 25)]
    dented = [predict(plate(seed, 0.003, good))["3d"] for seed in range(20, 25)]
    assert min(d.image_score for d in dented) > max(h.image_score for h in held)
    for found in dented:
        row, column = divmod(int(found.anomaly_map.argmax()), 96)
        assert 45 <= row < 65 and 35 <= column < 55


def test_one_scan_and_a_constant_depth_give_finite_scores(good: Good) -> None:
    flat = replace(good.train[0].sample, xyz=torch.ones_like(good.train[0].sample.xyz))
    for train in ([good.train[0]], [of(flat, good)] * 2):
        found = asymmetric.fit(replace(good, train=train))(good.validation[0])
        for prediction in found.values():
            assert np.isfinite(prediction.image_score)
            assert bool(prediction.anomaly_map.isfinite().all())


def test_a_run_answers_in_three_modes_and_loads_no_point_encoder(cached: Config) -> None:
    result = run_category("seal", replace(cached, method="ast", shots=2, timed_scans=1), 0).result
    assert list(result["modes"]) == ["3d", "rgb", "rgb+3d"]
    assert list(result["weights"]) == ["rgb"]
    assert set(result["cost"]["seconds"]) == {"read", "prepare", "detect", "features rgb"}


def test_points_alone_are_scored_without_an_image(cached: Config) -> None:
    config = configure(cached, {"method": "ast", "modalities": ["3d"], "shots": 2})
    result = run_category("seal", config, 0).result
    assert list(result["modes"]) == ["3d"] and not result["weights"]


def test_images_without_points_are_scored(cached: Config, tmp_path: Path) -> None:
    source = Path(cached.data.root) / "seal"
    shutil.copytree(source, tmp_path / "seal", ignore=shutil.ignore_patterns("xyz"))
    config = configure(cached, {"method": "ast", "data.root": str(tmp_path), "shots": 2})
    assert list(run_category("seal", config, 0).result["modes"]) == ["rgb"]


def test_a_method_that_needs_colour_says_so(cached: Config, tmp_path: Path) -> None:
    source = Path(cached.data.root) / "seal"
    shutil.copytree(source, tmp_path / "seal", ignore=shutil.ignore_patterns("rgb"))
    for name in ("ast", "differnet"):
        config = configure(cached, {"method": name, "data.root": str(tmp_path)})
        with pytest.raises(InputError, match="holds no colour images, but"):
            run_category("seal", config, 0)
