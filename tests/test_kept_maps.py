"""What a run keeps of a few test scans: which ones, and how exactly."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_case import Case, make_case

from lsfa_lib.figures.kept_scans import MOST_PX, POINTS, kept_scans
from lsfa_lib.figures.scan_images import pixels_of, score_ranges
from lsfa_lib.pipeline import Run
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.kept_maps import chosen, read_maps, write_maps
from lsfa_lib.storage.results import read_result
from lsfa_lib.studies.study import Study
from lsfa_lib.studies.sweep import Swept


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(size=160, each=2)


def test_the_first_scan_of_each_kind_is_chosen_whatever_its_score(case: Case) -> None:
    expected = [f"cookie/test/{kind}/000" for kind in ("bump", "dent", "scratch", "stain", "good")]
    scans = [dict(scan) for scan in case.result["scans"]]
    assert chosen(scans) == expected
    random.Random(3).shuffle(scans)
    for scan in scans:
        scan["scores"] = {}
    assert chosen(scans) == expected
    assert chosen([]) == []


def test_8_bits_hold_a_map_within_half_a_step(case: Case, tmp_path: Path) -> None:
    path = write_maps(kept_scans(case.result, case.samples, case.predictions), tmp_path)
    found, place = read_maps(tmp_path), {s.name: i for i, s in enumerate(case.samples)}
    assert list(found) == chosen(case.result["scans"])
    assert path.stat().st_size < 100_000
    ranges = score_ranges(case.samples, case.predictions)["rgb+3d"]
    for name, kept in found.items():
        pixels = pixels_of(case.samples[place[name]])
        anomaly = case.predictions["rgb+3d"][place[name]].anomaly_map.double().numpy()
        # The pixels that were kept, by a loop of its own.
        box = pixels.box
        steps = np.linspace(0, box.side - 1, min(box.side, MOST_PX)).round().astype(int)
        rows, columns = box.top + steps, box.left + steps
        true = np.array([[anomaly[r, c] for c in columns] for r in rows])
        valid = np.array([[pixels.valid[r, c] for c in columns] for r in rows])
        assert np.array_equal(kept.valid, valid)
        assert np.array_equal(kept.defect, pixels.defect[np.ix_(rows, columns)])
        half_step = (true[valid].max() - true[valid].min()) / 510
        assert np.abs(kept.anomaly - true)[valid].max() <= half_step * (1 + 1e-9)
        assert len(np.unique(kept.anomaly[valid])) > 50
        assert kept.good == ranges and kept.mode == "rgb+3d"
        assert kept.photo.shape == (*kept.valid.shape, 3)
        shown = pixels.photo[np.ix_(rows, columns)][valid].astype(float)
        assert np.abs(kept.photo[valid] - shown).mean() < 12


def test_the_cloud_lies_on_the_kept_pixels_within_a_step(case: Case, tmp_path: Path) -> None:
    write_maps(kept_scans(case.result, case.samples, case.predictions), tmp_path)
    for before, kept in zip(
        kept_scans(case.result, case.samples, case.predictions),
        read_maps(tmp_path).values(),
        strict=True,
    ):
        assert kept.points.shape == (min(POINTS, before.valid.sum()), 3)
        step = np.abs(before.points).max() / 1000
        assert np.abs(kept.points - before.points).max() <= step / 2 * (1 + 1e-9)
        assert np.array_equal(kept.places, before.places)
        assert kept.valid[tuple(kept.places.astype(int))].all()
        # The first axis points to the photo's right, the second up.
        rows, columns = kept.places.astype(int)
        assert np.corrcoef(columns, kept.points[:, 0])[0, 1] > 0.99
        assert np.corrcoef(rows, kept.points[:, 1])[0, 1] < -0.99


def test_a_constant_map_and_an_older_run(case: Case, tmp_path: Path) -> None:
    first = kept_scans(case.result, case.samples, case.predictions)[0]
    flat = replace(first, anomaly=np.full_like(first.anomaly, 2.5))
    write_maps([flat], tmp_path)
    (kept,) = read_maps(tmp_path).values()
    assert (kept.anomaly == 2.5).all()
    assert read_maps(tmp_path / "older") == {}


def test_altered_bytes_of_a_kept_map_are_named(case: Case, tmp_path: Path) -> None:
    path = write_maps(kept_scans(case.result, case.samples, case.predictions), tmp_path)
    content = bytearray(path.read_bytes())
    for at in range(60, len(content) - 4000, 50):
        content[at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"maps\.npz is damaged; delete it and run again"):
        read_maps(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"no zip"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "maps.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"maps\.npz is damaged; delete it and run again"):
        read_maps(tmp_path)


def test_maps_of_a_real_run_are_those_of_its_predictions(seal_run: Run, tmp_path: Path) -> None:
    write_maps(kept_scans(seal_run.result, seal_run.samples, seal_run.predictions), tmp_path)
    place = {sample.name: i for i, sample in enumerate(seal_run.samples)}
    for name, kept in read_maps(tmp_path).items():
        anomaly = seal_run.predictions["rgb+3d"][place[name]].anomaly_map.numpy()
        on_part = anomaly[seal_run.samples[place[name]].valid.numpy()]
        assert on_part.min() <= kept.anomaly.max() <= on_part.max() * (1 + 1e-6)


@pytest.mark.slow
def test_every_cell_of_a_study_keeps_the_same_scans(
    swept: tuple[dict[str, Study], Swept],
) -> None:
    runs = [path.parent for path in swept[1].index.parent.glob("runs/sweep/*/result.json")]
    by_category: dict[str, set[tuple[str, ...]]] = {}
    for folder in runs:
        # Lessons and the gallery of maps store a result, but only the runs of a cell keep maps.
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if about["notebook"] != "00_quickstart":
            continue
        result, kept = read_result(folder / "result.json"), read_maps(folder)
        assert list(kept) == chosen(result["scans"])
        assert (folder / "maps.npz").stat().st_size < 120_000
        by_category.setdefault(result["category"], set()).add(tuple(kept))
    assert len(by_category) == 3
    assert all(len(names) == 1 for names in by_category.values())
