"""What the backbones see, drawn: features as colours, their directions, what tells defects.

Numbers come from `feature_space`.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from lsfa_lib.figures.clouds import buttons, colorings, scene, spread_points
from lsfa_lib.figures.feature_space import Space, Spaces, View, colors
from lsfa_lib.figures.figures import LINES, TEMPLATE
from lsfa_lib.figures.findings import NAMES
from lsfa_lib.figures.image_grid import PictureRow, Room, box_around, image_grid
from lsfa_lib.figures.scan_images import marked, photo_axes, photograph, uri
from lsfa_lib.records import MODALITIES, Modality

CLOUD_POINTS = 12_000
MOST_BUTTONS = 4
"""In a row on a phone; more become a menu."""
CLEAR = 0.7
"""Patch AUROC from which on a modality is said to tell a kind of defect."""


def names_of(spaces: Spaces) -> dict[tuple[Space, Modality], str]:
    """`3D`, `RGB`, and `3D adapted` where there are two spaces."""
    word = {"frozen": "", "adapted": " adapted"}
    return {(s, m): f"{NAMES[m]}{word[s]}" for s in spaces.detectors for m in MODALITIES}


def feature_scan(view: View, spaces: Spaces, title: str) -> go.Figure:
    """Photo and features as colours, on pictures and on a cloud to be turned.

    Three main directions of the training patches are red, green and blue: equal colours are equal
    features, on every scan of the page.
    """
    valid, defect = view.sample.valid.cpu().numpy(), view.sample.defect.cpu().numpy()
    painted, box = {"photo": photograph(view.sample)}, box_around(valid | defect)
    pictures = {"photo": uri(box.cut(painted["photo"]), "jpeg")}
    if defect.any():
        pictures["ground truth"] = uri(box.cut(marked(painted["photo"], defect)), "jpeg")
    for (space, m), name in names_of(spaces).items():
        seen = colors(spaces.directions[space, m], view.features[space], m)
        painted[name] = np.asarray(Image.fromarray(seen).resize(valid.shape, 0))
        pictures[name if space == "adapted" else f"{name} features"] = uri(
            _clear(box.cut(painted[name]), box.cut(valid))
        )
    columns = 2 if len(pictures) <= 4 else 3
    figure = image_grid(
        [PictureRow("", pictures, box.side)],
        title,
        columns=(columns, 2),
        menu=True,
        room=Room(),
    )
    points = spread_points(valid, CLOUD_POINTS)
    truth = defect[points]
    choices = {name: colorings(p[points], truth, {})["photo"] for name, p in painted.items()}
    if defect.any():
        choices["truth"] = colorings(painted["photo"][points], truth, {})["ground truth"]
    xyz = view.sample.xyz.double().cpu().permute(1, 2, 0).numpy() * 1000
    return _with_cloud(figure, xyz[points] @ photo_axes(xyz, valid).T, choices)


def scan_sentence(view: View, separated: pd.DataFrame) -> str:
    """How well the patches of this scan's defect are told by each modality."""
    own = separated[(separated["name"] == view.sample.name) & (separated["space"] == "frozen")]
    found = own.dropna().set_index("modality")["auroc"].sort_values(ascending=False)
    name = f"<b>{html.escape(view.sample.name)}</b>"
    if not len(found):
        return name
    told = ", ".join(f"{NAMES[str(m)]} {value:.2f}" for m, value in found.items())
    return f"{name}: patch AUROC of the defect {told}"


