"""Pages from this package's templates: text escaped, nothing asked of any host."""

from __future__ import annotations

import base64
import gzip
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from lsfa_lib.storage.files import atomic_write

TERMS = (
    "Scans of MVTec 3D-AD are shown under CC BY-NC-SA 4.0 (MVTec Software GmbH). "
    "Scans of the generated demo data are this project's own, under its licence."
)
_TEMPLATES = Path(__file__).parent / "templates"
_environment = Environment(
    loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_FOLDERS = re.compile(r"(?<![\w/:.<…])(?:[A-Za-z]:[\\/]|/)(?:[^\s/\\\"'<>:,;()\[\]]+[/\\])+(?=\S)")


def page_text(
    template: str, styles: tuple[str, ...], scripts: tuple[str, ...], **values: Any
) -> str:
    """A template of this package with its styles and scripts in the page; values are escaped."""
    return _environment.get_template(template).render(
        style=_content(styles), script=_content(scripts), terms=TERMS, **values
    )


def write_text(path: Path, text: str) -> None:
    """Writes a page whole."""
    with atomic_write(path) as file:
        file.write_text(text, encoding="utf-8")


def embedded_json(value: Any) -> Markup:
    """JSON for a script element, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A "<" inside a script element could end it or open a comment.
    return Markup(text.replace("<", "\\u003c"))


def packed(text: str) -> str:
    """The text gzipped, in base64: as a page carries what would make it heavy."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def day(created: str) -> str:
    """22 Nov 2026, from the time in result.json."""
    moment = datetime.fromisoformat(created)
    return f"{moment.day} {moment:%b %Y}"


def without_folders(text: str) -> str:
    """The text with folders of this machine, nobody else's business, as `…`: `…/007.tiff`."""
    return _FOLDERS.sub("…/", text)


def _content(names: tuple[str, ...]) -> Markup:
    return Markup("\n".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in names))
