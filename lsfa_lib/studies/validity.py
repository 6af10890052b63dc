"""Whether generated data rank recipes as real photographs do: gains and their rank correlation.

A gain is a recipe's mean over categories and seeds minus that of the reference, in RGB. I-AUROC is
resampled over test scans and seeds, with the same resamples for all recipes of a data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.special
from jaxtyping import Float

from lsfa_lib.evaluation.bootstrap import AREA, bounds
from lsfa_lib.figures.names import MODES
from lsfa_lib.selection.selection import rank_correlation
from lsfa_lib.storage.files import InputError
from lsfa_lib.studies import study_table
from lsfa_lib.studies.study_means import Means
from lsfa_lib.studies.study_table import StudyRuns

MODE = "rgb"
METRICS = (AREA, "aupro_30", "aupro_01")
REAL = "real photographs"


@dataclass(frozen=True)
class Gains:
    """What each recipe gains over the reference on one data set."""

    data: str
    runs: StudyRuns
    base: float
    """I-AUROC of the reference."""
    mean: pd.DataFrame
    """By recipe and metric."""
    drawn: pd.DataFrame
    """I-AUROC by resample and recipe."""


@dataclass(frozen=True)
class Compared:
    """The data sets, reduced to the recipes that were finished on all of them."""

    real: Gains
    generated: list[Gains]
    left_out: list[str]
    """Sentences."""

    @property
    def recipes(self) -> list[str]:
        """All but the reference, in the order of the study."""
        return list(self.real.mean.index)


def load(study: Path | str, others: Mapping[str, str]) -> Compared:
    """The study of real photographs in a folder, and those of generated data beside it.

    `others` are the names of their studies by what their data are called, such as `{"demo 1":
    "validity_demo1"}`; one without a finished run is left out with a sentence.
    """
    found, left_out = [gains(REAL, study_table.load(study), 0)], []
    about = found[0].runs.about
    for place, (data, name) in enumerate(others.items(), start=1):
        folder = about.folder.with_name(name + about.folder.name.removeprefix(about.name))
        try:
            found.append(gains(data, study_table.load(folder), place))
        except InputError:
            left_out.append(
                f"{data} is left out: {folder.name} has no finished runs to compare; run `lsfa "
                f"sweep studies/{name}.yaml`"
            )
    shared = _shared(found)
    wanted = dict.fromkeys(cell for each in found for cell in each.runs.about.cells)
    lost = [cell for cell in wanted if cell not in (*shared, about.reference)]
    left_out += [f"{cell} is left out: it was not finished on every data set" for cell in lost]
    kept = [Gains(g.data, g.runs, g.base, g.mean.loc[shared], g.drawn[shared]) for g in found]
    return Compared(kept[0], kept[1:], left_out)


def _shared(found: list[Gains]) -> list[str]:
    """The recipes of all data sets. Raises InputError where their references differ."""
    references = {each.data: each.runs.about.reference for each in found}
    for data, reference in references.items():
        if reference != references[REAL]:
            raise InputError(
                f"{data} is compared with {reference!r} and {REAL} with {references[REAL]!r}; give "
                "both studies the same reference"
            )
    return [cell for cell in found[0].mean.index if all(cell in g.mean.index for g in found)]


def gains(data: str, runs: StudyRuns, seed: int) -> Gains:
    """The gains of the recipes that were finished in every category with every seed.

    Data sets get different seeds, since nothing in them is paired.
    """
    means, reference = Means(runs.about, runs.results, seed), runs.about.reference
    every = tuple(runs.about.categories)
    whole = [cell for cell in runs.cells if means.complete(cell, MODE) == every]
    if reference not in whole:
        raise InputError(f"{data}: {reference} was not finished in {MODES[MODE]}; sweep it again")
    recipes = [cell for cell in whole if cell != reference]
    mean, drawn = pd.DataFrame(index=recipes, columns=[*METRICS], dtype=float), {}
    base, base_drawn = means.of(reference, MODE, every)
    for cell in recipes:
        for metric in METRICS:
            pairs = (cell, MODE), (reference, MODE)
            mean.loc[cell, metric] = means.difference(f"d_{metric}", *pairs)[f"d_{metric}"]
        drawn[cell] = means.of(cell, MODE, every)[1] - base_drawn
    return Gains(data, runs, base, mean, pd.DataFrame(drawn))


def correlation(one: Gains, real: Gains, metric: str = AREA) -> dict[str, float]:
    """Spearman's correlation of the gains; of I-AUROC with its 95 % interval.

    Resampling adds noise, which brings correlations nearer to 0: an interval that misses the
    estimate is extended to it.
    """
    value = rank_correlation(list(one.mean[metric]), list(real.mean[metric]))
    if metric != AREA or np.isnan(value):
        return {metric: value}
    ranks = [g.drawn.rank(axis=1).to_numpy() for g in (one, real)]
    a, b = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    found = (a * b).sum(axis=1)[scale > 0] / scale[scale > 0]
    low, high = bounds(found) if len(found) else (value, value)
    return {metric: value, f"{metric}_low": min(low, value), f"{metric}_high": max(high, value)}


def reversed_pairs(one: Gains, real: Gains, metric: str = AREA) -> pd.Series[int]:
    """For each recipe, how many of the others stand on its other side among real photographs."""

    def order(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
        return np.sign(values[:, None] - values)

    own, theirs = (order(g.mean[metric].to_numpy()) for g in (one, real))
    return pd.Series((own * theirs < 0).sum(axis=1), one.mean.index)


def by_chance(count: int) -> float:
    """Recipes in random order have a rank correlation within ± this in 19 of 20 cases."""
    t = scipy.special.stdtrit(count - 2, 0.975)
    return float(t / np.sqrt(count - 2 + t * t))