def variance_figure(spaces: Spaces) -> go.Figure:
    """Variance of training patches held by the first directions, a line a modality and space."""
    figure = go.Figure()
    for (space, m), name in names_of(spaces).items():
        directions = spaces.directions[space, m]
        held = directions.shares.cumsum()
        figure.add_scatter(
            x=np.arange(1, len(held) + 1, dtype=np.int32),
            y=held.astype(np.float32),
            mode="lines",
            name=f"{name}, {directions.effective:.1f} directions",
            line={"width": 2.5, **LINES[m], **({"dash": "longdash"} if space == "adapted" else {})},
            opacity=0.55 if space == "adapted" else 1.0,
            hovertemplate=f"{name}<br>%{{x}} directions hold %{{y:.1%}}<extra></extra>",
        )
    figure.add_vline(3, line={"width": 1, "dash": "dot", "color": "#8a94a0"})
    figure.add_annotation(
        x=np.log10(3), y=1, yref="paper", yanchor="bottom", text="three colours", showarrow=False
    )
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    return figure.update_layout(
        template=TEMPLATE,
        title={"text": effective_sentence(spaces)},
        xaxis={"title": {"text": "directions"}, "type": "log", "tickvals": ticks},
        yaxis={
            "title": {"text": "variance held"},
            "range": [0, 1.02],
            "tickvals": [0, 0.25, 0.5, 0.75, 1],
            "ticktext": ["0 %", "25 %", "50 %", "75 %", "100 %"],
        },
        legend={"x": 1, "xanchor": "right", "y": 0.04, "yanchor": "bottom"},
    )


def separation_figure(separated: pd.DataFrame) -> go.Figure:
    """Patch AUROC by kind of defect: a large dot the mean of a modality, small ones its scans."""
    figure = go.Figure()
    means = means_by_kind(separated)
    order = means.max(axis=1).sort_values(ascending=False).index
    for key, scans in separated.dropna().groupby(["space", "modality"], sort=False):
        space, m = map(str, key)
        color = LINES[m]["color"]
        form = {"3d": "square", "rgb": "circle"}[m] + ("-open" if space == "adapted" else "")
        name = f"{NAMES[m]}{' adapted' if space == 'adapted' else ''}"
        if space == "frozen":
            figure.add_scatter(
                x=scans["auroc"].round(4),
                y=_row_names(scans["kind"]),
                text=[html.escape(str(scan)) for scan in scans["name"]],
                mode="markers",
                marker={"color": color, "size": 7, "opacity": 0.35, "symbol": form},
                showlegend=False,
                hovertemplate="%{text}<br>" + name + " %{x:.3f}<extra></extra>",
            )
        figure.add_scatter(
            x=means.loc[order, (space, m)].round(4),
            y=_row_names(order),
            name=name,
            mode="markers",
            marker={"color": color, "size": 14, "symbol": form, "line": {"width": 2}},
            hovertemplate=f"mean of %{{y}}<br>{name} %{{x:.3f}}<extra></extra>",
        )
    lowest = float(separated["auroc"].min()) if len(order) else 0.5
    figure.add_vline(0.5, line={"width": 2, "dash": "dash", "color": "#6b7682"})
    figure.add_annotation(
        x=0.5, y=1, yref="paper", yanchor="bottom", text="chance", showarrow=False
    )
    return figure.update_layout(
        template=TEMPLATE,
        title={"text": telling_sentence(separated)},
        height=190 + 42 * len(order),
        xaxis={
            "title": {"text": "patch AUROC within a scan"},
            "range": [min(0.38, lowest - 0.02), 1.03],
            "dtick": 0.1,
        },
        yaxis={
            "automargin": True,
            "showline": False,
            "ticks": "",
            "categoryorder": "array",
            "categoryarray": _row_names(order),
        },
        legend={"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom"},
        margin={"t": 70},
        meta={"narrow": {"xaxis.dtick": 0.2}},
    )


def answer(spaces: Spaces, separated: pd.DataFrame, similar: dict[str, dict[str, float]]) -> str:
    """What the backbones see, answered from the numbers, as Markdown.

    `similar` holds the cosines of `closest_patches`.
    """
    lines = [f"**{telling_sentence(separated)}.**\n"]
    means = means_by_kind(separated)
    for m in MODALITIES:
        if ("frozen", m) in means:
            values = means["frozen", m].sort_values(ascending=False).items()
            some = ", ".join(f"{html.escape(str(kind))} {value:.2f}" for kind, value in values)
            lines.append(f"- **{NAMES[m]}**, patch AUROC: {some}.")
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
    """Mean patch AUROC: a row a kind, a column a (space, modality)."""
    return separated.dropna().pivot_table(
        index="kind", columns=["space", "modality"], values="auroc", aggfunc="mean"
    )


