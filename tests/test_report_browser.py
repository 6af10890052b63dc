"""Reports in Chromium without a network: figures drawn, views linked, nothing asked of any host."""

import base64
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser_case import MARKS, Watch, colors
from report_case import COOKIE, MODES, make_case, write_run

from lsfa_lib.figures.names import SHORT_MODES
from lsfa_lib.pages import report
from lsfa_lib.pages.notebook_html import PLOTLY

SIZE = 72
pytestmark = MARKS


@pytest.fixture(scope="module")
def page(built: Path) -> Path:
    return built / COOKIE / "report.html"


@pytest.mark.parametrize("plotly", ["shared", "inline"])
def test_clouds_are_drawn_and_buttons_recolour_them(
    browser, page: Path, tmp_path: Path, plotly: str
) -> None:
    if plotly == "inline":
        page = report.render(page.parent / "notebook.ipynb", tmp_path / "mail.html", plotly)
    watch = Watch(browser, page)
    watch.draw()
    photo = watch.cloud()
    assert colors(photo) > 8
    # The part of the made-up run is brown: red above green above blue.
    red, green, blue = photo.reshape(-1, 3).mean(axis=0)
    assert red > green + 10 > blue + 20
    buttons = watch.page.locator(".updatemenu-button")
    assert buttons.all_text_contents() == [
        "photo",
        "ground truth",
        *(SHORT_MODES[m] for m in MODES),
    ]
    buttons.nth(4).click()
    watch.settle()
    score = watch.cloud()
    assert np.abs(score - photo).mean() > 20
    red, green, blue = np.median(score.reshape(-1, 3), axis=0)
    assert blue > green  # the lower end of the score's colours is violet
    assert watch.fits()
    watch.close()


def test_phone_stacks_the_cloud_above_the_pictures_and_code_unfolds(browser, page: Path) -> None:
    watch = Watch(browser, page, width=390, scheme="dark", touch=True)
    code = watch.page.locator(".notebook .input").first
    assert not code.is_visible()
    watch.page.check("#show-code")
    assert code.is_visible()
    watch.draw()
    assert watch.fits()
    cloud = watch.page.locator(".canvas canvas").first.bounding_box()
    picture = watch.page.locator(".canvas .imagelayer image").first.bounding_box()
    assert picture["y"] > cloud["y"] + 0.5 * cloud["height"]
    photo = watch.cloud()
    assert colors(photo) > 8
    # Seven colourings do not fit beside each other: they are a menu.
    watch.page.locator(".updatemenu-header").click()
    watch.page.locator(".updatemenu-dropdown-button").last.click()
    watch.settle()
    assert np.abs(watch.cloud() - photo).mean() > 10
    watch.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_training_rows_do_not_overlap(browser, page: Path, width: int) -> None:
    watch = Watch(browser, page, width=width)
    watch.draw()
    figure = watch.page.locator(".plot:has(figcaption:text('No collapse'))")
    assert figure.locator(".legendtext").all_text_contents()[:2] == ["LA", "GA"]
    boxes = [box.bounding_box() for box in figure.locator(".annotation, g.legend, g.legend2").all()]
    boxes = [box for box in boxes if box and box["width"]]
    assert len(boxes) == 8  # six rows, two legends
    edge = figure.bounding_box()
    for i, one in enumerate(boxes):
        assert edge["x"] <= one["x"] and one["x"] + one["width"] <= edge["x"] + edge["width"]
        for other in boxes[:i]:
            apart = one["x"] >= other["x"] + other["width"] or other["x"] >= one["x"] + one["width"]
            above = one["y"] >= other["y"] + other["height"]
            assert apart or above or other["y"] >= one["y"] + one["height"]
    watch.close()


