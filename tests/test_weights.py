"""The registry of public weights: files put there, fetched, changed, and used by the encoders."""

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.config import ImageEncoderConfig, PointEncoderConfig, configure
from lsfa_lib.features import weights
from lsfa_lib.features.extract import load_encoders
from lsfa_lib.features.image import load_image_encoder
from lsfa_lib.features.point_mae import PointMAE
from lsfa_lib.features.weights import REGISTRY, check, folder, named, of_model, ready
from lsfa_lib.storage.files import InputError


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


DINO = "vit_small_patch8_224.dino"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights, and a network that is forbidden."""
    monkeypatch.setenv("LSFA_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("LSFA_OFFLINE", "1")
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a server of this machine gives as mirror."""
    home = tmp_path / "served"
    home.mkdir()
    handler = partial(Quiet, directory=str(home))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("LSFA_MIRROR", f"http://127.0.0.1:{server.server_address[1]}")
        yield home
        server.shutdown()


def dino(path: Path) -> dict[str, torch.Tensor]:
    """Weights of a small DINO, random here, in the file timm publishes them in."""
    torch.manual_seed(5)
    state: dict[str, torch.Tensor] = timm.create_model(DINO).state_dict()
    save_file(state, path)
    return state


def test_names_and_sizes_are_those_of_the_models() -> None:
    assert len({w.name for w in REGISTRY}) == len({w.remote.name for w in REGISTRY}) == 13
    for each in REGISTRY:
        assert named(each.name) == named(each.model) == of_model(each.model) == each
        assert (each.remote.url or each.remote.page).startswith("https://") and each.licence
        if each.model == "point_bert":
            continue
        if each.model == "point_mae":
            assert each.remote.digest == "sha256:" + PointEncoderConfig().sha256
            assert Path(PointEncoderConfig().weights).name == each.remote.name
            continue
        if each.model == "efficient_ad":
            continue  # an archive; its digest is anomalib's
        b5 = each.model == "torchvision/efficientnet_b5"
        model = torchvision.models.efficientnet_b5() if b5 else timm.create_model(each.model)
        state = model.state_dict()
        # Counters of batches are 8 bytes each; else float32.
        sizes = [t.numel() * 4 for t in state.values()]
        assert sum(sizes) == each.about_bytes
        assert b5 or timm.models.is_model_pretrained(each.model)
    assert of_model("resnet34") is None
    with pytest.raises(InputError, match="choose among dino_vitb8, "):
        named("dino")


def test_a_file_put_there_is_used_by_the_image_encoder(place: Path) -> None:
    state = dino(place / f"{DINO}.safetensors")
    encoder = load_image_encoder(ImageEncoderConfig(DINO), 32, torch.device("cpu"))
    own = encoder.backbone.state_dict()
    assert set(own) == set(state)
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())


def test_one_that_lacks_a_tensor_is_refused(place: Path) -> None:
    path = place / f"{DINO}.safetensors"
    state = dino(path)
    del state["norm.bias"]
    save_file(state, path)
    with pytest.raises(InputError, match=r"lacks 'norm\.bias'"):
        load_image_encoder(ImageEncoderConfig(DINO), 32, torch.device("cpu"))


def test_without_network_two_lines_say_what_to_do(place: Path) -> None:
    with pytest.raises(InputError, match="LSFA_OFFLINE forbids") as caught:
        load_image_encoder(ImageEncoderConfig(DINO), 32, torch.device("cpu"))
    *_, first, second = str(caught.value).splitlines()
    assert first == f"By hand: download {named('dino_vits8').remote.url}"
    assert second == f"and put it at {place / f'{DINO}.safetensors'}"
    with pytest.raises(InputError, match=r"forbids downloading the weights of 'resnet18'"):
        load_image_encoder(ImageEncoderConfig("resnet18", stages=(1,)), 96, torch.device("cpu"))


