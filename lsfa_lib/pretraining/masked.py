"""Point-MAE's objective (arXiv 2203.06604, sec. 3): reconstruct masked groups from visible ones.

A share of the groups is hidden. The encoder sees the others only; a shallow decoder gets their
tokens and, for each hidden group, a shared mask token with the group's position, and predicts its
points. The loss is the Chamfer distance between predicted and true points.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from lsfa_lib.features.point_mae import Architecture, PointMAE, Transformer
from lsfa_lib.storage.files import InputError

Tokens = Float[Tensor, "B T D"]


class GroupedCloud(NamedTuple):
    """One cloud, or a batch with a leading axis, divided into groups; in the model's unit."""

    centres: Float[Tensor, "*B G 3"]
    neighbourhoods: Float[Tensor, "*B G K 3"]
    """Points of each group relative to its centre."""


class MaskedPointMAE(nn.Module):
    """The encoder and its decoder; names as in the public checkpoint."""

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
        """Predicted points of the hidden groups, H in each cloud, relative to their centres."""
        batch, groups = hidden.shape
        encoder = self.MAE_encoder
        seen = ~hidden
        tokens = encoder.encoder.as_published(cloud.neighbourhoods[seen])
        tokens = tokens.view(batch, -1, tokens.shape[-1])
        position = encoder.pos_embed(cloud.centres[seen]).view_as(tokens)
        tokens = encoder.norm(_through(encoder.blocks, tokens, position))
        count = groups - tokens.shape[1]
        centres = [cloud.centres[at].view(batch, -1, 3) for at in (seen, hidden)]
        position = self.decoder_pos_embed(torch.cat(centres, dim=1))
        everything = torch.cat([tokens, self.mask_token.expand(batch, count, -1)], dim=1)
        everything = _through(self.MAE_decoder, everything, position)
        points = self.increase_dim(self.decoder_norm(everything[:, -count:]))
        return points.view(batch, count, self.group_size, 3)

    def loss(self, cloud: GroupedCloud, hidden: Bool[Tensor, "B G"]) -> Float[Tensor, ""]:
        """Mean Chamfer distance of the hidden groups, in squares of each group's own radius.

        The published loss is in squares of the object's radius. Spacings of the clouds vary here,
        and without this only the coarse ones would be learned.
        """
        true = cloud.neighbourhoods[hidden].view(hidden.shape[0], -1, self.group_size, 3)
        size = true.square().sum(-1).mean(-1, keepdim=True)[..., None].sqrt().clamp_min(1e-6)
        return chamfer((self(cloud, hidden) / size).flatten(0, 1), (true / size).flatten(0, 1))


def chamfer(a: Float[Tensor, "B K 3"], b: Float[Tensor, "B L 3"]) -> Float[Tensor, ""]:
    """Mean over a of the squared distance to the nearest of b, plus the same from b to a."""
    squared = (a[:, :, None] - b[:, None]).square().sum(-1)
    return squared.amin(2).mean() + squared.amin(1).mean()


def random_mask(batch: int, groups: int, share: float, rng: Generator) -> Bool[Tensor, "B G"]:
    """True for a random `share` of the groups, equally many in each cloud."""
    count = round(share * groups)
    if not 0 < count < groups:
        raise InputError(f"a share of {share} hides {count} of {groups} groups; choose another")
    order = torch.rand(batch, groups, generator=rng).argsort(dim=1)
    return order < count


def _through(transformer: Transformer, tokens: Tokens, position: Tokens) -> Tokens:
    """The output of all blocks, with the position added before each of them."""
    for block in transformer.blocks:
        tokens = block(tokens + position)
    return tokens