class Scan:
    """The scan figure of a page, what it should say of a place, and where it shows it."""

    def __init__(self, watch: Watch, notebook: Path, number: int = 0) -> None:
        self.watch, self.plot = watch, watch.page.locator(".plot:not(.small)").nth(number)
        shown = [
            output.data[PLOTLY]
            for cell in nbformat.read(notebook, 4).cells
            for output in cell.get("outputs", [])
            if PLOTLY in output.get("data", {})
        ]
        figure = [f for f in shown if "scene" in f["layout"]][number]
        linked = figure["layout"]["meta"]["linked"]
        self.buttons = figure["layout"]["updatemenus"][0]["buttons"]
        self.rows, self.columns = (_numbers(linked[name], "<u2") for name in ("rows", "columns"))
        (cloud,) = [trace for trace in figure["data"] if trace["type"] == "scatter3d"]
        self.xyz = np.stack([_numbers(cloud[axis], "<f4") for axis in "xyz"], axis=1)

    def expected(self, i: int) -> str:
        """The readout of a point."""
        height = f"{self.xyz[i, 2]:.1f}".replace("-", "−")
        found = [f"row {self.rows[i]}, column {self.columns[i]}, height {height} mm"]
        if _colors(self.buttons[1])[i]:
            found.append("true defect")
        for button in self.buttons[2:]:
            level = _colors(button)[i]
            found.append(f"{button['label']} {'≥ ' if level == 250 else ''}{level} %")
        return " ".join(found)

    @property
    def readout(self) -> str:
        return " ".join(self.plot.locator(".readout").inner_text().split())

    def picture(self, number: int) -> dict:
        return self.plot.locator(".imagelayer image").nth(number).bounding_box()

    def window(self, number: int, i: int) -> tuple[float, float]:
        """Where a picture shows the pixel of a point."""
        box = self.picture(number)
        x = box["x"] + (self.columns[i] + 0.5) / SIZE * box["width"]
        return x, box["y"] + (self.rows[i] + 0.5) / SIZE * box["height"]

    def marks(self) -> list[tuple[float, float] | None]:
        """Where the pictures and, last, the cloud are marked."""
        self.watch.settle()
        boxes = [
            mark.bounding_box() if mark.is_visible() or mark.get_attribute("hidden") is None else 0
            for mark in self.plot.locator(".mark").all()
        ]
        return [(box["x"], box["y"]) if box else None for box in boxes]

    def drawn_by_plotly(self, i: int) -> tuple[float, float]:
        """Where plotly itself puts a note at that point of the cloud."""
        x, y, z = map(float, self.xyz[i])
        note = {"x": x, "y": y, "z": z, "text": "here", "ax": 0, "ay": 0, "arrowhead": 0}
        canvas = self.plot.locator(".canvas")
        canvas.evaluate("(c, n) => Plotly.relayout(c, {'scene.annotations': [n]})", note)
        self.watch.settle()
        box = self.plot.locator(".annotation-text-g:has-text('here')").bounding_box()
        canvas.evaluate("(c) => Plotly.relayout(c, {'scene.annotations': []})")
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def point_at_pixel(self, number: int, i: int) -> None:
        self.watch.page.mouse.move(*self.window(number, i))
        self.watch.settle()


def _numbers(packed: dict, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["bdata"]), dtype)


def _colors(button: dict) -> np.ndarray:
    return _numbers(button["args"][0]["marker.color"][0], "u1")


def _near(one: tuple, other: tuple, reach: float = 2.0) -> bool:
    return np.hypot(one[0] - other[0], one[1] - other[1]) <= reach


def _assert_linked(scan: Scan, i: int, shown_in: int = 2) -> None:
    scan.point_at_pixel(shown_in, i)
    assert scan.readout == scan.expected(i)
    *pictures, cloud = scan.marks()
    assert len(pictures) == 8
    for number, mark in enumerate(pictures):
        assert _near(mark, scan.window(number, i)), number
    assert _near(cloud, scan.drawn_by_plotly(i))


