"""The demo generator: the camera against closed forms, defects, layout and reproducibility."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from lsfa_lib.datasets.layouts import categories, entries, read_split
from lsfa_lib.datasets.tree_check import check_tree
from lsfa_lib.demo import synthetic
from lsfa_lib.demo.defects import DEFECTS, Draw, Severities, Severity, draw
from lsfa_lib.demo.held_out import HELD_OUT
from lsfa_lib.demo.products import PRODUCTS, Variation, make_part
from lsfa_lib.demo.rendering import (
    DEMO_LENS,
    Surface,
    View,
    bilinear,
    camera_matrix,
    cast,
    cell_mm,
    grid_axes,
    nearest,
    noise,
)
from lsfa_lib.demo.sensor import PROJECTOR_SLOPE, WALL_MM_PER_PX, Capture, measure
from lsfa_lib.demo.synthetic import (
    KNOWN,
    REALISTIC,
    DemoCounts,
    DemoSettings,
    Difficulty,
    demo_is_complete,
    demo_names,
    make_scene,
    render,
    write_demo,
)
from lsfa_lib.demo.wear import Wear
from lsfa_lib.storage.files import InputError

DISTANCE_MM = DEMO_LENS.distance_mm
SMALL = DemoSettings(
    categories=("biscuit", "spindle"), counts=DemoCounts(2, 1, 1, 1), size=96, seed=3
)
MIDDLE = replace(SMALL, size=200)
CASES = [(product, kind) for product in PRODUCTS for kind in DEFECTS]
KNOWN_CASES = [(product, kind) for product in KNOWN for kind in DEFECTS]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    write_demo(root, SMALL)
    return root


def level_view(size, **changes):
    view = View(size, DISTANCE_MM, (0.0, 0.0), (-0.5, -0.5, 0.707), 0.5, (1.0, 1.0, 1.0), 0.0, 0.0)
    return replace(view, **changes)


def plain_surface(height):
    """`height` with dull grey everywhere."""
    grey = np.full((3, *height.shape), 0.4, np.float32)
    return Surface(height, grey, np.zeros_like(height), grey, height > 0)


def bytes_of(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.*")}


def pixels_of_part(scan):
    """Measured pixels more than 2 mm above the backdrop, a plane through the border."""
    x, y, z = np.moveaxis(scan.xyz.astype(float), -1, 0)
    border = np.ones(z.shape, bool)
    border[4:-4, 4:-4] = False
    border &= z > 0
    terms = np.stack([x, y, np.ones_like(x)], axis=-1)
    plane = np.linalg.lstsq(terms[border], z[border], rcond=None)[0]
    return (terms @ plane - z > 0.002) & (z > 0)


# Camera


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.04, -0.03)])
def test_backdrop_is_the_tilted_plane(tilt):
    size = 64
    view = level_view(size, tilt=tilt)
    xyz = measure(plain_surface(0 * grid_axes(size)[0]), view, cast_flat(view), rng(0)) * 1000
    x, y, z = np.moveaxis(xyz.astype(float), -1, 0)
    np.testing.assert_allclose(z, DISTANCE_MM + tilt[0] * x + tilt[1] * y, atol=2e-3)


def cast_flat(view):
    return cast(plain_surface(0 * grid_axes(view.size)[0]), view)


def rng(seed):
    return np.random.default_rng(seed)


def test_a_dome_is_met_where_geometry_says():
    """Rays against the closed form of a sphere's cap of radius 60 mm that stands 30 mm high."""
    size, radius, top = 200, 60.0, 30.0
    right, down = grid_axes(size)
    inside = np.clip(radius**2 - right**2 - down**2, 0, None)
    height = np.maximum(np.sqrt(inside) - (radius - top), 0).astype(np.float32)
    view = level_view(size)
    depth = cast(plain_surface(height), view).depth

    camera = camera_matrix(size)
    u, v = np.meshgrid(np.arange(size), np.arange(size))
    ray = np.stack(
        [(u - camera[0, 2]) / camera[0, 0], (v - camera[1, 2]) / camera[1, 1], 1 + 0 * u], -1
    )
    centre = DISTANCE_MM + radius - top
    a, b, c = (ray**2).sum(-1), ray[..., 2] * centre, centre**2 - radius**2
    root = b**2 - a * c
    expected = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, DISTANCE_MM)
    expected = np.minimum(expected, DISTANCE_MM)
    # Cells are 0.58 mm wide: the sphere sags by a few um between them, its foot is a kink.
    body = expected < DISTANCE_MM - 2
    assert np.abs(depth - expected)[body].max() < 0.02
    assert np.abs(depth - expected).max() < 0.58 * 1.74


