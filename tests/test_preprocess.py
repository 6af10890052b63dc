import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lsfa_lib.config import OURS, PreprocessConfig
from lsfa_lib.datasets.own_camera import read_organised_cloud
from lsfa_lib.datasets.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    height_above,
    part_of,
    plane_of,
    prepare,
)
from lsfa_lib.records import Sample, Scan
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.open3d import load_open3d

CONFIG = OURS.preprocess
REAL_SCANS = Path(__file__).parents[2] / "shared" / "real_scans"
CAMERA_M = 0.6
TILT = (0.05, 0.03)


def make_scan(height: np.ndarray, pitch: float = 0.0005, holes: float = 0.02) -> Scan:
    """A camera above a tilted ground with `height` metres on it and 0.3 mm of noise."""
    rng = np.random.default_rng(0)
    rows, columns = height.shape
    v, u = np.indices(height.shape)
    focal = CAMERA_M / pitch
    x, y = (u - columns // 2) / focal, (v - rows // 2) / focal
    ground = CAMERA_M / (1 - TILT[0] * x - TILT[1] * y)
    z = ground - height + 0.0003 * rng.standard_normal(height.shape)
    xyz = np.stack([x * z, y * z, z], axis=-1).astype(np.float32)
    xyz[rng.random(height.shape) < holes] = 0
    return Scan(
        rgb=rng.integers(1, 256, (rows, columns, 3), dtype=np.uint8),
        xyz=xyz,
        defect=np.zeros(height.shape, bool),
        name="toy/test/good/000",
        kind="good",
        path=Path("toy/test/good/xyz/000.tiff"),
    )


def disc(side: int, row: float, column: float, radius: float) -> np.ndarray:
    v, u = np.indices((side, side)) / side
    return (v - row) ** 2 + (u - column) ** 2 < radius**2


def with_xyz(scan: Scan, change: Callable[[np.ndarray], None]) -> Scan:
    xyz = scan.xyz.copy()
    change(xyz)
    return replace(scan, xyz=xyz)


def one_disc(side: int = 240) -> Scan:
    return make_scan(0.03 * disc(side, 0.5, 0.5, 0.25))


def assert_is_ground(plane: np.ndarray, degrees: float = 0.05, metres: float = 1e-4) -> None:
    """The scene's ground is z = CAMERA_M + TILT . (x, y)."""
    truth = np.array([*TILT, -1, CAMERA_M]) / np.linalg.norm([*TILT, -1])
    assert np.degrees(np.arccos(min(1.0, plane[:3] @ truth[:3]))) < degrees
    assert abs(plane[3] - truth[3]) < metres


# --- plane ---------------------------------------------------------------------------------------


def test_plane_is_the_ground_and_the_camera_is_in_front_of_it() -> None:
    scan = one_disc()
    plane = plane_of(scan, CONFIG)
    assert_is_ground(plane)
    assert np.linalg.norm(plane[:3]) == pytest.approx(1)
    height = height_above(scan.xyz, plane)
    read = scan.xyz[..., 2] != 0
    part = disc(240, 0.5, 0.5, 0.25)
    assert np.median(height[read & part]) == pytest.approx(0.03, abs=5e-4)
    assert np.median(height[read & ~part]) == pytest.approx(0, abs=1e-4)


def test_plane_agrees_with_open3d() -> None:
    scan = one_disc()
    strips = np.ones(scan.defect.shape, bool)
    strips[10:-10, 10:-10] = False
    border = scan.xyz[strips & (scan.xyz[..., 2] != 0)]
    open3d = load_open3d()
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(border.astype(np.float64)))
    theirs, _ = cloud.segment_plane(0.004, 50, 1000)
    ours = plane_of(scan, CONFIG)
    gap = np.abs(border @ ours[:3] + ours[3]) - np.abs(border @ theirs[:3] + theirs[3])
    assert np.abs(gap).max() < 2e-4


