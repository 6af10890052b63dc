"""The cells of a study of components as one table: what each part brings, and how sure that is.

Everything is paired: a variant and the baseline see the same test scans with the same coreset
seed. Intervals are bootstrap intervals; those of I-AUROC draw test scans and seeds anew, those of
AUPRO and P-AUROC the seeds alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from lsfa_lib.evaluation.bootstrap import Measured, draws, resampled, with_interval
from lsfa_lib.storage.files import InputError

Metric = str
METRICS: tuple[Metric, ...] = ("i_auroc", "aupro_30", "p_auroc")
PATCHCORE = ("3d", "rgb", "rgb+3d")
DISAGREEMENT, ALL_THREE = "disagreement", "rgb+3d+disagreement"
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "baseline": ("baseline", PATCHCORE),
    "random adaptor (control)": ("control", PATCHCORE),
    "IFC": ("IFC", PATCHCORE),
    "CLC": ("CLC", PATCHCORE),
    "IFC + CLC": ("both", PATCHCORE),
    "disagreement alone, untrained (control)": ("control", (DISAGREEMENT,)),
    "disagreement alone, frozen features": ("heads", (DISAGREEMENT,)),
    "disagreement alone, IFC + CLC": ("both", (DISAGREEMENT,)),
    "baseline + untrained disagreement (control)": ("control", (ALL_THREE,)),
    "baseline + disagreement": ("heads", (ALL_THREE,)),
    "CLC + disagreement": ("CLC", (ALL_THREE,)),
    "IFC + CLC + disagreement": ("both", (ALL_THREE,)),
}
"""Row of the table: the variant it was trained as, and the modes it is read in."""


FORMER_ENCODERS = ("efficientnet_lite0", "fpfh")
"""Of cells that do not say: the demo's, before they said so."""


@dataclass(frozen=True)
class Cells:
    """The cells of one image size: everything by (losses, variant, mode)."""

    image_size: int
    categories: tuple[str, ...]
    values: dict[tuple[str, str, str], dict[Metric, Float[np.ndarray, "C T S"]]]
    """By metric: categories x training seeds x coreset seeds. The baseline has one training."""
    scores: dict[tuple[str, str, str], list[Float[np.ndarray, "T S n"]]]
    """Image scores, an array a category."""
    defective: list[Bool[np.ndarray, " n"]]
    """By category."""
    stopped: dict[tuple[str, str], int]
    """Trainings that collapsed, by (losses, variant)."""
    trainings: dict[tuple[str, str], int]
    seconds: dict[tuple[str, str], dict[str, float]]
    """Mean seconds of training, fitting and predicting one split."""
    peak_memory_mb: float
    encoders: tuple[str, ...] = FORMER_ENCODERS
    """Of the image and of the points."""


def read_cells(folder: Path) -> list[Cells]:
    """The cells below `folder`, one entry an image size, smallest first.

    Raises InputError where there are none or where a category lacks some others have.
    """
    contents = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("*.json"))]
    if not contents:
        raise InputError(f"{folder} holds no cells; run `lsfa study components` first")
    sizes = sorted({content["image_size"] for content in contents})
    return [_cells([c for c in contents if c["image_size"] == size], folder) for size in sizes]


