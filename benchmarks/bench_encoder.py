"""Group encoder of Point-MAE and image encoder, against the forms they are published in."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Row, device, measure
from lsfa_lib.config import configure
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.extract import load_image
from lsfa_lib.features.group_encoder import GroupEncoder
from lsfa_lib.features.image import load_image_encoder


def rows() -> list[Row]:
    """1024 groups of 128 points with statistics of the sample, and with fixed ones; an image."""
    generator = torch.Generator().manual_seed(0)
    neighbourhoods = (0.01 * torch.randn(1024, 128, 3, generator=generator)).to(device())
    with seeded():
        encoder = GroupEncoder(384).requires_grad_(False).to(device())
    encoder(neighbourhoods[:1], True)  # what libraries keep for themselves is not our memory
    config, image = configure("demo"), torch.rand(1, 3, 672, 672, generator=generator)
    folded = load_image(config, device())
    plain = load_image_encoder(config.image_encoder, config.colour_size, device())
    image = image.to(device())
    return [
        measure(
            "EfficientNet-Lite0, 672 px, batch norms folded into convolutions",
            lambda: folded(image)[0],
            {"as published": lambda: plain(image)[0]},
            target=">= 1.2x",
        )
    ] + [
        measure(
            f"Point-MAE group encoder, 1024 x 128, {name} statistics",
            lambda own=own: encoder(neighbourhoods, own),
            {"as published": lambda own=own: as_published(encoder, neighbourhoods, own)},
            target=">= 2.5x",
        )
        for name, own in (("sample", True), ("fixed", False))
    ]


def as_published(encoder: GroupEncoder, neighbourhoods: Tensor, own_statistics: bool) -> Tensor:
    """Every layer on every point, the group's maximum copied to each of them."""
    encoder.train(own_statistics)
    points = encoder.first_conv(neighbourhoods.transpose(1, 2))
    group = points.amax(dim=2, keepdim=True).expand_as(points)
    return encoder.second_conv(torch.cat([group, points], dim=1)).amax(dim=2)
