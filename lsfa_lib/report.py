"""A notebook executed with parameters, and an executed notebook as one HTML page without network.

Pages need no server and ask nothing of any host: pictures and data lie in the page, plotly.js
either once beside all reports ("shared") or, compressed, in the page ("inline", for mailing).
"""

from __future__ import annotations

import base64
import gzip
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from markupsafe import Markup
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from plotly.offline import get_plotlyjs

from lsfa_lib.files import InputError, progress, write_whole
from lsfa_lib.findings import (
    BOTH,
    NAMES,
    Result,
    counts,
    flat,
    number,
    settings,
    shown,
    three_digits,
)
from lsfa_lib.gallery import TERMS, day, write_page
from lsfa_lib.gallery import write_index as write_index
from lsfa_lib.notebook_html import body_html, contents, thumbnail
from lsfa_lib.results import read_result

_SCRIPT = Path(__file__).parent / "templates" / "figures.js"
_log = logging.getLogger(__name__)


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels in the running interpreter, wherever a `python3` kernel points to."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Without folders to search, `python3` can only be the ipykernel of this environment.
        self.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])


def run_page(notebook: str, folder: Path, parameters: dict[str, Any]) -> Path:
    """Executes a notebook of the project by name and renders it; the path of `report.html`."""
    return render(execute(find_notebook(notebook), folder, parameters), folder / "report.html")


