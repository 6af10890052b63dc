"""One training step of the method, and the state it changes.

`Trainer.step`: draw patches of a batch of scans -> adapt them -> the losses of `objective`, against
feature queues that do not hold the batch yet -> backward -> AdamW -> enqueue the batch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from lsfa_lib.adaptation import objective, schedule
from lsfa_lib.adaptation.adaptors import Adaptors, ScanRows, sampled
from lsfa_lib.adaptation.monitors import collapse
from lsfa_lib.adaptation.objective import AdaptedScan, FeatureQueues
from lsfa_lib.config import TrainingConfig
from lsfa_lib.records import Modality

Step = dict[str, float]
"""Loss terms, learning rate, gradient norm and collapse monitors of one step."""


@dataclass(frozen=True)
class Task:
    """What is trained, and the rows it is trained on."""

    adaptors: Adaptors
    source: Callable[[int], dict[Modality, ScanRows]]
    """Rows of training scan i before adaptation; they may carry gradients to a backbone."""
    names: tuple[str, ...]
    """Of the training scans."""
    backbones: nn.Module | None = None
    """Trained together with the adaptors: its parameters that require a gradient."""
    after_step: Callable[[int], None] | None = None
    """Called with the number of steps made, after each of them, while its gradients exist."""
    key: str = ""
    """Identifies how the rows were made: a checkpoint is resumed by its own training only."""

    @property
    def network(self) -> nn.ModuleList:
        """Everything that may be trained."""
        return nn.ModuleList([self.adaptors] + ([self.backbones] if self.backbones else []))


class Trainer:
    """A task in training: its feature queues, its optimiser and its history.

    Every random draw depends on (seed, step, scan), so a resumed training computes the same
    numbers.
    """

    def __init__(self, task: Task, config: TrainingConfig, seed: int) -> None:
        self.task, self.seed = task, seed
        self.history: list[Step] = []
        scans = len(task.names)
        self.config, notes = schedule.fitted_schedule(config, scans)
        patches, rows = self._epoch()
        self.config, bank_notes = schedule.fitted_banks(self.config, scans, patches)
        self.notes = notes + bank_notes
        """Deviations from the config, with the reason."""
        # Image tokens that four patches share take one place in the queue.
        local = {m: max(1, self.config.local_queue * rows[m] // patches) for m in rows}
        queues = FeatureQueues(task.adaptors.dims, local, self.config.global_queue)
        self.queues = queues.to(next(task.adaptors.parameters()))
        self.optimiser = torch.optim.AdamW(
            [p for p in task.network.parameters() if p.requires_grad],
            config.learning_rate,
            config.betas,
            weight_decay=config.weight_decay,
        )

    @torch.no_grad()
    def _epoch(self) -> tuple[int, dict[Modality, int]]:
        """Patches that step 0 would draw from all scans, and their distinct rows by modality."""
        patches, rows = 0, dict.fromkeys(self.task.adaptors.dims, 0)
        for scan in range(len(self.task.names)):
            drawn = self.drawn(scan, 0)
            patches += _patches(drawn)
            for m, own in drawn.items():
                rows[m] += len(own.rows)
        return patches, rows

    def drawn(self, scan: int, step: int) -> dict[Modality, ScanRows]:
        """Rows of `patches_per_scan` random valid patches, the same in every modality."""
        rows, wanted = self.task.source(scan), self.config.patches_per_scan
        patches = _patches(rows)
        if not 0 < wanted < patches:
            return rows
        order = torch.randperm(patches, generator=schedule.generator_of(self.seed, step, scan))
        chosen = order[:wanted].sort().values
        return {m: sampled(s, chosen.to(s.index.device)) for m, s in rows.items()}

    def adapted(self, scan: int, step: int) -> AdaptedScan:
        """Those rows, adapted, and their instance features."""
        rows = self.drawn(scan, step)
        return objective.adapted_scan(
            self.task.adaptors, scan, rows, self.config.instances, self.seed
        )

    @torch.no_grad()
    def fill(self) -> None:
        """Enqueues scans until the queues are full or every scan is in.

        Starts from the end of the first epoch, as if its scans had just been seen: none that is
        about to be queried is in while others are left.
        """
        for scan in reversed(schedule.epoch_order(0, len(self.task.names), self.seed)):
            self.queues.enqueue(self.adapted(scan, -1), into_full=False)
            if self.queues.full:
                return

    def step(self) -> str:
        """One update of the weights; why the training must stop, "" if it need not."""
        step, optimiser = len(self.history), self.optimiser
        rate = schedule.learning_rate(step, self.config)
        for group in optimiser.param_groups:
            group["lr"] = rate
        # Once per batch: before every part, as in the public code, accumulation would do nothing.
        optimiser.zero_grad(set_to_none=True)
        batch, values = self._backward_batch(step)
        parameters = optimiser.param_groups[0]["params"]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or math.inf))
        if not math.isfinite(values["loss"] + norm):
            return (
                f"the loss is {values['loss']} and the gradient's norm {norm}; lower "
                "training.learning_rate, set training.clip_norm, or look for NaN in the features"
            )
        optimiser.step()
        if self.task.after_step:
            self.task.after_step(step + 1)
        # Only now: before, a query would find itself.
        for scan in batch:
            self.queues.enqueue(scan)
        monitors = {
            "learning_rate": rate,
            "gradient_norm": norm,
            **objective.spread_monitors(batch),
        }
        self.history.append(values | monitors)
        return collapse(self.history, self.task.adaptors.dims)

    def _backward_batch(self, step: int) -> tuple[list[AdaptedScan], Step]:
        """The batch of a step, part by part; its mean gradient is left in the parameters."""
        scans = schedule.batch_scans(step, len(self.task.names), self.config.batch, self.seed)
        size = math.ceil(len(scans) / self.config.accumulate)
        batch: list[AdaptedScan] = []
        means: Step = defaultdict(float)
        for first in range(0, len(scans), size):
            part = scans[first : first + size]
            adapted, values = self._backward(part, step, len(part) / len(scans))
            batch += adapted
            for name, value in values.items():
                means[name] += value * len(part) / len(scans)
        return batch, dict(means)

    def _backward(
        self, scans: list[int], step: int, share: float
    ) -> tuple[list[AdaptedScan], Step]:
        """Adds `share` times the gradient of these scans; the scans, adapted, and their terms."""
        weights = self.config.weights
        aligned = weights.la or weights.ga
        if aligned and step < self.config.compactness_from:
            weights = replace(weights, lc=0.0, gc=0.0)
        device = next(self.task.adaptors.parameters()).device.type
        low = self.config.mixed_precision and device != "cpu"
        with torch.autocast(device, torch.bfloat16, enabled=low):
            part = [self.adapted(scan, step) for scan in scans]
        if low:
            part = [objective.in_single_precision(scan) for scan in part]
        terms, seen = objective.batch_terms(
            part, self.task.adaptors, self.queues, self.config, weights
        )
        loss = objective.total(terms, weights)
        torch.autograd.backward(share * loss)
        values = {name: float(term.detach()) for name, term in terms.items()}
        return part, {"loss": float(loss.detach()), **seen, **values}


def _patches(rows: dict[Modality, ScanRows]) -> int:
    """Valid patches of a scan: as many in every modality."""
    return len(next(iter(rows.values())).index)