def telling_sentence(separated: pd.DataFrame) -> str:
    """Which modality tells the patches of how many kinds of defects."""
    means = means_by_kind(separated)
    if not len(means):
        return "No defect has a patch on the part, so that nothing can be told apart"
    three, colour = means["frozen", "3d"], means["frozen", "rgb"]
    ahead = int((colour > three).sum())
    first, count = ("rgb", ahead) if 2 * ahead >= len(means) else ("3d", len(means) - ahead)
    text = f"{NAMES[first]} tells the patches of {count} of {len(means)} kinds of defects better"
    text += f" than {NAMES['3d' if first == 'rgb' else 'rgb']}"
    blind = means.index[np.maximum(three, colour) < CLEAR]
    return text + (
        f"; neither tells {', '.join(html.escape(str(kind)) for kind in blind)}"
        if len(blind)
        else ""
    )


def effective_sentence(spaces: Spaces) -> str:
    """In how many directions the frozen features of each modality vary."""
    found = []
    for m in MODALITIES:
        directions = spaces.directions["frozen", m]
        found.append(f"{NAMES[m]} along {directions.effective:.1f} of {len(directions.shares)}")
    return f"Features vary in effect {', '.join(found)} directions"


def shown_sentence(spaces: Spaces) -> str:
    """How much of the variance three colours show."""
    shares = {m: 100 * spaces.directions["frozen", m].shown for m in MODALITIES}
    shown = [f"{share:.0f} % of what varies in {NAMES[m]}" for m, share in shares.items()]
    return f"three colours show {' and '.join(shown)}"


def _adapted_sentence(spaces: Spaces, separated: pd.DataFrame) -> str:
    means = means_by_kind(separated).mean()
    ranks = [f"{NAMES[m]} {spaces.directions['adapted', m].effective:.1f}" for m in MODALITIES]
    changes = [
        f"{NAMES[m]} from {means['frozen', m]:.3f} to {means['adapted', m]:.3f}" for m in MODALITIES
    ]
    return (
        f"Training moves the mean patch AUROC over kinds of {' and of '.join(changes)}; adapted "
        f"features vary along {', '.join(ranks)} directions"
    )


def _with_cloud(
    figure: go.Figure, surface: Float[np.ndarray, "N 3"], choices: dict[str, dict[str, Any]]
) -> go.Figure:
    surface = surface - (surface.min(axis=0) + surface.max(axis=0)) / 2
    x, y, z = np.round(surface, 2).T.astype(np.float32)
    figure.add_scatter3d(x=x, y=y, z=z, mode="markers", **choices["photo"])
    menu = buttons(choices)
    for button in menu["buttons"]:
        button["args"][1] = [len(figure.data) - 1]
    view = {**scene(surface), "domain": figure.layout.scene.domain.to_plotly_json()}
    narrow = dict(figure.layout.meta["narrow"])
    narrow |= {f"scene.camera.eye.{a}": round(1.3 * view["camera"]["eye"][a], 4) for a in "xyz"}
    narrow["updatemenus[0].font.size"] = 11
    if len(choices) > MOST_BUTTONS:
        narrow |= {"updatemenus[0].type": "dropdown", "updatemenus[0].direction": "down"}
    meta = {**figure.layout.meta, "narrow": narrow}
    return figure.update_layout(scene=view, updatemenus=[menu], meta=meta)


def _clear(picture: UInt8[np.ndarray, "S S 3"], valid: Bool[np.ndarray, "S S"]) -> Image.Image:
    """The picture in its 255 main colours, clear off the part."""
    image = Image.fromarray(picture).quantize(255, dither=Image.Dither.NONE)
    index = np.where(valid, np.asarray(image), 255).astype(np.uint8)
    clear = Image.fromarray(index, "P")
    palette = (image.getpalette() or [])[: 3 * 255]
    clear.putpalette(palette + [0] * (3 * 256 - len(palette)))
    clear.info["transparency"] = 255
    return clear


def _row_names(kinds: Any) -> list[str]:
    return [f"{html.escape(str(kind))} " for kind in kinds]
