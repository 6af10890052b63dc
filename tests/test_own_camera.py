import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lsfa_lib.datasets.own_camera import (
    Intrinsics,
    read_depth,
    read_intrinsics,
    read_organised_cloud,
)
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.open3d import load_open3d

REAL_SCANS = Path(__file__).parents[2] / "shared" / "real_scans"
FRAME = "frame_20121214T142255.814212"
CAMERA = Intrinsics(fx=500.0, fy=400.0, cx=1.5, cy=0.5, metres=0.001)
DEPTH = np.array([[1000, 0, 2000, 500], [0, 800, 65535, 1]], np.uint16)


def write_pcd(path: Path, width: int, height: int, colour: bool = True) -> Path:
    """Points (0, 0, 1), (1, 1, 2), ..., the second one not read, colours of rising red."""
    fields = "x y z rgb" if colour else "x y z"
    count = 4 if colour else 3
    header = (
        f"VERSION 0.7\nFIELDS {fields}\nSIZE {'4 ' * count}\nTYPE {'F ' * 3}{'U' * colour}\n"
        f"COUNT {'1 ' * count}\nWIDTH {width}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {width * height}\nDATA ascii\n"
    )
    rows = []
    for i in range(width * height):
        point = "nan nan nan" if i == 1 else f"{i} {i} {i + 1}"
        rows.append(f"{point} {(i * 10 << 16) + 7}" if colour else point)
    path.write_text(header + "\n".join(rows) + "\n")
    return path


def test_organised_pcd_keeps_its_rows_and_zeroes_what_was_not_read(tmp_path: Path) -> None:
    rgb, xyz = read_organised_cloud(write_pcd(tmp_path / "scan.pcd", width=3, height=2))
    assert rgb.shape == xyz.shape == (2, 3, 3)
    assert xyz[1, 2].tolist() == [5, 5, 6]
    assert xyz[0, 1].tolist() == [0, 0, 0]
    assert rgb[1, 0].tolist() == [30, 0, 7]


def test_clouds_without_rows_or_colours_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"flat\.pcd: 6 points of 6 x 1, expected an organised"):
        read_organised_cloud(write_pcd(tmp_path / "flat.pcd", width=6, height=1))
    with pytest.raises(InputError, match=r"grey\.pcd: no colours, or only black"):
        read_organised_cloud(write_pcd(tmp_path / "grey.pcd", width=3, height=2, colour=False))
    (tmp_path / "mesh.ply").write_text("ply\nformat ascii 1.0\n")
    with pytest.raises(InputError, match=r"mesh\.ply: .*no end_header in its header"):
        read_organised_cloud(tmp_path / "mesh.ply")


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_depth_becomes_points_of_a_pinhole_camera(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"depth.{suffix}"
    if suffix == "png":
        Image.fromarray(DEPTH).save(path)
    else:
        tifffile.imwrite(path, DEPTH)
    xyz = read_depth(path, CAMERA)
    for v in range(2):
        for u in range(4):
            z = DEPTH[v, u] % 65535 / 1000  # the largest number stands for no reading
            assert xyz[v, u] == pytest.approx([(u - 1.5) * z / 500, (v - 0.5) * z / 400, z])


def test_depth_in_metres_may_mark_holes_with_nan(tmp_path: Path) -> None:
    path = tmp_path / "depth.tiff"
    tifffile.imwrite(path, np.array([[1.5, np.nan], [np.inf, 0.25]], np.float32))
    xyz = read_depth(path, Intrinsics(fx=1.0, fy=1.0, cx=0.5, cy=0.5, metres=1.0))
    assert xyz[..., 2].tolist() == [[1.5, 0], [0, 0.25]]
    assert np.isfinite(xyz).all()


def test_a_colour_image_is_no_depth_image(tmp_path: Path) -> None:
    path = tmp_path / "rgb.png"
    Image.new("RGB", (4, 2)).save(path)
    with pytest.raises(InputError, match=r"rgb\.png: an image of shape \(2, 4, 3\), expected one"):
        read_depth(path, CAMERA)


def test_intrinsics_that_lack_a_value_are_named(tmp_path: Path) -> None:
    path = tmp_path / "camera.xml"
    path.write_text("<depth><focal_length_x>500</focal_length_x></depth>")
    with pytest.raises(InputError, match=r"\.xml: no number fy, cx, cy; expected fx, fy"):
        read_intrinsics(path)
    path.write_text("<rgb></rgb>")
    with pytest.raises(InputError, match=r"\.xml: no number fx, fy, cx, cy; .* under `depth`"):
        read_intrinsics(path)
    path.write_text("<depth><focal_length_x>wide</focal_length_x></depth>")
    with pytest.raises(InputError, match=r"\.xml: no number fx"):
        read_intrinsics(path)
    path.write_text("<depth>")
    with pytest.raises(InputError, match=r"camera\.xml: not readable as XML"):
        read_intrinsics(path)


@pytest.mark.skipif(
    not REAL_SCANS.is_dir(), reason="the folder of real scans is not beside this repository"
)
def test_depth_and_cloud_of_one_real_frame_agree() -> None:
    camera = read_intrinsics(REAL_SCANS / f"{FRAME}.xml")
    assert camera == Intrinsics(fx=525.0, fy=525.0, cx=320.0, cy=240.0, metres=0.001)
    xyz = read_depth(REAL_SCANS / f"{FRAME}_depth.tiff", camera)
    rgb, cloud = read_organised_cloud(REAL_SCANS / f"{FRAME}.pcd")
    assert (xyz[..., 2] != 0).sum() == 271575
    assert np.abs(xyz - cloud).max() < 1e-6
    assert (rgb == tifffile.imread(REAL_SCANS / f"{FRAME}_rgb.tiff")).all()


def test_missing_open3d_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)  # Python's own way to make an import fail
    with pytest.raises(InputError, match=r"open3d cannot be imported .*apt-get install libusb-1.0"):
        load_open3d()
