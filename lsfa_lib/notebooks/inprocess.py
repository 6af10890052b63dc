"""A papermill engine that runs cells in this process instead of starting a kernel.

It drives `ipykernel.inprocess`, so outputs are those of a kernel and imports are paid once for all
notebooks of a worker. A notebook's effects on the process are undone; imported modules stay. Not
recorded: what C code or a child process writes past `sys.stdout`.
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
from typing import Any

import pandas
from ipykernel.inprocess import BlockingInProcessKernelClient, InProcessKernelManager
from ipykernel.inprocess.ipkernel import InProcessInteractiveShell
from ipykernel.iostream import OutStream
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete
from nbformat import NotebookNode
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from traitlets.config import Config

from lsfa_lib.storage.files import progress_told_to

ENGINE = "in-process"
_one_at_a_time = threading.Lock()  # The shell, sys.stdout and __main__ belong to the process.


class Stream(OutStream):
    """Output of cells; what a log handler writes after the notebook goes to the real stream."""

    def write(self, text: str) -> int:
        """Adds the text to the outputs of the running cell."""
        if self.pub_thread.thread.is_alive():
            return super().write(text)
        return int(getattr(sys, f"__{self.name}__").write(text))


class InProcess(Engine):  # type: ignore[misc]
    """Executes a notebook in this process, in the calling thread."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, **_: Any
    ) -> None:
        """Fills the outputs; cells after one that fails are not run."""
        with _one_at_a_time, _restored_process():
            with _kernel() as client:
                _run_cells(nb_man, client)
            del client
            gc.collect()


def _run_cells(manager: NotebookExecutionManager, client: BlockingInProcessKernelClient) -> None:
    recorder = NotebookClient(manager.nb, record_timing=False)
    for index, cell in enumerate(manager.nb.cells):
        manager.cell_start(cell, index)
        failed = False
        if cell.cell_type == "code" and cell.source.strip():
            failed = not _execute(client, recorder, cell, index)
        if failed:
            manager.cell_exception(cell, index)
        manager.cell_complete(cell, index)
        if failed:
            break


def _execute(
    client: BlockingInProcessKernelClient, recorder: NotebookClient, cell: NotebookNode, index: int
) -> bool:
    """Runs a cell, fills its outputs, and returns whether it succeeded."""
    recorder.clear_before_next_output = False
    client.execute(cell.source, allow_stdin=False)
    for stream in (client.kernel.stdout, client.kernel.stderr):
        stream.flush()  # Returns when every message has arrived.
    for message in client.iopub_channel.get_msgs():
        with suppress(CellExecutionComplete):
            recorder.process_message(message, cell, index)
    return client.get_shell_msg()["content"]["status"] == "ok"


def _run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Result of a cell with a top-level `await`; the event loop of this thread is busy with it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


async def _cancel_tasks() -> None:
    """Ends the other tasks of the event loop; one that is dropped unfinished is reported."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.wait(others)


@contextmanager
def _kernel() -> Iterator[BlockingInProcessKernelClient]:
    """A client of a fresh kernel; every reference to it and its variables is dropped afterwards."""
    options = {
        "HistoryManager": {"enabled": False},
        "InteractiveShell": {"loop_runner": _run_coroutine},
    }
    manager = InProcessKernelManager(config=Config(options))
    manager.start_kernel()
    kernel = manager.kernel
    for name in ("stdout", "stderr"):
        stream = Stream(kernel.session, kernel.iopub_thread, name, watchfd=False)
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
        kernel.shell.user_module.__dict__.clear()
        kernel.shell.restore_sys_module_state()
        for registered in (kernel.shell.atexit_operations, kernel.iopub_thread.stop):
            atexit.unregister(registered)
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
    # As in a kernel, which has no terminal: 80 columns, and pandas leaves out no table column.
    os.environ.update(COLUMNS="80", LINES="24", PYDEVD_DISABLE_FILE_VALIDATION="1")
    tables = pandas.option_context("display.max_columns", 20)
    try:
        # catch_warnings also lets a warning that an earlier notebook raised appear again.
        with warnings.catch_warnings(), progress_told_to(_ignore_progress), tables:
            yield
    finally:
        sys.stdout, sys.stderr, sys.displayhook = streams
        sys.modules["__main__"], sys.path[:] = main, path
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)


papermill_engines.register(ENGINE, InProcess)
