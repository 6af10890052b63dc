"""How fast methods score a scan and what memory that takes, stage by stage, in one process.

Everything is measured after a warm-up, on the same scans and the same features; nothing here
depends on how well a method was trained.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from pandas.io.formats.style import Styler
from torch import Tensor

from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.detection.detector import map_valid, smooth_map
from lsfa_lib.features.extract import load_encoders
from lsfa_lib.features.geometry import spread
from lsfa_lib.features.lazy_scan import read_sample
from lsfa_lib.figures.tables import Best, marked
from lsfa_lib.methods.method import Good, LazyScan, Method, Predict, find_method
from lsfa_lib.methods.patchcore import as_published
from lsfa_lib.methods.running import inference_cost, learn_method, resident_mb
from lsfa_lib.records import MODALITIES, Modality, Mode, PatchFeatures, Prediction
from lsfa_lib.storage.results import Stopwatch, machine

STAGES = {
    "read": "read",
    "prepare": "prepare",
    "features 3d": "features, 3D",
    "features rgb": "features, RGB",
    "detect": "detect",
}
BRUTE, OWN, CROSSMODAL = "M3DM-style banks", "LSFA (ours)", "CFM"
PLAIN, FINE = "PatchCore, both", "CFM, a patch a pixel"


@dataclass(frozen=True)
class Candidate:
    """A method with the config it is measured with."""

    title: str
    method: Method
    config: Config


def candidates(config: Config) -> list[Candidate]:
    """Ours, CFM on two grids, and M3DM searched as we search and as its code does."""
    names = {OWN: "lsfa", PLAIN: "unadapted", CROSSMODAL: "cfm", "M3DM": "m3dm"}
    found = [Candidate(title, find_method(name), config) for title, name in names.items()]
    fine = replace(config, projection=replace(config.projection, patch_px=1))
    # Weights matter little for speed, and training on 16 times as many patches takes hours.
    short = replace(fine, crossmodal=replace(fine.crossmodal, epochs=1, patches_per_scan=64))
    found.insert(3, Candidate(FINE, find_method("cfm"), short))
    brute = Method(BRUTE, fit_brute, "arXiv 2303.00601", as_published)
    return [*found, Candidate(BRUTE, brute, config)]


def measure(
    category: str, chosen: Sequence[Candidate], seed: int = 0, scans: int = 8
) -> pd.DataFrame:
    """One row a candidate: median ms of each stage, frames per second, and MB in use.

    Frames per second are those of features and detection; reading and preparation stand apart.
    """
    rows = {}
    for candidate in chosen:
        config = candidate.method.config(replace(candidate.config, timed_scans=scans))
        empty = resident_mb()
        fitted = learn_method(candidate.method, category, config, seed, Stopwatch())
        split = split_of(config.data, category, "validation")
        cost = inference_cost(candidate.method, fitted, split, config, empty)
        seconds = cost["seconds"]
        row = {label: 1e3 * seconds.get(stage, 0.0) for stage, label in STAGES.items()}
        scored = sum(v for stage, v in seconds.items() if stage not in ("read", "prepare"))
        rows[candidate.title] = {**row, "frames/s": 1 / scored, "MB": cost["memory_mb"]}
        del fitted
    return pd.DataFrame(rows).T


def batches(category: str, config: Config, sizes: Sequence[int] = (1, 2, 4, 8)) -> pd.DataFrame:
    """Milliseconds a picture of the image backbone by batch size, median of five after a warm-up.

    Clouds have different numbers of points, so the point backbone takes one scan at a time.
    """
    device = resolve_device(config.device)
    encoders = load_encoders(config, device)
    entry = split_of(config.data, category, "validation").entries[0]
    picture = read_sample(entry, config).rgb
    rows = {}
    for size in sizes:
        batch, times = picture.expand(size, -1, -1, -1).contiguous(), []
        with torch.inference_mode():
            for _ in range(6):
                start = time.perf_counter()
                encoders.image(batch)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times.append(time.perf_counter() - start)
        rows[size] = {"ms a picture": 1e3 * statistics.median(times[1:]) / size}
    return pd.DataFrame(rows).T.rename_axis(index="batch")


def fit_brute(good: Good) -> Predict:
    """Three banks searched as M3DM's code does: every patch, background too, by whole distances.

    The share kept of all patches is the config's, drawn at random: only the search is measured.
    """
    views: list[tuple[Modality, ...]] = [("3d",), ("rgb",), MODALITIES]
    generator = torch.Generator().manual_seed(good.seed)
    banks = []
    for view in views:
        rows = torch.cat([_all_rows(scene.features, view) for scene in good.train])
        kept = torch.randperm(len(rows), generator=generator)
        banks.append(rows[kept[: max(1, round(good.config.bank.keep_ratio * len(rows)))]])

    def predict(scene: LazyScan) -> dict[Mode, Prediction]:
        features, maps, score = scene.features, [], 0.0
        for view, bank in zip(views, banks, strict=True):
            rows = _all_rows(features, view)
            least, nearest = torch.cdist(rows, bank).min(dim=1)
            far = least.argmax()
            around = torch.cdist(bank[nearest[far]][None], bank)[0].topk(3, largest=False).indices
            near = torch.linalg.vector_norm(rows[far] - bank[around[1:]], dim=1)
            root = rows.shape[1] ** 0.5
            share = torch.exp(least[far] / root - torch.logsumexp(near / root, 0))
            score += float((1 - share) * least[far])
            maps.append(least)
        inside = map_valid(features, good.config)
        whole = torch.stack(maps).sum(0).view(features.grid)
        return {"rgb+3d": Prediction(smooth_map(whole, inside, good.config), score)}

    return predict


def _all_rows(features: PatchFeatures, modalities: Sequence[Modality]) -> Float[Tensor, "P D"]:
    parts = [features.by_modality[m] for m in modalities]
    return torch.cat([spread(part.weights, part.tokens) for part in parts], dim=1)


def stages_figure(table: pd.DataFrame) -> go.Figure:
    """A bar a method, cut into its stages."""
    colours = ["#c9d1d9", "#8a94a0", "#0072B2", "#D55E00", "#009E73"]
    figure = go.Figure()
    for label, colour in zip(STAGES.values(), colours, strict=True):
        figure.add_bar(
            x=table[label],
            y=list(table.index),
            name=label,
            orientation="h",
            marker={"color": colour},
            hovertemplate=f"%{{y}}<br>{label}: %{{x:.1f}} ms<extra></extra>",
        )
    totals = table[list(STAGES.values())].sum(axis=1)
    return figure.update_layout(
        barmode="stack",
        height=180 + 44 * len(table),
        title={"text": f"{totals.idxmin()} needs least: {totals.min():.0f} ms a scan in all"},
        xaxis={"title": {"text": "ms a scan"}},
        yaxis={"autorange": "reversed", "automargin": True},
        legend={
            "orientation": "h",
            "traceorder": "normal",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
        },
        margin={"b": 110},
    )


def numbers_table(table: pd.DataFrame, config: Config) -> Styler:
    """The numbers of `measure`: best detection, rate and memory marked, the machine named."""
    about = machine(resolve_device(config.device))
    named = ", ".join(f"{name} {value}" for name, value in about.items())
    shown = table.rename(columns={label: f"{label}, ms" for label in STAGES.values()})
    judged = shown[["detect, ms", "frames/s", "MB"]]
    best: dict[str, Best] = {"frames/s": "max", "detect, ms": "min", "MB": "min"}
    caption = f"Medians over scans, one at a time; {named}."
    return marked(shown.rename_axis(columns="method"), judged, best, digits=1, caption=caption)


def batches_table(table: pd.DataFrame) -> Styler:
    """The numbers of `batches`."""
    named = table.rename_axis(index=None, columns="pictures at once")
    return marked(named, named, "min", digits=1)


def answer(table: pd.DataFrame) -> str:
    """How ours compares, from the numbers, as Markdown."""
    own, cfm = table.loc[OWN], table.loc[CROSSMODAL]
    brute, fine, plain = table.loc[BRUTE], table.loc[FINE], table.loc[PLAIN]
    word = "faster" if own["detect"] <= cfm["detect"] else "slower"
    ratio = max(own["detect"], cfm["detect"]) / min(own["detect"], cfm["detect"])
    return "\n".join(
        [
            f"**Ours detects in {own['detect']:.1f} ms a scan, {ratio:.1f} times {word} than CFM "
            f"on the same grid and {brute['detect'] / own['detect']:.0f} times faster than "
            f"M3DM-style banks, on the same features.**\n",
            f"- Banks and maps take {plain['detect']:.1f} ms of that. The rest is "
            "spent by the adaptors, whose attention compares all patches of a scan; CFM is two "
            "small networks that see one patch at a time.",
            f"- CFM with a patch a pixel, as published, takes {fine['detect']:.0f} ms.",
            f"- With its features a scan takes {1e3 / own['frames/s']:.0f} ms by ours, "
            f"{1e3 / cfm['frames/s']:.0f} ms by CFM, {1e3 / brute['frames/s']:.0f} ms with "
            "M3DM-style banks.",
            f"- Memory in use: ours {own['MB']:.0f} MB, CFM {cfm['MB']:.0f} MB, M3DM-style "
            f"{brute['MB']:.0f} MB.",
        ]
    )
