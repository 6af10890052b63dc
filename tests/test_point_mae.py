"""Point-MAE against the published form, reference numbers and what must not change its features."""

import copy
import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from lsfa_lib.features.group_encoder import CHUNK_ROWS, GroupEncoder
from lsfa_lib.features.point_mae import Architecture, PointMAE, group_points, to_unit_sphere

FIXTURE = Path(__file__).parents[2] / "shared" / "fixtures" / "point_mae_case.npz"
SMALL = Architecture(dim=48, depth=3, heads=2, taps=(0, 2), drop_path=0.5)
NORMS = ("sample_statistics", "running_statistics", "unit_sphere", "group_radius", "released")


def cloud(count: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


@cache
def defined_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of the reference case, which are defined by their names (its README)."""
    digest = hashlib.sha256(name.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    drawn = rng.standard_normal(shape)
    if name.endswith("running_var"):
        return 0.5 + rng.random(shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if len(shape) > 1:
        return drawn / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * drawn if name.endswith("weight") else 0.1 * drawn


def with_defined_weights(model: torch.nn.Module) -> torch.nn.Module:
    state = {
        name: torch.from_numpy(np.asarray(defined_weight(name, tuple(t.shape)))).to(t.dtype)
        for name, t in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.requires_grad_(False)


def plain_group_encoder(
    encoder: GroupEncoder, neighbourhoods: torch.Tensor, own_statistics: bool
) -> torch.Tensor:
    """As published: expand the group's maximum to every point, join, convolve, take the maximum."""
    encoder.train(own_statistics)
    points = encoder.first_conv(neighbourhoods.transpose(1, 2))
    group = points.amax(dim=2, keepdim=True).expand_as(points)
    return encoder.second_conv(torch.cat([group, points], dim=1)).amax(dim=2)


@pytest.mark.parametrize("norm", ["running_statistics", "sample_statistics"])
def test_features_are_those_of_the_reference_code(norm):
    if not FIXTURE.exists():
        pytest.skip("shared/fixtures/point_mae_case.npz is not beside this checkout")
    case = np.load(FIXTURE)
    model = with_defined_weights(PointMAE(int(case["groups"]), int(case["group_size"]), norm))
    centres, features = model(torch.from_numpy(case["points"]))
    torch.testing.assert_close(centres, torch.from_numpy(case["centres"][0]), atol=0, rtol=0)
    expected = torch.from_numpy(case[f"eval_{norm}"][0]).T
    torch.testing.assert_close(features, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize(("own_statistics", "scale"), [(True, 0.01), (True, 1.0), (False, 1.0)])
@pytest.mark.parametrize(
    ("groups", "size"),
    [
        (5, 1),
        (1, 5),
        (3, 7),
        (CHUNK_ROWS // 512 - 1, 512),
        (CHUNK_ROWS // 512, 512),
        (CHUNK_ROWS // 512 + 1, 512),
        (2, CHUNK_ROWS + 1),
    ],
)
def test_group_encoder_equals_the_published_form(groups, size, scale, own_statistics):
    encoder = with_defined_weights(GroupEncoder(96))
    neighbourhoods = cloud(groups * size, scale=scale).view(groups, size, 3)
    exact = plain_group_encoder(
        copy.deepcopy(encoder).double(), neighbourhoods.double(), own_statistics
    )
    error = (encoder(neighbourhoods, own_statistics) - exact).abs().max() / exact.abs().max()
    assert error < 1e-5


def test_gradients_of_the_group_encoder_equal_those_of_the_published_form():
    encoder = with_defined_weights(GroupEncoder(16)).double().requires_grad_(True)
    neighbourhoods = cloud(60).double().view(4, 15, 3)
    seed = torch.linspace(-1, 1, 64).double().view(4, 16)
    ours = torch.autograd.grad(
        (encoder(neighbourhoods, True) * seed).sum(), list(encoder.parameters())
    )
    plain = torch.autograd.grad(
        (plain_group_encoder(encoder, neighbourhoods, True) * seed).sum(),
        list(encoder.parameters()),
    )
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_defect_4_train_mode_changes_neither_features_nor_statistics(norm):
    model = with_defined_weights(PointMAE(16, 8, norm, SMALL))
    before = copy.deepcopy(model.state_dict())
    points = cloud(100)
    given = points.clone()
    _, in_eval = model.eval()(points)
    _, in_train = model.train()(points)
    assert torch.equal(in_eval, in_train)
    assert torch.equal(points, given)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_the_norms_differ():
    features = {}
    for norm in NORMS:
        model = with_defined_weights(PointMAE(16, 8, norm, SMALL))
        features[norm] = model(cloud(100, seed=1, scale=0.1))[1]
    gaps = [(features[a] - features[b]).abs().max() for a in NORMS for b in NORMS if a < b]
    assert min(gaps) > 0.01


def test_unit_sphere_ignores_place_and_size_and_keeps_centres_metric():
    sphere = with_defined_weights(PointMAE(16, 8, "unit_sphere", SMALL)).double()
    points = cloud(100).double()
    centres, features = sphere(points)
    moved_centres, moved = sphere(0.01 * points + torch.tensor([0.1, -0.2, 0.6]))
    torch.testing.assert_close(moved, features, atol=1e-9, rtol=0)
    torch.testing.assert_close(moved_centres, 0.01 * centres + torch.tensor([0.1, -0.2, 0.6]))
    plain = with_defined_weights(PointMAE(16, 8, "running_statistics", SMALL)).double()
    torch.testing.assert_close(plain(to_unit_sphere(points))[1], features)
    radii = to_unit_sphere(points).norm(dim=1)
    assert radii.max() == pytest.approx(1)
    assert to_unit_sphere(points).mean(0).abs().max() < 1e-12


def test_released_features_are_drawn_from_the_points():
    model = with_defined_weights(PointMAE(16, 8, "released", SMALL))
    points = cloud(100)
    assert torch.equal(model(points)[1], model(points)[1])
    scales = torch.stack([model._branch_scales(cloud(4, seed=s)) for s in range(600)])
    assert len(set(map(tuple, scales[:20].flatten(1).tolist()))) > 3
    # p = 0, 0.25, 0.5: a branch is dropped so often, and weighs 1 / (1 - p) when it is kept.
    dropped = (scales == 0).double().mean(dim=(0, 2))
    assert dropped.tolist() == pytest.approx([0, 0.25, 0.5], abs=0.05)
    assert scales.amax(dim=(0, 2)).tolist() == pytest.approx([1, 4 / 3, 2])


def test_released_without_drop_path_is_sample_statistics():
    calm = Architecture(dim=48, depth=3, heads=2, taps=(0, 2), drop_path=0.0)
    points = cloud(100)
    released = with_defined_weights(PointMAE(16, 8, "released", calm))
    fixed = with_defined_weights(PointMAE(16, 8, "sample_statistics", calm))
    assert torch.equal(released(points)[1], fixed(points)[1])


@pytest.mark.parametrize("count", [1, 2, 7, 8, 15, 16, 17])
def test_small_clouds_have_a_group_for_each_point(count):
    model = with_defined_weights(PointMAE(16, 8, architecture=SMALL))
    centres, features = model(cloud(count))
    assert centres.shape == (min(16, count), 3)
    assert features.shape == (min(16, count), len(SMALL.taps) * SMALL.dim)
    assert features.isfinite().all()


def test_an_empty_cloud_is_refused():
    with pytest.raises(ValueError, match="0 points"):
        PointMAE(16, 8, architecture=SMALL)(torch.zeros(0, 3))


def test_groups_are_the_nearest_points_relative_to_their_centre():
    points = cloud(40)
    index, neighbourhoods = group_points(points, 5, 6)
    for centre, found in zip(index, neighbourhoods, strict=True):
        gaps = points - points[centre]
        nearest = gaps[gaps.norm(dim=1).argsort()[:6]]
        torch.testing.assert_close(found, nearest)
        assert torch.equal(found[0], torch.zeros(3))


def test_state_dict_has_the_names_of_the_public_checkpoint():
    names = set(PointMAE().state_dict())
    assert names >= {
        "encoder.first_conv.0.weight",
        "encoder.first_conv.1.running_var",
        "encoder.first_conv.3.bias",
        "encoder.second_conv.3.weight",
        "pos_embed.0.weight",
        "pos_embed.2.bias",
        "blocks.blocks.0.norm1.weight",
        "blocks.blocks.11.attn.qkv.weight",
        "blocks.blocks.11.attn.proj.bias",
        "blocks.blocks.11.norm2.bias",
        "blocks.blocks.11.mlp.fc1.weight",
        "blocks.blocks.11.mlp.fc2.bias",
        "norm.weight",
    }
    # 18 of the group encoder, 4 positions, 12 blocks of 11 (no qkv bias), 2 of the final norm.
    assert len(names) == 18 + 4 + 12 * 11 + 2


def test_point_bert_reduces_its_tokens_and_carries_a_class_token_along():
    """Against its published form, written out: arXiv 2111.14819, sec. 3.3."""
    architecture = Architecture(dim=48, depth=3, heads=2, taps=(0, 2), token_dim=32)
    model = with_defined_weights(PointMAE(10, 8, "running_statistics", architecture)).eval()
    points = cloud(60)
    index, groups = group_points(points, 10, 8)
    tokens = model.reduce_dim(plain_group_encoder(model.encoder, groups, own_statistics=False))
    x = torch.cat([model.cls_token, tokens[None]], dim=1)
    position = torch.cat([model.cls_pos, model.pos_embed(points[index])[None]], dim=1)
    taps = []
    for number, block in enumerate(model.blocks.blocks):
        x = block(x + position)
        if number in architecture.taps:
            taps.append(model.norm(x)[0, 1:])
    centres, features = model(points)
    torch.testing.assert_close(features, torch.cat(taps, dim=-1), atol=2e-5, rtol=0)
    assert torch.equal(centres, points[index])
    without = copy.deepcopy(model)
    without.cls_token.zero_()
    assert (without(points)[1] - features).abs().max() > 1e-3