def test_a_pixel_is_shown_in_all_views_with_its_scores(browser, page: Path) -> None:
    watch = Watch(browser, page)
    watch.draw()
    scan = Scan(watch, page.parent / "notebook.ipynb")
    assert "Point at an image or the cloud" in scan.readout
    assert set(scan.marks()) == {None}
    (defect,) = np.nonzero(_colors(scan.buttons[1]))
    for i in (int(defect[len(defect) // 2]), len(scan.rows) // 3):
        _assert_linked(scan, i)
    assert "true defect" not in scan.readout
    box = scan.picture(0)
    watch.page.mouse.move(box["x"] + 1, box["y"] + 1)  # beside the part
    assert set(scan.marks()) == {None} and "Point at" in scan.readout
    watch.close()


def test_a_point_of_the_cloud_is_shown_in_the_pictures(browser, page: Path) -> None:
    watch = Watch(browser, page)
    watch.draw()
    scan = Scan(watch, page.parent / "notebook.ipynb")
    i = len(scan.rows) // 2
    place = scan.drawn_by_plotly(i)
    watch.page.mouse.move(*place)
    assert scan.readout == scan.expected(i)
    assert all(_near(m, scan.window(n, i)) for n, m in enumerate(scan.marks()[:-1]))
    # The mark follows the cloud when that is turned.
    watch.page.mouse.down()
    watch.page.mouse.move(place[0] + 60, place[1] - 30, steps=4)
    watch.page.mouse.up()
    *_, mark = scan.marks()
    assert mark is not None and not _near(mark, place, 8)
    assert watch.page.locator(".hoverlayer .hovertext").count() == 0
    watch.close()


def test_views_stay_linked_after_the_switch_to_dark_and_to_a_phone(browser, page: Path) -> None:
    watch = Watch(browser, page)
    watch.draw()
    scan = Scan(watch, page.parent / "notebook.ipynb")
    i = len(scan.rows) // 2
    scan.plot.locator(".updatemenu-button").nth(4).click()
    watch.settle()
    light = watch.cloud()
    watch.page.emulate_media(color_scheme="dark")
    watch.settle()
    # The colouring that was chosen stays, and so does the button's state.
    part = (light < 250).any(axis=2)
    assert part.mean() > 0.1 and np.median(np.abs(watch.cloud() - light)[part]) < 25
    active = "c => c.layout.updatemenus[0].active"
    assert scan.plot.locator(".canvas").evaluate(active) == 4
    _assert_linked(scan, i)
    watch.page.set_viewport_size({"width": 390, "height": 1400})
    watch.settle()
    scan.plot.scroll_into_view_if_needed()
    _assert_linked(scan, i, shown_in=4)
    assert watch.fits()
    watch.close()


def test_a_tap_marks_the_place_and_another_beside_it_takes_it_back(browser, page: Path) -> None:
    watch = Watch(browser, page, width=390, touch=True)
    watch.draw()
    scan = Scan(watch, page.parent / "notebook.ipynb")
    scan.plot.scroll_into_view_if_needed()
    scan.plot.locator(".imagelayer image").last.scroll_into_view_if_needed()
    i = len(scan.rows) // 2
    watch.page.touchscreen.tap(*scan.window(4, i))
    assert None not in scan.marks() and scan.readout == scan.expected(i)
    box = scan.picture(4)
    watch.page.touchscreen.tap(box["x"] + 2, box["y"] + 2)
    assert set(scan.marks()) == {None}
    watch.close()


def test_the_slider_greys_what_scores_lower_and_keeps_the_other_colours(
    browser, page: Path
) -> None:
    watch = Watch(browser, page)
    watch.draw()
    scan = Scan(watch, page.parent / "notebook.ipynb")
    scan.plot.locator(".updatemenu-button").nth(4).click()
    watch.settle()
    scores = watch.cloud()
    slider = scan.plot.get_by_role("slider")
    scan.plot.locator(".updatemenu-button").nth(0).click()
    greys = []
    for key, value in (("Home", "0 %"), ("ArrowRight", "5 %"), ("PageUp", None), ("End", "250 %")):
        slider.press(key)
        if value:
            assert scan.plot.locator(".from output").inner_text() == value
        watch.settle()
        greys.append(_grey(watch.cloud()))
    part = (scores < 250).any(axis=2).mean()
    assert greys[0] == 0 and greys[1] < greys[2] < greys[3] and greys[3] > 0.4 * part
    # Moving it in the photo's colours chooses the score of RGB + 3D.
    active = scan.plot.locator(".canvas").evaluate("c => c.layout.updatemenus[0].active")
    assert scan.buttons[active]["label"] == "RGB + 3D"
    slider.fill("60")
    watch.settle()
    cut = watch.cloud()
    (above,) = np.nonzero(_colors(scan.buttons[4]) > 60)
    kept = np.abs(cut - scores).max(axis=2) <= 8
    kept &= (scores < 250).any(axis=2)
    assert len(above) and 0.02 * part < kept.mean() < 0.5 * part
    # Another colouring by score keeps the cut, the photo has none.
    scan.plot.locator(".updatemenu-button").nth(2).click()
    watch.settle()
    assert _grey(watch.cloud()) > 0.2 * part
    scan.plot.locator(".updatemenu-button").nth(0).click()
    watch.settle()
    assert scan.plot.locator(".from output").inner_text() == "0 %"
    assert _grey(watch.cloud()) == 0
    watch.close()


def _grey(pixels: np.ndarray) -> float:
    """Share of pixels of the colour that says: scores lower."""
    return float((np.abs(pixels - (0x8A, 0x94, 0xA0)).max(axis=2) <= 8).mean())


def test_many_clouds_take_turns_and_each_has_its_own_marks(browser, tmp_path: Path) -> None:
    notebook = write_run(tmp_path, make_case(size=SIZE, each=1, trained=False), scans=5)
    content = nbformat.read(notebook, 4)
    drawing = content.cells[6]
    drawing.outputs = [o for o in drawing.outputs if "scene" in o.data[PLOTLY]["layout"]] * 2
    nbformat.write(content, notebook)
    count = len(drawing.outputs)
    assert count > 7
    watch = Watch(browser, report.render(notebook, tmp_path / "report.html"), width=1000)
    plots = watch.page.locator(".plot:not(.small)")
    for number in [*range(count), 0, 1]:
        plots.nth(number).scroll_into_view_if_needed()
        plots.nth(number).locator(".readout").wait_for()
        watch.settle()
        assert watch.page.locator(".plot:has(canvas)").count() <= 7
    scan, other = Scan(watch, notebook, 0), Scan(watch, notebook, 1)
    scan.plot.scroll_into_view_if_needed()
    assert scan.plot.locator(".readout").count() == 1
    i = len(scan.rows) // 2
    scan.point_at_pixel(2, i)
    assert scan.readout == scan.expected(i) and None not in scan.marks()
    assert set(other.marks()) == {None} and "Point at" in other.readout
    watch.close()


def test_without_plotly_the_page_says_what_it_needs(browser, page: Path, tmp_path: Path) -> None:
    alone = tmp_path / "report.html"
    alone.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    watch = Watch(browser, alone)
    said = watch.page.locator(".canvas").first.inner_text()
    assert "This figure needs plotly.min.js from the reports folder" in said
    watch.errors = [error for error in watch.errors if "ERR_FILE_NOT_FOUND" not in error]
    watch.close()