@pytest.mark.parametrize(
    ("columns", "metres"), [(0.15, 0.01), (0.15, 0.03), (0.15, 0.12), (0.3, 0.03), (0.3, 0.12)]
)
def test_plane_holds_when_the_part_covers_a_border_strip(columns: float, metres: float) -> None:
    # The whole left strip and `columns` of two more: 33 % and 45 % of the border is not ground.
    height = np.zeros((240, 240))
    height[:, : int(240 * columns)] = metres
    assert_is_ground(plane_of(make_scan(height), CONFIG), degrees=0.1, metres=2e-4)


def test_plane_is_found_inside_the_dead_margin_of_a_depth_camera() -> None:
    def dead_margin(xyz: np.ndarray) -> None:
        xyz[:25] = xyz[-25:] = 0
        xyz[:, :15] = xyz[:, -30:] = 0

    assert_is_ground(plane_of(with_xyz(one_disc(), dead_margin), CONFIG))


# --- readings ------------------------------------------------------------------------------------


def test_defect_14_a_partial_reading_is_not_valid() -> None:
    def partial(xyz: np.ndarray) -> None:
        xyz[100:110, 100:110, 2] = 0

    part = part_of(with_xyz(one_disc(), partial), CONFIG)
    assert not part[100:110, 100:110].any()
    assert part[111:120, 111:120].mean() > 0.9


def test_defect_14_column_and_row_through_the_optical_axis_are_readings() -> None:
    scan = make_scan(0.03 * disc(240, 0.5, 0.5, 0.25), holes=0.0)
    assert (scan.xyz[:, 120, 0] == 0).all() and (scan.xyz[120, :, 1] == 0).all()
    inside = disc(240, 0.5, 0.5, 0.24)
    assert part_of(scan, CONFIG)[inside].all()


# --- cleaning ------------------------------------------------------------------------------------


