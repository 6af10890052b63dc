"""Masked pretraining of the small Point-MAE: its objective, its checkpoints, and the probe."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.config import DEMO, PointEncoderConfig
from lsfa_lib.features.checkpoints import load_point_mae
from lsfa_lib.features.extract import load_points
from lsfa_lib.features.point_mae import SMALL, PointMAE, group_points, placed_groups
from lsfa_lib.pretraining import pretrain as pretraining
from lsfa_lib.pretraining import probe as probing
from lsfa_lib.pretraining.masked import GroupedCloud, MaskedPointMAE, chamfer, random_mask
from lsfa_lib.pretraining.pretrain import Clouds, PretrainConfig, export, pretrain
from lsfa_lib.pretraining.probe import (
    CLASSES,
    HELD_OUT,
    Polyhedron,
    labelled_scan,
    of_encoder,
    of_fpfh,
    probe,
    probes,
)
from lsfa_lib.pretraining.shapes import Mark, shape
from lsfa_lib.storage.files import InputError

kept_scan = cache(labelled_scan)

SHORT = PretrainConfig(steps=4, batch=2, groups=16, group_size=8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grouped(batch: int = 2, groups: int = 16, size: int = 8) -> GroupedCloud:
    return GroupedCloud(
        torch.rand(batch, groups, 3, generator=generator(1)),
        torch.randn(batch, groups, size, 3, generator=generator(2)),
    )


@pytest.fixture(scope="module")
def model() -> MaskedPointMAE:
    torch.manual_seed(0)
    return MaskedPointMAE(PointMAE(16, 8, "group_radius", SMALL)).eval()


def test_chamfer_is_the_sum_of_both_mean_squared_ways() -> None:
    a, b = torch.rand(3, 5, 3, generator=generator()), torch.rand(3, 7, 3, generator=generator(1))
    there, back = [], []
    for i in range(3):
        there += [min(float((p - q).square().sum()) for q in b[i]) for p in a[i]]
        back += [min(float((p - q).square().sum()) for q in a[i]) for p in b[i]]
    assert chamfer(a, b).item() == pytest.approx(np.mean(there) + np.mean(back), rel=1e-5)
    assert chamfer(a, a[:, torch.randperm(5, generator=generator())]).item() == 0


def test_as_many_groups_are_hidden_in_each_cloud_and_others_each_time() -> None:
    hidden = random_mask(50, 64, 0.6, generator())
    assert (hidden.sum(1) == 38).all()
    assert len({tuple(row.tolist()) for row in hidden}) == 50
    share = hidden.float().mean(0)
    assert 0.35 < share.min() < share.max() < 0.85
    for share in (0.0, 1.0, 0.001):
        with pytest.raises(InputError, match="groups; choose another"):
            random_mask(2, 64, share, generator())


def test_the_hidden_groups_are_not_seen_but_their_places_are(model: MaskedPointMAE) -> None:
    cloud, hidden = grouped(), random_mask(2, 16, 0.6, generator())
    drawn = model(cloud, hidden)
    assert drawn.shape == (2, 10, 8, 3)
    spoilt = cloud.neighbourhoods.clone()
    spoilt[hidden] = 99.0
    torch.testing.assert_close(model(GroupedCloud(cloud.centres, spoilt), hidden), drawn)
    moved = cloud.centres.clone()
    moved[hidden] += 0.5
    assert (model(GroupedCloud(moved, cloud.neighbourhoods), hidden) - drawn).abs().max() > 1e-3
    spoilt = cloud.neighbourhoods.clone()
    spoilt[~hidden] += 0.5
    assert (model(GroupedCloud(cloud.centres, spoilt), hidden) - drawn).abs().max() > 1e-3


def test_a_hidden_groups_points_are_drawn_in_its_own_row(model: MaskedPointMAE) -> None:
    """Swapping the places of two hidden groups swaps what is drawn for them."""
    cloud, hidden = grouped(1), random_mask(1, 16, 0.6, generator())
    first, second = hidden[0].nonzero()[:2, 0].tolist()
    swapped = cloud.centres.clone()
    swapped[0, [first, second]] = swapped[0, [second, first]]
    drawn = model(cloud, hidden)[0]
    other = model(GroupedCloud(swapped, cloud.neighbourhoods), hidden)[0]
    torch.testing.assert_close(other[0], drawn[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(other[1], drawn[0], atol=1e-5, rtol=0)


def test_the_loss_does_not_ask_for_the_size_of_the_groups(model: MaskedPointMAE) -> None:
    cloud, hidden = grouped(), random_mask(2, 16, 0.6, generator())
    drawn = model(cloud, hidden).detach()
    true = cloud.neighbourhoods[hidden].view(2, 10, 8, 3)
    size = true.square().sum(-1).mean(-1).sqrt()[..., None, None]
    expected = np.mean(
        [
            chamfer((drawn[i, j] / size[i, j])[None], (true[i, j] / size[i, j])[None]).item()
            for i in range(2)
            for j in range(10)
        ]
    )
    assert model.loss(cloud, hidden).item() == pytest.approx(expected, rel=1e-5)


def test_training_tokens_are_those_of_the_frozen_encoder() -> None:
    """`as_published`, which training uses, and the folded forward used afterwards."""
    encoder = PointMAE(16, 8, "group_radius", SMALL).encoder
    groups = torch.randn(6, 8, 3, generator=generator())
    encoder.train()
    for _ in range(3):
        trained = encoder.as_published(groups)
    with torch.no_grad():
        torch.testing.assert_close(encoder(groups, True), trained, atol=2e-5, rtol=0)
        encoder.eval()
        expected = encoder.as_published(groups)
        torch.testing.assert_close(encoder(groups, False), expected, atol=2e-5, rtol=0)
        assert (encoder(groups, True) - encoder(groups, False)).abs().max() > 1e-3


def test_groups_have_a_radius_of_one_whatever_the_size_of_part_and_pixel() -> None:
    points = torch.rand(400, 3, generator=generator())
    placed, index, groups = placed_groups(points, 20, 16, "group_radius")
    assert groups.square().sum(-1).mean().sqrt().item() == pytest.approx(1, abs=1e-5)
    assert placed.norm(dim=1).max().item() == pytest.approx(1, abs=1e-5)
    again = placed_groups(points * 0.03 + 4, 20, 16, "group_radius")
    torch.testing.assert_close(again[0], placed, atol=2e-4, rtol=0)
    torch.testing.assert_close(again[2], groups, atol=2e-3, rtol=0)
    _, plain = group_points(points, 20, 16)
    torch.testing.assert_close(groups, plain * (groups.norm() / plain.norm()))
    assert index[0] == 0


def test_a_cloud_of_the_stream_is_grouped_and_turned_about_the_cameras_axis() -> None:
    clouds = Clouds(replace(SHORT, groups=32))
    centres, groups = clouds[3]
    assert centres.shape == (32, 3)
    assert groups.shape == (32, 8, 3)
    torch.testing.assert_close(clouds[3][1], groups)
    assert len(clouds) == 8
    depth = torch.from_numpy(shape(0, 3).points)[:, 2]
    spread = (centres[:, 2].max() - centres[:, 2].min()) / (centres.norm(dim=1).max())
    assert 0 < spread <= 2
    assert depth.min() > 0


def test_a_stopped_training_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(SHORT, tmp_path / "whole.pt", workers=0)
    assert [len(whole.losses), whole.step] == [4, 4]
    monkeypatch.setattr(pretraining, "CHECKPOINT_EVERY", 2)
    batches = pretraining._batches

    def cut_short(*args):
        for number, batch in enumerate(batches(*args)):
            if number == 3:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(pretraining, "_batches", cut_short)
    with pytest.raises(KeyboardInterrupt):
        pretrain(SHORT, tmp_path / "cut.pt", workers=0)
    monkeypatch.setattr(pretraining, "_batches", batches)
    resumed = pretrain(SHORT, tmp_path / "cut.pt", workers=1)
    assert resumed.losses == whole.losses
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_foreign_and_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    path = tmp_path / "points.pt"
    pretrain(replace(SHORT, steps=1), path, workers=0)
    with pytest.raises(InputError, match=r"points\.pt: belongs to a training with other settings"):
        pretrain(replace(SHORT, steps=1, seed=1), path, workers=0)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"points\.pt: is no checkpoint of a pretraining"):
        pretrain(replace(SHORT, steps=1), path, workers=0)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MaskedPointMAE, "loss", lambda *args: torch.tensor(float("nan")))
    with pytest.raises(InputError, match=r"the loss of step 0 is nan; start again with a lower"):
        pretrain(SHORT, tmp_path / "points.pt", workers=0)
    assert not (tmp_path / "points.pt").exists()


def test_training_learns(tmp_path: Path) -> None:
    config = replace(SHORT, steps=60, batch=4, groups=32, group_size=16, warmup=0.1)
    losses = pretrain(config, tmp_path / "points.pt", workers=1).losses
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


def test_the_command_writes_weights_that_a_config_can_name(tmp_path: Path) -> None:
    out = tmp_path / "points.safetensors"
    outcome = CliRunner().invoke(app, ["pretrain-points", "--out", str(out), "--steps", "1"])
    assert outcome.exit_code == 0, outcome.output
    assert "after 1 steps" in outcome.output
    assert out.stat().st_size < 8_000_000
    with safe_open(out, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        assert all(
            file.get_tensor(n).dtype != torch.float32
            for n in file.keys()  # noqa: SIM118
        )
    assert about["steps"] == 1
    assert len(about["losses"]) == 1
    config = PointEncoderConfig(
        model="point_mae_small", weights=str(out), sha256="", groups=64, norm="group_radius"
    )
    encoder = load_points(config)
    centres, features = encoder(torch.rand(500, 3, generator=generator()))
    assert features.shape == (64, 3 * 192)
    assert centres.shape == (64, 3)
    with pytest.raises(InputError, match="has shape"):
        load_point_mae(PointMAE(), out)


def test_exported_weights_are_the_trained_ones_in_half_precision(tmp_path: Path) -> None:
    state = pretrain(replace(SHORT, steps=1), tmp_path / "points.pt", workers=0)
    export(state, replace(SHORT, steps=1), tmp_path / "points.safetensors")
    own = state.model.MAE_encoder.eval().requires_grad_(False)
    read = load_point_mae(PointMAE(16, 8, "group_radius", SMALL), tmp_path / "points.safetensors")
    for name, tensor in own.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor.half().to(tensor.dtype)), name
    points = torch.rand(300, 3, generator=generator())
    torch.testing.assert_close(read(points)[1], own(points)[1], atol=0.02, rtol=0)


def test_labels_of_a_cube_are_what_lies_within_reach() -> None:
    facing = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    marks = (
        Mark(np.array([0, 0, -10], np.float32), radius_mm=4.0, depth_mm=-1.0),
        Mark(np.array([-10, 0, 0], np.float32), radius_mm=2.0, depth_mm=1.0),
    )
    cube = Polyhedron(facing, np.full(6, 10, np.float32), marks)
    points = {
        (0.0, 10.0, 0.0): "plane",
        (0.0, 10.0, 9.95): "edge",
        (9.95, 10.0, 9.95): "corner",
        (0.5, 0.5, -9.2): "dent",
        (-10.9, 0.2, 0.0): "bump",
        (0.0, 10.0, 9.8): None,
        (3.0, 0.0, -10.0): None,
    }
    labels = cube.labels(np.array(list(points), np.float32), spacing=0.1)
    expected = [-1 if name is None else CLASSES.index(name) for name in points.values()]
    assert labels.tolist() == expected


def test_scans_of_the_probe_hold_every_class_and_lie_on_their_polyhedron() -> None:
    counts = np.zeros(len(CLASSES), int)
    for index in range(12):
        scan = labelled_scan(0, index)
        labels = scan.labels(scan.points)
        counts += np.bincount(labels[labels >= 0], minlength=len(CLASSES))
        centre = np.array([0, 0, scan.camera.distance_mm], np.float32)
        gap = np.abs(scan.polyhedron.solid(scan.points - centre))
        assert np.median(gap) < 0.2 * scan.camera.spacing_mm
    assert (counts > 20).all()
    np.testing.assert_array_equal(labelled_scan(0, 5).points, labelled_scan(0, 5).points)


@pytest.fixture
def generated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes that share scans generate each of them once."""
    monkeypatch.setattr(probing, "labelled_scan", kept_scan)


