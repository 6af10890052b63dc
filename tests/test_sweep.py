"""Sweeps survive what happens to them: kills, lost workers, failing runs, two at the same time."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import nbformat
import pandas as pd
import pytest
from study_case import write_study
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.storage.files import InputError, locked
from lsfa_lib.storage.results import read_result
from lsfa_lib.studies import sweep_cluster, sweep_worker
from lsfa_lib.studies.study import Choices, read_studies
from lsfa_lib.studies.study_runs import Job
from lsfa_lib.studies.sweep import Swept, run_sweep
from lsfa_lib.studies.sweep_worker import Outcome, finished, perform

LSFA = [sys.executable, "-c", "from lsfa_lib.cli.app import main; main()"]
CELLS: dict[str, Any] = {f"c{i}": {"value": 0.5 + i / 10} for i in range(3)}


@pytest.fixture(scope="module")
def data(demo_root: Path) -> str:
    """Data of two categories; the runs here only look at their names."""
    return str(demo_root)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a scheduler with two workers: processes of their own, started somewhere else."""
    folder = tmp_path_factory.mktemp("cluster")
    binary, file = str(Path(sys.executable).parent / "dask"), folder / "scheduler.json"
    quiet: dict[str, Any] = {"cwd": folder, "stderr": subprocess.DEVNULL}
    local = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    processes = [subprocess.Popen([binary, "scheduler", *local], **quiet)]
    try:
        # The scheduler creates its file empty and fills it at once when it closes it.
        address = json.loads(until(lambda: file.exists() and file.read_text()))["address"]
        worker = [binary, "worker", address, "--nthreads", "1", "--no-dashboard"]
        processes += [subprocess.Popen(worker, **quiet) for _ in range(2)]
        yield address
    finally:
        for process in processes[::-1]:
            process.terminate()
        for process in processes:
            process.wait(30)


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Relative paths, such as that of the cache, lie in the test's folder."""
    monkeypatch.chdir(tmp_path)
    yield


def swept(path: Path, data: str, reports: str = "reports", **how: Any) -> Swept:
    """A sweep in this process."""
    return run_sweep(read_studies(path, Choices(fields={"data.root": data})), Path(reports), **how)


def command(path: Path, data: str, *more: str) -> list[str]:
    """A sweep's command line."""
    return [*LSFA, "sweep", str(path), "--data", data, *more]


def tables(reports: str = "reports", study: str = "quick-tiny") -> tuple[str, pd.DataFrame]:
    """table.csv, and the table's own file."""
    folder = Path(reports) / "studies" / study
    return (folder / "table.csv").read_text(), pd.read_parquet(folder / "table.parquet")


