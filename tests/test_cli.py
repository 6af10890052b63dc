"""The `lsfa` command: what it prints; a user's mistake ends with one sentence and exit 2."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from lsfa_lib.cli import app as cli
from lsfa_lib.cli.run import run_name
from lsfa_lib.config import PRESETS, RANDOM_WEIGHTS, TINY, configure, fields_of
from lsfa_lib.datasets.layouts import categories
from lsfa_lib.demo import synthetic
from lsfa_lib.demo.synthetic import DemoCounts, DemoSettings, demo_names
from lsfa_lib.evaluation.bootstrap import half_width
from lsfa_lib.figures.findings import counts
from lsfa_lib.storage.results import read_result
from lsfa_lib.studies import watch


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
    assert "lsfa data demo" in shown and "reports/index.html" in shown
    listed = re.findall(r"^│ ([a-z-]+)  +\w", shown, re.MULTILINE)
    assert listed == list(cli.ORDER)
    assert lsfa("--version") == 0
    assert capsys.readouterr().out == f"lsfa {version('lsfa_lib')}\n"


def test_a_removed_command_names_the_one_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert lsfa("study", "--workers", "2") == 2
    said = capsys.readouterr().err
    assert said == "lsfa: `lsfa study` was removed; run `lsfa sweep studies/in_depth.yaml`\n"


SHORT = (("--help",), ("--version",), ("methods",), ("presets",))
MISSPELT = {
    "category": ("run", "bagle"),
    "preset": ("run", "seal", "--preset", "dmo"),
    "method": ("run", "seal", "--method", "cfn"),
    "loss": ("run", "seal", "--only", "IFCC"),
    "field": ("sweep", "field.yaml"),
    "notebook": ("sweep", "notebook.yaml"),
    "study": ("sweep", "fild.yaml"),
}


@pytest.mark.parametrize("words", [*SHORT, *MISSPELT.values()], ids=[*map(str, SHORT), *MISSPELT])
def test_what_needs_no_torch_imports_none(
    words: tuple[str, ...], demo_root: Path, tmp_path: Path
) -> None:
    """Neither torch nor pandas, papermill or dask: each takes a second."""
    (tmp_path / "field.yaml").write_text("cells: {a: {traning.steps: 3}}")
    (tmp_path / "notebook.yaml").write_text("run: 00_quikstart\ncells: {a: {}}")
    where = ["--data", str(demo_root)] if words[0] in ("run", "sweep") else []
    script = (
        "import sys\nfrom lsfa_lib.cli.app import main\n"
        f"sys.argv = {['lsfa', *words, *where]}\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'pandas', 'papermill', 'distributed', 'plotly'} & set(sys.modules)\n"
        "    assert not heavy, heavy"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    if words in SHORT:
        assert ended.returncode == 0, ended.stderr
    else:
        assert ended.returncode == 2, ended.stderr
        assert "nearest" in ended.stderr and ended.stderr.count("\n") == 1


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
    assert "preset 'best' does not exist; the nearest of" in capsys.readouterr().err
    assert lsfa("run", "seal", "--data", tree, "--image-size", "225") == 2
    assert "image size 225 is not a multiple" in capsys.readouterr().err
    assert lsfa("run", "seal", "--data", tree, "--device", "tpu") == 2
    assert "device 'tpu' is not known" in capsys.readouterr().err
    assert lsfa("run") == 2


def test_settings_that_cannot_be_used_are_found_before_anything_runs(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str | Path) -> str:
        sentence = refused(capsys, tmp_path / "reports", "seal", "--data", tree, *words)
        assert not list((tmp_path / "reports").rglob("*.ipynb"))
        return sentence

    assert "there is no loss 'IFK'; the nearest of" in said("--only", "IFK")
    assert said("--only", "IFK").endswith("is IFC")
    assert "7 shots of 6 scans; ask for 1 to 6" in said("--shots", "7")
    assert "-1 shots of 6 scans" in said("--shots", "-1")
    file = tmp_path / "my.yaml"
    file.write_text("preset: tiny")
    assert f"--preset tiny and --config {file} were both given" in said("--config", file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("preset: [tiny", "is not a readable YAML file"),
        ("just words", "holds str, expected fields such as `preset:`"),
        ("preset: tinny", "preset 'tinny' does not exist; the nearest of"),
        ("preset: tiny\ntraning:\n  steps: 3", "there is no field traning; the nearest is train"),
        (
            "preset: tiny\ntraining:\n  steps: many",
            "training.steps is 'many', expected a valid integer",
        ),
        ("preset: tiny\nshots: 9", "9 shots of 6 scans; ask for 1 to 6"),
    ],
)
def test_mistakes_in_a_config_file_are_found_before_anything_runs(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    file, reports = tmp_path / "my.yaml", tmp_path / "reports"
    file.write_text(text)
    assert lsfa("run", "seal", "--data", tree, "--config", file, "--reports", reports) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not reports.exists()


def test_folders_tell_runs_apart() -> None:
    asked = [
        ("demo", {}),
        ("demo", {"only": "IFC"}),
        ("demo", {"only": "IFC", "shots": 10, "data.root": "x"}),
        ("demo", {"shots": 10}),
        ("demo", {"preprocess.image_size": 96}),
        ("demo", {"method": "/some/where/own.py"}),
        ("demo", dict(RANDOM_WEIGHTS)),
        ("my", {}),
    ]
    names = [run_name(*words) for words in asked]
    assert len(set(names)) == len(names)
    assert (names[0], names[2], names[4]) == ("demo", "demo-IFC-10shots", "demo-96px")
    assert names[5:7] == ["demo-own", "demo-random"]
    everything = {"only": "both", "shots": 1, "preprocess.image_size": 96}
    assert run_name("mine/of today", everything) == "mine_of_today-96px-both-1shots"


def test_seeds_of_a_config_file_are_run_side_by_side_and_summed_up(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The features' cache lies in the working folder.
    monkeypatch.chdir(tmp_path)
    file, reports = tmp_path / "mine.yaml", tmp_path / "reports"
    file.write_text(f"preset: tiny\ndata:\n  root: {tree}\ntraining:\n  steps: 2\n")
    words = ("--config", file, "--only", "CLC", "--shots", "3", "--seed", "4", "--seeds", "2")
    monkeypatch.setattr(watch, "QUIET_S", 0.0)
    assert lsfa("run", "seal", *words, "--device", "cpu", "--reports", reports) == 0
    folders = [reports / f"runs/quickstart/seal-mine-CLC-3shots-s{seed}" for seed in (4, 5)]
    results = [read_result(folder / "result.json") for folder in folders]
    for seed, folder, result in zip((4, 5), folders, results, strict=True):
        assert (result["preset"], result["seed"], len(result["train_scans"])) == ("mine", seed, 3)
        assert result["config"]["training"]["weights"] == {"la": 0.6, "ga": 0.6, "lc": 0, "gc": 0}
        assert [set(step) & {"LA", "LC"} for step in result["training"]["history"]] == [{"LA"}] * 2
        page = (folder / "report.html").read_text(encoding="utf-8")
        page = re.sub("</?abbr[^>]*>", "", page)
        assert f"mine preset · 96 px · only CLC · 3 shots · seed {seed}" in page
        assert str(tree) not in page
        assert (folder / "adaptors.safetensors").exists()
    assert results[0]["train_scans"] != results[1]["train_scans"]
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    # Where each run is, into a pipe too; the first page at once, the numbers at the end.
    assert re.search(r"seal-mine-CLC-3shots-s4: [a-z ]+, step \d of \d+", shown.err)
    assert lines[0].startswith("first report: ") and lines[0].endswith("/report.html")
    assert Path(lines[0].removeprefix("first report: ")).parent in folders
    for seed, result in zip((4, 5), results, strict=True):
        (line,) = (row for row in lines if row.startswith(f"seal, RGB + 3D, seed {seed} "))
        mode = result["modes"]["rgb+3d"]
        numbers = [f"{mode[metric]:.3f}" for metric in ("i_auroc", "aupro_30", "p_auroc")]
        found, bad, rejected, good = counts(result)
        said = f"{found} of {bad} {rejected} of {good}"
        assert line.split()[6:] == [*numbers, *said.split()]
    summed = [line for line in lines if line.endswith("   2 seeds")]
    assert len(summed) == len(results[0]["modes"]) == 5
    values = [result["modes"]["rgb+3d"]["i_auroc"] for result in results]
    mean, spread = np.mean(values), np.std(values, ddof=1)
    half = half_width(np.array(values))
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    expected = f"I-AUROC {mean:.3f} ± {spread:.3f} [{low:.3f}, {high:.3f}]"
    assert summed[2].startswith("seal         RGB + 3D  ") and expected in summed[2]
    index = re.sub("</?abbr[^>]*>", "", (reports / "index.html").read_text(encoding="utf-8"))
    assert index.count('<li class="card"') == 2
    assert '<th scope="row">mine, 96 px, only CLC, 3 shots</th><td>2</td>' in index


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_written_as_yaml_that_is_read_back_exactly(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lsfa("presets", "--yaml", name) == 0
    text = capsys.readouterr().out
    file = tmp_path / "again.yaml"
    file.write_text(text, encoding="utf-8")
    assert configure(file) == PRESETS[name]
    # Every field is there: nothing is left to the preset the file names.
    values = yaml.safe_load(text)
    values["preset"], values["name"] = "published" if name != "published" else "tiny", name
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert configure(file) == PRESETS[name]


def test_presets_are_told_field_by_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert lsfa("presets") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["field", *PRESETS]
    fields = {name: fields_of(config) for name, config in PRESETS.items()}
    shown = {row.lstrip("* ").split()[0]: row.startswith("*") for row in rows}
    assert shown == {
        field: len({str(each[field]) for each in fields.values()}) > 1
        for field in fields_of(TINY)
        if field != "preset"
    }
    assert lsfa("presets", "demo", "tiny", "--differing") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[1] for row in rows] == [
        field
        for field in fields_of(TINY)
        if field != "preset" and fields["demo"][field] != fields["tiny"][field]
    ]
    steps = str(fields["demo"]["training.steps"])
    assert ["*", "training.steps", steps, "6"] in [row.split() for row in rows]
    # One column below the other.
    assert len({row.index(row.split()[1]) for row in rows}) == 1
    assert len({row.index(f" {row.split()[2]} ") for row in rows}) == 1
    assert lsfa("presets", "demoo") == 2
    assert capsys.readouterr().err.strip().endswith("is demo")
    assert lsfa("presets", "demo", "--differing") == 2


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
        "expected float32 (height, width, 3)",
    ),
    "grey": (
        "train/good",
        "rgb",
        lambda p: Image.open(p).convert("L").save(p),
        "expected RGB with 8 bits per channel",
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
    assert f"not ready: 1 problem(s), listed above; first: {path}" in shown.err


def test_run_of_a_broken_scan_keeps_nothing_but_the_failed_notebook(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = first(tree, "train/good", "xyz")
    without_border(path)
    sentence = refused(capsys, tmp_path / "reports", "seal", "--data", tree)
    assert str(path) in sentence
    assert "restore the original" in sentence
    left = {file.name for file in (tmp_path / "reports").rglob("*") if file.is_file()}
    assert left == {"notebook-failed.ipynb", "error.txt", ".lock"}


def test_check_counts_a_sound_tree(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lsfa("data", "check", tree) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(f"no problem found; ready: lsfa run seal --data {tree}\n")
    assert "6 good; 200 x 200 px" in shown


def test_the_demo_has_two_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lsfa("data", "demo", "--root", tmp_path, "--version", 3) == 2
    assert "there is no demo version 3; choose among 1, 2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_frame_too_small_for_the_demo_deletes_nothing(tmp_path: Path) -> None:
    assert lsfa("data", "demo", "--held-out", "--root", tmp_path, "--size", 64) == 0
    before = sorted(tmp_path.rglob("*"))
    for size in (0, -400, 63):
        assert lsfa("data", "demo", "--held-out", "--root", tmp_path, "--size", size) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_the_demo_writes_the_held_out_products_to_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[Path, DemoSettings]] = []
    monkeypatch.setattr(synthetic, "write_demo", lambda *words: written.append(words))
    for words in ([], ["--held-out"], ["--held-out", "--study", "--root", "x"]):
        assert lsfa("data", "demo", *words) == 0
    assert [str(root) for root, _ in written] == ["data/demo", "data/held_out", "x"]
    assert written[0][1] == synthetic.STANDARD
    held_out = replace(synthetic.STANDARD, categories=("gear", "walnut", "connector"))
    assert written[1][1] == held_out
    counts = DemoCounts(good=40, each_defect=10)
    assert written[2][1] == replace(held_out, counts=counts, size=448, seed=1)
    assert sum(name.startswith("gear/test/") for name in demo_names(written[2][1])) == 100


def test_held_out_scans_lie_in_three_categories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert lsfa("data", "demo", "--held-out", "--size", 64) == 0
    assert categories(Path("data/held_out")) == ["connector", "gear", "walnut"]


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
    (folder / "two.safetensors").write_bytes(b"x" * 2_000_000)
    os.utime(folder / "one.safetensors", (0, 0))
    assert lsfa("cache", "--cache", tmp_path, "--limit-gb", "0.003") == 0
    assert "2.0 MB deleted" in capsys.readouterr().out
    assert [path.name for path in folder.glob("*.safetensors")] == ["two.safetensors"]
    assert lsfa("cache", "--cache", tmp_path, "--prune", "ffff") == 2
    assert folder.exists()
    assert lsfa("cache", "--cache", tmp_path, "--prune", "all") == 0
    assert not folder.exists()


def test_command_is_installed() -> None:
    command = Path(sys.executable).parent / "lsfa"
    shown = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert "lsfa data demo" in shown.stdout
