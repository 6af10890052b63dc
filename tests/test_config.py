"""Presets, what a user may change, and configs through JSON."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import lsfa_lib
from lsfa_lib.config import (
    DEMO,
    LOSSES,
    OURS,
    PRESETS,
    PUBLISHED,
    RELEASED,
    TINY,
    Config,
    DataConfig,
    LossWeights,
    config_hash,
    configure,
    from_dict,
    replaced,
    resolve_device,
    structured,
    with_losses,
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
    config = configure("demo", {"preprocess.image_size": image_size})
    assert config.preprocess.image_size == image_size
    assert config.grid * config.projection.patch_px == image_size


def test_hash_changes_with_any_field() -> None:
    bank = OURS.bank
    assert config_hash(bank) == config_hash(replace(bank))
    assert config_hash(bank) != config_hash(replace(bank, keep_ratio=0.11))
    assert config_hash(bank, 1) != config_hash(bank, 2)


@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        ("best", {}, r"preset 'best' does not exist; the nearest of published, .* is \w+"),
        ("demo", {"preprocess.image_size": 225}, "image size 225 is not a multiple .* of 4 px"),
        ("demo", {"bnak.keep_ratio": 1}, "there is no field bnak; the nearest is bank"),
        (
            "demo",
            {"training.temprature": 1},
            r"no field training\.temprature; the nearest is training\.temperature",
        ),
        ("demo", {"image_encoder.size": -1}, "size is -1, expected a number of pixels"),
        ("demo", {"bank": 3}, "bank is 3, expected its fields"),
        ("demo", {"only": "IFK"}, r"there is no loss 'IFK'; the nearest of .* is IFC"),
        ("demo", {"recipe": "publised"}, r"no recipe 'publised'; the nearest of .* is published"),
        ("demo", {"shots": "3"}, "shots is '3', expected a valid integer; write it without quotes"),
        ("demo", {"shots": 2.5}, r"shots is 2\.5, expected a valid integer"),
        ("demo", {"shots": True}, "shots is True, expected a valid integer"),
        ("demo", {"training.temperature": "hot"}, "temperature is 'hot', expected a valid number"),
        ("demo", {"bank.keep_ratio_rgb": "x"}, "keep_ratio_rgb is 'x', expected a valid number"),
        ("demo", {"training.betas": [0.9]}, r"training\.betas\S* is .*, expected"),
        ("demo", {"image_encoder.stages": [1.5]}, r"image_encoder\.stages\.0 is 1\.5, expected"),
        (
            "demo",
            {"detector.fusion": "men"},
            r"detector\.fusion is 'men', expected one of mean, sum, product; the nearest is mean",
        ),
        ("demo", {"bank.keep_ratio": 10}, r"bank\.keep_ratio is 10, expected above 0, at most 1"),
        (
            "demo",
            {"bank.keep_ratio_rgb": 0},
            r"bank\.keep_ratio_rgb is 0, expected above 0",
        ),
        ("demo", {"bank.max_rows": -1}, r"bank\.max_rows is -1, expected 0 for no limit, or more"),
        (
            "demo",
            {"detector.false_alarm_rate": 1},
            r"false_alarm_rate is 1, expected between 0 and 1",
        ),
        ("demo", {"detector.top_fraction": 2}, r"top_fraction is 2, expected above 0, at most 1"),
        ("demo", {"detector.surround": 0}, r"surround is 0, expected above 0, below 0\.2"),
        ("demo", {"detector.blur": 0.25}, r"detector\.blur is 0\.25, expected at least 0, below"),
        ("demo", {"crossmodal.blur": -1}, r"crossmodal\.blur is -1, expected at least 0, below"),
        ("demo", {"bank.memory_mb": 0}, r"bank\.memory_mb is 0, expected above 0"),
        ("demo", {"bank.projection_eps": 1.5}, r"bank\.projection_eps is 1\.5, expected 0 to 1"),
        ("demo", {"bank.whitening": -0.5}, r"bank\.whitening is -0\.5, expected 0 to 1"),
        (
            "demo",
            {"method": "lsfa_svm", "finetune.method": "lora", "training.weights.lc": 1.0},
            r"finetune\.method lora trains LSFA's backbones, not those of method lsfa_svm",
        ),
        (
            "demo",
            {"finetune.modalities": ["rbg"]},
            r"finetune\.modalities holds 'rbg', expected some of 3d, rgb; the nearest is rgb",
        ),
        (
            "published",
            {"training.patches_per_scan": 9},
            r"adaptor\.attend all needs training\.patches_per_scan 0",
        ),
    ],
)
def test_a_wrong_name_or_value_is_named_with_the_nearest_right_one(
    source: str, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        configure(source, fields)


def test_values_that_are_not_plain_are_taken_as_text_or_refused(tmp_path: Path) -> None:
    assert configure("demo", {"data.root": tmp_path}).data.root == str(tmp_path)
    with pytest.raises(InputError, match=r"shots is .*, expected a valid integer"):
        configure("demo", {"shots": {1, 2}})


def test_auto_takes_cuda_where_it_is() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda:9"])
def test_missing_cuda_is_said(name: str) -> None:
    with pytest.raises(
        InputError, match=f"device {name} was requested but torch sees none; use --device cpu or"
    ):
        resolve_device(name)


def test_only_devices_that_torch_sees_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    # The one stand-in of these tests: most machines they run on have no or one CUDA device.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    found = [resolve_device(name) for name in ("auto", "cuda", "cuda:1")]
    assert found == [torch.device("cuda"), torch.device("cuda"), torch.device("cuda:1")]
    assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(InputError, match=r"cuda:9 does not exist; torch sees cuda:0 to cuda:1"):
        resolve_device("cuda:9")
    with pytest.raises(InputError, match="device 'gpu' is not known; choose auto, cpu or cuda"):
        resolve_device("gpu")


def test_demo_needs_no_download() -> None:
    assert (DEMO.point_encoder.model, DEMO.point_encoder.weights) == ("point_mae_small", "package")
    assert DEMO.image_encoder.model == "efficientnet_lite0"
    package = Path(lsfa_lib.__file__).parent
    weights = list(package.rglob("*.safetensors"))
    assert [path.name for path in weights] == ["point_mae_small.safetensors"]
    assert weights[0].stat().st_size < 8_000_000


def test_configure_changes_what_is_asked_for_and_nothing_else() -> None:
    assert configure("demo") == configure() == DEMO
    fields = {
        "data.root": "scans",
        "device": "cpu",
        "preprocess.image_size": 96,
        "only": "IFC",
        "shots": 5,
    }
    expected = replace(
        with_losses(DEMO, "IFC"),
        data=DataConfig(root="scans"),
        device="cpu",
        preprocess=replace(DEMO.preprocess, image_size=96),
        shots=5,
    )
    given = dict(fields)
    assert configure("demo", fields) == expected
    assert fields == given
    changed = configure("demo", {"training.temperature": 1, "shots": 3})
    assert changed == replace(DEMO, shots=3, training=replace(DEMO.training, temperature=1.0))
    assert isinstance(changed.training.temperature, float)
    assert configure("demo", {"training.weights.la": 0.0}).training.weights.la == 0.0
    assert configure("demo", {"training.learning_rate": "1e-3"}).training.learning_rate == 1e-3
    assert configure("demo", {"image_encoder.stages": [1, 2]}).image_encoder.stages == (1, 2)


def test_sections_and_dotted_names_are_joined_and_left_alone() -> None:
    steps, rates = {"steps": 20, "weights": {"la": 0.0}}, {"training.weights.ga": 0.5}
    for fields in ({"training": steps} | rates, rates | {"training": steps}):
        found = configure("demo", fields).training
        assert (found.steps, found.weights.la, found.weights.ga) == (20, 0.0, 0.5)
    assert steps == {"steps": 20, "weights": {"la": 0.0}}
    later = configure("demo", {"training.steps": 3, "training": {"steps": 4}})
    assert later.training.steps == 4


def test_a_config_may_be_the_source() -> None:
    own = replaced(TINY, {"training.weights.gc": 0.25, "shots": 4})
    assert configure(own) == own
    assert configure(own, {"shots": 2}) == replace(own, shots=2)
    assert configure(own, {"only": "IFC"}).training.weights.gc == 0.25


@pytest.mark.parametrize("name", LOSSES)
def test_only_keeps_the_weights_of_the_named_losses(name: str) -> None:
    def weights(config: Config) -> dict[str, float]:
        return asdict(config.training.weights)

    assert not any(weights(DEMO).values())
    default, released = asdict(LossWeights()), weights(RELEASED)
    for preset, own in (("demo", default), ("tiny", default), ("released", released)):
        expected = {term: own[term] * (term in LOSSES[name]) for term in own}
        assert weights(configure(preset, {"only": name})) == expected


def test_a_file_replaces_the_preset_under_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text("preset: tiny\ndevice: cpu\nshots: 4\ndata:\n  root: there\n")
    found = replace(TINY, preset="small", device="cpu", shots=4, data=DataConfig(root="there"))
    assert configure(str(file)) == configure(file) == found
    assert configure(file, {"shots": 2}) == replace(found, shots=2)
    file.write_text("preset: tiny\nname: mine\n")
    assert configure(file) == replace(TINY, preset="mine")
    file.write_text("preset: tiny\n")
    assert configure(file) == TINY
    file.write_text("")
    assert configure(file) == OURS
    file.write_text("training:\n  learning_rate: 1e-3\n")
    assert configure(file).training.learning_rate == 1e-3


def test_a_changed_preset_may_not_keep_its_name(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text("preset: tiny\nshots: 4\n")
    with pytest.raises(
        InputError, match="changes fields of preset tiny under the name of a preset; add"
    ):
        configure(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"preset: tny\n", r"file\.yaml: preset 'tny' does not exist; the nearest of .* is tiny"),
        (b"shts: 4\n", r"file\.yaml: there is no field shts; the nearest is shots"),
        (b"shots: '4'\n", r"file\.yaml: shots is '4', expected a valid integer"),
        (b"- tiny\n", r"file\.yaml holds list, expected fields such as `preset:`"),
        (b"a: [", r"(?s)file\.yaml is not a readable YAML file .*; fix it"),
        (b"\xff\xfe\x00", r"file\.yaml is not a readable YAML file .*; fix it"),
        (None, r"file\.yaml is not a readable YAML file .*No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "file.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        configure(file)


@pytest.mark.parametrize(("old", "new"), [("excluded", True), ("kept", False)])
def test_a_field_of_an_earlier_version_is_read_where_stored_and_named_where_written(
    old: str, new: bool, tmp_path: Path
) -> None:
    wanted = replaced(TINY, {"training.exclude_same_scan": new})
    stored = json.loads(json.dumps(asdict(wanted)))
    del stored["training"]["exclude_same_scan"]
    stored["training"]["own_rows"] = old
    assert from_dict(stored) == wanted
    assert stored["training"]["own_rows"] == old  # the caller's values are left alone
    field = r"training\.exclude_same_scan"
    renamed = rf"training\.own_rows is now called {field}; write {field}: {str(new).lower()}"
    file = tmp_path / "old.yaml"
    file.write_text(f"preset: tiny\ntraining:\n  own_rows: {old}\n")
    with pytest.raises(InputError, match=rf"old\.yaml: {renamed}"):
        configure(file)
    with pytest.raises(InputError, match=renamed):
        configure("tiny", {"training.own_rows": old})
    file.write_text(f"preset: tiny\ntraining:\n  exclude_same_scan: {new}\n")
    assert configure(file).training == wanted.training


def test_any_dataclass_is_structured_by_its_own_types() -> None:
    assert structured(TINY.bank, {"keep_ratio": 1}) == replace(TINY.bank, keep_ratio=1.0)
    with pytest.raises(
        InputError, match="there is no field keep_ration; the nearest is keep_ratio"
    ):
        structured(TINY.bank, {"keep_ration": 1})


def test_a_recipe_keeps_data_and_backbones_of_the_preset() -> None:
    found = configure("demo", {"recipe": "published", "preprocess.image_size": 96})
    assert found.preset == "published-demo"
    assert found.data == DEMO.data
    # A published recipe sees the image at the size of the maps, ours a larger one.
    assert DEMO.image_encoder.size == 672
    assert found.image_encoder == replace(DEMO.image_encoder, size=0)
    # Ours are kept the way they were trained; the published weights follow the recipe.
    assert found.point_encoder == DEMO.point_encoder
    fields = {"point_encoder.model": "point_mae", "point_encoder.norm": "unit_sphere"}
    theirs = configure(configure("demo", fields), {"recipe": "published"})
    assert theirs.point_encoder.norm == PUBLISHED.point_encoder.norm
    released = configure("tiny", {"recipe": "released"})
    assert released.point_encoder.norm == "released"
    assert (found.training, found.bank, found.adaptor) == (
        PUBLISHED.training,
        PUBLISHED.bank,
        PUBLISHED.adaptor,
    )
    assert found.preprocess == replace(
        PUBLISHED.preprocess, image_size=96, plane_distance_m=DEMO.preprocess.plane_distance_m
    )
    assert released.training == RELEASED.training
    of_data = {"modalities": ["3d"], "preprocess.background_removal": "none"}
    kept = configure(configure("tiny", of_data), {"recipe": "published"})
    assert (kept.modalities, kept.preprocess.background_removal) == (("3d",), "none")
    # What is asked for by name comes after the recipe and the losses.
    both = {"recipe": "released", "only": "CLC", "training.weights.la": 0.5}
    weights = configure("tiny", both).training.weights
    assert asdict(weights) == {"la": 0.5, "ga": RELEASED.training.weights.ga, "lc": 0, "gc": 0}


def test_inside_the_checkout_there_is_one_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT / "notebooks")
    assert configure("demo").cache == str(CHECKOUT / "data" / "cache")
    assert Path(configure("demo").data.root) in (CHECKOUT / "data/demo", Path("data/demo"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "demo").mkdir(parents=True)
    assert configure("demo") == DEMO
