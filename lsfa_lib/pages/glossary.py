"""Technical terms of a page with their explanation: on hover, on tap, and in a list at its end."""

from __future__ import annotations

import html
import re

from lsfa_lib.config import PRESETS
from lsfa_lib.figures.names import GLOSSARY

LIST, OFF, ON = "<!--glossary-->", "<!--glossary off-->", "<!--glossary on-->"
"""Comments in a template: the list of the terms used so far; between the others none is marked."""
_STARTS = {"table", "h1", "h2", "h3", "p", "li", "dl", "figcaption"}
"""In each of these the first occurrence of a term is explained."""
_TEXT = {"th", "caption", "h1", "h2", "h3", "p", "li", "dt", "figcaption"}
_SKIPPED = {"a", "abbr", "button", "code", "math", "pre"}
_TOKENS = re.compile(
    r"""(<!--.*?-->|<script\b.*?</script>|<style\b.*?</style>"""
    r"""|<[/!]?[a-z](?:[^<>"']++|"[^"]*+"|'[^']*+')*+>)""",
    re.DOTALL | re.IGNORECASE,
)
"""A comment, a script or style with its content, or a tag; the rest of a page is text."""
_TAG = re.compile("<(/?)([a-z][a-z0-9]*)")
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
    """The HTML page with terms of GLOSSARY as `<abbr>`, and the list of those it contains.

    Only the text in headers, headings and paragraphs is changed.
    """
    parts = list[str]()
    used, seen = set[str](), set[str]()
    inside, skipped = "", 0
    for token in _TOKENS.split(page):
        tag = _TAG.match(token)
        if token in (OFF, ON):
            skipped += 1 if token == OFF else -1
            continue
        if token == LIST:
            token = _terms(used)
        elif tag is None and inside and not skipped:
            token = _marked(token, inside == "th", seen)
            used |= seen
        elif tag and tag[1]:
            inside = "" if tag[2] == inside else inside
            skipped -= tag[2] in _SKIPPED
        elif tag and not token.endswith("/>"):
            seen = set() if tag[2] in _STARTS else seen
            inside = tag[2] if tag[2] in _TEXT else inside
            skipped += tag[2] in _SKIPPED
        parts.append(token)
    return "".join(parts)


def _marked(text: str, in_header: bool, seen: set[str]) -> str:
    """The text with its terms as `<abbr>`, except those `seen` before; adds the new ones to it."""

    def explain(match: re.Match[str]) -> str:
        word, plain = match[0], match[0].replace("\u00ad", "")
        forms = (plain, plain.lower(), plain.lower().removesuffix("s"))
        term = next(form for form in forms if form in GLOSSARY)
        if term in seen:
            return word
        seen.add(term)
        return f'<abbr title="{html.escape(GLOSSARY[term])}" tabindex="-1">{word}</abbr>'

    return (_HEADER if in_header else _SENTENCE).sub(explain, text)


def _terms(used: set[str]) -> str:
    """The list of the terms used, in the order of GLOSSARY."""
    rows = [f"<dt>{t}</dt><dd>{html.escape(GLOSSARY[t])}</dd>" for t in GLOSSARY if t in used]
    summary = "<summary>Terms on this page</summary>"
    return f'<details class="terms">{summary}<dl>{"".join(rows)}</dl></details>' if rows else ""
