"""Terms of a page are explained where they are first used, and nothing else of it changes."""

import html
import re

from lsfa_lib.figures.names import GLOSSARY
from lsfa_lib.pages.glossary import explained


def terms(page: str) -> list[str]:
    return re.findall(r'tabindex="-1">(.*?)</abbr>', explained(page))


def test_a_term_is_explained_once_in_each_block() -> None:
    page = "<p>IFC, IFC and CLC</p><p>IFC</p><table><th>IFC</th><th>IFC</th><td>CLC</td></table>"
    assert terms(page) == ["IFC", "CLC", "IFC", "IFC"]
    assert f'<abbr title="{html.escape(GLOSSARY["IFC"])}" tabindex="-1">IFC</abbr>' in explained(
        page
    )


def test_words_are_matched_as_a_whole_and_the_longest_term_first() -> None:
    assert terms("<p>AUPRO 30 % at bank.keep_ratio of banks, GALA and la</p>") == [
        "AUPRO 30 %",
        "banks",
    ]
    assert terms("<th>disagree\u00adment</th>") == ["disagree\u00adment"]


def test_recipes_are_explained_in_headers_and_before_preset_only() -> None:
    assert terms("<p>published numbers, demo preset</p><table><th>published</th></table>") == [
        "demo",
        "published",
    ]


def test_the_rest_of_the_page_is_copied_unchanged() -> None:
    page = (
        '<!DOCTYPE html>\n<p class="x">&lt;b&gt; &#8230; <a href="#IFC">IFC</a> <code>CLC</code>'
        "</p><script>const p = '<p>IFC</p>';</script><!--glossary off--><p>GA</p>"
        "<!--glossary on--><br/>\n"
    )
    assert explained(page) == page.replace("<!--glossary off-->", "").replace(
        "<!--glossary on-->", ""
    )


def test_the_list_at_the_end_holds_the_terms_used() -> None:
    page = explained("<p>IFC and CLC</p><!--glossary-->")
    assert re.findall("<dt>(.*?)</dt>", page) == ["IFC", "CLC"]
    assert f"<dd>{html.escape(GLOSSARY['CLC'])}</dd>" in page
    assert explained("<p>nothing</p><!--glossary-->") == "<p>nothing</p>"
