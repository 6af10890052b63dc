"""`lsfa predict --watch`: scans as they arrive, each once, whatever kills the process."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import lsfa_lib
from lsfa_lib.deployment.inspector import load
from lsfa_lib.deployment.predicting import Scoring
from lsfa_lib.deployment.results import opened
from lsfa_lib.pipeline import Run
from lsfa_lib.storage.files import InputError

SETTLE_S = 0.2


@pytest.fixture(scope="module")
def file(seal_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    seal_run.save_detector(folder)
    return next(folder.glob("detector-*.safetensors"))


def put(demo_root: Path, folder: Path, kind: str, stem: str = "000") -> None:
    """Copies a test scan into the folder, named after its kind."""
    for role, ending in (("rgb", "png"), ("xyz", "tiff")):
        source = demo_root / "seal" / "test" / kind / role / f"{stem}.{ending}"
        (folder / role).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / role / f"{kind}-{stem}.{ending}")


def watching(file: Path, folder: Path, out: Path, idle: float) -> subprocess.Popen[bytes]:
    code = "from lsfa_lib.cli.app import main; main()"
    words = ["predict", file, folder, "--out", out, "--watch", "--settle", SETTLE_S]
    words += ["--idle", idle, "--device", "cpu"]
    path = {"PYTHONPATH": str(Path(lsfa_lib.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env=os.environ | path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def whole(out: Path) -> dict[str, int]:
    """Modification time of each record; every file of results is complete."""
    assert not list(out.rglob(".partial-*"))
    times = {}
    for path in sorted((out / "records").rglob("*.json")):
        name = json.loads(path.read_text())["scan"]
        times[name] = path.stat().st_mtime_ns
        for output in (f"maps/{name}.tiff", f"overlays/{name}.png", f"clouds/{name}.ply"):
            assert (out / output).stat().st_size > 1000
    return times


def test_a_killed_watch_loses_and_repeats_nothing(
    file: Path, demo_root: Path, tmp_path: Path
) -> None:
    folder, out, draw = tmp_path / "in", tmp_path / "out", random.Random(0)
    done: dict[str, int] = {}
    kinds = ("good", "hole", "cut")
    for kind in kinds:
        put(demo_root, folder, kind)
        process = watching(file, folder, out, idle=60)
        time.sleep(draw.uniform(3, 7))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if (out / "records").exists():
            times = {p.stem: p.stat().st_mtime_ns for p in (out / "records").glob("[!.]*.json")}
            assert done.items() <= times.items()
            done = times
    assert watching(file, folder, out, idle=2).wait() == 0
    times = whole(out)
    assert done.items() <= times.items()
    table = pd.read_csv(out / "scores.csv")
    assert table["scan"].tolist() == sorted(f"{kind}-000" for kind in kinds) == sorted(times)
    assert table["score"].notna().all()


def test_files_that_are_being_written_are_awaited(
    file: Path, demo_root: Path, tmp_path: Path, seal_run: Run
) -> None:
    inspector, folder, out = load(file, "cpu"), tmp_path / "in", tmp_path / "out"
    put(demo_root, folder, "hole")
    points = folder / "xyz" / "hole-000.tiff"
    content, rounds = points.read_bytes(), iter(range(1000))
    points.write_bytes(b"")

    def growing(idle: float) -> bool:
        """Appends a piece of the file at each round; ends 1.5 s after the last."""
        size = points.stat().st_size
        if size < len(content):
            with points.open("ab") as end:
                end.write(content[size : size + len(content) // 4 + 1])
            assert not list((out / "records").glob("*.json"))
        return idle > 4 or next(rounds) > 500

    with opened(out, inspector) as results:
        rows = Scoring(results, [folder]).watch(0.6, growing)
    assert [row["scan"] for row in rows] == ["hole-000"]
    (expected,) = (s for s in seal_run.result["scans"] if s["kind"] == "hole")
    assert rows[0]["scores"] == pytest.approx(expected["scores"], rel=1e-5)


def test_a_scan_that_changed_is_another_scan(file: Path, demo_root: Path, tmp_path: Path) -> None:
    inspector, folder = load(file, "cpu"), tmp_path / "in"
    put(demo_root, folder, "hole")
    points = folder / "xyz" / "hole-000.tiff"
    complete = points.read_bytes()
    points.write_bytes(complete[:1000])
    with opened(tmp_path / "out", inspector) as results:
        (row,) = Scoring(results, [folder]).batch()
        assert row["verdict"] == "not scored" and "cannot be decoded" in row["note"]
        points.write_bytes(complete)
        (row,) = Scoring(results, [folder]).batch()
        assert row["score"] is not None
        busy = pytest.raises(InputError, match="another `lsfa predict` writes here")
        with busy, opened(tmp_path / "out", inspector):
            pass


def test_a_missing_partner_is_said(file: Path, demo_root: Path, tmp_path: Path) -> None:
    put(demo_root, tmp_path / "in", "hole")
    (tmp_path / "in" / "xyz" / "hole-000.tiff").unlink()
    with opened(tmp_path / "out", load(file, "cpu")) as results:
        (row,) = Scoring(results, [tmp_path / "in"]).batch()
    assert row["verdict"] == "not scored" and "hole-000.tiff is missing" in row["note"]
