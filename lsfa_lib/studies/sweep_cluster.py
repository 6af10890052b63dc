"""Jobs on dask workers: processes of this machine, or those of a scheduler that runs elsewhere."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, wait
from distributed.scheduler import KilledWorker

from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import free_memory
from lsfa_lib.studies import prefork
from lsfa_lib.studies.study_runs import Job
from lsfa_lib.studies.sweep_worker import TOPIC, Outcome, failed, lost, perform, tidy
from lsfa_lib.studies.watch import Watch

GUARD = 'in a script, put the code that starts runs under `if __name__ == "__main__":`'
DEATHS = 3
"""Workers that a run may cost before it counts as failed."""
POLL_S = 2.0
"""How soon workers that join get their first job."""
RunAll = Callable[[Sequence[Job]], Iterator[tuple[Job, Outcome]]]
_Client: Any = Client  # Calls of these carry no types.
_LocalCluster: Any = LocalCluster
_wait: Any = wait


@contextmanager
def crew(workers: int, scheduler: str, watch: Watch, peak_mb: float = 0.0) -> Iterator[RunAll]:
    """A function that runs jobs and yields each with its outcome, as they are finished.

    They run in `workers` processes that share this machine's cores, or on the workers of the dask
    scheduler at that address. On this machine as many run at a time as fit its free memory, by the
    largest run so far or by `peak_mb` of earlier ones. What Ctrl-C leaves half-written here is
    deleted.
    """
    begun: dict[str, Job] = {}
    room_mb = math.inf if scheduler else free_memory() / 1e6
    try:
        with _client(workers, scheduler) as client:

            def hear(event: tuple[Any, dict[str, Any]]) -> None:
                run, where = event[1]["said"]
                # Others may run theirs on the same scheduler.
                if run in begun:
                    watch.heard(run, where)

            def run_all(jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
                begun.update((job.folder.name, job) for job in jobs)
                for job, outcome in _performed(client, deque(jobs), watch, room_mb, peak_mb):
                    watch.finished(job.folder, outcome.seconds, outcome.error)
                    yield job, outcome

            client.subscribe_topic(TOPIC, hear)
            yield run_all
    except KeyboardInterrupt:
        for job in () if scheduler else begun.values():
            tidy(job.folder)
        raise
    finally:
        watch.close()


@contextmanager
def _client(workers: int, scheduler: str) -> Iterator[Any]:
    """A client of that scheduler, or of as many workers of this machine."""
    if scheduler:
        try:
            client = _Client(scheduler, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no scheduler answers at {scheduler}; start one with `dask scheduler`, or leave "
                "--scheduler out"
            ) from error
        with client:
            yield client
        return
    settings: dict[str, Any] = {
        # A killed run is repeated by `_performed`, with fewer runs at a time, not by dask.
        "distributed.scheduler.allowed-failures": 0,
        # A process of this machine that dies is noticed at once; one that is silent works.
        "distributed.scheduler.worker-ttl": None,
        # Its samples of call stacks are kept, about 1 MB for each run.
        "distributed.worker.profile.enabled": False,
        "distributed.worker.multiprocessing-method": prefork.METHOD,
        # Forks have the environment their server was started with.
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.nanny.environ": dict(os.environ),
    }
    # A worker that is starting runs a script without a guard a second time, up to here.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(GUARD)
    prefork.begin(workers)
    with dask.config.set(settings), prefork.ignoring_interrupts():
        cluster = _local_cluster(workers)
    with dask.config.set(settings), cluster, _Client(cluster, set_as_default=False) as client:
        yield client


def _local_cluster(workers: int) -> Any:
    """Worker processes of this machine. Raises InputError where none can start."""
    try:
        return _LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            # What a worker holds after a run cannot be spilled: it would wait forever.
            memory_limit=None,
            # No dashboard; what dask serves all the same takes any free port, for this machine.
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.CRITICAL,
        )
    except RuntimeError as error:
        raise InputError(f"worker processes cannot start ({error}); {GUARD}") from error


def at_a_time(workers: int, peak_mb: float, room_mb: float) -> int:
    """How many runs fit `room_mb` if each needs `peak_mb`; at least one, at most the workers."""
    return max(1, workers if peak_mb * workers <= room_mb else int(room_mb / peak_mb))


def needed_mb(outcome: Outcome, most: int, room_mb: float) -> float:
    """Memory to expect of a run, MB; where it was killed, what lets one fewer than `most` fit.

    `room_mb` is infinite where workers run on other machines, whose memory is not known.
    """
    known = outcome.killed and math.isfinite(room_mb)
    return room_mb / max(1, most - 1) if known else outcome.peak_mb


def _performed(
    client: Any, waiting: deque[Job], watch: Watch, room_mb: float, peak_mb: float
) -> Iterator[tuple[Job, Outcome]]:
    """Each job with its outcome, at most one job for each worker at a time.

    If more waited in a worker's queue, all of them would be blamed for the one that kills it. A run
    is expected to need as much memory as the largest before it, the first one `peak_mb`; after one
    was killed, one fewer runs at a time, and the killed run is repeated.
    """
    running: dict[Any, Job] = {}
    deaths: Counter[Path] = Counter()
    warned, workers = False, len(client.nthreads())
    if at_a_time(workers, peak_mb, room_mb) < workers:
        watch.say(_fewer(workers, peak_mb, room_mb, killed=False))
    try:
        while waiting or running:
            workers = len(client.nthreads())
            if not workers and not warned:
                warned = True
                watch.say("the scheduler has no workers yet; waiting for one (Ctrl-C stops)")
            while waiting and len(running) < at_a_time(workers, peak_mb, room_mb):
                job = waiting.popleft()
                running[client.submit(perform, job, pure=False)] = job
            with suppress(TimeoutError), client.as_current():
                _wait(list(running), timeout=POLL_S, return_when="FIRST_COMPLETED")
            for future in [future for future in running if future.done()]:
                job = running.pop(future)
                outcome = _outcome(future, job, deaths)
                if not outcome:
                    # Another sweep executes this run: other jobs come before waiting for it.
                    waiting.append(replace(job, wait_for_lock=True))
                    continue
                most = at_a_time(workers, peak_mb, room_mb)
                peak_mb = max(peak_mb, needed_mb(outcome, most, room_mb))
                if at_a_time(workers, peak_mb, room_mb) < most:
                    watch.say(_fewer(workers, peak_mb, room_mb, outcome.killed))
                if outcome.killed and deaths[job.folder] < DEATHS:
                    waiting.appendleft(job)
                else:
                    yield job, outcome
    except (CancelledError, OSError) as error:
        raise InputError(
            "the scheduler went away; start it again and repeat the sweep: finished runs are kept"
        ) from error


def _fewer(workers: int, peak_mb: float, room_mb: float, killed: bool) -> str:
    """Why fewer runs than workers are executed at a time."""
    takes = f"a run takes {peak_mb / 1e3:.1f} GB of memory and {room_mb / 1e3:.1f} GB were free"
    reason = "a worker was killed, most likely for lack of memory" if killed else takes
    return f"{reason}: {at_a_time(workers, peak_mb, room_mb)} at a time instead of {workers}"


def _outcome(future: Any, job: Job, deaths: Counter[Path]) -> Outcome | None:
    """What became of a finished job; counts the workers that it cost."""
    try:
        return future.result()
    except KilledWorker as error:
        deaths[job.folder] += error.allowed_failures + 1
        return lost(job.folder, deaths[job.folder])
    except CancelledError:
        raise
    except Exception as error:  # A worker without this package, say: `perform` itself raises none.
        return failed(job.folder, error)
