"""Freezes the numbers a change must not move: `python -m benchmarks.freeze write|compare FILE`.

`write` runs the demo's four categories, every method at preset tiny and the components study at
preset tiny, on `data/demo` with one thread, and stores every metric. `compare` runs them again and
prints each number that differs; it exits with 1 where one does.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lsfa_lib.config import PRESETS, Config
from lsfa_lib.methods.method import all_methods
from lsfa_lib.pipeline import run_category
from lsfa_lib.storage.files import InputError
from lsfa_lib.studies.components import Study, run_units

CATEGORY = "seal"
"""Of the runs at preset tiny."""
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


def run_numbers(category: str, config: Config, seed: int = 0) -> Numbers:
    """Numbers of one run, or the sentence it stopped with."""
    try:
        return numbers_of(run_category(category, config, seed).result["modes"])
    except InputError as error:
        return {"error": str(error)}


def measured() -> Iterator[tuple[str, Numbers]]:
    """Everything that is frozen, one entry at a time."""
    for category in (*sorted(p.name for p in Path("data/demo").iterdir() if p.is_dir()),):
        yield f"demo/{category}", run_numbers(category, PRESETS["demo"])
    tiny = replace(PRESETS["tiny"], cache="")
    for name, method in sorted(all_methods().items()):
        if not method.missing:
            try:
                yield f"method/{name}", run_numbers(CATEGORY, replace(tiny, method=name))
            except Exception as error:
                yield f"method/{name}", {"error": f"{type(error).__name__}: {error}"}
    yield from components(tiny)


def components(tiny: Config) -> Iterator[tuple[str, Numbers]]:
    import shutil

    folder = Path("/tmp/w/components")
    shutil.rmtree(folder, ignore_errors=True)
    run_units(Study(tiny, (CATEGORY,), 2, 2), CATEGORY, folder)
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text())
        for cell in content["cells"]:
            u = content["unit"]
            name = f"components/{u['variant']}/{u['losses']}/t{u['training_seed']}/c{cell['coreset_seed']}"
            yield (
                f"{name}/{cell['mode']}",
                {k: cell[k] for k in ("i_auroc", "aupro_30", "p_auroc", "scores", "stopped")},
            )


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    action, path = sys.argv[1], Path(sys.argv[2])
    old = json.loads(path.read_text()) if action == "compare" else {}
    found: dict[str, Numbers] = {}
    differing = 0
    for name, numbers in measured():
        found[name] = json.loads(json.dumps(numbers))
        if action == "compare":
            for key, value in old.get(name, {}).items():
                if repr(value) != repr(found[name].get(key)):
                    differing += 1
                    print(f"{name} {key}: {value} -> {found[name].get(key)}", flush=True)
        print(name, flush=True)
        if action == "write":
            path.write_text(json.dumps(found, indent=1))
    print(f"{differing} numbers differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
