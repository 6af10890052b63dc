"""What the notebooks of the studies start from: scans to compute on live, and the study itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lsfa_lib.adaptation.adaptors import Adaptors, new_adaptors
from lsfa_lib.adaptation.training import Trained, TrainingStopped, train_adaptors
from lsfa_lib.config import PRESETS, Config, configure, replaced, resolve_device, with_losses
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.evaluation.bootstrap import AREA, verdict
from lsfa_lib.features.extract import Encoders, load_encoders
from lsfa_lib.features.lazy_scan import few_shot, fixed_threads, good_features, lazy_scan
from lsfa_lib.figures.feature_space import View
from lsfa_lib.figures.findings import BOTH
from lsfa_lib.figures.scan_statistics import find_entry
from lsfa_lib.records import PatchFeatures, is_defective
from lsfa_lib.storage.files import CHECKOUT, InputError, located
from lsfa_lib.studies.study_table import StudyRuns, lead_lines, load, spread


@dataclass(frozen=True)
class Lesson:
    """A few scans of one category with their frozen features."""

    config: Config
    encoders: Encoders
    entries: tuple[Entry, ...]
    """Good training scans."""
    train: list[PatchFeatures]
    """Their features."""
    good: View
    """A good validation scan."""
    bad: View
    """A defective test scan."""
    shown: tuple[Entry, Entry]
    """Of these two."""
    seed: int


def prepare(config: Config, category: str, scan: str = "", seed: int = 0, scans: int = 8) -> Lesson:
    """`scans` training scans drawn by the seed, the first validation scan and one defective scan.

    `scan` names the defective one, such as hole/000; a name that the category lacks, or none,
    takes its first defective test scan. Features come from the cache where it has them. All is
    computed on the CPU, which suffices for a few scans.
    """
    config = replace(config, device="cpu")
    split = split_of(config.data, category, "train")
    split = few_shot(split, min(scans, len(split)) if scans else 0, seed)
    encoders = load_encoders(config, resolve_device(config.device))
    with fixed_threads(config.threads):
        train = good_features(split, encoders, config)
        good = split_of(config.data, category, "validation").entries[0]
        bad = scan_of(config, category, scan)
        views = [_view(entry, encoders, config) for entry in (good, bad)]
    return Lesson(config, encoders, split.entries, train, views[0], views[1], (good, bad), seed)


def scan_of(config: Config, category: str, scan: str) -> Entry:
    """The test scan of that name, such as hole/000, else the category's first defective one."""
    test = split_of(config.data, category, "test").entries
    if scan and any(entry.name.endswith(f"/{scan}") for entry in test):
        return find_entry(Path(config.data.root), category, scan)
    found = [entry for entry in test if is_defective(entry.kind)]
    if not found:
        raise InputError(f"{category} has no defective test scan to show; choose another category")
    return found[0]


def _view(entry: Entry, encoders: Encoders, config: Config) -> View:
    scan = lazy_scan(entry, encoders, config)
    return View(scan.sample, {"frozen": scan.features})


def train(lesson: Lesson, only: str, steps: int, **changed: Any) -> Trained:
    """Adaptors trained for a few steps with the losses `only` names; `notes` say why it stopped.

    `changed` are fields, with __ for the dot: training__temperature=0.03.
    """
    fields = {name.replace("__", "."): value for name, value in changed.items()}
    config = replaced(with_losses(lesson.config, only), {"training.steps": steps, **fields})
    with fixed_threads(config.threads):
        try:
            return train_adaptors(lesson.train, config, lesson.seed)
        except TrainingStopped as stopped:
            return replace(stopped.trained, notes=(str(stopped),))


def untrained(lesson: Lesson) -> Adaptors:
    """Adaptors as training begins with them: standardised features, random layers and heads."""
    return new_adaptors(lesson.train, lesson.config.adaptor, lesson.seed).requires_grad_(False)


def find_study(study: str) -> StudyRuns | None:
    """The study in that folder; None where it has not been run."""
    return load(study) if (located(Path(study)) / "study.json").exists() else None


def not_run(study: str) -> str:
    """Markdown for a study that has not been run: the command that runs it."""
    name, _, preset = Path(study).name.rpartition("-")
    known = (CHECKOUT / "studies" / f"{name}.yaml").exists()
    command = f"lsfa sweep studies/{name if known else 'NAME'}.yaml --preset {preset or 'demo'}"
    return (
        f"**This study has not been run yet**: `{command}` writes its numbers. Until then the "
        "sections about them are left out."
    )


def live_config(runs: StudyRuns | None, preset: str, fields: Mapping[str, Any]) -> Config:
    """The config for live computations: data and preset of the study where it was run.

    `fields` come on top. A study with a preset of its own is shown with `preset`, one of images
    without 3D with the data of `preset`.
    """
    if runs is None or BOTH not in runs.modes:
        return configure(preset, dict(fields))
    stored = next(iter(runs.results.values()))["config"]
    kept = {"data.root": stored["data"]["root"], "cache": stored["cache"]}
    known = runs.about.preset if runs.about.preset in PRESETS else preset
    return configure(known, {**kept, **fields})


def live_category(runs: StudyRuns | None, category: str) -> str:
    """`category`, or the study's first one where it was swept without that."""
    known = runs.about.categories if runs and BOTH in runs.modes else [category]
    return category if category in known else known[0]


def progress_of(trained: Trained, *names: str) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of entries of the training's history, relative to the first value."""
    found = {}
    for name in names:
        values = [step[name] for step in trained.history if name in step]
        steps = [float(i + 1) for i in range(len(values))]
        found[name] = (steps, [value / (abs(values[0]) or 1.0) for value in values])
    return found


def hypothesis_answer(
    lines: pd.DataFrame,
    hypotheses: Mapping[str, str],
    agrees: Literal["confirmed", "worse"] = "confirmed",
) -> str:
    """Markdown: each hypothesis, by the study's row it is about, and whether its numbers agree.

    `agrees`: the verdict on that row that the hypotheses predict, a gain or a loss.
    """
    found = {line["row"]: line for line in lead_lines(lines)}
    words = {
        "confirmed": "the numbers say the opposite",
        "worse": "the numbers say the opposite",
        agrees: "the numbers agree",
        "": "undecided: this difference has no interval",
    }
    told = [
        f"- *{text}*: {words.get(verdict(found[row]), 'not confirmed')} (I-AUROC of “{row}” "
        f"{spread(found[row], 'd_i_auroc', '+.3f')} against the reference)."
        for row, text in hypotheses.items()
        if row in found and f"d_{AREA}" in found[row]
    ]
    return "\n".join(["**The hypothesis.**\n", *told]) if told else ""
