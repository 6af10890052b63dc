"""The complete published path at its full size, with random weights: shapes, seconds and memory.

ViT-B/8 and Point-MAE as large as the paper's, 224 px, attention over 3136 patches. What such
weights find means nothing; what they cost is what the real ones cost.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.harness import Row, device_name
from lsfa_lib.config import PUBLISHED, RANDOM_WEIGHTS, configure
from lsfa_lib.demo.synthetic import DemoCounts, DemoSettings, write_demo
from lsfa_lib.pipeline import Run, run_category

STEPS = 3
SETTINGS = DemoSettings(
    categories=("seal",), counts=DemoCounts(train=8, validation=4, good=4, each_defect=1)
)


def published_run(folder: Path) -> Run:
    """One small category; the plane's distance is the demo's, the paper's takes the parts away.

    A few steps of training tell what each costs: they are all alike.
    """
    write_demo(folder / "data", SETTINGS)
    changed = {"preprocess.plane_distance_m": 0.005, "training.steps": STEPS}
    changed |= {"data.root": str(folder / "data"), "cache": ""}
    return run_category("seal", configure(PUBLISHED, {**RANDOM_WEIGHTS, **changed}), seed=0)


def rows() -> list[Row]:
    """Seconds of each stage, and the peak memory of all of them."""
    with tempfile.TemporaryDirectory() as name:
        run = published_run(Path(name))
    counts = run.result["counts"]
    scans = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in counts.items() if n)
    shapes = ", ".join(f"{m} {r} x {c}" for m, (r, c) in run.result["banks"].items())
    peak = float(run.result["peak_memory_mb"])
    seconds = dict(run.result["seconds"])
    total = sum(seconds.values())
    seconds["a step of training, 8 scans"] = seconds.pop("train adaptors") / STEPS
    stages = {f"all with {STEPS} steps ({scans}; banks {shapes})": total, **seconds}
    return [
        Row(
            stage=f"published path, random weights: {stage}",
            ours_s=each,
            peers={},
            ratios={},
            ours_mb=peak if each == total else float("nan"),
            target="",
            device=device_name(),
        )
        for stage, each in stages.items()
    ]
