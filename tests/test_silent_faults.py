"""Files that used to give a wrong result without a message: now read correctly, or refused."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_readers import plys
from PIL import Image
from reader_case import CAMERA, SIZE, brought, colours, depths, put_depth
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.config import TINY
from lsfa_lib.datasets.image_files import read_colour, read_mask
from lsfa_lib.datasets.importing import Target, import_scans
from lsfa_lib.datasets.intrinsics import at_size, read_intrinsics
from lsfa_lib.datasets.layouts import entries, read_split
from lsfa_lib.datasets.own_camera import read_depth, read_organised_cloud
from lsfa_lib.datasets.registration import Grid, mask_on
from lsfa_lib.datasets.splitting import move_to_validation
from lsfa_lib.datasets.tree_check import check_tree
from lsfa_lib.storage.files import InputError, atomic_write

MARKED = np.zeros(SIZE, bool)
MARKED[5:9, 10:16] = True


def camera_file(folder: Path, values: Any) -> Path:
    path = folder / "camera.json"
    path.write_text(json.dumps(values))
    return path


# Masks


@pytest.mark.parametrize("paint", [255, 0], ids=["white", "black"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_not_marked(tmp_path: Path, mode: str, paint: int) -> None:
    channels = 3 if mode == "RGBA" else 1
    image = np.dstack([np.full((*SIZE, channels), paint, np.uint8), MARKED.astype(np.uint8) * 255])
    Image.fromarray(image).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), MARKED)


def test_a_palette_with_a_transparent_entry_is_one_too(tmp_path: Path) -> None:
    image = Image.fromarray(MARKED.astype(np.uint8))
    image = image.convert("P")
    image.putpalette([255, 255, 255, 255, 0, 0])
    image.save(tmp_path / "mask.png", transparency=0)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), MARKED)


@pytest.mark.parametrize("label", [128, 255, 90])
def test_labels_of_a_jpeg_are_found_by_its_range(tmp_path: Path, label: int) -> None:
    marked = np.kron(MARKED, np.ones((8, 8), bool))
    Image.fromarray(marked.astype(np.uint8) * np.uint8(label)).save(tmp_path / "m.jpg", quality=75)
    assert (read_mask(tmp_path / "m.jpg") != marked).mean() < 0.002


@pytest.mark.parametrize("image", [255 - MARKED.astype(np.uint8) * 255, np.full(SIZE, 255, "u1")])
def test_an_inverted_mask_is_refused_by_import_and_check(source: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(source / "a_mask.png")
    with pytest.raises(InputError, match=r"a_mask\.png: marks (97|100)% of the frame, as an inv"):
        brought(source, split="test", kind="dent")
    Image.fromarray(MARKED).save(source / "a_mask.png")
    brought(source, split="test", kind="dent")
    gt = source.parent / "mine" / "part" / "test" / "dent" / "gt" / "a.png"
    Image.fromarray(image).save(gt)
    assert any(
        problem.startswith(f"{gt}: marks ") and "as an inverted mask does" in problem
        for problem in check_tree(source.parent / "mine").problems
    )


def test_a_thin_line_on_a_large_photograph_is_not_lost() -> None:
    mask = np.zeros((96, 128), bool)
    mask[41, 20:60] = True  # between the centres of the pixels of the grid
    grid = Grid(32, 24, (4.0, 4.0), (1.5, 1.5))
    expected = mask.reshape(24, 4, 32, 4).any(axis=(1, 3))
    np.testing.assert_array_equal(mask_on(grid, mask), expected)
    assert expected.sum() == 10


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.05, 0.3), (0.5, -0.25), (2.6, -4.0)])
def test_a_mask_on_any_grid_equals_a_loop(scale: float, shift: float) -> None:
    mask = np.random.default_rng(0).random((30, 40)) < 0.1

    def pixels(n: int, side: int) -> list[int]:
        inside = [u for u in range(side) if -scale / 2 <= u - n * scale - shift < scale / 2]
        nearest = round(n * scale + shift)
        return inside or [nearest] * (0 <= nearest < side)

    found = mask_on(Grid(20, 16, (scale, scale), (shift, shift)), mask)
    for v in range(16):
        for u in range(20):
            own = mask[np.ix_(pixels(v, 30), pixels(u, 40))]
            assert found[v, u] == own.any(), (v, u)


def test_a_corrected_mask_is_not_ignored(source: Path) -> None:
    Image.fromarray(MARKED).save(source / "a_mask.png")
    brought(source, split="test", kind="dent")
    Image.fromarray(np.roll(MARKED, 3, axis=1)).save(source / "a_mask.png")
    with pytest.raises(InputError, match=r"a_mask\.png: .*gt/a\.png marks other pixels; remove"):
        brought(source, split="test", kind="dent")


# Colour


def png_of_16_bits(path: Path, values: np.ndarray) -> Path:
    """RGB of 16 bits, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_colour_of_16_bits_uses_its_range_or_is_refused(tmp_path: Path) -> None:
    values = colours().astype(np.uint16)
    found = read_colour(png_of_16_bits(tmp_path / "full.png", values * 257))
    np.testing.assert_array_equal(found, colours())
    with pytest.raises(InputError, match=r"dark\.png: nearly all .* below 1/16 of their range"):
        read_colour(png_of_16_bits(tmp_path / "dark.png", values * 16))


