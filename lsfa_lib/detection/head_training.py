"""Training of heads on pseudo-defects of the training scans.

Artificial anomalies as in CutPaste (arXiv 2104.04015) and DRAEM (2108.07610), a small discriminator
on features of backbones as in SimpleNet (2303.15140).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lsfa_lib.adaptation.nearest import nearest_index
from lsfa_lib.adaptation.schedule import generator_of, warmed_cosine
from lsfa_lib.detection.heads import Head, Inputs, compared, new_network
from lsfa_lib.detection.labelled import Labelled, drawn_patches
from lsfa_lib.detection.memory import Bank, rows_of_modality, search_bank
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.extract import distinct_rows
from lsfa_lib.records import Modality, PatchFeatures
from lsfa_lib.storage.files import InputError

STEPS, BATCH, WARMUP = 300, 512, 0.1
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
NORMAL_PER_SCAN = 300
"""Patches drawn from each unchanged training scan."""
BACKGROUND = 0.02
"""Share of the patches of validation/good whose logits lie below a head's level."""


def train_heads(
    banks: Mapping[Modality, Bank],
    train: Sequence[PatchFeatures],
    validation: Sequence[PatchFeatures],
    labelled: Mapping[Modality, Labelled],
    seed: int,
) -> dict[Modality, Head]:
    """A head for each modality with labelled patches; features are adapted.

    Normal patches are the labelled ones and up to `NORMAL_PER_SCAN` of each unchanged training
    scan; the level comes from validation/good.
    """
    heads = {}
    for m, own in labelled.items():
        bank, normal = banks[m], _unchanged(train, m, seed)
        rows = bank.standardised(torch.cat((normal.rows, own.rows)))
        nearest = bank.rows[nearest_elsewhere(rows, torch.cat((normal.scan, own.scan)), bank)]
        inputs = _fitted_inputs(rows[: len(normal.rows)], nearest[: len(normal.rows)])
        seen = inputs(rows, nearest)
        defective = torch.cat((normal.defective, own.defective))
        head = Head(_trained(seen[~defective], seen[defective], seed), inputs)
        heads[m] = _levelled(head, bank, m, validation)
    return heads


def nearest_elsewhere(
    rows: Float[Tensor, "N D"], scan: Int[Tensor, " N"], bank: Bank
) -> Int[Tensor, " N"]:
    """Index of the closest bank row of another scan; rows are in the space of the bank.

    The bank holds patches of the training scans themselves: to those they are closer than a patch
    of a new scan ever is. Raises InputError if all rows of the bank come from one scan.
    """
    index = torch.zeros_like(scan)
    for own in torch.unique(scan).tolist():
        allowed, at = bank.source[:, 0] != own, scan == own
        if not bool(allowed.any()):
            raise InputError(
                f"all {len(bank.rows)} rows of a bank come from one training scan, but "
                "detector.heads compares each scan with the others; raise bank.keep_ratio, or set "
                "detector.heads to false"
            )
        index[at] = nearest_index(rows[at], bank.rows, allowed, chunk=2048)
    return index


def partial_whitening(rows: Float[Tensor, "N D"]) -> Float[Tensor, " D"]:
    """A = c (v + 0.02 mean(v))^(-1/4), v the variance of each dimension.

    Half-way to equal variance, so that dimensions of little variance count more but noise does not
    dominate; with c all numbers of A rows have standard deviation 1.
    """
    variance = rows.var(dim=0)
    scale = (variance + 0.02 * variance.mean()).clamp_min(1e-12).pow(-0.25)
    # Identical scans have no residuals.
    return scale / (float((rows * scale).std()) or 1.0)


def _unchanged(train: Sequence[PatchFeatures], m: Modality, seed: int) -> Labelled:
    """Random valid patches of the training scans as they are, all normal."""
    parts, scans = [], []
    for i, features in enumerate(train):
        rows, index = distinct_rows(features, m)
        patches = drawn_patches(index >= 0, NORMAL_PER_SCAN, generator_of(seed, i))
        parts.append(rows[index[patches]])
        scans.append(torch.full_like(patches, i))
    scan = torch.cat(scans)
    return Labelled(torch.cat(parts), torch.zeros_like(scan, dtype=torch.bool), scan)


def _fitted_inputs(rows: Float[Tensor, "N D"], nearest: Float[Tensor, "N D"]) -> Inputs:
    residual = rows - nearest
    std, mean = torch.std_mean(torch.linalg.vector_norm(residual, dim=1))
    scales = partial_whitening(rows), partial_whitening(residual)
    return Inputs(*scales, float(mean), float(std) or 1.0)


def _trained(normal: Float[Tensor, "N I"], defective: Float[Tensor, "M I"], seed: int) -> nn.Module:
    """Binary cross-entropy on batches of as many normal as defective patches.

    On the CPU: initialisation and dropout then follow from the seed on every device.
    """
    classes, labels = (normal.cpu(), defective.cpu()), torch.arange(2.0).repeat_interleave(BATCH)
    with seeded(seed):
        network = new_network(normal.shape[1])
        optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
        for step in range(STEPS):
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * warmed_cosine(step, STEPS, WARMUP)
            batch = torch.cat([own[torch.randint(len(own), (BATCH,))] for own in classes])
            loss = F.binary_cross_entropy_with_logits(network(batch)[:, 0], labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return network.eval().requires_grad_(False).to(normal.device)


def _levelled(head: Head, bank: Bank, m: Modality, validation: Sequence[PatchFeatures]) -> Head:
    """The head with level and spread from the valid patches of validation/good."""
    rows_of = rows_of_modality(m)
    searched = [search_bank(bank, rows_of, features, False) for features in validation]
    logits = torch.cat(
        [
            head.logits(*compared(bank, m, found, features))
            for found, features in zip(searched, validation, strict=True)
        ]
    )
    level = float(logits.quantile(BACKGROUND))
    spread = float((logits - level).clamp_min(0).std()) or 1.0
    return replace(head, level=level, spread=spread)
