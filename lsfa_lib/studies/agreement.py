"""Whether methods miss the same defects, and what two of them find together."""

from __future__ import annotations

import html
from itertools import combinations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from pandas.io.formats.style import Styler

from lsfa_lib.evaluation.metrics import auroc
from lsfa_lib.figures.findings import labelled
from lsfa_lib.figures.style import TEMPLATE
from lsfa_lib.figures.tables import marked
from lsfa_lib.studies.study_table import StudyRuns, lead_lines

Trial = tuple[str, int, int]
"""Category, seed, point of the grid."""
Pair = tuple[str, ...]
"""Two cells, or one."""
SHOWN = 8
"""Pairs in the table."""


def standardised(study: StudyRuns, lines: pd.DataFrame) -> dict[Trial, pd.DataFrame]:
    """Image scores of the labelled test scans: scans x cells, and a column `defective`.

    Each cell is in its leading mode, in standard deviations of its scores of validation/good, so
    that no test scan decides on the scale.
    """
    modes = {str(line["row"]): str(line["mode"]) for line in lead_lines(lines)}
    found: dict[Trial, pd.DataFrame] = {}
    for (cell, category, seed, point), result in study.results.items():
        if (mode := modes.get(cell)) not in result["modes"]:
            continue
        scans = labelled(result)
        names = [scan["name"] for scan in scans]
        held = np.array(result["validation_scores"][mode])
        scores = np.array([scan["scores"][mode] for scan in scans])
        scores = (scores - held.mean()) / (held.std() or 1.0)
        bad = pd.Series([scan["defective"] for scan in scans], names)
        table = found.setdefault((category, seed, point), bad.to_frame("defective"))
        table[cell] = pd.Series(scores, names)
    return found


def correlations(scores: dict[Trial, pd.DataFrame]) -> pd.DataFrame:
    """Spearman's correlation of two cells' scores of the defective scans: cells x cells.

    Means over runs. Near 1, both rank the defects alike; near 0, one ranking says little about the
    other.
    """
    each = [
        table[table["defective"]].drop(columns="defective").corr("spearman")
        for table in scores.values()
    ]
    if not each:
        return pd.DataFrame()
    return pd.concat(each).groupby(level=0, sort=False).mean().pipe(lambda c: c[c.index])


def correlation_figure(scores: dict[Trial, pd.DataFrame]) -> go.Figure:
    """`correlations` as a matrix of colours."""
    found = correlations(scores)
    names = [html.escape(str(cell)) for cell in found.index]
    off = found.where(~np.eye(len(found), dtype=bool))
    hover = "%{y}<br>%{x}<br>%{z:.2f}<extra></extra>"
    bar = {
        "orientation": "h",
        "thickness": 12,
        "dtick": 1,
        "y": 0.02,
        "yanchor": "bottom",
        "yref": "container",
    }
    figure = go.Figure()
    figure.add_heatmap(z=off, x=names, y=names, coloraxis="coloraxis", hovertemplate=hover)
    return figure.update_layout(
        template=TEMPLATE,
        height=220 + 24 * len(names),
        title={"text": "Correlation of the scores of defective scans"},
        coloraxis={"colorscale": "RdBu_r", "cmin": -1, "cmax": 1, "colorbar": bar},
        # Names below the columns would overlap on a phone.
        xaxis={"showticklabels": False, "ticks": ""},
        yaxis={"autorange": "reversed", "automargin": True, "dtick": 1},
    )


def areas(scores: dict[Trial, pd.DataFrame]) -> dict[Pair, Float[np.ndarray, " C"]]:
    """I-AUROC by category of every cell, and of the mean score of every two cells.

    Means over runs; of cells that every run has, and of test splits with good and defective scans.
    """
    scores = {key: table for key, table in scores.items() if table["defective"].nunique() == 2}
    tables = list(scores.values())
    if not tables:
        return {}
    cells = [c for c in tables[0].columns[1:] if all(c in table for table in tables)]
    pairs: list[Pair] = [*((cell,) for cell in cells), *combinations(cells, 2)]
    rows = [
        [auroc(t[list(pair)].to_numpy(float).mean(1), t["defective"].to_numpy()) for pair in pairs]
        for t in tables
    ]
    by_category = pd.DataFrame(rows, [key[0] for key in scores]).groupby(level=0).mean()
    return {pair: by_category[i].to_numpy() for i, pair in enumerate(pairs)}


def pair_table(scores: dict[Trial, pd.DataFrame]) -> Styler:
    """The best pairs by I-AUROC, and by how much each exceeds the better of its two methods."""
    means = {pair: float(found.mean()) for pair, found in areas(scores).items()}
    pairs = sorted((pair for pair in means if len(pair) == 2), key=lambda pair: -means[pair])
    rows = {
        " & ".join(pair): {
            "I-AUROC": means[pair],
            "gain": means[pair] - max(means[cell,] for cell in pair),
        }
        for pair in pairs[:SHOWN]
    }
    frame = pd.DataFrame(rows).T
    caption = "Mean of the scores of two methods; means over categories and seeds."
    return marked(frame, frame, caption=caption)


def held_out_gain(scores: dict[Trial, pd.DataFrame]) -> tuple[float, float]:
    """I-AUROC of the best method alone and of the best pair, each chosen on the other categories.

    A pair chosen and judged on the same scans would look better than it is. NaN for one category or
    one method.
    """
    found, ends = areas(scores), []
    if not any(len(pair) == 2 for pair in found):
        return float("nan"), float("nan")
    for size in (1, 2):
        own = np.array([values for pair, values in found.items() if len(pair) == size])
        if own.shape[1] < 2:
            return float("nan"), float("nan")
        others = own.sum(axis=1, keepdims=True) - own
        ends.append(float(np.take_along_axis(own, others.argmax(0)[None], 0).mean()))
    return ends[0], ends[1]


def sentence(scores: dict[Trial, pd.DataFrame]) -> str:
    """What `held_out_gain` says, as Markdown."""
    alone, pair = held_out_gain(scores)
    if np.isnan(alone):
        return "Two methods and two categories are needed to choose a pair on other scans."
    return (
        f"Chosen on the other categories, the best pair reaches an I-AUROC of {pair:.3f}, the best "
        f"method alone {alone:.3f}: **{pair - alone:+.3f}**."
    )
