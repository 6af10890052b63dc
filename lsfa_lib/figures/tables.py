"""Tables as pages and notebooks show them: best values marked, intervals in soft type."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

Best = Literal["max", "min"]
MARK = "font-weight: 700; text-decoration: underline 2px #009E73; text-underline-offset: 4px;"
"""Bold and underlined: a mark that neither a grey print nor colour blindness hides."""
_INTERVAL = '<small class="interval" style="display: inline-block">{}</small>'
"""As a block of its own, the mark of a best value does not reach it."""
_SOFT = re.compile(r"(\[[-+−–\d., %]+\]|±\s*[-–\d.]+)")


def marked(
    frame: pd.DataFrame,
    values: pd.DataFrame | None = None,
    best: Best | Mapping[str, Best] = "max",
    digits: int = 3,
    caption: str = "",
) -> Styler:
    """`frame` as a table of class `metrics`, the best cell of each column of `values` marked.

    `frame` holds the cells as they are read ("0.934 [0.901, 0.960]"; numbers get `digits`
    decimals, NaN is a dash). `values`, of the same index, holds for each column that is to be
    marked the numbers that decide: the largest where `best` is "max", the smallest where it is
    "min", by column where `best` is a mapping (a column it leaves out is judged by "max"). NaN
    takes no part. Cells that agree to `digits` decimals share the mark; a column whose numbers all
    agree has none. Intervals in brackets and `±` are set in soft type. All text is escaped.

        rows = ["none", "IFC"]
        cells = pd.DataFrame({"I-AUROC": ["0.81 [0.78, 0.84]", "0.84 [0.82, 0.86]"]}, rows)
        marked(cells, pd.DataFrame({"I-AUROC": [0.81, 0.84]}, rows))
    """
    values = pd.DataFrame(index=frame.index) if values is None else values
    asked = best if isinstance(best, Mapping) else dict.fromkeys(values.columns, best)
    is_best = pd.DataFrame(False, frame.index, frame.columns)
    for column in values.columns:
        is_best[column] = _best(values[column].astype(float).round(digits), asked.get(column))
    style = Styler(frame, cell_ids=False).format(lambda cell: _cell(cell, digits))
    style = style.format_index(escape="html").format_index(escape="html", axis="columns")
    style = style.apply(lambda _: is_best.map(lambda b: MARK if b else ""), axis=None)
    style = style.set_td_classes(is_best.map(lambda b: "best" if b else ""))
    style = style.set_table_attributes('class="metrics"')
    return style.set_caption(html.escape(caption)) if caption else style


def _best(numbers: pd.Series[float], best: Best | None) -> pd.Series[bool]:
    extreme = numbers.min() if best == "min" else numbers.max()
    return numbers.eq(extreme) & (numbers.nunique() > 1)


def _cell(cell: Any, digits: int) -> str:
    """A cell's text as HTML."""
    is_float = isinstance(cell, (float, np.floating))
    if cell is None or (is_float and np.isnan(cell)):
        return "–"
    text = f"{cell:.{digits}f}" if is_float else str(cell)
    parts = _SOFT.split(html.escape(text), maxsplit=1)
    if len(parts) == 1:
        return parts[0]
    value, interval, rest = parts[0].strip(), _INTERVAL.format(parts[1]), parts[2]
    return (f'<span class="value">{value}</span> ' if value else "") + interval + rest
