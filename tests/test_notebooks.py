"""Notebooks load, call and look: one question each, parameterised, without outputs."""

import ast
import io
import tokenize
from pathlib import Path

import nbformat
import pytest
from report_case import make_case

from lsfa_lib.config import configure
from lsfa_lib.figures import data_report, feature_space, findings, scan_statistics, training_figure
from lsfa_lib.figures.names import mode_label
from lsfa_lib.notebooks.find import find_notebook
from lsfa_lib.notebooks.run import execute
from lsfa_lib.pages import report
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.kept_maps import chosen, read_maps
from lsfa_lib.storage.results import read_result

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


def test_tables_in_a_block_are_displayed(notebook: nbformat.NotebookNode) -> None:
    """Jupyter shows the value of a cell's last expression, but of none inside a block."""
    for cell in _code(notebook):
        for block in ast.walk(ast.parse(cell.source)):
            if isinstance(block, ast.If | ast.For):
                for line in block.body:
                    text = ast.unparse(line).partition("(")[0]
                    assert not text.endswith(("_table", ".comparison", ".differences")), text


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
    fields = {"data.root": str(demo_root)}
    parameters = {"category": "seal", "preset": "tiny", "fields": fields, "out": str(folder)}
    executed = execute(find_notebook("00_quickstart"), folder, parameters)
    page = report.render(executed, folder / "report.html")
    result = read_result(folder / "result.json")
    assert (result["category"], result["preset"], result["counts"]["train"]) == ("seal", "tiny", 6)
    auroc = f"{result['modes']['rgb+3d']['i_auroc']:.3f}"
    notebook = nbformat.read(folder / "notebook.ipynb", 4)
    assert auroc in notebook.cells[-1].outputs[0].data["text/markdown"]
    figures = [
        o for c in _code(notebook) for o in c.outputs if "plotly" in "".join(o.get("data", ""))
    ]
    # Nothing but plotly's own type, which JupyterLab and the page both draw.
    assert len(figures) == 6
    strip = figures[0].data["application/vnd.plotly.v1+json"]["layout"]["meta"]["strip"]
    assert {scan["name"] for scan in strip["scans"]} == {scan["name"] for scan in result["scans"]}
    assert list(read_maps(folder)) == chosen(result["scans"])
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
        """The module of the figure, with `show` noting the title instead."""

        def training_figure(self, result: dict) -> "Drawn":
            self.title = training_figure.training_figure(result).layout.title.text
            return self

        def show(self) -> None:
            shown.append(self.title)

    names = {"training_figure": Drawn(), "findings": findings, "run": case, "Markdown": str}
    exec(cell.source, {**names, "display": shown.append})
    sentence = findings.training_sentence(case.result)
    assert shown == [sentence if trained else f"{sentence}."]


def _executed(name: str, folder: Path, **parameters: object) -> nbformat.NotebookNode:
    path = execute(find_notebook(name), folder, {"preset": "tiny", **parameters}, kernel=False)
    return nbformat.read(path, 4)


def _figures(notebook: nbformat.NotebookNode, cell_id: str) -> list[dict]:
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    return [o.data["application/vnd.plotly.v1+json"] for o in cell.outputs]


def _answer(notebook: nbformat.NotebookNode) -> str:
    return notebook.cells[-1].outputs[-1].data["text/markdown"]


def test_data_notebook_answers_from_the_measurements(demo_root: Path, tmp_path: Path) -> None:
    fields = {"data.root": str(demo_root)}
    asked = {"category": "seal", "fields": fields, "good_scans": 2}
    notebook = _executed("01_data", tmp_path, **asked, scan="hole/000")
    config = configure("tiny", {"data.root": str(demo_root)})
    facts = scan_statistics.measure("seal", config, 2)
    counts = scan_statistics.counts(demo_root)
    assert _answer(notebook) == data_report.answer(counts, facts, "seal")
    clouds, pictures = _figures(notebook, "scan")
    assert clouds["layout"]["title"]["text"].startswith("<b>seal/test/hole/000</b>: ")
    assert [trace["type"] for trace in clouds["data"]] == ["scatter3d"] * 4
    assert pictures["layout"]["meta"]["thumbnail"][0].startswith("data:image/jpeg")
    (defects,) = _figures(notebook, "defects")
    drawn = sorted(trace["name"] for trace in defects["data"])
    assert drawn == sorted(facts[facts["defective"]]["kind"].unique()) and len(drawn) == 6
    page = report.render(tmp_path / "notebook.ipynb", tmp_path / "report.html")
    assert page.stat().st_size < 700_000 and str(demo_root) not in page.read_text(encoding="utf-8")


