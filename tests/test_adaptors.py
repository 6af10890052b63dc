"""Adaptors: rows of distinct patches give what all patches would, and come back exactly."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsfa_lib.adaptation.adaptors import (
    Adaptor,
    Adaptors,
    EncoderLayer,
    ScanRows,
    adapt,
    attention_heads,
    disagreement,
    load_adaptors,
    new_adaptors,
    sampled,
    save_adaptors,
    scan_rows,
)
from lsfa_lib.config import OURS, AdaptorConfig
from lsfa_lib.features.extract import distinct_rows, pooling_weights
from lsfa_lib.features.geometry import spread
from lsfa_lib.records import MODALITIES, ModalityFeatures, PatchFeatures
from lsfa_lib.storage.files import InputError

CONFIG = replace(OURS.adaptor, projection=6, mlp_ratio=2.0)
CPU = torch.device("cpu")


def features(seed: int = 0, side: int = 4, dims: tuple[int, int] = (10, 24)) -> PatchFeatures:
    """Image tokens at half the grid's resolution, point tokens for each valid patch."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(side * side, generator=generator) < 0.6
    image = pooling_weights(side // 2, side // 2, side)
    points = torch.eye(side * side)[:, valid].to_sparse_csr()
    return PatchFeatures(
        {
            "3d": ModalityFeatures(
                torch.randn(int(valid.sum()), dims[0], generator=generator), points
            ),
            "rgb": ModalityFeatures(
                torch.randn((side // 2) ** 2, dims[1], generator=generator), image
            ),
        },
        valid,
        (side, side),
        f"part/train/good/{seed:03d}",
    )


def expanded(scan: PatchFeatures) -> dict[str, Tensor]:
    """Feature rows of all patches."""
    return {m: spread(f.weights, f.tokens) for m, f in scan.by_modality.items()}


def layer(dim: int, heads: int = 2) -> EncoderLayer:
    torch.manual_seed(dim)
    return EncoderLayer(dim, heads, 2.0)


def test_encoder_layer_is_torchs_pre_norm_layer() -> None:
    own = layer(16)
    theirs = nn.TransformerEncoderLayer(
        16, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": own.qkv.weight,
            "self_attn.in_proj_bias": own.qkv.bias,
            "self_attn.out_proj.weight": own.out.weight,
            "self_attn.out_proj.bias": own.out.bias,
            "linear1.weight": own.mlp[0].weight,
            "linear1.bias": own.mlp[0].bias,
            "linear2.weight": own.mlp[2].weight,
            "linear2.bias": own.mlp[2].bias,
            "norm1.weight": own.norm_1.weight,
            "norm1.bias": own.norm_1.bias,
            "norm2.weight": own.norm_2.weight,
            "norm2.bias": own.norm_2.bias,
        }
    )
    rows = torch.randn(9, 16)
    torch.testing.assert_close(
        own(rows, torch.ones(9)), theirs(rows[None])[0], rtol=1e-5, atol=1e-5
    )


def test_a_row_with_copies_equals_its_copies() -> None:
    own, rows = layer(16), torch.randn(5, 16)
    copies = torch.tensor([4.0, 1.0, 3.0, 2.0, 4.0])
    index = torch.repeat_interleave(torch.arange(5), copies.long())
    all_rows = own(rows[index], torch.ones(len(index)))
    torch.testing.assert_close(own(rows, copies)[index], all_rows, rtol=1e-5, atol=1e-5)
    # Without the weights the result is another one: the test would see them missing.
    assert not torch.allclose(own(rows, torch.ones(5))[index], all_rows, atol=1e-3)


def test_linear_is_a_1x1_convolution_and_both_names_give_it() -> None:
    scan = ScanRows(torch.randn(11, 7), torch.arange(11), torch.ones(11))
    found = []
    for structure in ("linear", "conv_1x1"):
        torch.manual_seed(0)
        adaptor = Adaptor(7, replace(CONFIG, structure=structure))
        found.append(adaptor(scan))
    assert torch.equal(*found)
    pointwise = adaptor.layers[0].map
    convolution = nn.Conv1d(7, 7, 1)
    convolution.load_state_dict({"weight": pointwise.weight[:, :, None], "bias": pointwise.bias})
    expected = scan.rows + convolution(scan.rows.T[None])[0].T
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize(
    ("dim", "most", "expected"),
    [(768, 12, 12), (1152, 12, 12), (33, 12, 3), (152, 12, 8), (7, 12, 1)],
)
def test_heads_divide_the_width(dim: int, most: int, expected: int) -> None:
    assert attention_heads(dim, most) == expected


@pytest.mark.parametrize(
    ("structure", "layers"),
    [("encoder_1", 1), ("encoder_2", 2), ("linear", 1), ("conv_1x1", 1), ("none", 0)],
)
def test_structures(structure: str, layers: int) -> None:
    adaptor = Adaptor(16, replace(CONFIG, structure=structure))
    assert len(adaptor.layers) == layers
    scan = ScanRows(torch.randn(6, 16), torch.arange(6), torch.ones(6))
    assert adaptor(scan).shape == (6, 16)
    assert torch.equal(adaptor(scan), scan.rows) == (structure == "none")
    if structure == "encoder_1":
        # Pre-norm layer: 12 D^2 for a ratio of 4, 8 D^2 for 2, and biases and norms.
        assert sum(p.numel() for p in adaptor.layers.parameters()) == 8 * 16**2 + 11 * 16


@pytest.mark.parametrize("attend", ["valid", "all"])
def test_scan_rows_hold_every_patch(attend: str) -> None:
    scan = features()
    found = scan_rows(scan, replace(CONFIG, attend=attend))
    everywhere = expanded(scan)
    for m in MODALITIES:
        torch.testing.assert_close(found[m].rows[found[m].index], everywhere[m][scan.valid])
        taking_part = scan.valid.sum() if attend == "valid" else len(scan.valid)
        assert found[m].copies.sum() == taking_part
        assert found[m].counts.sum() == scan.valid.sum()


@pytest.mark.parametrize("attend", ["valid", "all"])
def test_adaptation_equals_that_of_all_patches(attend: str) -> None:
    scan = features(3)
    adaptors = new_adaptors([scan], replace(CONFIG, attend=attend, standardise=False), 0)
    adapted = expanded(adapt(adaptors, scan))
    for m in MODALITIES:
        rows = expanded(scan)[m]
        rows = rows if attend == "all" else rows[scan.valid]
        whole = adaptors.by_modality[m](
            ScanRows(rows, torch.arange(len(rows)), torch.ones(len(rows)))
        )
        whole = whole[scan.valid] if attend == "all" else whole
        torch.testing.assert_close(adapted[m][scan.valid], whole, rtol=1e-5, atol=1e-5)
        assert not adapted[m][~scan.valid].any()


def test_adapted_features_go_on_as_distinct_rows() -> None:
    scan = features(5, side=8)
    adapted = adapt(new_adaptors([scan], CONFIG, 0), scan)
    rows, index = distinct_rows(adapted, "rgb")
    before, _ = distinct_rows(scan, "rgb")
    assert len(rows) == len(before) < scan.valid.sum()
    assert bool((index[scan.valid] >= 0).all()) and bool((index[~scan.valid] == -1).all())


def test_standardised_features_keep_the_order_of_distances() -> None:
    scans = [features(i) for i in range(3)]
    adaptors = new_adaptors(scans, replace(CONFIG, structure="none"), 0)
    for m in MODALITIES:
        raw = torch.cat([distinct_rows(scan, m)[0] for scan in scans])
        rows = torch.cat([distinct_rows(adapt(adaptors, scan), m)[0] for scan in scans])
        torch.testing.assert_close(rows.mean(0), torch.zeros(rows.shape[1]), atol=1e-5, rtol=0)
        assert float(rows.var(0).mean()) == pytest.approx(1.0, rel=1e-4)
        ratio = torch.cdist(raw, raw)[0, 1:] / torch.cdist(rows, rows)[0, 1:]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)


def test_new_adaptors_follow_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = new_adaptors([features()], CONFIG, 4).state_dict()
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    again, other = (new_adaptors([features()], CONFIG, seed).state_dict() for seed in (4, 5))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's draws go on as before


def test_sampled_patches_keep_their_rows() -> None:
    scan = scan_rows(features(1), CONFIG)["rgb"]
    chosen = torch.tensor([0, 2, 5])
    part = sampled(scan, chosen)
    torch.testing.assert_close(part.rows[part.index], scan.rows[scan.index[chosen]])
    assert part.copies.sum() == 3 and torch.equal(part.copies, part.counts)


def test_disagreement_is_one_minus_the_cosine_of_projections() -> None:
    scan = features(2)
    adaptors = new_adaptors([scan], CONFIG, 0)
    found = disagreement(adaptors, adapt(adaptors, scan))
    adapted = expanded(adapt(adaptors, scan))
    sides = [
        F.linear(adapted[m][scan.valid], head.weight, head.bias)
        for m, head in ((m, adaptors.by_modality[m].head) for m in MODALITIES)
    ]
    for p, value in enumerate(found):
        a, b = sides[0][p].detach(), sides[1][p].detach()
        cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        assert float(value) == pytest.approx(1 - cosine, abs=1e-5)


def test_saved_adaptors_come_back_exactly(tmp_path: Path) -> None:
    scan = features(7)
    adaptors = new_adaptors([scan], replace(CONFIG, structure="encoder_2"), 3)
    save_adaptors(adaptors, tmp_path / "a" / "adaptors.safetensors")
    again = load_adaptors(tmp_path / "a" / "adaptors.safetensors", CPU)
    assert again.config == adaptors.config and again.dims == adaptors.dims
    for name, tensor in adaptors.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    for m in MODALITIES:
        tokens = adapt(adaptors, scan).by_modality[m].tokens
        assert torch.equal(tokens, adapt(again, scan).by_modality[m].tokens)
    about = json.loads((tmp_path / "a" / "adaptors.json").read_text(encoding="utf-8"))
    assert about["adaptor"]["structure"] == "encoder_2"


def test_a_file_that_is_no_adaptor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "adaptors.safetensors"
    with pytest.raises(InputError, match=r"adaptors\.safetensors and its \.json"):
        load_adaptors(path, CPU)
    save_adaptors(new_adaptors([features()], CONFIG, 0), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="train and save them again"):
        load_adaptors(path, CPU)
    other = Adaptors({"3d": 3, "rgb": 24}, AdaptorConfig())
    save_adaptors(other, tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").replace(path)
    with pytest.raises(InputError, match="size mismatch"):
        load_adaptors(path, CPU)
