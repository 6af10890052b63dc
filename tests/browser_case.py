"""Chromium without a network, and a page that notes what it asks for and what goes wrong."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found on the path"),
]


@contextmanager
def chromium() -> Iterator:
    """A browser; skips where playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Watch:
    """A page that notes the files it reads, every other request, every error and every alert."""

    def __init__(
        self, browser, path: Path, width: int = 1280, scheme: str = "light", touch: bool = False
    ) -> None:
        size = {"width": width, "height": 900}
        self.page = browser.new_page(viewport=size, color_scheme=scheme, has_touch=touch)
        self.page.set_default_timeout(60_000)
        self.files: list[str] = []
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.route("**/*", self._answer)
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.goto(path.as_uri())

    def _answer(self, route) -> None:
        url = route.request.url
        if url.startswith(("file:", "data:", "blob:")):
            self.files += [url] if url.startswith("file:") else []
            route.continue_()
        else:
            self.asked.append(url)
            route.abort()

    def _dismiss(self, dialog) -> None:
        self.errors.append(f"alert: {dialog.message}")
        dialog.dismiss()

    def draw(self) -> None:
        """Scrolls to the last cloud and waits until all figures near it are drawn."""
        self.page.locator(".plot:has(.canvas)").last.scroll_into_view_if_needed()
        self.page.locator(".plot:not(.small)").last.scroll_into_view_if_needed()
        self.page.wait_for_function(
            "[...document.querySelectorAll('.canvas')].every(c => c.querySelector('.main-svg'))"
        )
        self.page.locator(".plot:not(.small)").last.locator(".readout").wait_for()
        self.settle()

    def settle(self) -> None:
        """Waits until the 3D views have been painted twice."""
        self.page.wait_for_timeout(400)
        for _ in range(2):
            self.page.evaluate(
                "new Promise(done => requestAnimationFrame(() => setTimeout(done, 150)))"
            )

    def pixels(self, clip: dict) -> np.ndarray:
        shot = self.page.screenshot(clip=clip)
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), int)

    def cloud(self) -> np.ndarray:
        """Pixels of the middle of the last 3D view."""
        box = self.page.locator(".canvas canvas").last.bounding_box()
        return self.pixels(
            {
                "x": box["x"] + 0.25 * box["width"],
                "y": box["y"] + 0.25 * box["height"],
                "width": 0.5 * box["width"],
                "height": 0.5 * box["height"],
            }
        )

    def fits(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def close(self) -> None:
        self.page.close()
        assert self.asked == []
        assert self.errors == []


def colors(pixels: np.ndarray) -> int:
    """How many colours, in steps of 16."""
    return len(np.unique(pixels.reshape(-1, 3) // 16, axis=0))
