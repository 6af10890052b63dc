"""DifferNet (arXiv 2008.12577): the likelihood of an image's pooled features, by a flow.

The feature maps of three sizes of an image, averaged over their positions, form one vector (sec.
3.1). A normalizing flow is trained on the vectors of rotated good images (Eq. 5); a test image is
scored by the mean negative log-likelihood of its rotated copies (Eq. 6) and localised by the
gradient of that score with respect to its pixels (sec. 3.3). Re-implemented from the paper.

What differs: the features are the configured backbone's instead of AlexNet's, of images at map size
and its half and quarter instead of 448, 224 and 112 px, standardised over the good parts. The
copies are rotated by right angles, which need no resampling, so that the features of training are
computed once; the paper draws angles anew, 64 at test. The subnets have two hidden layers of 128
units instead of three of 2048, which 4 copies of a few dozen images would not support.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lsfa_lib.adaptation.schedule import batch_scans, generator_of
from lsfa_lib.config import resolve_device
from lsfa_lib.detection.maps import blur
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.extract import load_image
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.flow import Flow, negative_log_likelihood, new_flow, train
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.records import Mode, Prediction, Sample
from lsfa_lib.storage.files import progress

SCALES = (1.0, 0.5, 0.25)
ROTATIONS = 4
"""Copies of an image, rotated by multiples of 90 degrees."""
BLOCKS, CLAMP = 8, 3.0
"""As published (sec. 4.2)."""
HIDDEN = 128
EPOCHS, BATCH, RATE = 75, 32, 1e-3
NOISE = 0.1
BLUR = 0.03


def fit(good: Good) -> Predict:
    """A flow trained on the pooled features of the good images and their rotated copies."""
    config = good.config
    encoder = load_image(config, resolve_device(config.device))
    with torch.no_grad():
        scans = progress(good.train, "features", len(good.train))
        rows = torch.cat([pooled(encoder, copies(scan.sample.rgb)) for scan in scans])
    std, mean = torch.std_mean(rows, dim=0, correction=0)
    std = std.clamp_min(0.01 * float(std.max()) or 1.0)
    flow = train_flow((rows - mean) / std, good.seed)

    def score(images: Float[Tensor, "N 3 R R"]) -> Float[Tensor, ""]:
        """The mean of -log p over the images."""
        return negative_log_likelihood(*flow((pooled(encoder, images) - mean) / std)).mean()

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        sample = scan.sample
        images = copies(sample.rgb).requires_grad_()
        found = score(images)
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
        tokens, _ = encoder(small if side < images.shape[-1] else images)
        parts.append(tokens.mean(dim=1))
    return torch.cat(parts, dim=1)


def train_flow(rows: Float[Tensor, "N D"], seed: int) -> Flow:
    """The flow that makes the rows likely."""
    with seeded(seed):
        flow = new_flow((rows.shape[1],), BLOCKS, CLAMP, _subnet).to(rows.device)

    size = min(BATCH, len(rows))
    steps = EPOCHS * (len(rows) // size)

    def batches() -> Iterator[Tensor]:
        for step in progress(range(steps), "flow"):
            chosen = rows[batch_scans(step, len(rows), size, seed)]
            noise = torch.randn(chosen.shape, generator=generator_of(seed, step))
            yield chosen + NOISE * noise.to(rows)

    def loss(batch: Tensor) -> Tensor:
        return negative_log_likelihood(*flow(batch)).mean() / rows.shape[1]

    train(flow, loss, batches(), steps, RATE)
    return flow


def gradient_map(gradients: Float[Tensor, "N 3 R R"], sample: Sample) -> Float[Tensor, "S S"]:
    """|gradient|, summed over channels, turned back, averaged and blurred; 0 outside the part."""
    size = len(sample.valid)
    turned = [torch.rot90(g, -turns, (1, 2)) for turns, g in enumerate(gradients)]
    strength = torch.stack(turned).abs().sum(dim=1).mean(dim=0)[None, None]
    anomaly = blur(F.adaptive_avg_pool2d(strength, size), BLUR * size)[0, 0]
    return torch.where(sample.valid, anomaly, 0.0)


def _subnet(channels: int, out: int) -> nn.Module:
    inner = (nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
    return nn.Sequential(nn.Linear(channels, HIDDEN), nn.ReLU(), *inner, nn.Linear(HIDDEN, out))
