"""Pages hold what the notebook and result.json hold, escaped, and ask nothing of any host."""

import base64
import copy
import gzip
import json
import math
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs
from report_case import COOKIE, Case, Reader, make_case, write_run, write_study

from lsfa_lib.evaluation.evaluate import evaluate
from lsfa_lib.pages import report
from lsfa_lib.pages.notebook_html import body_html
from lsfa_lib.pages.page import without_folders
from lsfa_lib.storage.files import InputError


@pytest.fixture(scope="module")
def page(built: Path) -> str:
    return (built / COOKIE / "report.html").read_text(encoding="utf-8")


def test_page_links_only_to_itself_and_its_neighbours(page: str, built: Path) -> None:
    links = Reader(page).links
    assert "../../../plotly.min.js" in links
    for link in links:
        if not link.startswith(("data:", "#")) and link != "../../../index.html":
            assert (built / COOKIE / link).exists(), link
    assert (built / "plotly.min.js").read_text(encoding="utf-8") == get_plotlyjs()


def test_figures_of_the_page_hold_the_numbers_of_the_notebook(page: str, built: Path) -> None:
    notebook = nbformat.read(built / COOKIE / "notebook.ipynb", 4)
    shown = [o.data[report_plotly] for o in notebook.cells[6].outputs for report_plotly in o.data]
    specs = Reader(page).specs
    assert len(specs) == len(shown) == 3
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
        meta = spec["layout"]["meta"]
        assert meta["narrow"]["height"] > figure["layout"]["height"]
        assert spec["layout"]["margin"]["t"] == 34 < figure["layout"]["margin"]["t"]
        assert meta["linked"] == figure["layout"]["meta"]["linked"]
        assert "thumbnail" not in meta


def test_a_cloud_too_large_for_16_bits_keeps_its_floats() -> None:
    from lsfa_lib.pages.notebook_html import _compact

    values = np.array([-400.0, 0, 400], "<f4")
    data = {"dtype": "f4", "bdata": base64.b64encode(values.tobytes()).decode()}
    trace = {"type": "scatter3d", "x": data, "y": data, "z": data}
    assert _compact(trace) == trace


