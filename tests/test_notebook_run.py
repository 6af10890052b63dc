"""Notebooks executed with parameters, in this interpreter, failures kept."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from lsfa_lib.notebooks import run as notebook_run
from lsfa_lib.storage.files import InputError

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def _notebook(folder: Path, source: str) -> Path:
    parameters = v4.new_code_cell("word: str = 'a'  # said", metadata={"tags": ["parameters"]})
    notebook = v4.new_notebook(cells=[parameters, v4.new_code_cell(source)], metadata=KERNEL)
    nbformat.write(notebook, folder / "question.ipynb")
    return folder / "question.ipynb"


def test_unknown_parameters_are_refused_before_anything_runs(tmp_path: Path) -> None:
    notebook = _notebook(tmp_path, "1 / 0")
    with pytest.raises(InputError, match="has no parameter 'wrod'; it takes word"):
        notebook_run.execute(notebook, tmp_path / "run", {"wrod": "b"})
    assert not (tmp_path / "run").exists()


def test_execution_runs_this_interpreter_with_the_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A `python3` kernel of the user's that points elsewhere must not be taken.
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "other", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = _notebook(tmp_path, "import sys; print(word, sys.executable)")
    before = notebook.read_bytes()
    path = notebook_run.execute(notebook, tmp_path / "run", {"word": "b"})
    assert path == tmp_path / "run" / "notebook.ipynb"
    output = nbformat.read(path, 4).cells[-1].outputs[0].text
    assert output == f"b {sys.executable}\n"
    assert [p.name for p in path.parent.iterdir()] == ["notebook.ipynb"]
    assert notebook.read_bytes() == before


def test_a_failed_run_keeps_its_cells_and_passes_on_the_sentence(tmp_path: Path) -> None:
    notebook = _notebook(
        tmp_path,
        "print('so far')\nfrom lsfa_lib.storage.files import InputError\n"
        "raise InputError('rgb/007.png is missing; add it')",
    )
    with pytest.raises(InputError, match=r"^rgb/007\.png is missing; add it \(") as error:
        notebook_run.execute(notebook, tmp_path / "run", {})
    failed = tmp_path / "run" / "notebook-failed.ipynb"
    assert str(failed) in str(error.value)
    assert [p.name for p in failed.parent.iterdir()] == [failed.name]
    assert "so far" in failed.read_text(encoding="utf-8")


def test_a_killed_kernel_is_an_error_that_names_the_likely_reason(tmp_path: Path) -> None:
    notebook = _notebook(tmp_path, "import os; os._exit(9)")
    with pytest.raises(InputError, match="its Python process was killed, most likely for lack"):
        notebook_run.execute(notebook, tmp_path / "run", {})
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notebook-failed.ipynb"]
