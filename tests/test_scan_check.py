"""The check prepares scans as a run does; a run scores what it can and says what it left out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.config import TINY, Config, configure
from lsfa_lib.datasets.mvtec3d import write_scan
from lsfa_lib.datasets.preprocess import part_of, prepare
from lsfa_lib.datasets.scan_check import defect_notes
from lsfa_lib.datasets.splitting import drawn_scans, move_to_validation
from lsfa_lib.datasets.tree_check import check_tree
from lsfa_lib.figures.findings import answer
from lsfa_lib.pipeline import run_category
from lsfa_lib.records import Scan
from lsfa_lib.storage.files import InputError

SIZE = (120, 160)
LARGE, SMALL = (slice(30, 90), slice(20, 80)), (slice(40, 75), slice(100, 140))


def tray(name: str, *parts: tuple[slice, slice], height: float = 0.02, mark=None) -> Scan:
    """Boxes on a ground half a metre away, 1 mm a pixel."""
    v, u = np.indices(SIZE)
    z = 0.5 + np.random.default_rng(0).normal(0, 5e-5, SIZE)
    for part in parts:
        z[part] -= height
    xyz = np.stack([u / 1000, v / 1000, z], axis=-1).astype(np.float32)
    defect = np.zeros(SIZE, bool)
    if mark:
        defect[mark] = True
    rgb = np.full((*SIZE, 3), 90, np.uint8)
    return Scan(rgb, xyz, defect, name, name.split("/")[2], Path("tray.tiff"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A category of five training scans and no validation."""
    for stem in "abcde":
        write_scan(tmp_path, tray(f"box/train/good/{stem}", LARGE))
    write_scan(tmp_path, tray("box/test/good/a", LARGE))
    return tmp_path


def test_an_empty_tray_and_a_thin_part_are_found_by_the_check(root: Path) -> None:
    write_scan(root, tray("box/test/good/empty"))
    write_scan(root, tray("box/train/good/thin", LARGE, height=0.002))
    problems = check_tree(root, TINY).problems
    assert len(problems) == 3
    thin, validation, empty = problems
    for problem, path in ((thin, "train/good/xyz/thin.tiff"), (empty, "test/good/xyz/empty.tiff")):
        assert problem.startswith(f"{root / 'box' / path}: no part found among")
        assert "lower preprocess.plane_distance_m (for --config, `preprocess:" in problem
    assert "0 validation/good scans, at least 2 are needed" in validation
    assert "`lsfa data split`" in validation
    lower = configure(TINY, {"preprocess.plane_distance_m": 0.001})
    assert thin not in check_tree(root, lower).problems


def test_a_field_without_its_stage_is_found() -> None:
    with pytest.raises(InputError, match=r"preprocess\.plane_distance_m exist; in a file write"):
        configure("demo", {"plane_distance_m": 0.001})


def test_two_parts_are_said_and_both_are_scored_where_asked(root: Path) -> None:
    scan = tray("box/test/cut/two", LARGE, SMALL, mark=SMALL)
    sample = prepare(scan, TINY.preprocess)
    (note,) = sample.notes
    assert note.startswith("another part of 1400 readings lies beside the one of 3600")
    (lost,) = defect_notes(sample)
    assert lost.startswith("1 of 1 marked defects lie outside of the part")
    write_scan(root, scan)
    warnings = check_tree(root, TINY).warnings
    assert [w for w in warnings if note in w] and [w for w in warnings if lost in w]
    every = replace(TINY.preprocess, cluster_method="every_part")
    assert part_of(scan, every).sum() == 5000
    found = prepare(scan, every)
    assert found.notes == ()
    assert defect_notes(found) == []
    alone = prepare(tray("box/test/good/one", LARGE), TINY.preprocess)
    assert alone.notes == ()
    assert defect_notes(alone) == []


def test_readings_behind_the_camera_and_far_away_are_flagged(root: Path) -> None:
    path = root / "box" / "train" / "good" / "xyz" / "a.tiff"
    xyz = tifffile.imread(path)
    xyz[50, 50, 2], xyz[50, 51, 2], xyz[50, 52, 2] = -1, -1, 65.535
    tifffile.imwrite(path, xyz, photometric="rgb")
    behind, far, copies = check_tree(root).warnings
    assert behind.startswith(f"{path}: 2 points have z < 0 and count as no reading")
    assert far.startswith(f"{path}: 1 points lie up to 65.5 m away, over 10 times the median")
    first, second = (path.with_name(f"{stem}.tiff") for stem in "bc")
    assert copies.startswith(f"{root / 'box'}: ")
    assert f"of its scans are copies of others, such as {second} of {first}; keep one" in copies


