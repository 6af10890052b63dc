"""docs/gallery.md: a picture and a sentence of every notebook, from pages of the demo.

A notebook that no page was made from is executed with its own parameters, which takes seconds to
minutes; one that needs a study that was not swept is left out, with the reason printed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import nbformat
from PIL import Image
from playwright.sync_api import Browser

from lsfa_lib.notebooks.find import FOLDERS
from lsfa_lib.notebooks.run import execute
from lsfa_lib.pages.notebook_html import question
from lsfa_lib.pages.report import PAGES, render
from lsfa_lib.storage.files import InputError

MOST_BYTES = 45_000
"""Of one picture: those of all notebooks stay below 1 MB."""
SLOW = ("15_efficiency",)
"""Shown where a sweep has made its page: it takes minutes."""
SIZE = {"width": 1000, "height": 1100}
HEAD = """# Notebooks

A picture and a result from most notebooks, taken from the demo data by `make pictures`. The
pictures are still; in a page or in JupyterLab each cloud can be turned and each map pointed at.
"""


def write_gallery(browser: Browser, reports: Path, out: Path) -> None:
    """Writes docs/images/notebooks/*.webp and docs/gallery.md."""
    parts = [HEAD]
    for notebook in sorted(FOLDERS[0].glob("*.ipynb")):
        if notebook.stem == "explore":  # its picture is that of JupyterLab
            said, image = (
                "The explorer in JupyterLab: point at a place and see why.",
                out / "explorer.webp",
            )
        else:
            page = _page(notebook, reports)
            if page is None:
                continue
            image = out / "notebooks" / f"{notebook.stem}.webp"
            said = _take(browser, page, image)
            if not said:
                print(f"{notebook.name}: left out, its page has no figure without its study")
                continue
        asked = question(nbformat.read(notebook, 4))
        place = image.relative_to(out.parent).as_posix()
        parts.append(
            f"## [{asked}](../notebooks/{notebook.name})\n\n{said}\n\n![{asked}]({place})\n"
        )
    (out.parent / "gallery.md").write_text("\n".join(parts), encoding="utf-8")


def _page(notebook: Path, reports: Path) -> Path | None:
    """A page made from the notebook; None where it cannot be made."""
    asked = question(nbformat.read(notebook, 4))
    for folder in _folders(reports):
        if question(nbformat.read(folder / "notebook.ipynb", 4)) == asked:
            return folder / "report.html"
    folder = reports / notebook.stem
    if notebook.stem in SLOW:
        print(f"{notebook.name}: left out, it takes long; sweep the study that runs it")
        return None
    try:
        return render(execute(notebook, folder, {}), folder / "report.html")
    except InputError as error:
        print(f"{notebook.name}: left out, {error}")
        return None


def _folders(reports: Path) -> Iterator[Path]:
    """Folders that hold an executed notebook and its page."""
    for pattern in PAGES:
        for page in sorted(reports.glob(f"{pattern}/report.html")):
            if (page.parent / "notebook.ipynb").exists():
                yield page.parent


def _take(browser: Browser, path: Path, image: Path) -> str:
    """Writes the picture of the page's first figure with a cloud, else its first; its caption.

    "" for a page without a figure.
    """
    page = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
    page.set_default_timeout(120_000)
    page.goto(path.as_uri())
    clouds, every = page.locator(".plot:not(.small)"), page.locator(".plot")
    if not every.count():
        page.close()
        return ""
    plot = (clouds if clouds.count() else every).first
    plot.scroll_into_view_if_needed()
    plot.locator(".main-svg").first.wait_for()
    page.wait_for_timeout(3000)
    shot = plot.screenshot()
    said = plot.locator("figcaption").inner_text().strip().rstrip(".")
    page.close()
    write_webp(image, shot, MOST_BYTES)
    return f"{said}."


def write_webp(path: Path, shot: bytes, most_bytes: int) -> None:
    """Writes a screenshot as WebP, in the best quality that stays below `most_bytes`."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    for quality in range(88, 20, -6):
        file = io.BytesIO()
        picture.save(file, "webp", quality=quality, method=6)
        if file.tell() < most_bytes:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
    print(f"{path}: {file.tell() / 1000:.0f} KB")
