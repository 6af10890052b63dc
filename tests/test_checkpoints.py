"""Weights files: the public layout is read, everything else is refused with a reason."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lsfa_lib.features.checkpoints import (
    fingerprint,
    load_point_mae,
    read_tensors,
    seeded,
    sha256_of,
)
from lsfa_lib.features.point_mae import Architecture, PointMAE
from lsfa_lib.storage.files import InputError

SMALL = Architecture(dim=48, depth=3, heads=2, taps=(0, 2))


def model(seed: int = 0) -> PointMAE:
    with seeded(seed):
        return PointMAE(8, 4, architecture=SMALL)


def public_layout(source: PointMAE) -> dict:
    """A checkpoint as Point-MAE's pretraining writes it, decoder and metrics included."""
    encoder = {f"module.MAE_encoder.{k}": v for k, v in source.state_dict().items()}
    decoder = {
        "module.mask_token": torch.zeros(1, 1, 48),
        "module.decoder_pos_embed.0.weight": torch.zeros(128, 3),
        "module.MAE_decoder.blocks.0.norm1.weight": torch.ones(48),
        "module.MAE_decoder.norm.weight": torch.full((48,), 7.0),
        "module.increase_dim.0.bias": torch.zeros(96),
    }
    return {
        "base_model": {**decoder, **encoder},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.001}]},
        "epoch": 300,
        "metrics": {"acc": np.float64(0.5)},
    }


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


def test_the_public_layout_is_loaded_whole_and_frozen(tmp_path):
    source, target = model(1), model(2)
    path = saved(public_layout(source), tmp_path / "pretrain.pth")
    loaded = load_point_mae(target, path, sha256_of(path))
    assert loaded is target
    assert same(target, source)
    assert not any(p.requires_grad for p in target.parameters())
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(target(points)[1], source(points)[1])


def test_metrics_pickled_by_an_old_numpy_do_not_stand_in_the_way(tmp_path):
    new = saved(public_layout(model(1)), tmp_path / "new.pth")
    old = tmp_path / "old.pth"
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as copy:
        for item in source.infolist():
            content = source.read(item)
            if item.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            copy.writestr(item.filename, content)
    assert same(load_point_mae(model(2), old), model(1))


def test_own_safetensors_need_no_prefix(tmp_path):
    path = tmp_path / "small.safetensors"
    save_file(model(1).state_dict(), path)
    assert same(load_point_mae(model(2), path), model(1))


@pytest.mark.parametrize(
    "name", ["norm.weight", "encoder.first_conv.1.running_mean", "blocks.blocks.2.attn.qkv.weight"]
)
def test_a_missing_or_misshapen_entry_is_named(tmp_path, name):
    content = public_layout(model(1))
    entry = content["base_model"].pop(f"module.MAE_encoder.{name}")
    path = saved(content, tmp_path / "part.pth")
    with pytest.raises(InputError, match=f"part.pth: lacks '{name}'"):
        load_point_mae(model(2), path)
    content["base_model"][f"module.MAE_encoder.{name}"] = entry[:-1]
    saved(content, path)
    with pytest.raises(InputError, match=f"part.pth: '{name}' has shape .* expected"):
        load_point_mae(model(2), path)


def test_more_blocks_than_the_model_has_are_refused(tmp_path):
    deeper = PointMAE(8, 4, architecture=Architecture(48, 4, 2, (0, 2)))
    path = saved(public_layout(deeper), tmp_path / "deep.pth")
    with pytest.raises(InputError, match=r"deep.pth: holds 'blocks.blocks.3"):
        load_point_mae(model(2), path)


