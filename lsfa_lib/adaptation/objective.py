"""The loss of a batch of adapted scans, by term, and the values its monitors read.

loss = IFC + 0.6 CLC,   IFC = LC + GC,   CLC = LA + GA        (LSFA, Eq. 2 to 6)

IFC is summed over the modalities, CLC over their pairs (the paper has one pair).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsfa_lib.adaptation.adaptors import Adaptors, ScanRows
from lsfa_lib.adaptation.feature_queue import FeatureQueue
from lsfa_lib.adaptation.instances import instance_features
from lsfa_lib.adaptation.losses import compactness, global_alignment, local_alignment
from lsfa_lib.adaptation.monitors import alignment_accuracy, effective_rank, feature_variance
from lsfa_lib.adaptation.nearest import nearest_index
from lsfa_lib.config import LossWeights, TrainingConfig
from lsfa_lib.records import Modality
from lsfa_lib.storage.files import InputError

Terms = tuple[dict[str, Float[Tensor, ""]], dict[str, float]]
"""Loss terms by name, and values for the history."""


@dataclass(frozen=True)
class AdaptedScan:
    """One training scan of a batch after adaptation."""

    scan: int
    """Its index among the training scans."""
    rows: dict[Modality, ScanRows]
    instances: dict[Modality, Float[Tensor, "K D"]]


def adapted_scan(
    adaptors: Adaptors, scan: int, rows: dict[Modality, ScanRows], k: int, seed: int
) -> AdaptedScan:
    """The scan's adapted rows and its K instance features."""
    adapted = adaptors(rows)
    instances = {m: instance_features(s.rows, s.counts, k, seed) for m, s in adapted.items()}
    return AdaptedScan(scan, adapted, instances)


def in_single_precision(scan: AdaptedScan) -> AdaptedScan:
    """The same scan in float32, as losses and searches need it."""
    rows = {m: replace(own, rows=own.rows.float()) for m, own in scan.rows.items()}
    return replace(scan, rows=rows, instances={m: i.float() for m, i in scan.instances.items()})


class FeatureQueues(nn.Module):
    """FIFO of patch rows (`local`) and of instance features (`global_`), by modality."""

    local: Any  # nn.ModuleDict does not know what it holds
    global_: Any

    def __init__(self, dims: dict[Modality, int], local: dict[Modality, int], global_: int) -> None:
        super().__init__()
        self.local = nn.ModuleDict({m: FeatureQueue(local[m], dim) for m, dim in dims.items()})
        self.global_ = nn.ModuleDict({m: FeatureQueue(global_, dim) for m, dim in dims.items()})

    def enqueue(self, scan: AdaptedScan, into_full: bool = True) -> None:
        """Copies the scan's rows and instance features into the queues, without gradient.

        With `into_full` False, full queues stay as they are.
        """
        for m, own in scan.rows.items():
            pairs = (self.local[m], own.rows), (self.global_[m], scan.instances[m])
            for queue, rows in pairs:
                if into_full or not queue.full:
                    queue.enqueue(rows, scan.scan)

    @property
    def full(self) -> bool:
        """True where no queue has room left."""
        return all(queue.full for queue in (*self.local.values(), *self.global_.values()))


def batch_terms(
    batch: list[AdaptedScan],
    adaptors: Adaptors,
    queues: FeatureQueues,
    config: TrainingConfig,
    weights: LossWeights,
) -> Terms:
    """The terms that have a weight."""
    terms: dict[str, Tensor] = {}
    seen: dict[str, float] = {}
    if weights.la or weights.ga:
        terms, seen = alignment_terms(batch, adaptors, config)
    if weights.lc or weights.gc:
        compact, distances = compactness_terms(batch, queues, config)
        terms, seen = terms | compact, seen | distances
    return terms, seen


def total(terms: dict[str, Float[Tensor, ""]], weights: LossWeights) -> Float[Tensor, ""]:
    """The weighted sum of the terms; one of weight 0 adds nothing, not even 0 times infinity."""
    used = {name: getattr(weights, name.lower()) for name in terms}
    return torch.stack([used[name] * term for name, term in terms.items() if used[name]]).sum()


