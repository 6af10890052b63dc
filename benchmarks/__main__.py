"""Runs every benchmark of this folder and writes results.md: `python -m benchmarks [NAME...]`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.harness import Row, device_name, markdown, other_rows
from lsfa_lib.storage.files import atomic_write
from lsfa_lib.storage.results import commit, now

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.md"
INTRODUCTION = """# Speed and memory

Written by `make bench`, nothing by hand. Ours and the other way ran in one process on the same
input, taking turns, with pinned threads; a ratio above 1 means that ours is faster.

"""


def main() -> None:
    """Measures the named benchmarks, or all; a table per device is kept beside the others'.

    Stages that were not measured now keep their lines.
    """
    names = sys.argv[1:] or sorted(p.stem.removeprefix("bench_") for p in FOLDER.glob("bench_*.py"))
    rows: list[Row] = []
    for name in names:
        found = importlib.import_module(f"benchmarks.bench_{name}").rows()
        print(markdown(found), flush=True)
        rows += found
    title = f"## {device_name()}"
    others = [part for part in _sections() if part.splitlines()[0] != title]
    lines = markdown(rows).splitlines()
    if sys.argv[1:]:
        own = "\n".join(part for part in _sections() if part.splitlines()[0] == title)
        lines = lines[:2] + other_rows(own, {row.stage for row in rows}) + lines[2:]
    last = f"Measured last on {now()[:10]} at {commit()}"
    section = f"{title}\n\n{last}: {', '.join(names)}.\n\n" + "\n".join(lines) + "\n"
    with atomic_write(RESULTS) as file:
        file.write_text(INTRODUCTION + "\n".join([*others, section]), encoding="utf-8")
    print(f"written: {RESULTS}")


def _sections() -> list[str]:
    """The tables that stand in results.md, one a device."""
    if not RESULTS.exists():
        return []
    parts = RESULTS.read_text(encoding="utf-8").split("\n## ")[1:]
    return [f"## {part.rstrip()}\n" for part in parts]


if __name__ == "__main__":
    main()
