"""The PointNet of Point-MAE: a group of points -> one token."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

CHUNK_ROWS = 2048
"""Points processed at once: activations of 1.5 MB (of 4 MB as published) fit a core's cache."""


class GroupEncoder(nn.Module):
    """One token per group, by a small PointNet (Point-MAE, sec. 3.1).

    As published: a point's x -> h = B relu(BN(A x)); the group's g = max h;
    token = max over its points of D relu(BN(C [g; h])).

    Nothing is between B and C's half for h, so that half times B is one map, C's half
    for g is needed once per group, BatchNorms fold into the maps before them, and the statistics
    follow from those of relu(BN(A x)), which is 4 times narrower than what is normalised. Same
    numbers to 1e-6 in float32 with two thirds of the multiplications; `CHUNK_ROWS` bounds memory.
    """

    first_conv: Any  # nn.Sequential does not know what it holds
    second_conv: Any

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
        """Tokens; BatchNorm with the statistics of these groups, or with those kept from training.

        `neighbourhoods` are the points of each group relative to its centre.
        """
        chunks = torch.split(neighbourhoods, max(1, CHUNK_ROWS // neighbourhoods.shape[1]))
        lifted = self._lifted(neighbourhoods, own_statistics)
        spread, spread_bias = _linear(self.first_conv[3])
        maxima, means, scatter = _group_statistics(chunks, lifted, spread, own_statistics)

        mix, mix_bias = _linear(self.second_conv[0])
        from_group, from_point = mix.chunk(2, dim=1)
        offsets = linear(maxima + spread_bias, from_group, mix_bias + from_point @ spread_bias)
        weight = from_point @ spread
        norm = self.second_conv[1]
        mean, variance = norm.running_mean, norm.running_var
        if own_statistics:
            # Law of total variance: between the groups and within them.
            group_means = offsets + means @ weight.T
            within = _variances(weight, scatter / neighbourhoods.shape[:2].numel())
            mean, variance = group_means.mean(0), group_means.var(0, correction=0) + within
        scale, shift = _affine(norm, mean, variance)
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
        norm = self.first_conv[1]
        mean, variance = norm.running_mean, norm.running_var
        if own_statistics:
            points = neighbourhoods.flatten(0, 1)
            centre = points.mean(dim=0)
            centred = points - centre
            mean = linear(centre, weight, bias)
            variance = _variances(weight, centred.T @ centred / len(points))
        scale, shift = _affine(norm, mean, variance)
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


def _group_statistics(
    chunks: tuple[Tensor, ...],
    lifted: tuple[Tensor, Tensor],
    spread: Float[Tensor, "E S"],
    with_scatter: bool,
) -> tuple[Float[Tensor, "G E"], Float[Tensor, "G S"], Float[Tensor, "S S"]]:
    """For a = relu(BN(A x)): max B a and mean a of each group, and the scatter about these means.

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


def _variances(weight: Tensor, covariance: Tensor) -> Tensor:
    """Variance of each output of a linear map whose input has this covariance."""
    return ((weight @ covariance) * weight).sum(dim=1)


def _linear(layer: Any) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias of a convolution over single points."""
    return layer.weight[..., 0], layer.bias


def _affine(norm: Any, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift that BatchNorm applies with these statistics."""
    scale = norm.weight / (variance + norm.eps).sqrt()
    return scale, norm.bias - mean * scale