def test_the_probe_gives_1_to_labels_and_a_fifth_to_nothing(generated_once: None) -> None:
    numbers = [*range(20), *range(HELD_OUT, HELD_OUT + 10)]
    scans = {scan.points.shape[0]: scan for scan in (kept_scan(0, i) for i in numbers)}

    def perfect(points, spacing):
        scan = scans[points.shape[0]]
        centres = torch.from_numpy(points[::5])
        labels = torch.from_numpy(scan.labels(points[::5] * 1000))
        return centres, torch.nn.functional.one_hot(labels + 1, 6).float()

    def nothing(points, spacing):
        centres = torch.from_numpy(points[::5])
        return centres, torch.zeros(len(centres), 2)

    assert probe(perfect, train=20, test=10)["balanced accuracy"] == 1
    several = probes(perfect, (10, 20), test=10)
    assert several[20] == probe(perfect, train=20, test=10)
    assert probe(nothing, train=20, test=10)["balanced accuracy"] == pytest.approx(0.2)


def test_our_weights_know_more_of_shape_than_random_ones_and_than_fpfh(
    generated_once: None,
) -> None:
    """At least 15 points more than random, with a quarter of the groups of the model card."""
    config = replace(DEMO.point_encoder, groups=256)
    found = {}
    for weights in ("package", "random"):
        encoder = load_points(replace(config, weights=weights))
        found[weights] = probe(of_encoder(encoder), train=40, test=30)["balanced accuracy"]
    found["fpfh"] = probe(of_fpfh(256), train=40, test=30)["balanced accuracy"]
    assert found["package"] > found["random"] + 0.15
    assert found["package"] > found["fpfh"]
