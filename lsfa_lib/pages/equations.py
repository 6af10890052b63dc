"""Markdown cells as HTML whose equations are MathML, which browsers draw without a script."""

from __future__ import annotations

from typing import Any

from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath


class Equations(IPythonRenderer):
    """nbconvert's HTML, with each LaTeX equation as MathML instead of text for MathJax."""

    def block_math(self, body: str) -> str:
        """An equation on a line of its own, which scrolls where the screen is narrow."""
        return f'<div class="equation">{convert(body.strip(), display="block")}</div>'

    def inline_math(self, body: str) -> str:
        """An equation within a line."""
        return convert(body.strip())


class OfflineExporter(HTMLExporter):
    """nbconvert's exporter without prompts and without MathJax."""

    def __init__(self) -> None:
        super().__init__(template_name="basic")  # type: ignore[no-untyped-call]
        self.exclude_input_prompt = self.exclude_output_prompt = True

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """A Markdown cell as HTML; the name of the filter that templates call."""
        renderer = Equations(escape=False, anchor_link_text=self.anchor_link_text)
        return str(MarkdownWithMath(renderer=renderer).render(source))
