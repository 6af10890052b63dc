"""Presets, what a user may change, and configs through JSON."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import lsfa_lib
from lsfa_lib.config import (
    DEMO,
    OURS,
    PRESETS,
    PUBLISHED,
    RELEASED,
    TINY,
    DataConfig,
    chosen_config,
    config_hash,
    configure,
    from_dict,
    resolve_device,
    with_losses,
    with_recipe,
)
from lsfa_lib.storage.files import CHECKOUT, InputError


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_survive_json(preset: str) -> None:
    assert from_dict(json.loads(json.dumps(asdict(PRESETS[preset])))) == PRESETS[preset]


def test_recipes_are_kept_apart() -> None:
    assert PUBLISHED.preprocess.plane_distance_m == 0.05
    assert OURS.preprocess.plane_distance_m == 0.005
    assert (RELEASED.bank.keep_ratio_rgb, OURS.bank.keep_ratio_rgb) == (0.01, None)
    assert (RELEASED.bank.statistics, OURS.bank.statistics) == ("shared", "own")
    assert len({config_hash(config) for config in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize("image_size", [96, 224, 448])
def test_every_size_follows_from_one_field(image_size: int) -> None:
    config = configure("demo", image_size=image_size)
    assert config.preprocess.image_size == image_size
    assert config.grid * config.projection.patch_px == image_size


def test_hash_changes_with_any_field() -> None:
    bank = OURS.bank
    assert config_hash(bank) == config_hash(replace(bank))
    assert config_hash(bank) != config_hash(replace(bank, keep_ratio=0.11))
    assert config_hash(bank, 1) != config_hash(bank, 2)


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(InputError, match="preset 'best' does not exist; choose one of published"):
        configure("best")
    with pytest.raises(InputError, match="image size 225 is not a multiple of the patch of 4 px"):
        configure("demo", image_size=225)
    with pytest.raises(InputError, match="device 'gpu' is not known; choose auto, cpu or cuda"):
        resolve_device("gpu")
    with pytest.raises(InputError, match="there is no field bnak; the nearest is bank"):
        from_dict({"bnak": {}})


def test_auto_takes_cuda_where_it_is() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_cuda_is_said() -> None:
    with pytest.raises(InputError, match="torch sees none; use --device cpu or auto"):
        resolve_device("cuda")


def test_demo_needs_no_download() -> None:
    assert (DEMO.point_encoder.model, DEMO.point_encoder.weights) == ("point_mae_small", "package")
    assert DEMO.image_encoder.model == "efficientnet_lite0"
    package = Path(lsfa_lib.__file__).parent
    weights = list(package.rglob("*.safetensors"))
    assert [path.name for path in weights] == ["point_mae_small.safetensors"]
    assert weights[0].stat().st_size < 8_000_000


def test_chosen_config_changes_what_is_asked_for_and_nothing_else() -> None:
    assert chosen_config("demo") == DEMO
    asked = {"data_root": "scans", "device": "cpu", "image_size": 96, "part": "IFC", "shots": 5}
    expected = replace(
        with_losses(DEMO, "IFC"),
        data=DataConfig(root="scans"),
        device="cpu",
        preprocess=replace(DEMO.preprocess, image_size=96),
        shots=5,
    )
    assert chosen_config("demo", **asked) == expected
    with pytest.raises(InputError, match=r"there is no loss 'IFK'; the nearest of .* is IFC"):
        chosen_config("demo", part="IFK")
    with pytest.raises(InputError, match="image size 97 is not a multiple"):
        chosen_config("demo", image_size=97)


def test_a_file_takes_the_place_of_the_preset_under_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text("preset: tiny\ndevice: cpu\nshots: 4\ndata:\n  root: there\n")
    found = replace(TINY, preset="small", device="cpu", shots=4, data=DataConfig(root="there"))
    assert chosen_config(str(file)) == found
    assert chosen_config(str(file), shots=2) == replace(found, shots=2)
    file.write_text("preset: tiny\nname: mine\n")
    assert chosen_config(str(file)) == replace(TINY, preset="mine")
    file.write_text("preset: tiny\n")
    assert chosen_config(str(file)) == TINY


def test_a_changed_preset_may_not_keep_its_name(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text("preset: tiny\nshots: 4\n")
    with pytest.raises(
        InputError, match="changes fields of preset tiny under the name of a preset; add"
    ):
        chosen_config(str(file))


def test_fields_are_changed_by_their_full_names() -> None:
    changed = chosen_config("demo", fields={"training.temperature": 1, "shots": 3})
    expected = replace(DEMO, shots=3, training=replace(DEMO.training, temperature=1.0))
    assert changed == expected
    assert chosen_config("demo", fields={"training.weights.la": 0.0}).training.weights.la == 0.0
    with pytest.raises(
        InputError, match=r"no field training\.temprature; .* training\.temperature"
    ):
        chosen_config("demo", fields={"training.temprature": 1})
    with pytest.raises(InputError, match="bank is 3, wanted its fields"):
        chosen_config("demo", fields={"bank": 3})


def test_a_recipe_keeps_data_and_backbones_of_the_preset() -> None:
    found = chosen_config("demo", recipe="published", image_size=96)
    assert found.preset == "published-demo"
    assert (found.data, found.image_encoder) == (DEMO.data, DEMO.image_encoder)
    # Ours are kept the way they were trained; the published weights follow the recipe.
    assert found.point_encoder == DEMO.point_encoder
    fields = {"point_encoder.model": "point_mae", "point_encoder.norm": "unit_sphere"}
    theirs = with_recipe(chosen_config("demo", fields=fields), "published")
    assert theirs.point_encoder.norm == PUBLISHED.point_encoder.norm
    assert with_recipe(TINY, "released").point_encoder.norm == "released"
    assert (found.training, found.bank, found.adaptor) == (
        PUBLISHED.training,
        PUBLISHED.bank,
        PUBLISHED.adaptor,
    )
    assert found.preprocess == replace(
        PUBLISHED.preprocess, image_size=96, plane_distance_m=DEMO.preprocess.plane_distance_m
    )
    assert with_recipe(TINY, "released").training == RELEASED.training
    with pytest.raises(InputError, match=r"nearest of .* is published"):
        chosen_config("demo", recipe="publised")


def test_inside_the_checkout_there_is_one_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT / "notebooks")
    assert chosen_config("demo").cache == str(CHECKOUT / "data" / "cache")
    assert Path(chosen_config("demo").data.root) in (CHECKOUT / "data/demo", Path("data/demo"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "demo").mkdir(parents=True)
    assert chosen_config("demo") == DEMO