def run_pages(notebook: str, jobs: dict[Path, dict[str, Any]], workers: int) -> Iterator[Path]:
    """The pages of `run_page` for each folder and its parameters, as they are finished.

    `workers` notebooks run side by side and share the cores. The others go on when one fails; the
    first failure is raised at the end.
    """
    workers = min(workers, len(jobs))
    threads = max(1, (os.cpu_count() or 1) // workers)
    failures = []
    with ProcessPoolExecutor(workers, initializer=_use_threads, initargs=(threads,)) as pool:
        running = [pool.submit(run_page, notebook, folder, job) for folder, job in jobs.items()]
        for done in progress(as_completed(running), "runs", total=len(running)):
            if error := done.exception():
                failures.append(error)
            else:
                yield done.result()
    if failures:
        raise failures[0]


def _use_threads(count: int) -> None:
    """Kernels started from here take that many threads: two that take all only wait in turn."""
    os.environ["OMP_NUM_THREADS"] = str(count)


def find_notebook(name: str) -> Path:
    """`notebooks/<name>.ipynb` of the checkout, or of the working folder."""
    folders = [Path(__file__).parents[1] / "notebooks", Path("notebooks")]
    for folder in folders:
        if (folder / f"{name}.ipynb").exists():
            return folder / f"{name}.ipynb"
    raise InputError(f"notebooks/{name}.ipynb was not found; run from the project's folder")


def execute(notebook: Path, folder: Path, parameters: dict[str, Any]) -> Path:
    """Runs a notebook with parameters into `folder/notebook.ipynb` and returns that path.

    Raises InputError for a parameter the notebook does not declare, before anything runs, and
    when a cell fails: then `folder/notebook-failed.ipynb` holds the cells up to the error.
    """
    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise InputError(
                f"{notebook.name} has no parameter {name!r}; it takes {', '.join(known)}"
            )
    # Its warnings are about widgets' channels no page needs; failures are raised.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    path, failed = folder / "notebook.ipynb", folder / "notebook-failed.ipynb"
    with write_whole(path) as file:
        try:
            papermill.execute_notebook(
                notebook,
                file,
                parameters,
                kernel_name="python3",
                kernel_manager_class=ThisInterpreter,
                # The kernel's own log tells of its sockets, when it is stopped say; what a cell
                # raises comes with the cell.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
                progress_bar={
                    "desc": folder.name,
                    "delay": 1.0,
                    "leave": False,
                    "disable": not sys.stderr.isatty(),
                },
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
                f"choose a smaller image size (the cells up to then: {failed})"
            ) from error
    failed.unlink(missing_ok=True)
    return path


def render(
    notebook_path: Path,
    html_path: Path,
    plotly: Literal["shared", "inline"] = "shared",
    title: str = "",
) -> Path:
    """Writes an executed notebook as one page and returns its path.

    Numbers in its head and its provenance come from the result.json beside the notebook, where
    there is one. Writes `thumbnail.png` beside the page and, if shared, `plotly.min.js` in the
    reports folder.
    """
    try:
        notebook = nbformat.read(notebook_path, as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise InputError(f"{notebook_path} is not a readable notebook; run it again") from error
    source = notebook_path.parent / "result.json"
    result = read_result(source) if source.exists() else None
    picture = thumbnail(notebook)
    if picture:
        with write_whole(html_path.parent / "thumbnail.png") as file:
            file.write_bytes(picture)
    body = body_html(notebook)
    home = _reports_folder(html_path)
    write_page(
        html_path,
        "report.html.j2",
        title=title or (result["category"] if result else notebook_path.parent.name),
        eyebrow=_eyebrow(result),
        index=_relative(home / "index.html", html_path) if home != html_path.parent else "",
        random=[NAMES[m] for m, w in result["weights"].items() if w["random"]] if result else [],
        numbers=_numbers(result) if result else [],
        contents=contents(body),
        body=Markup(body),
        provenance=list(_provenance(notebook, result)),
        terms=TERMS,
        script=Markup(_SCRIPT.read_text(encoding="utf-8")),
        shared=_relative(_write_shared(home), html_path) if plotly == "shared" else "",
        packed=_packed_plotly() if plotly == "inline" else "",
    )
    return html_path


def rebuild(reports: Path) -> Path:
    """Writes every page again from the executed notebooks that are there, then the index."""
    for notebook in sorted(reports.glob("runs/*/*/notebook.ipynb")):
        try:
            render(notebook, notebook.parent / "report.html")
        except InputError as error:
            _log.warning("page not written: %s", error)
    return write_index(reports)


def _eyebrow(result: Result | None) -> list[str]:
    if result is None:
        return []
    preset, *rest = settings(result)
    return [f"{preset} preset", *rest, f"seed {result['seed']}", day(result["created"])]


def _numbers(result: Result) -> list[tuple[str, str, str]]:
    """(label, value, detail) of the four numbers in the page's head."""
    both = result["modes"][BOTH]
    low, high = both["i_auroc_interval"]
    found, bad, rejected, good = counts(result)
    return [
        (
            f"I-AUROC, {NAMES[BOTH]}",
            three_digits(both["i_auroc"]),
            f"95 % interval {three_digits(low)} to {three_digits(high)}",
        ),
        (f"AUPRO 30 %, {NAMES[BOTH]}", three_digits(both["aupro_30"]), "defects located"),
        ("Defective parts found", f"{found} of {bad}", _threshold(result)),
        ("Good parts rejected", f"{rejected} of {good}", "at the same threshold"),
    ]


def _threshold(result: Result) -> str:
    return f"score above {number(result['modes'][BOTH]['threshold']):.2f}"


def _provenance(
    notebook: nbformat.NotebookNode, result: Result | None
) -> Iterator[tuple[str, list[tuple[str, str]], bool]]:
    """(caption, rows, open at first) of the tables that say how the page came about."""
    parameters = notebook.metadata.get("papermill", {}).get("parameters", {})
    if parameters:
        yield "Parameters", _rows(parameters), True
    if result is None:
        return
    yield "Weights", _rows(result["weights"]), True
    machine = {
        **result["machine"],
        "commit": result["commit"] or "outside a checkout",
        "peak memory": f"{result['peak_memory_mb']:.0f} MB",
    }
    yield "Machine and code", _rows(machine), True
    training = _training(result)
    yield "Training", training, "note" in dict(training)
    drawn = {}
    if result["config"].get("shots"):
        drawn["drawn for training"] = [name.split("/")[-1] for name in result["train_scans"]]
    yield "Scans", _rows({**result["counts"], **drawn}), False
    yield "Seconds", [(k, f"{v:.1f}") for k, v in result["seconds"].items()], False
    yield "Configuration", _rows(result["config"]), False


def _training(result: Result) -> list[tuple[str, str]]:
    """Steps, first and last value of each loss, and what was done otherwise than asked for."""
    training = result.get("training")
    if not training:
        return [("adaptors", "none: features are used as the backbones give them")]
    history = training["history"]
    rows = [("steps", str(len(history)))]
    for term in ("loss", "LA", "GA", "LC", "GC"):
        if values := [step[term] for step in history if term in step]:
            name = term if term == "loss" else f"loss {term}"
            rows.append((name, f"{values[0]:.4g} at first, {values[-1]:.4g} at last"))
    return rows + [("note", note) for note in training["notes"]]


def _rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, shown(value)) for name, value in flat(values)]


def _reports_folder(page: Path) -> Path:
    """The folder that holds `runs`, if the page lies below such a one; else the page's own."""
    for parent in page.parents:
        if parent.name == "runs":
            return parent.parent
    return page.parent


def _write_shared(folder: Path) -> Path:
    path, text = folder / "plotly.min.js", get_plotlyjs()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with write_whole(path) as file:
            file.write_text(text, encoding="utf-8")
    return path


def _packed_plotly() -> str:
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _relative(target: Path, page: Path) -> str:
    return quote(os.path.relpath(target, page.parent).replace(os.sep, "/"))
