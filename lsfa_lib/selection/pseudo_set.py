"""Pseudo-defects on validation/good scans, by which configurations are ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Bool
from torch import Tensor

from lsfa_lib.config import Config
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.features.cache import extract
from lsfa_lib.features.extract import Encoders
from lsfa_lib.features.lazy_scan import (
    LazyScan,
    few_shot,
    good_features,
    lazy_scan,
    loaded,
    read_sample,
)
from lsfa_lib.pseudo.defects import KINDS, pseudo_defects
from lsfa_lib.records import PatchFeatures
from lsfa_lib.storage.files import InputError, progress

NO_ENCODERS = Encoders({}, {}, {})


@dataclass(frozen=True)
class PseudoSet:
    """Features of one category for ranking configurations, computed once and shared by all."""

    train: list[PatchFeatures]
    good: list[PatchFeatures]
    """validation/good."""
    pseudo: list[PatchFeatures]
    """Features of pseudo-defects on `good`, named `<name of the good scan>#<kind>`."""
    masks: list[Bool[Tensor, "S S"]]
    """Defect masks of `pseudo`."""
    kinds: list[str]
    """Kinds of `pseudo`."""
    config: Config
    """The config that the features were extracted with."""
    scans: Sequence[LazyScan] = ()
    """Those of `train`, on which heads make pseudo-defects of their own."""
    encoders: Encoders = NO_ENCODERS
    """Those of the features."""


def pseudo_set(category: str, config: Config, encoders: Encoders, seed: int) -> PseudoSet:
    """Features of the training scans, of validation/good and of pseudo-defects on it.

    Each validation scan has one defect of every kind that changes a modality of the encoders.
    `seed` determines the locations and strengths of the defects, and the training scans if `shots`
    is set. Features of real scans come from the cache; those of pseudo-defects are not stored.
    Pasted and blended textures come from the next validation scan, usually in the other half.
    """
    split = few_shot(split_of(config.data, category, "train"), config.shots, seed)
    scans = [lazy_scan(entry, encoders, config) for entry in split.entries]
    validation = split_of(config.data, category, "validation")
    samples = [read_sample(entry, config) for entry in validation.entries]
    made = pseudo_defects(samples, seed, modalities=encoders.by_modality)
    return PseudoSet(
        train=[scan.features for scan in loaded(scans)],
        good=good_features(validation, encoders, config),
        pseudo=[extract(s, encoders, config) for s in progress(made, f"{category}/pseudo")],
        masks=[sample.defect for sample in made],
        kinds=[sample.kind for sample in made],
        config=config,
        scans=scans,
        encoders=encoders,
    )


def unseen(pseudo: PseudoSet, configs: Iterable[Config]) -> PseudoSet:
    """The pseudo-defects of kinds that the heads of no configuration are trained on.

    A detector recognises the kinds that its heads were trained on, which says nothing about others.
    Raises InputError if no kind is left.
    """
    rules = [config.detector for config in configs if config.detector.heads]
    taught = {kind for own in rules for kind in KINDS if kind not in own.heads_without}
    if not taught:
        return pseudo
    kept = [i for i, kind in enumerate(pseudo.kinds) if kind.removeprefix("pseudo_") not in taught]
    if not kept:
        raise InputError(
            "heads were trained on every kind of pseudo-defect here, so none can rank them; leave "
            "the same kinds out of each configuration with detector.heads_without, such as "
            "[blended], or set detector.heads to false"
        )
    return replace(
        pseudo,
        pseudo=[pseudo.pseudo[i] for i in kept],
        masks=[pseudo.masks[i] for i in kept],
        kinds=[pseudo.kinds[i] for i in kept],
    )
