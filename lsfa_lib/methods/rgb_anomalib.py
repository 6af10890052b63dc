"""Colour-only methods from anomalib, an optional package: same scans, same splits, our metrics.

anomalib provides the networks and their training steps; the scans, prepared as for every method,
the threshold and all metrics are ours. `pip install 'lsfa_lib[anomalib]'`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from lsfa_lib.config import Config, replaced
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.image import LITE0, LITE0_MEAN, LITE0_STD
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.lite0_starts import backbone, with_lite0
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.records import Mode, Prediction, Sample
from lsfa_lib.storage.files import InputError


@dataclass(frozen=True)
class Recipe:
    """How to build and train one of anomalib's models."""

    name: str
    """Its class in anomalib.models."""
    epochs: int
    batch: int
    settings: Callable[[Config], dict[str, Any]] = lambda config: {}
    lite0_epochs: int = 0
    """Epochs with Lite0, which runs are small; 0: `epochs`."""
    sized: bool = False
    """It asks its pre-processor for the size of the images."""
    unit_range: bool = False
    """Whether it expects colours from 0 to 1 instead of ImageNet-normalised ones."""
    multiple: int = 1
    """The side of its images is a multiple of this."""


def at_map_size(config: Config) -> Config:
    """The config with images of the size of the anomaly maps, as these models return them."""
    return replaced(config, {"image_encoder.size": 0})


def fit_model(good: Good, recipe: Recipe) -> Predict:
    """One of anomalib's models, trained on the good scans."""
    config = good.config
    lite0 = config.image_encoder.model == LITE0
    with _quiet(), seeded(good.seed), with_lite0(recipe.name) if lite0 else nullcontext():
        model = _trained(recipe, good)
    size = (config.preprocess.image_size,) * 2

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        with torch.inference_mode():
            found = model(_image(scan.sample, recipe, config)[None])
        anomaly = found.anomaly_map.reshape(1, 1, *found.anomaly_map.shape[-2:])
        if anomaly.shape[2:] != size:
            anomaly = F.interpolate(anomaly, size, mode="bilinear")
        return {"rgb": Prediction(anomaly[0, 0], float(found.pred_score))}

    return predict


def _trained(recipe: Recipe, good: Good) -> nn.Module:
    """The network, trained by anomalib."""
    import anomalib.models
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch import Trainer
    from torchvision.transforms.v2 import Resize

    if len(good.train) < 2:
        raise InputError(f"{recipe.name} was given 1 training scan; it needs at least 2")
    image = _image(good.train[0].sample, recipe, good.config)
    off = dict.fromkeys(("post_processor", "evaluator", "visualizer"), False)
    resize = PreProcessor(Resize(image.shape[-2:])) if recipe.sized else False
    lite0 = good.config.image_encoder.model == LITE0
    epochs = recipe.lite0_epochs if lite0 and recipe.lite0_epochs else recipe.epochs
    try:
        settings = recipe.settings(good.config)
        model = getattr(anomalib.models, recipe.name)(**settings, **off, pre_processor=resize)
        Trainer(
            **{"max_epochs": epochs, "num_sanity_val_steps": 0, **model.trainer_arguments},
            accelerator="gpu" if image.is_cuda else "cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(model, datamodule=_data_of(recipe, good))
    except OSError as error:
        raise InputError(
            f"the pretrained weights or images of {recipe.name} could not be downloaded ({error}); "
            "run it once on a machine with network access and copy its torch and Hugging Face "
            "caches and ./datasets"
        ) from error
    network: nn.Module = model.model.eval().to(image.device)
    return network


def _data_of(recipe: Recipe, good: Good) -> Any:
    """The good scans as a data module of Lightning, for training and for models that calibrate."""
    from anomalib.data import ImageBatch, ImageItem
    from lightning.pytorch import LightningDataModule
    from torch.utils.data import DataLoader

    def loader(scans: Sequence[LazyScan], shuffle: bool) -> Any:
        items: Any = [
            ImageItem(image=_image(s.sample, recipe, good.config), gt_label=torch.tensor(0))
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


def _image(sample: Sample, recipe: Recipe, config: Config) -> Float[Tensor, "3 S S"]:
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Lightning's messages about hardware and loaders."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def _padim(config: Config) -> dict[str, Any]:
    return {**backbone(config), **({"n_features": 100} if backbone(config) else {})}


padim = partial(fit_model, recipe=Recipe("Padim", 1, 8, _padim))
stfpm = partial(fit_model, recipe=Recipe("Stfpm", 40, 8, backbone))


def _cs_flow(config: Config) -> dict[str, Any]:
    """Lite0's runs are on a CPU, where 1024 hidden channels (275 M parameters) take 5 s a step."""
    return {"cross_conv_hidden_channels": 64} if config.image_encoder.model == LITE0 else {}


def _teacher(config: Config) -> dict[str, Any]:
    """A step at 256 px takes 7 s on one core with the paper's 384 channels."""
    return {"teacher_out_channels": 64} if config.image_encoder.model == LITE0 else {}


def _dinomaly(config: Config) -> dict[str, Any]:
    return {"encoder_name": "small"} if config.image_encoder.model == LITE0 else {}


cs_flow = partial(fit_model, recipe=Recipe("Csflow", 60, 8, _cs_flow, sized=True, multiple=128))
dinomaly = partial(fit_model, recipe=Recipe("Dinomaly", 60, 8, _dinomaly, 15, multiple=14))
efficient_ad = partial(
    fit_model,
    recipe=Recipe("EfficientAd", 60, 1, _teacher, 3, sized=True, unit_range=True, multiple=256),
)
