"""Notebooks executed in this process: outputs as a kernel gives them, and nothing left behind."""

import base64
import gc
import io
import logging
import os
import re
import sys
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from study_case import write_notebook

from lsfa_lib.notebooks import find
from lsfa_lib.notebooks import run as notebook_run
from lsfa_lib.storage import files
from lsfa_lib.storage.files import InputError

WORD = 'word: str = "a"  # said'


def png() -> str:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


CELLS = [
    "import sys\nprint('one')\nprint('a warning', file=sys.stderr)\nprint('two')\nword",
    "import plotly.graph_objects as go\nimport plotly.io\n"
    "plotly.io.renderers.default = 'plotly_mimetype'\n"
    "go.Figure(go.Scatter(x=[1, 2], y=[3, 4])).show()\n'not shown';",
    # Wider than a terminal: where pandas believes in one, it leaves columns out.
    "import pandas as pd\npd.DataFrame({'a' * 30 + str(i): [i, 2.5] for i in range(6)})",
    "pd.DataFrame({'a': [0.123]}).style.format('{:.2f}').set_uuid('u').to_html()",
    "from IPython.display import HTML, Image, Markdown, clear_output, display\n"
    "print('taken back')\nclear_output()\n"
    "display(Markdown('**b**'))\ndisplay(HTML('<b>x</b>'), metadata={'text/html': {'k': 1}})\n"
    "handle = display('first', display_id='abc')\nprint('after')\n[1] * 40",
    "print('kept')\nclear_output(wait=True)\nprint('put in its place')",
    "handle.update('second')\n__name__, _",
    f"import base64\nImage(base64.b64decode('{png()}'))",
    "",
    "class A:\n    def _repr_html_(self): return '<i>a</i>'\n"
    "    def __repr__(self): return 'an A'\nA()",
    "x = 3\n%who_ls int",
    "import pickle\npickle.loads(pickle.dumps(A()))",
    "async def one(): return 1\nawait one()",
    "def f():\n    return 1 / 0\nf()",
    "print('never')",
]


def run(notebook: Path, folder: Path, kernel: bool) -> nbformat.NotebookNode:
    with pytest.raises(InputError, match="failed with ZeroDivisionError: division by zero"):
        notebook_run.execute(notebook, folder, {"word": "b"}, kernel=kernel)
    return nbformat.read(folder / "notebook-failed.ipynb", 4)


