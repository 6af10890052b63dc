"""The features of the latest training scans, which compactness compares new ones with."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lsfa_lib.storage.files import InputError


class FeatureQueue(nn.Module):
    """The last `capacity` feature rows enqueued, each with the training scan it came from.

    A ring buffer: row number n of all rows ever enqueued overwrites the oldest one at
    n mod capacity. Nothing is allocated after the start, and the rows carry no gradient.
    """

    rows: Tensor
    scans: Tensor
    written: Tensor
    """Rows ever enqueued, including those overwritten since."""

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__()
        if capacity < 1:
            raise InputError(
                f"the feature queue has a capacity of {capacity} rows, expected at least 1; raise "
                "training.local_queue or training.global_queue"
            )
        self.register_buffer("rows", torch.zeros(capacity, dim))
        self.register_buffer("scans", torch.zeros(capacity, dtype=torch.long))
        self.register_buffer("written", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, rows: Float[Tensor, "N D"], scan: int) -> None:
        """Copies `rows`, all of training scan `scan`, over the oldest; the last ones if too many.

        Rows are stored in the queue's own precision.
        """
        capacity = len(self.rows)
        end = int(self.written) + len(rows)
        rows = rows[-capacity:]
        first = (end - len(rows)) % capacity
        room = capacity - first
        for start, part in ((first, rows[:room]), (0, rows[room:])):
            self.rows[start : start + len(part)] = part
            self.scans[start : start + len(part)] = scan
        self.written.fill_(end)

    def __len__(self) -> int:
        return min(int(self.written), len(self.rows))

    @property
    def full(self) -> bool:
        """True where every further row overwrites an older one."""
        return len(self) == len(self.rows)

    @property
    def held(self) -> tuple[Float[Tensor, "H D"], Int[Tensor, " H"]]:
        """The rows in the queue, in no order, and the training scan of each.

        Views: the next `enqueue` writes over them.
        """
        return self.rows[: len(self)], self.scans[: len(self)]
