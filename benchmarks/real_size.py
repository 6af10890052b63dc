"""A category at its real size, from scans to metrics: `python -m benchmarks.real_size FOLDER`.

Writes real_size.md. Scans, caches and the measured cases are kept in the folder, so that a second
start measures what is missing. With titles of cases after the folder only these are measured; the
rows of the others stay as they are.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.harness import THREADS, device_name
from lsfa_lib.config import DEMO, OURS, RANDOM_WEIGHTS, Config, configure
from lsfa_lib.demo.synthetic import REALISTIC, DemoCounts, DemoSettings, write_demo
from lsfa_lib.pipeline import run_category
from lsfa_lib.storage.files import atomic_write, progress
from lsfa_lib.storage.results import commit, now, write_json

CATEGORY = "biscuit"
"""Fills most of the frame: 44 %."""
COUNTS = DemoCounts(train=244, validation=22, good=26, each_defect=14)
"""As many scans as MVTec 3D-AD's bagel has."""
SETTINGS = DemoSettings((CATEGORY,), COUNTS, size=800, difficulty=REALISTIC)
SCANS = 376
ROWS = 20_000
FULL = "ViT-B/8 and Point-MAE, 224 px, 16 scans"


def _at(size: int, **more: Any) -> dict[str, Any]:
    """Fields of points and maps at this size; the image is never smaller than the demo's."""
    own = {"preprocess.image_size": size, "bank.max_rows": ROWS, "threads": THREADS}
    return own | {name.replace("__", "."): value for name, value in more.items()}


CASES: dict[str, tuple[Config, dict[str, Any]]] = {
    "224 px": (DEMO, _at(224)),
    "224 px, every row": (DEMO, _at(224, bank__max_rows=0)),
    "448 px": (DEMO, _at(448)),
    "448 px, 61 scans": (DEMO, _at(448, shots=61)),
    "448 px, 122 scans": (DEMO, _at(448, shots=122)),
    "672 px": (DEMO, _at(672)),
    FULL: (OURS, _at(224, shots=16, **RANDOM_WEIGHTS)),
}
STAGES = {
    "features": ("features of train and validation",),
    "bank": ("fit", "fit banks"),
    "test": ("predict test",),
    "metrics": ("metrics",),
}
RESULTS = Path(__file__).parent / "real_size.md"
TEXT = """# A category at real size

Written by `python -m benchmarks.real_size FOLDER` on {date}, nothing by hand; {device}. Each case
is measured once, at the commit in its row.{unrecorded}

One product of the demo in {size} x {size} px: {train} training, {validation} validation and {test}
test scans. The sizes are those of the points and of the maps, the image encoder receives 672 px; a
bank keeps a tenth of the patches, at most {rows:,} rows except where "every row" is said. The case
with the full backbones has random weights, which cost what trained ones cost, and fewer training
scans. The cache is empty at first; the cases of fewer scans read what the one before them left in
it.

{table}

Wanted at 448 px: at most 25 min, 6 GB of memory and 8 GB of cache.

Growth as a power: {growth}.
{extrapolated}"""
UNRECORDED = """ Cases without one were measured before it was recorded, and some of them
while tests ran at low priority, which can only have slowed them down."""


def main(folder: Path, *titles: str) -> None:
    """Measures each missing case in a process of its own and writes the table of all."""
    if unknown := set(titles) - set(CASES):
        raise SystemExit(f"no case {', '.join(unknown)}; choose among: {', '.join(CASES)}")
    write_demo(folder / "data", SETTINGS)
    (folder / "cases").mkdir(exist_ok=True)
    for title in progress(titles or list(CASES), "cases"):
        if not _file(folder, title).exists():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                write_json(_file(folder, title), pool.submit(measured, title, folder).result())
        _write(folder)