def marks(reports: str = "reports") -> dict[str, int]:
    """When each finished run was marked as such."""
    paths = Path(reports).glob("runs/sweep/*/run.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in paths}


def about(study: str = "quick-tiny") -> dict[str, Any]:
    """study.json."""
    return json.loads((Path("reports/studies") / study / "study.json").read_text(encoding="utf-8"))


def until(met: Callable[[], Any], seconds: float = 90) -> Any:
    """What `met` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def pids(reports: str = "reports") -> list[int]:
    """Processes that began a run."""
    files = Path(reports).glob("runs/sweep/*/pids")
    return [int(line) for file in files for line in file.read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def halves() -> list[Path]:
    """Files that were begun and not finished."""
    return list(Path("reports").rglob(".partial-*"))


def test_a_sweep_leaves_runs_tables_a_page_and_the_index(
    data: str, cluster: str, tmp_path: Path
) -> None:
    rows = {"c0": "none", "c1": "IFC"}
    published = {"table": "table4_components", "rows": rows}
    path = write_study(tmp_path / "a study", CELLS, seeds=[0, 1], published=published)
    found = swept(path, data, scheduler=cluster)
    assert found.failures == {} and found.index == tmp_path / "reports" / "index.html"
    folder = tmp_path / "reports" / "studies" / "quick-tiny"
    assert found.folders == [folder]
    text, table = tables()
    both = table[table["mode"] == "rgb+3d"].set_index("row")
    # The mean over seeds of value + seed / 100; the spread over seeds; the paper's IFC row.
    assert both["i_auroc"].to_dict() == pytest.approx({"c0": 0.505, "c1": 0.605, "c2": 0.705})
    assert both["i_auroc_sd"].tolist() == pytest.approx([0.01 / 2**0.5] * 3)
    assert both["published_i_auroc"]["c0"] == 0.929 and both["runs"].tolist() == [4, 4, 4]
    assert text.count("\n") == len(table) + 1
    said = about()
    assert (said["title"], said["reference"], said["seeds"]) == (
        "Does <i>it</i> help?",
        "c0",
        [0, 1],
    )
    assert said["published"] == published and said["cells"] == CELLS
    assert said["categories"] == ["biscuit", "seal"] and "c2" in said["finding"]
    assert len(said["runs"]) == 12 and {run["state"] for run in said["runs"]} == {"done"}
    run = said["runs"][0]
    result = read_result(folder / run["folder"] / "result.json")
    assert (result["category"], result["seed"]) == (run["category"], run["seed"])
    mark = json.loads((folder / run["folder"] / "run.json").read_text(encoding="utf-8"))
    assert mark["notebook"] == "quick" and mark["parameters"]["value"] == 0.5
    assert mark["seconds"] == run["seconds"] > 0 and not run["reused"]
    names = {path.name for path in (folder / run["folder"]).iterdir()} - {".lock", "thumbnail.png"}
    assert names == {"run.json", "result.json", "notebook.ipynb", "report.html", "pids"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "['c0', 'c1', 'c2'] 12" in page and "<i>it</i>" not in page
    assert "quick" in found.index.read_text(encoding="utf-8") and not halves()
    assert len(set(pids())) == 2 and os.getpid() not in pids()
    # Everything is there: nothing runs again but the page.
    before = marks()
    path.write_text(path.read_text(encoding="utf-8").replace("c2:", "renamed:"), encoding="utf-8")
    swept(path, data, scheduler=cluster)
    assert marks() == before and len(before) == 12
    assert {run["reused"] for run in about()["runs"]} == {True}
    assert "renamed" in tables()[0]
    swept(path, data, scheduler=cluster, force=True)
    assert set(marks()) == set(before) and all(marks()[n] > before[n] for n in before)


@pytest.mark.parametrize(
    ("workers", "peak_mb", "room_mb", "expected"),
    [(4, 0.0, 100.0, 4), (4, 25.0, 100.0, 4), (4, 26.0, 100.0, 3), (4, 300.0, 100.0, 1)],
)
def test_as_many_runs_at_a_time_as_fit_the_memory(
    workers: int, peak_mb: float, room_mb: float, expected: int
) -> None:
    assert sweep_cluster.at_a_time(workers, peak_mb, room_mb) == expected
    assert sweep_cluster.at_a_time(workers, peak_mb, math.inf) == workers


@pytest.mark.parametrize(
    ("outcome", "most", "room_mb", "after"),
    [
        (Outcome(peak_mb=25.0), 4, 100.0, 4),
        (Outcome(killed=True), 4, 100.0, 3),
        (Outcome(killed=True), 1, 100.0, 1),
        (Outcome(killed=True), 4, math.inf, 4),
    ],
)
def test_after_a_killed_run_one_fewer_runs_at_a_time(
    outcome: Outcome, most: int, room_mb: float, after: int
) -> None:
    needed = sweep_cluster.needed_mb(outcome, most, room_mb)
    assert sweep_cluster.at_a_time(4, needed, room_mb) == after
    assert sweep_cluster.at_a_time(0, needed, room_mb) == 1  # while its worker starts again


def test_runs_wait_for_memory_once_one_has_shown_what_it_takes(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path / "study", CELLS, seeds=[0], parameters={"pause": 0.3})
    monkeypatch.setattr(sweep_cluster, "free_memory", lambda: 1_000_000)
    assert swept(path, data).failures == {}
    assert "0.0 GB were free: 1 at a time instead of 2" in "".join(capfd.readouterr())
    folders = list(Path("reports").glob("runs/sweep/*"))
    assert len(folders) == 6
    # The first two start before a run has ended.
    assert all(alone(folders)[1:])
    # Continued, it knows from the start what its finished runs took.
    for folder in folders[:4]:
        (folder / "run.json").unlink()
    assert swept(path, data).failures == {}
    assert "0.0 GB were free: 1 at a time instead of 2" in "".join(capfd.readouterr())
    assert all(alone(folders[:4]))


def alone(folders: list[Path]) -> list[bool]:
    """Whether each run but the first, in order of their start, began after all before had ended."""
    spans = sorted(
        ((f / "pids").stat().st_mtime, (f / "run.json").stat().st_mtime) for f in folders
    )
    return [
        spans[place][0] > max(end for _, end in spans[:place]) for place in range(1, len(spans))
    ]


def test_a_run_that_two_studies_name_differently_is_run_once(data: str, tmp_path: Path) -> None:
    once = {"seeds": [0], "categories": ["seal"]}
    path = write_study(tmp_path / "study", {"in the cell": {"value": 0.5}}, **once)
    path.rename(path.with_name("first.yaml"))
    write_study(tmp_path / "study", {"for all": {}}, parameters={"value": 0.5}, **once)
    (tmp_path / "study" / "all.yaml").write_text("include: [first.yaml, quick.yaml]\n")
    assert swept(tmp_path / "study" / "all.yaml", data).failures == {}
    assert len(marks()) == 1
    assert about()["runs"][0]["folder"] == about("first-tiny")["runs"][0]["folder"]


def test_killed_in_the_middle_it_goes_on_and_repeats_nothing(
    data: str, cluster: str, tmp_path: Path
) -> None:
    fields = {"seeds": [0, 1], "categories": ["seal"], "parameters": {"pause": 0.5}}
    path = write_study(tmp_path / "study", CELLS, **fields)
    process = subprocess.Popen(command(path, data), stderr=subprocess.DEVNULL)
    until(lambda: len(marks()) >= 2 and len(pids()) > len(marks()))
    process.kill()
    process.wait()
    # Its workers end with it, without a parent to tell them so.
    until(lambda: not any(map(alive, pids())), 20)
    before = marks()
    assert 2 <= len(before) < 6 and not Path("reports/studies").exists()
    swept(path, data, scheduler=cluster)
    after = marks()
    assert len(after) == 6 and {name: after[name] for name in before} == before
    assert not halves()
    swept(path, data, "uninterrupted", scheduler=cluster)
    pd.testing.assert_frame_equal(tables()[1], tables("uninterrupted")[1])
    assert tables()[0] == tables("uninterrupted")[0]


def test_ctrl_c_leaves_no_process_and_no_half_file(data: str, tmp_path: Path) -> None:
    path = write_study(tmp_path / "study", CELLS, parameters={"pause": 30.0})
    process = subprocess.Popen(
        command(path, data), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(lambda: len(pids()) == 2)
    assert len(halves()) == 2
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does: workers get it too.
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "lsfa: stopped; finished runs are kept, start it again to resume" in said
    assert "Traceback" not in said
    until(lambda: not any(map(alive, pids())), 5)
    assert not halves() and marks() == {}


def test_a_lost_worker_loses_nothing(
    data: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fields = {"categories": ["seal"], "seeds": [0, 1], "parameters": {"pause": 1.5}}
    path = write_study(tmp_path / "study", CELLS, **fields)
    killed: list[int] = []

    def kill() -> None:
        killed.append(until(pids)[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = swept(path, data)
    killer.join()
    assert found.failures == {} and len(marks()) == 6
    assert "a worker was killed, most likely for lack of memory: 1 at a time" in "".join(
        capfd.readouterr()
    )
    # The run it was at was begun twice, by another process the second time.
    began = [path.read_text().split() for path in Path("reports").rglob("pids")]
    assert sorted(map(len, began)) == [1, 1, 1, 1, 1, 2]
    (twice,) = [each for each in began if len(each) == 2]
    assert str(killed[0]) in twice and len(set(twice)) == 2


def test_a_run_reports_the_time_left_where_its_steps_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    now = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(sweep_worker.time, "monotonic", lambda: next(now))
    worker = SimpleNamespace(log_event=lambda topic, event: said.append(event["said"][1]))
    monkeypatch.setattr(sweep_worker, "get_worker", lambda: worker)
    listen = sweep_worker._reporter("run")
    listen("fit", 0, 0)
    listen("coreset", 5, 0)
    listen("coreset", 5, 20)
    # 5 of 20 in 20 s: 60 s for the others.
    assert said == ["fit", "coreset", "coreset, step 5 of 20, 01:00 left"]


def test_one_bad_run_never_stops_the_others(data: str, tmp_path: Path) -> None:
    cells = {
        "good": {},
        "raises": {"does": "raise"},
        "kills": {"does": "kill"},
        "better": {"value": 0.9},
    }
    path = write_study(tmp_path / "study", cells, categories=["seal"])
    result = CliRunner().invoke(app, ["sweep", str(path), "--data", data])
    assert result.exit_code == 1
    runs = {run["cell"]: run for run in about()["runs"]}
    assert {cell: run["state"] for cell, run in runs.items()} == {
        "good": "done",
        "raises": "failed",
        "kills": "failed",
        "better": "done",
    }
    assert runs["raises"]["error"].startswith("quick.ipynb failed with ValueError: no 0.5 <b> (the")
    assert runs["kills"]["error"].startswith("its worker process was killed 3 times, most likely")
    for cell, last in (("raises", "ValueError: no 0.5 <b>"), ("kills", "")):
        folder = Path("reports/studies/quick-tiny") / runs[cell]["folder"]
        half = nbformat.read(folder / "notebook-failed.ipynb", 4)
        assert any(o.get("text") == "so far\n" for c in half.cells for o in c.get("outputs", []))
        text = (folder / "error.txt").read_text(encoding="utf-8")
        assert text.startswith(runs[cell]["error"]) and last in text and "\x1b" not in text
        assert not (folder / "run.json").exists() and not (folder / "notebook.ipynb").exists()
        assert f"failed: {folder.name}: {runs[cell]['error']}" in result.stderr
        assert str(folder.resolve() / "notebook-failed.ipynb") in runs[cell]["error"]
    folders = {
        cell: Path("reports/runs/sweep") / Path(run["folder"]).name for cell, run in runs.items()
    }
    began = {cell: len((folder / "pids").read_text().split()) for cell, folder in folders.items()}
    assert (began["good"], began["kills"], began["better"]) == (1, 3, 1) and not halves()
    lines = tables()[1]
    assert set(lines["row"]) == {"good", "better"}
    assert "better                   I-AUROC 0.900" in result.stdout
    assert result.stdout.splitlines()[-1] == f"open {tmp_path / 'reports' / 'index.html'}"


def test_an_address_without_a_scheduler_is_said_so(data: str, tmp_path: Path) -> None:
    path = write_study(tmp_path / "study", CELLS)
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        said = f"no scheduler answers at {address}; start one with `dask scheduler`"
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
            pytest.raises(InputError, match=said),
        ):
            swept(path, data, scheduler=address)
    assert not Path("reports/runs").exists()


def test_two_sweeps_at_once_share_their_runs(data: str, cluster: str, tmp_path: Path) -> None:
    fields = {"categories": ["seal"], "seeds": [0, 1], "parameters": {"pause": 0.3}}
    path = write_study(tmp_path / "study", CELLS, **fields)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(swept, path, data, scheduler=cluster) for _ in range(2)]
    assert [found.result().failures for found in both] == [{}, {}]
    # Each run was done once, by one of the two workers: who came second waited for it.
    assert len(pids()) == len(marks()) == 6 and len(set(pids())) == 2
    assert not halves()
    swept(path, data, "alone", scheduler=cluster)
    assert tables()[0] == tables("alone")[0]


def test_included_studies_share_runs_and_a_client(data: str, cluster: str, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_study(folder, CELLS, categories=["seal"])
    more = {"again": CELLS["c1"], "new": {"value": 0.9}}
    (folder / "first.yaml").write_text((folder / "quick.yaml").read_text())
    write_study(folder, more, categories=["seal"], title="And?")
    (folder / "all.yaml").write_text("include: [first.yaml, quick.yaml]\n")
    found = swept(folder / "all.yaml", data, scheduler=cluster)
    assert found.failures == {} and len(marks()) == len(pids()) == 4
    assert [path.name for path in found.folders] == ["first-tiny", "quick-tiny"]
    runs = {run["cell"]: run["folder"] for run in about()["runs"]}
    assert runs["again"] == {r["cell"]: r["folder"] for r in about("first-tiny")["runs"]}["c1"]
    assert set(tables()[1]["row"]) == {"again", "new"}
    assert set(tables(study="first-tiny")[1]["row"]) == {"c0", "c1", "c2"}


def test_marks_that_cannot_be_trusted_are_not(tmp_path: Path) -> None:
    job = Job(Path("some.ipynb"), tmp_path, {}, "k")
    good = {"schema": 1, "key": "k", "seconds": 1.5}
    texts = ["{", "[]", json.dumps({**good, "schema": 0}), json.dumps({**good, "key": "other"})]
    (tmp_path / "run.json").write_text(json.dumps(good))
    assert finished(job) is None  # no result
    assert finished(replace(job, has_numbers=False)) is not None
    (tmp_path / "result.json").write_text('{"schema": 1}')
    found = finished(job)
    assert found is not None and (found.error, found.seconds, found.reused) == ("", 1.5, True)
    for text in texts:
        (tmp_path / "run.json").write_text(text)
        assert finished(job) is None
    (tmp_path / "run.json").write_text(json.dumps(good))
    for text in ("{", '{"schema": 0}'):
        (tmp_path / "result.json").write_text(text)
        assert finished(job) is None


def test_a_run_waits_for_the_one_in_its_folder(tmp_path: Path) -> None:
    job = Job(tmp_path / "absent.ipynb", tmp_path / "run", {}, "k", wait_for_lock=True)
    with locked(job.folder):
        assert perform(replace(job, wait_for_lock=False)) is None
        thread = threading.Thread(target=lambda: perform(job))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not (job.folder / "error.txt").exists()
        (job.folder / "result.json").write_text('{"schema": 1}')
        (job.folder / "run.json").write_text(json.dumps({"schema": 1, "key": "k", "seconds": 1}))
    thread.join(20)
    assert not thread.is_alive() and not (job.folder / "error.txt").exists()


def test_a_run_that_writes_no_result_failed(tmp_path: Path) -> None:
    from study_case import write_notebook

    notebook = write_notebook(tmp_path / "empty.ipynb", 'out: str = ""  # folder')
    outcome = perform(Job(notebook, tmp_path / "run", {"out": "x"}, "k"))
    assert outcome is not None
    assert "did not write result.json to its folder" in outcome.error
    assert (tmp_path / "run" / "error.txt").exists()


def test_seeds_of_the_command_line_are_numbers() -> None:
    result = CliRunner().invoke(app, ["sweep", "x.yaml", "--seeds", "0,one"])
    assert isinstance(result.exception, InputError)
    assert "--seeds 0,one is not a list of seeds; for example: --seeds 0,1,2" in str(
        result.exception
    )