def two_parts(side: int) -> np.ndarray:
    """A large disc with a narrow slit, and a smaller one well away from it."""
    height = 0.02 * disc(side, 0.5, 0.33, 0.2) + 0.03 * disc(side, 0.5, 0.78, 0.14)
    height[side // 2 : side // 2 + 4] = 0
    return height


def speckled(side: int, share: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    height = two_parts(side)
    specks = (rng.random(height.shape) < share) & (height == 0)
    height[specks] = rng.uniform(0.006, 0.05, specks.sum())
    return height


def ring(side: int) -> np.ndarray:
    return 0.02 * (disc(side, 0.5, 0.5, 0.3) & ~disc(side, 0.5, 0.5, 0.15))


def dome(side: int) -> np.ndarray:
    v, u = np.indices((side, side)) / side - 0.5
    return np.maximum(0, 0.03 * (1 - (v**2 + u**2) / 0.3**2))


@pytest.mark.parametrize(
    "height",
    [two_parts(240), speckled(240, 0.002), ring(240), dome(240)],
    ids=["two parts", "speckles", "ring", "dome"],
)
@pytest.mark.parametrize("pitch", [0.0005, 0.00075])
def test_grid_keeps_the_points_dbscan_keeps(height: np.ndarray, pitch: float) -> None:
    scan = make_scan(height, pitch, holes=0.05)
    grid = part_of(scan, CONFIG)
    dbscan = part_of(scan, replace(CONFIG, cluster_method="dbscan"))
    assert dbscan.sum() > 3000
    assert (grid != dbscan).sum() / dbscan.sum() < 1e-3


def test_heavy_speckle_does_not_join_the_parts() -> None:
    scan = make_scan(speckled(240, 0.02))
    part = part_of(scan, CONFIG)
    assert part[:, 150:].sum() == 0
    big = disc(240, 0.5, 0.33, 0.2) & (two_parts(240) > 0) & (scan.xyz[..., 2] != 0)
    assert part[big].all()
    assert part.sum() < 1.02 * big.sum()


@pytest.mark.parametrize("side", [120, 240])
def test_gaps_are_lengths_whatever_the_resolution(side: int) -> None:
    pitch = 0.12 / side

    def bars(gap_m: float) -> np.ndarray:
        height = np.zeros((side, side))
        middle, gap = side // 2, round(gap_m / pitch / 2)
        height[side // 4 : middle - gap, side // 4 : -side // 4] = 0.02
        height[middle + gap : side // 4 * 3, side // 3 : -side // 4] = 0.02
        return height

    for gap_m, joined in ((0.004, True), (0.012, False)):
        part = part_of(make_scan(bars(gap_m), pitch), CONFIG)
        assert part[: side // 2].any()
        assert part[side // 2 :].any() == joined


def test_defect_5_noise_is_never_the_part() -> None:
    side = 240
    height = 0.02 * disc(side, 0.5, 0.5, 0.08)
    height[15:-15:5, 15:-15:5] = 0.04  # more readings than the disc has, each on its own
    scan = make_scan(height, holes=0.0)
    alone = (height == 0.04) & ~disc(side, 0.5, 0.5, 0.12)
    assert alone.sum() > disc(side, 0.5, 0.5, 0.08).sum()
    config = replace(CONFIG, cluster_method="dbscan", cluster_gap_m=0.0021, cluster_min_points=12)
    for kept in (config, replace(config, cluster_method="grid")):
        part = part_of(scan, kept)
        assert part[disc(side, 0.5, 0.5, 0.06) & (height == 0.02)].all()
        assert not part[alone].any()
    released = part_of(scan, replace(config, noise_competes=True))
    assert released[alone].all()
    assert not released[disc(side, 0.5, 0.5, 0.05) & (height == 0.02)].any()


# --- sample --------------------------------------------------------------------------------------


def test_defect_6_nothing_is_changed_in_place_and_twice_is_as_once() -> None:
    scan = one_disc()
    before = [scan.rgb.copy(), scan.xyz.copy(), scan.defect.copy()]
    first, second = prepare(scan, CONFIG), prepare(scan, CONFIG)
    for old, new in zip(before, [scan.rgb, scan.xyz, scan.defect], strict=True):
        assert (old == new).all()
    for field in ("rgb", "xyz", "valid", "defect"):
        assert torch.equal(getattr(first, field), getattr(second, field))


def test_a_frame_of_3000_by_4000_is_prepared_like_a_small_one() -> None:
    small = make_scan(0.03 * disc(400, 0.5, 0.5, 0.25)[50:350])

    def enlarged(values: np.ndarray) -> np.ndarray:
        return values.repeat(10, axis=0).repeat(10, axis=1)

    large = replace(
        small, rgb=enlarged(small.rgb), xyz=enlarged(small.xyz), defect=enlarged(small.defect)
    )
    assert large.xyz.shape == (3000, 4000, 3)
    expected, found = prepare(small, CONFIG), prepare(large, CONFIG)
    assert found.xyz.shape == expected.xyz.shape
    both = (expected.valid & found.valid).sum()
    assert both / (expected.valid | found.valid).sum() > 0.95
    assert 0.1 < expected.valid.double().mean() < 0.2


def test_a_prepared_part_prepared_again_is_refused_and_not_eaten() -> None:
    scan = one_disc()
    part = part_of(scan, CONFIG)
    with pytest.raises(InputError, match=r"000\.tiff.*removed the background in place.*restore"):
        prepare(replace(scan, xyz=scan.xyz * part[..., None]), CONFIG)


def colours(sample: Sample) -> np.ndarray:
    """The sample's colours before ImageNet's normalisation, 0 to 255."""
    image = sample.rgb.permute(1, 2, 0).numpy() * IMAGENET_STD + IMAGENET_MEAN
    return np.rint(image * 255).astype(np.uint8)


def test_sample_is_padded_centred_and_resized_nearest_and_bicubic() -> None:
    height = np.zeros((180, 240))
    height[60:120, 80:160] = 0.03
    defect = np.zeros((180, 240), bool)
    defect[70:90, 90:130] = True
    scan = replace(make_scan(height), defect=defect)
    config = replace(CONFIG, image_size=96, rgb_background="kept")
    sample = prepare(scan, config)
    part = part_of(scan, config)
    for row in range(96):
        for column in range(96):
            y, x = int((row + 0.5) * 2.5) - 30, int((column + 0.5) * 2.5)
            inside = 0 <= y < 180
            valid = bool(inside and part[y, x])
            assert sample.valid[row, column] == valid
            assert sample.defect[row, column] == bool(inside and defect[y, x])
            point = scan.xyz[y, x] if valid else np.zeros(3)
            assert np.array_equal(sample.xyz[:, row, column], point)
    squared = np.zeros((240, 240, 3), np.uint8)
    squared[30:210] = scan.rgb
    resized = Image.fromarray(squared).resize((96, 96), Image.Resampling.BICUBIC)
    assert (colours(sample) == np.asarray(resized)).all()
    assert sample.name == scan.name and sample.kind == scan.kind
    finer = prepare(scan, config, colour_size=150)
    resized = Image.fromarray(squared).resize((150, 150), Image.Resampling.BICUBIC)
    assert (colours(finer) == np.asarray(resized)).all()
    assert torch.equal(finer.xyz, sample.xyz) and torch.equal(finer.valid, sample.valid)


def test_masked_background_is_black_and_the_part_keeps_its_colour() -> None:
    scan = one_disc()
    sample = prepare(scan, replace(CONFIG, image_size=240))
    image = colours(sample)
    outside = ~disc(240, 0.5, 0.5, 0.27)
    assert (image[outside] == 0).all()
    inside = disc(240, 0.5, 0.5, 0.24)
    assert (image[inside] == scan.rgb[inside]).all()
    # Two percent of the readings are missing: they are not valid, yet the colour camera saw them.
    missing = inside & (scan.xyz[..., 2] == 0)
    assert missing.any() and not sample.valid.numpy()[missing].any()


def test_ground_seen_through_the_part_is_background() -> None:
    scan = make_scan(ring(240), holes=0.0)
    image = colours(prepare(scan, replace(CONFIG, image_size=240)))
    assert (image[disc(240, 0.5, 0.5, 0.13)] == 0).all()


# --- errors --------------------------------------------------------------------------------------


def clear(xyz: np.ndarray) -> None:
    xyz[:] = 0


def spoil(xyz: np.ndarray) -> None:
    xyz[3, 4, 1] = np.nan
    xyz[5, 6] = np.inf


def clear_border(xyz: np.ndarray) -> None:
    keep = xyz[80:160, 80:160].copy()
    xyz[:] = 0
    xyz[80:160, 80:160] = keep


def shake(xyz: np.ndarray) -> None:
    xyz += np.random.default_rng(0).uniform(-0.2, 0.2, xyz.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (clear, CONFIG, "all 57600 points have z = 0, expected depths in metres"),
        (spoil, CONFIG, "2 points have NaN or infinite coordinates, expected numbers"),
        (clear_border, CONFIG, "as if another tool had removed the background in place; restore"),
        (shake, CONFIG, "no background plane, only .% of the border's readings .* expected 25%"),
        (
            lambda xyz: None,
            replace(CONFIG, plane_distance_m=0.05),
            "no part found among 0 readings farther than 50 mm from the background plane",
        ),
        (
            lambda xyz: None,
            replace(CONFIG, plane_distance_m=0.05, cluster_method="dbscan"),
            "no part found among 0 readings farther than 50 mm from the background plane",
        ),
    ],
    ids=["empty", "nan", "cut out", "no plane", "all plane", "all plane, dbscan"],
)
def test_unusable_scans_are_named(
    change: Callable[[np.ndarray], None], config: PreprocessConfig, message: str
) -> None:
    scan = with_xyz(one_disc(), change)
    with pytest.raises(InputError, match=message) as caught:
        prepare(scan, config)
    assert str(caught.value).startswith(f"{scan.path}: ")
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("cluster_method", ["grid", "dbscan"])
def test_without_removal_every_reading_belongs_to_the_part(cluster_method: str) -> None:
    kept = replace(CONFIG, background_removal="none", image_size=240)
    kept = replace(kept, cluster_method=cluster_method)
    v, u = np.indices((240, 240))
    sheet = make_scan(0.0005 * np.sin(u / 9) * np.cos(v / 7))  # fills the frame, 0.5 mm high
    with pytest.raises(InputError, match=r"fills the frame, set preprocess\.background_removal to"):
        prepare(sheet, CONFIG)
    cropped = with_xyz(one_disc(), clear_border)
    with pytest.raises(InputError, match=r"on purpose, set preprocess\.background_removal to none"):
        prepare(cropped, CONFIG)
    for scan in (sheet, cropped):
        sample, read = prepare(scan, kept), scan.xyz[..., 2] != 0
        assert np.array_equal(sample.valid.numpy(), read)
        assert np.array_equal(sample.xyz.permute(1, 2, 0).numpy(), scan.xyz)
        assert np.array_equal(colours(sample)[read], scan.rgb[read])
    assert not colours(prepare(cropped, kept))[:80].any()
    with pytest.raises(InputError, match="all 57600 points have z = 0"):
        prepare(with_xyz(sheet, clear), kept)


def test_a_part_that_vanishes_at_the_size_asked_for_is_named() -> None:
    scan = make_scan(0.03 * disc(240, 0.52, 0.52, 0.02))
    assert 0 < part_of(scan, CONFIG).sum() < 100
    with pytest.raises(InputError, match=r"vanishes at 4 px; raise preprocess\.image_size"):
        prepare(scan, replace(CONFIG, image_size=4))


# --- real scans ----------------------------------------------------------------------------------

needs_real_scans = pytest.mark.skipif(
    not REAL_SCANS.is_dir(), reason="the folder of real scans is not beside this repository"
)


def real_scan(stem: str, rows: slice, columns: slice) -> Scan:
    path = REAL_SCANS / f"{stem}.pcd"
    rgb, xyz = read_organised_cloud(path)
    rgb, xyz = rgb[rows, columns], xyz[rows, columns]
    return Scan(rgb, xyz, np.zeros(xyz.shape[:2], bool), f"own/test/good/{stem}", "good", path)


def save_picture(scan: Scan, sample: Sample, folder: Path) -> None:
    """Colour as captured, colour kept, and height of the kept points, side by side."""
    side = sample.valid.shape[0]
    captured = Image.fromarray(scan.rgb).resize((side, side))
    depth = np.where(sample.valid, sample.xyz[2], np.nan)
    near, far = np.nanmin(depth), np.nanmax(depth)
    grey = np.nan_to_num(255 - 200 * (depth - near) / (far - near)).astype(np.uint8)
    tiles = [np.asarray(captured), colours(sample), np.repeat(grey[..., None], 3, axis=2)]
    folder = Path(os.environ.get("LSFA_ARTEFACTS", folder))
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.hstack(tiles)).save(folder / f"prepared_{scan.path.stem}.png")


@needs_real_scans
@pytest.mark.parametrize(
    ("stem", "rows", "columns", "part_at", "ground_at"),
    [
        # A laptop and a box on a carpet: the back of the laptop, the carpet before it.
        (
            "frame_20121214T142255.814212",
            slice(None),
            slice(None),
            (slice(180, 280), slice(170, 340)),
            (slice(380, 450), slice(50, 550)),
        ),
        # The table of the mug scene without the wall behind it: the mug's side, the table's corner.
        (
            "table_scene_mug_stereo_textured",
            slice(185, 470),
            slice(145, 630),
            (slice(115, 160), slice(210, 270)),
            (slice(240, 280), slice(10, 450)),
        ),
    ],
    ids=["kinect", "stereo"],
)
def test_real_scans_lose_the_ground_and_keep_the_part(
    stem: str,
    rows: slice,
    columns: slice,
    part_at: tuple[slice, slice],
    ground_at: tuple[slice, slice],
    tmp_path: Path,
) -> None:
    scan = real_scan(stem, rows, columns)
    part = part_of(scan, CONFIG)
    read = scan.xyz[..., 2] != 0
    assert part[part_at][read[part_at]].mean() > 0.95
    assert part[ground_at].mean() < 0.01
    sample = prepare(scan, CONFIG)
    assert 0.05 < sample.valid.float().mean() < 0.4
    save_picture(scan, sample, tmp_path)
