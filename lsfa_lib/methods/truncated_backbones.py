"""Truncated backbones (CFM's variants M, S and T): features from one pass of the complete ones.

The complete backbone runs once and stores in the cache every output that a truncation needs; each
truncation selects its columns. `deployed` is the config of the truncated backbone itself, which
returns the same features; speed and memory are measured with it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lsfa_lib.config import Config
from lsfa_lib.features.point_mae import ARCHITECTURES
from lsfa_lib.records import Modality, ModalityFeatures, PatchFeatures

TAPS = {
    12: {"full": (3, 7, 11), "M": (1, 4, 7), "S": (1, 2, 3), "T": (0,)},
    6: {"full": (1, 3, 5), "M": (0, 2, 3), "S": (0, 1), "T": (0,)},
}
"""By depth: CFM keeps the first 12, 8, 4 or 1 of 12 blocks; the small Point-MAE 6, 4, 2 or 1."""
BLOCKS: dict[str, tuple[int, ...]] = {"full": (11,), "M": (7,), "S": (3,), "T": (0,)}
"""Of a ViT: the block whose tokens are used."""
DROPPED = {"full": 0, "M": 1, "S": 2, "T": 3}
"""Of a convolutional model: by how many stages all stages are moved forward."""


def deployed(config: Config) -> Config:
    """A config that `complete` returned, with the truncated backbones only."""
    if not config.crossmodal.cut:
        return config
    return _with(config, _taps(config), _blocks(config))


def complete(config: Config) -> Config:
    """The config with backbones that return the features of every truncation in one pass."""
    if not config.crossmodal.cut:
        return config
    found = _with(config, _every(_tap_choices(config)), _every(BLOCKS))
    image = found.image_encoder
    # Each set of stages has its own grid, so no set contains another.
    earlier = sorted({max(0, stage - DROPPED[config.crossmodal.cut]) for stage in image.stages})
    return replace(found, image_encoder=replace(image, stages=tuple(earlier)))


def narrowed(features: PatchFeatures, config: Config) -> PatchFeatures:
    """The columns of the truncation, from features that the backbones of `config` returned."""
    if not config.crossmodal.cut:
        return features
    kept: dict[Modality, ModalityFeatures] = dict(features.by_modality)
    if config.point_encoder.taps:
        kept["3d"] = _columns(kept["3d"], config.point_encoder.taps, _taps(config))
    if config.image_encoder.blocks:
        kept["rgb"] = _columns(kept["rgb"], config.image_encoder.blocks, _blocks(config))
    return replace(features, by_modality=kept)


def _columns(
    features: ModalityFeatures, given: tuple[int, ...], needed: tuple[int, ...]
) -> ModalityFeatures:
    if given == needed:
        return features
    parts = features.tokens.chunk(len(given), dim=1)
    return replace(features, tokens=torch.cat([parts[given.index(n)] for n in needed], dim=1))


def _with(config: Config, taps: tuple[int, ...], blocks: tuple[int, ...]) -> Config:
    image, points = config.image_encoder, config.point_encoder
    if not image.stages:
        image = replace(image, blocks=blocks)
    if points.model != "fpfh":
        points = replace(points, taps=taps)
    return replace(config, image_encoder=image, point_encoder=points)


def _tap_choices(config: Config) -> dict[str, tuple[int, ...]]:
    model = config.point_encoder.model
    return dict.fromkeys(BLOCKS, ()) if model == "fpfh" else TAPS[ARCHITECTURES[model].depth]


def _taps(config: Config) -> tuple[int, ...]:
    return _tap_choices(config)[config.crossmodal.cut]


def _blocks(config: Config) -> tuple[int, ...]:
    return BLOCKS[config.crossmodal.cut]


def _every(choices: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted({number for chosen in choices.values() for number in chosen}))
