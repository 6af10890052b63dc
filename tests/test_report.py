"""Pages hold what the notebook and result.json hold, escaped, and ask nothing of any host."""

import base64
import copy
import gzip
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import v4
from PIL import Image
from plotly.offline import get_plotlyjs
from report_case import MODES, Case, make_case, write_run

from lsfa_lib import gallery, report
from lsfa_lib.config import DEMO, Config, DataConfig, only
from lsfa_lib.files import InputError
from lsfa_lib.results import as_json

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(size=48, each=3)


@pytest.fixture(scope="module")
def reports(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reports folder, with a space in its path, with one run and its page."""
    reports = tmp_path_factory.mktemp("some reports") / "reports"
    folder = reports / "runs" / "quickstart" / "cookie-demo-s0"
    report.render(write_run(folder, case), folder / "report.html")
    return reports


@pytest.fixture(scope="module")
def page(reports: Path) -> str:
    return (reports / "runs/quickstart/cookie-demo-s0/report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Text, addresses and script elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text: list[str] = []
        self.specs: list[dict] = []
        self.tag = ""
        self.inside = {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tag, self.inside = tag, dict(attrs)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        self.tag = ""

    def handle_data(self, data):
        if self.tag == "script" and self.inside.get("type") == "application/json":
            self.specs.append(json.loads(data))
        elif self.tag not in ("script", "style"):
            self.text.append(data)


def test_page_links_only_to_itself_and_its_neighbours(page: str, reports: Path) -> None:
    folder = reports / "runs/quickstart/cookie-demo-s0"
    links = Reader(page).links
    assert "../../../plotly.min.js" in links
    for link in links:
        if not link.startswith(("data:", "#")) and link != "../../../index.html":
            assert (folder / link).exists(), link
    assert (reports / "plotly.min.js").read_text(encoding="utf-8") == get_plotlyjs()


def test_figures_of_the_page_hold_the_numbers_of_the_notebook(
    page: str, reports: Path, case: Case
) -> None:
    notebook = nbformat.read(reports / "runs/quickstart/cookie-demo-s0/notebook.ipynb", 4)
    shown = [o.data[report_plotly] for o in notebook.cells[6].outputs for report_plotly in o.data]
    specs = Reader(page).specs
    assert len(specs) == len(shown) == 4
    for spec, figure in zip(specs[:2], shown[:2], strict=True):
        assert spec["data"] == json.loads(json.dumps(figure["data"]))
    for spec, figure in zip(specs[2:], shown[2:], strict=True):
        packed = next(t for t in spec["data"] if t["type"] == "scatter3d")
        full = next(t for t in figure["data"] if t["type"] == "scatter3d")
        assert packed["marker"] == json.loads(json.dumps(full["marker"]))
        for axis in "xyz":
            assert packed[axis]["dtype"] == "i2"
            steps = np.frombuffer(base64.b64decode(packed[axis]["bdata"]), "<i2")
            values = np.frombuffer(base64.b64decode(full[axis]["bdata"]), "<f4")
            np.testing.assert_allclose(steps * packed["meta"]["step"], values, atol=1e-4)
        assert spec["layout"]["meta"]["narrow"]["height"] > figure["layout"]["height"]


def test_a_cloud_too_large_for_16_bits_keeps_its_floats() -> None:
    from lsfa_lib.notebook_html import _compact

    values = np.array([-400.0, 0, 400], "<f4")
    data = {"dtype": "f4", "bdata": base64.b64encode(values.tobytes()).decode()}
    trace = {"type": "scatter3d", "x": data, "y": data, "z": data}
    assert _compact(trace) == trace


def test_page_shows_head_contents_table_and_provenance(page: str, case: Case) -> None:
    reader = Reader(page)
    text = " ".join(" ".join(reader.text).split())
    both = case.result["modes"]["rgb+3d"]
    for part in (
        f"{both['i_auroc']:.3f}",
        f"{both['aupro_30']:.3f}",
        "demo preset · 224 px · seed 0",
        "22 Nov 2026",
        case.result["commit"],
        "efficientnet_lite0",
        "Example 3000",
        "preprocess.image_size",
        "image_encoder.stages 2, 3",
        "bank.keep_ratio_rgb –",
        "detector.blur 0.0178571",
        "steps 40",
        f"loss LA {case.result['training']['history'][0]['LA']:.4g} at first",
        "note batch of 6: few <b>",
        "CC BY-NC-SA 4.0",
    ):
        assert part in text, part
    anchors = [link for link in reader.links if link.startswith("#")]
    for anchor in anchors:
        assert f'id="{anchor[1:]}"' in page
    assert "What the numbers say" in text and "Where are the defects ?" in text
    assert 'class="metrics"' in page and "Random weights" not in page


def test_history_weighs_less_in_the_page_than_in_its_file(case: Case, tmp_path: Path) -> None:
    result = copy.deepcopy(case.result)
    last = result["training"]["history"][-1]
    sizes = []
    for steps in (40, 4000):
        result["training"]["history"] = [last] * steps
        notebook = write_run(tmp_path, Case(result, case.samples, case.predictions), scans=1)
        report.render(notebook, tmp_path / "report.html")
        sizes.append((tmp_path / "report.html").stat().st_size)
    # 4000 steps are a megabyte of result.json.
    assert (tmp_path / "result.json").stat().st_size > 1e6
    assert 0 < sizes[1] - sizes[0] < 60_000


def test_drawn_scans_and_untrained_features_are_said(case: Case, tmp_path: Path) -> None:
    result = copy.deepcopy(case.result) | {"training": None}
    result["config"]["shots"] = 2
    result["train_scans"] = ["cookie/train/good/003", "cookie/train/good/017"]
    result["config"]["training"]["weights"] = dict.fromkeys(("la", "ga", "lc", "gc"), 0.0)
    notebook = write_run(tmp_path, Case(result, case.samples, case.predictions), scans=1)
    page = report.render(notebook, tmp_path / "report.html").read_text(encoding="utf-8")
    text = " ".join(" ".join(Reader(page).text).split())
    assert "demo preset · 224 px · no training · 2 shots · seed 0" in text
    assert "drawn for training 003, 017" in text
    assert "adaptors none: features are used as the backbones give them" in text


def test_page_names_no_folder_of_this_machine_and_no_widget(page: str) -> None:
    assert "/home/someone" not in page
    assert "…/scans" in page
    assert "widget" not in page and "mathjax" not in page.lower()


def test_thumbnail_is_photo_and_map_of_the_first_scan(reports: Path) -> None:
    image = Image.open(reports / "runs/quickstart/cookie-demo-s0/thumbnail.png")
    assert image.size == (448, 224)
    halves = np.asarray(image, float)[:, :224], np.asarray(image, float)[:, 224:]
    for half in halves:
        assert half.std() > 20
    assert np.abs(halves[0] - halves[1]).mean() > 20


def test_random_weights_are_announced(case: Case, tmp_path: Path) -> None:
    result = copy.deepcopy(case.result)
    result["weights"]["rgb"]["random"] = True
    notebook = write_run(tmp_path, Case(result, case.samples, case.predictions), scans=1)
    page = report.render(notebook, tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'role="alert"' in page and "RGB ran without" in " ".join(page.split())


def test_inline_page_carries_plotly_and_needs_no_neighbour(
    reports: Path, case: Case, tmp_path: Path
) -> None:
    notebook = reports / "runs/quickstart/cookie-demo-s0/notebook.ipynb"
    path = report.render(notebook, tmp_path / "mail.html", plotly="inline", title="A & <b>")
    page = path.read_text(encoding="utf-8")
    assert {p.name for p in tmp_path.iterdir()} == {"mail.html", "thumbnail.png"}
    packed = re.search(r'id="plotly-gzip">([^<]+)<', page)
    assert packed is not None
    assert gzip.decompress(base64.b64decode(packed.group(1))).decode() == get_plotlyjs()
    assert all(link.startswith(("data:", "#")) for link in Reader(page).links)
    assert "<title>A &amp; &lt;b&gt;</title>" in page
    assert path.stat().st_size < 5e6


def test_hostile_names_stay_text(case: Case, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    result = copy.deepcopy(case.result)
    result["category"] = evil
    for scan in result["scans"]:
        scan["kind"] = evil if scan["defective"] else "good"
    folder = tmp_path / "runs" / "quickstart" / "evil"
    notebook = write_run(folder, Case(result, case.samples, case.predictions), scans=2)
    page = report.render(notebook, folder / "report.html").read_text(encoding="utf-8")
    index = report.write_index(tmp_path).read_text(encoding="utf-8")
    for text in (page, index):
        assert "<script>alert" not in text
    assert evil in "".join(Reader(index).text)


def test_rendering_twice_gives_the_same_page(reports: Path, page: str) -> None:
    folder = reports / "runs/quickstart/cookie-demo-s0"
    report.rebuild(reports)
    assert (folder / "report.html").read_text(encoding="utf-8") == page
    assert (reports / "index.html").exists()


def test_a_broken_notebook_is_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "runs/quickstart/broken"
    folder.mkdir(parents=True)
    (folder / "notebook.ipynb").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"notebook\.ipynb is not a readable notebook"):
        report.render(folder / "notebook.ipynb", folder / "report.html")
    report.rebuild(tmp_path)
    assert "page not written" in caplog.text
    assert not (folder / "report.html").exists()


def test_index_lists_finished_runs_and_says_what_to_do_about_the_others(
    case: Case, tmp_path: Path
) -> None:
    runs = tmp_path / "runs" / "quickstart"
    write_run(runs / "cookie-demo-s0", case, scans=1)
    for name, text in {
        "cut-short": '{"schema": 1, "cat',
        "older": '{"schema": 0}',
        "lacking": '{"schema": 1, "category": "x"}',
        "odd": '{"schema": 1, "category": "x", "modes": [], "config": {}, "preset": "p"}',
    }.items():
        (runs / name).mkdir(parents=True)
        (runs / name / "result.json").write_text(text, encoding="utf-8")
    (runs / "unfinished").mkdir()
    (runs / "failed").mkdir()
    (runs / "failed" / "notebook-failed.ipynb").write_text("{}", encoding="utf-8")
    page = report.write_index(tmp_path).read_text(encoding="utf-8")
    cards, _, problems = page.partition("<h2>Not shown</h2>")
    assert cards.count('<li class="card"') == 1
    for name in ("cut-short", "older", "lacking", "odd", "unfinished", "failed"):
        assert f"quickstart/{name}" in problems and f"quickstart/{name}" not in cards
    assert problems.count("<li>") == 6
    assert str(tmp_path) not in page
    assert "runs/quickstart/cookie-demo-s0/notebook.ipynb" in Reader(cards).links


def test_index_without_a_run_says_how_to_make_one(tmp_path: Path) -> None:
    page = report.write_index(tmp_path).read_text(encoding="utf-8")
    assert "lsfa run all" in page and "Not shown" not in page


def test_means_take_seeds_first_and_then_categories(case: Case) -> None:
    entries = []
    for category, seed, value in (("a", 0, 0.6), ("a", 1, 0.8), ("b", 0, 1.0)):
        result = copy.deepcopy(case.result)
        result |= {"category": category, "seed": seed}
        result["modes"]["3d"]["i_auroc"] = value
        entries.append(gallery.RunEntry(Path(f"{category}{seed}"), result))
    row = gallery._means(entries)[0]
    assert (row["group"], row["runs"], row["categories"]) == ("demo, 224 px", 3, 2)
    # (mean(0.6, 0.8) + 1.0) / 2, not the mean of three runs.
    assert [label for label, _ in row["rows"]] == ["I-AUROC", "AUPRO 30 %"]
    assert row["rows"][0][1][0] == "0.850"
    assert [len(cells) for _, cells in row["rows"]] == [len(MODES)] * 2
    assert row["rows"][1][1][4] == f"{case.result['modes']['rgb+3d+disagreement']['aupro_30']:.3f}"
    entries[2].result["modes"]["3d"]["i_auroc"] = None
    assert gallery._means(entries)[0]["rows"][0][1][0] == "–"


def test_runs_of_other_losses_shots_or_fields_are_never_averaged(case: Case) -> None:
    def entry(config: Config, category: str = "a") -> gallery.RunEntry:
        values = {"preset": config.preset, "config": as_json(config), "category": category}
        return gallery.RunEntry(Path("x"), copy.deepcopy(case.result) | values)

    other = replace(DEMO, bank=replace(DEMO.bank, keep_ratio=0.2))
    named = replace(DEMO, preset="mine")
    entries = [
        entry(DEMO),
        entry(replace(DEMO, device="cpu", cache="", data=DataConfig("/elsewhere")), "b"),
        entry(only(DEMO, "IFC")),
        entry(replace(DEMO, shots=10)),
        entry(other),
        entry(named),
        entry(replace(other, preset="mine")),
    ]
    rows = {row["group"]: row["runs"] for row in gallery._means(entries)}
    last = sorted(key for key in rows if key.startswith("mine"))
    assert {key: runs for key, runs in rows.items() if key not in last} == {
        "demo, 224 px": 2,
        "demo, 224 px, only IFC": 1,
        "demo, 224 px, 10 shots": 1,
        "demo, 224 px, bank.keep_ratio 0.2": 1,
    }
    # One name was given to two configs: their hashes tell them apart.
    assert [re.fullmatch(r"mine, 224 px \([0-9a-f]{6}\)", key) is None for key in last] == [
        False
    ] * 2


def test_modes_that_a_run_lacks_are_dashes(case: Case) -> None:
    plain = copy.deepcopy(case.result)
    plain["config"]["training"]["weights"] = dict.fromkeys(("la", "ga", "lc", "gc"), 0.0)
    for mode in MODES[3:]:
        del plain["modes"][mode]
    without = gallery.RunEntry(Path("x"), plain)
    assert [len(cells) for _, cells in gallery._means([without])[0]["rows"]] == [3, 3]
    rows = gallery._means([without, gallery.RunEntry(Path("y"), case.result)])
    cells = {row["group"]: row["rows"][0][1] for row in rows}
    assert cells["demo, 224 px, no training"][3:5] == ["–", "–"]
    assert "–" not in cells["demo, 224 px"]


def _notebook(folder: Path, source: str) -> Path:
    parameters = v4.new_code_cell("word: str = 'a'  # said", metadata={"tags": ["parameters"]})
    notebook = v4.new_notebook(cells=[parameters, v4.new_code_cell(source)], metadata=KERNEL)
    nbformat.write(notebook, folder / "question.ipynb")
    return folder / "question.ipynb"


def test_unknown_parameters_are_refused_before_anything_runs(tmp_path: Path) -> None:
    notebook = _notebook(tmp_path, "1 / 0")
    with pytest.raises(InputError, match="has no parameter 'wrod'; it takes word"):
        report.execute(notebook, tmp_path / "run", {"wrod": "b"})
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
    path = report.execute(notebook, tmp_path / "run", {"word": "b"})
    assert path == tmp_path / "run" / "notebook.ipynb"
    output = nbformat.read(path, 4).cells[-1].outputs[0].text
    assert output == f"b {sys.executable}\n"
    assert [p.name for p in path.parent.iterdir()] == ["notebook.ipynb"]
    assert notebook.read_bytes() == before


def test_a_failed_run_keeps_its_cells_and_passes_on_the_sentence(tmp_path: Path) -> None:
    notebook = _notebook(
        tmp_path,
        "print('so far')\nfrom lsfa_lib.files import InputError\n"
        "raise InputError('rgb/007.png is missing; add it')",
    )
    with pytest.raises(InputError, match=r"^rgb/007\.png is missing; add it \(") as error:
        report.execute(notebook, tmp_path / "run", {})
    failed = tmp_path / "run" / "notebook-failed.ipynb"
    assert str(failed) in str(error.value)
    assert [p.name for p in failed.parent.iterdir()] == [failed.name]
    assert "so far" in failed.read_text(encoding="utf-8")


def test_a_killed_kernel_is_an_error_that_names_the_likely_reason(tmp_path: Path) -> None:
    notebook = _notebook(tmp_path, "import os; os._exit(9)")
    with pytest.raises(InputError, match="its Python process was killed, most likely for lack"):
        report.execute(notebook, tmp_path / "run", {})
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notebook-failed.ipynb"]
