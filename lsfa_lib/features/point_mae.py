"""Point-MAE's encoder (arXiv 2203.06604) as a frozen backbone: points -> features of groups."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import linear

from lsfa_lib.features.geometry import farthest_points, nearest_points

Norm = Literal["sample_statistics", "running_statistics", "unit_sphere", "group_radius", "released"]
CHUNK_ROWS = 8192
"""Points of the group encoder at work at once: activations of 16 MB, which stay near the cores."""


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
    """Point-BERT: width of the group encoder's tokens, before a linear layer makes `dim` of them
    and a class token joins them; 0: neither is there."""


PUBLISHED = Architecture()
POINT_BERT = Architecture(token_dim=256)
"""Point-BERT's (arXiv 2111.14819), trained to tell the codes of masked groups."""
SMALL = Architecture(dim=192, depth=6, heads=6, taps=(1, 3, 5), stem=48)
"""Of the weights in this package: 2.8 M parameters."""


class PointMAE(nn.Module):
    """Centres and features of the groups of one point cloud.

    `norm` says which statistics BatchNorm uses, whatever train() or eval() was called:
    - `sample_statistics`: those of the cloud itself, over all its groups. The default.
    - `running_statistics`: the checkpoint's, on the points as they are.
    - `unit_sphere`: the checkpoint's, on the cloud centred and scaled into the unit sphere, which
      is how the checkpoint was trained.
    - `group_radius`: as `unit_sphere`, and the groups scaled to a root mean square radius of 1, so
      that neither the size of the part nor the scanner's resolution matters. The small model's.
    - `released`: those of the cloud, and DropPath at test time, as in the public code, whose
      features are therefore random. Here they are drawn from `seed` and the points themselves:
      the same cloud always gets the same features.

    At metric scale (neighbourhoods of a few millimetres) BatchNorm's eps of 1e-5 is not small
    beside the variance of the coordinates, so `sample_statistics` do not hide the scale.
    """

    def __init__(
        self,
        groups: int = 1024,
        group_size: int = 128,
        norm: Norm = "sample_statistics",
        architecture: Architecture = PUBLISHED,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.groups, self.group_size, self.mode = groups, group_size, norm
        self.architecture, self.seed = architecture, seed
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

    @property
    def features(self) -> int:
        """Length of one feature row."""
        return len(self.architecture.taps) * self.architecture.dim

    def forward(
        self, points: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, "G 3"], Float[Tensor, "G D"]]:
        """Group centres, as given (metres), and the tapped blocks' outputs, normed and joined.

        A cloud of fewer than `groups` or `group_size` points has a group for each point and its
        points in every group. Raises ValueError for an empty one.
        """
        if points.shape[0] == 0:
            raise ValueError("a cloud of 0 points was given to Point-MAE, wanted at least 1")
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

    def without_unused(self) -> PointMAE:
        """Itself, rid of the blocks after the last tap: no feature depends on them."""
        self.blocks.blocks = self.blocks.blocks[: max(self.architecture.taps) + 1]
        return self

    def _branch_scales(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "depth 2"]:
        """Factor of each residual branch: 1, or DropPath's 0 and 1 / (1 - p) when `released`."""
        depth = self.architecture.depth
        if self.mode != "released":
            return torch.ones(depth, 2)
        # Of a longer seed torch's generator would read 32 bits only.
        seed = zlib.crc32(points.detach().cpu().numpy().tobytes(), self.seed)
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
        outputs, x = [], tokens[None]
        for block, (attention, mlp) in zip(self.blocks, scales.tolist(), strict=False):
            x = x + positions
            if attention:
                x = x + attention * block.attn(block.norm1(x))
            if mlp:
                x = x + mlp * block.mlp(block.norm2(x))
            outputs.append(x[0])
        return outputs


