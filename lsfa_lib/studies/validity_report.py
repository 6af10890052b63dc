"""What the page on generated data shows: gains, their rank correlation, and an answer."""

from __future__ import annotations

import html
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from pandas.io.formats.style import Styler
from plotly.subplots import make_subplots

from lsfa_lib.evaluation.bootstrap import AREA, with_interval
from lsfa_lib.figures.findings import labelled
from lsfa_lib.figures.names import METRICS as NAMES
from lsfa_lib.figures.names import MODES
from lsfa_lib.figures.style import DOTTED, TEMPLATE
from lsfa_lib.figures.tables import marked
from lsfa_lib.studies.study_table import spread
from lsfa_lib.studies.validity import (
    METRICS,
    MODE,
    REAL,
    Compared,
    Gains,
    by_chance,
    correlation,
    reversed_pairs,
)

LOOKS = (("#0072B2", "circle"), ("#D55E00", "square"), ("#6b7682", "diamond"))
"""Colour and symbol of each generated data set."""

SCALE = {"title_standoff": 12, "automargin": True}
ABOVE = {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"}


def data_table(found: Compared) -> Styler:
    """The data sets: categories, seeds, test scans, and how well the reference does."""
    rows = {}
    for each in (found.real, *found.generated):
        first = {key[1]: result for key, result in each.runs.results.items()}
        truths = [scan["defective"] for r in first.values() for scan in labelled(r)]
        rows[each.data] = {
            "categories": ", ".join(each.runs.about.categories),
            "seeds": len(each.runs.about.seeds),
            "good test scans": truths.count(False),
            "defective": truths.count(True),
            f"I-AUROC of {each.runs.about.reference}": each.base,
        }
    return marked(pd.DataFrame.from_dict(rows, orient="index"))


def gains_table(found: Compared) -> Styler:
    """The gains of every recipe in every metric on every data set; numbered as in the figure."""
    frame = pd.DataFrame(index=found.recipes)
    for metric in METRICS:
        for each in (found.real, *found.generated):
            column = f"Δ {NAMES[metric]}, {each.data}"
            frame[column] = [f"{value:+.3f}" for value in each.mean[metric]]
            if metric == AREA:
                frame[column] = [
                    spread(with_interval(AREA, value, each.drawn[cell].to_numpy()), AREA, "+.3f")
                    for cell, value in each.mean[AREA].items()
                ]
    frame.index = pd.Index([f"{n}. {cell}" for n, cell in enumerate(found.recipes, start=1)])
    return marked(frame, caption=f"{MODES[MODE]}; Δ to {found.real.runs.about.reference}.")


def correlation_table(found: Compared) -> Styler:
    """Rank correlation of each generated data set with the real photographs, by metric."""
    rows = {
        each.data: {NAMES[m]: spread(correlation(each, found.real, m), m, ".2f") for m in METRICS}
        for each in found.generated
    }
    caption = f"Spearman's rank correlation over {len(found.recipes)} recipes, 95 % interval."
    return marked(pd.DataFrame.from_dict(rows, orient="index"), caption=caption)


def gains_figure(found: Compared) -> go.Figure:
    """Gain on real photographs over the gain on generated data, a panel for each metric.

    Dots hold the recipe's number in the table. Those at the upper left and the lower right gain on
    one side and lose on the other.
    """
    figure = make_subplots(rows=len(METRICS), cols=1, vertical_spacing=0.1)
    for row, metric in enumerate(METRICS, start=1):
        for each, (colour, symbol) in zip(found.generated, cycle(LOOKS), strict=False):
            figure.add_scatter(
                **{"row": row, "col": 1, "name": each.data, "legendgroup": each.data},
                x=each.mean[metric],
                y=found.real.mean[metric],
                text=[str(n) for n, _ in enumerate(found.recipes, start=1)],
                hovertext=found.recipes,
                hovertemplate=f"%{{hovertext}}<br>{html.escape(each.data)} %{{x:+.3f}}, {REAL} "
                "%{y:+.3f}<extra></extra>",
                mode="markers+text",
                marker={"size": 20, "color": colour, "symbol": symbol, "opacity": 0.85},
                textfont={"color": "white", "size": 11},
                showlegend=row == 1,
            )
        figure.add_hline(0.0, row=row, col=1, line=DOTTED).add_vline(0.0, row=row, line=DOTTED)
        figure.update_xaxes(row=row, col=1, title_text=f"Δ {NAMES[metric]}, generated data")
    figure.update_yaxes(title_text=f"Δ, {REAL}", **SCALE)
    return figure.update_layout(
        template=TEMPLATE, height=1100, title={"text": _title(found)}, legend=ABOVE
    )


def _title(found: Compared) -> str:
    said = [f"{correlation(g, found.real)[AREA]:.2f} on {g.data}" for g in found.generated]
    if not said:
        return "No generated data to compare with"
    return f"Rank correlation of I-AUROC gains: {', '.join(said)}"


def answer(found: Compared) -> str:
    """How far to trust each generated data set, from the numbers, as Markdown."""
    said = ["**No generated data set was swept, so nothing can be compared.**\n"]
    if found.generated:
        by_data = {g.data: correlation(g, found.real) for g in found.generated}
        nearest = max(by_data, key=lambda data: np.nan_to_num(by_data[data][AREA], nan=-2.0))
        least = by_chance(len(found.recipes))
        said = [
            f"**{html.escape(nearest)} orders recipes most like {REAL}: rank correlation "
            f"{spread(by_data[nearest], AREA, '.2f')}.**\n"
        ]
        said += [_trust(each, found, least) for each in found.generated]
        if not np.isnan(least):
            said.append(
                f"- {len(found.recipes)} recipes in random order correlate within ±{least:.2f} in "
                "19 of 20 cases: a smaller correlation may be chance, however many scans there are."
            )
    return "\n".join([*said, *(f"- {html.escape(sentence)}." for sentence in found.left_out)])


def _trust(each: Gains, found: Compared, least: float) -> str:
    """What one data set orders as the real photographs do, what not, and if that is enough."""
    line, wrong = correlation(each, found.real), reversed_pairs(each, found.real)
    count = len(wrong)
    pairs = count * (count - 1) // 2
    sure = line.get(f"{AREA}_low", np.nan) > 0 and line[AREA] > least
    verdict = (
        "a larger gain here suggests a larger one there"
        if sure
        else "do not choose among recipes by it alone"
    )
    said = (
        f"- **{html.escape(each.data)}**: rank correlation of I-AUROC gains "
        f"{spread(line, AREA, '.2f')}, {pairs - wrong.sum() // 2} of {pairs} pairs of recipes in "
        f"the order of the {REAL}; {verdict}."
    )
    if worst := [f"{cell} ({n})" for cell, n in wrong.nlargest(3).items() if n > 0]:
        said += (
            f" In the wrong order most often, of {count - 1} pairs each: "
            f"{html.escape('; '.join(worst))}."
        )
    return said + _opposite(each, found)


def _opposite(each: Gains, found: Compared) -> str:
    """The recipes that gain here and lose on real photographs, or the other way round."""
    both = pd.DataFrame({"own": each.mean[AREA], "real": found.real.mean[AREA]}).round(3)
    both = both[both["own"] * both["real"] < 0]
    cells = [
        f"{cell} ({own:+.3f} here, {real:+.3f} there)" for cell, own, real in both.itertuples()
    ]
    return f" Of opposite sign: {html.escape('; '.join(cells))}." if cells else ""
