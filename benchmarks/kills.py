"""SIGKILL at random moments of each command: `python -m benchmarks.kills 50 [COMMAND...]`.

Writes docs/reliability.md, where commands that are not named keep their rows. A command is
started, killed with its workers and started again in the same folder until it ends by itself. Its
results must then equal those of an uninterrupted one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import tifffile
from PIL import Image

from benchmarks.harness import other_rows
from lsfa_lib.demo.synthetic import STANDARD, DemoCounts, write_demo
from lsfa_lib.storage.files import CHECKOUT, atomic_write
from lsfa_lib.storage.results import commit, now

PRODUCT = "seal"
TEMPLATE = Path(__file__).parent / "reliability.md"
DOCUMENT = CHECKOUT / "docs" / "reliability.md"
STUDY = """title: Two cells
run: 00_quickstart
page: 04_components
preset: tiny
seeds: [0, 1]
parameters: {scans: 1}
cells: {none: {only: none}, IFC: {only: IFC}}
"""
READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text("utf-8")),
    ".safetensors": lambda path: safetensors.safe_open(path, framework="np").keys(),
    ".parquet": pd.read_parquet,
    ".csv": pd.read_csv,
    ".tiff": tifffile.imread,
    ".png": lambda path: Image.open(path).load(),
}
"""A file of these types is read; one that cannot be was left by half."""


@dataclass(frozen=True)
class Case:
    """A command and what it leaves in the folder it runs in."""

    title: str
    command: list[str]
    record: str
    """Pattern of the files that mark finished work; "" for a command that always starts anew."""
    content: Callable[[Path], Any]
    """What is compared with an uninterrupted command's."""


@dataclass
class Tally:
    """What the kills did to one command."""

    uninterrupted_s: float = 0.0
    kills: int = 0
    completed: int = 0
    """Times that it ended by itself."""
    inside: int = 0
    """Kills that left a temporary file, so in the middle of writing one."""
    lost: int = 0
    repeated: int = 0
    broken: list[str] = field(default_factory=list)
    different: int = 0


