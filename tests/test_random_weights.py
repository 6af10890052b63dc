"""Untrained backbones are asked for by name, and no page hides them."""

from pathlib import Path

from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.storage.results import read_result


def test_a_run_with_random_weights_says_so(demo_root: Path, tmp_path: Path) -> None:
    command = ["run", "seal", "--preset", "tiny", "--data", str(demo_root), "--device", "cpu"]
    command += ["--random-weights", "--only", "none", "--reports", str(tmp_path)]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    folder = tmp_path / "runs" / "quickstart" / "seal-tiny-none-random-s0"
    weights = read_result(folder / "result.json")["weights"]
    assert (weights["rgb"]["random"], weights["3d"]["random"]) == (True, True)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<strong>Random weights.</strong> 3D and RGB ran without" in " ".join(page.split())
    assert "Random weights" in (tmp_path / "index.html").read_text(encoding="utf-8")