def test_a_failed_load_leaves_the_model_as_it_was(tmp_path):
    content = public_layout(model(1))
    del content["base_model"]["module.MAE_encoder.norm.bias"]
    target = model(2)
    with pytest.raises(InputError):
        load_point_mae(target, saved(content, tmp_path / "part.pth"))
    assert same(target, model(2))


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_code_in_a_pickle_is_not_run(tmp_path):
    marker = tmp_path / "was_run"
    path = saved({"base_model": {"norm.weight": Evil(marker)}}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil.pth: .* not run"):
        load_point_mae(model(), path)
    assert not marker.exists()
    with pytest.raises(InputError, match=r"evil.pth: its sha256 is [0-9a-f]{64}, expected 00"):
        load_point_mae(model(), path, "0" * 64)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file would not have done anything: the test proves nothing"


@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tmp_path, layout, kept):
    path = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.pth")
    if layout == "safetensors":
        save_file(model(1).state_dict(), path)
    else:
        torch.save(public_layout(model(1)), path, _use_new_zipfile_serialization=layout == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=r"weights.*download it again"):
        load_point_mae(model(2), path)


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], {"base_model": 3}, {"norm.weight": [1.0]}]
)
def test_files_without_named_tensors_are_refused(tmp_path, content):
    path = saved(content, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth: .* without named tensors"):
        read_tensors(path)


def test_a_text_file_and_a_folder_and_nothing_are_refused(tmp_path):
    text = tmp_path / "notes.pth"
    text.write_text("<html>not found</html>")
    with pytest.raises(InputError, match=r"notes.pth"):
        read_tensors(text)
    for path in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(InputError, match=f"{path.name}: no such weights file"):
            load_point_mae(model(), path, "0" * 64)


def test_random_weights_are_the_same_every_time_and_leave_the_global_generator():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, second = load_point_mae(model(1), "random"), load_point_mae(model(2), "random")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(first, second)
    assert not same(first, model(1))


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_fingerprint_sees_every_change_and_nothing_else():
    def layer(**changes: object) -> torch.nn.Module:
        module = torch.nn.Module()
        for name, value in {"a": torch.arange(6.0), "b": torch.ones(2), **changes}.items():
            module.register_buffer(name, value)
        return module

    own = fingerprint(layer())
    assert len(own) == 16
    assert int(own, 16) >= 0
    assert fingerprint(layer()) == own
    assert fingerprint(layer(a=torch.arange(12.0)[::2] / 2)) == own
    bumped = torch.arange(6.0)
    bumped[3] = torch.nextafter(bumped[3], torch.tensor(9.0))
    others = [
        layer(a=bumped),
        layer(a=torch.arange(6.0).view(2, 3)),
        layer(a=torch.arange(6.0).double()),
        layer(a=torch.arange(6.0).bfloat16()),
        layer(a=torch.tensor(1.0)),
        layer(c=torch.ones(2)),
    ]
    assert len({own, *map(fingerprint, others)}) == len(others) + 1


def test_pickled_scalars_are_all_the_numpy_that_is_let_in(tmp_path):
    path = tmp_path / "array.pth"
    with path.open("wb") as file:
        pickle.dump({"a": np.zeros(3)}, file, protocol=2)
    with pytest.raises(InputError, match=r"array.pth"):
        read_tensors(path)


def test_point_berts_checkpoint_gives_its_student_alone(tmp_path: Path) -> None:
    architecture = Architecture(dim=48, depth=2, heads=2, taps=(1,), token_dim=32)
    student, teacher = (PointMAE(8, 4, architecture=architecture) for _ in range(2))
    torch.nn.init.normal_(student.cls_token)
    state = {f"module.transformer_q.{k}": v for k, v in student.state_dict().items()}
    state |= {f"module.transformer_k.{k}": v for k, v in teacher.state_dict().items()}
    state |= {"module.transformer_q.lm_head.weight": torch.ones(3), "module.dvae.x": torch.ones(1)}
    path = tmp_path / "Point-BERT.pth"
    torch.save({"base_model": state, "epoch": 3}, path)
    loaded = load_point_mae(PointMAE(8, 4, architecture=architecture), path)
    assert same(loaded, student)
    with pytest.raises(InputError, match=r"Point-BERT\.pth: .*give the weights of this model"):
        load_point_mae(PointMAE(8, 4), path)
