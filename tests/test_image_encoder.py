"""The image backbone: real weights recognise real photographs, tokens are timm's own."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from timm.layers import resample_abs_pos_embed

from lsfa_lib.config import ImageEncoderConfig, configure
from lsfa_lib.features.checkpoints import fingerprint, seeded
from lsfa_lib.features.extract import load_image
from lsfa_lib.features.image import lite0_file, load_by_order, load_image_encoder, local_features
from lsfa_lib.storage.files import InputError

CPU = torch.device("cpu")
LITE0 = ImageEncoderConfig("efficientnet_lite0", stages=(2, 3))
VIT = ImageEncoderConfig("vit_tiny_patch16_224", "random")
RESNET = ImageEncoderConfig("resnet18", "random", stages=(1, 2))


def pixels(name: str) -> torch.Tensor:
    """The middle of a photograph of scikit-learn's, (1, 3, 224, 224), 0 to 255."""
    image = Image.fromarray(load_sample_image(name))
    left = (image.width - image.height) // 2
    square = image.crop((left, 0, left + image.height, image.height)).resize((224, 224))
    return torch.tensor(np.asarray(square)).permute(2, 0, 1)[None].float()


def preprocessed(values: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return (values / 255 - mean) / std


def images(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def lite0():
    return load_image_encoder(LITE0, 224, CPU)


@pytest.mark.parametrize(("name", "kind"), [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_lite0_weights_loaded_by_order_recognise_photographs(lite0, name, kind):
    normalised = preprocessed(pixels(name)) * lite0.scale + lite0.shift
    torch.testing.assert_close(normalised, (pixels(name) - 127) / 128, atol=1e-5, rtol=0)
    best = int(lite0.backbone(normalised).argmax())
    described = timm.data.ImageNetInfo().index_to_description(best)
    assert kind in described


def test_folded_batch_norms_change_rounding_only(lite0):
    frozen = configure("demo")
    folded = load_image(frozen, CPU)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.backbone.blocks.modules())
    tokens, found = lite0(images(96))[0], folded(images(96))[0]
    assert float((tokens - found).abs().max()) < 1e-5 * float(tokens.abs().max())
    trained = load_image(configure("demo", {"finetune.method": "whole", "only": "both"}), CPU)
    assert torch.equal(trained(images(96))[0], tokens)


def test_lite0_tokens_are_the_chosen_stages_pooled(lite0):
    seen = {}
    hooks = [
        lite0.backbone.blocks[k].register_forward_hook(lambda m, i, out, k=k: seen.update({k: out}))
        for k in (2, 4)
    ]
    tokens, grid = lite0(images(224))
    for hook in hooks:
        hook.remove()
    # Reductions 8 and 16 of 224 px, with 40 and 112 channels.
    assert grid == (28, 28)
    assert tokens.shape == (2, 784, 152)
    expected = local_features([seen[2], seen[4]])
    assert torch.equal(tokens.view(2, 28, 28, 152).permute(0, 3, 1, 2), expected)


def test_load_by_order_refuses_another_model():
    with pytest.raises(InputError, match=r"57934424.pth: \d+ of 296 tensors have the shapes"):
        load_by_order(timm.create_model("tf_efficientnet_lite1"), lite0_file())


def test_local_features_equal_loops():
    fine = images(5)[:, :, :4].double()
    coarse = images(3, seed=1)[:, :2, :2].double()
    found = local_features([coarse, fine])

    def averaged(m: torch.Tensor) -> np.ndarray:
        out = np.zeros(m.shape)
        for r in range(m.shape[2]):
            for c in range(m.shape[3]):
                window = m[:, :, max(0, r - 1) : r + 2, max(0, c - 1) : c + 2]
                out[:, :, r, c] = window.mean((2, 3))
        return out

    def line(size: int, at: int, out: int) -> list[tuple[int, float]]:
        """Pixels and shares that output `at` takes, pixel centres aligned."""
        place = min(max((at + 0.5) * size / out - 0.5, 0), size - 1)
        low = int(place)
        return [(low, 1 - place + low), (min(low + 1, size - 1), place - low)]

    small, expected = averaged(coarse), np.zeros((2, 2, 4, 5))
    for r in range(4):
        for c in range(5):
            for i, a in line(2, r, 4):
                for j, b in line(3, c, 5):
                    expected[:, :, r, c] += a * b * small[:, :, i, j]
    np.testing.assert_allclose(found[:, :2], expected, atol=1e-12)
    np.testing.assert_allclose(found[:, 2:], averaged(fine), atol=1e-12)


@pytest.mark.parametrize("size", [224, 96, 160])
def test_vit_tokens_are_timms_at_every_image_size(size):
    encoder = load_image_encoder(VIT, size, CPU)
    tokens, grid = encoder(images(size))
    assert grid == (size // 16, size // 16)
    fixed = timm.create_model("vit_tiny_patch16_224", img_size=size).eval()
    state = encoder.backbone.state_dict()
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], list(grid))
    fixed.load_state_dict(state)
    # The mean and std of this model's training are 0.5; the input is ImageNet-normalised.
    std, mean = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
    unit = images(size) * std[:, None, None] + mean[:, None, None]
    expected = fixed.forward_features((unit - 0.5) / 0.5)[:, 1:]
    torch.testing.assert_close(tokens, expected, atol=2e-4, rtol=0)


def test_dino_gives_768_numbers_for_each_patch_of_8_px():
    encoder = load_image_encoder(ImageEncoderConfig(weights="random"), 64, CPU)
    assert torch.equal(encoder.scale, torch.ones(3, 1, 1))
    assert torch.equal(encoder.shift, torch.zeros(3, 1, 1))
    tokens, grid = encoder(images(64))
    assert grid == (8, 8)
    assert tokens.shape == (2, 64, 768)


@pytest.mark.parametrize("config", [LITE0, RESNET, VIT])
def test_defect_4_train_mode_changes_neither_features_nor_statistics(config):
    encoder = load_image_encoder(config, 96, CPU)
    before = fingerprint(encoder)
    still = encoder(images(96))[0]
    trained = encoder.train()(images(96))[0]
    assert torch.equal(still, trained)
    assert fingerprint(encoder) == before
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())


def test_tokens_of_an_image_do_not_depend_on_its_batch(lite0):
    both, one = lite0(images(96))[0], lite0(images(96)[1:])[0]
    torch.testing.assert_close(both[1:], one, atol=1e-4, rtol=1e-4)


def test_random_weights_are_the_same_every_time_and_leave_the_global_generator():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    prints = {fingerprint(load_image_encoder(RESNET, 96, CPU)) for _ in range(2)}
    assert len(prints) == 1
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file_are_loaded_strictly(tmp_path, suffix):
    with seeded(3):
        state = timm.create_model("resnet18").state_dict()
    path = tmp_path / f"resnet{suffix}"
    write = save_file if suffix == ".safetensors" else torch.save
    write(state, path)
    config = ImageEncoderConfig("resnet18", str(path), (1, 2))
    loaded = load_image_encoder(config, 96, CPU).backbone.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    del state["layer2.0.conv1.weight"]
    write(state, path)
    with pytest.raises(InputError, match=r"lacks 'layer2.0.conv1.weight'"):
        load_image_encoder(config, 96, CPU)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (ImageEncoderConfig("resnet18", "random"), 96, "'resnet18' has no patch tokens"),
        (ImageEncoderConfig("swin_tiny_patch4_window7_224", "random"), 224, "no patch tokens"),
        (ImageEncoderConfig("resnet18", "random", (1, 5)), 96, "stages has 5, expected 0 to 4 for"),
        (ImageEncoderConfig("resnet18", "random", (-1,)), 96, "has -1"),
        (VIT, 100, "preprocess.image_size 100 is not a multiple of 16, .* choose 96"),
        (replace(VIT, size=100), 100, "image_encoder.size 100 is not a multiple of 16"),
        (ImageEncoderConfig("wide_resnet_50", "random"), 96, "'wide_resnet_50' is unknown"),
        (ImageEncoderConfig("resnet18", "absent.pth", (1,)), 96, "absent.pth: no such weights"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_way_out(config, size, message):
    with pytest.raises(InputError, match=message):
        load_image_encoder(config, size, CPU)


def test_without_network_the_error_says_where_to_put_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = ImageEncoderConfig("resnet18", stages=(1, 2))
    with pytest.raises(InputError, match=r"could not be downloaded; .* image_encoder.weights"):
        load_image_encoder(config, 96, CPU)