def test_feature_notebook_answers_from_the_features(demo_root: Path, tmp_path: Path) -> None:
    asked = {"category": "seal", "fields": {"data.root": str(demo_root), "device": "cpu"}}
    notebook = _executed("02_features", tmp_path, **asked, adapted=True, pixel=[20, 48])
    config = configure("tiny", {"data.root": str(demo_root), "device": "cpu"})
    spaces = feature_space.load("seal", config, 0, adapted=True)
    separated = feature_space.separation(spaces, "seal")
    name = feature_space.most_contrasting(separated)
    (defective,) = _figures(notebook, "defective")
    value = separated[(separated["name"] == name) & (separated["space"] == "frozen")]["auroc"].max()
    assert defective["layout"]["title"]["text"].startswith(f"<b>{name}</b>: patch AUROC")
    assert f" {value:.2f}, " in defective["layout"]["title"]["text"]
    for m in ("3d", "rgb"):
        effective = spaces.directions["adapted", m].effective
        assert f"{mode_label(m)} {effective:.1f}" in _answer(notebook)
    (similar,) = _figures(notebook, "similar")
    labels = [button["label"] for button in similar["layout"]["updatemenus"][0]["buttons"]]
    assert labels == ["chosen", "defect", "middle", "rim"]
    assert _answer(notebook).count("the most similar one of the good scan") == 4
    assert report.render(tmp_path / "notebook.ipynb", tmp_path / "report.html").exists()


def test_qualitative_notebook_shows_kinds_and_mistakes(demo_root: Path, tmp_path: Path) -> None:
    fields = {"data.root": str(demo_root), "device": "cpu", "only": "none"}
    asked = {"category": "seal", "fields": fields}
    out = {"out": str(tmp_path), "mode": "rgb"}
    notebook = _executed("11_qualitative", tmp_path, **asked, **out)
    result = read_result(tmp_path / "result.json")
    assert result["training"] is None
    (grid,) = _figures(notebook, "grid")
    assert grid["layout"]["title"]["text"] == findings.found_sentence(result, "rgb")
    images = [trace for trace in grid["data"] if trace["type"] == "image"]
    assert len(images) == 7 * 6  # six kinds and good; photo, relief, truth and three maps
    bad = sorted((s["scores"]["rgb"], s["name"]) for s in result["scans"] if s["defective"])
    good = sorted((s["scores"]["rgb"], s["name"]) for s in result["scans"] if not s["defective"])
    for cell_id, worst in (("worst-misses", bad), ("worst-alarms", good[::-1])):
        titles = [f["layout"]["title"]["text"] for f in _figures(notebook, cell_id)]
        assert len(titles) == 3
        for title, (score, name) in zip(titles, worst[:3], strict=True):
            assert title.startswith(f"<b>{name.split('/', 2)[2]}, ")
            assert f"score {score:.2f}," in title
    assert _answer(notebook).startswith(f"**{findings.found_sentence(result, 'rgb')}.**")
    page = report.render(tmp_path / "notebook.ipynb", tmp_path / "report.html")
    assert page.stat().st_size < 1_200_000 and (tmp_path / "thumbnail.png").exists()


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("01_data", {"scan": "hole/999"}, "name one by split, kind and number"),
        ("02_features", {"adapted": True, "losses": "none"}, "adapted features need a training"),
        ("02_features", {"pixel": [0, 0]}, "is not on the part of"),
        ("11_qualitative", {"mode": "best"}, "mode 'best' is not in this run"),
    ],
)
def test_a_wrong_parameter_is_told(
    demo_root: Path, tmp_path: Path, name: str, wrong: dict, said: str
) -> None:
    fields = {"data.root": str(demo_root), "only": wrong.get("losses", "")}
    with pytest.raises(InputError, match=said):
        _executed(
            name,
            tmp_path,
            category="seal",
            fields=fields,
            **{k: v for k, v in wrong.items() if k != "losses"},
        )
