"""Scans of a split for the pipeline and the methods: read, prepared and encoded when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch

from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import Split, read_scan
from lsfa_lib.datasets.preprocess import prepare
from lsfa_lib.features.cache import cached_features
from lsfa_lib.features.extract import Encoders
from lsfa_lib.features.geometry import one_thread
from lsfa_lib.records import PatchFeatures, Sample
from lsfa_lib.storage.files import InputError, progress

T = TypeVar("T")


@dataclass(frozen=True)
class LazyScan:
    """One scan as a method receives it; what is not asked for is not computed."""

    name: str
    config: Config
    """Of the backbones behind `features`."""
    read: Callable[[], Sample]
    extract: Callable[[Callable[[], Sample]], PatchFeatures]
    entry: Entry | None = None
    """Its files; None where they do not matter."""

    kept: dict[str, Any] = field(default_factory=dict, repr=False)
    """What was computed. Not cached properties: their lock lets one scan compute at a time."""

    @property
    def sample(self) -> Sample:
        """Prepared image and points. `sample.defect` is for metrics only."""
        if "sample" not in self.kept:
            self.kept["sample"] = self.read()
        return self.kept["sample"]

    @property
    def features(self) -> PatchFeatures:
        """Its features, from the cache if possible; a sample read for them is not kept."""
        if "features" not in self.kept:
            self.kept["features"] = self.extract(self.passing_sample)
        return self.kept["features"]

    def passing_sample(self) -> Sample:
        """The sample; one that has to be read is not kept."""
        return self.kept.get("sample") or self.read()


def lazy_scan(entry: Entry, encoders: Encoders | None, config: Config) -> LazyScan:
    """The scan of an entry. Without encoders its features raise ValueError."""

    def extract(sample: Callable[[], Sample]) -> PatchFeatures:
        if encoders is None:
            raise ValueError(f"{entry.name}: a method without modalities asked for features")
        return cached_features(entry, encoders, config, resolve_device(config.device), sample)

    return LazyScan(entry.name, config, partial(read_sample, entry, config), extract, entry)


def few_shot(split: Split, shots: int, seed: int) -> Split:
    """`shots` scans of the split, drawn by the seed, in their order; all of them for 0."""
    if shots == 0:
        return split
    if not 1 <= shots <= len(split):
        folder = split.entries[0].path.parents[1]
        raise InputError(
            f"{folder}: {shots} shots of {len(split)} scans; ask for 1 to {len(split)}"
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    chosen = order[:shots].sort().values.tolist()
    return Split(tuple(split.entries[i] for i in chosen))


def good_features(split: Split, encoders: Encoders, config: Config) -> list[PatchFeatures]:
    """Features of every scan of a split; pixels are read only where the cache lacks them."""
    scans = [lazy_scan(entry, encoders, config) for entry in split.entries]
    return [scan.features for scan in loaded(scans)]


def loaded(
    scans: Sequence[LazyScan],
    samples: bool = False,
    features: bool = True,
    refused: dict[str, str] | None = None,
) -> Iterator[LazyScan]:
    """The scans in order, with sample or features computed for as many at a time as cores are free.

    Each is computed by one thread, so that the results do not depend on the number of cores. A scan
    that cannot be used raises InputError; with `refused`, the reason is noted there by the scan's
    name, and the scan is left out.
    """

    def load(scan: LazyScan) -> None:
        try:
            _ = samples and scan.sample
            _ = features and scan.features
        except InputError as error:
            if refused is None:
                raise
            refused[scan.name] = str(error)

    label = "/".join(scans[0].name.split("/")[:2])
    done = side_by_side(load, scans, resolve_device(scans[0].config.device))
    for scan in progress(done, label, len(scans)):
        if scan.name not in (refused or {}):
            yield scan


def side_by_side(
    work: Callable[[T], object], items: Sequence[T], device: torch.device
) -> Iterator[T]:
    """The items in order, each after `work` on it, which as many threads do as cores are free.

    Cores are free inside `fixed_threads`, and on a CPU only; else there is one thread.
    """
    workers = max(1, _CORES.get() if device.type == "cpu" else 1)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(items), workers):
            batch = items[start : start + workers]
            with one_thread():
                list(pool.map(work, batch))
            yield from batch


_CORES: ContextVar[int] = ContextVar("cores", default=1)


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Inside, torch computes with `count` threads, and `loaded` uses the cores it had before.

    The order of float sums depends on the number of threads, and a trained adaptor on that order:
    with a fixed number the results do not depend on load or number of workers.
    """
    before = torch.get_num_threads()
    cores = _CORES.set(before)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _CORES.reset(cores)


def read_sample(entry: Entry, config: Config) -> Sample:
    """The scan of `entry`, prepared for the encoders, on the config's device."""
    sample = prepare(read_scan(entry), config.preprocess, config.colour_size)
    return on_device(sample, resolve_device(config.device))


def on_device(sample: Sample, device: torch.device) -> Sample:
    """The same sample on `device`."""
    tensors = ("rgb", "xyz", "valid", "defect")
    return replace(sample, **{name: getattr(sample, name).to(device) for name in tensors})
