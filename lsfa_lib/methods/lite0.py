"""EfficientNet-Lite0 for anomalib's models: by its name in timm, and as frozen stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lsfa_lib.config import Config
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.image import LITE0, lite0_file, load_by_order

LAYERS = ["blocks.1", "blocks.2", "blocks.4"]
"""Strides 4, 8 and 16, like layer1 to layer3 of a ResNet."""
CHANNELS = (16, 24, 40, 112, 320)
"""Of Lite0's stages, at strides 2, 4, 8, 16 and 32."""
Images = Float[Tensor, "B 3 H W"]


def backbone(config: Config) -> dict[str, Any]:
    """The demo's backbone if the config uses it, else anomalib's default."""
    if config.image_encoder.model != LITE0:
        return {}
    if not timm.is_model(lsfa_efficientnet_lite0.__name__):
        timm.models.register_model(lsfa_efficientnet_lite0)
    return {"backbone": lsfa_efficientnet_lite0.__name__, "layers": list(LAYERS)}


def lsfa_efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> Any:
    """EfficientNet-Lite0 for timm.create_model, with the weights from the installed package."""
    own = {name: value for name, value in kwargs.items() if not name.startswith("pretrained_cfg")}
    model = timm.create_model("tf_efficientnet_lite0", **own)
    if pretrained:
        complete = timm.create_model("tf_efficientnet_lite0")
        load_by_order(complete, lite0_file())
        weights = complete.state_dict()
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model


class Stages(nn.Module):
    """Feature maps of some stages with `width` channels each, frozen."""

    def __init__(self, stages: Sequence[int], width: int) -> None:
        super().__init__()
        self.stages = list(stages)
        self.backbone: Any = lsfa_efficientnet_lite0(pretrained=True)
        with seeded():
            for stage in stages:
                matrix = nn.init.orthogonal_(torch.empty(width, CHANNELS[stage]))
                self.register_buffer(f"matrix_{stage}", matrix[:, :, None, None])
        self.requires_grad_(False).train()

    def train(self, mode: bool = True) -> Stages:
        """Eval mode, always: batch norms keep the statistics of ImageNet."""
        return super().train(False)

    def maps(self, images: Images) -> list[Float[Tensor, "B C _ _"]]:
        """A map for each stage, at its own size."""
        found = self.backbone.forward_intermediates(
            images, indices=self.stages, stop_early=True, intermediates_only=True
        )
        matrices = [self.get_buffer(f"matrix_{stage}") for stage in self.stages]
        return [F.conv2d(own, matrix) for own, matrix in zip(found, matrices, strict=True)]
