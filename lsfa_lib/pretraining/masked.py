"""Point-MAE's objective (arXiv 2203.06604, sec. 3): from the visible groups, draw the masked ones.

A share of the groups is hidden. The encoder sees the others only; a shallow decoder gets their
tokens and, for each hidden group, a shared mask token with the group's position, and draws its
points. The loss is the Chamfer distance between drawn and true points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lsfa_lib.features.point_mae import Architecture, PointMAE, Transformer
from lsfa_lib.storage.files import InputError


@dataclass(frozen=True)
class GroupedCloud:
    """One cloud, or a batch of them with a leading axis, cut into groups; in the model's unit."""

    centres: Float[Tensor, "*B G 3"]
    neighbourhoods: Float[Tensor, "*B G K 3"]
    """Points of each group relative to its centre."""


class MaskedPointMAE(nn.Module):
    """The encoder and the decoder it is trained with; names as in the public checkpoint."""

    def __init__(self, encoder: PointMAE, decoder_depth: int = 2) -> None:
        super().__init__()
        a = encoder.architecture
        self.group_size = encoder.group_size
        self.MAE_encoder = encoder
        self.mask_token = nn.Parameter(torch.zeros(a.dim))
        self.decoder_pos_embed = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, a.dim))
        self.MAE_decoder = Transformer(Architecture(dim=a.dim, depth=decoder_depth, heads=a.heads))
        self.decoder_norm = nn.LayerNorm(a.dim)
        self.increase_dim = nn.Linear(a.dim, 3 * encoder.group_size)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, cloud: GroupedCloud, hidden: Bool[Tensor, "B G"]) -> Float[Tensor, "B H K 3"]:
        """Points of the hidden groups, as many in each cloud, relative to their centres."""
        batch, groups = hidden.shape
        encoder = self.MAE_encoder
        seen = (~hidden).nonzero(as_tuple=True)
        tokens = encoder.encoder.as_published(cloud.neighbourhoods[seen]).view(
            batch, -1, encoder.architecture.dim
        )
        position = encoder.pos_embed(cloud.centres[seen]).view_as(tokens)
        tokens = encoder.norm(_through(encoder.blocks, tokens, position))
        count = groups - tokens.shape[1]
        order = torch.cat(
            [cloud.centres[at].view(batch, -1, 3) for at in (seen, hidden.nonzero(as_tuple=True))],
            1,
        )
        everything = torch.cat([tokens, self.mask_token.expand(batch, count, -1)], dim=1)
        everything = _through(self.MAE_decoder, everything, self.decoder_pos_embed(order))
        drawn = self.increase_dim(self.decoder_norm(everything[:, -count:]))
        return drawn.view(batch, count, self.group_size, 3)

    def loss(self, cloud: GroupedCloud, hidden: Bool[Tensor, "B G"]) -> Float[Tensor, ""]:
        """Mean Chamfer distance of the hidden groups, in squares of each group's own radius.

        The published loss is in squares of the object's radius. Clouds here come at many spacings,
        and without this the coarse ones would be all that is learned.
        """
        true = cloud.neighbourhoods[hidden].view(hidden.shape[0], -1, self.group_size, 3)
        size = true.square().sum(-1).mean(-1, keepdim=True)[..., None].sqrt().clamp_min(1e-6)
        return chamfer((self(cloud, hidden) / size).flatten(0, 1), (true / size).flatten(0, 1))


def chamfer(a: Float[Tensor, "B K 3"], b: Float[Tensor, "B L 3"]) -> Float[Tensor, ""]:
    """Mean over a of the squared distance to the nearest of b, plus the same from b to a."""
    squared = (a[:, :, None] - b[:, None]).square().sum(-1)
    return squared.amin(2).mean() + squared.amin(1).mean()


def draw_hidden(
    batch: int, groups: int, share: float, generator: torch.Generator
) -> Bool[Tensor, "B G"]:
    """True for a random `share` of the groups, equally many in each cloud."""
    count = round(share * groups)
    if not 0 < count < groups:
        raise InputError(f"a share of {share} hides {count} of {groups} groups; choose another")
    order = torch.rand(batch, groups, generator=generator).argsort(dim=1)
    return order < count


def _through(
    transformer: Transformer, tokens: Float[Tensor, "B T D"], position: Float[Tensor, "B T D"]
) -> Float[Tensor, "B T D"]:
    """Through every block, the position added before each of them."""
    for block in transformer.blocks:
        tokens = block(tokens + position)
    return tokens