def measured(title: str, folder: Path) -> dict[str, float | str]:
    """Seconds of the stages, memory, disk and accuracy of a case, and the commit measured."""
    preset, fields = CASES[title]
    cache = folder / f"cache-{fields['preprocess.image_size']}-{preset.preset}"
    if "shots" not in fields or preset is OURS:
        shutil.rmtree(cache, ignore_errors=True)
    place = {"data.root": str(folder / "data"), "cache": str(cache), "device": "cpu"}
    began = time.perf_counter()
    run = run_category(CATEGORY, configure(preset, {**fields, **place}), 0)
    wall = time.perf_counter() - began
    result = run.result
    both = result["modes"]["rgb+3d"]
    return {
        "training scans": result["counts"]["train"],
        "wall, min": wall / 60,
        **{f"{n}, s": sum(result["seconds"][s] for s in own) for n, own in STAGES.items()},
        "test, ms/scan": 1000 * result["seconds"]["predict test"] / len(result["scans"]),
        "peak memory, GB": result["peak_memory_mb"] / 1000,
        "cache, GB": sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e9,
        "bank rows": max(rows for rows, _ in result["banks"].values()),
        "I-AUROC": both["i_auroc"],
        "AUPRO30": both["aupro_30"],
        "commit": commit(),
    }


def _file(folder: Path, title: str) -> Path:
    return folder / "cases" / f"{title}.json"


def _write(folder: Path) -> None:
    files = {title: _file(folder, title) for title in CASES}
    found = _measured_before()
    for title, file in files.items():
        if file.exists():
            found[title] = {"commit": "–", **json.loads(file.read_text())}
    cases = {title: found[title] for title in CASES if title in found}
    table = pd.DataFrame(cases).T.astype({"training scans": int, "bank rows": int})
    text = TEXT.format(
        date=now()[:10],
        unrecorded=UNRECORDED if "–" in set(table["commit"]) else "",
        device=device_name(),
        size=SETTINGS.size,
        train=COUNTS.train,
        validation=COUNTS.validation,
        test=SCANS - COUNTS.train - COUNTS.validation,
        rows=ROWS,
        table=table.to_markdown(floatfmt=".4g", intfmt=","),
        growth="; ".join(_growth(cases)),
        extrapolated=_extrapolated(cases[FULL]) if FULL in cases else "",
    )
    with atomic_write(RESULTS) as file:
        file.write_text(text, encoding="utf-8")


def _measured_before() -> dict[str, dict[str, Any]]:
    """The rows of the table that stands in real_size.md, by case."""
    lines = [line for line in RESULTS.read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = pd.DataFrame(cells[2:], columns=cells[0]).set_index("").replace(",", "", regex=True)
    return table.astype({name: float for name in table if name != "commit"}).to_dict("index")


def _growth(cases: dict[str, dict[str, float]]) -> list[str]:
    """Exponents of the bank in scans, and of features, bank and test in pixels."""
    found = []
    pairs: list[tuple[str, str, float, str, tuple[str, ...]]]
    pairs = [("448 px, 61 scans", "448 px", 4.0, "scans", ("bank, s",))]
    pairs += [
        (a, b, ratio, "pixels", ("features, s", "bank, s", "test, s", "peak memory, GB"))
        for a, b, ratio in (("224 px", "448 px", 4.0), ("448 px", "672 px", 2.25))
    ]
    for a, b, ratio, what, names in pairs:
        if {a, b} <= cases.keys():
            powers = {n: math.log(cases[b][n] / cases[a][n]) / math.log(ratio) for n in names}
            each = ", ".join(f"{n.split(',')[0]} {power:.2f}" for n, power in powers.items())
            found.append(f"in {what} from {a} to {b}: {each}")
    return found


def _extrapolated(case: dict[str, float]) -> str:
    """What the full backbones would take with all training scans."""
    of_scan = case["features, s"] / (case["training scans"] + COUNTS.validation)
    minutes = of_scan * (COUNTS.train + COUNTS.validation) / 60
    return (
        f"\nExtrapolated from {case['training scans']:.0f} to {COUNTS.train} training scans, the "
        f"features of the full backbones would take {minutes:.0f} min.\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
