"""A papermill engine that runs cells in this process instead of starting a kernel.

It drives `ipykernel.inprocess`, so outputs are those of a kernel, and imports are paid once by a
worker that executes many notebooks: 00_quickstart (preset tiny, one demo category, two busy cores)
takes 0.3 of the time it takes with a kernel. A notebook's effects on the process are undone;
imported modules stay. Not recorded: what C code or a child process writes past `sys.stdout`.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import sys
import threading
import warnings
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Any

import pandas
from ipykernel.inprocess import InProcessKernelManager
from ipykernel.inprocess.ipkernel import InProcessInteractiveShell
from ipykernel.iostream import OutStream
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete
from nbformat import NotebookNode
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from traitlets.config import Config

from lsfa_lib.storage.files import progress_reported_to

ENGINE = "in-process"
_one_at_a_time = threading.Lock()  # The shell, sys.stdout and __main__ belong to the process.


class Stream(OutStream):
    """Output of cells; what a log handler writes after the notebook goes to the real stream."""

    def write(self, text: str) -> int:
        """Adds the text to the outputs of the running cell."""
        if self.pub_thread.thread.is_alive():
            return int(super().write(text) or 0)
        return int(getattr(sys, f"__{self.name}__").write(text))


class InProcess(Engine):  # type: ignore[misc]
    """Executes a notebook in this process, in the calling thread."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, **_: Any
    ) -> None:
        """Fills the outputs of every cell up to the first that fails."""
        with _one_at_a_time, _restored_process():
            with _kernel() as client:
                recorder = NotebookClient(nb_man.nb, record_timing=False)
                path = nb_man.output_path
                for index, cell in enumerate(nb_man.nb.cells):
                    # Written once before each code cell, for a process that is killed in it;
                    # papermill would write the growing notebook twice for every cell.
                    nb_man.output_path = path if cell.cell_type == "code" else None
                    nb_man.cell_start(cell, index)
                    nb_man.output_path = None
                    succeeded = _execute(client, recorder, cell, index)
                    if not succeeded:
                        nb_man.cell_exception(cell, index)
                    nb_man.cell_complete(cell, index)
                    if not succeeded:
                        break
            del client
            gc.collect()


def _execute(client: Any, recorder: NotebookClient, cell: NotebookNode, index: int) -> bool:
    """Runs a cell, fills its outputs, and returns whether it succeeded."""
    if cell.cell_type != "code" or not cell.source.strip():
        return True
    recorder.clear_before_next_output = False
    client.execute(cell.source, allow_stdin=False)
    for stream in (client.kernel.stdout, client.kernel.stderr):
        stream.flush()  # Returns when every message has arrived.
    for message in client.iopub_channel.get_msgs():
        with suppress(CellExecutionComplete):
            recorder.process_message(message, cell, index)
    return bool(client.get_shell_msg()["content"]["status"] == "ok")


def _run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a cell with a top-level `await`; the loop of this thread already runs."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


async def _cancel_tasks() -> None:
    """Ends the other tasks of the event loop; asyncio reports a task that is dropped unfinished."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.wait(others)


@contextmanager
def _kernel() -> Iterator[Any]:
    """The client of a fresh kernel, to which and to whose variables no reference is left."""
    options = {
        "HistoryManager": {"enabled": False},
        "InteractiveShell": {"loop_runner": _run_coroutine},
    }
    manager: Any = InProcessKernelManager(config=Config(options))
    manager.start_kernel()
    kernel = manager.kernel
    for name in ("stdout", "stderr"):
        stream = Stream(kernel.session, kernel.iopub_thread, name, watchfd=False)  # type: ignore[no-untyped-call]
        setattr(kernel, name, stream)
    client = manager.client()
    client.start_channels()
    try:
        yield client
    finally:
        client.stop_channels()
        loop = kernel.iopub_thread.io_loop.asyncio_loop
        asyncio.run_coroutine_threadsafe(_cancel_tasks(), loop).result()
        manager.shutdown_kernel()
        kernel.shell.user_ns.clear()
        kernel.shell.restore_sys_module_state()
        atexit.unregister(kernel.shell.atexit_operations)
        atexit.unregister(kernel.iopub_thread.stop)
        InProcessInteractiveShell.clear_instance()
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)


def _ignore_progress(label: str, done: int, total: int) -> None:
    """Shows no progress bar."""


@contextmanager
def _restored_process() -> Iterator[None]:
    """Restores environment, working folder, import path, streams and warning filters."""
    environment, folder, path = dict(os.environ), os.getcwd(), list(sys.path)  # noqa: PTH109
    streams, main = (sys.stdout, sys.stderr, sys.displayhook), sys.modules["__main__"]
    tables = pandas.option_context("display.max_columns", 20)
    try:
        # catch_warnings also lets a warning that an earlier notebook raised appear again.
        with (
            warnings.catch_warnings(),
            progress_reported_to(_ignore_progress),
            tables,
            TemporaryDirectory() as profile,
        ):
            # As in a kernel, which has no terminal: 80 columns, and pandas leaves out no column.
            os.environ.update(COLUMNS="80", LINES="24", IPYTHONDIR=profile)
            # ipykernel imports a debugger, whose warnings concern nobody here.
            os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
            yield
    finally:
        sys.stdout, sys.stderr, sys.displayhook = streams
        sys.modules["__main__"], sys.path[:] = main, path
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)


papermill_engines.register(ENGINE, InProcess)
