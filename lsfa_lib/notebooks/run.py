"""A notebook of the project, executed with parameters."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from lsfa_lib.notebooks.find import parameters_of
from lsfa_lib.notebooks.inprocess import ENGINE
from lsfa_lib.storage.files import InputError, atomic_write


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels of the running interpreter, not of the user's `python3` kernel."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Without folders to search, `python3` can only be the ipykernel of this environment.
        self.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])


IN_PROCESS = {"engine_name": ENGINE, "kernel_name": "python3", "progress_bar": False}


def _in_kernel(name: str) -> dict[str, Any]:
    """Options of papermill for a run in a kernel, with a progress bar of that name."""
    return {
        "kernel_name": "python3",
        "kernel_manager_class": ThisInterpreter,
        # The kernel's own log is about its sockets; what a cell raises is in the cell.
        "extra_arguments": ["--IPKernelApp.log_level=CRITICAL"],
        # The explorer's state would be 10 MB, and no page can use it.
        "store_widget_state": False,
        "progress_bar": {
            "desc": name,
            "delay": 1.0,
            "leave": False,
            "disable": not sys.stderr.isatty(),
        },
    }


def execute(notebook: Path, folder: Path, parameters: dict[str, Any], kernel: bool = True) -> Path:
    """Runs a notebook with parameters into `folder/notebook.ipynb` and returns that path.

    Without a kernel the cells run in this process, which saves a kernel's start and its imports.
    Raises InputError for a parameter the notebook does not declare, before any cell runs, and when
    a cell fails: then `folder/notebook-failed.ipynb` holds the cells up to the error.
    """
    known = parameters_of(notebook)
    for name in parameters:
        if name not in known:
            raise InputError(
                f"{notebook.name} has no parameter {name!r}; it takes {', '.join(known)}"
            )
    # Its warnings are about channels of widgets; failures are raised.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    path, failed = folder / "notebook.ipynb", folder / "notebook-failed.ipynb"
    with atomic_write(path) as file:
        try:
            papermill.execute_notebook(
                notebook, file, parameters, **(_in_kernel(folder.name) if kernel else IN_PROCESS)
            )
        except PapermillExecutionError as error:
            file.replace(failed)
            reason = str(error.evalue).rstrip(".")
            if error.ename != InputError.__name__:
                reason = f"{notebook.name} failed with {error.ename}: {reason}"
            raise InputError(f"{reason} (the cells up to the error: {failed})") from error
        except DeadKernelError as error:
            file.replace(failed)
            raise InputError(
                f"{notebook.name}: its Python process was killed, most likely for lack of memory; "
                f"choose a smaller image size (the cells run so far: {failed})"
            ) from error
    failed.unlink(missing_ok=True)
    return path
