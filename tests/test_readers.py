"""Files as cameras and their software write them: metres, RGB of 8 bits, holes, or a sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fuzz_readers import pcds, plys, points
from PIL import Image, ImageOps
from reader_case import CAMERA, SIZE, brought, colours, depths, put_depth

from lsfa_lib.datasets.image_files import read_colour, read_mask
from lsfa_lib.datasets.importing import Target, find_scans, import_scans
from lsfa_lib.datasets.intrinsics import Intrinsics, at_size, read_intrinsics
from lsfa_lib.datasets.layouts import entries, read_split
from lsfa_lib.datasets.mvtec3d import read_points, scan_file
from lsfa_lib.datasets.own_camera import read_depth, read_organised_cloud
from lsfa_lib.storage.files import InputError

ROWS = [[40.0, 0, 16.0], [0, 40.0, 12.0], [0, 0, 1.0]]
FLAT = [40.0, 0, 16.0, 0, 40.0, 12.0, 0, 0, 1.0]
COLUMNS = [40.0, 0, 0, 0, 40.0, 0, 16.0, 12.0, 1.0]


# Clouds


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("hole", [b"-inf -inf inf", b"nan nan nan", b"0 0 0", b"1 1 -1"])
def test_a_ply_with_any_mark_for_holes_is_exact_elsewhere(
    tmp_path: Path, form: str, hole: bytes
) -> None:
    path = next(p for p in plys(tmp_path) if p.stem == form)
    head, end, body = path.read_bytes().partition(b"end_header\n")
    if form == "ascii":
        lines = body.split(b"\n")
        lines[0] = hole + b" 1 2 3"
        body = b"\n".join(lines)
    else:
        order = ">" if "big" in form else "<"
        body = np.array(hole.split(), float).astype(f"{order}f4").tobytes() + body[12:]
    path.write_bytes(head + end + body)
    _, xyz = read_organised_cloud(path)
    assert xyz[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(xyz.reshape(-1, 3)[1:], points().reshape(-1, 3)[1:])


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_every_form_of_pcd_gives_the_same_points(tmp_path: Path, form: str) -> None:
    path = next(p for p in pcds(tmp_path) if p.stem == form)
    np.testing.assert_array_equal(read_organised_cloud(path)[1], points())


def test_a_cloud_in_millimetres_needs_its_unit(tmp_path: Path) -> None:
    path = next(p for p in plys(tmp_path) if p.stem == "binary_little_endian")
    head, end, body = path.read_bytes().partition(b"end_header\n")
    fields = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)]).copy()
    fields["xyz"] *= 1000
    path.write_bytes(head + end + fields.tobytes())
    with pytest.raises(
        InputError, match=r"expected 0\.02 to 20 m; .*--depth-unit-m, such as 0\.001"
    ):
        read_organised_cloud(path)
    np.testing.assert_allclose(read_organised_cloud(path, 0.001)[1], points(), rtol=1e-6)


def test_a_cloud_without_colour_takes_the_image_beside_it(source: Path) -> None:
    (source / "a_depth.png").unlink()
    z = depths().ravel() / 1000
    lines = "\n".join(f"0 0 {each:.3f}" for each in z)
    # The header does not tell rows and columns: the image does.
    (source / "a.ply").write_text(
        f"ply\nformat ascii 1.0\nelement vertex {len(z)}\nproperty float x\nproperty float y\n"
        f"property float z\nend_header\n{lines}\n"
    )
    scan = brought(source)
    np.testing.assert_array_equal(scan.rgb, colours())
    np.testing.assert_allclose(scan.xyz[..., 2], depths() / 1000, atol=1e-6)


# Depth


@pytest.mark.parametrize(
    ("suffix", "dtype", "scale", "hole"),
    [
        (".png", "uint16", 1, 65535),
        (".tiff", "uint16", 1, 65535),
        (".npy", "int32", 1, -1),
        (".npy", "float64", 0.001, np.nan),
        (".tiff", "float32", 0.001, -1),
        (".tiff", "float32", 1, 3e38),
        (".npy", "float32", 0.001, np.inf),
    ],
)
def test_depth_in_metres_or_millimetres_with_any_mark_for_holes(
    tmp_path: Path, suffix: str, dtype: str, scale: float, hole: float
) -> None:
    depth = (depths() * scale).astype(dtype)
    depth[:5] = hole
    xyz = read_depth(put_depth(tmp_path / f"d{suffix}", depth), Intrinsics(**CAMERA))
    assert not xyz[:5].any()
    z = depths()[5:] / 1000
    u, v = np.meshgrid(np.arange(32), np.arange(5, 24))
    expected = np.stack([(u - 16) * z / 40, (v - 12) * z / 40, z], axis=-1)
    np.testing.assert_allclose(xyz[5:], expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(*SIZE, 1), (1, *SIZE)])
def test_axes_of_one_entry_do_not_matter(tmp_path: Path, shape: tuple[int, ...]) -> None:
    flat = read_depth(put_depth(tmp_path / "a.tiff", depths()), Intrinsics(**CAMERA))
    path = put_depth(tmp_path / "b.tiff", depths().reshape(shape))
    np.testing.assert_array_equal(read_depth(path, Intrinsics(**CAMERA)), flat)


def test_depth_of_8_bits_is_refused(tmp_path: Path) -> None:
    path = put_depth(tmp_path / "d.png", (depths() // 4).astype(np.uint8))
    with pytest.raises(InputError, match=r"d\.png: depths of 8 bits"):
        read_depth(path, Intrinsics(**CAMERA))


def test_points_behind_the_camera_are_no_reading_in_a_tree(tmp_path: Path) -> None:
    xyz = np.ones((*SIZE, 3), np.float32)
    xyz[:3, :, 2] = -1
    tifffile.imwrite(tmp_path / "a.tiff", xyz, photometric="rgb")
    found = read_points(tmp_path / "a.tiff")
    assert not found[:3].any()
    assert (found[3:] == 1).all()


# Colour


def test_grey_of_16_bits_is_scaled_by_its_range(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, SIZE).astype(np.uint16)
    for name in ("a.png", "a.tiff"):
        found = read_colour(put_depth(tmp_path / name, values))
        assert (found == found[..., :1]).all()
        assert np.abs(found[..., 0] - values / 257).max() <= 0.5
    put_depth(tmp_path / "dark.png", values // 16)
    with pytest.raises(InputError, match=r"dark\.png: nearly all of its values are below 1/16"):
        read_colour(tmp_path / "dark.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff"])
def test_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    path, exif = tmp_path / f"a{suffix}", Image.Exif()
    exif[274] = orientation
    Image.fromarray(colours()).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_colour(path), expected)


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(colours()).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    found = read_colour(path)
    assert found.shape == (*SIZE, 3)
    if mode != "CMYK":
        np.testing.assert_array_equal(found, np.array(image.convert("RGB")))


def test_rings_of_jpeg_are_not_marked(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[8:16, 8:16] = 255
    Image.fromarray(mask).save(tmp_path / "a.jpg")
    Image.fromarray(mask).convert("RGB").save(tmp_path / "a.png")
    for name in ("a.jpg", "a.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), mask > 0)


# Cameras


OPENCV = "%YAML:1.0\n---\ncamera_matrix: !!opencv-matrix\n   rows: 3\n   cols: 3\n   data: "
SPELLINGS = {
    "names.json": json.dumps(CAMERA),
    "realsense.json": json.dumps({"fx": 40, "fy": 40, "ppx": 16, "ppy": 12}),
    "open3d.json": json.dumps({"intrinsic_matrix": COLUMNS}),
    "rows.json": json.dumps({"intrinsic_matrix": FLAT}),
    "k.json": json.dumps({"K": ROWS}),
    "nested.json": json.dumps({"depth": CAMERA, "color": {**CAMERA}}),
    "deep.json": json.dumps({"camera": {"intrinsics": CAMERA}}),
    "ros.yaml": f"K: {FLAT}\n",
    "opencv.yml": f"{OPENCV}{FLAT}\n",
    "opencv.xml": "<opencv_storage><camera_matrix><rows>3</rows><data>40 0 16 0 40 12 0 0 1"
    "</data></camera_matrix></opencv_storage>",
    "matrix.txt": "40 0 16\n0 40 12\n0 0 1\n",
    "matrix.csv": "40,0,16\n0,40,12\n0,0,1\n",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_common_software_are_one_camera(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(SPELLINGS[name])
    assert read_intrinsics(tmp_path / name) == Intrinsics(**CAMERA)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fx": 40}, r"no number fy, cx, cy; expected fx, fy, cx, cy \(or ppx, ppy\)"),
        ({"K": [[40, 0, 16], [0, 40, 12]]}, "a matrix of 6 values, expected 3 x 3"),
        ({"K": [40, 0, 16, 0, 40, 12, 0, 0, 2]}, "without the last row 0 0 1"),
        ({**CAMERA, "fx": -40}, "focal lengths -40 and 40 px"),
        ({"left": CAMERA, "right": {**CAMERA, "fx": 41}}, r"2 cameras \(left, right\); keep"),
        ({**CAMERA, "depth_scale": -1}, "depth_scale is -1, expected metres above 0"),
        ([1, 2], "no number fx, fy, cx, cy"),
    ],
)
def test_a_camera_that_cannot_be_read_is_named(tmp_path: Path, values, message: str) -> None:
    (tmp_path / "k.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"k\.json: .*{message}"):
        read_intrinsics(tmp_path / "k.json")


@pytest.mark.parametrize(("scale", "metres"), [(0.00025, 0.00025), (1000, 0.001), ("mm", 0.001)])
def test_a_depth_scale_is_metres_or_units_a_metre(tmp_path: Path, scale, metres: float) -> None:
    (tmp_path / "k.json").write_text(json.dumps({"intrinsics": CAMERA, "depth_scale": scale}))
    assert read_intrinsics(tmp_path / "k.json").metres == pytest.approx(metres)


def test_intrinsics_of_another_size_are_scaled_about_the_image_centre(tmp_path: Path) -> None:
    large = Intrinsics(80.0, 80.0, 32.5, 24.5, width=64, height=48)
    small = at_size(large, 32, 24, tmp_path / "a.png")
    assert (small.fx, small.cx, small.cy) == pytest.approx((40, 16.0, 12.0))
    with pytest.raises(InputError, match=r"of 64 x 48 px, but .*a\.png is 32 x 32 px"):
        at_size(large, 32, 32, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (Intrinsics(40.0, 40.0, 0.0, 0.0), r"principal point \(0, 0\) is not inside"),
        (Intrinsics(40.0, 40.0, 40.0, 12.0), r"principal point \(40, 12\) is not inside"),
        (Intrinsics(1.2, 1.2, 16.0, 12.0), "a focal length of 1.2 px for 32 px"),
    ],
)
def test_geometry_that_no_camera_has_is_refused(camera: Intrinsics, message: str) -> None:
    with pytest.raises(InputError, match=message):
        at_size(camera, 32, 24, Path("a.png"))


def test_depth_of_lower_resolution_is_registered_by_the_intrinsics(source: Path) -> None:
    """A phone's depth: the same view with fewer pixels; intrinsics of the photograph."""
    fine = np.repeat(np.repeat(colours(), 4, axis=0), 4, axis=1)
    Image.fromarray(fine).save(source / "a.png")
    (source.parent / "camera.json").write_text(
        json.dumps({"fx": 160, "fy": 160, "cx": 65.5, "cy": 49.5, "width": 128, "height": 96})
    )
    scan = brought(source)
    np.testing.assert_array_equal(scan.rgb, colours())
    z = depths() / 1000
    np.testing.assert_allclose(scan.xyz[..., 0], (np.arange(32) - 16) * z / 40, atol=1e-6)


