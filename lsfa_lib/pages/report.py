"""An executed notebook as one HTML page that works offline.

A page needs no server and requests nothing from any host: images and data are part of it, plotly.js
lies once next to all reports ("shared") or, compressed, in the page ("inline", to send by mail).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import nbformat
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lsfa_lib.pages.gallery import write_index as write_index
from lsfa_lib.pages.gallery_data import DAMAGE
from lsfa_lib.pages.gallery_first import study_figure
from lsfa_lib.pages.notebook_html import body_html, contents, example, question, thumbnail
from lsfa_lib.pages.page import day, packed, page_text, write_text
from lsfa_lib.pages.report_head import provenance, run_head
from lsfa_lib.storage.files import InputError, atomic_write, progress
from lsfa_lib.storage.results import read_result
from lsfa_lib.storage.study_record import read_study

PAGES = ("runs/*/*", "studies/*", "*")
"""Folders below the reports that hold an executed notebook and its page."""
_log = logging.getLogger(__name__)


def render(
    notebook_path: Path,
    html_path: Path,
    plotly: Literal["shared", "inline"] = "shared",
    title: str = "",
) -> Path:
    """Writes an executed notebook as one page and returns its path.

    Head and provenance come from the result.json or study.json in the notebook's folder, if it has
    one. "shared" links the gallery and neighbouring files, writes `thumbnail.png` next to the page
    and `plotly.min.js` into the reports folder; "inline" writes and links nothing else.
    """
    notebook = _read(notebook_path)
    alone, reports = plotly == "inline", _reports_folder(html_path)

    def link(path: Path, must_exist: bool = True) -> str:
        """The address of a file as seen from the page; empty where it is not linked."""
        if alone or (must_exist and not path.exists()):
            return ""
        return quote(os.path.relpath(path, html_path.parent).replace(os.sep, "/"))

    head = _head(notebook, notebook_path.parent)
    head["title"] = title or head["title"]
    image = b"" if alone else thumbnail(notebook)
    if image:
        with atomic_write(html_path.parent / "thumbnail.png") as file:
            file.write_bytes(image)
    body = body_html(notebook, head["title"], compressed=alone)
    in_reports = reports != html_path.parent
    text = page_text(
        "report.html.j2",
        ("base.css", "report.css"),
        ("linked.js", "strip.js", "figures.js"),
        **head,
        reports=reports,
        link=link,
        index=link(reports / "index.html", must_exist=False) if in_reports else "",
        contents=contents(body),
        code=any(cell.source for cell in notebook.cells if cell.cell_type == "code"),
        body=Markup(body),
        shared="" if alone else link(_write_plotly(reports)),
        packed=packed(get_plotlyjs()) if alone else "",
    )
    write_text(html_path, text)
    return html_path


def _head(notebook: nbformat.NotebookNode, folder: Path) -> dict[str, Any]:
    """Title, head and provenance of the page, from the files in the notebook's folder."""
    result, study = folder / "result.json", folder / "study.json"
    run = read_result(result) if result.exists() else None
    head: dict[str, Any] = {"title": question(notebook) or folder.name, "eyebrow": []}
    try:
        if run:
            head = {"title": str(run["category"]), **run_head(run)}
        elif study.exists():
            about = read_study(study)
            eyebrow = [f"{about.preset} preset", day(about.created)]
            head = {"title": about.title, "study": about, "eyebrow": eyebrow}
            head |= {"gains": Markup(study_figure(about)), "example": example(notebook)}
        return head | {"provenance": list(provenance(notebook, run))}
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(
            f"{result} has a missing or invalid value ({error}); run it again"
        ) from error


def mail(name: str, reports: Path, path: Path) -> Path:
    """Writes the page of one run or study as a single file that opens anywhere; its path.

    `name` is its folder, or the name of one below `reports`.
    """
    named = [f for pattern in PAGES for f in sorted(reports.glob(pattern)) if f.name == name]
    found = [f for f in dict.fromkeys([Path(name), *named]) if (f / "notebook.ipynb").exists()]
    if not found:
        raise InputError(f"{name} is no run or study with a notebook.ipynb; `lsfa run` makes them")
    if len(found) > 1:
        raise InputError(f"{name}: give the folder, one of {', '.join(map(str, found))}")
    return render(found[0] / "notebook.ipynb", path, plotly="inline")


def rebuild(reports: Path) -> Path:
    """Writes every page again from its executed notebook, then the gallery; its path."""
    found = [f for pattern in PAGES for f in sorted(reports.glob(f"{pattern}/notebook.ipynb"))]
    for notebook in progress(found, "pages"):
        try:
            render(notebook, notebook.parent / "report.html")
        except InputError as error:
            _log.warning("page not written: %s", error)
    return write_index(reports)


def _read(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise InputError(f"{path} is not a readable notebook; run it again") from error


def _reports_folder(page: Path) -> Path:
    """The folder that holds the gallery, if the page is where one links it; else the page's own."""
    for folder, levels in (("runs", 2), ("studies", 1)):
        if len(page.parents) > levels + 1 and page.parents[levels].name == folder:
            return page.parents[levels + 1]
    above = page.parent.parent
    if any((above / name).is_dir() for name in ("runs", "studies")):
        return above
    return page.parent


def _write_plotly(folder: Path) -> Path:
    path, text = folder / "plotly.min.js", get_plotlyjs()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path
