"""The recipes of anomalib's models, and our scans as the data that they are trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from lsfa_lib.config import Config
from lsfa_lib.features.image import LITE0, LITE0_MEAN, LITE0_STD
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.method import Good
from lsfa_lib.records import Sample


@dataclass(frozen=True)
class Recipe:
    """How to build and train one of anomalib's models."""

    name: str
    """Its class in anomalib.models."""
    epochs: int
    batch: int
    settings: Callable[[Config], dict[str, Any]] = lambda config: {}
    lite0_epochs: int = 0
    """Epochs with Lite0, for short runs on a CPU; 0: the same as `epochs`."""
    sized: bool = False
    """It asks its pre-processor for the size of the images."""
    unit_range: bool = False
    """Whether it expects colours from 0 to 1 instead of ImageNet-normalised ones."""
    multiple: int = 1
    """The side of its images is a multiple of this."""


def data_of(recipe: Recipe, good: Good) -> Any:
    """The good scans as a data module of Lightning, for training and for models that calibrate."""
    from anomalib.data import ImageBatch, ImageItem
    from lightning.pytorch import LightningDataModule
    from torch.utils.data import DataLoader

    def loader(scans: Sequence[LazyScan], shuffle: bool) -> Any:
        items: Any = [
            ImageItem(image=image_of(s.sample, recipe, good.config), gt_label=torch.tensor(0))
            for s in scans
        ]
        return DataLoader(items, recipe.batch, shuffle, collate_fn=ImageBatch.collate)

    class Scans(LightningDataModule):
        train_batch_size = eval_batch_size = recipe.batch

        def train_dataloader(self) -> Any:
            return loader(good.train, shuffle=True)

        def val_dataloader(self) -> Any:
            return loader(good.validation, shuffle=False)

    return Scans()


def image_of(sample: Sample, recipe: Recipe, config: Config) -> Float[Tensor, "3 S S"]:
    """The image, normalised as the network was trained and of a size that it accepts."""
    mean, std = _column(IMAGENET_DEFAULT_MEAN), _column(IMAGENET_DEFAULT_STD)
    image = sample.rgb
    if recipe.unit_range or config.image_encoder.model == LITE0:
        image = image * std.to(image) + mean.to(image)
    if not recipe.unit_range and config.image_encoder.model == LITE0:
        image = (image - _column(LITE0_MEAN).to(image)) / _column(LITE0_STD).to(image)
    side = -(-image.shape[1] // recipe.multiple) * recipe.multiple
    if side != image.shape[1]:
        image = F.interpolate(image[None], (side, side), mode="bilinear")[0]
    return image


def _column(values: tuple[float, ...]) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values)[:, None, None]
