"""The block for Slurm in docs/scaling.md, with `sbatch` standing in for a cluster's."""

import itertools
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from study_case import write_study

from lsfa_lib.studies.study import Choices, read_studies
from lsfa_lib.studies.study_runs import runs_of

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
SBATCH = """#!/bin/sh
echo $$ >> jobs
cp "$1" script-$$.sh
PATH="$OWN_PATH" setsid sh script-$$.sh > log-$$ 2>&1 &
echo $! > pid-$$
echo "Submitted batch job $$"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do echo "$job" >> cancelled; kill -- "-$(cat pid-$job)"; done
"""


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `sbatch` and `scancel`, which start and end jobs on this machine."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("OWN_PATH", os.environ["PATH"])
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_block_for_slurm_submits_workers_and_sweeps(
    slurm: Path, demo_root: Path, tmp_path: Path
) -> None:
    study = write_study(tmp_path / "study", {"a": {}, "b": {"value": 0.7}}, categories=["seal"])
    source = block("python")
    for before, after in {
        "studies/paper.yaml": str(study),
        'preset="ours"': f'fields={{"data.root": "{demo_root}"}}',
        "jobs=10": "jobs=1",
        'queue="normal"': 'queue="normal", interface="lo"',
    }.items():
        assert source.count(before) == 1
        source = source.replace(before, after)
    names: dict[str, Any] = {}
    exec(compile(source, "docs/scaling.md", "exec"), names)
    assert names["swept"].failures == {}
    assert (tmp_path / "reports" / "studies" / "quick-tiny" / "table.csv").exists()
    assert len((tmp_path / "jobs").read_text().split()) == 1
    (submitted,) = tmp_path.glob("script-*.sh")
    script = submitted.read_text(encoding="utf-8").splitlines()
    assert script[0].startswith("#!/")
    assert [line for line in script if line.startswith("#SBATCH")] == [
        "#SBATCH -J dask-worker",
        "#SBATCH -e reports/logs/dask-worker-%J.err",
        "#SBATCH -o reports/logs/dask-worker-%J.out",
        "#SBATCH -p normal",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=15G",
        "#SBATCH -t 04:00:00",
    ]
    assert [line for line in script if line.startswith("export")] == [
        f"export {name}_NUM_THREADS=8" for name in ("OMP", "MKL", "OPENBLAS")
    ]
    worker = script[-1].split()
    address = names["cluster"].scheduler_address
    assert worker[1:4] == ["-m", "distributed.cli.dask_worker", address]
    options = dict(itertools.pairwise(worker))
    assert options["--nthreads"] == "1"
    # The last one counts, and it is ours.
    limits = [worker[i + 1] for i, word in enumerate(worker) if word == "--memory-limit"]
    assert limits == ["14.90GiB", "0"]


def test_the_study_shown_can_be_run(demo_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(block("yaml").replace("[8, 0]", "[5, 0]"), encoding="utf-8")
    (study,) = read_studies(path, Choices("tiny", fields={"data.root": str(demo_root)}))
    assert len(runs_of(study)) == 2 * 3 * 4
    assert next(iter(study.cells)) == "shots 5, training.steps 25"
    assert yaml.safe_load(block("yaml"))["grid"]["shots"] == [8, 0]
