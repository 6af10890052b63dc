"""Scans without labels are found in every layout and read as the importer reads them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lsfa_lib.datasets import eyecandies
from lsfa_lib.datasets.importing import Target, import_scans
from lsfa_lib.datasets.incoming import find_incoming, read_incoming, require_camera, require_scans
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.datasets.own_camera import Intrinsics
from lsfa_lib.records import MODALITIES, UNLABELLED, Scan
from lsfa_lib.storage.files import InputError

REAL = Path(__file__).parents[2] / "shared" / "real_scans"
FRAME = "frame_20121214T142255.814212"
CAMERA = Intrinsics(700.0, 700.0, 100.0, 100.0, 0.001)


def found(*paths: Path, captured: tuple[str, ...] = MODALITIES) -> list[str]:
    return [entry.name for entry in find_incoming(paths, captured, 4).entries]


def scans(path: Path, camera: Intrinsics | None = None) -> list[Scan]:
    entries = find_incoming([path], MODALITIES, 4).entries
    return [read_incoming(entry, camera) for entry in entries]


def test_mvtec_folders_and_single_files(demo_root: Path) -> None:
    test = demo_root / "seal" / "test"
    expected = {
        scan.name.split("/test/")[1]: scan for scan in read_split(demo_root, "seal", "test")
    }
    read = scans(test)
    assert [scan.name for scan in read] == sorted(expected)
    for scan in read:
        same = expected[scan.name]
        assert np.array_equal(scan.rgb, same.rgb) and np.array_equal(scan.xyz, same.xyz)
        assert scan.kind == UNLABELLED and not scan.defect.any()
    assert found(test / "good") == ["000", "001", "002"]
    assert found(test / "good" / "rgb" / "001.png") == ["001"]
    assert found(test / "good" / "xyz" / "001.tiff") == ["001"]


def own_camera(folder: Path, scan: Scan) -> None:
    """Writes the scan as colour image, depth image in millimetres, and as organised cloud."""
    (folder / "pairs").mkdir(parents=True)
    Image.fromarray(scan.rgb).save(folder / "pairs" / "a.png")
    depth = np.rint(scan.xyz[..., 2] * 1000).astype(np.uint16)
    Image.fromarray(depth).save(folder / "pairs" / "a_depth.png")
    (folder / "organised").mkdir()
    height, width = scan.rgb.shape[:2]
    fields = ("VERSION .7", "FIELDS x y z rgb", "SIZE 4 4 4 4", "TYPE F F F U", "COUNT 1 1 1 1")
    header = [*fields, f"WIDTH {width}", f"HEIGHT {height}", "VIEWPOINT 0 0 0 1 0 0 0"]
    header += [f"POINTS {width * height}", "DATA binary", ""]
    cells = np.zeros((height, width), [(a, "<f4") for a in "xyz"] + [("rgb", "<u4")])
    for i, axis in enumerate("xyz"):
        cells[axis] = scan.xyz[..., i]
    cells["rgb"] = scan.rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    (folder / "organised" / "b.pcd").write_bytes("\n".join(header).encode() + cells.tobytes())


def test_own_camera_is_read_as_it_is_imported(demo_root: Path, tmp_path: Path) -> None:
    scan = read_split(demo_root, "seal", "test")[0]
    own_camera(tmp_path, scan)
    incoming = find_incoming([tmp_path], MODALITIES, 4)
    assert [entry.name for entry in incoming.entries] == ["organised/b", "pairs/a"]
    with pytest.raises(InputError, match=r"a_depth\.png: depth images need .* --intrinsics"):
        require_camera(incoming, None)
    require_camera(incoming, CAMERA)
    values = {"fx": 700, "fy": 700, "cx": 100, "cy": 100}
    (tmp_path / "camera.json").write_text(json.dumps(values))
    for name in ("organised", "pairs"):
        target = Target(tmp_path / "data", name, "test", UNLABELLED)
        import_scans(tmp_path / name, target, tmp_path / "camera.json")
        (imported,) = (s for s in read_split(tmp_path / "data", name, "test"))
        (read,) = scans(tmp_path / name, CAMERA)
        assert np.array_equal(read.rgb, imported.rgb) and np.array_equal(read.xyz, imported.xyz)
    assert found(tmp_path / "organised" / "b.pcd") == ["b"]
    assert found(tmp_path / "pairs" / "a_depth.png") == ["a"] == found(tmp_path / "pairs" / "a.png")


def test_eyecandies_items(demo_root: Path, tmp_path: Path) -> None:
    scan = replace(
        read_split(demo_root, "seal", "test")[0], name="seal/train/good/007", kind="good"
    )
    eyecandies.write_scan(tmp_path, scan, [scan.rgb] * 6, np.zeros_like(scan.xyz))
    (expected,) = read_split(tmp_path, "seal", "train")
    for place in (tmp_path / "seal" / "train", tmp_path / "seal" / "train" / "data"):
        (read,) = scans(place)
        assert read.name == "007"
        assert np.array_equal(read.rgb, expected.rgb) and np.array_equal(read.xyz, expected.xyz)
    assert found(tmp_path / "seal") == ["train/007"]
    assert found(tmp_path / "seal" / "train" / "data" / "007_depth.png") == ["007"]
    (tmp_path / "seal" / "train" / "data" / "007_depth.png").unlink()
    (sentence,) = find_incoming([tmp_path], MODALITIES, 4).problems.values()
    assert "007_depth.png is missing" in sentence
    (entry,) = find_incoming([tmp_path / "seal"], ("rgb",), 2).entries
    assert entry.rgb.name == "007_image_2.png" and entry.xyz is None


def test_images_alone_for_a_detector_without_3d(demo_root: Path, tmp_path: Path) -> None:
    image = demo_root / "seal" / "test" / "good" / "rgb" / "000.png"
    shutil.copyfile(image, tmp_path / "part.png")
    shutil.copyfile(image, tmp_path / "part_mask.png")
    (tmp_path / "results").mkdir()
    shutil.copyfile(image, tmp_path / "results" / "overlay.png")
    assert found(tmp_path, captured=("rgb",)) == ["part", "results/overlay"]
    (entry,) = find_incoming([tmp_path], ("rgb",), 4, tmp_path / "results").entries
    assert entry.name == "part"
    assert read_incoming(entry, None).modalities == ("rgb",)
    incoming = find_incoming([tmp_path], MODALITIES, 4)
    assert not incoming.entries
    assert "no depth image part_depth.png" in next(iter(incoming.problems.values()))


def test_names_that_occur_twice_are_said(demo_root: Path, tmp_path: Path) -> None:
    for part in ("a", "b"):
        shutil.copytree(demo_root / "seal" / "test" / "hole", tmp_path / part)
    assert found(tmp_path) == ["a/000", "b/000"]
    both = find_incoming([tmp_path / "a", tmp_path / "b"], MODALITIES, 4)
    assert [entry.name for entry in both.entries] == ["000"]
    (sentence,) = both.problems.values()
    assert sentence.endswith(
        "is called 000 too; rename one, or predict them into different folders"
    )
    shutil.copyfile(tmp_path / "a/rgb/000.png", tmp_path / "a/rgb/000.jpg")
    twice = find_incoming([tmp_path / "a"], MODALITIES, 4)
    assert any("has this stem too; keep one" in text for text in twice.problems.values())


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scans in here; expected folders rgb and xyz"):
        require_scans(find_incoming([tmp_path], MODALITIES, 4), [tmp_path])


@pytest.mark.skipif(not REAL.is_dir(), reason="public frames are not at hand")
def test_public_frames(tmp_path: Path) -> None:
    shutil.copyfile(REAL / f"{FRAME}.pcd", tmp_path / "kinect.pcd")
    (scan,) = scans(tmp_path)
    assert scan.rgb.shape == scan.xyz.shape and scan.xyz[..., 2].max() > 0.5