def test_a_cliff_hides_what_lies_behind_it():
    """A wall of 40 mm between the axis and the rim: the hidden strip by similar triangles."""
    size = 200
    right, _ = grid_axes(size)
    height = np.where((right > 10) & (right < 20), 40, 0).astype(np.float32)
    hits = cast(plain_surface(height), level_view(size))
    row = hits.depth[size // 2]
    mm_per_px = DISTANCE_MM / camera_matrix(size)[0, 0]
    # The far edge at 20 mm, 40 mm up, hides the ground to 20 * 450 / 410 mm.
    seen = (np.flatnonzero(row < DISTANCE_MM - 1) - (size - 1) / 2) * mm_per_px
    assert seen.min() == pytest.approx(10, abs=1.3)
    assert seen.max() == pytest.approx(20 * 450 / 410, abs=1.3)


def test_the_projector_leaves_a_shadow_of_the_right_length():
    size = 400
    right, _ = grid_axes(size)
    height = np.where((right > -20) & (right < 0), 30, 0).astype(np.float32)
    view = level_view(size)
    surface = plain_surface(height)
    xyz = measure(surface, view, cast(surface, view), rng(0))
    lost = np.flatnonzero(xyz[size // 2, :, 2] == 0)
    mm = (lost - (size - 1) / 2) * DISTANCE_MM / camera_matrix(size)[0, 0]
    shadow = mm[mm < -15]
    # The wall at -20 mm appears at -20 * 450 / 420 mm; its shadow begins at its foot.
    assert shadow.min() == pytest.approx(-20 - 30 * PROJECTOR_SLOPE, abs=0.8)
    assert shadow.max() == pytest.approx(-20 * 450 / 420, abs=1.0)


def test_noise_is_standard_and_stays_in_its_band():
    texture = noise(rng(0), 120, 6.0, 20.0)
    assert texture.mean() == pytest.approx(0, abs=1e-4)
    assert texture.std() == pytest.approx(1, abs=1e-4)
    power = np.abs(np.fft.fft2(texture)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(120), np.fft.fftfreq(120)))
    outside = (frequency > 1 / 6 + 1e-9) | (frequency < 1 / 20 - 1e-9)
    assert power[outside].sum() < 1e-6 * power.sum()


def test_bilinear_is_exact_on_a_plane():
    row, column = np.meshgrid(np.arange(9), np.arange(9), indexing="ij")
    field = np.stack([3 * row - column, row + 2 * column]).astype(np.float32)
    cell = rng(0).uniform(0, 8, (2, 50)).astype(np.float32)
    expected = np.stack([3 * cell[0] - cell[1], cell[0] + 2 * cell[1]])
    np.testing.assert_allclose(bilinear(field, cell), expected, atol=1e-4)


# Scans


@pytest.mark.parametrize("product", KNOWN)
def test_a_good_scan_is_what_a_pinhole_camera_in_metres_sees(product):
    scan = render(f"{product}/train/good/000", MIDDLE)
    assert scan.rgb.shape == scan.xyz.shape == (200, 200, 3) and not scan.defect.any()
    valid = scan.xyz[..., 2] > 0
    z = scan.xyz[valid][:, 2]
    assert z.min() > 0.35 and z.max() < 0.47
    projected = scan.xyz[valid] @ camera_matrix(200).T
    row, column = np.nonzero(valid)
    np.testing.assert_allclose(projected[:, 0] / projected[:, 2], column, atol=1e-3)
    np.testing.assert_allclose(projected[:, 1] / projected[:, 2], row, atol=1e-3)


@pytest.mark.parametrize("product", KNOWN)
@pytest.mark.parametrize("index", range(3))
def test_the_border_shows_the_backdrop_plane_and_nothing_else(product, index):
    settings = replace(MIDDLE, size=400)
    xyz = render(f"{product}/test/good/{index:03d}", settings).xyz.astype(float)
    border = np.ones(xyz.shape[:2], bool)
    border[10:-10, 10:-10] = False
    points = xyz[border]
    measured = points[points[:, 2] > 0]
    assert len(measured) > 0.98 * len(points)
    centred = measured - measured.mean(axis=0)
    normal = np.linalg.svd(centred, full_matrices=False)[2][2]
    assert np.abs(centred @ normal).max() < 0.0015


@pytest.mark.parametrize("product", KNOWN)
def test_readings_are_missing_as_zeros_at_random_and_at_walls(product):
    scan = render(f"{product}/test/good/001", MIDDLE)
    missing = scan.xyz[..., 2] == 0
    assert (scan.xyz[missing] == 0).all()
    border = np.ones(missing.shape, bool)
    border[10:-10, 10:-10] = False
    assert 0.005 < missing.mean() < 0.15
    assert missing[~border].mean() > 2 * missing[border].mean()


@pytest.mark.parametrize("product", KNOWN)
def test_most_of_a_part_stands_clear_of_the_backdrop(product):
    """Plane removal drops all below 5 mm; too flat a product would vanish with it."""
    surface = make_part(KNOWN[product], 200, Variation(), rng(0))
    assert (surface.height[surface.part] > 6).mean() > 0.9
    assert 0.12 < surface.part.mean() * (142 / 125) ** 2 < 0.6


def test_sensor_noise_has_the_requested_deviation():
    view = level_view(200, depth_noise_mm=0.15)
    surface = plain_surface(0 * grid_axes(200)[0])
    error = measure(surface, view, cast(surface, view), rng(0))[..., 2] * 1000 - DISTANCE_MM
    assert error.std() == pytest.approx(0.15, rel=0.05)
    assert error.mean() == pytest.approx(0, abs=0.01)


def test_variation_makes_parts_differ_and_zero_makes_them_alike():
    still = Difficulty(
        variation=Variation(shift_mm=0.0, scale=0.0, shade=0.0, texture=0.0),
        capture=Capture(0.0, 0.0, 0.0, 0.0, (0.0, 0.0), (0.0, 0.0)),
    )

    def spread(difficulty):
        settings = replace(SMALL, difficulty=difficulty)
        names = [f"biscuit/train/good/{index:03d}" for index in range(4)]
        return np.std([render(name, settings).rgb.mean() for name in names])

    assert spread(still) < 0.4 * spread(Difficulty())


@pytest.mark.parametrize("product", KNOWN)
def test_wear_shows_on_the_part_alone_and_leaves_every_coordinate(product):
    name = f"{product}/train/good/000"
    wear = Wear(spots=20.0, spot_strength=0.5, scratches=20.0, scratch_contrast=0.5, shade=0.1)
    worn = render(name, replace(MIDDLE, difficulty=Difficulty(wear=wear)))
    clean = render(name, MIDDLE)
    np.testing.assert_array_equal(worn.xyz, clean.xyz)
    part = make_scene(name, MIDDLE, "good")
    on_part = nearest(part.surface.part, part.hits.cell)
    change = np.abs(worn.rgb.astype(int) - clean.rgb).max(axis=2)
    assert change[on_part].mean() > 1
    assert change[~ndimage.binary_dilation(on_part, iterations=4)].max() == 0


def test_a_warp_bends_the_outline_and_no_more():
    outlines = []
    for warp_mm in (0.0, 1.0):
        variation = Variation(shift_mm=0.0, scale=0.0, texture=0.0, warp_mm=warp_mm)
        outlines.append(make_part(PRODUCTS["seal"], 200, variation, rng(0)).part)
    differing = outlines[0] ^ outlines[1]
    assert 0 < differing.sum() < 0.1 * outlines[0].sum()
    rim = ndimage.binary_dilation(outlines[0], iterations=7) & ~ndimage.binary_erosion(
        outlines[0], iterations=7
    )
    assert not (differing & ~rim).any()


def test_flying_readings_lie_between_front_and_back_of_a_wall():
    surface = make_part(PRODUCTS["biscuit"], 200, Variation(), rng(0))
    view = level_view(200, depth_noise_mm=0.0)
    hits = cast(surface, view)
    plain = measure(surface, view, hits, rng(1))[..., 2] * 1000
    depth = measure(surface, replace(view, flying_share=1.0), hits, rng(1))[..., 2] * 1000
    flying = depth != plain
    assert flying.sum() > 100
    front, back = ndimage.minimum_filter(hits.depth, 3), ndimage.maximum_filter(hits.depth, 3)
    assert (back - front)[flying].min() > 2 * WALL_MM_PER_PX * 400 / 200
    assert (depth >= front - 1e-3)[flying].all() and (depth <= back + 1e-3)[flying].all()
    between = (depth > front + 0.5) & (depth < back - 0.5)
    assert between[flying].mean() > 0.5


def test_a_lens_out_of_focus_smooths_the_photograph():
    sharp, soft = (
        render("seal/train/good/000", replace(MIDDLE, difficulty=Difficulty(capture=capture)))
        for capture in (Capture(focus_px=(0.5, 0.5)), Capture(focus_px=(3.0, 3.0)))
    )
    np.testing.assert_array_equal(sharp.xyz, soft.xyz)
    edges = [np.abs(np.diff(scan.rgb.astype(int), axis=1)).mean() for scan in (sharp, soft)]
    assert edges[1] < 0.75 * edges[0]


def test_realistic_defects_are_as_small_and_faint_as_real_ones():
    """On a category of MVTec 3D-AD: medians 0.18 % of the frame, 0.4 deviations of brightness."""
    settings = replace(MIDDLE, difficulty=REALISTIC)
    areas, contrasts = [], []
    for product, kind in CASES:
        scan = render(f"{product}/test/{kind}/000", settings)
        areas.append(100 * scan.defect.mean())
        around = ndimage.binary_dilation(scan.defect, iterations=5) & ~scan.defect
        grey = scan.rgb.mean(axis=2)
        difference = grey[scan.defect].mean() - grey[around].mean()
        contrasts.append(abs(difference) / grey[around].std())
    assert 0.1 < np.median(areas) < 0.3 and max(areas) < 1.2
    assert 0.2 < np.median(contrasts) < 1.0


# Defects


@pytest.mark.parametrize(("product", "kind"), KNOWN_CASES)
def test_defects_have_the_area_that_was_drawn(product, kind):
    surface = make_part(KNOWN[product], 200, Variation(), rng(1))
    before = surface.height.copy(), surface.albedo.copy()
    spec = draw(getattr(Severities(), kind), surface, (0.5, 0.4, 0.3), cell_mm(200), rng(2))
    damaged, mask = DEFECTS[kind](surface, spec)
    assert abs(mask.sum() - spec.cells) <= 2 + 0.02 * spec.cells
    assert surface.part[mask].all()
    np.testing.assert_array_equal(surface.height, before[0])
    np.testing.assert_array_equal(surface.albedo, before[1])
    assert damaged.height.min() >= 0 and np.isfinite(damaged.albedo).all()


@pytest.mark.parametrize(("product", "kind"), KNOWN_CASES)
def test_marked_pixels_are_a_plausible_share_of_the_part(product, kind):
    for index in range(3):
        name = f"{product}/test/{kind}/{index:03d}"
        marked = render(name, MIDDLE)
        part = pixels_of_part(render(name, MIDDLE, "good"))
        share = marked.defect.sum() / part.sum()
        assert 0.003 < share < 0.08
        near = ndimage.binary_dilation(part, iterations=6)
        assert near[marked.defect].mean() > 0.95


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_of_a_single_cell_changes_the_part(kind):
    surface = make_part(KNOWN["seal"], 32, Variation(), rng(1))
    spec = Draw(1, 2.0, 0.5, (0.5, 0.4, 0.3), cell_mm(32), rng(2))
    damaged, mask = DEFECTS[kind](surface, spec)
    assert 1 <= mask.sum() <= 3  # cells of equal score are all taken
    changed = (damaged.height != surface.height) | (damaged.albedo != surface.albedo).any(axis=0)
    assert changed[mask].all()
    assert np.isfinite(damaged.height).all() and np.isfinite(damaged.albedo).all()


@pytest.mark.parametrize("product", KNOWN)
def test_colour_defects_leave_every_coordinate_as_it_was(product):
    name = f"{product}/test/colour/000"
    stained, clean = render(name, MIDDLE), render(name, MIDDLE, "good")
    np.testing.assert_array_equal(stained.xyz, clean.xyz)
    change = np.abs(stained.rgb.astype(int) - clean.rgb).max(axis=2)
    assert change[stained.defect].mean() > 3
    assert change[~ndimage.binary_dilation(stained.defect, iterations=4)].max() == 0


@pytest.mark.parametrize("product", KNOWN)
def test_bent_defects_move_the_surface_and_keep_its_colours(product):
    surface = make_part(KNOWN[product], 200, Variation(), rng(1))
    severity = Severity((2.0, 2.0), depth_mm=(1.5, 1.5))
    spec = draw(severity, surface, (0.5, 0.4, 0.3), cell_mm(200), rng(2))
    damaged, mask = DEFECTS["bent"](surface, spec)
    np.testing.assert_array_equal(damaged.albedo, surface.albedo)
    shift = np.abs(damaged.height - surface.height)
    assert shift.max() == pytest.approx(1.5, abs=0.05)
    assert shift[surface.part & ~mask].max() < 0.15
    assert np.median(shift[mask]) > 0.4


@pytest.mark.parametrize(
    ("kind", "sign"), [("hole", -1), ("crack", -1), ("cut", -1), ("contamination", 1)]
)
@pytest.mark.parametrize("product", KNOWN)
def test_other_defects_take_or_add_material_and_show_in_colour(product, kind, sign):
    surface = make_part(KNOWN[product], 200, Variation(), rng(1))
    severity = getattr(Severities(), kind)
    spec = draw(severity, surface, KNOWN[product].inside, cell_mm(200), rng(2))
    damaged, mask = DEFECTS[kind](surface, spec)
    change = sign * (damaged.height - surface.height)[mask]
    # Raggedness may push single cells of a shallow pit the other way by a fraction of a millimetre.
    assert np.mean(change > 0) > 0.85 and np.median(change) > 0.1
    np.testing.assert_array_equal(damaged.height[~mask], surface.height[~mask])
    assert np.abs(damaged.albedo - surface.albedo)[:, mask].mean() > 0.001


# The tree


def test_the_tree_has_the_published_layout(demo):
    assert categories(demo) == ["biscuit", "spindle"]
    kinds = [entry.kind for entry in entries(demo, "spindle", "test")]
    assert kinds == ["bent", "colour", "contamination", "crack", "cut", "good", "hole"]
    assert len(entries(demo, "spindle", "train")) == 2
    folder = demo / "biscuit" / "test" / "hole"
    xyz = tifffile.imread(folder / "xyz" / "000.tiff")
    assert xyz.dtype == np.float32 and xyz.shape == (96, 96, 3)
    with Image.open(folder / "rgb" / "000.png") as rgb, Image.open(folder / "gt" / "000.png") as gt:
        assert (rgb.mode, gt.mode, rgb.size, gt.size) == ("RGB", "L", (96, 96), (96, 96))
    report = check_tree(demo)
    assert report.problems == () and report.odd_files == ()


def test_the_calibration_is_that_of_the_camera(demo):
    calibration = json.loads((demo / "biscuit/calibration/camera_parameters.json").read_text())
    camera = [
        [calibration["fx"], 0, calibration["cx"]],
        [0, calibration["fy"], calibration["cy"]],
        [0, 0, 1],
    ]
    np.testing.assert_array_equal(camera, camera_matrix(96))


def test_what_is_read_back_is_what_was_rendered(demo):
    for scan in read_split(demo, "biscuit", "test"):
        rendered = render(scan.name, SMALL)
        for field in ("rgb", "xyz", "defect"):
            np.testing.assert_array_equal(getattr(scan, field), getattr(rendered, field))
        assert scan.defect.any() == (scan.kind != "good")


def test_ground_truth_has_several_non_zero_values_where_it_marks_a_defect(demo):
    values = set()
    for entry in entries(demo, "biscuit", "test") + entries(demo, "spindle", "test"):
        gt = np.asarray(Image.open(entry.gt))
        np.testing.assert_array_equal(gt > 0, render(entry.name, SMALL).defect)
        values |= set(np.unique(gt))
    assert values == {0, 253, 254, 255}


def test_the_same_settings_give_the_same_bytes_and_another_seed_does_not(demo, tmp_path):
    write_demo(tmp_path / "again", SMALL)
    assert bytes_of(tmp_path / "again") == bytes_of(demo)
    name = "biscuit/train/good/000"
    other = render(name, replace(SMALL, seed=4))
    assert (other.rgb != render(name, SMALL).rgb).mean() > 0.5


def test_the_number_of_workers_does_not_matter(demo, tmp_path):
    for workers in (1, 3):
        write_demo(tmp_path / str(workers), SMALL, workers)
        assert bytes_of(tmp_path / str(workers)) == bytes_of(demo)


def test_a_failing_worker_stops_the_writing_with_its_error(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "render", lambda name, settings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_demo(tmp_path / "demo", SMALL, workers=2)
    assert not demo_is_complete(tmp_path / "demo", SMALL)


def test_more_scans_leave_the_others_as_they_are(demo, tmp_path):
    few = replace(SMALL, categories=("spindle",), counts=DemoCounts(3, 1, 2, 2))
    write_demo(tmp_path / "more", few)
    more, first = bytes_of(tmp_path / "more"), bytes_of(demo / "spindle")
    assert {f"spindle/{path}" for path in first} < set(more)
    assert all(more[f"spindle/{path}"] == content for path, content in first.items())


def test_every_scan_is_its_own(demo):
    rgb = [path.read_bytes() for path in demo.rglob("rgb/*.png")]
    assert len(set(rgb)) == len(rgb) == len(list(demo_names(SMALL)))


def test_an_interrupted_tree_is_completed_and_a_finished_one_left_alone(tmp_path):
    root, settings = tmp_path / "demo", replace(SMALL, categories=("biscuit",))
    write_demo(root, settings)
    expected = bytes_of(root)
    manifest = json.loads((root / "demo.json").read_text())
    (root / "demo.json").write_text(json.dumps({**manifest, "complete": False}))
    lost = root / "biscuit" / "test" / "cut" / "xyz" / "000.tiff"
    lost.unlink()
    assert not demo_is_complete(root, settings)
    kept = (root / "biscuit" / "test" / "hole" / "xyz" / "000.tiff").stat().st_mtime_ns
    write_demo(root, settings)
    assert bytes_of(root) == expected and demo_is_complete(root, settings)
    assert (root / "biscuit" / "test" / "hole" / "xyz" / "000.tiff").stat().st_mtime_ns == kept
    lost.unlink()
    write_demo(root, settings)
    assert not lost.exists()


def test_a_demo_of_other_settings_is_replaced(tmp_path):
    root = tmp_path / "demo"
    write_demo(root, replace(SMALL, counts=DemoCounts(2, 1, 1, 1), size=64))
    settings = replace(SMALL, categories=("spindle",), counts=DemoCounts(1, 1, 1, 1), size=64)
    write_demo(root, settings)
    assert categories(root) == ["spindle"]
    assert len(entries(root, "spindle", "train")) == 1


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match=r"not a demo of this library; choose an empty folder"):
        write_demo(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_product_names_those_there_are(tmp_path):
    settings = replace(SMALL, categories=("bagel",))
    with pytest.raises(InputError, match="bagel; choose from biscuit, orange, seal, spindle"):
        write_demo(tmp_path, settings)


# Held-out products


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    root, settings = tmp_path_factory.mktemp("held_out"), replace(SMALL, categories=(*HELD_OUT,))
    write_demo(root, settings)
    return root, settings


def test_held_out_products_are_three_others():
    assert list(HELD_OUT) == ["gear", "walnut", "connector"]
    assert not set(HELD_OUT) & set(PRODUCTS) and set(KNOWN) == set(HELD_OUT) | set(PRODUCTS)
    assert DemoSettings().categories == tuple(PRODUCTS)


@pytest.mark.parametrize("product", HELD_OUT)
def test_a_held_out_product_is_written_like_the_others(held_out, product):
    root, _ = held_out
    assert len(entries(root, product, "train")) == 2
    scans = list(read_split(root, product, "test"))
    assert sorted(scan.kind for scan in scans) == sorted(["good", *DEFECTS])
    for scan in scans:
        assert (scan.xyz[..., 2] > 0).mean() > 0.85
        assert scan.defect.any() == (scan.kind != "good")
    first, second = read_split(root, product, "train")
    depths = [np.where(scan.xyz[..., 2] > 0, scan.xyz[..., 2], 0) for scan in (first, second)]
    both = (depths[0] > 0) & (depths[1] > 0)
    assert np.abs(depths[0] - depths[1])[both].mean() > 0.001
    assert np.abs(first.rgb.astype(int) - second.rgb).mean() > 5
    assert check_tree(root).problems == ()


@pytest.mark.parametrize(("product", "kind"), [(p, k) for p in HELD_OUT for k in DEFECTS])
def test_defects_of_held_out_products_lie_on_the_part(product, kind):
    settings = replace(MIDDLE, difficulty=REALISTIC)
    name = f"{product}/test/{kind}/000"
    whole, damaged = (make_scene(name, settings, k) for k in ("good", kind))
    np.testing.assert_array_equal(whole.surface.part, damaged.surface.part)
    part = [nearest(scene.surface.part, scene.hits.cell) for scene in (whole, damaged)]
    assert (part[0] | part[1])[damaged.defect].all()
    assert 0.0005 < damaged.defect.sum() / part[0].sum() < 0.06


def test_held_out_products_of_the_same_seed_are_the_same_bytes(held_out, tmp_path):
    root, settings = held_out
    write_demo(tmp_path, settings)
    assert bytes_of(tmp_path) == bytes_of(root)
    assert json.loads((root / "demo.json").read_text())["categories"] == list(HELD_OUT)
