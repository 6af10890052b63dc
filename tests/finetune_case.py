"""Narrow transformers of both modalities and scans to tune them on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from lsfa_lib.adaptation.finetune import Finetuned, finetune
from lsfa_lib.config import TINY, Config, FinetuneConfig
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.extract import Encoders, described_encoders
from lsfa_lib.features.image import ImageEncoder
from lsfa_lib.features.lazy_scan import read_sample
from lsfa_lib.features.point_mae import Architecture, PointMAE
from lsfa_lib.records import Modality, Sample

DIM, DEPTH = 48, 3
PREFIX: dict[Modality, str] = {"rgb": "backbone.blocks", "3d": "blocks.blocks"}
CONFIG = replace(
    TINY,
    device="cpu",
    cache="",
    image_encoder=replace(TINY.image_encoder, model="vit_tiny_patch16_224", stages=()),
    point_encoder=replace(TINY.point_encoder, model="point_mae", weights="random"),
    training=replace(TINY.training, steps=4, batch=2, learning_rate=1e-3),
)


def good_samples(demo_root: Path) -> list[Sample]:
    """Four training scans."""
    entries = read_split(demo_root, "biscuit", "train").entries[:4]
    return [read_sample(entry, CONFIG) for entry in entries]


def narrow_encoders() -> Encoders:
    """A ViT and a Point-MAE of three narrow blocks, at random."""
    with seeded(1):
        vit = timm.create_model(
            "vit_tiny_patch16_224",
            embed_dim=DIM,
            depth=DEPTH,
            num_heads=2,
            dynamic_img_size=True,
        )
        points = PointMAE(16, 8, architecture=Architecture(DIM, DEPTH, 2, (0, 2)))
    image = ImageEncoder(vit, (), (0.5,) * 3, (0.5,) * 3)
    backbones = {"3d": points.requires_grad_(False).eval(), "rgb": image}
    return described_encoders(backbones, CONFIG)


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """Names of the tensors that are not bitwise the same."""
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def tuned(
    samples: list[Sample],
    encoders: Encoders,
    config: Config = CONFIG,
    seed: int = 3,
    checkpoint: Path | None = None,
    **how: Any,
) -> Finetuned:
    """Backbones finetuned with these fields of FinetuneConfig."""
    chosen = FinetuneConfig(**{"method": "last_blocks", **how})
    return finetune(samples, encoders, replace(config, finetune=chosen), seed, checkpoint)
