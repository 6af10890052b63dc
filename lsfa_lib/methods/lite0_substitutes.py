"""EfficientNet-Lite0, which is installed, where anomalib's models start from downloaded weights.

CS-Flow reads EfficientNet-B5, Dinomaly DINOv2, and EfficientAD a teacher distilled from a
WideResNet on ImageNet. With the demo's image encoder, stages of Lite0 take their places; a fixed
matrix with orthonormal rows or columns gives each the number of channels that the model expects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.functional import center_crop

from lsfa_lib.features.image import LITE0_MEAN, LITE0_STD, local_features
from lsfa_lib.methods.lite0 import Images, Stages

DISTILLATION_STEPS, RATE = 60, 1e-3
MODELS = "anomalib.models.image"


def with_lite0(name: str) -> AbstractContextManager[Any]:
    """A block in which anomalib's model of this name is built and trained on Lite0.

    anomalib has no argument for it, so its class for the encoder is exchanged.
    """
    if name == "Csflow":
        return patch(f"{MODELS}.csflow.torch_model.CsFlowMultiScaleFeatureExtractor", Pyramid)
    if name == "Dinomaly":
        return patch(f"{MODELS}.dinomaly.torch_model.TimmFeatureExtractor", Tokens)
    if name == "EfficientAd":
        return patch.multiple(
            f"{MODELS}.efficient_ad.lightning_model.EfficientAd",
            prepare_pretrained_model=distil,
            prepare_imagenette_data=use_crops,
        )
    return nullcontext()


class Pyramid(Stages):
    """CS-Flow's features: the last stage, of the image at several scales."""

    def __init__(self, n_scales: int, input_size: tuple[int, int]) -> None:
        super().__init__([4], 304)
        self.sizes = [(input_size[0] >> k, input_size[1] >> k) for k in range(n_scales)]

    def forward(self, images: Images) -> list[Tensor]:
        """A map for each scale."""
        return [self.maps(F.interpolate(images, size))[0] for size in self.sizes]


class Tokens(Stages):
    """Dinomaly's features: four stages on one grid in place of groups of a ViT's blocks."""

    patch_size, num_register_tokens = 16, 0

    def __init__(self, layers: list[str], **_: Any) -> None:
        super().__init__([1, 2, 3, 4], 384)
        self.layers = layers

    def forward(self, images: Images) -> dict[str, Float[Tensor, "B T D"]]:
        """Normalised tokens by layer, behind their mean in place of the class token."""
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        tokens = []
        for own in self.maps(images):
            one = F.interpolate(own, grid, mode="bilinear", antialias=True).flatten(2).mT
            one = F.layer_norm(one, one.shape[2:])
            tokens.append(torch.cat([one.mean(1, keepdim=True), one], dim=1))
        share = len(tokens) / len(self.layers)
        return {layer: tokens[int(i * share)] for i, layer in enumerate(self.layers)}


def distil(model: Any) -> None:
    """Trains EfficientAD's teacher to regress features of Lite0 on photographs.

    The mean squared error of EfficientAD, sec. 3.1, to features that are standardised within each
    image instead of over the data set, with far fewer steps and photographs.
    """
    teacher = model.model.teacher.requires_grad_(True)
    stages = Stages([1, 2], model.model.teacher_out_channels // 2).to(model.device)
    photographs, size = (
        crops((160, 160)),
        list(teacher(torch.zeros(1, 3, 160, 160, device=model.device)).shape[2:]),
    )
    optimiser = torch.optim.Adam(teacher.parameters(), lr=RATE)
    mean, std = (
        torch.tensor(v, device=model.device)[:, None, None] for v in (LITE0_MEAN, LITE0_STD)
    )
    for _ in range(DISTILLATION_STEPS):
        image = next(photographs)[0].to(model.device)
        # The teacher pads nothing: its map is the middle of Lite0's.
        wanted = center_crop(local_features(stages.maps((image - mean) / std)), size)
        wanted = F.instance_norm(wanted)
        optimiser.zero_grad()
        F.mse_loss(teacher(image), wanted).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    teacher.requires_grad_(False)


def use_crops(model: Any, image_size: tuple[int, int]) -> None:
    """Gives EfficientAD crops of photographs instead of ImageNette, for its penalty."""
    model.imagenet_iterator = crops(image_size)


def crops(size: Sequence[int]) -> Iterator[tuple[Float[Tensor, "1 3 h w"], None]]:
    """Random crops of the two photographs that scikit-learn brings, colours from 0 to 1."""
    photographs = [torch.tensor(p).permute(2, 0, 1) / 255 for p in load_sample_images().images]
    height, width = size
    while True:
        own = photographs[int(torch.randint(len(photographs), ()))]
        top = int(torch.randint(max(own.shape[1] - height, 0) + 1, ()))
        left = int(torch.randint(max(own.shape[2] - width, 0) + 1, ()))
        cut = own[None, :, top : top + height, left : left + width]
        yield F.interpolate(cut, (height, width), mode="bilinear"), None
