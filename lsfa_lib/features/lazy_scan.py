"""The scans of a split for the pipeline and methods: read, prepared, and their features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import Split, read_scan
from lsfa_lib.datasets.preprocess import prepare
from lsfa_lib.features.cache import cached_features
from lsfa_lib.features.extract import Encoders
from lsfa_lib.records import PatchFeatures, Sample
from lsfa_lib.storage.files import InputError, progress


@dataclass(frozen=True)
class LazyScan:
    """One scan as a method receives it; sample and features are computed when first used."""

    name: str
    config: Config
    """Of the backbones behind `features`."""
    read: Callable[[], Sample]
    extract: Callable[[Callable[[], Sample]], PatchFeatures]

    @cached_property
    def sample(self) -> Sample:
        """Prepared image and points. `sample.defect` is for metrics alone."""
        return self.read()

    @cached_property
    def features(self) -> PatchFeatures:
        """Its features, from the cache if possible."""
        return self.extract(lambda: self.sample)


def lazy_scan(entry: Entry, encoders: Encoders | None, config: Config) -> LazyScan:
    """The scan of an entry. Without encoders its features raise ValueError."""

    def extract(sample: Callable[[], Sample]) -> PatchFeatures:
        if encoders is None:
            raise ValueError(f"{entry.name}: a method without modalities asked for features")
        return cached_features(entry, encoders, config, resolve_device(config.device), sample)

    return LazyScan(entry.name, config, partial(read_sample, entry, config), extract)


def few_shot(split: Split, shots: int, seed: int) -> Split:
    """`shots` scans of the split, drawn by the seed, in their order; all of them for 0."""
    if shots == 0:
        return split
    if not 1 <= shots <= len(split):
        folder = split.entries[0].xyz.parents[1]
        raise InputError(
            f"{folder}: {shots} shots of {len(split)} scans; ask for 1 to {len(split)}"
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    chosen = order[:shots].sort().values.tolist()
    return Split(tuple(split.entries[i] for i in chosen))


def good_features(split: Split, encoders: Encoders, config: Config) -> list[PatchFeatures]:
    """Features of every scan of a split; pixels are read only where the cache lacks them."""
    label = "/".join(split.entries[0].name.split("/")[:2])
    return [lazy_scan(entry, encoders, config).features for entry in progress(split.entries, label)]


def read_sample(entry: Entry, config: Config) -> Sample:
    """The scan of `entry`, prepared for the encoders, on the config's device."""
    return on_device(prepare(read_scan(entry), config.preprocess), resolve_device(config.device))


def on_device(sample: Sample, device: torch.device) -> Sample:
    """The same sample on `device`."""
    tensors = ("rgb", "xyz", "valid", "defect")
    return replace(sample, **{name: getattr(sample, name).to(device) for name in tensors})