def test_two_cameras_in_one_place_are_registered_pixel_by_pixel(source: Path) -> None:
    """A colour camera of half the depth camera's field: black where it sees nothing."""
    Image.fromarray(np.repeat(np.repeat(colours(), 2, 0), 2, 1)).save(source / "a.png")
    depth = {**CAMERA, "width": 32, "height": 24}
    colour = {"fx": 160, "fy": 160, "cx": 33.5, "cy": 25.5, "width": 64, "height": 48}
    (source.parent / "camera.json").write_text(json.dumps({"depth": depth, "color": colour}))
    rgb = brought(source).rgb
    assert not rgb[:6].any()
    assert not rgb[:, :8].any()
    # Pixel (u, v) of the depth image is the mean of 4 x 4 around 4 (u - 16) + 33.5.
    fine = np.repeat(np.repeat(colours(), 2, 0), 2, 1).astype(float)
    np.testing.assert_allclose(rgb[13, 18], fine[28:32, 40:44].mean((0, 1)), atol=1.01)
    (source / "a_depth.png").unlink()
    put_depth(source / "a_depth.png", np.repeat(np.repeat(depths(), 2, 0), 2, 1))
    # Depth of the colour image's size was registered to it: its camera counts.
    target = Target(source.parent / "other", "part", "train")
    import_scans(source, target, source.parent / "camera.json")
    (scan,) = read_split(target.root, "part", "train")
    assert scan.xyz[0, 0, 0] == pytest.approx(-33.5 * scan.xyz[0, 0, 2] / 160, rel=1e-5)


