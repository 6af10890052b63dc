"""Takes the pictures of the README and of docs/gallery.md: `make demo`, then `make pictures`.

Needs Chromium on the path and playwright, which `make test` uses too.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from notebook_pictures import write_gallery, write_webp
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--no-first-run", "--disable-sync", "--enable-unsafe-swiftshader"]
SIZE = {"width": 1240, "height": 1440}
MOST_BYTES = 150_000
KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
HOTTEST = """canvas => {
  const { linked } = canvas.layout.meta, { buttons } = canvas.layout.updatemenus[0];
  const bytes = (packed) => Uint8Array.from(atob(packed.bdata), (c) => c.charCodeAt(0)).buffer;
  const levels = new Uint8Array(bytes(buttons[linked.lead].args[0]["marker.color"][0]));
  const top = Math.max(...levels);
  const [column, row] = ["columns", "rows"].map((name) => {
    const hot = [...new Uint16Array(bytes(linked[name]))].filter((_, i) => levels[i] === top);
    return hot.reduce((sum, place) => sum + place, 0) / hot.length;
  });
  const { xaxis, yaxis } = canvas._fullLayout, box = canvas.getBoundingClientRect();
  return [box.x + xaxis._offset + xaxis.l2p(column), box.y + yaxis._offset + yaxis.l2p(row)];
}"""
"""Where the photo shows the middle of the highest scores."""


def gallery(browser: Browser, reports: Path) -> bytes:
    """The gallery of all runs and studies."""
    page = _opened(browser, (reports / "index.html").as_uri())
    page.wait_for_function("[...document.images].slice(0, 3).every(image => image.naturalWidth)")
    return page.screenshot()


def report(browser: Browser, reports: Path) -> bytes:
    """All scans of a run, and one of them in the viewer: one place shown in all its views."""
    pages = sorted((reports / "runs").glob("*/*/report.html"))
    linked = next((p for p in pages if p.parent.parent.name != "sweep"), None)
    if linked is None:
        raise SystemExit(f"{reports} holds no report of a run; `make demo` writes some")
    page = _opened(browser, linked.as_uri())
    plot = page.locator(".plot:not(.small)").first
    plot.scroll_into_view_if_needed()
    plot.locator(".readout").wait_for()
    strip = page.locator(".strip")
    strip.evaluate("strip => scrollBy({top: strip.getBoundingClientRect().top - 60})")
    canvas = plot.locator(".canvas")
    page.mouse.move(*canvas.evaluate(HOTTEST))
    page.wait_for_timeout(3000)
    return page.screenshot()


def explorer(browser: Browser) -> bytes:
    """explore.ipynb in JupyterLab, run, at its first scan."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "notebooks" / "explore.ipynb", folder)
        with _lab(Path(folder)) as address:
            page = _opened(browser, address)
            page.locator(".jp-Notebook").wait_for()
            page.wait_for_function(f"{KERNEL} === 'idle'")
            # Not awaited: the command ends when the last cell has ended.
            page.evaluate(
                "void window.jupyterapp.commands.execute('notebook:run-all-cells').catch(() => 0)"
            )
            page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
            live = page.locator(".lsfa-live")
            live.locator("p.lead").first.wait_for(timeout=1_200_000)
            live.scroll_into_view_if_needed()
            live.evaluate("box => box.closest('.jp-Cell').scrollIntoView()")
            page.wait_for_timeout(5000)
            return page.screenshot()


@contextmanager
def _lab(folder: Path) -> Iterator[str]:
    """Address of a JupyterLab on a copy of the notebook: running it leaves the checkout clean."""
    arguments = "--no-browser --LabApp.expose_app_in_browser=True --ServerApp.port=0"
    command = ["make", "lab-server", f"LAB_FOLDER={folder}", f"LAB_HOME={folder}/home"]
    server = subprocess.Popen(
        [*command, f"LAB_ARGS={arguments}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for line in server.stderr or ():
            if found := re.search(r"(http://127\.0\.0\.1:\d+/\S*\?token=\w+)", line):
                yield found[1]
                return
        raise SystemExit("JupyterLab did not start; `make lab` says why")
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def _opened(browser: Browser, address: str) -> Page:
    page = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
    page.set_default_timeout(120_000)
    page.goto(address)
    return page


def main() -> None:
    """Takes the pictures named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["gallery", "report", "explorer", "notebooks"])
    parser.add_argument("--reports", type=Path, default=ROOT / "reports")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    asked = parser.parse_args()
    reports = asked.reports.resolve()
    takers: dict[str, Any] = {
        "gallery": lambda browser: gallery(browser, reports),
        "report": lambda browser: report(browser, reports),
        "explorer": explorer,
    }
    # Stopped from outside, it stops its JupyterLab too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        for name in asked.names:
            if name == "notebooks":
                write_gallery(browser, reports, asked.out)
                continue
            write_webp(asked.out / f"{name}.webp", takers[name](browser), MOST_BYTES)
        browser.close()


if __name__ == "__main__":
    main()
