"""Tokens on the grid: pooling matrices, distinct rows, validity and the released quirk."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lsfa_lib.config import configure
from lsfa_lib.datasets.layouts import entries
from lsfa_lib.features.cache import extract
from lsfa_lib.features.extract import distinct_rows, load_encoders, patch_valid, pooling_weights
from lsfa_lib.features.lazy_scan import read_sample
from lsfa_lib.records import ModalityFeatures, PatchFeatures

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("rows", "columns", "grid"), [(28, 28, 56), (28, 21, 112), (7, 7, 24), (222, 9, 56), (13, 4, 5)]
)
def test_pooling_weights_equal_torch(rows: int, columns: int, grid: int) -> None:
    image = torch.randn(1, rows, columns)
    expected = F.adaptive_avg_pool2d(image, grid)[0].view(-1, 1)
    found = pooling_weights(rows, columns, grid) @ image.view(-1, 1)
    torch.testing.assert_close(found, expected)


def test_defect_9_upsampled_tokens_stay_at_their_place() -> None:
    # Public code saves 28 -> 56 features by a reshape that puts 99.7 % of tokens elsewhere.
    weights = pooling_weights(28, 28, 56)
    tokens = torch.arange(784.0)[:, None]
    grid = (weights @ tokens).view(56, 56)
    for row in range(56):
        for column in range(56):
            assert grid[row, column] == (row // 2) * 28 + column // 2


def test_the_image_has_a_size_of_its_own(demo_root: Path) -> None:
    fields = {"data.root": str(demo_root), "device": "cpu", "cache": ""}
    plain = configure("tiny", fields)
    finer = configure(plain, {"image_encoder.size": 192})
    entry = entries(demo_root, "seal", "train")[0]
    before, after = read_sample(entry, plain), read_sample(entry, finer)
    assert after.rgb.shape == (3, 192, 192) and after.valid.shape == (96, 96)
    assert torch.equal(before.xyz, after.xyz) and torch.equal(before.valid, after.valid)
    encoders, other = load_encoders(plain, CPU), load_encoders(finer, CPU)
    assert encoders.keys["3d"] == other.keys["3d"] and encoders.keys["rgb"] != other.keys["rgb"]
    old, new = extract(before, encoders, plain), extract(after, other, finer)
    assert torch.equal(old.by_modality["3d"].tokens, new.by_modality["3d"].tokens)
    # Stride 8: 12 x 12 tokens of 96 px, each copied to 2 x 2 patches; 24 x 24 of 192 px, one each.
    assert old.grid == new.grid == (24, 24)
    assert len(old.by_modality["rgb"].tokens) == 144 and len(new.by_modality["rgb"].tokens) == 576
    tokens, grid = other.by_modality["rgb"](after.rgb[None])
    assert grid == (24, 24)
    spread = new.by_modality["rgb"].weights @ new.by_modality["rgb"].tokens
    torch.testing.assert_close(spread, tokens[0].half().float())


@pytest.mark.parametrize("stages", [(1, 2), ()], ids=["convolutional", "ViT"])
def test_bfloat16_changes_tokens_little_and_distances_not_at_all(
    demo_root: Path, stages: tuple[int, ...]
) -> None:
    vit = {"image_encoder.model": "vit_tiny_patch16_224", "image_encoder.weights": "random"}
    fields = {"point_encoder.groups": 128, "point_encoder.group_size": 32, "image_encoder.size": 0}
    fields |= {"image_encoder.stages": list(stages), "cache": ""} | ({} if stages else vit)
    exact = configure("demo", fields)
    names = ("image_encoder.precision", "point_encoder.precision")
    rounded = configure("demo", fields | dict.fromkeys(names, "bfloat16"))
    sample = read_sample(entries(demo_root, "seal", "train")[0], exact)
    encoders = [load_encoders(config, torch.device("cpu")) for config in (exact, rounded)]
    found = [extract(sample, e, c) for e, c in zip(encoders, (exact, rounded), strict=True)]
    for m in ("3d", "rgb"):
        own, other = (features.by_modality[m] for features in found)
        assert other.tokens.dtype == torch.float32
        assert torch.equal(own.weights.to_dense(), other.weights.to_dense())
        error = (own.tokens - other.tokens).norm(dim=1) / own.tokens.norm(dim=1)
        assert 1e-4 < error.mean() < (0.1 if m == "rgb" else 0.01)
        assert encoders[0].keys[m] != encoders[1].keys[m]


def test_patch_is_valid_with_one_valid_pixel() -> None:
    valid = torch.zeros(8, 8, dtype=torch.bool)
    valid[3, 4] = True
    assert patch_valid(valid, 4).tolist() == [False, True, False, False]


def patch_features(weights: torch.Tensor, tokens: torch.Tensor, valid: list[bool]) -> PatchFeatures:
    compact = ModalityFeatures(tokens, weights.to_sparse_csr())
    grid = (1, len(valid))
    return PatchFeatures({"3d": compact, "rgb": compact}, torch.tensor(valid), grid, "x")


def test_copied_tokens_are_searched_once() -> None:
    tokens = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    weights = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
    rows, index = distinct_rows(patch_features(weights, tokens, [True, True, True, False]), "rgb")
    assert rows.tolist() == [[1, 2], [5, 6]]
    assert index.tolist() == [0, 0, 1, -1]


def test_mixed_tokens_are_expanded_for_valid_patches_only() -> None:
    tokens = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    weights = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0, 0]])
    rows, index = distinct_rows(patch_features(weights, tokens, [True, True, False]), "3d")
    assert rows.tolist() == [[2, 3], [2.5, 3.5]]
    assert index.tolist() == [0, 1, -1]


def test_expanding_distinct_rows_gives_every_valid_patch_its_features() -> None:
    weights = pooling_weights(4, 4, 8)
    tokens, valid = torch.randn(16, 5), torch.rand(64) < 0.6
    features = ModalityFeatures(tokens, weights)
    record = PatchFeatures({"3d": features, "rgb": features}, valid, (8, 8), "x")
    rows, index = distinct_rows(record, "rgb")
    assert rows.shape[0] <= 16
    torch.testing.assert_close(rows[index[valid]], (weights @ tokens)[valid])
    assert bool((index[~valid] == -1).all())
