"""Files of `lsfa weights` where anomalib's models would download their pretrained weights."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zipfile import ZipFile

import timm
import torch
from torch import nn
from torchvision.models import efficientnet_b5

from lsfa_lib.features.checkpoints import load_strictly, read_tensors
from lsfa_lib.features.weights import named, ready
from lsfa_lib.methods.lite0_substitutes import MODELS
from lsfa_lib.storage.download import offline
from lsfa_lib.storage.files import InputError

WEIGHTS = {
    "Padim": "resnet18",
    "Stfpm": "resnet18",
    "Csflow": "efficientnet_b5",
    "Dinomaly": "dinov2_vitb14_reg4",
    "EfficientAd": "efficient_ad",
}
"""By class in anomalib.models: the name in `lsfa weights list`."""
IMAGENETTE = Path("datasets/imagenette")
"""Where anomalib's EfficientAD looks for these images; it downloads 1.6 GB if they are missing."""


def with_public_weights(name: str) -> AbstractContextManager[Any]:
    """A block in which anomalib's model of this name is built with, and trained on, public weights.

    Raises InputError if they are missing and cannot be downloaded.
    """
    path = ready(named(WEIGHTS[name]))
    if name == "Csflow":
        return patch(f"{MODELS}.csflow.torch_model.efficientnet_b5", partial(_b5, path))
    if name == "EfficientAd":
        _require_images()

        def load_teacher(model: Any) -> None:
            model.model.teacher.load_state_dict(_teacher(path))

        owner = f"{MODELS}.efficient_ad.lightning_model.EfficientAd"
        return patch(f"{owner}.prepare_pretrained_model", load_teacher)
    return patch("timm.create_model", partial(_from_file, timm.create_model, path))


def _b5(path: Path, **_: Any) -> nn.Module:
    model: nn.Module = efficientnet_b5()
    load_strictly(model, read_tensors(path), path)
    return model


def _from_file(create: Any, path: Path, name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """timm.create_model, with pretrained weights from `path`."""
    given = {"pretrained_cfg_overlay": {"file": str(path)}} if pretrained else {}
    return create(name, pretrained=pretrained, **kwargs | given)


def _teacher(archive: Path) -> dict[str, torch.Tensor]:
    """The small teacher in anomalib's archive, whose digest `ready` has checked."""
    with ZipFile(archive) as files:
        (name,) = (n for n in files.namelist() if n.endswith("pretrained_teacher_small.pth"))
        found: dict[str, torch.Tensor] = torch.load(io.BytesIO(files.read(name)), weights_only=True)
    return found


def _require_images() -> None:
    """Raises InputError if ImageNette is missing and may not be downloaded."""
    if offline() and not IMAGENETTE.is_dir():
        raise InputError(
            f"{IMAGENETTE} does not exist and LSFA_OFFLINE forbids network access; EfficientAD "
            "also trains with these images: unset LSFA_OFFLINE, or unpack imagenette2.tgz there"
        )