def test_a_change_of_a_file_whose_digest_nobody_tells_is_noticed(place: Path) -> None:
    vits, path = named("dino_vits8"), place / f"{DINO}.safetensors"
    path.write_bytes(b"first")
    sha = hashlib.sha256(b"first").hexdigest()
    assert ready(vits) == path
    assert check(vits) == sha
    path.write_bytes(b"other")
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=f"but was {sha} when it was first used"):
        ready(vits)
    path.write_bytes(b"first")
    assert ready(vits) == path
    (place / f"{DINO}.safetensors.json").write_text("{")
    assert check(vits) == sha


def test_point_mae_is_checked_against_its_published_digest(place: Path) -> None:
    (place / "pointmae_pretrain.pth").write_bytes(b"something")
    with pytest.raises(InputError, match=r"pretrain\.pth: its sha256 is .* expected 27ded932"):
        ready(named("point_mae"))


def test_a_folder_that_cannot_be_written_is_enough(place: Path) -> None:
    # Of a file with a published digest nothing needs to be written down.
    path = place / "known.bin"
    path.write_bytes(b"known")
    digest = "sha256:" + hashlib.sha256(b"known").hexdigest()
    known = named("point_mae")
    known = replace(known, remote=replace(known.remote, name="known.bin", digest=digest))
    (place / "known.bin.json").mkdir()  # cannot be written
    assert ready(known) == path


def test_fetched_by_the_command_and_by_a_run_of_the_encoder(
    place: Path, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSFA_OFFLINE", "0")
    dino(served / f"{DINO}.safetensors")
    said = CliRunner().invoke(app, ["weights", "fetch", "dino_vits8"])
    assert said.output.strip() == str(place / f"{DINO}.safetensors")
    assert (place / f"{DINO}.safetensors").read_bytes() == (
        served / f"{DINO}.safetensors"
    ).read_bytes()
    model = PointMAE(8, 4)
    torch.save({"base_model": model.state_dict()}, served / "pointmae_pretrain.pth")
    own = "sha256:" + hashlib.sha256((served / "pointmae_pretrain.pth").read_bytes()).hexdigest()
    points = named("point_mae")
    monkeypatch.setattr(
        weights, "REGISTRY", (replace(points, remote=replace(points.remote, digest=own)),)
    )
    config = configure("tiny")
    point_encoder = PointEncoderConfig(sha256="", groups=8, group_size=4)
    encoders = load_encoders(replace(config, point_encoder=point_encoder), torch.device("cpu"))
    points = encoders.by_modality["3d"]
    assert points is not None
    for name, tensor in points.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_commands_say_what_is_here(place: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["weights", "where"]).output.strip() == str(folder().absolute()) == str(place)
    listed = run(app, ["weights", "list"]).output.splitlines()
    assert [line.split()[0] for line in listed] == [each.name for each in REGISTRY]
    assert not any(" here " in line for line in listed)
    assert "holds none of them" in run(app, ["weights", "check"]).output
    (place / "pointmae_pretrain.pth").write_bytes(b"x")
    dino(place / f"{DINO}.safetensors")
    listed = run(app, ["weights", "list"]).output.splitlines()
    assert [line.split()[0] for line in listed if " here " in line] == ["dino_vits8", "point_mae"]
    checked = run(app, ["weights", "check"])
    assert "dino_vits8         sha256 " in checked.output
    assert isinstance(checked.exception, InputError) and "27ded932" in str(checked.exception)
    assert isinstance(run(app, ["weights", "check", "dino_vitb8"]).exception, InputError)


def test_weights_without_an_address_say_where_people_find_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSFA_WEIGHTS", str(tmp_path))
    bert = named("point_bert")
    with pytest.raises(InputError) as caught:
        ready(bert)
    first, *by_hand = str(caught.value).splitlines()
    assert first.endswith("has no download address;")
    assert by_hand == [
        "By hand: find Point-BERT.pth on https://github.com/lulutang0608/Point-BERT",
        f"and put it at {tmp_path / 'Point-BERT.pth'}",
    ]
    (tmp_path / "Point-BERT.pth").write_bytes(b"put there by hand")
    assert ready(bert) == tmp_path / "Point-BERT.pth"
