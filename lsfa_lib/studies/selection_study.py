"""Does the selection score predict the test result? Configurations around one, scored by both.

For each category a file holds, by configuration, how it separates pseudo-defects (what `choice`
reads) and how it did on the test split (what `rank_correlation` compares it with, afterwards).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lsfa_lib.config import Config, config_hash, resolve_device
from lsfa_lib.detection.detector import Detector, predict
from lsfa_lib.features.extract import load_encoders
from lsfa_lib.selection.selection import learned, pseudo_set, separation
from lsfa_lib.storage import results
from lsfa_lib.storage.files import InputError, atomic_write, progress
from lsfa_lib.studies.components import VARIANTS, TestScans, each_category, measured, read_test

FORMAT = 1


def start(preset: Config) -> Config:
    """Where the choice began: the paper's ratio of the bank, and steps that take a minute."""
    return replace(preset, training=replace(preset.training, steps=100, bank_batches=2))


def grid(base: Config) -> dict[str, Config]:
    """The configurations tried: one field changed at a time, and the parts of the method."""
    t = base.training
    changed = {
        "as it is": t,
        "learning rate / 4": replace(t, learning_rate=t.learning_rate / 4),
        "learning rate / 20": replace(t, learning_rate=t.learning_rate / 20),
        "half the steps": replace(t, steps=t.steps // 2),
        "twice the steps": replace(t, steps=2 * t.steps),
        "temperature 0.03": replace(t, temperature=0.03),
        "temperature 1": replace(t, temperature=1.0),
        "K = 4": replace(t, instances=4),
        "bank of 1 batch": replace(t, bank_batches=1),
        "bank of 4 batches": replace(t, bank_batches=4),
        "half the steps, bank of 4 batches": replace(t, steps=t.steps // 2, bank_batches=4),
        "4 x the patches": replace(t, patches_per_scan=4 * t.patches_per_scan),
    }
    found = {name: replace(base, training=training) for name, training in changed.items()}
    for name in ("IFC", "CLC", "heads", "control", "baseline"):
        found[name] = VARIANTS[name](base)
    return found


def run_selection(
    base: Config, categories: tuple[str, ...], folder: Path, workers: int
) -> Iterator[str]:
    """Scores every configuration in every category; what is in `folder` already is kept."""
    return each_category(partial(score_category, base, folder=folder), categories, workers)


def score_category(base: Config, category: str, folder: Path, seed: int = 0) -> None:
    """Writes `<folder>/<category>.json`; finished configurations are not run again."""
    path, key = folder / f"{category}.json", _key(base, seed)
    content: dict[str, Any] = {"key": key, "category": category, "configurations": {}}
    if path.exists() and (old := json.loads(path.read_text(encoding="utf-8")))["key"] == key:
        content = old
    todo = {n: c for n, c in grid(base).items() if n not in content["configurations"]}
    if not todo:
        return
    encoders = load_encoders(base, resolve_device(base.device))
    pseudo = pseudo_set(category, base, encoders, seed)
    test = read_test(category, base, encoders)
    for name, config in progress(todo.items(), category):
        clock = results.Stopwatch()
        entry: dict[str, Any] = {"pseudo": {}, "test": {}, "reason": ""}
        try:
            with clock("train and fit"):
                detector = learned(config, pseudo, seed)
            entry["pseudo"] = asdict(separation(detector, pseudo))
            entry["test"] = _tested(detector, test)
        except InputError as error:
            entry["reason"] = str(error)
        content["configurations"][name] = {**entry, "seconds": clock.seconds}
        content["machine"] = results.machine(resolve_device(base.device))
        with atomic_write(path) as file:
            file.write_text(json.dumps(results.as_json(content), indent=1), encoding="utf-8")


def _key(base: Config, seed: int) -> str:
    return config_hash(FORMAT, replace(base, device="", cache=""), seed)


def _tested(detector: Detector, test: TestScans) -> dict[str, Any]:
    found = [predict(detector, features) for features in test.features]
    return {mode: measured([each[mode] for each in found], test) for mode in detector.modes}
