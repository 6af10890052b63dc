"""What structure, few shots, banks, fine-tuning, recipes and CFM do, measured on a few scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lsfa_lib.adaptation.adaptors import Adaptors, new_adaptors, scan_rows
from lsfa_lib.adaptation.finetune import Finetuned, finetune
from lsfa_lib.config import Config, replaced, with_losses
from lsfa_lib.detection.detector import fit_banks, search
from lsfa_lib.detection.maps import contrast, map_valid, smooth_map, top_mean
from lsfa_lib.detection.memory import Bank, rows_of_modality, search_bank
from lsfa_lib.features.cache import extract
from lsfa_lib.features.extract import distinct_rows, load_encoders
from lsfa_lib.features.geometry import copying_weights
from lsfa_lib.features.lazy_scan import fixed_threads, lazy_scan, read_sample
from lsfa_lib.figures.feature_space import View, rows_of
from lsfa_lib.methods.crossmodal import Crossmodal, residuals
from lsfa_lib.records import MODALITIES, Modality, ModalityFeatures, PatchFeatures
from lsfa_lib.studies.lesson import Lesson
from lsfa_lib.studies.mechanism import on_grid

Patches = Float[np.ndarray, " P"]
"""A value for each patch of a scan; NaN off the part."""


def influence(lesson: Lesson, structure: str, patch: int, m: Modality = "rgb") -> Patches:
    """How far each adapted patch moves when one patch's feature is replaced by another's.

    Relative to the move of that patch itself; random layers, as training begins with them.
    """
    features = lesson.good.features["frozen"]
    config = replaced(lesson.config.adaptor, {"structure": structure})
    adaptors = new_adaptors(lesson.train, config, lesson.seed)
    scan = scan_rows(features, adaptors.config)
    index = scan[m].index[int(features.valid[:patch].sum())]
    changed = scan[m].rows.clone()
    far = torch.linalg.vector_norm(changed - changed[index], dim=1).argmax()
    changed[index] = changed[far]
    with torch.inference_mode():
        before = adaptors(scan)[m].rows
        after = adaptors({**scan, m: replace(scan[m], rows=changed)})[m].rows
    moved = torch.linalg.vector_norm(after - before, dim=1)
    return on_grid((moved / moved[index])[scan[m].index].cpu().numpy(), features)


def parameters(adaptors: Adaptors) -> int:
    """Weights of all layers, without the heads that detection discards."""
    return sum(p.numel() for n, p in adaptors.named_parameters() if ".layers." in n)


@dataclass(frozen=True)
class Cover:
    """A bank, and distances to its nearest row in standard deviations of all training rows."""

    bank: Bank
    radius: float
    """Largest distance of a training patch: the cover radius (Gonzalez 1985)."""
    good: Patches
    """Of the good validation scan."""
    bad: Patches
    """Of the defective scan."""


def cover(lesson: Lesson, fields: Mapping[str, Any], m: Modality = "rgb") -> Cover:
    """How well a bank of the training scans covers them, the good scan and the defective one.

    `fields` of the config by their dotted names, such as bank.keep_ratio, on top of the lesson's.
    """
    bank = _bank(lesson, fields, m)
    radius = max(np.nanmax(_distances(bank, features, m)) for features in lesson.train)
    views = (_distances(bank, view.features["frozen"], m) for view in (lesson.good, lesson.bad))
    return Cover(bank, float(radius), *views)


def coverage(lesson: Lesson, shots: Sequence[int], m: Modality = "rgb") -> dict[int, Patches]:
    """Distance of each patch of the good scan to the bank of so many training scans.

    Standardised as in the bank of all of them, so that the numbers can be compared.
    """
    scale, found = _bank(lesson, {}, m).std, {}
    for count in shots:
        bank = _bank(replace(lesson, train=lesson.train[:count]), {}, m)
        distances = _distances(bank, lesson.good.features["frozen"], m)
        found[count] = distances * (bank.std / scale)
    return found


def _bank(lesson: Lesson, fields: Mapping[str, Any], m: Modality) -> Bank:
    """The bank of one modality, with its own statistics and the share `bank.keep_ratio`."""
    alone = {"bank.statistics": "own", "bank.keep_ratio_rgb": None}
    config = replaced(lesson.config, {**alone, **fields})
    train = [replace(each, by_modality={m: each.by_modality[m]}) for each in lesson.train]
    return fit_banks(train, config, lesson.seed)[m]


def _distances(bank: Bank, features: PatchFeatures, m: Modality) -> Patches:
    """Of each patch to its nearest row."""
    found = search_bank(bank, rows_of_modality(m), features, reweighted=False).distances
    return on_grid(found[features.valid].cpu().numpy(), features)


def tuned(lesson: Lesson, method: str, steps: int, rate: float, scans: int = 3) -> Finetuned:
    """The image backbone, fine-tuned on a few scans with the losses of the adaptors."""
    fields = {
        "finetune.method": method,
        "finetune.modalities": ("rgb",),
        "finetune.recompute": False,
        "training.steps": steps,
        "training.batch": scans,
        "training.learning_rate": rate,
        "training.warmup": 0.0,
    }
    config = replaced(with_losses(lesson.config, "both"), fields)
    # Folded convolutions cannot be trained.
    encoders = load_encoders(config, lesson.good.sample.xyz.device)
    samples = [read_sample(entry, config) for entry in lesson.entries[:scans]]
    with fixed_threads(config.threads):
        return finetune(samples, encoders, config, lesson.seed)


def drift_map(lesson: Lesson, tuned: Finetuned, m: Modality = "rgb") -> Patches:
    """1 - cos between frozen and fine-tuned features of each patch of the defective scan."""
    before = lesson.bad.features["frozen"]
    after = extract(lesson.bad.sample, tuned.encoders, replace(lesson.config, cache=""))
    a, b = (F.normalize(torch.from_numpy(rows_of(f, m)), dim=1) for f in (before, after))
    return on_grid((1 - (a * b).sum(1)).numpy(), before)


def at_size(lesson: Lesson, size: int) -> Lesson:
    """The same scans with image features of another input size."""
    config = replaced(lesson.config, {"image_encoder.size": size})
    encoders = load_encoders(config, lesson.good.sample.xyz.device)
    with fixed_threads(config.threads):
        train = [lazy_scan(entry, encoders, config).features for entry in lesson.entries]
        views = [lazy_scan(entry, encoders, config) for entry in lesson.shown]
    good, bad = (View(scan.sample, {"frozen": scan.features}) for scan in views)
    return replace(lesson, config=config, encoders=encoders, train=train, good=good, bad=bad)


def image_maps(lesson: Lesson, m: Modality = "rgb") -> dict[str, Float[np.ndarray, "S S"]]:
    """Maps of the good and the defective scan in one modality, divided by the good one's spread."""
    config, found = lesson.config, {}
    banks = {m: fit_banks(lesson.train, config, lesson.seed)[m]}
    for name, view in (("good", lesson.good), ("defective", lesson.bad)):
        features = view.features["frozen"]
        distances = search(banks, features, config)[m].distances
        inside = map_valid(features, config)
        found[name] = smooth_map(distances.view(features.grid), inside, config)
    inside = map_valid(lesson.good.features["frozen"], config)
    mean, std = found["good"][inside].mean(), found["good"][inside].std()
    return {name: ((own - mean) / std).cpu().numpy() for name, own in found.items()}


