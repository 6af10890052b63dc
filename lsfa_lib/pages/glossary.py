"""Technical terms of a page with their explanation: on hover, on tap, and in a list at its end."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

from lsfa_lib.config import PRESETS
from lsfa_lib.figures.names import GLOSSARY

LIST, OFF, ON = "glossary", "glossary off", "glossary on"
"""Comments in a template: the list of the terms used so far; between the others none is marked."""
_STARTS = {"table", "h1", "h2", "h3", "p", "li", "dl", "figcaption"}
"""In each of these the first occurrence of a term is explained."""
_TEXT = {"th", "caption", "h1", "h2", "h3", "p", "li", "dt", "figcaption"}
_SKIPPED = {"a", "abbr", "button", "code", "pre", "script", "style"}
SOFT_HYPHEN = "\u00ad?"
_LABELS = {*PRESETS, "all three", "cell"}
"""Ordinary words in a sentence: explained in table headers, and in front of "preset"."""


def _pattern(in_header: bool) -> re.Pattern[str]:
    """Finds the terms as words of their own; those in lower case also as plural or capitalised."""
    forms = []
    for term in sorted(GLOSSARY, key=len, reverse=True):
        form = SOFT_HYPHEN.join(re.escape(letter) for letter in term)
        if term in _LABELS:
            forms.append(form if in_header else f"{form}(?= preset)")
        else:
            forms.append(f"(?i:{form})s?" if term.islower() else form)
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(forms)})(?![\w-]|\.\w)")


_HEADER, _SENTENCE = _pattern(True), _pattern(False)


def explained(page: str) -> str:
    """The HTML page with terms of GLOSSARY as `<abbr>`, and the list of those it contains."""
    return "".join(_Explainer(page).parts)


class _Explainer(HTMLParser):
    """Copies a page and changes nothing but the text in headers, headings and paragraphs."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._used: set[str] = set()
        self._seen: set[str] = set()
        self._inside, self._skipped = "", 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.parts.append(self.get_starttag_text() or "")
        if tag in _STARTS:
            self._seen = set()
        if tag in _TEXT:
            self._inside = tag
        self._skipped += tag in _SKIPPED

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.parts.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(f"</{tag}>")
        if tag == self._inside:
            self._inside = ""
        self._skipped -= tag in _SKIPPED

    def handle_data(self, data: str) -> None:
        if self._inside and not self._skipped:
            pattern = _HEADER if self._inside == "th" else _SENTENCE
            data = pattern.sub(self._explain, data)
        self.parts.append(data)

    def _explain(self, match: re.Match[str]) -> str:
        word, text = match[0], match[0].replace("\u00ad", "")
        forms = (text, text.lower(), text.lower().removesuffix("s"))
        term = next(form for form in forms if form in GLOSSARY)
        if term in self._seen:
            return word
        self._seen.add(term)
        self._used.add(term)
        return f'<abbr title="{html.escape(GLOSSARY[term])}" tabindex="-1">{word}</abbr>'

    def handle_comment(self, data: str) -> None:
        if data in (OFF, ON):
            self._skipped += 1 if data == OFF else -1
        elif data != LIST:
            self.parts.append(f"<!--{data}-->")
        elif self._used:
            terms = (t for t in GLOSSARY if t in self._used)
            rows = "".join(f"<dt>{t}</dt><dd>{html.escape(GLOSSARY[t])}</dd>" for t in terms)
            summary = "<summary>Terms on this page</summary>"
            self.parts.append(f'<details class="terms">{summary}<dl>{rows}</dl></details>')

    def handle_entityref(self, name: str) -> None:
        self.parts.append(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.parts.append(f"&#{name};")

    def handle_decl(self, decl: str) -> None:
        self.parts.append(f"<!{decl}>")
