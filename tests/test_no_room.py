"""`lsfa predict` and `lsfa fit` where files may not grow: one sentence, and no half file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import lsfa_lib
from lsfa_lib.config import Config
from lsfa_lib.pipeline import Run

resource = pytest.importorskip("resource", reason="limits of processes are Unix's")
MOST_BYTES = 25_000
"""Of a file; tables are smaller, outputs of a scan and detectors are larger."""


def limited(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, whose files cannot grow beyond MOST_BYTES."""
    code = "from lsfa_lib.cli.app import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words), "--device", "cpu"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(lsfa_lib.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES)),
    )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_predict(seal_run: Run, demo_root: Path, tmp_path: Path) -> None:
    seal_run.save_detector(tmp_path)
    (detector,) = tmp_path.glob("detector-*.safetensors")
    scans, out = demo_root / "seal" / "test" / "hole", tmp_path / "out"
    done = limited(tmp_path, "predict", detector, scans, "--out", out)
    assert done.returncode == 2, done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("lsfa: ")]
    assert sentence == (
        f"lsfa: {out / 'maps' / '000.tiff'}: exceeds what may be written here (File too large); "
        "raise the quota or the limit, or choose another folder"
    )
    # No record: the scan is scored again by the next call.
    tables = {"scores.csv", "scores.parquet", "regions.json"}
    assert files(out) == {".lock", "detector.json", *tables}
    assert len(pd.read_csv(out / "scores.csv")) == len(pd.read_parquet(out / "scores.parquet")) == 0


def test_fit_with_an_empty_cache(demo_root: Path, tmp_path: Path) -> None:
    config = tmp_path / "quick.yaml"
    config.write_text("preset: tiny\n")
    words = ("fit", "seal", "--data", demo_root, "--config", config, "--out", tmp_path / "a.lsfa")
    done = limited(tmp_path, *words)
    assert done.returncode == 2, done.stderr
    sentence = r"lsfa: data/cache/\S+\.safetensors: exceeds what may be written here"
    assert re.search(sentence, done.stderr) and "Traceback" not in done.stderr
    assert {Path(name).name for name in files(tmp_path)} == {"quick.yaml", "about.json"}


def test_fit(seal_run: Run, cached: Config, tmp_path: Path) -> None:
    config = tmp_path / "quick.yaml"
    config.write_text(f"preset: tiny\ncache: {cached.cache}\n")
    out, data = tmp_path / "out" / "seal.lsfa", cached.data.root
    words = ("fit", "seal", "--data", data, "--config", config, "--only", "none", "--out", out)
    done = limited(tmp_path, *words)
    assert done.returncode == 2, done.stderr
    assert f"lsfa: {out}: exceeds what may be written here (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert files(tmp_path) == {"quick.yaml"}