def test_page_shows_head_contents_table_and_provenance(page: str, case: Case) -> None:
    reader = Reader(page)
    text = reader.words
    both = case.result["modes"]["rgb+3d"]
    for part in (
        f"{both['i_auroc']:.3f}",
        f"{both['aupro_30']:.3f}",
        "demo preset · 224 px · image 672 px · IFC + CLC · seed 0",
        "22 Nov 2026",
        case.result["commit"],
        "efficientnet_lite0",
        "Example 3000",
        "preprocess.image_size",
        "image_encoder.stages 2, 3",
        "bank.keep_ratio_rgb –",
        "detector.blur 0.0178571",
        "steps 40",
        f"loss LA {case.result['training']['history'][0]['LA']:.4g} (first step)",
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
    text = Reader(page).words
    assert "demo preset · 224 px · image 672 px · 2 shots · seed 0" in text
    assert "drawn for training 003, 017" in text
    assert "the features are those of the frozen backbones" in text


def test_page_names_no_folder_of_this_machine_and_no_widget(page: str) -> None:
    assert "/home/someone" not in page
    assert "…/scans" in page
    assert "widget" not in page and "mathjax" not in page.lower()


def test_thumbnail_is_photo_and_map_of_the_first_scan(built: Path) -> None:
    image = Image.open(built / COOKIE / "thumbnail.png")
    assert image.size == (448, 224)
    pixels = np.asarray(image.convert("RGB"), float)
    halves = pixels[:, :224], pixels[:, 224:]
    for half in halves:
        assert half.std() > 20
    assert np.abs(halves[0] - halves[1]).mean() > 20


def test_random_weights_are_announced(case: Case, tmp_path: Path) -> None:
    result = copy.deepcopy(case.result)
    result["weights"]["rgb"]["random"] = True
    notebook = write_run(tmp_path, Case(result, case.samples, case.predictions), scans=1)
    page = report.render(notebook, tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'role="alert"' in page and "RGB ran without" in " ".join(page.split())


def test_inline_page_carries_all_and_needs_no_neighbour(
    built: Path, page: str, tmp_path: Path
) -> None:
    notebook = built / COOKIE / "notebook.ipynb"
    path = report.render(notebook, tmp_path / "mail.html", plotly="inline", title="A & <b>")
    mailed = path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["mail.html"]
    packed = re.findall(r'<script type="text/gzip"[^>]*>([^<]+)<', mailed)
    *figures, plotly = [gzip.decompress(base64.b64decode(text)).decode() for text in packed]
    assert plotly == get_plotlyjs()
    assert [json.loads(figure) for figure in figures] == Reader(page).specs
    assert all(link.startswith(("data:", "#")) for link in Reader(mailed).links)
    assert "<title>A &amp; &lt;b&gt;</title>" in mailed


def test_a_category_with_its_clouds_can_be_mailed(tmp_path: Path) -> None:
    notebook = write_run(tmp_path / "run", make_case(size=224, each=2), scans=6)
    path = report.render(notebook, tmp_path / "mail.html", plotly="inline")
    page = path.read_text(encoding="utf-8")
    figures = re.findall(r'<script type="text/gzip">([^<]+)<', page)
    layouts = [json.loads(gzip.decompress(base64.b64decode(f)))["layout"] for f in figures]
    assert sum("scene" in layout for layout in layouts) == 5
    assert all(len(layout["updatemenus"][0]["buttons"]) == 7 for layout in layouts[2:])
    assert 2e6 < path.stat().st_size < 5e6


def test_one_run_or_study_is_mailed_by_name_or_folder(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "quickstart" / "cookie-demo-s0"
    write_run(folder, case, scans=1)
    write_study(tmp_path, case)
    out = tmp_path / "out.html"
    for name, title in (("cookie-demo-s0", "cookie"), (str(folder), "cookie")):
        page = report.mail(name, tmp_path, out).read_text(encoding="utf-8")
        assert f"<title>{title}</title>" in page
    page = report.mail("components-demo", tmp_path, out).read_text(encoding="utf-8")
    assert "<title>What does IFC bring &amp; is it &lt;sure&gt;?</title>" in page
    assert all(link.startswith(("data:", "#", "../../docs")) for link in Reader(page).links)
    with pytest.raises(InputError, match=r"^nothing is no run or study with a notebook\.ipynb"):
        report.mail("nothing", tmp_path, out)
    write_run(tmp_path / "runs" / "other" / "cookie-demo-s0", case, scans=1)
    with pytest.raises(InputError, match=r"give the folder, one of .*other/cookie.*quickstart/"):
        report.mail("cookie-demo-s0", tmp_path, out)


def test_study_page_lists_its_runs_and_says_why_one_failed(case: Case, tmp_path: Path) -> None:
    folder = write_study(tmp_path, case)
    for run in sorted(tmp_path.glob("runs/*/*/notebook.ipynb")):
        report.render(run, run.parent / "report.html")
    page = report.render(folder / "notebook.ipynb", folder / "report.html").read_text("utf-8")
    reader = Reader(page)
    for part in (
        "All reports · demo preset · 23 Nov 2026",
        "IFC +0.010 I-AUROC against baseline",
        "3 of 4 runs finished ( 1 failed ) · 2 settings · 2 categories: cookie, zipper · 1 seed",
        "1 failed; the numbers above are without it.",
        "IFC, zipper, seed 0 : lsfa_lib.storage.files.InputError: …/007.png is missing; add it",
        "setting cookie zipper baseline seed 0 seed 0 IFC seed 0 seed 0: failed",
    ):
        assert part in reader.words, part
    runs = [link for link in reader.links if link.startswith("../../runs/")]
    assert [link.split("/")[4] for link in runs] == [
        "cookie-demo-baseline-s0-comp0000",
        "zipper-demo-baseline-s0-comp0000",
        "cookie-demo-IFC-s0-comp0000",
    ]
    for link in [*runs, "table.csv", "notebook.ipynb", "../../plotly.min.js"]:
        assert link in reader.links and (folder / link).exists()
    assert "../../index.html" in reader.links and "runs.parquet" not in reader.links
    assert "/home/someone" not in page


def test_a_heading_that_is_the_title_is_not_said_twice(case: Case, tmp_path: Path) -> None:
    folder = write_study(tmp_path, case)
    page = report.render(folder / "notebook.ipynb", folder / "report.html").read_text("utf-8")
    assert len(re.findall("<h1", page)) == 1 and "Asked of two categories." in page
    named = report.render(folder / "notebook.ipynb", folder / "report.html", title="Other")
    assert len(re.findall("<h1", named.read_text("utf-8"))) == 2


def test_a_page_beside_the_runs_finds_the_gallery_and_takes_the_question_as_title(
    case: Case, tmp_path: Path
) -> None:
    folder = write_study(tmp_path, case)
    other = tmp_path / "components"
    other.mkdir()
    (folder / "notebook.ipynb").rename(other / "notebook.ipynb")
    page = report.render(other / "notebook.ipynb", other / "report.html").read_text("utf-8")
    assert "<title>What does IFC bring &amp; is it &lt;sure&gt;?</title>" in page
    links = Reader(page).links
    assert "../index.html" in links and "../plotly.min.js" in links
    assert not (other / "plotly.min.js").exists()
    alone = tmp_path / "elsewhere" / "deep"
    page = report.render(other / "notebook.ipynb", alone / "report.html").read_text("utf-8")
    assert "plotly.min.js" in Reader(page).links and "All reports" not in page


def test_folders_above_the_reports_may_be_called_runs(case: Case, tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies" / "project" / "reports", case)
    page = tmp_path / "studies" / "project" / "reports" / "data" / "report.html"
    report.render(folder / "notebook.ipynb", page)
    assert [path.parent.name for path in tmp_path.rglob("plotly.min.js")] == ["reports"]


def test_rebuild_writes_the_pages_of_runs_studies_and_others(case: Case, tmp_path: Path) -> None:
    folder = write_study(tmp_path, case)
    (tmp_path / "deep").mkdir()
    shutil.copy(folder / "notebook.ipynb", tmp_path / "deep")
    assert report.rebuild(tmp_path) == tmp_path / "index.html"
    written = {page.parent.name for page in tmp_path.rglob("report.html")}
    assert written == {
        "deep",
        "components-demo",
        "cookie-demo-baseline-s0-comp0000",
        "zipper-demo-baseline-s0-comp0000",
        "cookie-demo-IFC-s0-comp0000",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/someone/scans/rgb/007.png is missing", "…/007.png is missing"),
        ('File "/opt/x/y.py", line 3', 'File "…/y.py", line 3'),
        (r"C:\Users\someone\x.png and D:/data/y.png", "…/x.png and …/y.png"),
        ("see https://arxiv.org/abs/2401.03145", "see https://arxiv.org/abs/2401.03145"),
        ("3D/RGB/both, 1/2/3 and a / b", "3D/RGB/both, 1/2/3 and a / b"),
        ("</div></p>", "</div></p>"),
    ],
)
def test_folders_of_the_machine_leave_a_text(text: str, shown: str) -> None:
    assert without_folders(text) == shown


def test_hostile_names_stay_text(case: Case, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    result = copy.deepcopy(case.result)
    result["category"] = evil
    for scan in result["scans"]:
        scan["kind"] = evil if scan["defective"] else "good"
    notebook = write_run(tmp_path, Case(result, case.samples, case.predictions), scans=2)
    page = report.render(notebook, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert evil in "".join(Reader(page).text)


def test_rendering_twice_gives_the_same_page(reports: Path, page: str) -> None:
    report.rebuild(reports)
    assert (reports / COOKIE / "report.html").read_text(encoding="utf-8") == page
    assert (reports / "index.html").exists()


def test_a_result_without_its_numbers_is_said_so_and_stops_no_other_page(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path / "runs" / "quickstart" / name, case, scans=1)
    broken = {"a": '{"schema": 1, "category": "x"}', "b": '{"schema": 2}'}
    for name, text in broken.items():
        (tmp_path / "runs/quickstart" / name / "result.json").write_text(text, encoding="utf-8")
    report.rebuild(tmp_path)
    assert "quickstart/a/result.json has a missing or invalid value" in caplog.text
    assert "quickstart/b/result.json has schema 2, this version reads 1" in caplog.text
    assert [page.parent.name for page in tmp_path.rglob("report.html")] == ["c"]


def test_a_broken_notebook_is_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "runs/quickstart/broken"
    folder.mkdir(parents=True)
    (folder / "notebook.ipynb").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"notebook\.ipynb is not a readable notebook"):
        report.render(folder / "notebook.ipynb", folder / "report.html")
    report.rebuild(tmp_path)
    assert "page not written" in caplog.text
    assert not (folder / "report.html").exists()


def test_few_scans_have_no_interval() -> None:
    for each, few in ((4, True), (5, False)):
        case = make_case(size=48, each=each, trained=False)
        found = evaluate(case.samples, case.predictions["rgb"], seed=0)
        low, high = found["i_auroc_interval"]
        assert math.isnan(low) == math.isnan(high) == few
        assert any("no interval: fewer than 5 good" in note for note in found["notes"]) == few


def test_sections_that_wait_for_a_study_are_left_out() -> None:
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    shown = nbformat.v4.new_output("stream", text="a number")
    cells = [
        text("# Title"),
        text("## Waits"),
        code("import math\n\nif runs:\n    display(1)"),
        text("More about what waits."),
        text("## Words only"),
        text("## Live"),
        code("table = 1"),
        text("## Shown"),
        code("if runs:\n    display(1)", outputs=[shown]),
    ]
    page = body_html(nbformat.v4.new_notebook(cells=cells))
    headings = re.findall(r"<h2[^>]*>([^<]+)", page)
    assert headings == ["Words only", "Live", "Shown"]
    assert "Title" in page and "a number" in page and "what waits" not in page