def scores_of(
    anomaly: Float[np.ndarray, "S S"], features: PatchFeatures, config: Config
) -> dict[str, float]:
    """Image scores of a map by three rules: its maximum, its largest pixels, their contrast."""
    own, inside = torch.from_numpy(anomaly), map_valid(features, config)
    rules = config.detector
    local = contrast(own, inside, rules.surround * len(own))
    own = own.where(inside, own[inside].min())
    return {
        "maximum": float(own.max()),
        "top 0.1 %": top_mean(own, rules.top_fraction),
        "contrast": top_mean(local, rules.top_fraction),
    }


def residual_patches(crossmodal: Crossmodal, features: PatchFeatures) -> dict[str, Patches]:
    """CFM's residual of each patch in both directions, and their product."""
    found = {m: each.cpu().numpy() for m, each in residuals(crossmodal, features).items()}
    valid = features.valid.cpu().numpy()
    named = {
        "colour predicted from shape": found["rgb"],
        "shape predicted from colour": found["3d"],
        "product": found["rgb"] * found["3d"],
    }
    return {name: np.where(valid, values, np.nan) for name, values in named.items()}


@torch.inference_mode()
def predicted(crossmodal: Crossmodal, features: PatchFeatures, m: Modality) -> PatchFeatures:
    """The scan with the features of `m` as CFM predicts them from the other modality, unit rows."""
    other = MODALITIES[1 - MODALITIES.index(m)]
    rows, index = distinct_rows(features, other)
    made = F.normalize(crossmodal.mappings[m](rows), dim=1)
    return _with_rows(features, m, made, index)


def actual(features: PatchFeatures, m: Modality) -> PatchFeatures:
    """The scan with the features of `m` as unit rows, as CFM compares them."""
    rows, index = distinct_rows(features, m)
    return _with_rows(features, m, F.normalize(rows, dim=1), index)


def _with_rows(features: PatchFeatures, m: Modality, rows: Tensor, index: Tensor) -> PatchFeatures:
    weights = copying_weights(features.valid, index[features.valid], rows)
    return replace(
        features, by_modality={**features.by_modality, m: ModalityFeatures(rows, weights)}
    )
