"""DifferNet (arXiv 2008.12577): the likelihood of an image's pooled features under a flow.

The feature maps of an image at three sizes, averaged over their positions, form one vector. A
normalizing flow is trained on the vectors of rotated good images by maximum likelihood; the score
of a test image is the mean negative log-likelihood of its rotated copies, its map the blurred
gradient of that score with respect to the pixels. Re-implemented from the paper.

What differs: the features are the configured backbone's instead of AlexNet's, of images of the
maps' size, its half and its quarter instead of 448, 224 and 112 px, standardised on good parts. The
copies are turned by right angles, which needs no resampling, so that training computes the features
once; the paper draws angles at random, 64 at test. Published subnets have three hidden layers of
2048 units; here two of 128, and noise is added to the features, or the flow learns its few dozen
vectors by heart and gives good parts unseen in training any likelihood.

The map is weak: through a mean over positions all of them receive the same gradient, so that it
shows where the network is sensitive more than where the defect is. And a mean over the image
changes little with a small defect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lsfa_lib.adaptation.minimise import Plan, minimise
from lsfa_lib.adaptation.schedule import batch_scans, generator_of
from lsfa_lib.config import resolve_device
from lsfa_lib.detection.maps import blur
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.extract import load_image
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.flow import negative_log_likelihood, new_flow
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.records import Mode, Prediction, Sample
from lsfa_lib.storage.files import progress

SCALES = (1.0, 0.5, 0.25)
ROTATIONS = 4
"""Copies of an image, rotated by multiples of 90 degrees."""
BLOCKS, CLAMP = 8, 3.0
"""As published."""
HIDDEN = 128
EPOCHS, BATCH, RATE = 30, 32, 1e-3
"""Longer training raises the likelihood of the training parts, and lowers that of held-out ones."""
NOISE = 0.3
"""Standard deviation of the noise on standardised features."""
BLUR = 0.03
"""Of the map, as a share of its side."""


def fit(good: Good) -> Predict:
    """A flow trained on the pooled features of the good images and their rotated copies."""
    config = good.config
    encoder = load_image(config, resolve_device(config.device))
    with torch.no_grad():
        scans = progress(good.train, "features", len(good.train))
        rows = torch.cat([pooled(encoder, copies(scan.sample.rgb)) for scan in scans])
    unlikely = score_of(rows, good.seed)

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        sample = scan.sample
        images = copies(sample.rgb).requires_grad_()
        found = unlikely(pooled(encoder, images)).mean()
        (gradients,) = torch.autograd.grad(found, images)
        return {"rgb": Prediction(gradient_map(gradients, sample), found.item())}

    return predict


def copies(image: Float[Tensor, "3 R R"]) -> Float[Tensor, "N 3 R R"]:
    """The image rotated by each multiple of a right angle."""
    return torch.stack([torch.rot90(image, turns, (1, 2)) for turns in range(ROTATIONS)])


def pooled(encoder: nn.Module, images: Float[Tensor, "N 3 R R"]) -> Float[Tensor, "N D"]:
    """The mean token of each image at each of the scales, joined."""
    parts = []
    for scale in SCALES:
        side = round(scale * images.shape[-1])
        small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        tokens, _ = encoder(small)
        parts.append(tokens.mean(dim=1))
    return torch.cat(parts, dim=1)


def score_of(rows: Float[Tensor, "N D"], seed: int) -> Callable[[Tensor], Float[Tensor, " M"]]:
    """-log p of each row of others, by a flow trained on these.

    Rows are standardised and whitened with the covariance that noise of NOISE gives them: the flow,
    which begins as a permutation, starts from their regularised normal density.
    """
    std, mean = torch.std_mean(rows, dim=0, correction=0)
    std = std.clamp_min(0.01 * float(std.max()) or 1.0)
    standard = (rows - mean) / std
    values, vectors = torch.linalg.eigh(standard.double().T.cov(correction=0))
    whiten = (vectors * (values.clamp_min(0) + NOISE**2).rsqrt()).to(rows)
    with seeded(seed):
        flow = new_flow((rows.shape[1],), BLOCKS, CLAMP, _subnet).to(rows.device)
    size = min(BATCH, len(rows))
    steps = EPOCHS * (len(rows) // size)

    def batches() -> Iterator[Tensor]:
        for step in progress(range(steps), "flow"):
            chosen = standard[batch_scans(step, len(rows), size, seed)]
            noise = torch.randn(chosen.shape, generator=generator_of(seed, step))
            yield (chosen + NOISE * noise.to(rows)) @ whiten

    def loss(batch: Tensor) -> Tensor:
        return negative_log_likelihood(*flow(batch)).mean() / rows.shape[1]

    minimise(flow.parameters(), loss, batches(), Plan(steps, RATE))
    flow.requires_grad_(False)
    return lambda others: negative_log_likelihood(*flow((others - mean) / std @ whiten))


def gradient_map(gradients: Float[Tensor, "N 3 R R"], sample: Sample) -> Float[Tensor, "S S"]:
    """|gradient|, summed over channels, turned back, averaged and blurred; 0 outside the part."""
    size = len(sample.valid)
    turned = [torch.rot90(g, -turns, (1, 2)) for turns, g in enumerate(gradients)]
    strength = torch.stack(turned).abs().sum(dim=1).mean(dim=0)[None, None]
    anomaly = blur(F.adaptive_avg_pool2d(strength, size), BLUR * size)[0, 0]
    return torch.where(sample.valid, anomaly, 0.0)


def _subnet(channels: int, out: int) -> nn.Module:
    last = nn.Linear(HIDDEN, out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    inner = (nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
    return nn.Sequential(nn.Linear(channels, HIDDEN), *inner, last)