def main(kills: int, names: list[str]) -> None:
    """Kills each named command, or each of all, `kills` times; its row is written at once."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        counts = DemoCounts(train=8, validation=2, good=4, each_defect=1)
        write_demo(data, replace(STANDARD, categories=(PRODUCT,), counts=counts))
        before = _state(data)
        cases = [case for case in _cases(data) if not names or case.title in names]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for row in as_completed([pool.submit(_row, case, folder, kills) for case in cases]):
                _record(row.result())
        assert _state(data) == before, "the inputs were modified"


def _record(row: dict[str, Any]) -> None:
    """Writes the row of one command into the document; the other rows stay."""
    others = other_rows(DOCUMENT.read_text("utf-8").partition("\n## Other")[0], {row["command"]})
    table = "\n".join([pd.DataFrame([row]).to_markdown(index=False), *others])
    text = TEMPLATE.read_text("utf-8").format(date=now()[:10], commit=commit(), table=table)
    with atomic_write(DOCUMENT) as file:
        file.write_text(text, encoding="utf-8")
    print(table)


def _cases(data: Path) -> list[Case]:
    tiny = ["--data", str(data)]
    study = data.parent / "two.yaml"
    study.write_text(STUDY, encoding="utf-8")
    source = data / PRODUCT / "train" / "good"
    detector = data.parent / "part.lsfa"
    fit = ["fit", PRODUCT, "--preset", "tiny", *tiny]
    subprocess.run([*_lsfa(), *fit, "--out", str(detector)], check=True, cwd=data.parent)
    incoming = str(data / PRODUCT / "test" / "good")
    return [
        Case("run", ["run", PRODUCT, "--preset", "tiny", *tiny], "", _numbers),
        Case("sweep", ["sweep", str(study), *tiny, "--workers", "2"], "**/run.json", _numbers),
        Case("data import", ["data", "import", str(source), "part"], "**/xyz/*.tiff", _state),
        Case("fit", [*fit, "--out", "again.lsfa"], "*.lsfa", _tensors),
        Case("predict", ["predict", str(detector), incoming], "**/records/*.json", _scores),
    ]


def _lsfa() -> list[str]:
    return [sys.executable, "-c", "from lsfa_lib.cli.app import main; main()"]


def _killed(case: Case, folder: Path, kills: int) -> Tally:
    """The tally of as many kills, after one uninterrupted run."""
    tally, draw = Tally(), random.Random(case.title)
    began = time.monotonic()
    reference = case.content(_finished(case, _empty(folder)))
    tally.uninterrupted_s = time.monotonic() - began
    records: dict[Path, int] = {}
    _empty(folder)
    while tally.kills < kills:
        fresh = not records and not any((folder / "data" / "cache").iterdir())
        began = time.monotonic()
        process = _started(case, folder)
        try:
            process.wait(draw.uniform(0, tally.uninterrupted_s))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            tally.kills += 1
            print(f"{case.title}: {tally.kills} of {kills} kills", file=sys.stderr)
        note(tally, case, folder, records)
        if process.returncode == 0 and fresh:  # the load of the machine changes
            tally.uninterrupted_s = time.monotonic() - began
        if process.returncode == 0 or tally.kills == kills:
            tally.completed += 1
            found = case.content(_finished(case, folder))
            tally.different += found != reference
            note(tally, case, folder, records)
            records.clear()
            _empty(folder)
    return tally


def note(tally: Tally, case: Case, folder: Path, records: dict[Path, int]) -> None:
    """Counts what is broken, and what of the earlier finished work is gone or was done again."""
    tally.inside += any(folder.rglob(".partial-*"))
    tally.broken += broken(folder)
    marks = folder.glob(case.record) if case.record else ()
    here = {path: path.stat().st_mtime_ns for path in marks}
    tally.lost += len(records.keys() - here.keys())
    tally.repeated += sum(here[path] != records[path] for path in records.keys() & here.keys())
    records.update(here)


def _started(case: Case, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*_lsfa(), *case.command],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that its workers are killed with it
    )


def _finished(case: Case, folder: Path) -> Path:
    process = _started(case, folder)
    assert process.wait() == 0, f"lsfa {' '.join(case.command)} failed in {folder}"
    return folder


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data" / "cache").mkdir(parents=True)
    return folder


def broken(folder: Path) -> list[str]:
    """Files under their final name that cannot be read."""
    found = []
    for path in folder.rglob("[!.]*"):
        try:
            if path.is_file() and path.suffix in READERS:
                READERS[path.suffix](path)
        except Exception as error:
            found.append(f"{path.relative_to(folder)}: {error}")
    return found


def _state(folder: Path) -> dict[str, bytes]:
    """Content of every scan below the folder."""
    suffixes = (".tiff", ".png")
    files = [path for path in sorted(folder.rglob("[!.]*")) if path.suffix in suffixes]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _numbers(folder: Path) -> list[Any]:
    """Metrics and scores of every run."""
    results = [json.loads(path.read_text("utf-8")) for path in folder.rglob("result.json")]
    found = [(each["seed"], each["modes"], each["scans"]) for each in results]
    return sorted(json.dumps(each) for each in found)


def _tensors(folder: Path) -> dict[str, bytes]:
    """The numbers of a detector; its description holds the date."""
    with safetensors.safe_open(folder / "again.lsfa", framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in sorted(file.keys())}


def _scores(folder: Path) -> list[Any]:
    """Name, verdict and score of every scan."""
    (table,) = folder.rglob("scores.csv")
    return pd.read_csv(table)[["scan", "verdict", "score"]].to_numpy().tolist()


def _row(case: Case, place: str, kills: int) -> dict[str, Any]:
    """Kills a command in a folder of its own; its line of the table."""
    tally = _killed(case, Path(place) / case.title, kills)
    assert not tally.broken, tally.broken
    return {
        "command": f"`lsfa {case.title}`",
        "seconds uninterrupted": round(tally.uninterrupted_s, 1),
        "killed": tally.kills,
        "while writing a file": tally.inside,
        "then completed": tally.completed,
        "finished work lost": tally.lost if case.record else "–",
        "done again": tally.repeated if case.record else "–",
        "unreadable files": len(tally.broken),
        "other results": tally.different,
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
