"""Choosing a configuration without the test split: by pseudo-defects on validation/good scans.

train -> adaptors and banks; half of validation/good -> scales; the other half and pseudo-defects on
it -> a score; then the halves swap. The test split is not read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from lsfa_lib.config import Config, fields_of
from lsfa_lib.detection.detector import Detector, evidence, fit, fuse, scales_of, standardise
from lsfa_lib.detection.labelled import labelled_patches
from lsfa_lib.evaluation import metrics
from lsfa_lib.features.lazy_scan import fixed_threads
from lsfa_lib.methods.fitting import Fitted
from lsfa_lib.methods.lsfa import Learned, trained_adaptors
from lsfa_lib.records import Mode, Prediction
from lsfa_lib.selection.pseudo_set import PseudoSet, pseudo_set, unseen
from lsfa_lib.storage.files import InputError, progress

FEWEST_FOR_FOLDS = 4
"""Validation scans: with fewer, half of them would have no spread."""
SHARED = ("data", "preprocess", "projection", "image_encoder", "point_encoder", "shots")
"""Config fields that determine the features; extracted once for all configurations."""


@dataclass(frozen=True)
class Separation:
    """How well a detector separates pseudo-defects from good scans, by mode."""

    i_auroc: dict[Mode, float]
    aupro_30: dict[Mode, float]

    def score(self, mode: Mode) -> float:
        """(I-AUROC + AUPRO) / 2, by which configurations are ranked.

        Fixed before any test result was seen. InputError if the detector lacks the mode.
        """
        if mode not in self.i_auroc:
            raise InputError(
                f"no mode {mode}, the detector answers in {', '.join(self.i_auroc)}; select by one "
                "of these, or train alignment (LA or GA) for the modes with disagreement"
            )
        return (self.i_auroc[mode] + self.aupro_30[mode]) / 2


@dataclass(frozen=True)
class Choice:
    """One configuration and its result."""

    name: str
    score: float
    """Mean over seeds; NaN if one of them failed."""
    spread: float
    """Sample standard deviation over seeds; NaN for a single one."""
    separations: tuple[Separation, ...] = ()
    """One per successful seed, in the order of the seeds."""
    reason: str = ""
    """Reason for the failure."""


def folds(scans: int) -> list[tuple[list[int], list[int]]]:
    """(scans to calibrate on, scans to score): every second validation scan, then swapped.

    With fewer than 4, one fold uses all scans for both; scores are then slightly too good.
    """
    if scans < FEWEST_FOR_FOLDS:
        return [(list(range(scans)), list(range(scans)))]
    first, second = list(range(0, scans, 2)), list(range(1, scans, 2))
    return [(first, second), (second, first)]


def separation(detector: Detector, pseudo: PseudoSet) -> Separation:
    """I-AUROC and AUPRO at 30 % of pseudo-defects against validation/good, averaged over the folds.

    The detector's own scales are not used: they come from all of validation/good, the same scans
    that are the good class here. Each fold sets scales on the scans it does not score. A detector
    with heads is scored by the kinds that they were not trained on; the level of its heads is that
    of all of validation/good. Raises InputError if they were trained on all kinds.
    """
    pseudo = unseen(pseudo, [detector.config])
    good, defective = (
        [evidence(detector, features) for features in scans]
        for scans in (pseudo.good, pseudo.pseudo)
    )
    areas: dict[Mode, list[tuple[float, float]]] = {}
    for calibrating, scored in folds(len(pseudo.good)):
        scales = scales_of(
            [good[i] for i in calibrating],
            [pseudo.good[i] for i in calibrating],
            detector.config,
        )
        names = {pseudo.good[i].name for i in scored}
        made = [i for i, f in enumerate(pseudo.pseudo) if f.name.rpartition("#")[0] in names]
        raw = [good[i] for i in scored] + [defective[i] for i in made]
        masks = [pseudo.masks[i] for i in made]
        masks = [torch.zeros_like(masks[0])] * len(scored) + masks
        modes = [fuse(standardise(found, scales), detector.config.detector) for found in raw]
        for mode in modes[0]:
            predictions = [found[mode] for found in modes]
            areas.setdefault(mode, []).append(_areas(predictions, masks))
    means = {mode: np.mean(values, axis=0).tolist() for mode, values in areas.items()}
    return Separation({m: v[0] for m, v in means.items()}, {m: v[1] for m, v in means.items()})


def pseudo_scores(category: str, seed: int, fitted: Fitted) -> dict[str, dict[Mode, float]]:
    """I-AUROC and AUPRO at 30 % by mode, on pseudo-defects, of the detector of a run of LSFA."""
    assert isinstance(fitted.predict, Learned)
    pseudo = pseudo_set(category, fitted.config, fitted.predict.encoders, seed)
    return asdict(separation(fitted.predict.detector, pseudo))


def select(
    configs: dict[str, Config], pseudo: PseudoSet, seeds: Sequence[int], mode: Mode
) -> list[Choice]:
    """The configurations, best mean score first; each is trained and fitted with every seed.

    Those that fail with any seed, for example by a collapsed training, come last with the reason.
    All are scored by the same pseudo-defects, of kinds that no heads among them were trained on.
    Raises InputError if none is left, and for a configuration that needs other features than those
    of `pseudo`.
    """
    if not seeds:
        raise InputError("no seed to train with; give at least one")
    for name, config in configs.items():
        _require_shared(name, config, pseudo.config)
    pseudo = unseen(pseudo, configs.values())
    choices = [
        _choice(name, config, pseudo, seeds, mode)
        for name, config in progress(configs.items(), "configurations")
    ]
    failed = [choice for choice in choices if choice.reason]
    scored = [choice for choice in choices if not choice.reason]
    return sorted(scored, key=lambda choice: choice.score, reverse=True) + failed


def learned(config: Config, pseudo: PseudoSet, seed: int) -> Detector:
    """The detector that a run fits to the same scans with the same config and seed.

    With `shots`, every seed trains on the scans drawn by the seed of the pseudo set.
    """
    with fixed_threads(config.threads):
        trained = trained_adaptors(pseudo.train, config, seed)
        adaptors = trained.adaptors if trained else None
        labelled = labelled_patches(pseudo.scans, pseudo.encoders, adaptors, config, seed)
        return fit(pseudo.train, pseudo.good, config, seed, adaptors, labelled)


def rank_correlation(selected: Sequence[float], tested: Sequence[float]) -> float:
    """Spearman's correlation of the selection scores of configurations and their test scores.

    Pairs with a NaN (failed configurations) are left out. NaN for fewer than 3 pairs, which are
    always perfectly correlated, and if all scores on one side are equal.
    """
    if len(selected) != len(tested):
        raise ValueError(f"{len(selected)} scores of selection and {len(tested)} of the test")
    pairs = np.array([selected, tested], dtype=np.float64)
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if pairs.shape[1] < 3 or (pairs == pairs[:, :1]).all(axis=1).any():
        return math.nan
    return float(pd.DataFrame(pairs.T).corr(method="spearman").to_numpy()[0, 1])


def _choice(
    name: str, config: Config, pseudo: PseudoSet, seeds: Sequence[int], mode: Mode
) -> Choice:
    separations: list[Separation] = []
    scores: list[float] = []
    reasons: list[str] = []
    for seed in seeds:
        try:
            found = separation(learned(config, pseudo, seed), pseudo)
            scores.append(found.score(mode))
            separations.append(found)
        # Also TrainingStopped; features that overflow after the last step raise another one.
        except InputError as error:
            reasons.append(f"seed {seed}: {error}")
    if reasons:
        return Choice(name, math.nan, math.nan, tuple(separations), "; ".join(reasons))
    spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan
    return Choice(name, float(np.mean(scores)), spread, tuple(separations))


def _require_shared(name: str, config: Config, shared: Config) -> None:
    seen, wanted = fields_of(config), fields_of(shared)
    for field, value in seen.items():
        if field.split(".")[0] in SHARED and value != wanted[field]:
            raise InputError(
                f"configuration {name}: {field} is {value!r}, but the pseudo-defects have features "
                f"of {wanted[field]!r}; make a pseudo set of its own for it"
            )


def _areas(
    predictions: Sequence[Prediction], masks: Sequence[Bool[Tensor, "S S"]]
) -> tuple[float, float]:
    """I-AUROC and AUPRO; a scan is defective if its mask is not empty."""
    scores = [prediction.image_score for prediction in predictions]
    defective = [bool(mask.any()) for mask in masks]
    maps = [prediction.anomaly_map for prediction in predictions]
    return metrics.auroc(scores, defective), metrics.aupro(maps, masks, 0.3)
