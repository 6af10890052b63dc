"""A papermill engine that executes cells in the running process, where a kernel would be started.

A worker that executes one notebook after the other pays imports once and a kernel's start never.
Cells see what a kernel gives them, a fresh `__main__` included, and outputs are recorded as its
client records them. What a notebook leaves behind is taken back; imported modules stay, which is
the point. Not recorded: what C code or a child process writes past `sys.stdout`.
"""

from __future__ import annotations

import atexit
import gc
import io
import linecache
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import pandas
from ipykernel.jsonutil import encode_images, json_clean
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat import NotebookNode, v4
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from traitlets import Type
from traitlets.config import Config

from lsfa_lib.storage.files import progress_reported_to

ENGINE = "in-process"
QUICK_S = 0.05
_clean: Any = json_clean
_encode: Any = encode_images
_output: Any = v4.new_output
_LAST = ("last_type", "last_value", "last_traceback", "last_exc")
_one_at_a_time = threading.Lock()  # The shell, sys.stdout and __main__ belong to the process.


class Record:
    """The outputs of the cell that runs now."""

    def __init__(self) -> None:
        self.outputs: list[NotebookNode] = []
        self.by_display: dict[str, list[NotebookNode]] = {}
        self.clear_first = False

    def add(self, output: NotebookNode) -> None:
        """The next output; a stream goes on in that of its name, as if both were buffered."""
        if self.clear_first:
            self.clear()
        streams = takewhile(lambda o: o.output_type == "stream", reversed(self.outputs))
        if output.output_type == "stream":
            for last in streams:
                if last.name == output.name:
                    last.text += output.text
                    return
        self.outputs.append(output)

    def clear(self, wait: bool = False) -> None:
        """No outputs, at once or as soon as there is another one."""
        self.clear_first = wait
        if not wait:
            self.outputs.clear()


class Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of cells; whoever keeps it for later writes to the real one."""

    encoding = "utf-8"

    def __init__(self, name: str, record: Record) -> None:
        self.name = name
        self.record: Record | None = record

    def write(self, text: str) -> int:
        """Adds the text to the cell's outputs."""
        if self.record is None:
            return int(getattr(sys, f"__{self.name}__").write(text))
        if text:
            self.record.add(_output("stream", name=self.name, text=text))
        return len(text)

    def writable(self) -> bool:
        """True."""
        return True


def _shown(kind: str, data: Any, metadata: Any, **more: Any) -> NotebookNode:
    """An output of several mimetypes, pictures as text."""
    return _output(kind, data=_clean(_encode(data)), metadata=metadata or {}, **more)


class Publisher(DisplayPublisher):
    """Records what `display(...)` and `figure.show()` give."""

    def publish(self, data: Any, metadata: Any = None, *_: Any, **how: Any) -> None:
        """One more output, or new data in those that carry the same display id."""
        record, name = self.shell.record, (how.get("transient") or {}).get("display_id")
        output = _shown("display_data", data, metadata)
        if how.get("update"):
            for earlier in record.by_display.get(name, []):
                earlier.update(output)
            return
        record.add(output)
        if name:
            record.by_display.setdefault(name, []).append(output)

    def clear_output(self, wait: bool = False) -> None:
        """Takes back what the cell has put out so far."""
        self.shell.record.clear(wait)


class Hook(DisplayHook):
    """Records the value of a cell's last expression."""

    def write_output_prompt(self) -> None:
        """Nothing: the count is part of the output."""

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        """The value as `execute_result`."""
        shell: Any = self.shell
        count = {"execution_count": self.prompt_count}
        shell.record.add(_shown("execute_result", format_dict, md_dict, **count))

    def finish_displayhook(self) -> None:
        """Nothing is written."""
        self._is_active = False


class Shell(InteractiveShell):
    """An IPython shell that records outputs and keeps no history."""

    displayhook_class = Type(Hook)
    display_pub_class = Type(Publisher)

    def __init__(self, folder: str) -> None:
        self.record = Record()
        config = Config()
        config.HistoryManager.enabled = False
        super().__init__(config=config, ipython_dir=folder)  # type: ignore[no-untyped-call]

    def init_virtualenv(self) -> None:
        """Nothing: the process has its path already."""

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        self.record.add(_output("error", ename=etype.__name__, evalue=str(evalue), traceback=stb))

    def execute(self, cell: NotebookNode) -> bool:
        """Runs a cell, fills its outputs, and says whether it came to its end."""
        cell.execution_count = self.execution_count
        cell.outputs = []
        self.record.outputs, self.record.clear_first = cell.outputs, False
        found = self.run_cell(cell.source, store_history=True)  # type: ignore[no-untyped-call]
        return bool(found.success)


