"""Pages from this package's templates: text is escaped, nothing is requested from any host."""

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

from lsfa_lib.figures.findings import three_digits
from lsfa_lib.figures.names import metric_label
from lsfa_lib.pages.glossary import explained
from lsfa_lib.storage.files import atomic_write

_TEMPLATES = Path(__file__).parent / "templates"
_FOLDERS = re.compile(r"(?<![\w/:.<…])(?:[A-Za-z]:[\\/]|/)(?:[^\s/\\\"'<>:,;()\[\]]+[/\\])+(?=\S)")


def counted(number: int, word: str) -> str:
    """2 categories, 1 seed."""
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{number} {word if number == 1 else plural}"


def day(created: datetime | str) -> str:
    """22 Nov 2026, from a time as result.json has it."""
    moment = datetime.fromisoformat(created) if isinstance(created, str) else created
    return f"{moment.day} {moment:%b %Y}"


def page_text(
    template: str, styles: tuple[str, ...], scripts: tuple[str, ...], **values: Any
) -> str:
    """A template with its styles and scripts; values are escaped, technical terms explained."""
    page = _environment.get_template(template).render(
        style=_content(styles), script=_content(scripts), **values
    )
    return explained(page)


def write_text(path: Path, text: str) -> None:
    """Writes the page, or leaves the previous one in place when that fails."""
    with atomic_write(path) as file:
        file.write_text(text, encoding="utf-8")


def embedded_json(value: Any) -> Markup:
    """JSON for a script element, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A "<" inside a script element could end it or open a comment.
    return Markup(text.replace("<", "\\u003c"))


def packed(text: str) -> str:
    """The text gzipped and base64-encoded, to keep a page small."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def without_folders(text: str) -> str:
    """The text with private folders of this machine as `…`: `…/007.tiff`."""
    return _FOLDERS.sub("…/", text)


def last_line(traceback: str) -> str:
    """The last line of a traceback, without folders of this machine."""
    return without_folders(traceback.strip().rpartition("\n")[2].strip())


_environment = Environment(
    loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
for function in (counted, day, embedded_json, last_line, metric_label, three_digits):
    _environment.filters[function.__name__] = function


def _content(names: tuple[str, ...]) -> Markup:
    return Markup("\n".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in names))
