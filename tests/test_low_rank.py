"""Low-rank additions: their size, their rank, what merging keeps, and AdaLoRA's regulariser."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finetune_case import CONFIG, DEPTH, DIM, PREFIX, changed, good_samples, narrow_encoders, tuned
from torch import nn

from lsfa_lib.adaptation.finetune import tokens_of
from lsfa_lib.adaptation.trainable import (
    blocks_of,
    close_unused,
    low_rank_targets,
    merged,
    open_weights,
    orthogonality_gradient,
    regularise,
    trained_weights,
)
from lsfa_lib.config import FinetuneConfig
from lsfa_lib.features.extract import Encoders
from lsfa_lib.features.image import load_image_encoder
from lsfa_lib.records import MODALITIES, Sample

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
BLOCK_WIDTHS = ((DIM, 3 * DIM), (DIM, DIM), (DIM, 4 * DIM), (4 * DIM, DIM))
"""In and out of the linear maps of one transformer block."""


@pytest.fixture(scope="module")
def samples(demo_root: Path) -> list[Sample]:
    return good_samples(demo_root)


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return narrow_encoders()


def test_targets_of_residual_stages_are_their_pointwise_convolutions():
    image = replace(CONFIG.image_encoder, model="resnet18", weights="random", stages=(0, 2))
    encoder = load_image_encoder(image, 96, torch.device("cpu"))
    blocks = blocks_of(encoder, "rgb", replace(CONFIG, image_encoder=image))
    # Its 3 x 3 convolutions are no linear maps of a pixel.
    assert low_rank_targets(encoder, blocks, "lora") == ["backbone.layer2.0.downsample.0"]
    assert low_rank_targets(encoder, blocks, "adalora") == []


@pytest.mark.parametrize(("method", "rank"), [("lora", 1), ("lora", 5), ("adalora", 3)])
def test_additions_have_the_expected_size_and_are_zero_at_first(samples, encoders, method, rank):
    how = FinetuneConfig(method, rank=rank)
    for m in MODALITIES:
        backbone = copy.deepcopy(encoders).by_modality[m]
        before = tokens_of(m, backbone, samples[0])
        open_weights(backbone, m, replace(CONFIG, finetune=how), 10, 0)
        after = tokens_of(m, backbone, samples[0])
        assert torch.equal(before, after)
        close_unused(backbone, after)
        # LoRA: A (r, in) and B (out, r). AdaLoRA starts at 3/2 r and has r singular values.
        each = {"lora": (rank, 0), "adalora": (math.ceil(1.5 * rank), 1)}[method]
        expected = DEPTH * sum(each[0] * (a + b + each[1]) for a, b in BLOCK_WIDTHS)
        assert trained_weights(backbone) == expected


@pytest.mark.parametrize("method", ["lora", "adalora"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_merged_additions_give_the_features_they_gave_before(samples, encoders, method, modality):
    own = encoders.by_modality[modality]
    backbone = copy.deepcopy(encoders).by_modality[modality]
    config = replace(CONFIG, finetune=FinetuneConfig(method))
    tuner = open_weights(backbone, modality, config, 10, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        apart = tokens_of(modality, backbone, samples[0])
        plain = merged(backbone, tuner)
        together = tokens_of(modality, plain, samples[0])
        assert (apart - tokens_of(modality, own, samples[0])).abs().max() > 0.01
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    assert [type(module) for module in plain.modules()] == [type(m) for m in own.modules()]
    expected = {f"{PREFIX[modality]}.{k}.{n}.weight" for k in range(DEPTH) for n in LAYERS}
    assert changed(own, plain) == expected


def ranks(before: nn.Module, after: nn.Module, prefix: str) -> list[int]:
    """Rank of what was added to each linear map."""
    old, new = before.state_dict(), after.state_dict()
    names = [f"{prefix}.{k}.{layer}.weight" for k in range(DEPTH) for layer in LAYERS]
    return [int(torch.linalg.matrix_rank(new[n] - old[n], atol=1e-5)) for n in names]


def test_low_rank_methods_add_matrices_of_that_rank(samples, encoders):
    config = replace(CONFIG, training=replace(CONFIG.training, learning_rate=1e-2))
    for m in MODALITIES:
        found = tuned(samples, encoders, config, method="lora", rank=2, modalities=(m,))
        own, new = encoders.by_modality[m], found.encoders.by_modality[m]
        assert ranks(own, new, PREFIX[m]) == [2] * len(LAYERS) * DEPTH


def test_adalora_comes_down_to_its_rank_on_average(samples, encoders):
    training = replace(CONFIG.training, steps=10, learning_rate=1e-2)
    config = replace(CONFIG, training=training)
    found = tuned(samples, encoders, config, method="adalora", rank=2, modalities=("rgb",))
    left = ranks(encoders.by_modality["rgb"], found.encoders.by_modality["rgb"], PREFIX["rgb"])
    layers = len(LAYERS) * DEPTH
    assert found.trainable["rgb"] == DEPTH * sum(3 * (a + b + 1) for a, b in BLOCK_WIDTHS)
    assert sum(left) == 2 * layers and max(left) == 3 and min(left) < 2


@pytest.mark.parametrize(("a", "b"), [(3, 7), (7, 3)])
def test_orthogonality_gradient_is_that_of_the_norm(a, b):
    factor = torch.randn(a, b, generator=torch.Generator().manual_seed(a), dtype=torch.float64)
    factor.requires_grad_(True)
    for columns in (False, True):
        gram = factor.T @ factor if columns else factor @ factor.T
        norm = (gram - torch.eye(len(gram))).square().sum().sqrt()
        (expected,) = torch.autograd.grad(norm, factor)
        found = orthogonality_gradient(factor.detach(), columns)
        torch.testing.assert_close(found, expected)


def test_adalora_gradients_are_those_of_pefts_regularised_loss(samples, encoders):
    backbone = copy.deepcopy(encoders).by_modality["3d"]
    config = replace(CONFIG, finetune=FinetuneConfig("adalora", rank=2))
    tuner = open_weights(backbone, "3d", config, 10, 0)

    def gradients(parts: int, with_term: bool) -> dict[str, torch.Tensor]:
        backbone.zero_grad()
        named = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
        for _ in range(parts):
            loss = tokens_of("3d", backbone, samples[0]).square().mean() / parts
            if with_term:
                factors = {n: p for n, p in named.items() if "lora_E" not in n}
                grams = [p @ p.T if "lora_A" in n else p.T @ p for n, p in factors.items()]
                term = sum(torch.norm(g - torch.eye(len(g))) for g in grams) / len(grams)
                loss = loss + 0.5 * term / parts
            loss.backward()
        return {n: p.grad.clone() for n, p in named.items()}

    expected = gradients(2, with_term=True)
    regularise({"3d": tuner}, parts=2)
    found = gradients(2, with_term=False)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
