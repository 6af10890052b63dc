"""Detection in one scan by ours, CFM and M3DM-style banks on the same features.

Features are those of the demo's encoders, ready before the clock starts. Weights and rows of banks
matter little for speed: adaptors and mappings are trained for a step.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from benchmarks.harness import Row, measure
from lsfa_lib.config import DEMO, Config, configure
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.demo.synthetic import DemoCounts, DemoSettings, write_demo
from lsfa_lib.features.lazy_scan import LazyScan, lazy_scan
from lsfa_lib.methods.fitting import Fitted, fit_method
from lsfa_lib.storage.results import Stopwatch
from lsfa_lib.studies.efficiency import BRUTE, OWN, candidates

SETTINGS = DemoSettings(
    categories=("seal",), counts=DemoCounts(train=32, validation=4, good=1, each_defect=1)
)
LEFT_OUT = "M3DM"
"""Searches as ours does; what is compared here is M3DM's own search."""


def ready(fitted: Fitted) -> LazyScan:
    """A test scan with its features."""
    entry = split_of(fitted.config.data, "seal", "test").entries[0]
    scan = lazy_scan(entry, fitted.encoders, fitted.config)
    assert scan.features
    return scan


def rows() -> list[Row]:
    """Banks of the demo's share of patches, and of all: as many rows as real data sets give."""
    with tempfile.TemporaryDirectory() as name:
        write_demo(Path(name) / "data", SETTINGS)
        start = {"data.root": f"{name}/data", "cache": f"{name}/cache"}
        start |= {"training.steps": 1, "crossmodal.epochs": 1}
        return [_row(configure(DEMO, {**start, "bank.keep_ratio": share})) for share in (0.1, 1.0)]


def _row(config: Config) -> Row:
    ways, bank = {}, 0
    for title, (method, start) in candidates(config).items():
        if title == LEFT_OUT:
            continue
        own = method.call("config", start)
        fitted = fit_method(method, "seal", own, 0, Stopwatch())
        scan = ready(fitted)
        ways[title] = partial(fitted.predict, scan)
        bank = bank or round(
            own.bank.keep_ratio * SETTINGS.counts.train * int(scan.features.valid.sum())
        )
    ours = ways.pop(OWN)
    stage = f"LSFA's detection in a scan, banks of about {bank / 1000:.0f}k rows"
    return measure(stage, ours, ways, repeats=5, target=f">= 10x {BRUTE}, >= 1x CFM")
