"""Point-MAE's encoder (arXiv 2203.06604) as a frozen backbone: points -> features of groups."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lsfa_lib.features.geometry import nearest_points
from lsfa_lib.features.group_encoder import GroupEncoder
from lsfa_lib.features.sampling import farthest_points

Norm = Literal["sample_statistics", "running_statistics", "unit_sphere", "group_radius", "released"]


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network; the defaults are the published checkpoint's."""

    dim: int = 384
    depth: int = 12
    heads: int = 6
    taps: tuple[int, ...] = (3, 7, 11)
    """Blocks (from 0) whose outputs are the features."""
    drop_path: float = 0.1
    """Of the last block, rising linearly from 0; active in the `released` norm only."""
    stem: int = 128
    """Channels of the group encoder's first layer; the others have 2 and 4 times as many."""
    token_dim: int = 0
    """Point-BERT: width of the group encoder's tokens, which a linear layer maps to `dim` and a
    class token joins; 0: neither exists."""


PUBLISHED = Architecture()
POINT_BERT = Architecture(token_dim=256)
"""Point-BERT's (arXiv 2111.14819), trained to predict the codes of masked groups."""
SMALL = Architecture(dim=192, depth=6, heads=6, taps=(1, 3, 5), stem=48)
"""Of the weights in this package: 2.8 M parameters."""
ARCHITECTURES = {"point_mae": PUBLISHED, "point_bert": POINT_BERT, "point_mae_small": SMALL}
"""By `point_encoder.model`."""


class PointMAE(nn.Module):
    """Centres and features of the groups of one point cloud.

    `norm` says which statistics BatchNorm uses, in train and in eval mode alike:
    - `sample_statistics`: those of the cloud itself, over all its groups. The default.
    - `running_statistics`: the checkpoint's, on the points as given.
    - `unit_sphere`: the checkpoint's, on the cloud centred and scaled into the unit sphere, which
      is how the checkpoint was trained.
    - `group_radius`: as `unit_sphere`, and the groups scaled to a root mean square radius of 1, so
      that neither the size of the part nor the scanner's resolution matters. The small model's.
    - `released`: those of the cloud, and DropPath at test time, as in the public code, whose
      features are therefore random. Here they are drawn from the points themselves: the same cloud
      always gets the same features.

    At metric scale (neighbourhoods of a few millimetres) BatchNorm's eps of 1e-5 is not small
    compared with the variance of the coordinates, so `sample_statistics` do not hide the scale.
    """

    def __init__(
        self,
        groups: int = 1024,
        group_size: int = 128,
        norm: Norm = "sample_statistics",
        architecture: Architecture = PUBLISHED,
    ) -> None:
        super().__init__()
        self.groups, self.group_size, self.mode = groups, group_size, norm
        self.architecture = architecture
        dim = architecture.dim
        # Names of the parts are those of the public checkpoint.
        self.encoder = GroupEncoder(architecture.token_dim or dim, architecture.stem)
        if architecture.token_dim:
            self.reduce_dim = nn.Linear(architecture.token_dim, dim)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
            self.cls_pos = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, dim))
        self.blocks = Transformer(architecture)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, points: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, "G 3"], Float[Tensor, "G D"]]:
        """Group centres, as given (metres), and the tapped blocks' outputs, normed and joined.

        A cloud of fewer than `groups` or `group_size` points has a group for each point and its
        points in every group. Raises ValueError for an empty one.
        """
        if points.shape[0] == 0:
            raise ValueError("a cloud of 0 points was given to Point-MAE, expected at least 1")
        placed, index, neighbourhoods = placed_groups(
            points, self.groups, self.group_size, self.mode
        )
        own_statistics = self.mode in ("sample_statistics", "released")
        tokens = self.encoder(neighbourhoods, own_statistics)
        positions = self.pos_embed(placed[index])
        if self.architecture.token_dim:
            tokens = torch.cat([self.cls_token[0], self.reduce_dim(tokens)])
            positions = torch.cat([self.cls_pos[0], positions])
        outputs = self.blocks(tokens, positions, self._branch_scales(points))
        taps = [self.norm(outputs[tap])[-len(index) :] for tap in self.architecture.taps]
        return points[index], torch.cat(taps, dim=-1)

    def _branch_scales(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "depth 2"]:
        """Factor of each residual branch: 1, or DropPath's 0 and 1 / (1 - p) when `released`."""
        depth = self.architecture.depth
        if self.mode != "released":
            return torch.ones(depth, 2)
        # 32 bits: torch's generator reads no more of a seed.
        seed = zlib.crc32(points.detach().cpu().numpy().tobytes())
        generator = torch.Generator().manual_seed(seed)
        keep = 1 - torch.linspace(0, self.architecture.drop_path, depth)[:, None]
        return (torch.rand(depth, 2, generator=generator) < keep) / keep


class Transformer(nn.Module):
    """Outputs of every pre-norm block; the position is added before each of them."""

    blocks: Any  # timm's layers carry no types

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.blocks = nn.ModuleList(
            Block(a.dim, a.heads, mlp_ratio=4, qkv_bias=False, norm_layer=nn.LayerNorm)
            for _ in range(a.depth)
        )

    def forward(
        self,
        tokens: Float[Tensor, "G D"],
        positions: Float[Tensor, "G D"],
        scales: Float[Tensor, "depth 2"],
    ) -> list[Tensor]:
        """The output of each block; a residual branch of scale 0 is not computed."""
        outputs, x = [], tokens[None]
        for block, (attention, mlp) in zip(self.blocks, scales.tolist(), strict=False):
            x = x + positions
            if attention:
                x = x + attention * block.attn(block.norm1(x))
            if mlp:
                x = x + mlp * block.mlp(block.norm2(x))
            outputs.append(x[0])
        return outputs


def placed_groups(
    points: Float[Tensor, "N 3"], groups: int, size: int, norm: Norm
) -> tuple[Float[Tensor, "N 3"], Int[Tensor, " G"], Float[Tensor, "G K 3"]]:
    """The points, the indices of the centres and the groups, placed and scaled as `norm` says."""
    placed = to_unit_sphere(points) if norm in ("unit_sphere", "group_radius") else points
    index, neighbourhoods = group_points(placed, groups, size)
    if norm == "group_radius":
        radius = neighbourhoods.square().sum(-1).mean().sqrt()
        neighbourhoods = neighbourhoods / radius.clamp_min(torch.finfo(points.dtype).tiny)
    return placed, index, neighbourhoods


def group_points(
    points: Float[Tensor, "N 3"], groups: int, size: int
) -> tuple[Int[Tensor, " G"], Float[Tensor, "G K 3"]]:
    """Indices of the farthest points and the nearest points of each, relative to it.

    G = min(groups, N), K = min(size, N).
    """
    count = points.shape[0]
    index = farthest_points(points, min(groups, count))
    centres = points[index]
    _, members = nearest_points(centres, points, min(size, count))
    return index, points[members] - centres[:, None]


def to_unit_sphere(points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """The points centred on their mean, the farthest at distance 1, as Point-MAE was trained."""
    centred = points - points.mean(dim=0)
    radius = centred.norm(dim=1).max()
    return centred / radius.clamp_min(torch.finfo(points.dtype).tiny)