def test_one_hot_pixel_does_not_hide_12_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (60, 80)).astype(np.uint16)
    values[3, 4] = 65535
    with pytest.raises(InputError, match=r"grey\.png: nearly all of its values are below 1/16"):
        read_colour(put_depth(tmp_path / "grey.png", values))


@pytest.mark.parametrize("mode", ["CMYK", "LAB"])
def test_a_tiff_in_other_colours_is_refused(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(colours())
    image = Image.merge("LAB", image.split()) if mode == "LAB" else image.convert(mode)
    image.save(tmp_path / "a.tiff")
    name = {"CMYK": "SEPARATED", "LAB": "CIELAB"}[mode]
    with pytest.raises(InputError, match=rf"a\.tiff: colours as {name}, expected RGB or grey"):
        read_colour(tmp_path / "a.tiff")


@pytest.mark.parametrize("kind", ["float", "double", "ushort", "int"])
def test_colours_of_a_cloud_from_0_to_255_in_any_type(tmp_path: Path, kind: str) -> None:
    path = next(p for p in plys(tmp_path) if p.stem == "ascii")
    expected, _ = read_organised_cloud(path)
    assert expected[..., 0].min() == 200
    path.write_text(path.read_text().replace("property uchar", f"property {kind}"))
    np.testing.assert_array_equal(read_organised_cloud(path)[0], expected)


def test_a_cloud_without_colours_in_its_field_takes_the_image(tmp_path: Path) -> None:
    path = next(p for p in plys(tmp_path) if p.stem == "ascii")
    path.write_text(path.read_text().replace(" 200 0 0", " 0 0 0"))
    image = np.random.default_rng(0).integers(1, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_organised_cloud(path, 1.0, tmp_path / "image.png")[0], image)
    with pytest.raises(InputError, match=r"ascii\.ply: no colours, or only black"):
        read_organised_cloud(path)


# Cameras


@pytest.mark.parametrize(
    "size",
    [
        {"resolution": [16, 12]},
        {"image_size": {"width": 16, "height": 12}},
        {"width": "16", "height": "12"},
    ],
)
def test_a_size_in_any_form_scales_the_intrinsics(tmp_path: Path, size: dict[str, Any]) -> None:
    half = {"fx": 20.0, "fy": 20.0, "cx": 7.75, "cy": 5.75}
    for values in (half | size, {"intrinsics": half | size}, {"intrinsics": half} | size):
        camera = read_intrinsics(camera_file(tmp_path, values))
        found = at_size(camera, 32, 24, tmp_path / "a.png")
        assert (found.fx, found.fy, found.cx, found.cy) == (40.0, 40.0, 16.0, 12.0)


def test_a_principal_point_off_the_middle_needs_the_size(tmp_path: Path) -> None:
    camera = read_intrinsics(camera_file(tmp_path, CAMERA | {"cx": 8.0, "cy": 6.0}))
    with pytest.raises(InputError, match=r"camera\.json: .*\(8, 6\) is far from the middle .* add"):
        at_size(camera, 32, 24, tmp_path / "a.png")
    said = CAMERA | {"cx": 8.0, "cy": 6.0, "width": 32, "height": 24}
    assert at_size(read_intrinsics(camera_file(tmp_path, said)), 32, 24, tmp_path).cx == 8.0


@pytest.mark.parametrize(
    ("unit", "metres"),
    [
        ({"depth_factor": 5000}, 0.0002),
        ({"camera": {"scale": 5000.0}}, 0.0002),
        ({"depth_scale": "0.001"}, 0.001),
        ({"depth_unit": "MM"}, 0.001),
        ({"depth_scale": None}, 0.0),
        ({"scale": 1}, 0.0),
    ],
)
def test_units_of_depth_in_any_form(tmp_path: Path, unit: dict[str, Any], metres: float) -> None:
    assert read_intrinsics(camera_file(tmp_path, CAMERA | unit)).metres == metres


@pytest.mark.parametrize("unit", [[0.001], {"value": 0.001}, "inches", -1])
def test_a_unit_that_is_no_length_is_named(tmp_path: Path, unit: Any) -> None:
    with pytest.raises(InputError, match=r"camera\.json: depth_scale is .*, expected metres"):
        read_intrinsics(camera_file(tmp_path, CAMERA | {"depth_scale": unit}))


@pytest.mark.parametrize(
    "lens",
    [
        {"coeffs": [-0.3, 0.1, 0, 0, 0]},
        {"distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.2, 0, 0, 0, 0]}},
        {"k1": 0.1},
        {"dist_coeffs": [[-0.3, 0.1, 0, 0, 0]]},
        {"dist_coeffs": [[-0.3], [0.1], [0]]},
    ],
)
def test_distortion_is_not_ignored(tmp_path: Path, lens: dict[str, Any]) -> None:
    for values in (CAMERA | lens, {"depth": CAMERA | lens}, {"depth": CAMERA} | lens):
        with pytest.raises(InputError, match=r"camera\.json: .* distortion, .*; undistort the im"):
            read_intrinsics(camera_file(tmp_path, values))
    none = {name: [0.0] * 5 for name in ("coeffs", "distortion")}
    assert read_intrinsics(camera_file(tmp_path, CAMERA | none)).fx == 40.0


def test_skew_is_not_ignored(tmp_path: Path) -> None:
    skewed = {"K": [[40.0, 5.0, 16.0], [0, 40.0, 12.0], [0, 0, 1.0]]}
    with pytest.raises(InputError, match=r"camera\.json: a skew of 5, but points"):
        read_intrinsics(camera_file(tmp_path, skewed))


def test_two_answers_about_a_camera_are_refused(tmp_path: Path) -> None:
    inner = CAMERA | {"depth": CAMERA | {"fx": 38.0}}
    assert read_intrinsics(camera_file(tmp_path, inner)).fx == 38.0
    both = CAMERA | {"K": [[38.0, 0, 16.0], [0, 40.0, 12.0], [0, 0, 1.0]]}
    with pytest.raises(InputError, match=r"camera\.json: .*fx is 40\.0 and, in a matrix, 38\.0"):
        read_intrinsics(camera_file(tmp_path, both))
    two = {"rgb": CAMERA, "ir": CAMERA | {"fx": 38.0}}
    with pytest.raises(InputError, match=r"2 cameras \(rgb, ir\); keep the one of the depth"):
        read_intrinsics(camera_file(tmp_path, two))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kalibr.yaml", "cam0:\n  intrinsics: [40.0, 40.0, 16.0, 12.0]\n"),
        ("line.txt", "40 40 16 12\n"),
        ("code.txt", "fx = 40;\nfy = 40; # px\ncx: 16 # px\ncy: 12\n"),
        ("text.yaml", "fx: 4.0e1\nfy: 40\ncx: 16\ncy: 12\n"),
        (
            "four.json",
            json.dumps({"K": [[40.0, 0, 16, 0], [0, 40, 12, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}),
        ),
        (
            "placed.json",
            json.dumps(CAMERA | {"extrinsics": {"matrix": np.eye(4).tolist()}}),
        ),
    ],
)
def test_more_spellings_are_one_camera(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    camera = read_intrinsics(tmp_path / name)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (40.0, 40.0, 16.0, 12.0)


# Depth


@pytest.mark.parametrize("mark", [65.535, 65.504, 9.9])
def test_a_repeated_far_value_is_no_reading(tmp_path: Path, mark: float) -> None:
    z = depths().astype(np.float32) / 1000
    z[:2] = mark
    camera = at_size(read_intrinsics(camera_file(tmp_path, CAMERA)), 32, 24, tmp_path)
    xyz = read_depth(put_depth(tmp_path / "a.npy", z), camera)
    assert not xyz[:2].any()
    np.testing.assert_allclose(xyz[2:, :, 2], z[2:], rtol=1e-6)


def test_a_cloud_half_behind_the_camera_is_refused(tmp_path: Path) -> None:
    path = next(p for p in plys(tmp_path) if p.stem == "ascii")
    head, end, body = path.read_text().partition("end_header\n")
    lines = [f"0 0 -0.5 {line.split(' ', 3)[3]}" for line in body.splitlines()[:20]]
    path.write_text(head + end + "\n".join([*lines, *body.splitlines()[20:]]))
    with pytest.raises(InputError, match=r"ascii\.ply: 20 points have z < 0"):
        read_organised_cloud(path)


def test_numbers_that_windows_calls_no_numbers(tmp_path: Path) -> None:
    path = next(p for p in plys(tmp_path) if p.stem == "ascii")
    head, end, body = path.read_text().partition("end_header\n")
    lines = body.splitlines()
    lines[:2] = ["-nan(ind) -nan(ind) -nan(ind) 1 2 3", "1.#QNAN -1.#IND 1.#INF 1 2 3"]
    path.write_text(head + end + "\n".join(lines))
    assert not read_organised_cloud(path)[1].reshape(-1, 3)[:2].any()


# Names


def test_images_alone_are_not_lost_among_twins(source: Path) -> None:
    Image.fromarray(colours()).save(source / "A.png")
    target = Target(source.parent / "mine", "part", "train", images_only=True)
    with pytest.raises(InputError, match=r"a\.png: A\.png is the same scan's colour; keep one"):
        import_scans(source, target)


def test_what_an_import_does_not_read_is_named(source: Path) -> None:
    (source / "day2").mkdir()
    (source / "gone.png").symlink_to(source / "nowhere.png")
    words = ["data", "import", str(source), "part", "--root", str(source.parent / "mine")]
    words += ["--intrinsics", str(source.parent / "camera.json")]
    lines = CliRunner().invoke(app, words).output.splitlines()
    assert lines[:2] == [f"not read: {source / name}" for name in ("day2", "gone.png")]


def test_names_that_would_be_hidden_are_refused(source: Path) -> None:
    with pytest.raises(InputError, match=r"--prefix '\.x' cannot begin a file's name"):
        brought(source, prefix=".x")


def test_scans_of_other_modalities_do_not_spoil_a_category(source: Path) -> None:
    brought(source)
    target = Target(source.parent / "mine", "part", "test", images_only=True)
    with pytest.raises(InputError, match=r"part: its scans have colour and points, these have col"):
        import_scans(source, target)


def test_a_name_in_two_normal_forms_is_one(source: Path) -> None:
    (source / "a.png").rename(source / "T\u00fcr.png")
    (source / "a_depth.png").rename(source / "Tu\u0308r_depth.png")
    np.testing.assert_array_equal(brought(source).rgb, colours())


@pytest.mark.parametrize(("split", "kind"), [("train", "Good"), ("test", "GOOD"), ("test", "OK")])
def test_good_in_capitals_is_no_defect(source: Path, split: str, kind: str) -> None:
    brought(source)
    root = source.parent / "mine"
    (root / "part" / split / kind).mkdir(parents=True)
    with pytest.raises(InputError, match=rf"{kind}: rename it to good, the name in this layout"):
        entries(root, "part", split)  # type: ignore[arg-type]


def test_copies_are_found(source: Path) -> None:
    brought(source)
    brought(source, split="validation")
    root = source.parent / "mine"
    (warning,) = [w for w in check_tree(root).warnings if "copies" in w]
    assert warning.startswith(f"{root / 'part'}: 1 of its scans are copies of others, such as ")


def test_links_survive_a_split(source: Path) -> None:
    brought(source)
    target = Target(source.parent / "mine", "part", "train", prefix="b")
    import_scans(source, target, source.parent / "camera.json")
    folder = source.parent / "mine" / "part" / "train" / "good"
    for role in ("rgb", "xyz"):
        (folder / role).rename(folder / f"raw_{role}")
        (folder / role).mkdir()
        for file in (folder / f"raw_{role}").iterdir():
            (folder / role / file.name).symlink_to(Path("..") / f"raw_{role}" / file.name)
    (first, _) = entries(source.parent / "mine", "part", "train")
    move_to_validation([first])
    (moved,) = read_split(source.parent / "mine", "part", "validation")
    np.testing.assert_array_equal(moved.rgb, colours())


def test_images_alone_get_a_command_that_works(source: Path) -> None:
    target = Target(source.parent / "mine", "part", "train", images_only=True)
    (source / "a_depth.png").unlink()
    import_scans(source, target)
    report = check_tree(target.root, TINY)
    assert report.options == " --only none"


def test_a_name_that_is_too_long_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="the name is too long for the file system; choose a sh"),
        atomic_write(tmp_path / ("x" * 300)) as file,
    ):
        file.write_text("")


def test_a_camera_file_in_utf_16_is_read_and_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "camera.json").write_text(json.dumps(CAMERA), encoding="utf-16")
    assert read_intrinsics(tmp_path / "camera.json").fx == 40.0
    with pytest.raises(InputError, match="is a folder; give the camera's file"):
        read_intrinsics(tmp_path)


def test_a_coloured_cloud_must_have_the_shape_of_its_image(tmp_path: Path) -> None:
    path = next(p for p in plys(tmp_path) if p.stem == "ascii")
    Image.new("RGB", (16, 12)).save(tmp_path / "twice.png")
    assert read_organised_cloud(path, 1.0, tmp_path / "twice.png")[1].shape == (6, 8, 3)
    Image.new("RGB", (6, 8)).save(tmp_path / "turned.png")
    with pytest.raises(InputError, match=r"ascii\.ply: 8 x 6 points, but .*turned\.png .* 6 x 8"):
        read_organised_cloud(path, 1.0, tmp_path / "turned.png")


def test_a_turned_image_is_called_that(source: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    (source / "a.png").unlink()
    Image.fromarray(colours()).save(source / "a.jpg", exif=exif)
    with pytest.raises(InputError, match=r"a\.jpg: 24 x 32 px, but .* 32 x 24 px; turn one of th"):
        brought(source)
