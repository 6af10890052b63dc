"""Worker processes of this machine are forks of one process that has imported what they need.

So imports are paid once, not once a worker, and while the calling process does its own; and forks
end at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker

from dask.system import CPU_COUNT

METHOD = "forkserver"
IMPORTED = [
    "lsfa_lib.studies.sweep_worker",
    "lsfa_lib.notebooks.run",
    "lsfa_lib.pages.report",
    "lsfa_lib.pipeline",
]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def begin(workers: int) -> int:
    """Starts that process, unless there is one; the threads of each of so many workers.

    Returns at once: the imports go on beside what comes next.
    """
    threads = max(1, CPU_COUNT // workers)
    before = {name: os.environ.get(name) for name in _THREADS}
    # Numeric libraries read these when they are loaded.
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    multiprocessing.get_context(METHOD).set_forkserver_preload(IMPORTED)
    try:
        with interrupts_heard_here():
            forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return threads


@contextmanager
def interrupts_heard_here() -> Iterator[None]:
    """Threads and processes started inside do not hear Ctrl-C: the calling thread alone does."""
    resource_tracker.ensure_running()  # Where it starts, it lifts the mask again.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
