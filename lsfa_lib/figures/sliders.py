"""Sliders over steps that are already computed: they work in a page without Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go


def with_slider(steps: Mapping[str, go.Figure], prefix: str, active: int = 0) -> go.Figure:
    """One figure with a slider: the traces of each step, shown one step at a time."""
    names = list(steps)
    figure = go.Figure(layout=steps[names[active]].layout)
    owner = [name for name, each in steps.items() for _ in each.data]
    for name, each in steps.items():
        figure.add_traces([trace.update(visible=name == names[active]) for trace in each.data])
    made = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"visible": [name == other for other in owner]},
                {"title.text": steps[name].layout.title.text},
            ],
        }
        for name in names
    ]
    return add_slider(figure, made, prefix, active)


def add_slider(
    figure: go.Figure, steps: list[dict[str, Any]], prefix: str, active: int = 0
) -> go.Figure:
    """A slider above the figure; each step has a label, a method of plotly.js and its arguments."""
    slider = {
        "active": active,
        "currentvalue": {"prefix": prefix, "font": {"size": 14}},
        **{"x": 0.02, "len": 0.96, "y": 1.0, "yanchor": "bottom", "pad": {"b": 34, "t": 0}},
        "steps": steps,
    }
    meta = figure.layout.meta or {}
    figure.update_layout(sliders=[slider], title={"y": 1, "yanchor": "top", "pad": {"t": 12}})
    inside = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "top", "orientation": "v"}
    figure.update_layout(height=(figure.layout.height or 380) + 70, margin={"t": 140})
    figure.update_layout(legend=inside)
    narrow = dict(meta.get("narrow", {}))
    if "height" in narrow:
        narrow["height"] += 70
    figure.layout.meta = {**meta, "narrow": narrow | {"margin.t": 100}, "margin": {"t": 100}}
    return figure
