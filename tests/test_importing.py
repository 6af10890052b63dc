"""Scans of one's own camera, brought into the MVTec 3D-AD layout."""

import json
import shutil
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.datasets.importing import Target, find_scans, import_scans
from lsfa_lib.datasets.layouts import entries, read_split
from lsfa_lib.datasets.own_camera import Intrinsics, read_intrinsics, read_organised_cloud
from lsfa_lib.datasets.tree_check import check_tree
from lsfa_lib.storage.files import InputError

REAL_SCANS = Path(__file__).parents[2] / "shared" / "real_scans"
FRAME = "frame_20121214T142255.814212"
SIZE = (12, 16)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def colours(seed: int = 0) -> np.ndarray:
    return rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def depths(seed: int = 0) -> np.ndarray:
    found = rng(seed).integers(400, 600, SIZE).astype(np.uint16)
    found[0, 0] = 0
    return found


def write_depth(path: Path, depth: np.ndarray) -> None:
    if path.suffix == ".exr":
        metres = depth.astype(np.float32) / 1000
        OpenEXR.File({"type": OpenEXR.scanlineimage}, {"Z": metres}).write(str(path))
    elif path.suffix == ".tiff":
        tifffile.imwrite(path, depth)
    else:
        Image.fromarray(depth).save(path)


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({"fx": 20.0, "fy": 22.0, "cx": 8.0, "cy": 6.0}))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two scans, a and b."""
    folder = tmp_path / "source"
    folder.mkdir()
    for seed, stem in enumerate("ab"):
        Image.fromarray(colours(seed)).save(folder / f"{stem}.png")
        write_depth(folder / f"{stem}_depth.png", depths(seed))
    return folder


def pinhole(depth_m: np.ndarray) -> np.ndarray:
    """Points of the camera above, pixel by pixel."""
    points = np.zeros((*depth_m.shape, 3))
    for v in range(depth_m.shape[0]):
        for u in range(depth_m.shape[1]):
            z = depth_m[v, u]
            points[v, u] = (u - 8) * z / 20, (v - 6) * z / 22, z
    return points


@pytest.mark.parametrize(("suffix", "unit"), [(".png", 0.0), (".tiff", 0.0), (".exr", 1.0)])
def test_colour_and_depth_become_a_scan(
    source: Path, camera: Path, tmp_path: Path, suffix: str, unit: float
) -> None:
    for seed, stem in enumerate("ab"):
        (source / f"{stem}_depth.png").unlink()
        write_depth(source / f"{stem}_depth{suffix}", depths(seed))
    before = {path: path.read_bytes() for path in source.iterdir()}
    target = Target(tmp_path / "mine", "bracket", "train")
    assert import_scans(source, target, camera, unit).names == [
        "bracket/train/good/a",
        "bracket/train/good/b",
    ]
    for seed, scan in enumerate(read_split(tmp_path / "mine", "bracket", "train")):
        np.testing.assert_array_equal(scan.rgb, colours(seed))
        np.testing.assert_allclose(scan.xyz, pinhole(depths(seed) / 1000), atol=1e-6)
        assert scan.xyz[0, 0].tolist() == [0, 0, 0]
        assert not scan.defect.any()
    assert {path: path.read_bytes() for path in source.iterdir()} == before


@pytest.mark.parametrize("suffix", [".pcd", ".ply"])
def test_an_organised_cloud_becomes_a_scan(tmp_path: Path, suffix: str) -> None:
    points, rgb = pinhole(depths() / 1000), colours()
    points[0, 0] = np.nan
    rows = [
        (*p, *c) for p, c in zip(points.reshape(-1, 3), rgb.reshape(-1, 3).tolist(), strict=True)
    ]
    source = tmp_path / "clouds"
    source.mkdir()
    if suffix == ".ply":
        header = (
            f"ply\nformat ascii 1.0\nobj_info num_cols {SIZE[1]}\nobj_info num_rows {SIZE[0]}\n"
            f"element vertex {len(rows)}\nproperty float x\nproperty float y\nproperty float z\n"
            "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
        )
        lines = [" ".join(map(str, row)) for row in rows]
    else:
        header = (
            "VERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
            f"WIDTH {SIZE[1]}\nHEIGHT {SIZE[0]}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(rows)}\n"
            "DATA ascii\n"
        )
        lines = [f"{x} {y} {z} {(r << 16) + (g << 8) + b}" for x, y, z, r, g, b in rows]
    (source / f"part{suffix}").write_text(header + "\n".join(lines) + "\n")
    import_scans(source, Target(tmp_path / "mine", "part", "train"))
    (scan,) = read_split(tmp_path / "mine", "part", "train")
    np.testing.assert_array_equal(scan.rgb, rgb)
    np.testing.assert_allclose(scan.xyz, np.nan_to_num(points), atol=1e-6)


def test_folders_of_one_role_are_read_too(source: Path, camera: Path, tmp_path: Path) -> None:
    folders = tmp_path / "folders"
    for role in ("rgb", "depth", "gt"):
        (folders / role).mkdir(parents=True)
    mask = np.zeros(SIZE, np.uint8)
    mask[2:5, 3:7] = 255
    for stem in "ab":
        shutil.copy(source / f"{stem}.png", folders / "rgb" / f"{stem}.png")
        shutil.copy(source / f"{stem}_depth.png", folders / "depth" / f"{stem}.png")
        Image.fromarray(mask).save(folders / "gt" / f"{stem}.png")
    target = Target(tmp_path / "mine", "bracket", "test", "scratch")
    import_scans(folders, target, camera)
    for scan in read_split(tmp_path / "mine", "bracket", "test"):
        assert scan.kind == "scratch"
        np.testing.assert_array_equal(scan.defect, mask > 0)


def test_what_was_imported_is_left_alone(source: Path, camera: Path, tmp_path: Path) -> None:
    target = Target(tmp_path / "mine", "bracket", "train")
    import_scans(source, target, camera)
    first = tmp_path / "mine" / "bracket" / "train" / "good" / "xyz" / "a.tiff"
    written = first.stat().st_mtime_ns
    (source / "c.png").write_bytes((source / "a.png").read_bytes())
    (source / "c_depth.png").write_bytes((source / "a_depth.png").read_bytes())
    assert len(import_scans(source, target, camera).names) == 3
    assert first.stat().st_mtime_ns == written
    assert len(entries(tmp_path / "mine", "bracket", "train")) == 3


@pytest.mark.parametrize("name", ["", "ground_truth"])
def test_an_import_follows_the_masks_that_are_there(
    source: Path, camera: Path, tmp_path: Path, name: str
) -> None:
    root, folder = tmp_path / "mine", tmp_path / "mine" / "bracket" / "train" / "good"
    import_scans(source, Target(root, "bracket", "train"), camera)
    if name:
        (folder / "gt").rename(folder / name)
    else:
        shutil.rmtree(folder / "gt")
    import_scans(source, Target(root, "bracket", "train", prefix="day2_"), camera)
    found = entries(root, "bracket", "train")
    assert [Path(entry.name).name for entry in found] == ["a", "b", "day2_a", "day2_b"]
    assert {entry.gt and entry.gt.parent.name for entry in found} == {name or None}
    assert not (folder / "gt").exists()


def test_unlabelled_scans_need_no_mask(source: Path, camera: Path, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    import_scans(source, Target(root, "bracket", "train"), camera)
    import_scans(source, Target(root, "bracket", "validation"), camera)
    import_scans(source, Target(root, "bracket", "test", "unlabelled"), camera)
    assert not (root / "bracket" / "test" / "unlabelled" / "gt").exists()
    assert [e.kind for e in entries(root, "bracket", "test")] == ["unlabelled", "unlabelled"]
    assert [p for p in check_tree(root).problems if "defective" in p] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (s / "a_depth.png").unlink(), r"a\.png: no depth image a_depth\.png"),
        (lambda s: (s / "a.png").unlink(), r"a_depth\.png: no colour image a\.png next to it"),
        (lambda s: (s / "a.pcd").write_text(""), r"a_depth\.png: there is a cloud a too"),
        (
            lambda s: [(s / f"a{suffix}").write_text("") for suffix in (".pcd", ".ply")],
            r"a\.ply: a\.pcd is the same scan's cloud; keep one",
        ),
        (
            lambda s: Image.fromarray(colours()).save(s / "a_rgb.jpg"),
            r"a_rgb\.jpg: a\.png is the same scan's colour; keep one",
        ),
        (lambda s: (s / "a.png").write_bytes(b"no"), r"a\.png: cannot be decoded"),
        (lambda s: (s / "a_depth.png").write_bytes(b""), r"a_depth\.png: the file is empty"),
        (
            lambda s: Image.fromarray(colours()[:6]).save(s / "a.png"),
            r"16 x 6 px, but .*a_depth\.png is 16 x 12 px; register",
        ),
        (
            lambda s: Image.fromarray(np.zeros(SIZE, np.uint16)).save(s / "a_depth.png"),
            r"a_depth\.png: no reading at all",
        ),
        (lambda s: Image.fromarray(colours()).save(s / "a_depth.png"), "expected one channel"),
    ],
)
def test_a_wrong_source_is_named(
    source: Path, camera: Path, tmp_path: Path, change, message: str
) -> None:
    change(source)
    with pytest.raises(InputError, match=message):
        import_scans(source, Target(tmp_path / "mine", "bracket", "train"), camera)


def test_wrong_targets_and_missing_intrinsics_are_said(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for target, message in [
        (Target(root, "bracket", "train"), "pass the camera file with --intrinsics"),
        (Target(root, "a/b", "train"), "'a/b' cannot be a folder's name"),
        (Target(root, "bracket", "train", "scratch"), "train may hold only `good` scans"),
    ]:
        with pytest.raises(InputError, match=message):
            import_scans(source, target)
    with pytest.raises(InputError, match="no such folder"):
        import_scans(tmp_path / "nowhere", Target(root, "bracket", "train"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no scans in here; expected NAME\.png with"):
        import_scans(tmp_path / "empty", Target(root, "bracket", "train"))


def test_a_defect_needs_a_mask_that_marks_something(
    source: Path, camera: Path, tmp_path: Path
) -> None:
    target = Target(tmp_path / "mine", "bracket", "test", "scratch")
    with pytest.raises(InputError, match=r"needs a mask a_mask\.png .* --kind unlabelled"):
        import_scans(source, target, camera)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(source / "a_mask.png")
    with pytest.raises(InputError, match=r"a_mask\.png: marks 0 pixels of 16 x 12"):
        import_scans(source, target, camera)


def test_open3ds_intrinsics_and_a_unit_are_read(tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    matrix = [20.0, 0, 0, 0, 22.0, 0, 8.0, 6.0, 1.0]
    path.write_text(json.dumps({"intrinsic_matrix": matrix, "depth_unit_m": 0.0001}))
    assert read_intrinsics(path) == Intrinsics(20.0, 22.0, 8.0, 6.0, 0.0001)
    path.write_text(json.dumps({"fx": 20.0, "fy": "x"}))
    with pytest.raises(InputError, match=r"camera\.json: no number fy, cx, cy"):
        read_intrinsics(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"camera\.json: not readable as JSON"):
        read_intrinsics(path)


def test_an_exr_of_several_channels_needs_one_called_z(tmp_path: Path, camera: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    Image.fromarray(colours()).save(source / "a.png")
    channels = {name: np.ones(SIZE, np.float32) for name in ("left.R", "left.G")}
    path = source / "a_depth.exr"
    OpenEXR.File({"type": OpenEXR.scanlineimage}, channels).write(str(path))
    with pytest.raises(InputError, match=r"a_depth\.exr: channels .* expected one called Z"):
        import_scans(source, Target(tmp_path / "mine", "part", "train"), camera)


@pytest.mark.skipif(
    not REAL_SCANS.is_dir(), reason="the folder of real scans is not beside this repository"
)
def test_a_real_kinect_frame_is_imported_as_the_document_says(tmp_path: Path) -> None:
    source, root = tmp_path / "kinect", tmp_path / "mine"
    source.mkdir()
    for role in ("rgb", "depth"):
        shutil.copy(REAL_SCANS / f"{FRAME}_{role}.tiff", source)
    command = ["data", "import", str(source), "desk", "--root", str(root)]
    command += ["--intrinsics", str(REAL_SCANS / f"{FRAME}.xml")]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    assert f"{root / 'desk'}: 1 scan in train/good" in outcome.output
    (scan,) = read_split(root, "desk", "train")
    _, cloud = read_organised_cloud(REAL_SCANS / f"{FRAME}.pcd")
    seen = (scan.xyz != 0).any(-1) & (cloud != 0).any(-1)
    assert seen.sum() > 200_000
    assert np.linalg.norm(scan.xyz - cloud, axis=-1)[seen].max() < 0.002
    target = Target(root, "desk", "train")
    assert [s.name for s in find_scans(source, target)] == [f"desk/train/good/{FRAME}"]
    document = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    measured = (scan.xyz != 0).any(-1)
    assert f"{measured.sum():,} of its {measured.size:,} pixels" in document
