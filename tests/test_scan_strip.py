"""The strip of all test scans: what it holds, and that a click opens a scan in the viewer."""

import base64
import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser_case import MARKS, Watch
from nbformat import v4
from PIL import Image
from report_case import Case, make_case, write_run

from lsfa_lib.figures import result_figures
from lsfa_lib.figures.clouds import camera_facing, spread_points, surface_of
from lsfa_lib.figures.scan_images import level_of, pixels_of, score_ranges
from lsfa_lib.figures.scan_strip import outcome_of, scan_strip
from lsfa_lib.pages import report
from lsfa_lib.pages.notebook_html import PLOTLY


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(size=72, each=3)


@pytest.fixture(scope="module")
def strip(case: Case) -> dict:
    return scan_strip(case.result, case.samples, case.predictions).layout.meta["strip"]


def _numbers(packed: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["bdata"]), f"<{packed['dtype']}")


def test_every_scan_is_there_with_score_and_verdict(case: Case, strip: dict) -> None:
    by_score = sorted(case.result["scans"], key=lambda s: -s["scores"]["rgb+3d"])
    assert [s["name"] for s in strip["scans"]] == [s["name"] for s in by_score]
    threshold = case.result["modes"]["rgb+3d"]["threshold"]
    for shown, scan in zip(strip["scans"], by_score, strict=True):
        above = scan["scores"]["rgb+3d"] > threshold
        words = {(True, True): "found", (True, False): "missed", (False, True): "false alarm"}
        assert shown["outcome"] == words.get((scan["defective"], above), "passed")
        assert shown["score"] == round(scan["scores"]["rgb+3d"], 3)
        image = base64.b64decode(shown["thumbnail"].partition("base64,")[2])
        assert Image.open(io.BytesIO(image)).size == (128, 64)
    assert {scan["outcome"] for scan in strip["scans"]} >= {"found", "missed"}


def test_the_truth_may_be_unknown(case: Case) -> None:
    scan = {"defective": None, "scores": {"rgb+3d": 99.0}}
    assert outcome_of(scan, case.result) == "flagged"
    assert outcome_of(scan | {"scores": {"rgb+3d": -9.0}}, case.result) == "not flagged"


def test_a_view_holds_the_scan_itself(case: Case, strip: dict) -> None:
    ranges = score_ranges(case.samples, case.predictions)
    place = {sample.name: i for i, sample in enumerate(case.samples)}
    for shown in strip["scans"][::4]:
        i, view = place[shown["name"]], shown["view"]
        pixels = pixels_of(case.samples[i])
        rows, columns = _numbers(view["rows"]), _numbers(view["columns"])
        expected = surface_of(pixels)[rows, columns]
        for axis, name in enumerate("xyz"):
            found = _numbers(view["cloud"][name]) * view["cloud"]["meta"]["step"]
            assert np.abs(found - expected[:, axis]).max() <= 0.005 + 1e-9
        level = level_of(case.predictions["rgb+3d"][i].anomaly_map.numpy(), ranges["rgb+3d"])
        colors = _numbers(view["colors"][strip["lead"]]["marker.color"][0])
        assert np.array_equal(colors, level[rows, columns])
        assert np.array_equal(
            _numbers(view["colors"][1]["marker.color"][0]), pixels.defect[rows, columns]
        )
        left, top, side = view["box"]
        assert (left + 0.5, top + 0.5, side) == (pixels.box.left, pixels.box.top, pixels.box.side)
        assert len(view["images"]) == 8


def test_only_the_chosen_scans_open_when_few_are_asked_for(case: Case) -> None:
    few = scan_strip(case.result, case.samples, case.predictions, n=2).layout.meta["strip"]
    opened = [scan["name"] for scan in few["scans"] if "view" in scan]
    assert len(few["scans"]) == 15 and len(opened) == 2
    assert few["scans"][few["first"]]["name"] in opened


