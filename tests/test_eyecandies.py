"""Eyecandies' files: its camera, lights, masks and splits, beside the MVTec 3D-AD layout."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lsfa_lib.config import TINY, DataConfig, configure
from lsfa_lib.datasets import mvtec3d, tree_check
from lsfa_lib.datasets.entry import SPLITS
from lsfa_lib.datasets.eyecandies import LIGHTS, camera
from lsfa_lib.datasets.layouts import categories, entries, read_scan, read_split, split_of
from lsfa_lib.demo.eyecandies_demo import (
    KINDS,
    LENS,
    eyecandies_names,
    normals_of,
    render_lights,
    write_eyecandies_demo,
)
from lsfa_lib.demo.rendering import camera_matrix
from lsfa_lib.demo.synthetic import DemoCounts, DemoSettings
from lsfa_lib.pipeline import run_category
from lsfa_lib.storage.files import InputError

SETTINGS = DemoSettings(
    categories=("seal",), counts=DemoCounts(train=5, validation=3, good=2, each_defect=1), size=160
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("eyecandies")
    write_eyecandies_demo(root, SETTINGS)
    yield root


@pytest.fixture
def one(tree: Path, tmp_path: Path) -> Path:
    """A copy to spoil, and the folder of its test scans."""
    shutil.copytree(tree, tmp_path / "tree")
    return tmp_path / "tree" / "seal" / "test_public" / "data"


def test_files_are_called_as_published(tree: Path) -> None:
    assert sorted(path.name for path in (tree / "seal").iterdir()) == [
        "test_public",
        "train",
        "val",
    ]
    names = {p.name for p in (tree / "seal" / "train" / "data").iterdir() if p.name[:3] == "004"}
    images = {f"004_image_{i}.png" for i in range(6)}
    masks = {f"004_{m}_mask.png" for m in ("bumps", "dents", "colors", "normals")}
    others = {"004_depth.png", "004_info_depth.yaml", "004_normals.png", "004_pose.txt"}
    assert names == images | masks | others | {"004_mask.png", "004_metadata.yaml"}
    assert (tree / "seal" / "test_public" / "data" / "07_mask.png").exists()


def test_every_split_is_there_with_its_kinds(tree: Path) -> None:
    assert categories(tree) == ["seal"]
    assert len(read_split(tree, "seal", "train")) == 5
    assert len(read_split(tree, "seal", "validation")) == 3
    kinds = [entry.kind for entry in entries(tree, "seal", "test")]
    assert kinds == sorted(kinds)
    assert sorted(kinds) == sorted(["good", "good", *(KINDS[k] for k in KINDS if k != "good")])
    first = entries(tree, "seal", "train")[0]
    assert (first.name, first.kind, first.gt) == ("seal/train/good/000", "good", None)


def test_points_follow_from_depth_by_the_published_formula(tree: Path) -> None:
    entry = entries(tree, "seal", "test")[0]
    scan = read_scan(entry)
    depth = np.asarray(Image.open(entry.xyz))
    assert entry.depth_bounds is not None
    bounds = yaml.safe_load(entry.depth_bounds.read_text())["normalization"]
    focal = 711.11 * 160 / 512
    for v, u in [(0, 0), (80, 80), (40, 120), (159, 3)]:
        if depth[v, u] == 0:
            assert scan.xyz[v, u].tolist() == [0, 0, 0]
            continue
        z = depth[v, u] / 65535 * (bounds["max"] - bounds["min"]) + bounds["min"]
        expected = [(u - 80) * z / focal, (v - 80) * z / focal, z]
        np.testing.assert_allclose(scan.xyz[v, u], expected, atol=1e-7)
    assert (depth == 0).sum() == (scan.xyz[..., 2] == 0).sum() > 0


def test_the_published_camera_has_a_focal_length_of_711_px() -> None:
    published = camera(512, 512)
    assert published.fx == published.fy == pytest.approx(711.11)
    assert (published.cx, published.cy) == (256, 256)
    matrix = camera_matrix(512, LENS)
    assert matrix[0].tolist() == pytest.approx([711.11, 0, 256])


def test_written_points_come_back(tree: Path) -> None:
    train = entries(tree, "seal", "train")
    for entry, (name, called) in zip(train, eyecandies_names(SETTINGS).items(), strict=False):
        scan, _ = render_lights(name, called, SETTINGS)
        assert entry.name == called
        np.testing.assert_allclose(read_scan(entry).xyz, scan.xyz, atol=1e-5)


def test_each_light_is_another_picture_and_all_show_the_same_part(tree: Path) -> None:
    scans = [read_split(tree, "seal", "train", light)[0] for light in range(len(LIGHTS))]
    for i, scan in enumerate(scans):
        np.testing.assert_array_equal(scan.xyz, scans[0].xyz)
        for other in scans[:i]:
            assert np.abs(scan.rgb.astype(int) - other.rgb).mean() > 0.5
    data = DataConfig(str(tree), light=2)
    np.testing.assert_array_equal(split_of(data, "seal", "train")[0].rgb, scans[2].rgb)
    # What faces left is brighter when lit from there.
    left, right = (scans[light].rgb.astype(float).mean(axis=2) for light in (4, 2))
    sideways = normals_of(scans[0].xyz)[..., 0]
    assert (left - right)[sideways < -0.3].mean() > 10
    assert (left - right)[sideways > 0.3].mean() < -10


def test_a_light_that_is_none_is_said(tree: Path) -> None:
    with pytest.raises(InputError, match=r"data\.light 6 is not a light .* 4 left, 5 light box"):
        read_split(tree, "seal", "train", 6)
    asked = configure("tiny", {"data.root": str(tree), "data.light": 3})
    assert asked.data == DataConfig(str(tree), 3)


def test_normals_are_those_of_the_points(tree: Path) -> None:
    entry = entries(tree, "seal", "train")[0]
    expected = normals_of(read_scan(entry).xyz)
    image = Image.open(entry.xyz.with_name(entry.xyz.name.replace("_depth", "_normals")))
    # The image's axes point up and towards the camera.
    coded = (np.asarray(image, np.float32) / 127.5 - 1) * [1, -1, -1]
    read = coded / np.linalg.norm(coded, axis=-1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(read, axis=-1), 1, atol=1e-5)
    angle = np.degrees(np.arccos(np.clip((read * expected).sum(-1), -1, 1)))
    assert np.median(angle) < 0.5
    assert (read[..., 2] < 0).mean() > 0.99


def test_normals_of_a_tilted_plane_are_its_own() -> None:
    v, u = np.indices((20, 30))
    rays = np.stack([(u - 15) / 100, (v - 10) / 100, np.ones_like(u)], -1)
    normal = np.array([0.3, -0.2, -0.9]) / np.linalg.norm([0.3, -0.2, -0.9])
    xyz = rays * (normal[2] * 0.5 / (rays @ normal))[..., None]
    found = normals_of(xyz.astype(np.float32))
    np.testing.assert_allclose(found, np.broadcast_to(normal, found.shape), atol=2e-3)


def test_both_layouts_of_one_category_give_the_same_points_and_metrics(
    tree: Path, tmp_path: Path
) -> None:
    # Depth in 16 bits, as a sensor gives it, in both: a coreset makes thousandths of micrometres.
    for split in SPLITS:
        for scan in read_split(tree, "seal", split):
            mvtec3d.write_scan(tmp_path / "mvtec", scan)
    roots = (tree, tmp_path / "mvtec")
    for here, there in zip(*(read_split(root, "seal", "test") for root in roots), strict=True):
        np.testing.assert_allclose(here.xyz, there.xyz, atol=1e-4)
    configs = [replace(TINY, data=DataConfig(str(root)), device="cpu", cache="") for root in roots]
    ours, theirs = (run_category("seal", config, seed=0).result for config in configs)
    assert [s["name"] for s in ours["scans"]] == [s["name"] for s in theirs["scans"]]
    for mode, values in ours["modes"].items():
        for metric in ("i_auroc", "p_auroc", "aupro_30", "aupro_01"):
            assert values[metric] == pytest.approx(theirs["modes"][mode][metric], abs=1e-3)


def test_the_private_test_split_is_left_alone(one: Path) -> None:
    private = one.parents[1] / "test_private" / "data"
    private.mkdir(parents=True)
    (private / "000_depth.png").write_bytes(b"")
    root = one.parents[2]
    assert len(read_split(root, "seal", "test")) == 8
    assert tree_check.check_tree(root).problems == ()


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("00_depth.png", None, r"00_.*: its partner .*00_depth\.png is missing; restore it"),
        ("00_mask.png", None, r"its partner .*00_mask\.png is missing"),
        ("00_info_depth.yaml", "normalization: {min: 1}", r"no numbers min and max"),
        ("00_info_depth.yaml", "normalization: {min: 2, max: 1}", r"depths from 2\.0 to 1\.0 m"),
        ("00_info_depth.yaml", "a: [", r"info_depth\.yaml: cannot be decoded"),
        ("00_metadata.yaml", "kind: 1", r"no `anomalous` of 0 or 1"),
        ("00_depth.png", "", r"depth\.png: the file is empty"),
        ("00_image_4.png", "no picture", r"image_4\.png: cannot be decoded"),
    ],
)
def test_a_broken_file_is_named(one: Path, file: str, spoil: str | None, message: str) -> None:
    if spoil is None:
        (one / file).unlink()
    else:
        (one / file).write_text(spoil)
    with pytest.raises(InputError, match=message):
        list(read_split(one.parents[2], "seal", "test"))


def test_depth_in_8_bits_of_another_size_or_without_a_reading_is_refused(one: Path) -> None:
    root = one.parents[2]
    for depth, message in [
        (np.ones((160, 160), np.uint8), "expected one channel of 16 bits"),
        (np.ones((80, 160), np.uint16), r"160 x 160 px, but .*depth\.png is 160 x 80 px"),
        (np.zeros((160, 160), np.uint16), "every depth is 0"),
    ]:
        Image.fromarray(depth).save(one / "00_depth.png")
        with pytest.raises(InputError, match=message):
            list(read_split(root, "seal", "test"))


def test_the_check_counts_splits_and_names_odd_files(one: Path) -> None:
    root = one.parents[2]
    (one / "notes.txt").write_text("mine")
    report = tree_check.check_tree(root)
    counts = {s.split: (s.good, s.anomalous) for s in report.splits}
    assert counts == {"train": (5, 0), "validation": (3, 0), "test": (2, 6)}
    assert report.splits[0].sizes == ((160, 160),)
    assert report.odd_files == (one / "notes.txt",)
    assert report.published == ""


def test_a_whole_data_set_is_compared_with_the_published_counts(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = one.parents[2]
    counts = {"seal": (5, 3, 2, 7)}
    monkeypatch.setitem(tree_check.DATA_SETS, "Eyecandies", counts)
    report = tree_check.check_tree(root)
    assert report.published == "Eyecandies"
    (problem,) = report.problems
    assert "2 good and 6 anomalous scans can be read, Eyecandies has 2 and 7" in problem
    assert sum(sum(each) for each in tree_check.EYECANDIES_COUNTS.values()) == 10 * 1150


def test_the_demo_goes_on_where_it_was_and_leaves_other_files_alone(one: Path) -> None:
    root = one.parents[2]
    before = (one / "03_image_0.png").read_bytes()
    (one / "03_depth.png").unlink()
    (one / "03_image_0.png").unlink()
    kept = (one / "02_depth.png").stat().st_mtime_ns
    write_eyecandies_demo(root, SETTINGS)
    assert (one / "03_image_0.png").read_bytes() == before
    assert (one / "02_depth.png").stat().st_mtime_ns == kept
    (root / "mine").mkdir()
    with pytest.raises(InputError, match="choose an empty folder"):
        write_eyecandies_demo(root, SETTINGS)
