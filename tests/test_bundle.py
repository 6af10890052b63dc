"""A bundle opens anywhere: whole, without this machine's folders, every link inside it resolved."""

import io
import json
import posixpath
import shutil
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from plotly.offline import get_plotlyjs
from report_case import COOKIE, Case, Reader, write_run, write_study
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.pages import bundle, report
from lsfa_lib.storage.files import InputError

STUDY_RUNS = ("cookie-demo-IFC", "cookie-demo-baseline", "zipper-demo-baseline")


@pytest.fixture(scope="module")
def bundled(built: Path, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports with scans of the user's, a page next to the runs, and a table of runs."""
    reports = tmp_path_factory.mktemp("büro & co") / "reports"
    shutil.copytree(built, reports)
    root = {"data": {"root": str(reports.parent / "scans" / "mine")}}
    result = case.result | {"config": case.result["config"] | root}
    own = write_run(reports / COOKIE, Case(result, case.samples, case.predictions), scans=1)
    report.render(own, own.parent / "report.html")
    study = reports / "studies" / "components-demo"
    pd.DataFrame({"folder": ["../../runs/sweep/x"]}).to_parquet(study / "runs.parquet")
    page = reports / "components" / "report.html"
    page.parent.mkdir()
    report.render(Path(shutil.copy(study / "notebook.ipynb", page.parent)), page)
    report.write_index(reports)
    # A page written before the others has its own plotly.js.
    text = page.read_text(encoding="utf-8").replace("../plotly.min.js", "plotly.min.js")
    named = (
        f"{text}<p>{reports.parent / 'scans'} and <img src='x.png'><img src=\"x.png\" alt=''></p>"
    )
    page.write_text(named, encoding="utf-8")
    return reports


@pytest.fixture
def reports(bundled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled, tmp_path / "reports"))


