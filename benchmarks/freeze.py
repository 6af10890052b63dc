"""Freezes the numbers a change must not move: `python -m benchmarks.freeze write|compare FILE`.

`write` runs the demo's four categories, every method at preset tiny and the components study at
preset tiny, all on `data/demo`, and stores every metric. `compare` runs them again and prints each
number that differs; it exits with 1 where one does.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from lsfa_lib.config import configure
from lsfa_lib.methods import METHODS
from lsfa_lib.pipeline import run_category
from lsfa_lib.storage.files import InputError

CATEGORY = "seal"
"""Of the runs at preset tiny."""
COMPONENTS = {
    "baseline": {"only": "none"},
    "control": {"training.steps": 0},
    "heads": {"only": "CLC", "adaptor.structure": "none"},
    "both": {},
    "CLC": {"only": "CLC"},
    "IFC": {"only": "IFC"},
}
LOSSES = {
    "ours": {},
    "published": {"training.alignment": "literal", "training.compactness": "sum"},
}
Numbers = dict[str, Any]


def numbers_of(modes: dict[str, Any]) -> Numbers:
    """Every number of `modes` in result.json; curves as their hash."""
    found: Numbers = {}
    for mode, values in modes.items():
        for name, value in values.items():
            if name == "curves":
                value = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
            found[f"{mode}.{name}"] = value
    return found


def run_numbers(preset: str, category: str, fields: dict[str, Any], seed: int = 0) -> Numbers:
    """Numbers of one run, or the sentence it stopped with."""
    try:
        run = run_category(category, configure(preset, fields), seed)
    except InputError as error:
        return {"error": str(error)}
    return numbers_of(run.result["modes"])


def measured() -> Iterator[tuple[str, Numbers]]:
    """Everything that is frozen, one entry at a time."""
    for folder in sorted(Path("data/demo").glob("*/")):
        yield f"demo/{folder.name}", run_numbers("demo", folder.name, {})
    for name, method in sorted(METHODS.items()):
        if not method.missing:
            fields = {"cache": "", "method": name}
            yield f"method/{name}", run_numbers("tiny", CATEGORY, fields)
    for (losses, own), (variant, cell) in product(LOSSES.items(), COMPONENTS.items()):
        for seed, coreset in product(range(2), range(2)):
            fields = {"cache": "", **own, **cell, "bank.seed": coreset}
            name = f"components/{variant}/{losses}/t{seed}/c{coreset}"
            yield name, run_numbers("tiny", CATEGORY, fields, seed)


def main() -> None:
    """The command."""
    action, path = sys.argv[1], Path(sys.argv[2])
    old = json.loads(path.read_text("utf-8")) if action == "compare" else {}
    found: dict[str, Numbers] = {}
    differing = 0
    for name, numbers in measured():
        found[name] = json.loads(json.dumps(numbers))
        print(name, flush=True)
        for key, value in old.get(name, {}).items():
            if repr(value) != repr(found[name].get(key)):
                differing += 1
                print(f"  {key}: {value} -> {found[name].get(key)}", flush=True)
    if action == "write":
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"{differing} numbers differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
