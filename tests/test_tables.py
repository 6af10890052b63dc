"""Tables: the best cell of each column is marked, intervals are soft, text from data is text."""

import math
import re

import pandas as pd
import pytest

from lsfa_lib.figures.tables import marked

ROWS = ["none", "IFC", "CLC"]


def best_cells(page: str) -> list[str]:
    """Text of the cells of class `best`, row by row."""
    found = re.findall(r'<td[^>]* class="[^"]*\bbest\b[^"]*" ?>(.*?)</td>', page)
    return [re.sub(r"<[^>]+>", "", cell) for cell in found]


def test_largest_and_smallest_are_marked_and_nan_takes_no_part() -> None:
    frame = pd.DataFrame(
        {
            "I-AUROC": ["0.81", "0.84", "undefined"],
            "seconds": [3.0, math.nan, 1.25],
            "n": [1, 2, 3],
        },
        ROWS,
    )
    values = pd.DataFrame({"I-AUROC": [0.81, 0.84, math.nan], "seconds": frame["seconds"]}, ROWS)
    page = marked(frame, values, {"seconds": "min"}).to_html()
    assert best_cells(page) == ["0.84", "1.250"]
    assert best_cells(marked(frame, values).to_html()) == ["3.000", "0.84"]
    assert best_cells(marked(frame, values, "min").to_html()) == ["0.81", "1.250"]
    assert 'class="metrics"' in page
    cells = re.findall(r'<td[^>]* class="data row1[^"]*" ?>(.*?)</td>', page)
    assert cells == ["0.84", "–", "2"]


def test_the_mark_is_more_than_a_colour() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0]}, ROWS)
    page = marked(frame, frame).to_html()
    (rule,) = re.findall(r"#(\w+) \{([^}]*)\}", page)
    assert f'id="{rule[0]}" class="data row2 col0 best"' in page
    assert "font-weight: 700" in rule[1] and "text-decoration: underline" in rule[1]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0.9341, 0.9339, 0.5], ["0.934", "0.934"]),
        ([0.9341, 0.9339, 0.9340], []),
        ([0.7, math.nan, math.nan], []),
        ([math.nan] * 3, []),
    ],
)
def test_what_reads_the_same_is_marked_the_same(numbers: list, expected: list) -> None:
    frame = pd.DataFrame({"x": numbers}, ROWS)
    assert best_cells(marked(frame, frame).to_html()) == expected


def test_intervals_are_soft_and_text_is_escaped() -> None:
    evil = "<script>alert(1)</script> [not, numbers]"
    frame = pd.DataFrame(
        {evil: ["0.84 [0.82, 0.86]", "+0.012 ± 0.004", evil]}, ["<b>none", "IFC", evil]
    )
    page = marked(frame, pd.DataFrame(index=frame.index), caption="a<b").to_html()
    soft = '<small class="interval" style="display: inline-block">'
    assert f'<span class="value">0.84</span> {soft}[0.82, 0.86]</small>' in page
    assert f'<span class="value">+0.012</span> {soft}± 0.004</small>' in page
    assert page.count("<small") == 2
    assert "<script>" not in page and "<b>" not in page and "a<b" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; [not, numbers]") == 3
    assert "&lt;b&gt;none" in page and "a&lt;b" in page