def unpacked(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def test_bundle_carries_pages_numbers_and_plotly_once(bundled: Path, tmp_path: Path) -> None:
    files = unpacked(bundle.write_bundle(bundled, tmp_path / "out.zip"))
    runs = {f"sweep/{name}-s0-comp0000" for name in STUDY_RUNS} | {"quickstart/cookie-demo-s0"}
    expected = {"index.html", "plotly.min.js", "components/report.html"}
    expected |= {
        f"runs/{run}/{name}"
        for run in runs
        for name in ("report.html", "thumbnail.png", "result.json")
    }
    expected |= {
        f"studies/components-demo/{name}" for name in ("report.html", "table.csv", "runs.parquet")
    }
    assert set(files) == {f"reports/{name}" for name in expected}
    assert files["reports/plotly.min.js"].decode() == get_plotlyjs()
    picture = "runs/quickstart/cookie-demo-s0/thumbnail.png"
    assert files[f"reports/{picture}"] == (bundled / picture).read_bytes()


@pytest.mark.parametrize("study", ["", "components"])
def test_every_address_in_a_bundle_resolves(bundled: Path, tmp_path: Path, study: str) -> None:
    files = unpacked(bundle.write_bundle(bundled, tmp_path / "out.zip", study))
    walked = 0
    for name in [name for name in files if name.endswith(".html")]:
        reader = Reader(files[name].decode())
        for link in reader.links:
            address = urlsplit(link)
            if address.scheme in ("data", "https") or not address.path:
                continue
            place = posixpath.normpath(
                posixpath.join(posixpath.dirname(name), unquote(address.path))
            )
            assert place in files, (name, link)
            walked += 1
    assert walked > 20
    page = files["reports/studies/components-demo/report.html"].decode()
    # The text of a link that leads out of the bundle stays.
    assert "See the method." in Reader(page).words


def test_bundle_names_no_folder_of_this_machine(bundled: Path, tmp_path: Path) -> None:
    files = unpacked(bundle.write_bundle(bundled, tmp_path / "out.zip"))
    folders = [bundled, bundled.parent, Path.home(), Path.cwd(), tmp_path.parents[1]]
    names = {str(folder) for folder in folders} | {"/home/someone", bundled.parent.name}
    for name, content in files.items():
        if name.endswith(".parquet"):
            content = pd.read_parquet(io.BytesIO(content)).to_csv().encode()
        if not name.endswith("plotly.min.js"):
            for folder in names:
                for form in (folder, json.dumps(folder)[1:-1], folder.replace("&", "&amp;")):
                    assert form.encode() not in content, (name, form)
    result = json.loads(files["reports/runs/quickstart/cookie-demo-s0/result.json"])
    assert result["config"]["data"]["root"] == "…"
    assert result["modes"]["rgb+3d"]["i_auroc"] > 0.5
    assert "… and" in files["reports/components/report.html"].decode()


def test_equal_reports_give_equal_bytes(bundled: Path, reports: Path, tmp_path: Path) -> None:
    one = bundle.write_bundle(reports, tmp_path / "one.zip").read_bytes()
    for file in reports.rglob("*"):
        file.touch()
    assert bundle.write_bundle(reports, tmp_path / "other.zip").read_bytes() == one


def test_a_study_is_bundled_with_its_runs_alone(reports: Path, case: Case, tmp_path: Path) -> None:
    write_study(reports, case, "other")
    files = unpacked(bundle.write_bundle(reports, tmp_path / "out.zip", "components-demo"))
    runs = {name.split("/")[3] for name in files if name.startswith("reports/runs/")}
    assert runs == {f"{name}-s0-comp0000" for name in STUDY_RUNS}
    assert not any("other-demo" in name or "components/" in name for name in files)
    reader = Reader(files["reports/index.html"].decode())
    assert "3 finished runs and 1 study" in reader.words
    assert "zipper-demo-IFC-s0-comp0000: its last attempt failed" in reader.words
    with pytest.raises(InputError, match="study 'x' does not exist; choose one of other-demo"):
        bundle.write_bundle(reports, tmp_path / "none.zip", "x")
    assert not (tmp_path / "none.zip").exists()


def test_what_is_half_written_stays_out_and_stops_nothing(
    reports: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = reports / "runs" / "quickstart"
    for name, text in {"cut": '{"schema": 1, "ca', "lacking": '{"schema": 1}', "none": ""}.items():
        (runs / name).mkdir()
        if text:
            (runs / name / "result.json").write_text(text, encoding="utf-8")
    (runs / "cookie-demo-s0" / "report.html").unlink()
    (runs / "cookie-demo-s0" / ".partial-x.html").write_text("half", encoding="utf-8")
    (reports / "studies" / "half").mkdir()
    files = unpacked(bundle.write_bundle(reports, tmp_path / "out.zip"))
    reader = Reader(files["reports/index.html"].decode())
    for name in ("quickstart/cut", "quickstart/lacking", "quickstart/none", "studies/half"):
        assert name in reader.words.partition("Not shown")[2]
    assert "4 finished runs" in reader.words
    assert not any("partial" in name or "/cut" in name for name in files)
    assert "runs/quickstart/cookie-demo-s0/report.html" not in reader.links
    assert "cookie-demo-s0 has no page; `lsfa report` writes it" in caplog.text


def test_bundle_is_written_whole_or_not_at_all(
    reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "out.zip"
    bundle.write_bundle(reports, path)
    before = path.read_bytes()
    monkeypatch.setattr(bundle, "get_plotlyjs", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bundle.write_bundle(reports, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["out.zip"]


def lsfa(reports: Path, *words: object) -> str:
    """Output of `lsfa report`, or the sentence it ends with."""
    arguments = ["report", "--reports", str(reports), *map(str, words)]
    found = CliRunner().invoke(app, arguments)
    return str(found.exception) if found.exception else found.output.strip()


def test_report_command_writes_pages_a_mail_or_a_bundle(reports: Path, tmp_path: Path) -> None:
    (reports / "index.html").unlink()
    assert lsfa(reports) == f"open {reports / 'index.html'}"
    assert (reports / "index.html").exists()
    page, archive = tmp_path / "x.html", tmp_path / "x.zip"
    assert lsfa(reports, "cookie-demo-s0", "--out", page) == str(page)
    assert "<title>cookie</title>" in page.read_text(encoding="utf-8")
    assert lsfa(reports, "--bundle", archive, "--study", "components") == str(archive)
    assert len([name for name in unpacked(archive) if name.endswith("result.json")]) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cookie-demo-s0",), "RUN needs --out and --out needs RUN"),
        (("--out", "x.html"), "`lsfa report RUN --out FILE`"),
        (("cookie-demo-s0", "--out", "x", "--bundle", "y"), "--bundle takes neither"),
        (("--study", "components"), "--study components selects what a zip contains; add --bundle"),
    ],
)
def test_report_command_says_what_does_not_go_together(
    reports: Path, words: tuple[str, ...], said: str
) -> None:
    assert said in lsfa(reports, *words)


def test_without_a_run_there_is_nothing_to_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished run to bundle; `lsfa run` makes"):
        bundle.write_bundle(tmp_path / "reports", tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
