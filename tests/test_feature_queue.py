from collections import deque

import pytest
import torch
from torch import Tensor

from lsfa_lib.adaptation.feature_queue import FeatureQueue
from lsfa_lib.storage.files import InputError

SIZES = [3, 1, 5, 0, 7, 2, 2, 13, 1, 6, 7, 29, 4]


def numbered(start: int, n: int, width: int = 2) -> Tensor:
    """Rows start, start + 1, ... so that each tells when it was put in."""
    return torch.arange(start, start + n).float()[:, None].repeat(1, width)


def pairs(queue: FeatureQueue) -> list[tuple[float, int]]:
    rows, scans = queue.held
    assert (rows == rows[:, :1]).all()
    return sorted(zip(rows[:, 0].tolist(), scans.tolist(), strict=True))


@pytest.mark.parametrize("capacity", [1, 2, 5, 7, 14, 100])
def test_the_queue_holds_what_a_deque_holds_after_every_step(capacity):
    queue, reference, put = FeatureQueue(capacity, 2), deque(maxlen=capacity), 0
    for scan, n in enumerate(SIZES):
        queue.enqueue(numbered(put, n), scan)
        reference.extend((float(i), scan) for i in range(put, put + n))
        put += n
        assert pairs(queue) == sorted(reference)
        assert len(queue) == len(reference)
        assert int(queue.written) == put


def test_rows_leave_in_the_order_they_came():
    queue = FeatureQueue(5, 2)
    queue.enqueue(numbered(0, 5), 0)
    for newest in range(5, 18):
        queue.enqueue(numbered(newest, 1), newest)
        assert [row for row, _ in pairs(queue)] == list(range(newest - 4, newest + 1))


def test_more_rows_than_capacity_keep_the_last_and_the_order_of_eviction():
    queue = FeatureQueue(4, 2)
    queue.enqueue(numbered(0, 3), 1)
    queue.enqueue(numbered(3, 11), 2)
    assert pairs(queue) == [(10, 2), (11, 2), (12, 2), (13, 2)]
    queue.enqueue(numbered(14, 1), 3)
    assert pairs(queue) == [(11, 2), (12, 2), (13, 2), (14, 3)]


def test_an_empty_queue_holds_no_rows():
    rows, scans = FeatureQueue(3, 6).held
    assert rows.shape == (0, 6)
    assert scans.shape == (0,)


def test_nothing_is_allocated_anew():
    queue = FeatureQueue(7, 2)
    before = [buffer.data_ptr() for buffer in queue.buffers()]
    for scan, n in enumerate(SIZES):
        queue.enqueue(numbered(0, n), scan)
        assert queue.held[0].data_ptr() == before[0]
    assert [buffer.data_ptr() for buffer in queue.buffers()] == before


def test_held_rows_are_copies_without_gradient():
    queue, rows = FeatureQueue(7, 2), numbered(0, 5).requires_grad_()
    queue.enqueue(2 * rows, 0)
    held = queue.held[0]
    assert not held.requires_grad
    weight = torch.ones(2, requires_grad=True)
    (held @ weight).sum().backward()
    assert rows.grad is None
    source = numbered(5, 2)
    queue.enqueue(source, 1)
    source.fill_(-1)
    assert (queue.held[0] >= 0).all()


@pytest.mark.parametrize("steps", [0, 1, 4, len(SIZES)])
def test_a_restored_queue_goes_on_like_the_first(steps):
    first, second = FeatureQueue(7, 2), FeatureQueue(7, 2)
    for scan in range(steps):
        first.enqueue(numbered(100 * scan, SIZES[scan]), scan)
    assert set(first.state_dict()) == {"rows", "scans", "written"}
    second.load_state_dict(first.state_dict())
    for scan in range(3, 9):
        for queue in (first, second):
            queue.enqueue(numbered(1000 * scan, SIZES[scan]), scan)
        assert len(first) == len(second)
        for ours, theirs in zip(first.held, second.held, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_take_the_precision_of_the_queue(dtype):
    queue = FeatureQueue(5, 2).to(dtype)
    queue.enqueue(numbered(0, 3) / 3, 1)
    rows, scans = queue.held
    assert rows.dtype == dtype and scans.dtype == queue.written.dtype == torch.long
    assert torch.equal(rows, (numbered(0, 3) / 3).to(dtype))
    plain = FeatureQueue(5, 2)
    plain.enqueue(rows, 1)
    assert plain.held[0].dtype == torch.float32
    assert torch.equal(plain.held[0], rows.float())


@pytest.mark.parametrize("capacity", [0, -3])
def test_a_queue_without_room_is_refused(capacity):
    with pytest.raises(InputError, match=f"capacity of {capacity} rows, expected at least 1"):
        FeatureQueue(capacity, 2)
