"""Files of `lsfa weights` in place of what anomalib's models download; random weights here."""

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import efficientnet_b5

from lsfa_lib.config import Config, configure
from lsfa_lib.features import weights
from lsfa_lib.methods import METHODS, rgb_anomalib
from lsfa_lib.methods.public_weights import WEIGHTS, with_public_weights
from lsfa_lib.pipeline import run_category
from lsfa_lib.storage.files import InputError

anomalib = pytest.importorskip("anomalib")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of weights, whose files may be any."""
    monkeypatch.setenv("LSFA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("LSFA_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    free = tuple(replace(w, remote=replace(w.remote, digest="")) for w in weights.REGISTRY)
    monkeypatch.setattr(weights, "REGISTRY", free)
    torch.manual_seed(3)
    yield tmp_path


def test_every_model_of_anomalib_names_weights_and_they_name_it() -> None:
    users = {user for w in weights.REGISTRY for user in w.used_by.split(", ")}
    own = {name for name, method in METHODS.items() if method.needs == "anomalib"}
    assert users == own | {"image encoder", "point encoder"}
    for name in own:
        recipe = getattr(rgb_anomalib, name).keywords["recipe"]
        assert name in weights.named(WEIGHTS[recipe.name]).used_by.split(", ")


def test_a_model_of_timm_starts_from_the_file(place: Path) -> None:
    from anomalib.models.components import TimmFeatureExtractor

    wanted = timm.create_model("resnet18")
    save_file(wanted.state_dict(), place / "resnet18.a1_in1k.safetensors")
    with with_public_weights("Stfpm"):
        found = TimmFeatureExtractor("resnet18", layers=["layer1", "layer3"]).feature_extractor
    state = wanted.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in found.state_dict().items())
    assert {"layer3.1.conv2.weight"} < set(found.state_dict())
    assert timm.create_model.__module__ == "timm.models._factory"


def test_cs_flow_reads_the_file(place: Path) -> None:
    from anomalib.models.image.csflow.torch_model import CsFlowMultiScaleFeatureExtractor

    wanted = efficientnet_b5().state_dict()
    torch.save(wanted, place / "efficientnet_b5_lukemelas-1a07897c.pth")
    with with_public_weights("Csflow"):
        found = CsFlowMultiScaleFeatureExtractor(1, (64, 64)).feature_extractor
    own = {n.split("feature_extractor.")[-1]: t for n, t in found.state_dict().items()}
    shared = [name for name in own if name in wanted]
    assert len(shared) > 300 and all(torch.equal(own[name], wanted[name]) for name in shared)


def test_efficient_ad_reads_its_teacher_from_the_archive(place: Path) -> None:
    from anomalib.models import EfficientAd

    model = EfficientAd(pre_processor=False, post_processor=False, evaluator=False)
    state = {n: torch.randn_like(t) for n, t in model.model.teacher.state_dict().items()}
    torch.save(state, place / "teacher.pth")
    with zipfile.ZipFile(place / "efficientad_pretrained_weights.zip", "w") as archive:
        inside = "efficientad_pretrained_weights/pretrained_teacher_small.pth"
        archive.write(place / "teacher.pth", inside)
    with pytest.raises(InputError, match=r"datasets/imagenette does not exist and LSFA_OFFLINE"):
        with_public_weights("EfficientAd")
    (place / "datasets" / "imagenette").mkdir(parents=True)
    with with_public_weights("EfficientAd"):
        model.prepare_pretrained_model()
    found = model.model.teacher.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.slow
def test_stfpm_trains_with_the_file(place: Path, tiny: Config) -> None:
    save_file(timm.create_model("resnet18").state_dict(), place / "resnet18.a1_in1k.safetensors")
    fields = {"method": "stfpm", "shots": 2, "image_encoder.model": "vit_small_patch8_224"}
    run = run_category("seal", configure(tiny, fields), seed=0)
    assert all(bool(p.anomaly_map.isfinite().all()) for p in run.predictions["rgb"])


@pytest.mark.parametrize("name", ["padim", "stfpm", "cs_flow", "dinomaly", "efficient_ad"])
def test_missing_weights_are_reported_with_the_way_out(
    name: str, place: Path, tiny: Config
) -> None:
    config = configure(tiny, {"method": name, "shots": 2, "image_encoder.model": "vit_small"})
    with pytest.raises(InputError, match=r"does not exist and LSFA_OFFLINE forbids .*\n?By hand:"):
        run_category("seal", config, seed=0)