def alignment_terms(batch: list[AdaptedScan], adaptors: Adaptors, config: TrainingConfig) -> Terms:
    """LA, mean over the scans, and GA, between them; each is summed over the pairs of modalities.

    `alignment_accuracy` is the share of patches that find their partner, mean over scans and pairs.
    With K > 1 instance features per scan GA takes their mean.
    """
    literal, tau = config.alignment == "literal", config.temperature
    local, right = [], []
    for scan in batch:
        sides = [(adaptors.project(m, s.rows), s.index) for m, s in scan.rows.items()]
        for a, b in combinations(sides, 2):
            local.append(local_alignment(a, b, tau, literal))
            right.append(alignment_accuracy(a, b))
    wholes = [
        adaptors.project(m, torch.stack([s.instances[m].mean(0) for s in batch]))
        for m in adaptors.dims
    ]
    between = [global_alignment(a, b, tau, literal) for a, b in combinations(wholes, 2)]
    terms = {"LA": torch.stack(local).sum() / len(batch), "GA": torch.stack(between).sum()}
    return terms, {"alignment_accuracy": sum(right) / len(right)}


def compactness_terms(
    batch: list[AdaptedScan], queues: FeatureQueues, config: TrainingConfig
) -> Terms:
    """LC and GC, means over the scans summed over modalities, and the distances they depend on.

    `nearest_<modality>` is the mean distance of a patch to the nearest row in the queue,
    `same_scan_<modality>` the share of patches whose nearest row is an older copy of their own
    scan.
    """
    sums: dict[str, list[Tensor]] = {"LC": [], "GC": []}
    seen: dict[str, float] = defaultdict(float)
    for m in queues.local:
        for scan in batch:
            rows, counts = scan.rows[m].rows, scan.rows[m].counts
            nearest, same_scan = _nearest(rows, queues.local[m], scan.scan, config)
            sums["LC"].append(compactness(rows, counts, nearest, config.compactness))
            distance = torch.linalg.vector_norm(rows.detach() - nearest, dim=1)
            seen[f"nearest_{m}"] += float(distance @ counts / counts.sum()) / len(batch)
            seen[f"same_scan_{m}"] += float(same_scan @ counts / counts.sum()) / len(batch)
            instances = scan.instances[m]
            nearest, _ = _nearest(instances, queues.global_[m], scan.scan, config)
            ones = torch.ones_like(instances[:, 0])
            sums["GC"].append(compactness(instances, ones, nearest, config.compactness))
    return {name: torch.stack(each).sum() / len(batch) for name, each in sums.items()}, dict(seen)


def _nearest(
    rows: Float[Tensor, "R D"], queue: FeatureQueue, scan: int, config: TrainingConfig
) -> tuple[Float[Tensor, "R D"], Float[Tensor, " R"]]:
    """The nearest row in the queue for each row, and 1 where that is of the same scan."""
    held, scans = queue.held
    allowed = scans != scan if config.exclude_same_scan else None
    try:
        index = nearest_index(rows, held, allowed)
    except ValueError as error:
        raise InputError(
            f"a feature queue of {len(held)} rows holds only the scan that is compared with it; "
            "raise training.local_queue and training.global_queue, or set "
            "training.exclude_same_scan to false"
        ) from error
    return held[index], (scans[index] == scan).to(rows)


def spread_monitors(batch: list[AdaptedScan]) -> dict[str, float]:
    """Variance and effective rank of the adapted patches of the batch, by modality."""
    seen = {}
    for m in batch[0].rows:
        rows = torch.cat([scan.rows[m].rows.detach() for scan in batch])
        counts = torch.cat([scan.rows[m].counts for scan in batch])
        seen[f"variance_{m}"] = feature_variance(rows, counts)
        seen[f"rank_{m}"] = effective_rank(rows, counts)
    return seen
