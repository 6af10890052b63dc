"""The loss of a batch of adapted scans, by term, and what its monitors read.

loss = IFC + 0.6 CLC,   IFC = LC + GC,   CLC = LA + GA        (LSFA, Eq. 2 to 6)
"""

from __future__ import annotations

from dataclasses import dataclass
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
from lsfa_lib.config import TrainingConfig
from lsfa_lib.records import MODALITIES, Modality


@dataclass(frozen=True)
class AdaptedScan:
    """One training scan of a batch after adaptation."""

    scan: int
    """Its place among the training scans."""
    rows: dict[Modality, ScanRows]
    instances: dict[Modality, Float[Tensor, "K D"]]


def adapted_scan(
    adaptors: Adaptors, scan: int, rows: dict[Modality, ScanRows], k: int, seed: int
) -> AdaptedScan:
    """The scan's adapted rows and its K instance features."""
    adapted = adaptors(rows)
    instances = {m: instance_features(s.rows, s.counts, k, seed) for m, s in adapted.items()}
    return AdaptedScan(scan, adapted, instances)


class FeatureQueues(nn.Module):
    """FIFO of patch rows (local) and of instance features (whole), by modality."""

    local: Any  # nn.ModuleDict does not know what it holds
    global_: Any

    def __init__(self, dims: dict[Modality, int], local: dict[Modality, int], whole: int) -> None:
        super().__init__()
        self.local = nn.ModuleDict({m: FeatureQueue(local[m], dims[m]) for m in MODALITIES})
        self.global_ = nn.ModuleDict({m: FeatureQueue(whole, dims[m]) for m in MODALITIES})

    def enqueue(self, scan: AdaptedScan) -> None:
        """Puts the scan in, without gradient."""
        for m in MODALITIES:
            self.local[m].enqueue(scan.rows[m].rows, scan.scan)
            self.global_[m].enqueue(scan.instances[m], scan.scan)

    @property
    def full(self) -> bool:
        """True where no queue has room left."""
        queues = [*self.local.values(), *self.global_.values()]
        return all(len(queue) == len(queue.rows) for queue in queues)


def alignment_terms(
    batch: list[AdaptedScan], adaptors: Adaptors, config: TrainingConfig
) -> tuple[dict[str, Float[Tensor, ""]], dict[str, float]]:
    """LA, mean over the scans, and GA, between them, with the share of patches that find a partner.

    With K > 1 instance features a scan GA takes their mean.
    """
    literal, tau = config.alignment == "literal", config.temperature
    local, right = [], []
    for scan in batch:
        a, b = (adaptors.project(m, scan.rows[m].rows) for m in MODALITIES)
        index_a, index_b = (scan.rows[m].index for m in MODALITIES)
        local.append(local_alignment(a, b, index_a, index_b, tau, literal))
        right.append(alignment_accuracy(a, b, index_a, index_b))
    a, b = (
        adaptors.project(m, torch.stack([s.instances[m].mean(0) for s in batch]))
        for m in MODALITIES
    )
    terms = {"LA": torch.stack(local).mean(), "GA": global_alignment(a, b, tau, literal)}
    return terms, {"alignment_accuracy": sum(right) / len(right)}


def compactness_terms(
    batch: list[AdaptedScan], banks: FeatureQueues, config: TrainingConfig
) -> tuple[dict[str, Float[Tensor, ""]], dict[str, float]]:
    """LC and GC, means over the scans summed over modalities, and the distances they rest on.

    `own_rows` is the share of patches whose nearest row is an old copy of their own scan.
    """
    sums: dict[str, list[Tensor]] = {"LC": [], "GC": []}
    seen: dict[str, float] = {}
    for m in MODALITIES:
        for scan in batch:
            rows, counts = scan.rows[m].rows, scan.rows[m].counts
            nearest, own = _nearest(rows, banks.local[m], scan.scan, config)
            sums["LC"].append(compactness(rows, counts, nearest, config.compactness))
            distance = torch.linalg.vector_norm(rows.detach() - nearest, dim=1)
            _add(seen, f"nearest_{m}", float(distance @ counts / counts.sum()) / len(batch))
            _add(seen, f"own_rows_{m}", float(own @ counts / counts.sum()) / len(batch))
            whole = scan.instances[m]
            nearest, _ = _nearest(whole, banks.global_[m], scan.scan, config)
            ones = torch.ones_like(whole[:, 0])
            sums["GC"].append(compactness(whole, ones, nearest, config.compactness))
    return {name: torch.stack(each).sum() / len(batch) for name, each in sums.items()}, seen


def spread_monitors(batch: list[AdaptedScan]) -> dict[str, float]:
    """Variance and effective rank of the adapted patches of the batch, by modality."""
    seen = {}
    for m in MODALITIES:
        rows = torch.cat([scan.rows[m].rows.detach() for scan in batch])
        counts = torch.cat([scan.rows[m].counts for scan in batch])
        seen[f"variance_{m}"] = feature_variance(rows, counts)
        seen[f"rank_{m}"] = effective_rank(rows, counts)
    return seen


def _nearest(
    rows: Float[Tensor, "R D"], queue: FeatureQueue, scan: int, config: TrainingConfig
) -> tuple[Float[Tensor, "R D"], Float[Tensor, " R"]]:
    """The nearest bank row of each row, and 1 where that is of the same scan."""
    bank, scans = queue.held
    allowed = scans != scan if config.exclude_same_scan else None
    index = nearest_index(rows, bank, allowed)
    return bank[index], (scans[index] == scan).to(rows)


def _add(seen: dict[str, float], name: str, value: float) -> None:
    seen[name] = seen.get(name, 0.0) + value
