"""f-AnoGAN on depth images and on voxels, the GAN baselines of MVTec 3D-AD.

A generator G and a critic learn good parts as a Wasserstein GAN with gradient penalty (arXiv
1704.00028, Eq. 3). Then an encoder E learns through the fixed G by the loss izi_f of f-AnoGAN
(Schlegl et al. 2019, doi 10.1016/j.media.2019.01.010), f being the last features of the critic:

    ||x - G(E(x))||^2 / n + kappa ||f(x) - f(G(E(x)))||^2 / n_f

arXiv 2112.09045, sec. 4, uses 3D convolutions for voxels and compares a scan cell by cell with its
reconstruction. A cell scores |x - G(E(x))|, the map of f-AnoGAN; a scan scores its largest cell
plus the second term.

Smaller than f-AnoGAN, to learn on one core: stride-2 convolutions instead of residual blocks, no
layer norm in the critic, codes of 64 instead of 128, voxel grids of 32^3 instead of 64^3, a few
hundred steps at a higher rate, and one step of the critic per step of the generator instead of 5,
because with so few steps a generator updated less often does not learn the shape of a part.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsfa_lib.adaptation.schedule import batch_scans, generator_of
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.methods.variation import Grid, Model, depth_image, fit_grids, voxels
from lsfa_lib.records import Sample
from lsfa_lib.storage.files import progress

CODE = 64
WIDTHS = {2: (16, 32, 32, 32), 3: (8, 16, 32)}
"""Channels of depth images and voxels after each convolution; the last leaves a side of 4."""
EPOCHS = {2: 75, 3: 32}
"""Of the GAN, and of the encoder: 600 or 256 steps on 32 scans, half a minute on one core."""
PENALTY, KAPPA = 10.0, 1.0
"""Lambda and kappa, as published."""
BATCH, RATE, BETAS = 4, 2e-3, (0.0, 0.9)
"""The rate was chosen from 0.0005 to 0.003 by the residual of held-out good scans."""
Grids = Float[Tensor, "N 1 *size"]


class Networks(nn.Module):
    """Generator, critic and encoder for grids of 2 or 3 dimensions."""

    def __init__(self, dimensions: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        back = nn.ConvTranspose2d if dimensions == 2 else nn.ConvTranspose3d
        norm = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d
        shape = (widths[-1], *[4] * dimensions)
        layers: list[nn.Module] = [nn.Linear(CODE, math.prod(shape)), nn.Unflatten(1, shape)]
        for a, b in pairwise((*widths[::-1], 1)):
            layers += [norm(a), nn.ReLU(), back(a, b, 4, stride=2, padding=1)]
        self.generator = nn.Sequential(*layers, nn.Tanh())
        self.critic = _halving(dimensions, widths, 1)
        self.encoder = _halving(dimensions, widths, CODE)

    def drawn(self, count: int, random: torch.Generator) -> Grids:
        """Grids generated from codes ~ N(0, I)."""
        codes = torch.randn(count, CODE, generator=random)
        return self.generator(codes.to(next(self.parameters())))

    def residuals(self, grids: Grids) -> tuple[Grids, Float[Tensor, " N"]]:
        """Of the cells, x - G(E(x)), and the mean square of f(x) - f(G(E(x))) of each grid."""
        made = self.generator(self.encoder(grids))
        features = (self.critic[0](grids) - self.critic[0](made)).square()
        return grids - made, features.flatten(1).mean(dim=1)


def _halving(dimensions: int, widths: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Convolutions that halve the grid's side to 4, one per width, then a linear layer."""
    convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
    layers: list[nn.Module] = []
    for a, b in pairwise((1, *widths)):
        layers += [convolution(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    cells = widths[-1] * 4**dimensions
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), nn.Linear(cells, outputs))


def critic_loss(network: Networks, real: Grids, random: torch.Generator) -> Float[Tensor, ""]:
    """Loss of the critic C: C(G(z)) - C(x) + lambda (||grad C(u)|| - 1)^2, u between G(z) and x."""
    with torch.no_grad():
        fake = network.drawn(len(real), random)
    share = torch.rand(len(real), *[1] * (real.dim() - 1), generator=random).to(real)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(network.critic(between).sum(), between, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    return network.critic(fake).mean() - network.critic(real).mean() + PENALTY * penalty


def train_gan(network: Networks, grids: Grids, seed: int, epochs: int) -> None:
    """Trains critic and generator, a step of each in turn."""
    critic = torch.optim.Adam(network.critic.parameters(), RATE, BETAS)
    generator = torch.optim.Adam(network.generator.parameters(), RATE, BETAS)
    size = min(BATCH, len(grids))
    for step in progress(range(epochs * (len(grids) // size)), "GAN"):
        random = generator_of(seed, step)
        real = grids[batch_scans(step, len(grids), size, seed)]
        _update(critic, critic_loss(network, real, random))
        _update(generator, -network.critic(network.drawn(size, random)).mean())


def train_encoder(network: Networks, grids: Grids, seed: int, epochs: int) -> None:
    """Trains the encoder alone, by the loss izi_f."""
    network.eval().requires_grad_(False)
    network.encoder.requires_grad_(True)
    optimiser = torch.optim.Adam(network.encoder.parameters(), RATE)
    size = min(BATCH, len(grids))
    for step in progress(range(epochs * (len(grids) // size)), "encoder"):
        cells, features = network.residuals(grids[batch_scans(step, len(grids), size, seed)])
        _update(optimiser, cells.square().mean() + KAPPA * features.mean())
    network.requires_grad_(False)


def _update(optimiser: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def distance(network: Networks, grid: Grid) -> tuple[Grid, float]:
    """|x - G(E(x))| of every cell, and kappa mean (f(x) - f(G(E(x))))^2."""
    cells, features = network.residuals(grid[None])
    return cells[0].abs(), KAPPA * float(features)


def f_anogan(grids: Grids, seed: int) -> Model:
    """`distance` by networks trained on the grids of good parts."""
    dimensions = grids.dim() - 2
    with seeded(seed):
        network = Networks(dimensions, WIDTHS[dimensions])
    network.to(grids.device)
    for train in (train_gan, train_encoder):
        train(network, grids, seed, EPOCHS[dimensions])
    return partial(distance, network)


def coarse_voxels(sample: Sample, far: float) -> Float[Tensor, "1 R R R"]:
    """1 where one of 2^3 voxels contains a point: an eighth of the cells to learn."""
    return nn.functional.max_pool3d(voxels(sample, far), 2)


depth_gan = partial(fit_grids, grid_of=depth_image, learn=f_anogan)
voxel_gan = partial(fit_grids, grid_of=coarse_voxels, learn=f_anogan)
