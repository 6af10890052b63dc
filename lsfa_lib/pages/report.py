"""An executed notebook as one HTML page without network.

Pages need no server and ask nothing of any host: pictures and data lie in the page, plotly.js
either once beside all reports ("shared") or, compressed, in the page ("inline", for mailing).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import nbformat
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lsfa_lib.notebooks.find import find_notebook
from lsfa_lib.notebooks.run import execute
from lsfa_lib.pages.gallery import write_index as write_index
from lsfa_lib.pages.gallery_data import DAMAGE, read_study
from lsfa_lib.pages.notebook_html import body_html, contents, question, thumbnail
from lsfa_lib.pages.page import packed, page_text, write_text
from lsfa_lib.pages.report_head import Link, provenance, relative, run_head, study_head
from lsfa_lib.storage.files import InputError, atomic_write, progress
from lsfa_lib.storage.results import read_result

PAGES = ("runs/*/*", "studies/*", "*")
"""Folders below the reports that hold an executed notebook and its page."""
_log = logging.getLogger(__name__)


def run_page(notebook: str, folder: Path, parameters: dict[str, Any]) -> Path:
    """Executes a notebook of the project by name and renders it; the path of `report.html`."""
    return render(execute(find_notebook(notebook), folder, parameters), folder / "report.html")


def render(
    notebook_path: Path,
    html_path: Path,
    plotly: Literal["shared", "inline"] = "shared",
    title: str = "",
) -> Path:
    """Writes an executed notebook as one page and returns its path.

    Its head and its provenance come from the result.json or study.json beside the notebook, where
    there is one. "shared" links the gallery and the neighbours, writes `thumbnail.png` beside the
    page and `plotly.min.js` in the reports folder; "inline" writes and links nothing else.
    """
    notebook = _read(notebook_path)
    folder, alone = notebook_path.parent, plotly == "inline"
    home = _reports_folder(html_path)

    def link(path: Path) -> str:
        return "" if alone or not path.exists() else relative(path, html_path)

    head = _head(notebook, folder, home, link)
    head["title"] = title or head["title"]
    picture = b"" if alone else thumbnail(notebook)
    if picture:
        with atomic_write(html_path.parent / "thumbnail.png") as file:
            file.write_bytes(picture)
    body = body_html(notebook, head["title"], compressed=alone)
    text = page_text(
        "report.html.j2",
        ("base.css", "report.css"),
        ("linked.js", "figures.js"),
        **head,
        index="" if alone or home == html_path.parent else relative(home / "index.html", html_path),
        contents=contents(body),
        body=Markup(body),
        shared="" if alone else relative(_write_shared(home), html_path),
        packed=packed(get_plotlyjs()) if alone else "",
    )
    write_text(html_path, text)
    return html_path


def _head(notebook: nbformat.NotebookNode, folder: Path, home: Path, link: Link) -> dict[str, Any]:
    """Title, head and provenance of the page, from what lies beside the notebook."""
    result, study = folder / "result.json", folder / "study.json"
    try:
        if result.exists():
            run = read_result(result)
            rows = list(provenance(notebook, run))
            return {"title": str(run["category"]), **run_head(run), "provenance": rows}
        rows = list(provenance(notebook, None))
        if study.exists():
            about = read_study(study)
            return {"title": about.title, **study_head(about, home, link), "provenance": rows}
        return {"title": question(notebook) or folder.name, "provenance": rows}
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{result} lacks or garbles {error}; run it again") from error


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
    """Writes every page again from the executed notebooks that are there, then the index."""
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
    """The folder that holds the gallery, if the page lies where one links it; else its own."""
    for parent in page.parents:
        if parent.name in ("runs", "studies"):
            return parent.parent
    above = page.parent.parent
    if any((above / name).is_dir() for name in ("runs", "studies")):
        return above
    return page.parent


def _write_shared(folder: Path) -> Path:
    path, text = folder / "plotly.min.js", get_plotlyjs()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path