def _cells(contents: list[dict[str, Any]], folder: Path) -> Cells:
    categories = tuple(sorted({content["unit"]["category"] for content in contents}))
    found: dict[tuple[str, str, str], dict[tuple[str, int, int], dict[str, Any]]] = {}
    units: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for content in contents:
        unit = content["unit"]
        units.setdefault((unit["losses"], unit["variant"]), []).append(content["cells"][0])
        for cell in content["cells"]:
            place = (unit["category"], unit["training_seed"], cell["coreset_seed"])
            found.setdefault((unit["losses"], unit["variant"], cell["mode"]), {})[place] = cell
    defective = {c["unit"]["category"]: np.array(c["defective"], bool) for c in contents}
    values, scores = {}, {}
    for name, cells in found.items():
        trainings = sorted({training for _, training, _ in cells})
        coresets = sorted({coreset for _, _, coreset in cells})
        places = [[[(c, t, s) for s in coresets] for t in trainings] for c in categories]
        lacking = [p for c in places for t in c for p in t if p not in cells]
        if lacking:
            raise InputError(
                f"{folder}: {', '.join(name)} lacks {len(lacking)} cells, such as those of "
                f"{lacking[0][0]}; run `lsfa study components` again, it makes what is missing"
            )
        values[name] = {
            metric: np.array([[[cells[p][metric] for p in t] for t in c] for c in places])
            for metric in METRICS
        }
        scores[name] = [np.array([[cells[p]["scores"] for p in t] for t in c]) for c in places]
    return Cells(
        image_size=contents[0]["image_size"],
        categories=categories,
        values=values,
        scores=scores,
        defective=[defective[c] for c in categories],
        stopped={name: sum(bool(cell["stopped"]) for cell in c) for name, c in units.items()},
        trainings={name: len(c) for name, c in units.items()},
        seconds={name: _mean_seconds(c) for name, c in units.items()},
        peak_memory_mb=max(content["peak_memory_mb"] for content in contents),
        encoders=_encoders(contents, folder),
    )


def _encoders(contents: list[dict[str, Any]], folder: Path) -> tuple[str, ...]:
    found = {tuple(content.get("encoders", FORMER_ENCODERS)) for content in contents}
    if len(found) > 1:
        names = " and ".join(" + ".join(each) for each in sorted(found))
        raise InputError(
            f"{folder}: holds cells of {names}; move one sort elsewhere, they cannot be compared"
        )
    return found.pop()


def _mean_seconds(cells: list[dict[str, Any]]) -> dict[str, float]:
    stages = ("train", "fit", "predict")
    return {s: float(np.mean([cell["seconds"].get(s, 0.0) for cell in cells])) for s in stages}


def table(cells: Cells, losses: str, seed: int = 0) -> pd.DataFrame:
    """One line for each row and mode: means, intervals, differences to baseline and control.

    Columns `d_<metric>` are differences to the baseline, `c_<metric>` to the control, both in the
    same mode (in RGB + 3D for rows with disagreement); `_low` and `_high` are 95 % intervals.
    """
    drawn = draws(cells.defective, seed)
    variants = sorted({name[1] for name in cells.values})

    def means(name: tuple[str, str, str], metric: Metric) -> Float[np.ndarray, " B"]:
        found = Measured(cells.values[name], cells.scores[name])
        return resampled(found, metric, drawn, variants.index(name[1]))

    lines = []
    for row, (variant, modes) in ROWS.items():
        for mode in modes:
            if (name := _name(cells, losses, variant, mode)) is None:
                continue
            reference = mode if mode in PATCHCORE else "rgb+3d"
            line = {"row": row, "mode": mode, "stopped": cells.stopped[name[:2]]}
            line["trainings"] = cells.trainings[name[:2]]
            for metric in METRICS:
                own = means(name, metric)
                line |= with_interval(metric, float(cells.values[name][metric].mean()), own)
                for prefix, other in (("d", "baseline"), ("c", "control")):
                    against = _name(cells, losses, other, reference)
                    if (variant == other and mode == reference) or against is None:
                        continue
                    gain = cells.values[name][metric].mean() - cells.values[against][metric].mean()
                    paired = own - means(against, metric)
                    line |= with_interval(f"{prefix}_{metric}", float(gain), paired)
            lines.append(line)
    return pd.DataFrame(lines)


def _name(cells: Cells, losses: str, variant: str, mode: str) -> tuple[str, str, str] | None:
    """Where these cells are; untrained variants are filed under the first losses alone."""
    for filed in (losses, "ours"):
        if (filed, variant, mode) in cells.values:
            return filed, variant, mode
    return None
