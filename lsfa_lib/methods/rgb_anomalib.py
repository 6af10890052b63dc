"""Colour-only methods from anomalib, an optional package: same scans, same splits, our metrics.

anomalib provides the networks and their training steps; the scans, prepared as for every method,
the threshold and all metrics are ours. `pip install 'lsfa_lib[anomalib]'`.

With the demo's backbone, so that a CPU trains them in minutes: CS-Flow has 64 hidden channels
(published 1024), EfficientAD's teacher 64 (384), EfficientAD trains for 3 epochs and Dinomaly,
with its small encoder, for 15 instead of 60.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lsfa_lib.config import Config, replaced
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.image import LITE0
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.anomalib_data import Recipe, data_of, image_of
from lsfa_lib.methods.lite0 import backbone
from lsfa_lib.methods.lite0_substitutes import with_lite0
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.methods.public_weights import IMAGENETTE, with_public_weights
from lsfa_lib.records import Mode, Prediction
from lsfa_lib.storage.files import InputError


def at_map_size(config: Config) -> Config:
    """The config with images of the size of the anomaly maps, as these models return them."""
    return replaced(config, {"image_encoder.size": 0})


def fit_model(good: Good, recipe: Recipe) -> Predict:
    """One of anomalib's models, trained on the good scans."""
    config = good.config
    start = with_lite0 if config.image_encoder.model == LITE0 else with_public_weights
    with _quiet(), seeded_everywhere(good.seed), start(recipe.name):
        model = _trained(recipe, good)
    size = (config.preprocess.image_size,) * 2

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        with torch.inference_mode():
            found = model(image_of(scan.sample, recipe, config)[None])
        anomaly = found.anomaly_map.reshape(1, 1, *found.anomaly_map.shape[-2:])
        if anomaly.shape[2:] != size:
            anomaly = F.interpolate(anomaly, size, mode="bilinear")
        return {"rgb": Prediction(anomaly[0, 0], float(found.pred_score))}

    return predict


def _trained(recipe: Recipe, good: Good) -> nn.Module:
    """The network, trained by anomalib."""
    if len(good.train) < 2:
        raise InputError(f"{recipe.name} was given 1 training scan; it needs at least 2")
    import anomalib.models
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch import Trainer
    from torchvision.transforms.v2 import Resize

    image = image_of(good.train[0].sample, recipe, good.config)
    off = dict.fromkeys(("post_processor", "evaluator", "visualizer"), False)
    resize = PreProcessor(Resize(image.shape[-2:])) if recipe.sized else False
    lite0 = good.config.image_encoder.model == LITE0
    epochs = recipe.lite0_epochs if lite0 and recipe.lite0_epochs else recipe.epochs
    try:
        settings = recipe.settings(good.config)
        model = getattr(anomalib.models, recipe.name)(**settings, **off, pre_processor=resize)
        Trainer(
            **{
                "max_epochs": epochs,
                "num_sanity_val_steps": 0,
                "devices": [image.device.index or 0] if image.is_cuda else 1,
                **model.trainer_arguments,
            },
            accelerator="gpu" if image.is_cuda else "cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(model, datamodule=data_of(recipe, good))
    except OSError as error:
        if recipe.name != "EfficientAd":
            raise
        raise InputError(
            f"the images that {recipe.name} trains with could not be downloaded ({error}); unpack "
            f"imagenette2.tgz to {IMAGENETTE.absolute()}"
        ) from error
    network: nn.Module = model.model.eval().to(image.device)
    return network


@contextmanager
def seeded_everywhere(seed: int) -> Iterator[None]:
    """As `seeded`, also for the generators of CUDA, which dropout draws from."""
    with torch.random.fork_rng(), seeded(seed):
        torch.cuda.manual_seed_all(seed)
        yield


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
    own = backbone(config)
    return own | ({"n_features": 100} if own else {})


padim = partial(fit_model, recipe=Recipe("Padim", 1, 8, _padim))
stfpm = partial(fit_model, recipe=Recipe("Stfpm", 40, 8, backbone))


def _cs_flow(config: Config) -> dict[str, Any]:
    """With Lite0 64 hidden channels: 1024 (275 M parameters) take 5 s a step on a CPU."""
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
