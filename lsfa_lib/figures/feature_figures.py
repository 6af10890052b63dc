"""What the backbones see, drawn: features as colours, their directions, what separates defects.

Numbers come from `feature_space`.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image

from lsfa_lib.figures.clouds import add_cloud, by_photo, by_truth, spread_points, surface_of
from lsfa_lib.figures.feature_space import Key, Spaces, View, colors
from lsfa_lib.figures.image_grid import ImageRow, image_grid
from lsfa_lib.figures.names import mode_label
from lsfa_lib.figures.scan_images import Mask, Photo, indexed, main_colors, marked, pixels_of
from lsfa_lib.figures.style import (
    DASHED,
    DOTTED,
    LINES,
    QUARTERS,
    ROWS,
    adapt_to_phones,
    add_reference,
    styled,
)
from lsfa_lib.records import MODALITIES

CLEAR_AUROC = 0.7
"""Smallest patch AUROC at which a modality counts as separating a kind of defect."""
SYMBOLS = {"3d": "square", "rgb": "circle"}
_CLEAR = 255


def names_of(spaces: Spaces) -> dict[Key, str]:
    """`3D`, `RGB`, and `3D adapted` where there are two spaces."""
    return {(s, m): _name(s, m) for s in spaces.detectors for m in MODALITIES}


def _name(space: str, modality: str) -> str:
    return mode_label(modality) + (" adapted" if space == "adapted" else "")


def feature_scan(view: View, spaces: Spaces, title: str) -> go.Figure:
    """Photo and features as colours, as images and on a rotatable cloud.

    Three main directions of the training patches are red, green and blue: equal colours are equal
    features, on every scan of the page.
    """
    pixels = pixels_of(view.sample)
    box, size = pixels.box, pixels.valid.shape
    points = spread_points(pixels.valid)
    images: dict[str, Any] = {pixels.picture: box.cut(pixels.photo)}
    choices = {pixels.picture: by_photo(pixels.photo[points])}
    if pixels.defect.any():
        images["ground truth"] = box.cut(marked(pixels.photo, pixels.defect))
    for (space, m), name in names_of(spaces).items():
        patches = colors(spaces.directions[space, m], view.features[space], m)
        painted = np.asarray(Image.fromarray(patches).resize(size, Image.Resampling.NEAREST))
        shown = name if space == "adapted" else f"{name} features"
        images[shown] = _clear(box.cut(painted), box.cut(pixels.valid))
        choices[name] = by_photo(painted[points])
    if pixels.defect.any():
        choices["ground truth"] = by_truth(pixels.defect[points])
    columns = 2 if len(images) <= 4 else 3
    row = ImageRow("", images, box)
    figure = image_grid([row], title, columns=(columns, 2), with_cloud=True)
    add_cloud(figure, surface_of(pixels)[points], choices)
    return figure


def scan_sentence(view: View, separated: pd.DataFrame) -> str:
    """How well each modality separates the patches of this scan's defect."""
    own = separated[(separated["name"] == view.sample.name) & (separated["space"] == "frozen")]
    found = own.dropna().set_index("modality")["auroc"].sort_values(ascending=False)
    name = f"<b>{html.escape(view.sample.name)}</b>"
    if not len(found):
        return name
    values = ", ".join(f"{mode_label(str(m))} {value:.2f}" for m, value in found.items())
    return f"{name}: patch AUROC of the defect {values}"


def variance_figure(spaces: Spaces) -> go.Figure:
    """Variance of training patches in the first directions, a line per modality and space."""
    figure = go.Figure()
    for (space, m), name in names_of(spaces).items():
        directions, adapted = spaces.directions[space, m], space == "adapted"
        held = directions.shares.cumsum()
        figure.add_scatter(
            x=np.arange(1, len(held) + 1, dtype=np.int32),
            y=held.astype(np.float32),
            mode="lines",
            name=f"{name}, {directions.effective:.1f} directions",
            line={"width": 2.5, **LINES.get(m, {}), **({"dash": "longdash"} if adapted else {})},
            opacity=0.55 if adapted else 1.0,
            hovertemplate=f"{name}<br>%{{x}} directions hold %{{y:.1%}}<extra></extra>",
        )
    add_reference(figure, 3.0, "three colours", DOTTED, log=True)
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    styled(figure, effective_sentence(spaces), "directions", "cumulative variance")
    figure.update_xaxes(type="log", tickvals=ticks).update_yaxes(range=[0, 1.02], **QUARTERS)
    legend = {"x": 1, "xanchor": "right", "y": 0.04, "yanchor": "bottom"}
    return figure.update_layout(legend=legend)


def separation_figure(separated: pd.DataFrame) -> go.Figure:
    """Patch AUROC by kind of defect: a large dot the mean of a modality, small ones its scans."""
    figure, means = go.Figure(), means_by_kind(separated)
    order = means.max(axis=1).sort_values(ascending=False).index
    for key, scans in separated.dropna().groupby(["space", "modality"], sort=False):
        _add_dots(figure, key, scans, means.loc[order, key])
    add_reference(figure, 0.5, "chance")
    lowest = float(separated["auroc"].min()) if len(order) else 0.5
    styled(figure, separation_sentence(separated), "patch AUROC within a scan", margin={"t": 70})
    figure.update_xaxes(dtick=0.1, range=[min(0.38, lowest - 0.02), 1.03])
    figure.update_yaxes(**ROWS, categoryorder="array", categoryarray=_row_names(order))
    adapt_to_phones(figure, {"xaxis.dtick": 0.2})
    legend = {"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom"}
    return figure.update_layout(legend=legend, height=190 + 42 * len(order))


