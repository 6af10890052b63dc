"""Scans of a data set in figures: what the frame shows, how large the defects are.

Numbers come from `scan_statistics`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lsfa_lib.figures.data_report import defects_of, patch_mm, percent, short_name, thin_sentence
from lsfa_lib.figures.scan_parts import COLORS, NAMES
from lsfa_lib.figures.scan_statistics import REGIONS
from lsfa_lib.figures.style import DASHED, QUARTERS, ROWS, adapt_to_phones, styled

SYMBOLS = {
    "#D55E00": "circle",
    "#0072B2": "square",
    "#009E73": "diamond",
    "#CC79A7": "cross",
    "#E69F00": "x",
    "#56B4E9": "triangle-up",
    "#1d2733": "star",
    "#8a94a0": "hourglass",
}
"""Kinds of defects by colour and form; a ninth starts again."""
_TICKS = [n * 10.0**power for power in range(-2, 5) for n in (1, 2, 5)]
_LOG = {"type": "log", "tickvals": _TICKS, "ticktext": [f"{tick:,g}" for tick in _TICKS]}


def share_figure(facts: pd.DataFrame) -> go.Figure:
    """Shares of the frame, a bar per category: part, background, separate pieces, no reading."""
    train = facts[facts["split"] == "train"]
    shares = train.groupby("category")[list(REGIONS)].mean().sort_values("part")
    figure, names = go.Figure(), [html.escape(str(name)) for name in shares.index]
    for region in REGIONS:
        figure.add_bar(
            x=shares[region],
            y=[f"{name} " for name in names],
            orientation="h",
            name=NAMES[region],
            marker={"color": COLORS[region]},
            text=[percent(value) if value >= 0.06 else "" for value in shares[region]],
            **{"textposition": "inside", "insidetextanchor": "middle", "textangle": 0},
            hovertemplate=f"%{{y}}<br>{NAMES[region]} %{{x:.1%}}<extra></extra>",
        )
    least, most = percent(shares["part"].iloc[0]), percent(shares["part"].iloc[-1])
    title = f"The part fills {least} of the frame"
    title += f" of {names[0]} and {most} of {names[-1]}" if len(names) > 1 else ""
    above = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
    styled(figure, title, "share of the frame", barmode="stack", height=190 + 34 * len(names))
    figure.update_xaxes(range=[0, 1.001], **QUARTERS).update_yaxes(**ROWS)
    return figure.update_layout(legend=above, margin={"t": 70, "r": 28})


def defect_figure(facts: pd.DataFrame) -> go.Figure:
    """Area and width of every defect, and how large one patch of the grid is."""
    figure = go.Figure()
    kinds = defects_of(facts).groupby("kind")
    for (kind, scans), (color, symbol) in zip(kinds, cycle(SYMBOLS.items()), strict=False):
        figure.add_scatter(
            x=scans["defect_mm2"].round(2),
            y=scans["defect_width_mm"].round(3),
            mode="markers",
            name=html.escape(str(kind)),
            marker={"color": color, "symbol": symbol, "size": 10, "opacity": 0.85},
            text=[_defect_hover(scan) for scan in scans.to_dict("records")],
            hovertemplate="%{text}<extra></extra>",
        )
    patch = patch_mm(facts)
    figure.add_hline(patch, line=DASHED)
    # Thin defects are small ones: the lower right is free.
    figure.add_annotation(
        text=f"one patch, {patch:.1f} mm",
        **{"x": 1, "xref": "paper", "xanchor": "right"},
        **{"y": float(np.log10(patch)), "yanchor": "top"},
        showarrow=False,
    )
    styled(figure, thin_sentence(facts), "area, mm²", "width at the widest place, mm", height=440)
    figure.update_xaxes(**_LOG).update_yaxes(**_LOG)
    adapt_to_phones(figure, {"height": 480, "legend.y": -0.18})
    return figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0})


def _defect_hover(scan: Mapping[Any, Any]) -> str:
    return (
        f"{short_name(scan['name'])}<br>{scan['defect_mm2']:.0f} mm², "
        f"{percent(scan['defect_share'])} of the part<br>"
        f"{scan['defect_width_mm']:.1f} mm wide, {scan['defect_patches']:.1f} patches"
    )
