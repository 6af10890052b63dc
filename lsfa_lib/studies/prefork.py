"""Worker processes of this machine are forks of one process that has imported what they need.

So imports are paid once, not once per worker, and while the calling process does its own; and
forks end at once.
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


def begin(workers: int) -> None:
    """Starts that process, unless it runs; each of so many workers takes its share of the cores.

    Returns at once: the imports continue in parallel with what comes next.
    """
    before = {name: os.environ[name] for name in _THREADS if name in os.environ}
    # Numeric libraries read these when they are loaded.
    os.environ.update(dict.fromkeys(_THREADS, str(max(1, CPU_COUNT // workers))))
    multiprocessing.get_context(METHOD).set_forkserver_preload(IMPORTED)
    try:
        with ignoring_interrupts():
            forkserver.ensure_running()
    finally:
        for name in _THREADS:
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Threads and processes started inside ignore Ctrl-C; only the calling thread receives it."""
    resource_tracker.ensure_running()  # Where it starts, it lifts the mask again.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
