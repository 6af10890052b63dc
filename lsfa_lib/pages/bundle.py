"""A reports folder or one of its studies as a zip to share, without names of private folders."""

from __future__ import annotations

import html
import json
import logging
import posixpath
import re
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import quote, unquote

from plotly.offline import get_plotlyjs

from lsfa_lib.config import flat
from lsfa_lib.pages.gallery import index_page
from lsfa_lib.pages.gallery_data import Contents, RunEntry, find_contents
from lsfa_lib.storage.files import InputError, atomic_write

_RUN_FILES = ("report.html", "thumbnail.png", "result.json")
_STUDY_FILES = ("report.html", "thumbnail.png", "table.csv", "table.parquet", "runs.parquet")
_TEXT = (".html", ".json", ".csv")
_WHEN = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the zip: equal reports give equal bytes."""
_LINK = re.compile(r"""<a\b[^>]*?\bhref=(["'])(.*?)\1[^>]*>(.*?)</a>""", re.DOTALL)
_IMAGE = re.compile(r"""<img\b[^>]*?\bsrc=(["'])(.*?)\1()[^>]*>""", re.DOTALL)
_PLOTLY = re.compile(r'<script src="[^"]*plotly\.min\.js">')
_ELSEWHERE = ("https:", "http:", "mailto:", "data:")
_log = logging.getLogger(__name__)


def write_bundle(reports: Path, path: Path, study: str = "") -> Path:
    """Writes the gallery with its pages, thumbnails, numbers and tables as a zip; its path.

    With `study` that study and its runs alone. Notebooks are left out, as are links to files that
    are not in the zip and the names of this machine's folders. Equal reports give equal bytes.
    """
    contents = find_contents(reports)
    if study:
        contents = contents.of_study(study)
    files = _files(reports, contents)
    if not files:
        raise InputError(f"{reports} holds no finished run to bundle; `lsfa run` makes the first")
    for run in contents.runs:
        if f"{run.place}/report.html" not in files:
            _log.warning("%s has no page; `lsfa report` writes it", run.place)
    private = _private_folders(reports, contents.runs)
    with atomic_write(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        _add(
            archive,
            "index.html",
            private.sub("…", index_page(contents, files.__contains__, reports)),
        )
        _add(archive, "plotly.min.js", get_plotlyjs())
        for name, file in sorted(files.items()):
            if file.suffix in _TEXT:
                text = private.sub("…", file.read_text(encoding="utf-8", errors="replace"))
                _add(archive, name, _linked(text, name, files) if file.suffix == ".html" else text)
            else:
                _add(archive, name, file.read_bytes())
    return path


def _files(reports: Path, contents: Contents) -> dict[str, Path]:
    """The files of the bundle by their name in the zip."""
    names = [f"{run.place}/{name}" for run in contents.runs for name in _RUN_FILES]
    names += [f"{study.place}/{name}" for study in contents.studies for name in _STUDY_FILES]
    names += [page for _, page in contents.pages]
    return {name: reports / name for name in names if (reports / name).is_file()}


def _private_folders(reports: Path, runs: list[RunEntry]) -> re.Pattern[str]:
    """Finds every folder of this machine that a page might name, except its last part."""
    found = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), reports.resolve()}
    for run in runs:
        config = run.result.get("config")
        values = [str(value) for _, value in flat(config)] if isinstance(config, dict) else []
        found |= {Path(value) for value in values if Path(value).is_absolute()}
    folders = {str(folder) for path in found for folder in (path, path.parent)} - {"/"}
    written = (str, html.escape, quote, lambda folder: json.dumps(folder)[1:-1])
    forms = {form(folder) for folder in folders for form in written}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    # Not inside base64, which may contain a short name by chance.
    return re.compile(rf"(?<![\w+/])(?:{'|'.join(map(re.escape, longest_first))})(?![\w+-])")


def _linked(page: str, name: str, files: dict[str, Path]) -> str:
    """The page with links to files outside the bundle as plain text, and plotly.js found."""
    folder = posixpath.dirname(name)

    def kept(match: re.Match[str]) -> str:
        address = html.unescape(match[2])
        path = unquote(address.partition("#")[0])
        place = posixpath.normpath(posixpath.join(folder, path))
        known = not path or place in files or place == "index.html"
        return match[0] if known or address.startswith(_ELSEWHERE) else match[3]

    plotly = posixpath.relpath("plotly.min.js", folder)
    page = _PLOTLY.sub(f'<script src="{plotly}">', page)
    return _IMAGE.sub(kept, _LINK.sub(kept, page))


def _add(archive: zipfile.ZipFile, name: str, content: str | bytes) -> None:
    entry = zipfile.ZipInfo(f"reports/{name}", _WHEN)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content, compresslevel=6)