def test_the_check_ends_with_a_verdict_and_can_be_read_by_scripts(root: Path) -> None:
    def check(*words: str):
        return CliRunner().invoke(app, ["data", "check", str(root), "--preset", "tiny", *words])

    first = check()
    assert isinstance(first.exception, InputError)
    assert "not ready: 1 problem(s), listed above; first:" in str(first.exception)
    values = json.loads(check("--json").stdout)
    assert values["ready"] is False
    assert "validation: no scans in here" in values["problems"][0]
    move_to_validation(drawn_scans(root, "box", 0.4, seed=0))
    done = check()
    assert done.exit_code == 0, done.output
    ready = f"no problem found; ready: lsfa run box --data {root} --preset tiny"
    ready += "; 1 warning(s), listed above"  # the scans are copies of each other
    assert done.output.splitlines()[-1] == ready
    values = json.loads(check("--json").stdout)
    assert values["ready"] is True
    assert [s["kinds"] for s in values["splits"]] == [{"good": 3}, {"good": 2}, {"good": 1}]


def test_a_share_of_training_scans_is_listed_then_moved(root: Path) -> None:
    words = ["data", "split", str(root), "box", "--share", "0.4", "--seed", "3"]
    before = sorted(path for path in root.rglob("*") if path.is_file())
    listed = CliRunner().invoke(app, words)
    assert "nothing was changed; add --move" in listed.output
    assert sorted(path for path in root.rglob("*") if path.is_file()) == before
    content = {path.name: path.read_bytes() for path in (root / "box/train/good/xyz").iterdir()}
    names = listed.output.split("\n2 scans")[0].splitlines()
    assert "2 scans moved to" in CliRunner().invoke(app, [*words, "--move"]).output
    for name in names:
        stem = name.rpartition("/")[2]
        for role, suffix in (("rgb", "png"), ("xyz", "tiff"), ("gt", "png")):
            assert not (root / "box" / "train" / "good" / role / f"{stem}.{suffix}").exists()
            assert (root / "box" / "validation" / "good" / role / f"{stem}.{suffix}").exists()
        moved = root / "box" / "validation" / "good" / "xyz" / f"{stem}.tiff"
        assert moved.read_bytes() == content[moved.name]
    assert check_tree(root, TINY).problems == ()
    with pytest.raises(InputError, match=r"2 of 3 training scans .*|3 of 3 training scans"):
        drawn_scans(root, "box", 0.95, seed=0)


def test_a_name_taken_in_validation_moves_nothing(root: Path) -> None:
    scans = drawn_scans(root, "box", 0.4, seed=0)
    stem = scans[0].name.rpartition("/")[2]
    write_scan(root, tray(f"box/validation/good/{stem}", LARGE))
    with pytest.raises(InputError, match=r"there is a scan of this name already; rename"):
        move_to_validation(scans)
    assert all(file.exists() for scan in scans for file in scan.files)


def test_a_run_scores_what_it_can_and_says_the_rest(tiny: Config, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    shutil.copytree(Path(tiny.data.root) / "seal", root / "seal")
    config = configure(tiny, {"data.root": str(root), "method": "depth_vm"})
    whole = run_category("seal", config, 0).result
    path = root / "seal" / "test" / "good" / "xyz" / "000.tiff"
    xyz = tifffile.imread(path)
    xyz[..., 2] = 0.5 + np.random.default_rng(0).normal(0, 5e-5, xyz.shape[:2])
    tifffile.imwrite(path, xyz, photometric="rgb")
    (root / "seal" / "test" / "good" / "rgb" / "001.png").write_bytes(b"no image")
    part = run_category("seal", config, 0).result
    assert [r["name"] for r in part["refused"]] == ["seal/test/good/000", "seal/test/good/001"]
    assert [r["reason"].partition(": ")[2][:15] for r in part["refused"]] == [
        "no part found a",
        "cannot be decod",
    ]
    left = {r["name"] for r in part["refused"]}
    assert part["scans"] == [s for s in whole["scans"] if s["name"] not in left]
    assert part["counts"]["test_good"] == whole["counts"]["test_good"] - 2
    text = answer(part)
    assert "**Not scored (no part found, or not readable), and in no metric:** 2 of" in text
    assert "good/000: 000.tiff: no part found among" in text
    assert "Not scored" not in answer(whole)
    for path in (root / "seal" / "test").rglob("*.tiff"):
        tifffile.imwrite(path, xyz, photometric="rgb")
    with pytest.raises(InputError, match=r"none of \d+ test scans can be scored; the first: "):
        run_category("seal", config, 0)