# Names


@pytest.mark.parametrize(
    ("colour", "depth", "stem"),
    [
        ("x_Color.png", "x_Depth.png", "x"),
        ("x-rgb.png", "x-depth.png", "x"),
        ("x.color.PNG", "x.depth.PNG", "x"),
        ("color_0001.png", "depth_0001.png", "0001"),
        ("cam_color_01.png", "cam_depth_01.png", "cam_01"),
        ("rgb_cam_1.png", "rgb_cam_1_depth.png", "rgb_cam_1"),
        ("RGB/1.png", "Depth/1.png", "1"),
        ("images/1.png", "depth/1_depth.png", "1"),
        ("color.png", "depth.png", "source"),
    ],
)
def test_case_and_separators_do_not_matter(
    source: Path, colour: str, depth: str, stem: str
) -> None:
    for old, new in (("a.png", colour), ("a_depth.png", depth)):
        (source / new).parent.mkdir(exist_ok=True)
        (source / old).rename(source / new)
    (scan,) = find_scans(source, Target(source.parent, "part", "train"))
    assert scan.name == f"part/train/good/{stem}"
    assert (scan.rgb, scan.xyz) == (source / colour, source / depth)


def test_names_that_do_not_pair_are_shown(source: Path) -> None:
    (source / "a_depth.png").rename(source / "a_z16.raw")
    with pytest.raises(InputError, match=r"no depth image a_depth\.png .*seen: a\.png, a_z16\.raw"):
        find_scans(source, Target(source.parent, "part", "train"))