def _add_dots(figure: go.Figure, key: Any, scans: pd.DataFrame, means: Any) -> None:
    """Small dots for the scans of a frozen modality, and large ones for the means of the kinds."""
    space, m = key
    name, adapted = _name(space, m), space == "adapted"
    symbol = SYMBOLS.get(m, "diamond") + ("-open" if adapted else "")
    marker = {"color": LINES.get(m, DASHED)["color"], "symbol": symbol}
    if not adapted:
        figure.add_scatter(
            x=scans["auroc"].round(4),
            y=_row_names(scans["kind"]),
            text=[html.escape(str(scan)) for scan in scans["name"]],
            mode="markers",
            marker={**marker, "size": 7, "opacity": 0.35},
            showlegend=False,
            hovertemplate="%{text}<br>" + name + " %{x:.3f}<extra></extra>",
        )
    figure.add_scatter(
        x=means.round(4),
        y=_row_names(means.index),
        name=name,
        mode="markers",
        marker={**marker, "size": 14, "line": {"width": 2}},
        hovertemplate=f"mean of %{{y}}<br>{name} %{{x:.3f}}<extra></extra>",
    )


def answer(spaces: Spaces, separated: pd.DataFrame, similar: dict[str, dict[str, float]]) -> str:
    """What the backbones see, answered from the numbers, as Markdown.

    `similar` holds the cosines of `closest_patches`.
    """
    lines = [f"**{separation_sentence(separated)}.**\n"]
    means = means_by_kind(separated)
    for m in MODALITIES:
        if ("frozen", m) in means:
            values = means["frozen", m].sort_values(ascending=False).items()
            some = ", ".join(f"{html.escape(str(kind))} {value:.2f}" for kind, value in values)
            lines.append(f"- **{mode_label(m)}**, patch AUROC: {some}.")
    lines.append(f"- {effective_sentence(spaces)}; {shown_sentence(spaces)}.")
    for place, by_name in similar.items():
        cosines = ", ".join(f"{value:.2f} ({name})" for name, value in by_name.items())
        lines.append(
            f"- To a patch at {place} the most similar one of the good scan has cosine {cosines}."
        )
    if "adapted" in spaces.detectors:
        lines.append(f"- {_adapted_sentence(spaces, separated)}.")
    return "\n".join(lines)


def means_by_kind(separated: pd.DataFrame) -> pd.DataFrame:
    """Mean patch AUROC: a row per kind, a column per (space, modality)."""
    return separated.dropna().pivot_table(
        index="kind", columns=["space", "modality"], values="auroc", aggfunc="mean"
    )


def separation_sentence(separated: pd.DataFrame) -> str:
    """Which modality separates the patches of how many kinds of defects better."""
    means = means_by_kind(separated)
    if not len(means):
        return "No defect covers a patch of the part, so nothing can be separated"
    frozen = pd.DataFrame(means["frozen"])
    ahead = int((frozen["rgb"] > frozen["3d"]).sum())
    (first, second), count = ("rgb", "3d"), ahead
    if 2 * ahead < len(means):
        (first, second), count = ("3d", "rgb"), len(means) - ahead
    blind = frozen.index[frozen.max(axis=1) < CLEAR_AUROC]
    text = (
        f"{mode_label(first)} separates the patches of {count} of {len(means)} kinds of defects "
        f"better than {mode_label(second)}"
    )
    kinds = ", ".join(html.escape(str(kind)) for kind in blind)
    return f"{text}; neither separates {kinds}" if kinds else text


def effective_sentence(spaces: Spaces) -> str:
    """The effective rank of the frozen features of each modality."""
    found = []
    for m in MODALITIES:
        directions = spaces.directions["frozen", m]
        rank = f"{directions.effective:.1f} of {len(directions.shares)}"
        found.append(f"{mode_label(m)} {rank}")
    return f"Effective rank: {', '.join(found)} dimensions"


def shown_sentence(spaces: Spaces) -> str:
    """How much of the variance three colours show."""
    shares = {m: 100 * spaces.directions["frozen", m].shown for m in MODALITIES}
    shown = [f"{share:.0f} % of the variance in {mode_label(m)}" for m, share in shares.items()]
    return f"three colours show {' and '.join(shown)}"


def _adapted_sentence(spaces: Spaces, separated: pd.DataFrame) -> str:
    means = means_by_kind(separated).mean()
    ranks = [f"{mode_label(m)} {spaces.directions['adapted', m].effective:.1f}" for m in MODALITIES]
    changes = [
        f"{mode_label(m)} from {means['frozen', m]:.3f} to {means['adapted', m]:.3f}"
        for m in MODALITIES
    ]
    return (
        f"Training changes the mean patch AUROC over kinds of {' and of '.join(changes)}; the "
        f"effective rank of adapted features is {', '.join(ranks)}"
    )


def _clear(image: Photo, valid: Mask) -> Image.Image:
    """The image in its 255 main colours, clear off the part."""
    index, colors = main_colors(image, _CLEAR)
    palette = np.pad(colors, ((0, 256 - len(colors)), (0, 0)))
    return indexed(np.where(valid, index, _CLEAR).astype(np.uint8), palette, _CLEAR)


def _row_names(kinds: Any) -> list[str]:
    return [f"{html.escape(str(kind))} " for kind in kinds]
