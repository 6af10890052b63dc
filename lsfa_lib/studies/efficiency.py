"""How fast methods score a scan and how much memory that takes, stage by stage, in one process.

Everything is measured after a warm-up, on the same scans; nothing here
depends on how well a method was trained.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from pandas.io.formats.style import Styler
from torch import Tensor

from lsfa_lib.config import Config, replaced, resolve_device, with_losses
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.detection.maps import map_valid, smooth_map
from lsfa_lib.features.extract import load_image
from lsfa_lib.features.geometry import spread
from lsfa_lib.features.lazy_scan import LazyScan, read_sample
from lsfa_lib.figures.tables import marked
from lsfa_lib.methods import METHODS, Good, Method, Predict
from lsfa_lib.methods.cost import inference_cost, resident_mb
from lsfa_lib.methods.fitting import fit_method
from lsfa_lib.records import MODALITIES, Modality, Mode, PatchFeatures, Prediction
from lsfa_lib.storage.results import Stopwatch, machine
from lsfa_lib.studies.study_figures import BELOW

STAGES = {
    "read": "read",
    "prepare": "prepare",
    "features 3d": "features, 3D",
    "features rgb": "features, RGB",
    "detect": "detect",
}
COLOURS = ["#c9d1d9", "#8a94a0", "#0072B2", "#D55E00", "#009E73"]
BRUTE, OWN, CROSSMODAL = "M3DM-style banks", "LSFA (ours)", "CFM"
PLAIN, FINE = "PatchCore, both", "CFM, one patch per pixel"


Candidates = dict[str, tuple[Method, Config]]
"""Methods with the config each is measured with, by the title of its row."""


def candidates(config: Config) -> Candidates:
    """Ours, CFM on two grids, and M3DM searched as we search and as its code does."""
    # Weights matter little for speed, and training on 16 times as many patches takes hours.
    short = {"crossmodal.epochs": 1, "crossmodal.patches_per_scan": 64}
    fine = replaced(config, {"projection.patch_px": 1, **short})
    brute = Method(BRUTE, fit_brute, "arXiv 2303.00601", config="patchcore:as_published")
    return {
        OWN: (METHODS["lsfa"], with_losses(config, "both")),
        PLAIN: (METHODS["unadapted"], config),
        CROSSMODAL: (METHODS["cfm"], config),
        FINE: (METHODS["cfm"], fine),
        "M3DM": (METHODS["m3dm"], config),
        BRUTE: (brute, config),
    }


def measure(category: str, chosen: Candidates, seed: int = 0, scans: int = 8) -> pd.DataFrame:
    """One row for each candidate: median ms of each stage, frames per second, and MB in use.

    Frames per second are those of features and detection, without reading and preparation.
    """
    rows = {}
    for title, (method, start) in chosen.items():
        config = method.call("config", replaced(start, {"timed_scans": scans}))
        empty = resident_mb()
        fitted = fit_method(method, category, config, seed, Stopwatch())
        split = split_of(config.data, category, "validation")
        cost = inference_cost(method, fitted, split, config, empty)
        rows[title] = {
            **{label: 1e3 * cost["seconds"].get(stage, 0.0) for stage, label in STAGES.items()},
            "MB": cost["memory_mb"],
        }
        del fitted
    table = pd.DataFrame(rows).T
    table.insert(len(STAGES), "frames/s", 1e3 / table[list(STAGES.values())[2:]].sum(axis=1))
    return table


def batches(category: str, config: Config, sizes: Sequence[int] = (1, 2, 4, 8)) -> pd.DataFrame:
    """ms/image of the image backbone by batch size, median of five after a warm-up.

    Clouds have different numbers of points, so the point backbone takes one scan at a time.
    """
    device = resolve_device(config.device)
    backbone = load_image(config, device)
    image = read_sample(split_of(config.data, category, "validation").entries[0], config).rgb
    found = {}
    for size in sizes:
        batch, times = image.expand(size, -1, -1, -1).contiguous(), []
        with torch.inference_mode():
            for _ in range(6):
                start = time.perf_counter()
                backbone(batch)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times.append(time.perf_counter() - start)
        found[size] = 1e3 * statistics.median(times[1:]) / size
    return pd.DataFrame({"ms/image": found}).rename_axis(index="batch")


def fit_brute(good: Good) -> Predict:
    """Three banks searched as M3DM's code does: every patch, background too, by exact distances.

    The share kept of all patches is the config's, drawn at random: only the search is measured.
    """
    views: list[tuple[Modality, ...]] = [("3d",), ("rgb",), MODALITIES]
    generator = torch.Generator().manual_seed(good.seed)
    banks = []
    for view in views:
        rows = torch.cat([_all_rows(scan.features, view) for scan in good.train])
        kept = torch.randperm(len(rows), generator=generator)
        banks.append(rows[kept[: max(1, round(good.config.bank.keep_ratio * len(rows)))]])

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        features, maps, score = scan.features, [], 0.0
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
        summed = torch.stack(maps).sum(0).view(features.grid)
        return {"rgb+3d": Prediction(smooth_map(summed, inside, good.config), score)}

    return predict


def _all_rows(features: PatchFeatures, modalities: Sequence[Modality]) -> Float[Tensor, "P D"]:
    parts = [features.by_modality[m] for m in modalities]
    return torch.cat([spread(part.weights, part.tokens) for part in parts], dim=1)


def stages_figure(table: pd.DataFrame) -> go.Figure:
    """A bar for each method, divided into its stages."""
    stages = table[list(STAGES.values())]
    totals = stages.sum(axis=1)
    figure = px.bar(stages, orientation="h", color_discrete_sequence=COLOURS)
    return figure.update_layout(
        height=180 + 44 * len(table),
        title={"text": f"{totals.idxmin()} is fastest: {totals.min():.0f} ms/scan in total"},
        xaxis={"title": {"text": "ms/scan"}},
        yaxis={"autorange": "reversed", "automargin": True, "title": {"text": ""}},
        legend={**BELOW, "traceorder": "normal", "title": {"text": ""}},
        margin={"b": 110},
    )


def numbers_table(table: pd.DataFrame, config: Config) -> Styler:
    """The numbers of `measure`: best detection, rate and memory marked, the machine named."""
    about = machine(resolve_device(config.device))
    caption = "Medians over scans, one at a time; " + ", ".join(
        f"{k} {v}" for k, v in about.items()
    )
    shown = table.rename(columns={label: f"{label}, ms" for label in STAGES.values()})
    judged = shown[["detect, ms", "frames/s", "MB"]]
    best = dict(zip(judged, ("min", "max", "min"), strict=True))
    named = shown.rename_axis(columns="method")
    return marked(named, judged, best, digits=1, caption=f"{caption}.")  # type: ignore[arg-type]


def batches_table(table: pd.DataFrame) -> Styler:
    """The numbers of `batches`."""
    named = table.rename_axis(index=None, columns="images at once")
    return marked(named, named, "min", digits=1)


def answer(table: pd.DataFrame) -> str:
    """How ours compares, from the numbers, as Markdown."""
    detect, rate, memory = table["detect"], 1e3 / table["frames/s"], table["MB"]
    word = "faster" if detect[OWN] <= detect[CROSSMODAL] else "slower"
    both = detect[[OWN, CROSSMODAL]]
    return "\n".join(
        [
            f"**LSFA detects in {detect[OWN]:.1f} ms/scan, {both.max() / both.min():.1f} times "
            f"{word} than CFM on the same grid and {detect[BRUTE] / detect[OWN]:.0f} times faster "
            "than M3DM-style banks, on the same features.**\n",
            f"- Banks and maps take {detect[PLAIN]:.1f} ms of that. The rest is spent by the "
            "adaptors, whose attention compares all patches of a scan; CFM is two small networks "
            "that see one patch at a time.",
            f"- CFM with one patch per pixel, as published, takes {detect[FINE]:.0f} ms.",
            f"- Including features, a scan takes {rate[OWN]:.0f} ms with LSFA, "
            f"{rate[CROSSMODAL]:.0f} ms with CFM, {rate[BRUTE]:.0f} ms with M3DM-style banks.",
            f"- Memory in use: LSFA {memory[OWN]:.0f} MB, CFM {memory[CROSSMODAL]:.0f} MB, "
            f"M3DM-style banks {memory[BRUTE]:.0f} MB.",
        ]
    )