@pytest.mark.parametrize(
    "name", ["a_mask.jpg", "a_mask.tif", "a-Mask.bmp", "ground_truth/a.png", "masks/a_mask.png"]
)
def test_masks_of_any_form_are_found(source: Path, name: str) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[8:16, 8:16] = 255
    (source / name).parent.mkdir(exist_ok=True)
    Image.fromarray(mask).save(source / name)
    if "/" in name:
        for role, old in (("rgb", "a.png"), ("depth", "a_depth.png")):
            (source / role).mkdir()
            (source / old).rename(source / role / "a.png")
    scan = brought(source, split="test", kind="dent")
    np.testing.assert_array_equal(scan.defect, mask > 0)


def test_a_mask_among_good_scans_is_refused(source: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    Image.fromarray(mask).save(source / "a_mask.png")
    assert not brought(source).defect.any()
    mask[0, 0] = 255
    Image.fromarray(mask).save(source / "a_mask.png")
    target = Target(source.parent / "other", "part", "train")
    with pytest.raises(InputError, match=r"a_mask\.png: marks 1 pixels .* imported as good"):
        import_scans(source, target, source.parent / "camera.json")


def test_another_scan_of_the_same_name_is_not_lost(source: Path) -> None:
    camera, root = source.parent / "camera.json", source.parent / "mine"
    assert import_scans(source, Target(root, "part", "train"), camera).written == 1
    assert import_scans(source, Target(root, "part", "train"), camera).written == 0
    Image.fromarray(colours(1)).save(source / "a.png")
    with pytest.raises(InputError, match=r"a different scan is called part/train/good/a already"):
        import_scans(source, Target(root, "part", "train"), camera)
    assert import_scans(source, Target(root, "part", "train", prefix="day2_"), camera).written == 1
    assert [e.name[-6:] for e in entries(root, "part", "train")] == ["good/a", "day2_a"]


@pytest.mark.parametrize("left", [("gt",), ("gt", "rgb")])
def test_an_import_that_was_killed_at_its_first_scan_is_completed(
    source: Path, left: tuple[str, ...]
) -> None:
    whole = brought(source)
    for role in {"gt", "rgb", "xyz"}.difference(left):
        shutil.rmtree(source.parent / "mine" / "part" / "train" / "good" / role)
    again = brought(source)
    np.testing.assert_array_equal(again.rgb, whole.rgb)
    np.testing.assert_array_equal(again.xyz, whole.xyz)


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [("", "a different scan is called part/train/good/a already"), ("b", "its scans have colour,")],
)
def test_colour_without_points_is_never_replaced(source: Path, prefix: str, reason: str) -> None:
    (source / "a_depth.png").rename(source.parent / "a_depth.png")
    target = Target(source.parent / "mine", "part", "train", images_only=True)
    import_scans(source, target)
    kept = scan_file(target.root, "part/train/good/a", "rgb").read_bytes()
    (source.parent / "a_depth.png").rename(source / "a_depth.png")
    Image.fromarray(colours(1)).save(source / "a.png")
    with pytest.raises(InputError, match=reason):
        brought(source, prefix=prefix)
    assert scan_file(target.root, "part/train/good/a", "rgb").read_bytes() == kept


