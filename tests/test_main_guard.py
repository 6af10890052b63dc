"""A script that starts runs needs a guard, and is told so."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
from pathlib import Path
from lsfa_lib.studies import prefork
from lsfa_lib.studies.study import Study
from lsfa_lib.studies.sweep import run_sweep

prefork.IMPORTED.clear()  # No worker gets far enough to need a library.
fields = {{"data.root": {root!r}, "method": "depth_vm"}}
study = Study(preset="tiny", cells={{"a": fields}}, categories=["seal"], seeds=[0])
run_sweep([study], Path("out"))
"""


def test_a_script_without_a_main_guard_ends_with_the_sentence(
    demo_root: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(demo_root)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    # asyncio may report the worker's own failure after it.
    said = [s for s in done.stderr.splitlines() if "InputError: worker processes cannot" in s]
    assert len(said) == 1, done.stderr[-3000:]
    assert said[0].endswith('put the code that starts runs under `if __name__ == "__main__":`')
