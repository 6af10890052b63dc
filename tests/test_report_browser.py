"""Pages in Chromium without a network: figures drawn, buttons work, nothing asked of any host."""

import copy
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_case import make_case, write_run

from lsfa_lib import report
from lsfa_lib.findings import SHORT
from lsfa_lib.results import write_result

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found on the path"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reports = tmp_path_factory.mktemp("pages") / "reports"
    folder = reports / "runs" / "quickstart" / "cookie-demo-s0"
    case = make_case(size=72, each=2)
    notebook = write_run(folder, case, scans=1)
    better = copy.deepcopy(case.result) | {"category": "zipper"}
    better["modes"]["rgb+3d"]["i_auroc"] = 1.0
    write_result(better, folder.parent / "zipper-demo-s0")
    report.render(notebook, folder / "report.html")
    report.render(notebook, reports / "mail" / "report.html", plotly="inline")
    report.write_index(reports)
    return reports


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Watch:
    """A page that notes every request that is not a local file, and every error."""

    def __init__(self, browser, path: Path, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 900}
        self.page = browser.new_page(viewport=size, color_scheme=scheme)
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.route("**/*", self._answer)
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(path.as_uri())

    def _answer(self, route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.asked.append(route.request.url)
            route.abort()

    def draw(self) -> None:
        """Scrolls to the cloud and waits until all figures near it are drawn."""
        self.page.locator(".plot:has(.canvas)").last.scroll_into_view_if_needed()
        self.page.wait_for_function(
            "[...document.querySelectorAll('.canvas')].every(c => c.querySelector('.main-svg'))"
        )
        self.page.wait_for_selector(".canvas .gl-container canvas, .canvas canvas")
        self.page.wait_for_timeout(1500)

    def cloud(self) -> np.ndarray:
        """Pixels of the middle of the 3D view."""
        box = self.page.locator(".canvas canvas").first.bounding_box()
        clip = {
            "x": box["x"] + 0.25 * box["width"],
            "y": box["y"] + 0.25 * box["height"],
            "width": 0.5 * box["width"],
            "height": 0.5 * box["height"],
        }
        shot = self.page.screenshot(clip=clip)
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), int)

    def fits(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def close(self) -> None:
        self.page.close()
        assert self.asked == []
        assert self.errors == []


def _colors(pixels: np.ndarray) -> int:
    return len(np.unique(pixels.reshape(-1, 3) // 16, axis=0))


@pytest.mark.parametrize("folder", ["runs/quickstart/cookie-demo-s0", "mail"])
def test_clouds_are_drawn_and_buttons_recolour_them(browser, reports: Path, folder: str) -> None:
    watch = Watch(browser, reports / folder / "report.html")
    watch.draw()
    photo = watch.cloud()
    assert _colors(photo) > 8
    # The part of the made-up run is brown: red above green above blue.
    red, green, blue = photo.reshape(-1, 3).mean(axis=0)
    assert red > green + 10 > blue + 20
    buttons = watch.page.locator(".updatemenu-button")
    assert buttons.all_text_contents() == ["photo", "ground truth", *SHORT.values()]
    buttons.nth(4).click()
    watch.page.wait_for_timeout(1000)
    score = watch.cloud()
    assert np.abs(score - photo).mean() > 20
    red, green, blue = np.median(score.reshape(-1, 3), axis=0)
    assert blue > green  # the lower end of the score's colours is violet
    assert watch.fits()
    watch.close()


def test_phone_stacks_the_cloud_above_the_pictures_and_code_unfolds(browser, reports: Path) -> None:
    folder = reports / "runs/quickstart/cookie-demo-s0"
    watch = Watch(browser, folder / "report.html", width=390, scheme="dark")
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
    assert _colors(photo) > 8
    # Seven colourings do not fit beside each other: they are a menu.
    watch.page.locator(".updatemenu-header").click()
    watch.page.locator(".updatemenu-dropdown-button").last.click()
    watch.page.wait_for_timeout(1000)
    assert np.abs(watch.cloud() - photo).mean() > 10
    watch.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_training_rows_do_not_overlap(browser, reports: Path, width: int) -> None:
    watch = Watch(browser, reports / "runs/quickstart/cookie-demo-s0/report.html", width=width)
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


@pytest.mark.parametrize("width", [390, 1280])
def test_index_filters_sorts_and_opens_reports(browser, reports: Path, width: int) -> None:
    watch = Watch(browser, reports / "index.html", width=width)
    names = watch.page.locator(".card:visible h3")
    assert names.all_text_contents() == ["cookie", "zipper"]
    assert watch.page.locator(".card img").evaluate("image => image.naturalWidth") == 448
    watch.page.select_option("#sort", "auroc")
    assert names.all_text_contents() == ["zipper", "cookie"]
    watch.page.fill("#filter", "rope")
    assert names.all_text_contents() == []
    watch.page.fill("#filter", "COOK demo")
    assert names.all_text_contents() == ["cookie"]
    assert watch.fits()
    watch.page.click("text=Report >> nth=-1")
    watch.page.wait_for_selector("text=How it was made")
    watch.close()
