"""The `lsfa` command: what it prints; a user's mistake ends with one sentence and exit 2."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lsfa_lib import cli


def lsfa(*words: str | Path) -> int:
    """Exit code of the command line in this process."""
    arguments, sys.argv = sys.argv, ["lsfa", *map(str, words)]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = arguments
    return 0


@pytest.fixture
def tree(demo_root: Path, tmp_path: Path) -> Path:
    """A copy of a demo category that a test may spoil; its path has xyz and a space in it."""
    root = tmp_path / "my xyz scäns"
    shutil.copytree(demo_root / "seal", root / "seal")
    return root


def refused(capsys: pytest.CaptureFixture[str], reports: Path, *words: str | Path) -> str:
    """The one sentence a run with these words ends with; asserts exit 2 and no trace of a run."""
    code = lsfa("run", *words, "--preset", "tiny", "--device", "cpu", "--reports", reports)
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert sentence.startswith("lsfa: ")
    assert not (reports / "index.html").exists()
    assert not list(reports.rglob("result.json"))
    assert not list(reports.rglob("report.html"))
    assert not list(reports.rglob(".partial-*"))
    return sentence


def first(tree: Path, kind: str, role: str) -> Path:
    return sorted((tree / "seal" / kind / role).iterdir())[0]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert lsfa("--help") == 0
    shown = capsys.readouterr().out
    for word in ("data", "run", "report", "cache", "lsfa data demo", "reports/index.html"):
        assert word in shown


def test_unknown_category_lists_those_that_exist(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = refused(capsys, tmp_path / "reports", "bagel", "--data", tree)
    assert "no such category" in sentence
    assert "holds seal" in sentence


def test_missing_folder_and_unknown_settings_are_said(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lsfa("run", "all", "--data", tmp_path / "nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert lsfa("run", "seal", "--data", tree, "--preset", "best") == 2
    assert "preset 'best' does not exist; choose one of" in capsys.readouterr().err
    assert lsfa("run", "seal", "--data", tree, "--image-size", "225") == 2
    assert "image size 225 is not a multiple" in capsys.readouterr().err
    assert lsfa("run", "seal", "--data", tree, "--device", "tpu") == 2
    assert "device 'tpu' is not known" in capsys.readouterr().err
    assert lsfa("run") == 2


@pytest.mark.parametrize("role", ["rgb", "xyz", "gt"])
def test_missing_partner_is_found_before_anything_runs(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    lost = first(tree, "test/hole", role)
    lost.unlink()
    sentence = refused(capsys, tmp_path / "reports", "seal", "--data", tree)
    assert str(lost) in sentence
    assert "is missing; restore it" in sentence


def test_empty_test_split_is_said(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tree / "seal" / "test")
    (tree / "seal" / "test").mkdir()
    assert "no scans in here" in refused(capsys, tmp_path / "r", "seal", "--data", tree)


def write_xyz(path: Path, xyz: np.ndarray) -> None:
    tifffile.imwrite(path, xyz, photometric="rgb")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_nan(path: Path) -> None:
    xyz = tifffile.imread(path)
    xyz[5, 5] = np.nan
    write_xyz(path, xyz)


def without_border(path: Path) -> None:
    xyz = tifffile.imread(path)
    keep = np.zeros(xyz.shape[:2], bool)
    keep[60:-60, 60:-60] = True
    write_xyz(path, np.where(keep[..., None], xyz, 0))


SPOILED = {
    "cut short": ("train/good", "xyz", cut_short, "cannot be decoded"),
    "empty picture": ("train/good", "rgb", lambda p: p.write_bytes(b""), "the file is empty"),
    "NaN": ("train/good", "xyz", with_nan, "NaN or infinite"),
    "all zero": (
        "train/good",
        "xyz",
        lambda p: write_xyz(p, np.zeros((200, 200, 3), np.float32)),
        "no reading at all",
    ),
    "two channels": (
        "train/good",
        "xyz",
        lambda p: tifffile.imwrite(p, np.ones((200, 200, 2), np.float32), photometric="minisblack"),
        "float32 (height, width, 3) is wanted",
    ),
    "grey": (
        "train/good",
        "rgb",
        lambda p: Image.open(p).convert("L").save(p),
        "RGB with 8 bits a channel is wanted",
    ),
    "other size": (
        "train/good",
        "rgb",
        lambda p: Image.open(p).resize((90, 90)).save(p),
        "90 x 90 px, but",
    ),
    "processed in place": ("train/good", "xyz", without_border, "restore the original"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_broken_scan_ends_a_run_with_its_name(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    folder, role, spoil, expected = SPOILED[how]
    path = first(tree, folder, role)
    spoil(path)
    assert lsfa("data", "check", tree) == 2
    shown = capsys.readouterr()
    assert f"problem: {path}" in shown.out
    assert expected in shown.out
    assert shown.err.endswith("1 problem(s), each said above\n")


def test_run_of_a_broken_scan_keeps_nothing_but_the_failed_notebook(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = first(tree, "train/good", "xyz")
    without_border(path)
    sentence = refused(capsys, tmp_path / "reports", "seal", "--data", tree)
    assert str(path) in sentence
    assert "restore the original" in sentence
    (left,) = [file for file in (tmp_path / "reports").rglob("*") if file.is_file()]
    assert left.name == "notebook-failed.ipynb"


def test_check_counts_a_sound_tree(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lsfa("data", "check", tree) == 0
    shown = capsys.readouterr().out
    assert "no problem found" in shown
    assert "6 good; 200 x 200 px" in shown


def test_demo_refuses_a_folder_that_holds_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert lsfa("data", "demo", "--root", tmp_path) == 2
    assert "not a demo of this library; choose an empty folder" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "keep me"


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="/sys is Linux's")
def test_folder_that_cannot_be_written_is_said(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = lsfa("run", "seal", "--data", tree, "--preset", "tiny", "--reports", "/sys/kernel/out")
    assert code == 2
    assert "choose a writable folder" in capsys.readouterr().err


def test_cache_is_shown_and_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lsfa("cache", "--cache", tmp_path) == 0
    assert "holds no features yet" in capsys.readouterr().out
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    (folder / "about.json").write_text('{"model": "fpfh", "preprocess": {"image_size": 224}}')
    (folder / "one.safetensors").write_bytes(b"x" * 2_000_000)
    assert lsfa("cache", "--cache", tmp_path) == 0
    assert "fpfh" in (shown := capsys.readouterr().out)
    assert "224 px      1 files       2.0 MB" in shown
    assert lsfa("cache", "--cache", tmp_path, "--prune", "ffff") == 2
    assert folder.exists()
    assert lsfa("cache", "--cache", tmp_path, "--prune", "all") == 0
    assert not folder.exists()


def test_command_is_installed() -> None:
    command = Path(sys.executable).parent / "lsfa"
    shown = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert "lsfa data demo" in shown.stdout
