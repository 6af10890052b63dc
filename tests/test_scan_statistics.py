"""Numbers of a scan of known measures; which scans are measured; what was asked for by name."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scan_case import HEIGHT_MM, LENGTH_MM, PIECE_PX, PITCH_MM, SIZE, TILT_DEG, WIDTH_MM, box_scan

from lsfa_lib.config import OURS, TINY, Config, DataConfig
from lsfa_lib.datasets.layouts import entries, read_scan
from lsfa_lib.datasets.preprocess import prepare
from lsfa_lib.figures import scan_statistics
from lsfa_lib.records import Scan
from lsfa_lib.storage.files import InputError

CONFIG = replace(OURS, preprocess=replace(OURS.preprocess, image_size=120))


def facts_of(scan: Scan, config: Config = CONFIG) -> SimpleNamespace:
    return SimpleNamespace(**scan_statistics.facts(scan, config))


PIXELS = SIZE[0] * SIZE[1]
PART_PX = round(LENGTH_MM * WIDTH_MM / PITCH_MM**2) - 40


def test_every_pixel_has_one_region() -> None:
    measured = scan_statistics.take_apart(box_scan(), CONFIG.preprocess)
    assert list(measured.regions) == list(scan_statistics.REGIONS)
    np.testing.assert_array_equal(sum(m.astype(int) for m in measured.regions.values()), 1)
    found = {region: int(mask.sum()) for region, mask in measured.regions.items()}
    assert found["missing"] == 80
    assert found["loose"] == PIECE_PX**2
    assert found["part"] == PART_PX
    assert found["background"] == PIXELS - PART_PX - PIECE_PX**2 - 80


def test_heights_are_above_the_tilted_ground() -> None:
    measured = scan_statistics.take_apart(box_scan(), CONFIG.preprocess)
    assert np.median(measured.height_mm[measured.regions["part"]]) == pytest.approx(20, abs=0.05)
    assert np.abs(np.median(measured.height_mm[measured.regions["background"]])) < 0.02
    assert np.isnan(measured.height_mm[measured.regions["missing"]]).all()
    assert measured.plane[2] < 0  # towards the camera


def test_without_removal_heights_refer_to_the_plane_through_all_readings() -> None:
    kept = replace(CONFIG.preprocess, background_removal="none")
    scan = box_scan()
    measured = scan_statistics.take_apart(scan, kept)
    assert not measured.regions["background"].any() and not measured.regions["loose"].any()
    points = scan.xyz[measured.regions["part"]].astype(float)
    assert len(points) == PIXELS - 80
    centre = points.mean(0)
    normal = np.linalg.svd(points - centre, full_matrices=False)[2][2]
    normal *= -np.sign(normal[2])  # towards the camera
    expected = (points - centre) @ normal * 1000
    found = measured.height_mm[measured.regions["part"]]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_facts_are_the_measures_the_scan_was_made_with() -> None:
    facts = facts_of(box_scan())
    assert (facts.category, facts.split, facts.kind) == ("toy", "test", "hole")
    assert (facts.width_px, facts.height_px) == (240, 180)
    assert facts.part == pytest.approx(PART_PX / PIXELS)
    assert facts.missing == pytest.approx(80 / PIXELS)
    assert facts.part + facts.background + facts.loose + facts.missing == pytest.approx(1)
    assert facts.holes == pytest.approx(40 / (PART_PX + 40))
    # Along the ground a step of the camera is longer by the tilt.
    assert facts.length_mm == pytest.approx(60 / np.cos(np.radians(3)) - 0.5, rel=0.02)
    assert facts.width_mm == pytest.approx(WIDTH_MM - 0.5, rel=0.01)
    assert facts.height_mm == pytest.approx(HEIGHT_MM, abs=0.2)
    assert facts.tilt_deg == pytest.approx(TILT_DEG, abs=0.05)
    assert facts.pitch_mm == pytest.approx(PITCH_MM / np.cos(np.radians(3)), rel=0.01)
    # 240 px become 120: a patch of 4 px is 8 of the camera's.
    assert facts.patch_mm == pytest.approx(8 * facts.pitch_mm)
    assert not facts.at_edge and facts.defective


def test_defect_is_measured_in_millimetres_and_in_patches() -> None:
    facts = facts_of(box_scan())
    assert facts.defect_mm2 == pytest.approx(6 * 20 * facts.pitch_mm**2)
    assert facts.defect_share == pytest.approx(120 / (PART_PX + 40))
    assert facts.defect_patches == pytest.approx(120 / 4 / 16)  # 4 px become one, 16 a patch
    assert facts.defect_width_mm == pytest.approx(5 * facts.pitch_mm)  # 6 px: an even number
    assert facts.defect_seen == 1.0
    none = facts_of(box_scan("good", defect=False))
    assert (none.defect_mm2, none.defect_share, none.defect_patches) == (0, 0, 0)
    assert (none.defect_width_mm, none.defect_seen, none.defective) == (0, 0, False)


@pytest.mark.parametrize(("rows", "width"), [(slice(50, 51), 1), (slice(50, 53), 3)])
def test_width_of_a_line_is_its_pixels_across(rows: slice, width: int) -> None:
    scan = box_scan()
    defect = np.zeros_like(scan.defect)
    defect[rows, 100:160] = True
    facts = facts_of(replace(scan, defect=defect))
    assert facts.defect_width_mm == pytest.approx(width * facts.pitch_mm)


def test_defect_where_material_is_missing_has_no_point() -> None:
    scan = box_scan()
    defect = np.zeros_like(scan.defect)
    defect[84:96, 96:116] = True  # 240 pixels, 40 of them without a reading
    facts = facts_of(replace(scan, defect=defect))
    sample = prepare(replace(scan, defect=defect), CONFIG.preprocess)
    seen = (sample.defect & sample.valid).sum() / sample.defect.sum()
    assert facts.defect_seen == pytest.approx(float(seen)) == pytest.approx(5 / 6, abs=0.02)


def test_a_ring_keeps_its_hole_out_of_the_part() -> None:
    scan = box_scan()
    xyz = scan.xyz.copy()
    ground = xyz[100:110, 120:160]
    ground[..., 2] += 0.02 / np.cos(np.radians(TILT_DEG))
    facts = facts_of(replace(scan, xyz=xyz))
    assert facts.holes == pytest.approx(40 / PART_PX, rel=0.1)
    assert facts.part == pytest.approx((PART_PX - 400) / PIXELS)


def test_measured_are_all_defects_some_good_scans_and_the_training_of_others(
    demo_root: Path,
) -> None:
    config = replace(TINY, data=DataConfig(str(demo_root)))
    table = scan_statistics.measure("seal", config, scans=2)
    own = table[table["category"] == "seal"]
    assert own.groupby(["split", "kind"]).size()["train", "good"] == 2
    assert own.groupby(["split", "kind"]).size()["test", "good"] == 2
    names = [e.name for e in entries(demo_root, "seal", "test") if e.kind != "good"]
    assert sorted(own[own["defective"]]["name"]) == sorted(names) and len(names) == 6
    assert list(table[table["category"] == "biscuit"]["split"]) == ["train", "train"]
    # Evenly drawn: the first and the last.
    assert list(own[own["split"] == "train"]["name"]) == [
        "seal/train/good/000",
        "seal/train/good/005",
    ]
    largest = scan_statistics.largest_defect(table, "seal")
    areas = {e.name: read_scan(e).defect.sum() for e in entries(demo_root, "seal", "test")}
    assert areas[largest] >= 0.98 * max(areas.values())
    assert len(scan_statistics.measure("seal", config, scans=0)) == 6 + 3 + 3 + 6 + 6


def test_counts_are_those_of_the_files(demo_root: Path) -> None:
    counts = scan_statistics.counts(demo_root)
    assert list(counts.columns) == ["good", *sorted(set(counts.columns) - {"good"})]
    splits = [split for category, split in counts.index if category == "seal"]
    assert splits == ["train", "validation", "test"]
    assert list(counts.loc["seal"]["good"]) == [6, 3, 3]
    assert counts.loc[("seal", "test")].sum() == 3 + 6
    assert counts.loc[("biscuit", "train")].sum() == 6


@pytest.mark.parametrize("name", ["hole/000", "test/hole/000", "seal/test/hole/000"])
def test_a_scan_is_found_by_the_end_of_its_name(demo_root: Path, name: str) -> None:
    assert scan_statistics.find_entry(demo_root, "seal", name).name == "seal/test/hole/000"


@pytest.mark.parametrize("name", ["hole/999", "nowhere/hole/000", "000", "a/b/c/d"])
def test_an_unknown_scan_is_named_with_some_that_are_there(demo_root: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"is not in .*name one by split, kind and number"):
        scan_statistics.find_entry(demo_root, "seal", name)


def test_warned_of_a_config_the_scans_do_not_fit(tiny: Config) -> None:
    far = replace(tiny, preprocess=replace(tiny.preprocess, plane_distance_m=0.2))
    with pytest.raises(InputError, match=r"lower preprocess\.plane_distance_m"):
        scan_statistics.measure("seal", far, scans=1)
