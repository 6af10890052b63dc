"""Time and memory of `lsfa predict` for one scan, stage by stage: `python -m benchmarks.predict`.

Writes predict.md, which docs/deployment.md refers to.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch

from benchmarks.harness import THREADS, device_name
from lsfa_lib.config import DEMO, OURS, RANDOM_WEIGHTS, Config, configure
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.incoming import find_incoming, read_incoming
from lsfa_lib.datasets.preprocess import prepare
from lsfa_lib.demo.synthetic import DemoCounts, DemoSettings, write_demo
from lsfa_lib.deployment.inspector import Inspector, load
from lsfa_lib.deployment.predicting import Scoring
from lsfa_lib.deployment.results import Results, opened
from lsfa_lib.detection.detector import predict
from lsfa_lib.features.cache import extract
from lsfa_lib.features.extract import modality_features
from lsfa_lib.methods.fitting import fit_detector
from lsfa_lib.storage.files import atomic_write, progress
from lsfa_lib.storage.results import Stopwatch, commit, now, peak_memory_mb, reset_peak_memory

SETTINGS = DemoSettings(
    categories=("seal",), counts=DemoCounts(train=4, validation=2, good=6, each_defect=0)
)
REPEATS = 2
START = {"bank.keep_ratio": 0.8, "only": "none", "threads": 1}
"""Eight times the share of patches from an eighth of the demo's scans: its number of bank rows."""
BFLOAT16 = {"image_encoder.precision": "bfloat16", "point_encoder.precision": "bfloat16"}
CONFIGS: dict[str, tuple[Config, dict[str, Any]]] = {
    "demo, image at 224 px": (DEMO, {"image_encoder.size": 0}),
    "demo, image at 672 px (default)": (DEMO, {}),
    "demo, 224 px, bfloat16": (DEMO, {"image_encoder.size": 0, **BFLOAT16}),
    "demo, 672 px, bfloat16": (DEMO, BFLOAT16),
    "ViT-B/8 and Point-MAE, 224 px": (OURS, {"image_encoder.size": 0, **RANDOM_WEIGHTS}),
}
RESULTS = Path(__file__).parent / "predict.md"
TEXT = f"""# Time and memory of a scan

Written by `python -m benchmarks.predict` on {{date}} at {{commit}}, nothing by hand; {{device}}.

Scans of the demo, {SETTINGS.size} x {SETTINGS.size} px, from their files to verdict and outputs.
Backbones at full size have random weights here, which cost what trained ones cost. Milliseconds
are the least of {REPEATS} repeats. The first verdict counts from the start of the command. Peak
memory is that of the process. In its last 15 minutes {{load:.1f}} processes on average wanted one
of the {{cores}} cores: beyond the cores, times are too long.

{{totals}}

Milliseconds of the stages with one thread. `outputs` are the map, the overlay and the cloud;
`view` is made only of scans that the report shows: all of the first ones, few of the later ones.

{{stages}}
"""


def main() -> None:
    """Measures every pair of backbones in a process of its own and writes the tables."""
    with tempfile.TemporaryDirectory() as name:
        write_demo(Path(name) / "data", SETTINGS)
        spawn = get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
            jobs = {title: pool.submit(measured, title, Path(name)) for title in CONFIGS}
            found = {title: job.result() for title, job in progress(jobs.items(), "backbones")}
    totals, stages = (pd.DataFrame({t: own[i] for t, own in found.items()}).T for i in (0, 1))
    text = TEXT.format(
        date=now()[:10],
        commit=commit(),
        device=device_name(),
        load=os.getloadavg()[2],
        cores=os.cpu_count(),
        totals=totals.to_markdown(floatfmt=".4g"),
        stages=stages.to_markdown(floatfmt=".0f"),
    )
    with atomic_write(RESULTS) as file:
        file.write_text(text, encoding="utf-8")


def measured(title: str, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """What a scan takes in total, and milliseconds of its stages."""
    preset, fields = CONFIGS[title]
    place = {"data.root": str(folder / "data"), "cache": str(folder / "cache"), "device": "cpu"}
    file = folder / f"{list(CONFIGS).index(title)}.lsfa"
    fit_detector("seal", configure(preset, {**START, **fields, **place}), 0).save_as(file)
    first = _first_verdict_s(file, folder)
    inspector = load(file, "cpu")
    test = folder / "data" / "seal" / "test" / "good"
    entries = find_incoming([test], inspector.origin.captured, 0).entries
    reset_peak_memory()
    alone, together = (_ms_per_scan(inspector, test, entries, n) for n in (1, THREADS))
    with patch.object(Results, "write_view"):
        unseen = _ms_per_scan(inspector, test, entries, THREADS)
    totals = {
        "first verdict, s": first,
        "ms per scan, one thread": alone,
        f"ms per scan, {THREADS} threads": together,
        f"{THREADS} threads, no view": unseen,
        "peak memory, MB": peak_memory_mb(),
        "bank rows": sum(len(bank.rows) for bank in inspector.detector.banks.values()),
    }
    return totals, _stages(inspector, entries[0])


def _first_verdict_s(file: Path, folder: Path) -> float:
    """From the start of the command to the record of its only scan."""
    out, scan = folder / f"{file.stem}-first", folder / "data/seal/test/good/rgb/000.png"
    code = "from lsfa_lib.cli.app import main; main()"
    words = ["predict", str(file), str(scan), "--out", str(out), "--device", "cpu"]
    began = time.time()
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    return (out / "records" / "000.json").stat().st_mtime - began


def _ms_per_scan(inspector: Inspector, test: Path, entries: list[Entry], threads: int) -> float:
    """Least time of a repeat per scan, with this number of scans at a time."""
    torch.set_num_threads(threads)
    seconds = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as name, opened(Path(name), inspector) as results:
            began = time.perf_counter()
            list(Scoring(results, [test]).scored(entries))
            seconds.append(time.perf_counter() - began)
    return 1000 * min(seconds) / len(entries)


def _stages(inspector: Inspector, entry: Entry) -> dict[str, float]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, opened(Path(name), inspector) as results:
        turns = [_turn(inspector, entry, results) for _ in range(REPEATS)]
    return {stage: 1000 * min(turn[stage] for turn in turns) for stage in turns[0]}


def _turn(inspector: Inspector, entry: Entry, results: Results) -> dict[str, float]:
    """Seconds of each stage, one after the other."""
    clock, config = Stopwatch(), inspector.config
    with clock("read"):
        scan = read_incoming(entry, None)
    with clock("part"):
        sample = prepare(scan, config.preprocess, config.colour_size)
    for m in inspector.encoders.by_modality:
        with clock(f"features {m}"):
            modality_features(m, sample, inspector.encoders, config)
    features = extract(sample, inspector.encoders, config)
    with clock("detect"):
        predict(inspector.detector, features)
    with clock("verdict in all"):
        found = inspector.inspect(scan)
    with clock("outputs"):
        results.write_outputs(entry.name, found, scan)
    with clock("view"):
        results.write_view(found, shown=True)
    return clock.seconds


if __name__ == "__main__":
    main()