def test_images_alone_are_imported_where_asked_for(source: Path) -> None:
    (source / "a_depth.png").unlink()
    target = Target(source.parent / "mine", "part", "train", images_only=True)
    import_scans(source, target)
    (scan,) = read_split(target.root, "part", "train")
    assert scan.modalities == ("rgb",)
    np.testing.assert_array_equal(scan.rgb, colours())


def test_a_tree_in_other_modes_is_converted_by_an_import(source: Path) -> None:
    tree = source.parent / "tree" / "part" / "train" / "good"
    for role in ("rgb", "xyz"):
        (tree / role).mkdir(parents=True)
    Image.fromarray(colours()).convert("RGBA").save(tree / "rgb" / "0.png")
    xyz = np.random.default_rng(0).random((*SIZE, 3), np.float32)
    tifffile.imwrite(tree / "xyz" / "0.tiff", xyz, photometric="rgb")
    with pytest.raises(
        InputError,
        match=rf"`lsfa data import {tree} part --root data/converted --split train --kind good`",
    ):
        read_split(source.parent / "tree", "part", "train")[0]
    target = Target(source.parent / "mine", "part", "train")
    assert import_scans(tree, target).names == ["part/train/good/0"]
    (scan,) = read_split(target.root, "part", "train")
    np.testing.assert_array_equal(scan.rgb, colours())
    np.testing.assert_allclose(scan.xyz, xyz, rtol=1e-6)


def test_files_of_a_tree_under_other_names_are_read_or_shown(source: Path) -> None:
    folder = source.parent / "tree" / "part" / "test" / "dent"
    for role in ("rgb", "xyz", "ground_truth"):
        (folder / role).mkdir(parents=True)
    Image.fromarray(colours()).save(folder / "rgb" / "0.jpg")
    Image.fromarray(colours()[..., 0]).save(folder / "ground_truth" / "0.tif")
    np.save(folder / "xyz" / "0.npy", np.ones((*SIZE, 3), np.float32))
    with pytest.raises(InputError, match=r"0\.tiff is missing; .*0\.npy was found"):
        entries(source.parent / "tree", "part", "test")
    tifffile.imwrite(folder / "xyz" / "0.tiff", np.ones((*SIZE, 3), np.float32))
    (entry,) = entries(source.parent / "tree", "part", "test")
    assert entry.gt == folder / "ground_truth" / "0.tif"
