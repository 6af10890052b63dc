"""The reader of the MVTec 3D-AD layout: what it reads, and every way a tree can be wrong."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lsfa_lib.config import configure
from lsfa_lib.datasets.layouts import Split, categories, entries, read_scan, read_split
from lsfa_lib.datasets.mvtec3d import write_scan
from lsfa_lib.datasets.scan_check import border_is_empty
from lsfa_lib.datasets.tree_check import PUBLISHED_COUNTS, check_tree
from lsfa_lib.records import Scan
from lsfa_lib.storage.files import InputError

SIZE = (30, 36)


def put_xyz(folder, stem, xyz):
    (folder / "xyz").mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "xyz" / f"{stem}.tiff", xyz, photometric=tiff_kind(xyz))


def tiff_kind(xyz):
    return "rgb" if xyz.shape[-1] == 3 else "minisblack"


def put_scan(folder, stem, value=1, gt=None, size=SIZE):
    """A scan whose pixels all hold `value`, so that a wrong pairing shows."""
    for role in ("rgb", "gt"):
        (folder / role).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(folder / "rgb" / f"{stem}.png")
    gt = np.zeros(size, np.uint8) if gt is None else gt
    Image.fromarray(gt).save(folder / "gt" / f"{stem}.png")
    put_xyz(folder, stem, np.full((*size, 3), value / 10, np.float32))


def marked(*values):
    gt = np.zeros(SIZE, np.uint8)
    gt.flat[: len(values)] = values
    return gt


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data set" / "xyz größe"
    for category in ("bagel", "tire"):
        for stem, value in (("000", 1), ("001", 2), ("002", 3)):
            put_scan(root / category / "train" / "good", stem, value)
        put_scan(root / category / "validation" / "good", "000", 4)
        put_scan(root / category / "test" / "good", "000", 5)
        put_scan(root / category / "test" / "hole", "000", 6, marked(255))
        put_scan(root / category / "test" / "bent", "001", 7, marked(253, 254, 255, 1))
        put_scan(root / category / "test" / "bent", "000", 8, marked(255))
    return root


def refuses(match, function, *arguments):
    with pytest.raises(InputError, match=match) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is read


def test_categories_are_sorted_and_other_folders_are_not_among_them(root):
    (root / "notes").mkdir()
    assert categories(root) == ["bagel", "tire"]


def test_test_split_is_sorted_by_kind_and_stem_with_good_in_its_place(root):
    names = [entry.name.removeprefix("bagel/test/") for entry in entries(root, "bagel", "test")]
    assert names == ["bent/000", "bent/001", "good/000", "hole/000"]


def test_a_scan_comes_back_with_its_own_pixels(root):
    scan = read_split(root, "bagel", "test")[1]
    assert scan.name == "bagel/test/bent/001" and scan.kind == "bent"
    assert scan.path == root / "bagel" / "test" / "bent" / "xyz" / "001.tiff"
    np.testing.assert_array_equal(scan.rgb, np.full((*SIZE, 3), 7, np.uint8))
    np.testing.assert_array_equal(scan.xyz, np.full((*SIZE, 3), 0.7, np.float32))


def test_every_non_zero_value_of_the_ground_truth_is_defective(root):
    defect = read_split(root, "bagel", "test")[1].defect
    assert defect.sum() == 4 and defect.flat[:4].all()


def test_defect_7_files_are_paired_by_stem(root):
    folder = root / "bagel" / "train" / "good"
    for role, suffix in (("rgb", "png"), ("xyz", "tiff"), ("gt", "png")):
        (folder / role / f"001.{suffix}").unlink()
    for scan, value in zip(read_split(root, "bagel", "train"), (1, 3), strict=True):
        assert scan.rgb.max() == value and scan.xyz.max() == np.float32(value / 10)


@pytest.mark.parametrize("role", ["rgb", "xyz", "gt"])
def test_defect_7_a_missing_partner_is_named(root, role):
    suffix = "tiff" if role == "xyz" else "png"
    lost = root / "bagel" / "train" / "good" / role / f"001.{suffix}"
    lost.unlink()
    assert str(lost) in refuses("is missing; restore it", entries, root, "bagel", "train")


@pytest.mark.parametrize("role", ["rgb", "xyz", "gt"])
def test_defect_7_an_extra_file_is_named(root, role):
    folder = root / "bagel" / "test" / "hole" / role
    suffix = ".tiff" if role == "xyz" else ".png"
    extra = folder / f"009{suffix}"
    extra.write_bytes((folder / f"000{suffix}").read_bytes())
    assert str(extra) in refuses("partner .* is missing", entries, root, "bagel", "test")


def test_several_unpaired_scans_are_counted(root):
    for stem in ("000", "002"):
        (root / "bagel" / "train" / "good" / "rgb" / f"{stem}.png").unlink()
    refuses(r"\(1 more like this\)", entries, root, "bagel", "train")


def test_good_scans_need_no_gt_folder(root):
    folder = root / "bagel" / "train" / "good" / "gt"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    split = read_split(root, "bagel", "train")
    assert [entry.gt for entry in split.entries] == [None] * 3
    assert not split[0].defect.any() and split[0].defect.shape == SIZE


def test_a_defect_without_gt_folder_is_refused(root):
    for path in (root / "bagel" / "test" / "hole" / "gt").iterdir():
        path.unlink()
    (root / "bagel" / "test" / "hole" / "gt").rmdir()
    refuses("gt/000.png is missing", entries, root, "bagel", "test")


def test_scans_are_read_when_asked_for_and_not_before(root):
    (root / "bagel" / "train" / "good" / "xyz" / "002.tiff").write_bytes(b"")
    split = read_split(root, "bagel", "train")
    assert len(split) == 3
    assert [scan.rgb.max() for scan in split[:2]] == [1, 2]
    refuses("002.tiff: the file is empty", split.__getitem__, 2)
    with pytest.raises(IndexError):
        split[3]


def test_a_slice_is_a_split_that_has_read_nothing(root):
    part = read_split(root, "bagel", "train")[1:]
    assert isinstance(part, Split)
    assert [entry.name[-3:] for entry in part.entries] == ["001", "002"]


def test_frames_need_not_be_square(root):
    assert read_split(root, "tire", "train")[0].xyz.shape == (*SIZE, 3)


def test_big_endian_and_tif_are_read_too(root):
    folder = root / "bagel" / "train" / "good" / "xyz"
    xyz = np.random.default_rng(0).random((*SIZE, 3), np.float32)
    (folder / "001.tiff").unlink()
    tifffile.imwrite(folder / "001.tif", xyz, byteorder=">", photometric="rgb")
    np.testing.assert_array_equal(read_split(root, "bagel", "train")[1].xyz, xyz)


def test_what_is_written_is_read_back_bit_by_bit(tmp_path):
    rng = np.random.default_rng(1)
    scan = Scan(
        rgb=rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
        xyz=rng.random((*SIZE, 3), np.float32),
        defect=rng.random(SIZE) < 0.3,
        name="part/test/cut/012",
        kind="cut",
        path=tmp_path / "part/test/cut/xyz/012.tiff",
    )
    write_scan(tmp_path, scan)
    back = read_split(tmp_path, "part", "test")[0]
    for field in ("rgb", "xyz", "defect"):
        np.testing.assert_array_equal(getattr(back, field), getattr(scan, field))
        assert getattr(back, field).dtype == getattr(scan, field).dtype
    assert (back.name, back.kind, back.path) == (scan.name, scan.kind, scan.path)
    folder = tmp_path / "part" / "test" / "cut"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == [
        "gt/012.png",
        "rgb/012.png",
        "xyz/012.tiff",
    ]


# What is refused


def test_an_unknown_root_names_its_neighbours(root):
    assert root.name in refuses("no such folder", categories, root.parent / "missing")


def test_a_root_without_categories_says_what_it_holds(root):
    assert root.name in refuses("no category in here", categories, root.parent)


def test_an_unknown_category_lists_those_there(root):
    refuses("no such category; .* holds bagel, tire: choose one", entries, root, "potato", "train")


def test_an_empty_split_is_refused(root):
    (root / "bagel" / "validation" / "good" / "rgb" / "000.png").rename(root / "away.png")
    for role in ("xyz", "gt"):
        next((root / "bagel" / "validation" / "good" / role).iterdir()).unlink()
    refuses(
        "validation: no scans in here; 0 validation/good scans, at least 2",
        read_split,
        root,
        "bagel",
        "validation",
    )


def test_defects_in_train_are_refused(root):
    put_scan(root / "bagel" / "train" / "hole", "000", 1, marked(255))
    refuses("train may hold only `good` scans; move", read_split, root, "bagel", "train")


def test_two_files_of_one_stem_are_refused(root):
    folder = root / "bagel" / "train" / "good" / "xyz"
    (folder / "001.tif").write_bytes((folder / "001.tiff").read_bytes())
    refuses("001.tif has this stem too; keep one", read_split, root, "bagel", "train")


@pytest.mark.parametrize("role", ["rgb", "gt"])
def test_sizes_that_differ_are_refused(root, role):
    shape = (SIZE[0] + 1, SIZE[1], 3) if role == "rgb" else (SIZE[0] + 1, SIZE[1])
    path = root / "bagel" / "train" / "good" / role / "000.png"
    Image.fromarray(np.ones(shape, np.uint8)).save(path)
    entry = entries(root, "bagel", "train")[0]
    assert str(path) in refuses("36 x 31 px, but .* is 36 x 30 px", read_scan, entry)


@pytest.mark.parametrize("role", ["rgb", "xyz", "gt"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.5, 0.95])
def test_files_cut_short_are_refused(root, role, share):
    entry = entries(root, "bagel", "test")[0]
    path = getattr(entry, role)
    if role != "xyz":
        shape = (*SIZE, 3) if role == "rgb" else SIZE
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert str(path) in refuses("is empty|cannot be decoded|expected", read_scan, entry)


def test_a_damaged_tiff_header_never_gives_another_error(root):
    entry = entries(root, "bagel", "train")[0]
    content = entry.xyz.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(150):
        broken = np.frombuffer(content, np.uint8).copy()
        broken[rng.integers(0, 200, 4)] = rng.integers(0, 256, 4)
        entry.xyz.write_bytes(broken.tobytes())
        try:
            read_scan(entry)
            outcomes.append("read")
        except InputError:
            outcomes.append("refused")
    assert outcomes.count("refused") > 50


def test_a_file_removed_meanwhile_is_named(root):
    entry = entries(root, "bagel", "train")[0]
    entry.rgb.unlink()
    refuses("000.png: no such file", read_scan, entry)


@pytest.mark.parametrize(
    ("xyz", "match"),
    [
        (
            np.ones((*SIZE, 2), np.float32),
            r"\(30, 36, 2\), expected float32 \(height, width, 3\)",
        ),
        (np.ones(SIZE, np.float32), r"float32 \(30, 36\), expected float32"),
        (np.ones((*SIZE, 3), np.float64), "float64 .* expected float32"),
        (np.ones((*SIZE, 3), np.uint16), "uint16 .* expected float32"),
        (np.zeros((*SIZE, 3), np.float32), "every coordinate is 0"),
        (
            np.where(np.arange(3) > 1, np.float32(np.nan), np.ones((*SIZE, 3), np.float32)),
            "1080 pixels have NaN",
        ),
        (
            np.where(np.arange(3) > 1, np.float32(np.inf), np.ones((*SIZE, 3), np.float32)),
            "or infinite",
        ),
    ],
)
def test_coordinates_of_another_form_are_refused(root, xyz, match):
    folder = root / "bagel" / "train" / "good"
    put_xyz(folder, "000", xyz)
    message = refuses(match, read_scan, entries(root, "bagel", "train")[0])
    assert str(folder / "xyz" / "000.tiff") in message


@pytest.mark.parametrize(
    ("mode", "match"),
    [
        ("L", "L with 8 bits"),
        ("RGBA", "RGBA with 8 bits"),
        ("I;16", "I;16 with 16 bits"),
        ("P", "an image in P"),
    ],
)
def test_images_of_another_form_are_refused(root, mode, match):
    entry = entries(root, "bagel", "train")[0]
    Image.new(mode, SIZE[::-1]).save(entry.rgb)
    message = refuses(match, read_scan, entry)
    assert "expected RGB with 8 bits per channel" in message
    assert f"of its folder with `lsfa data import '{entry.rgb.parents[1]}' bagel" in message
    assert message.endswith("--root data/converted --split train --kind good`")


def test_colour_with_16_bits_is_refused_although_pillow_would_read_it(root):
    entry = entries(root, "bagel", "train")[0]
    entry.rgb.write_bytes(png_16_bit(*SIZE))
    with Image.open(entry.rgb) as image:
        assert image.mode == "RGB"
    refuses("RGB with 16 bits", read_scan, entry)


def png_16_bit(height, width):
    import struct
    import zlib

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + b"\x12\x34" * 3 * width for _ in range(height)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_coloured_ground_truth_is_refused(root):
    entry = entries(root, "bagel", "train")[0]
    Image.new("RGB", SIZE[::-1]).save(entry.gt)
    refuses("RGB with 8 bits per channel, expected L", read_scan, entry)


# The check of a whole tree


def test_a_sound_tree_has_no_problems_and_right_counts(root):
    report = check_tree(root)
    assert report.problems == () and report.odd_files == () and not report.published
    seen = [(s.category, s.split, s.good, s.anomalous, s.sizes) for s in report.splits[:3]]
    assert seen == [
        ("bagel", "train", 3, 0, ((36, 30),)),
        ("bagel", "validation", 1, 0, ((36, 30),)),
        ("bagel", "test", 1, 3, ((36, 30),)),
    ]
    assert report.splits[2].kinds == {"bent": 2, "good": 1, "hole": 1}


def test_the_check_collects_every_problem_and_goes_on(root):
    (root / "bagel" / "train" / "good" / "rgb" / "001.png").unlink()
    (root / "bagel" / "test" / "bent" / "xyz" / "000.tiff").write_bytes(b"II")
    put_scan(root / "tire" / "test" / "hole", "000", 6)
    put_scan(root / "tire" / "validation" / "good", "000", 6, marked(255, 255))
    (root / "tire" / "test" / "good" / "rgb" / "thumbs.db").write_bytes(b"x")
    report = check_tree(root)
    for problem, match in zip(
        report.problems,
        (
            "train/good/rgb/001.png is missing",
            "bent/xyz/000.tiff: cannot be decoded",
            "validation/good/gt/000.png: marks 2 pixels as defective in a scan of kind good",
            "hole/gt/000.png: marks 0 pixels as defective in a scan of kind hole",
        ),
        strict=True,
    ):
        assert match in problem
    assert report.odd_files == (root / "tire" / "test" / "good" / "rgb" / "thumbs.db",)
    assert [s.good + s.anomalous for s in report.splits] == [2, 1, 3, 3, 1, 4]


def test_a_missing_split_is_a_problem(root):
    (root / "bagel" / "validation").rename(root / "elsewhere")
    assert [p for p in check_tree(root).problems if "validation: no scans" in p]


def test_defect_6_data_processed_in_place_is_recognised(root):
    assert not border_is_empty(read_split(root, "tire", "train")[0])
    for path in sorted((root / "tire").rglob("*.tiff"))[:5]:
        xyz = tifffile.imread(path)
        xyz[:10], xyz[-10:], xyz[:, :10], xyz[:, -10:] = 0, 0, 0, 0
        tifffile.imwrite(path, xyz, photometric="rgb")
    (problem,) = check_tree(root).problems
    assert problem.startswith(f"{root / 'tire'}: 5 of 8 scans have no reading along the border")
    assert "in place by another tool; restore the original files" in problem
    assert "set preprocess.background_removal to none" in problem
    kept = configure("tiny", {"preprocess.background_removal": "none"})
    assert not any("border" in problem for problem in check_tree(root, kept).problems)


def test_the_check_tells_distances_and_doubts_coordinates_that_are_no_metres(root):
    scans = list(read_split(root, "tire", "train"))
    lengths = [np.linalg.norm(s.xyz[(s.xyz != 0).any(-1)], axis=-1) for s in scans]
    summary = next(s for s in check_tree(root).splits if (s.category, s.split) == ("tire", "train"))
    expected = (min(each.min() for each in lengths), max(each.max() for each in lengths))
    assert summary.distances_m == pytest.approx(expected, rel=1e-6)
    path = next((root / "tire" / "train").rglob("*.tiff"))
    tifffile.imwrite(path, tifffile.imread(path) * np.float32(1000), photometric="rgb")
    (problem,) = check_tree(root).problems
    assert problem.startswith(f"{path}: half of its points are within ")
    assert "which cannot be metres" in problem


def test_published_counts_add_up_to_the_published_totals():
    totals = np.array(list(PUBLISHED_COUNTS.values())).sum(axis=0)
    assert len(PUBLISHED_COUNTS) == 10
    np.testing.assert_array_equal(totals, [2656, 294, 249, 948])


def test_a_tree_with_the_ten_categories_is_compared_with_the_paper(tmp_path):
    for category in PUBLISHED_COUNTS:
        for split in ("train", "validation", "test"):
            put_scan(tmp_path / category / split / "good", "000", size=(12, 12))
    report = check_tree(tmp_path)
    assert report.published and len(report.problems) == 30
    assert "tire" in report.problems[-1]
    assert (
        "1 good and 0 anomalous scans can be read, MVTec 3D-AD has 25 and 87" in report.problems[-1]
    )
    assert isinstance(report.root, Path)


def test_a_missing_mvtec_folder_names_the_download(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder; .*`lsfa data download mvtec3d`"):
        categories(tmp_path / "mvtec3d")
