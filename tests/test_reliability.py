"""What docs/reliability.md promises beyond the tests of each part."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from benchmarks import kills
from lsfa_lib.cli.app import app
from lsfa_lib.config import Config
from lsfa_lib.datasets.layouts import read_split

ROOT = Path(__file__).parents[1]


def test_every_test_that_the_page_names_exists() -> None:
    page = kills.TEMPLATE.read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    sources = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert len(named) >= 18
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_nothing_but_records_reads_the_clock() -> None:
    reads = re.compile(r"time\.time\(|datetime\.now\(|date\.today\(")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "lsfa_lib").rglob("*.py")
        if reads.search(path.read_text("utf-8"))
    }
    # The cache asks how old files are that a killed process left.
    assert found == {"lsfa_lib/storage/results.py", "lsfa_lib/features/cache.py"}


def test_two_imports_at_once_leave_every_scan_whole(demo_root: Path, tmp_path: Path) -> None:
    source = demo_root / "seal" / "train" / "good"
    command = [sys.executable, "-c", "from lsfa_lib.cli.app import main; main()"]
    command += ["data", "import", str(source), "seal", "--root", str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert not list(tmp_path.rglob(".partial-*"))
    theirs, ours = (read_split(root, "seal", "train") for root in (demo_root, tmp_path))
    assert len(ours) == len(theirs) > 0
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.xyz, b.xyz)


def test_a_fit_killed_while_it_selects_the_bank_leaves_nothing_and_is_repeated(
    demo_root: Path, cached: Config, tmp_path: Path
) -> None:
    script = (
        "import os, signal\n"
        "from lsfa_lib.cli.app import main\n"
        "from lsfa_lib.detection import coreset\n"
        "coreset._next_block = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main()\n"
    )
    config, out = tmp_path / "quick.yaml", tmp_path / "seal.lsfa"
    config.write_text(f"preset: tiny\ncache: {tmp_path / 'cache'}\n")
    words = ["fit", "seal", "--data", str(demo_root), "--config", str(config), "--only", "none"]
    killed = [sys.executable, "-c", script, *words, "--device", "cpu", "--out", str(out)]
    assert subprocess.run(killed, check=False).returncode == -signal.SIGKILL
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(name.startswith(".partial-") for name in left) and out.name not in left
    assert sum(name.endswith(".safetensors") for name in left) == 18  # 9 scans, 2 encoders
    # What was extracted before is used, and gives the same detector.
    result = CliRunner().invoke(app, [*words, "--device", "cpu", "--out", str(out)])
    assert result.exit_code == 0, result.output
    config.write_text(f"preset: tiny\ncache: {cached.cache}\n")
    other = tmp_path / "other.lsfa"
    result = CliRunner().invoke(app, [*words, "--device", "cpu", "--out", str(other)])
    assert result.exit_code == 0, result.output
    first, second = (load_file(path) for path in (out, other))
    assert first.keys() == second.keys() and len(first) > 0
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_file_cut_short_is_found(tmp_path: Path) -> None:
    for suffix in kills.READERS:
        (tmp_path / f"file{suffix}").write_bytes(b"\x00\x01{")
    (tmp_path / ".partial-1.json").write_text("{")
    (tmp_path / "whole.json").write_text("{}")
    found = {text.split(":")[0] for text in kills.broken(tmp_path)}
    assert found == {f"file{suffix}" for suffix in kills.READERS} - {"file.csv"}


@pytest.mark.parametrize("state", ["lost", "again", "kept"])
def test_lost_and_repeated_work_is_counted(tmp_path: Path, state: str) -> None:
    case = kills.Case("run", [], "*.json", len)
    tally = kills.Tally()
    record = tmp_path / "run.json"
    record.write_text("{}")
    records: dict[Path, int] = {}
    kills.note(tally, case, tmp_path, records)
    if state == "lost":
        record.unlink()
    elif state == "again":
        os.utime(record, ns=(0, 0))
    kills.note(tally, case, tmp_path, records)
    assert (tally.lost, tally.repeated) == (state == "lost", state == "again")