class Sparing(NotebookExecutionManager):  # type: ignore[misc]
    """Saves the notebook at every step, once that is slow for at most a tenth of the time."""

    _saved, _took = 0.0, 0.0

    def save(self, **_: Any) -> None:
        """Writes the notebook, unless that was done just now."""
        start = time.monotonic()
        recent = start - self._saved < 10 * self._took
        if self.end_time is not None or self._took < QUICK_S or not recent:
            super().save()
            self._saved = time.monotonic()
            self._took = self._saved - start


class InProcess(Engine):  # type: ignore[misc]
    """Executes a notebook in this process and in the calling thread, whichever that is."""

    @classmethod
    def execute_notebook(
        cls, nb: NotebookNode, kernel_name: str, output_path: str | None = None, **_: Any
    ) -> NotebookNode:
        """The notebook with its outputs; after a cell that fails, those behind it are left out."""
        manager = Sparing(nb, output_path=output_path, progress_bar=False)
        manager.notebook_start()
        try:
            with _one_at_a_time, _process_as_before(), fresh_shell() as shell:
                _run_cells(manager, shell)
            del shell
        finally:
            manager.notebook_complete()
            gc.collect()
        return manager.nb


def _run_cells(manager: NotebookExecutionManager, shell: Shell) -> None:
    for index, cell in enumerate(manager.nb.cells):
        manager.cell_start(cell, index)
        is_code = cell.cell_type == "code" and cell.source.strip()
        failed = is_code and not shell.execute(cell)
        if failed:
            manager.cell_exception(cell, index)
        manager.cell_complete(cell, index)
        if failed:
            break


@contextmanager
def fresh_shell() -> Iterator[Shell]:
    """A shell with an empty namespace, and standard output going to it; nothing of it remains."""
    with tempfile.TemporaryDirectory(prefix="lsfa-shell-") as folder:
        shells: Any = InteractiveShell  # Whoever displays something asks it for the one shell.
        before, shell = shells._instance, Shell(folder)
        streams = [Stream(name, shell.record) for name in ("stdout", "stderr")]
        shells._instance = shell
        sys.stdout, sys.stderr = streams
        try:
            yield shell
        finally:
            shells._instance = before
            for stream in streams:
                stream.record = None
            _let_go(shell)


def _let_go(shell: Shell) -> None:
    """Drops every reference the process keeps to a shell and to what its cells made."""
    atexit.unregister(shell.atexit_operations)
    shell.restore_sys_module_state()  # type: ignore[no-untyped-call]
    for name in shell.compile._filename_map:
        linecache.cache.pop(name, None)
    shell.user_module.__dict__.clear()
    shell.user_ns.clear()
    for name in _LAST:
        if hasattr(sys, name):
            delattr(sys, name)


def _nobody(label: str, done: int, total: int) -> None:
    """Listens to progress without a word."""


@contextmanager
def _process_as_before() -> Iterator[None]:
    """Puts back what a notebook may change around itself: environment, folder, path, streams."""
    environment, folder, path = dict(os.environ), os.getcwd(), list(sys.path)  # noqa: PTH109
    streams, main = (sys.stdout, sys.stderr, sys.displayhook), sys.modules["__main__"]
    # A kernel has no terminal: lines are 80 wide, and pandas cuts no table to what fits one.
    os.environ.update(COLUMNS="80", LINES="24")
    tables = pandas.option_context("display.max_columns", 20)
    try:
        # Bars are for a terminal. Leaving the warnings' filters alone would also keep a warning
        # from coming again that an earlier notebook has seen.
        with warnings.catch_warnings(), progress_reported_to(_nobody), tables:
            yield
    finally:
        sys.stdout, sys.stderr, sys.displayhook = streams
        sys.modules["__main__"], sys.path[:] = main, path
        os.chdir(folder)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)


papermill_engines.register(ENGINE, InProcess)
