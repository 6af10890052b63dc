"""Lessons: each runs without its study, measures what it says, and is drawn offline."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from browser_case import MARKS, Watch, colors
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from torch.nn import functional

from lsfa_lib.adaptation.adaptors import adapt
from lsfa_lib.config import Config
from lsfa_lib.figures.feature_space import rows_of
from lsfa_lib.figures.lesson_figures import curves
from lsfa_lib.figures.patch_figures import PatchRow, patch_maps, scale_bar
from lsfa_lib.figures.sliders import with_slider
from lsfa_lib.notebooks.find import find_notebook, parameters_of
from lsfa_lib.notebooks.run import execute
from lsfa_lib.pages import report
from lsfa_lib.pages.equations import OfflineExporter
from lsfa_lib.records import PatchFeatures
from lsfa_lib.studies import lesson, mechanism, mechanism_detector
from lsfa_lib.studies.walkthrough import answer

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LESSONS = (
    *("04_components", "05_ifc", "06_clc", "07_adaptor", "08_few_shot", "09_finetuning"),
    *("10_sensitivity", "12_recipes", "13_crossmodal", "17_bank"),
)
STUDIES = ("03_main_results", "14_methods", "16_validity")
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(scope="module")
def live(cached: Config) -> lesson.Lesson:
    return lesson.prepare(cached, "seal", "hole/000", seed=0, scans=4)


def _executed(name: str, folder: Path, config: Config) -> nbformat.NotebookNode:
    fields = {"data.root": config.data.root, "cache": config.cache, "device": "cpu"}
    asked = {"preset": "tiny", "fields": fields, "category": "seal", "steps": 3}
    asked["study"] = str(folder / "ifc-demo")
    path = find_notebook(name)
    asked = {key: value for key, value in asked.items() if key in parameters_of(path)}
    return nbformat.read(execute(path, folder, asked, kernel=False), 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LESSONS, *STUDIES])
def test_a_page_runs_where_its_study_was_not(name: str, cached: Config, tmp_path: Path) -> None:
    notebook = _executed(name, tmp_path, cached)
    shown = [o for c in notebook.cells for o in c.get("outputs", [])]
    assert "error" not in {o.output_type for o in shown}
    told = [o.data["text/markdown"] for o in shown if "text/markdown" in o.get("data", {})]
    assert sum("This study has not been run yet" in text for text in told) == 2 or name in STUDIES
    assert "`lsfa sweep studies/" in told[-1]
    figures = [o for o in shown if PLOTLY in o.get("data", {})]
    assert len(figures) >= 2 if name in LESSONS else not figures
    if name in LESSONS:
        source = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        assert "**Hypothesis.**" in source and "$$" in source
        exercises = source.partition("## Exercises")[2]
        assert exercises.count("Look for:") == 3
        assert any(text.startswith("**Live part**: ") for text in told)
    page = report.render(tmp_path / "notebook.ipynb", tmp_path / "report.html")
    assert page.stat().st_size < 1_500_000


@pytest.fixture(scope="module")
def walkthrough(cached: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walk")
    notebook = _executed("03_walkthrough", folder, cached)
    assert notebook.cells[-1].outputs
    return report.render(folder / "notebook.ipynb", folder / "report.html", plotly="inline")


@pytest.mark.slow
def test_the_walkthrough_ends_with_the_verdict_of_its_detector(walkthrough: Path) -> None:
    notebook = nbformat.read(walkthrough.parent / "notebook.ipynb", 4)
    text = notebook.cells[-1].outputs[-1].data["text/markdown"]
    assert text.startswith("**seal/test/hole/000 is called ")
    (cell,) = [c for c in notebook.cells if c.id == "w87"]
    title = cell.outputs[-1].data[PLOTLY]["layout"]["title"]["text"]
    score = title.partition("score ")[2].partition(",")[0]
    assert f"score in RGB + 3D is {score}," in text
    page = walkthrough.read_text(encoding="utf-8")
    assert page.count("<math ") > 25 and "$$" not in page and "mathjax" not in page.lower()
    assert walkthrough.stat().st_size < 5_000_000


@pytest.mark.slow
class TestBrowser:
    pytestmark = MARKS

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
    def test_the_walkthrough_is_drawn_offline(
        self, browser, walkthrough: Path, width: int, scheme: str
    ) -> None:
        watch = Watch(browser, walkthrough, width, scheme)
        for canvas in watch.page.locator(".canvas").all():
            canvas.scroll_into_view_if_needed()
            canvas.locator(".main-svg").first.wait_for(state="attached")
        assert watch.fits()
        watch.page.locator(".canvas canvas").last.scroll_into_view_if_needed()
        watch.settle()
        assert colors(watch.cloud()) > 3
        height = watch.page.locator(".equation math").first.bounding_box()["height"]
        assert height > 10
        watch.close()


def test_equations_become_mathml_and_money_does_not() -> None:
    cell = nbformat.v4.new_markdown_cell("A $x_{t}$ and\n\n$$\\frac{a}{b}$$\n\ncosts 5 $.")
    code = nbformat.v4.new_code_cell("print('$x$')")
    body = OfflineExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell, code]))[0]
    assert body.count("<math ") == 2 and 'display="block"' in body
    assert "<mfrac>" in body and "costs 5 $." in body


def test_partner_ranks_count_the_more_similar() -> None:
    matrix = np.array([[0.5, 0.6, 0.7], [0.1, 0.9, 0.2], [0.3, 0.1, 0.2]])
    assert mechanism.partner_ranks(matrix).tolist() == [3, 1, 2]


def test_cosines_are_those_of_the_projected_patches(live: lesson.Lesson) -> None:
    adaptors = lesson.untrained(live)
    features = live.good.features["frozen"]
    found = mechanism.cosines(adaptors, features)
    adapted = adapt(adaptors, features)
    sides = [
        functional.normalize(adaptors.project(m, torch.from_numpy(rows_of(adapted, m))), dim=1)
        for m in ("rgb", "3d")
    ]
    np.testing.assert_allclose(found, (sides[0] @ sides[1].T).detach().numpy(), atol=1e-5)


def test_training_brings_partners_together(live: lesson.Lesson) -> None:
    features = live.good.features["frozen"]
    before = mechanism.cosines(lesson.untrained(live), features).diagonal().mean()
    trained = lesson.train(live, "LA", 8)
    assert len(trained.history) == 8
    assert mechanism.cosines(trained.adaptors, features).diagonal().mean() > before + 0.1


def test_a_queue_longer_than_an_epoch_holds_every_patch_of_the_scan(live: lesson.Lesson) -> None:
    found = mechanism.own_copies(live, (0.5, 1.5))
    assert found[0.5][0] == 0.0 and found[1.5][0] > 0.9
    assert found[1.5][1] < 0.5 * found[0.5][1]


def test_the_queue_replaces_its_oldest_rows() -> None:
    seen = mechanism.queue_contents(capacity=4, rows=2, scans=3, steps=3)
    np.testing.assert_array_equal(seen[0], [0, 0, np.nan, np.nan])
    np.testing.assert_array_equal(seen[1:], [[0, 0, 1, 1], [2, 2, 1, 1]])


def test_clusters_are_those_of_the_part(live: lesson.Lesson) -> None:
    features = live.good.features["frozen"]
    labels = mechanism.clusters(features, "rgb", 3, 0)
    np.testing.assert_array_equal(~np.isnan(labels), features.valid.numpy())
    assert set(labels[~np.isnan(labels)]) == {0.0, 1.0, 2.0}


def test_a_linear_adaptor_changes_one_patch_and_attention_all(live: lesson.Lesson) -> None:
    patch = int(live.good.features["frozen"].valid.nonzero()[5])
    linear = mechanism_detector.influence(live, "linear", patch)
    encoder = mechanism_detector.influence(live, "encoder_1", patch)
    assert linear[patch] == pytest.approx(1) and encoder[patch] == pytest.approx(1)
    # Patches that copy the same token move with it.
    others = linear[~np.isnan(linear) & (linear < 0.5)]
    assert len(others) and (others == 0).all()
    assert (encoder[~np.isnan(encoder)] > 0).all()


def test_a_larger_bank_covers_more(live: lesson.Lesson) -> None:
    few, many = mechanism_detector.coverage(live, (1, 4), "3d").values()
    assert np.nanmean(many) < np.nanmean(few)


def test_a_cover_is_that_of_all_distances(live: lesson.Lesson) -> None:
    some = mechanism_detector.cover(live, {"bank.keep_ratio": 0.1})

    def gaps(*scans: PatchFeatures) -> np.ndarray:
        rows = np.concatenate([rows_of(features, "rgb") for features in scans])
        scaled = torch.from_numpy((rows - some.bank.mean) / some.bank.std).double()
        return torch.cdist(scaled, some.bank.rows.double()).min(1).values.numpy()

    assert some.radius == pytest.approx(gaps(*live.train).max(), rel=1e-4)
    for found, view in ((some.good, live.good), (some.bad, live.bad)):
        expected = gaps(view.features["frozen"])
        np.testing.assert_allclose(found[~np.isnan(found)], expected, rtol=1e-3, atol=1e-3)
    assert mechanism_detector.cover(live, {"bank.keep_ratio": 1.0}).radius < 1e-2


def test_a_constant_changes_the_maximum_and_not_the_contrast(live: lesson.Lesson) -> None:
    own, features = mechanism_detector.image_maps(live), live.good.features["frozen"]
    plain = mechanism_detector.scores_of(own["good"], features, live.config)
    lit = mechanism_detector.scores_of(own["good"] + 3, features, live.config)
    assert lit["maximum"] == pytest.approx(plain["maximum"] + 3, abs=1e-4)
    assert lit["top 0.1 %"] == pytest.approx(plain["top 0.1 %"] + 3, abs=1e-4)
    assert lit["contrast"] == pytest.approx(plain["contrast"], abs=1e-4)


def test_a_study_that_was_not_run_names_its_command() -> None:
    assert lesson.find_study("reports/studies/nowhere-demo") is None
    assert "`lsfa sweep studies/ifc.yaml --preset tiny`" in lesson.not_run("x/studies/ifc-tiny")


def test_a_slider_shows_one_step_at_a_time() -> None:
    steps = {n: curves({"a": ((1, 2), (3, 4))}, n, ("x", "y")) for n in ("one", "two")}
    figure = with_slider(steps, "step ", 1)
    assert [trace.visible for trace in figure.data] == [False, True]
    assert list(figure.layout.sliders[0].steps[0].args[0]["visible"]) == [True, False]
    assert figure.layout.title.text == "two"


def test_a_map_is_clear_off_the_part_and_keeps_its_scale(live: lesson.Lesson) -> None:
    features = live.good.features["frozen"]
    values = mechanism.on_grid(np.ones(int(features.valid.sum())), features)
    figure = patch_maps(
        [PatchRow(live.good.sample, {"own": values})], "t", scale_bar("s", 0.0, 2.0)
    )
    assert [trace.type for trace in figure.data].count("image") == 2
    assert figure.layout.coloraxis.cmax == 2


def test_saving_in_jupyterlab_leaves_the_file_unchanged(tmp_path: Path) -> None:
    hook = "lsfa_lib.notebooks.saved.without_outputs"
    manager = AsyncLargeFileManager(root_dir=str(tmp_path), pre_save_hook=hook)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        content = json.loads(path.read_text(encoding="utf-8"))
        content["metadata"]["language_info"]["version"] = "3.99"
        for cell in content["cells"]:
            cell["metadata"]["scrolled"] = True
            cell["source"] = "".join(cell["source"])
            if cell["cell_type"] == "code":
                cell["execution_count"] = 7
                cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
        model = {"type": "notebook", "format": "json", "content": content}
        # Not in this thread, in which the browser of other tests has an event loop.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, manager.save(model, path.name)).result()
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "score", "mistake"),
    [
        ("seal/test/hole/000", 0.5, "- This is a miss: the part has a defect (hole)."),
        ("seal/test/hole/000", 1.5, ""),
        ("seal/test/good/000", 1.5, "- This is a false alarm."),
        ("seal/test/good/000", 0.5, ""),
        ("seal/test/unlabelled/000", 1.5, ""),
    ],
)
def test_the_walkthrough_names_a_wrong_verdict(name: str, score: float, mistake: str) -> None:
    lines = answer(name, {"rgb+3d": score}, {"rgb+3d": 1.0}, {"rgb": 9}).split("\n")
    assert [line for line in lines if line.startswith("- This is")] == [mistake][: bool(mistake)]