def test_the_camera_turns_to_the_side_that_the_place_faces() -> None:
    y, x = np.mgrid[-1:1:60j, -1:1:60j]
    points = np.stack((x, y, np.sqrt(np.clip(2.2 - x**2 - y**2, 0, None))), axis=-1).reshape(-1, 3)
    eyes = []
    for side in (-0.7, 0.7):
        seen = np.hypot(points[:, 0] - side, points[:, 1]) < 0.15
        eyes.append(camera_facing(points * 40, seen)["eye"])
    assert eyes[0]["x"] < -0.2 and eyes[1]["x"] > 0.2
    assert all(eye["z"] > 0.3 for eye in eyes)
    few, _ = spread_points(np.ones((2, 2), bool)), 0
    assert len(few[0]) == 4
    flat = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    assert np.isfinite(
        list(camera_facing(flat, np.array([1, 0, 0, 0], bool))["eye"].values())
    ).all()


@pytest.fixture(scope="module")
def page(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "runs" / "quickstart" / "cookie-demo-s0"
    path = write_run(folder, case)
    notebook = nbformat.read(path, 4)
    figures = (
        scan_strip(case.result, case.samples, case.predictions),
        result_figures.kind_figure(case.result),
    )
    notebook.cells[6].outputs = [
        v4.new_output("display_data", {PLOTLY: json.loads(figure.to_json())}) for figure in figures
    ]
    nbformat.write(notebook, path)
    return report.render(path, folder / "report.html")


class TestInABrowser:
    pytestmark = MARKS

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
    def test_thumbnails_filter_sort_and_open(
        self, browser, page: Path, strip: dict, width: int, scheme: str
    ) -> None:
        watch = Watch(browser, page, width, scheme)
        watch.draw()
        items, shown = (
            watch.page.locator(".thumbnails li"),
            watch.page.locator(".thumbnails li:visible"),
        )
        assert items.count() == 15
        first = watch.page.locator(".plot:not(.small) figcaption").inner_text()
        assert strip["scans"][strip["first"]]["name"] in first and first.startswith("Found")
        before, cloud = self._image(watch), watch.cloud()
        missed = [scan for scan in strip["scans"] if scan["outcome"] == "missed"]
        watch.page.get_by_role("button", name=f"missed {len(missed)}", exact=True).click()
        assert shown.count() == len(missed)
        name = "/".join(missed[0]["name"].split("/")[-2:])
        shown.first.click()
        watch.settle()
        assert name in watch.page.locator(".plot:not(.small) figcaption").inner_text()
        watch.page.locator(".plot:not(.small) .imagelayer image").first.scroll_into_view_if_needed()
        watch.settle()
        assert np.abs(self._image(watch) - before).mean() > 1
        assert np.abs(watch.cloud() - cloud).mean() > 1
        watch.page.get_by_role("button", name="all 15", exact=True).click()
        watch.page.locator(".strip select").first.select_option("stain")
        assert shown.count() == 3
        watch.page.locator(".strip select").first.select_option("")
        watch.page.locator(".strip select").last.select_option("mistakes")
        wrong = watch.page.locator(".thumbnails li.wrong").count()
        texts = [items.nth(i).inner_text() for i in range(wrong)]
        assert wrong and all("missed" in text or "false alarm" in text for text in texts)
        assert watch.fits()
        watch.close()

    def _image(self, watch: Watch) -> np.ndarray:
        box = watch.page.locator(".plot:not(.small) .imagelayer image").nth(5).bounding_box()
        return watch.pixels(box)

    def test_a_dot_opens_its_scan(self, browser, page: Path) -> None:
        watch = Watch(browser, page)
        watch.draw()
        caption = watch.page.locator(".plot:not(.small) figcaption")
        dots = watch.page.locator(".plot.small").last
        dots.scroll_into_view_if_needed()
        point = dots.locator(".points path").last.bounding_box()
        watch.page.mouse.move(point["x"] + 4, point["y"] + 4)
        watch.settle()
        said = dots.locator(".hovertext").text_content() or ""
        (name,) = re.findall(r"cookie/test/[a-z]+/\d+", said)
        watch.page.mouse.click(point["x"] + 4, point["y"] + 4)
        caption.filter(has_text=f"{name}, score").wait_for()
        watch.close()
