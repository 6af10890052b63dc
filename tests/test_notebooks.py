"""Notebooks load, call and look: one question each, parameterised, without outputs."""

import ast
import io
import tokenize
from pathlib import Path

import nbformat
import pytest
from report_case import make_case

from lsfa_lib import figures, findings, report
from lsfa_lib.results import read_result

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_is_a_quickstart() -> None:
    assert "00_quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    found = nbformat.read(request.param, as_version=4)
    nbformat.validate(found)
    return found


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_nothing_of_a_run_is_committed(notebook: nbformat.NotebookNode) -> None:
    for cell in _code(notebook):
        assert cell.outputs == [] and cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


def test_cells_are_short_and_define_nothing(notebook: nbformat.NotebookNode) -> None:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in _code(notebook):
        assert len(cell.source.splitlines()) <= 12, cell.source
        tree = ast.parse(cell.source)
        assert not any(isinstance(node, definitions) for node in ast.walk(tree)), cell.source


def test_parameters_are_typed_and_explained(notebook: nbformat.NotebookNode) -> None:
    tagged = [c for c in _code(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    source = tagged[0].source
    statements = ast.parse(source).body
    assert statements and all(isinstance(s, ast.AnnAssign) for s in statements)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented = {t.start[0] for t in tokens if t.type == tokenize.COMMENT}
    assert {s.lineno for s in statements} == commented


def test_first_cell_asks_and_last_cell_answers_from_the_numbers(
    notebook: nbformat.NotebookNode,
) -> None:
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert first.source.splitlines()[0].endswith("?")
    assert last.cell_type == "code" and "Markdown(" in last.source and ".answer(" in last.source


def test_quickstart_runs_and_writes_its_numbers(demo_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "quickstart" / "seal-tiny-s0"
    parameters = {"category": "seal", "preset": "tiny", "data_root": str(demo_root)}
    page = report.run_page("00_quickstart", folder, {**parameters, "out": str(folder)})
    result = read_result(folder / "result.json")
    assert (result["category"], result["preset"], result["counts"]["train"]) == ("seal", "tiny", 6)
    auroc = f"{result['modes']['rgb+3d']['i_auroc']:.3f}"
    notebook = nbformat.read(folder / "notebook.ipynb", 4)
    assert auroc in notebook.cells[-1].outputs[0].data["text/markdown"]
    figures = [
        o for c in _code(notebook) for o in c.outputs if "plotly" in "".join(o.get("data", ""))
    ]
    # Nothing but plotly's own type, which JupyterLab and the page both draw.
    assert len(figures) >= 8
    (trained,) = [cell for cell in notebook.cells if cell.id == "trained"]
    (drawn,) = [o.data["application/vnd.plotly.v1+json"] for o in trained.outputs]
    assert drawn["layout"]["title"]["text"] == findings.training_sentence(result)
    assert len(result["training"]["history"]) == 6
    assert (folder / "adaptors.safetensors").exists()
    assert all(set(o.data) == {"application/vnd.plotly.v1+json"} for o in figures)
    text = page.read_text(encoding="utf-8")
    assert auroc in text and str(demo_root) not in text
    assert (folder / "thumbnail.png").exists()


@pytest.mark.parametrize("trained", [True, False])
def test_training_cell_draws_the_figure_or_says_that_nothing_was_trained(trained: bool) -> None:
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.id == "trained"]
    shown: list[str] = []
    case = make_case(size=48, each=2, trained=trained)

    class Drawn:
        """The figures module, with `show` noting the title instead."""

        def training_figure(self, result: dict) -> "Drawn":
            self.title = figures.training_figure(result).layout.title.text
            return self

        def show(self) -> None:
            shown.append(self.title)

    names = {"figures": Drawn(), "findings": findings, "run": case, "Markdown": str}
    exec(cell.source, {**names, "display": shown.append})
    sentence = findings.training_sentence(case.result)
    assert shown == [sentence if trained else f"{sentence}."]
