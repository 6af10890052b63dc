"""Jobs on dask workers: processes of this machine, or those of a scheduler that runs elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import dask
from distributed import Client, Future, LocalCluster
from distributed.scheduler import KilledWorker

from lsfa_lib.storage.files import InputError, progress
from lsfa_lib.studies import prefork
from lsfa_lib.studies.sweep_worker import Job, Outcome, failed, lost, perform

DEATHS = 3
"""Workers of this machine a run may cost before it counts as failed."""
_log = logging.getLogger(__name__)
_Client: Any = Client  # Calls of both carry no types.
_LocalCluster: Any = LocalCluster


@contextmanager
def cluster_client(workers: int, scheduler: str) -> Iterator[tuple[Any, int]]:
    """A client and the threads each of its workers takes, 0 where that is not ours to say."""
    if scheduler:
        try:
            client = _Client(scheduler, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no scheduler answers at {scheduler}; start one with `dask scheduler`, or leave "
                "--scheduler out"
            ) from error
        with client:
            yield client, 0
        return
    settings: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": DEATHS - 1,
        # A process of this machine that dies is noticed at once; one that is silent works.
        "distributed.scheduler.worker-ttl": None,
        "distributed.worker.multiprocessing-method": prefork.METHOD,
        # Forks have the environment their server was started with.
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.nanny.environ": dict(os.environ),
    }
    threads = prefork.begin(workers)
    with dask.config.set(settings), prefork.interrupts_heard_here():
        cluster: Any = _LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            # What a worker holds after a run cannot be spilled: it would wait for ever.
            memory_limit=None,
            # No dashboard; what dask serves all the same takes any free port, for this machine.
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.CRITICAL,
        )
    with dask.config.set(settings), cluster, _Client(cluster, set_as_default=False) as client:
        yield client, threads


class _Running:
    """Jobs on their way through a cluster, one a worker.

    Were there others in a worker's queue, they would be blamed together with the one that kills it.
    """

    def __init__(self, client: Any, jobs: list[Job]) -> None:
        self.client = client
        self.waiting = deque(jobs)
        self.begun = 0
        self.now: dict[Future[Outcome | None], Job] = {}
        self.done: SimpleQueue[Future[Outcome | None]] = SimpleQueue()
        self.bar: Any = None
        self.failures = 0
        self.no_workers = False

    def fill(self) -> None:
        """Gives each idle worker its next job, those that came lately too."""
        workers = len(self.client.nthreads())
        while self.waiting and len(self.now) < max(1, workers):
            job = self.waiting.popleft()
            future = self.client.submit(perform, job, pure=False, priority=-self.begun)
            self.begun += 1
            self.now[future] = job
            future.add_done_callback(self.done.put)
        if self.bar is not None:
            names = ", ".join(job.folder.name for job in self.now.values())
            said = f"now {names}" if workers else "waiting for workers"
            self.bar.set_postfix_str(f"{self.failures} failed, {said}")
        if not workers and not self.no_workers:
            self.no_workers = True
            _log.warning("the scheduler has no workers yet; waiting for the first (Ctrl-C ends it)")

    def __iter__(self) -> Iterator[tuple[Job, Outcome]]:
        """Each job with its outcome, as they are finished."""
        while self.waiting or self.now:
            self.fill()
            with suppress(Empty):
                future = self.done.get(timeout=2)
                job = self.now.pop(future)
                outcome = _outcome(future, job)
                if outcome is None:
                    # Another sweep is at it: this worker has others to do before it waits.
                    self.waiting.append(replace(job, wait_for_lock=True))
                    continue
                self.failures += outcome.state == "failed"
                self.fill()
                yield job, outcome


def performed(client: Any, jobs: list[Job]) -> Iterator[tuple[Job, Outcome]]:
    """Each job with its outcome, as they are finished; a terminal shows a bar."""
    running = _Running(client, jobs)
    outcomes: Iterable[tuple[Job, Outcome]] = running
    if sys.stderr.isatty():
        outcomes = running.bar = progress(running, "runs", total=len(jobs))
    try:
        yield from outcomes
    except (CancelledError, OSError) as error:
        raise InputError(
            "the scheduler went away; start it again and repeat the sweep: finished runs are kept"
        ) from error


def _outcome(future: Future[Outcome | None], job: Job) -> Outcome | None:
    try:
        return future.result()
    except KilledWorker as error:
        return lost(job.folder, error.allowed_failures + 1)
    except CancelledError:
        raise
    except Exception as error:  # A worker without this package, say: `perform` itself raises none.
        return failed(job.folder, error)
