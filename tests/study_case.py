"""A made-up finished study: scores of two categories, shifted by a number a cell."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from lsfa_lib.config import DEMO
from lsfa_lib.storage.results import as_json, write_result

CATEGORIES = ("cap", "ring")
SEEDS = (0, 1)
DEFECTIVE = np.array([False] * 10 + [True] * 14)
LIFT = {"none": 0.0, "IFC": 2.0, "CLC": -0.9, "both": 0.05}
MODES = ("3d", "rgb", "rgb+3d")


def scores_of(category: str, cell: str, seed: int, mode: str, lift: float) -> np.ndarray:
    """The scores of the reference, defective ones lifted; a little noise of the seed."""
    place = sum(map(ord, category)), MODES.index(mode)
    base = np.random.default_rng(place).normal(size=24) + 0.7 * DEFECTIVE
    return base + 0.2 * np.random.default_rng([*place, seed]).normal(size=24) + lift * DEFECTIVE


def write_study(
    folder: Path,
    lift: dict[str, float] = LIFT,
    failed: tuple[tuple[str, str, int], ...] = (),
    seeds: tuple[int, ...] = SEEDS,
    about: dict | None = None,
    configs: dict | None = None,
    categories: tuple[str, ...] = CATEGORIES,
) -> Path:
    """Writes study.json and a result.json for each run; `folder` is the study's."""
    runs = []
    for cell, gain in lift.items():
        for seed in seeds:
            for category in categories:
                name = f"{category}-{cell.replace('<', '_').replace('/', '_')}-s{seed}"
                lost = (cell, category, seed) in failed
                runs.append(
                    {
                        "cell": cell,
                        "category": category,
                        "seed": seed,
                        "folder": f"../../runs/sweep/{name}",
                        "state": "failed" if lost else "done",
                        "error": "InputError: no" if lost else "",
                        "seconds": 3.0,
                        "reused": False,
                    }
                )
                if not lost:
                    config = (configs or {}).get(cell, DEMO)
                    found = result_of(category, cell, seed, gain, config)
                    write_result(found, folder / runs[-1]["folder"])
    study = {
        "schema": 1,
        "name": "parts",
        "title": "What does each part bring?",
        "preset": "demo",
        "page": "04_components",
        "categories": list(categories),
        "seeds": list(seeds),
        "cells": {cell: {"only": cell} for cell in lift},
        "reference": next(iter(lift)),
        "published": {"table": "table4_components", "rows": {"none": "none", "both": "IFC+CLC"}},
        "runs": runs,
        "finding": "",
        "created": "2026-11-22T14:35:00+00:00",
        "wall_seconds": 12.0,
        **(about or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(study), encoding="utf-8")
    return folder


def result_of(category: str, cell: str, seed: int, gain: float, config=DEMO) -> dict:
    modes, by_mode = {}, {}
    for mode in MODES:
        by_mode[mode] = scores_of(category, cell, seed, mode, gain)
        modes[mode] = {
            "i_auroc": roc_auc_score(DEFECTIVE, by_mode[mode]),
            "aupro_30": 0.5 + 0.1 * gain + 0.01 * seed + 0.1 * MODES.index(mode),
            "p_auroc": 0.9 if mode != "3d" else None,
            "threshold": 1.0,
        }
    return {
        "schema": 1,
        "category": category,
        "preset": "demo",
        "seed": seed,
        "created": "2026-11-22T14:35:00+00:00",
        "config": as_json(asdict(replace(config, shots=config.shots))),
        "counts": {"train": config.shots or 32, "validation": 8},
        "finetuned": None,
        "modes": modes,
        "scans": [
            {
                "name": f"{category}/test/{i:03}",
                "kind": "dent" if DEFECTIVE[i] else "good",
                "defective": bool(DEFECTIVE[i]),
                "scores": {mode: float(by_mode[mode][i]) for mode in MODES},
            }
            for i in range(24)
        ],
        "banks": {"3d": [100, 33], "rgb": [90, 152]},
        "seconds": {"train adaptors": 2.0, "fit banks": 1.0, "predict test": 4.0},
        "peak_memory_mb": 700.0,
    }