class GroupEncoder(nn.Module):
    """One token a group, by a small PointNet (Point-MAE, sec. 3.1).

    As published: a point's x -> h = B relu(BN(A x)); the group's g = max h;
    token = max over its points of D relu(BN(C [g; h])).

    Nothing is between B and C's half for h, so that half times B is one map, C's half
    for g is needed once a group, BatchNorms fold into the maps before them, and the statistics
    follow from those of relu(BN(A x)), which is 4 times narrower than what is normalised. Same
    numbers to 1e-6 in float32 with two thirds of the multiplications; `CHUNK_ROWS` bounds memory.
    """

    def __init__(self, dim: int, stem: int = 128) -> None:
        super().__init__()
        wide = 4 * stem
        self.first_conv = nn.Sequential(
            nn.Conv1d(3, stem, 1), nn.BatchNorm1d(stem), nn.ReLU(), nn.Conv1d(stem, 2 * stem, 1)
        )
        self.second_conv = nn.Sequential(
            nn.Conv1d(wide, wide, 1), nn.BatchNorm1d(wide), nn.ReLU(), nn.Conv1d(wide, dim, 1)
        )

    def forward(
        self, neighbourhoods: Float[Tensor, "G K 3"], own_statistics: bool
    ) -> Float[Tensor, "G D"]:
        chunks = torch.split(neighbourhoods, max(1, CHUNK_ROWS // neighbourhoods.shape[1]))
        lifted = self._lifted(neighbourhoods, own_statistics)
        spread, spread_bias = _linear(self.first_conv[3])
        maxima, means, scatter = _group_statistics(chunks, lifted, spread, own_statistics)

        mix, mix_bias = _linear(self.second_conv[0])
        from_group, from_point = mix.chunk(2, dim=1)
        offsets = linear(maxima + spread_bias, from_group, mix_bias + from_point @ spread_bias)
        weight = from_point @ spread
        statistics = _running(self.second_conv[1])
        if own_statistics:
            # Law of total variance: between the groups and within them.
            group_means = offsets + means @ weight.T
            within = _variances(weight, scatter / neighbourhoods.shape[:2].numel())
            statistics = group_means.mean(0), group_means.var(0, correction=0) + within
        scale, shift = _affine(self.second_conv[1], statistics)
        return self._tokens(chunks, lifted, weight * scale[:, None], offsets * scale + shift)

    def as_published(self, neighbourhoods: Float[Tensor, "G K 3"]) -> Float[Tensor, "G D"]:
        """The same tokens by the layers themselves: for training, where they keep statistics."""
        points = self.first_conv(neighbourhoods.transpose(1, 2))
        group = points.amax(dim=2, keepdim=True).expand_as(points)
        return self.second_conv(torch.cat([group, points], dim=1)).amax(dim=2)

    def _lifted(
        self, neighbourhoods: Float[Tensor, "G K 3"], own_statistics: bool
    ) -> tuple[Tensor, Tensor]:
        """Weight and bias of A with its BatchNorm."""
        weight, bias = _linear(self.first_conv[0])
        statistics = _running(self.first_conv[1])
        if own_statistics:
            mean, covariance = _moments(neighbourhoods)
            statistics = linear(mean, weight, bias), _variances(weight, covariance)
        scale, shift = _affine(self.first_conv[1], statistics)
        return weight * scale[:, None], bias * scale + shift

    def _tokens(
        self,
        chunks: tuple[Tensor, ...],
        lifted: tuple[Tensor, Tensor],
        weight: Float[Tensor, "W S"],
        offsets: Float[Tensor, "G W"],
    ) -> Float[Tensor, "G D"]:
        out, out_bias = _linear(self.second_conv[3])
        tokens = []
        for chunk, offset in zip(chunks, torch.split(offsets, len(chunks[0])), strict=True):
            mixed = linear(linear(chunk, *lifted).relu_(), weight)
            mixed = mixed.add_(offset[:, None]).relu_()
            tokens.append(linear(mixed, out).amax(dim=1))
        return torch.cat(tokens) + out_bias


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


def _group_statistics(
    chunks: tuple[Tensor, ...],
    lifted: tuple[Tensor, Tensor],
    spread: Float[Tensor, "E S"],
    with_scatter: bool,
) -> tuple[Float[Tensor, "G E"], Float[Tensor, "G S"], Float[Tensor, "S S"]]:
    """Of each group max B a and mean a, for a = relu(BN(A x)); and the scatter of a about the mean.

    The scatter is summed over the groups; zero unless asked for.
    """
    maxima, means = [], []
    scatter = spread.new_zeros(spread.shape[1], spread.shape[1])
    for chunk in chunks:
        active = linear(chunk, *lifted).relu_()
        maxima.append(linear(active, spread).amax(dim=1))
        means.append(active.mean(dim=1))
        if with_scatter:
            centred = (active - means[-1][:, None]).flatten(0, 1)
            scatter = scatter + centred.T @ centred
    return torch.cat(maxima), torch.cat(means), scatter


def _moments(neighbourhoods: Float[Tensor, "G K 3"]) -> tuple[Tensor, Tensor]:
    """Mean (3,) and covariance (3, 3), divided by the count, of all points of all groups."""
    flat = neighbourhoods.flatten(0, 1)
    mean = flat.mean(dim=0)
    centred = flat - mean
    return mean, centred.T @ centred / flat.shape[0]


def _variances(weight: Tensor, covariance: Tensor) -> Tensor:
    """Variance of each output of a linear map whose input has this covariance."""
    return ((weight @ covariance) * weight).sum(dim=1)


def _linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias of a convolution over single points."""
    assert isinstance(layer, nn.Conv1d)
    assert layer.bias is not None
    return layer.weight[..., 0], layer.bias


def _running(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and variance kept from training."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _affine(norm: nn.Module, statistics: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Scale and shift that BatchNorm is with these statistics."""
    assert isinstance(norm, nn.BatchNorm1d)
    mean, variance = statistics
    scale = norm.weight / (variance + norm.eps).sqrt()
    return scale, norm.bias - mean * scale