def plain(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The cell without times, and its traceback without colours."""
    cell = dict(cell)
    cell.pop("metadata")
    cell.pop("id")
    for output in cell.get("outputs", []):
        if "traceback" in output:
            output["traceback"] = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output["traceback"]))
    return cell


def test_outputs_are_those_of_a_kernel(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "all.ipynb", WORD, *CELLS)
    # As in a worker: not in the main thread.
    with ThreadPoolExecutor(1) as pool:
        ours = pool.submit(run, notebook, tmp_path / "ours", False).result()
    theirs = run(notebook, tmp_path / "theirs", True)
    assert len(ours.cells) == len(theirs.cells) >= len(CELLS) + 4
    for own, other in zip(ours.cells, theirs.cells, strict=True):
        if "error-cell" not in own.source:
            assert plain(own) == plain(other), own.source
    kinds = {o.output_type for cell in ours.cells for o in cell.get("outputs", [])}
    assert kinds == {"stream", "display_data", "execute_result", "error"}
    assert ours.cells[-1].execution_count is None and ours.cells[-1].outputs == []
    statuses = [
        cell.metadata.papermill.status for cell in ours.cells if "papermill" in cell.metadata
    ]
    assert statuses.count("failed") == 1 and statuses[-1] == "pending"


def test_a_failing_cell_raises_what_papermill_raises(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "bad.ipynb", WORD, "print('so far')", "{}['missing']")
    with pytest.raises(InputError) as error:
        notebook_run.execute(notebook, tmp_path / "run", {}, kernel=False)
    cause = error.value.__cause__
    assert isinstance(cause, PapermillExecutionError)
    assert (cause.ename, cause.evalue, cause.exec_count) == ("KeyError", "'missing'", 3)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notebook-failed.ipynb"]
    assert "so far" in (tmp_path / "run" / "notebook-failed.ipynb").read_text(encoding="utf-8")


def surroundings() -> tuple[object, ...]:
    """What a notebook may change around itself."""
    shell, main = InteractiveShell._instance, sys.modules["__main__"]
    streams = (sys.stdout, sys.stderr, sys.displayhook)
    return dict(os.environ), list(sys.path), Path.cwd(), shell, main, streams, warnings.filters[:]


def test_each_run_starts_afresh(tmp_path: Path) -> None:
    source = (
        "import os, sys, warnings\nfrom lsfa_lib.storage.files import progress\n"
        "print('left' in globals(), 'LEFT' in os.environ, 'left' in sys.path, os.getcwd())\n"
        "left = 1\nos.environ['LEFT'] = '1'\nos.environ.pop('HOME', None)\n"
        "sys.path.append('left')\nwarnings.warn('careful')\nwarnings.simplefilter('ignore')\n"
        "bars = list(progress(range(3), 'bar'))\nos.chdir('..')\nsys.stdout = None"
    )
    notebook = write_notebook(tmp_path / "again.ipynb", WORD, source)
    # The first run of a process starts threads of its libraries, which stay.
    notebook_run.execute(write_notebook(tmp_path / "any.ipynb", WORD), tmp_path, {}, kernel=False)
    threads = threading.active_count()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        before = surroundings()
        for name in ("first", "second"):
            notebook_run.execute(notebook, tmp_path / name, {}, kernel=False)
            (output,) = nbformat.read(tmp_path / name / "notebook.ipynb", 4).cells[-1].outputs
            assert output.text == f"False False False {Path.cwd()}\n"
        assert surroundings() == before
    assert [str(warning.message) for warning in seen] == ["careful", "careful"]
    assert threading.active_count() == threads


def test_memory_is_given_back_also_after_an_error(tmp_path: Path) -> None:
    kept: list[weakref.ref[object]] = []
    files.kept = kept  # type: ignore[attr-defined]
    source = (
        "import weakref\nfrom lsfa_lib.storage import files\n"
        "class Big: pass\nbig = Big(); big.me = big\n"
        "files.kept += [weakref.ref(big), weakref.ref(get_ipython())]\nbig"
    )
    notebook = write_notebook(
        tmp_path / "big.ipynb", WORD, source, "big", "def f(it): 1 / 0\nf(big)"
    )
    try:
        for i in range(2):
            with pytest.raises(InputError):
                notebook_run.execute(notebook, tmp_path / str(i), {}, kernel=False)
        gc.collect()
        assert [ref() for ref in kept] == [None] * 4
    finally:
        del files.kept  # type: ignore[attr-defined]


def test_notebooks_of_two_threads_do_not_mix(tmp_path: Path) -> None:
    source = "import time\nfor i in range(20):\n    print(word)\n    time.sleep(0.005)"
    notebook = write_notebook(tmp_path / "loop.ipynb", WORD, source)
    with ThreadPoolExecutor(2) as pool:
        paths = list(
            pool.map(
                lambda word: notebook_run.execute(
                    notebook, tmp_path / word, {"word": word}, kernel=False
                ),
                "xy",
            )
        )
    for path, word in zip(paths, "xy", strict=True):
        (output,) = nbformat.read(path, 4).cells[-1].outputs
        assert output.text == f"{word}\n" * 20


def test_a_stream_that_outlives_its_notebook_writes_to_the_real_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = (
        "import logging, sys\nlog = logging.getLogger('kept')\n"
        "log.addHandler(logging.StreamHandler(sys.stderr))\nlog.warning('inside')"
    )
    notebook = write_notebook(tmp_path / "log.ipynb", WORD, source)
    path = notebook_run.execute(notebook, tmp_path / "run", {}, kernel=False)
    assert nbformat.read(path, 4).cells[-1].outputs[0].text == "inside\n"
    log = logging.getLogger("kept")
    log.warning("afterwards")
    log.handlers.clear()
    assert "afterwards" in capfd.readouterr().err


def test_notebooks_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    own = write_notebook(tmp_path / "own.ipynb", WORD)
    assert find.find_notebook("own.ipynb", tmp_path) == own
    assert find.find_notebook("00_quickstart").name == "00_quickstart.ipynb"
    assert "00_quickstart" in find.notebook_names()
    with pytest.raises(InputError, match=r"other\.ipynb was not found; give the notebook's path"):
        find.find_notebook("other.ipynb", tmp_path)
