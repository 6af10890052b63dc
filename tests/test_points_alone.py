"""Points without colour: read, imported, checked, learned from, reported, deployed."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scan_case import cloud_fields, write_pcd, write_ply
from typer.testing import CliRunner, Result

from lsfa_lib.cli.app import app
from lsfa_lib.config import TINY, Config, config_hash, configure
from lsfa_lib.config.fields import added
from lsfa_lib.datasets.importing import Target, import_scans
from lsfa_lib.datasets.layouts import entries, read_split
from lsfa_lib.datasets.relief import DARKEST, shaded_depth
from lsfa_lib.deployment.inspector import load
from lsfa_lib.explorer.evidence import read_evidence
from lsfa_lib.explorer.explore import Explorer
from lsfa_lib.explorer.explore_panel import Panel
from lsfa_lib.explorer.fitted import Fitted, fitted
from lsfa_lib.explorer.inspection import Inspection
from lsfa_lib.figures.kept_scans import kept_scans
from lsfa_lib.figures.mistakes import judged
from lsfa_lib.figures.scan_figures import maps_grid
from lsfa_lib.figures.scan_images import images_of, pixels_of
from lsfa_lib.methods.fitting import fit_detector
from lsfa_lib.pipeline import run_category
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.kept_maps import read_maps, write_maps

CAMERA = {"fx": 50.0, "fy": 50.0, "cx": 16.0, "cy": 12.0}


@pytest.fixture(scope="module")
def points(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seal of the demo without its images."""
    root = tmp_path_factory.mktemp("points")
    shutil.copytree(demo_root / "seal", root / "seal", ignore=shutil.ignore_patterns("rgb"))
    return root


@pytest.fixture
def config(points: Path, cached: Config) -> Config:
    return configure(cached, {"data.root": str(points), "modalities": ["3d"], "only": "none"})


def lsfa(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_points_are_read_without_colour(points: Path, demo_root: Path) -> None:
    entry = entries(points, "seal", "test")[0]
    assert entry.rgb is None and entry.modalities == ("3d",) and entry.files == (entry.xyz,)
    for scan, complete in zip(
        read_split(points, "seal", "test"), read_split(demo_root, "seal", "test"), strict=True
    ):
        assert scan.modalities == ("3d",) and scan.name == complete.name
        assert np.array_equal(scan.xyz, complete.xyz)
        assert np.array_equal(scan.defect, complete.defect)
        assert np.array_equal(scan.rgb, shaded_depth(scan.xyz))


@pytest.mark.parametrize("size", [(30, 40), (600, 900), (2, 900), (1, 5)], ids=str)
def test_the_picture_of_a_depth_image_is_grey_and_darker_where_it_is_far(
    size: tuple[int, int],
) -> None:
    v, u = np.indices(size)
    z = np.where(u < size[1] / 2, 0.4, 0.8)
    xyz = np.stack([u * z / 500, v * z / 500, z], axis=-1).astype(np.float32)
    xyz[:, -2:] = 0
    picture = shaded_depth(xyz)
    assert picture.shape == xyz.shape and picture.dtype == np.uint8
    assert (picture[:, -2:] == 0).all() and (picture == picture[..., :1]).all()
    if min(size) > 2:  # away from the step both planes are shaded alike
        near, far = picture[:, 3 : size[1] // 3].mean(), picture[:, -size[1] // 3 : -8].mean()
        assert far / near == pytest.approx(DARKEST, abs=0.03)
        assert 100 < near < 200


def test_the_same_scores_as_for_complete_scans_used_in_3d_alone(
    config: Config, cached: Config, tmp_path: Path
) -> None:
    alone = run_category("seal", config, 0)
    both = run_category("seal", configure(cached, {"modalities": ["3d"], "only": "none"}), 0)
    assert list(alone.result["modes"]) == ["3d"] == list(alone.result["weights"])
    assert alone.result["scans"] == both.result["scans"]
    assert alone.result["modes"]["3d"]["p_auroc"] > 0.8
    assert list(both.fitted.encoders.by_modality) == ["3d"]
    for run, picture in ((alone, "shaded depth"), (both, "photo")):
        pixels = pixels_of(run.samples[0])
        assert list(images_of(pixels, {}, pixels.box)) == [picture, "relief (3D)", "ground truth"]
        figure = maps_grid(run, judged(run)[:1])
        assert picture in [note.text for note in figure.layout.annotations]
        write_maps(kept_scans(run.result, run.samples, run.predictions), tmp_path / picture)
        assert {kept.picture for kept in read_maps(tmp_path / picture).values()} == {picture}


@pytest.mark.parametrize(
    "fields", [{"only": "IFC"}, {"method": "patchcore_fpfh"}, {"detector.heads": True}], ids=str
)
def test_methods_of_3d_score_it(config: Config, fields: dict[str, str]) -> None:
    result = run_category("seal", configure(config, fields), 0).result
    assert next(iter(result["modes"])) == "3d" and "rgb" not in result["weights"]
    assert result["counts"]["test_defective"] == 6


def test_colour_alone_of_complete_scans(cached: Config) -> None:
    rgb = run_category("seal", configure(cached, {"modalities": ["rgb"], "only": "none"}), 0)
    assert list(rgb.result["modes"]) == ["rgb"] == list(rgb.result["weights"])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"modalities": ["3d", "rgb"]},
            r"seal holds no colour images, but LSFA \(ours\) uses RGB; .*`modalities: \[3d\]`",
        ),
        ({"method": "patchcore_rgb"}, r"seal holds no colour images, but PatchCore, RGB uses RGB;"),
        ({"only": "both"}, r"modalities is 3d, but LA and GA align .*--only IFC"),
        ({"method": "cfm"}, r"holds no colour images, but CFM uses RGB; .*such as unadapted"),
    ],
    ids=["lsfa", "patchcore_rgb", "clc", "cfm"],
)
def test_what_needs_colour_says_so(config: Config, fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run_category("seal", configure(config, fields), 0)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"method": "cfm", "modalities": ["3d"]}, "modalities is 3d, but CFM needs rgb; choose"),
        ({"method": "depth_vm", "modalities": ["rgb"]}, "modalities is rgb, but Depth VM needs 3d"),
    ],
    ids=["cfm", "depth_vm"],
)
def test_a_method_of_a_modality_that_was_left_out_says_so(
    cached: Config, fields: dict[str, str], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        run_category("seal", configure(cached, fields), 0)


def test_the_explorer_shows_the_run_of_points_alone(config: Config, points: Path) -> None:
    run = run_category("seal", config, 0)
    explorer = Explorer("seal", preset="tiny", only="none", data_root=str(points), device="cpu")
    with pytest.raises(InputError, match=r"holds no colour images, but LSFA"):
        explorer.open()
    found = fitted("seal", config, 0)
    inspection = Inspection(found)
    expected = [scan["scores"]["3d"] for scan in run.result["scans"]]
    for position in (0.0, 0.5, 1.0):
        inspection.blend(position)
        assert inspection.scores.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert inspection.threshold == pytest.approx(run.fitted.thresholds["3d"])
    assert not inspection.blends and [r.modality for r in inspection.why().reasons] == ["3d"]
    names = [note.text for note in inspection.figure().layout.annotations]
    assert {"shaded depth", "score, 3D"} <= set(names) and "score, RGB" not in names
    again = read_evidence(written(found), found.evidence.entries, 96)
    assert again is not None and list(again.scores) == ["3d"]


def written(found: Fitted) -> Path:
    """The evidence that `fitted` has just kept in the cache, which other tests share."""
    kept = Path(found.config.cache).rglob("evidence-*.safetensors")
    return max(kept, key=lambda path: path.stat().st_mtime_ns)


def test_the_panel_of_points_alone_has_no_blend(
    config: Config, points: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = replace(TINY, cache=str(tmp_path))
    monkeypatch.setattr("lsfa_lib.config.PRESETS", {"tiny": tiny})
    where = {"preset": "tiny", "only": "none", "data_root": str(points), "device": "cpu"}
    panel = Panel(Explorer("seal", modalities=["3d"], **where))
    panel.open()
    assert panel._mix.layout.display == "none" and panel.status.message.value == ""
    assert panel._colors.options == ("shaded depth", "score")
    assert panel._images.widget.layout.annotations[0].text == "shaded depth"
    assert "Shape (3D)" in panel._why.value and "Colour (RGB)" not in panel._why.value


def test_wrong_names(cached: Config) -> None:
    with pytest.raises(InputError, match="modalities holds 'depth', expected some of 3d, rgb"):
        configure(cached, {"modalities": ["depth"]})
    assert configure(cached, {"modalities": ["rgb", "3d"]}) == cached
    with pytest.raises(InputError, match="modalities is empty; name rgb, 3d or both"):
        configure(cached, {"modalities": []})


def test_a_field_that_was_added_keeps_hashes_at_its_default(cached: Config) -> None:
    @dataclass(frozen=True)
    class Stage:
        size: int = 3

    earlier = config_hash(Stage())

    @dataclass(frozen=True)
    class Stage:
        size: int = 3
        kept: str = added("all")

    assert config_hash(Stage()) == earlier != config_hash(Stage(kept="some"))
    assert config_hash(cached) != config_hash(configure(cached, {"modalities": ["3d"]}))


def write_depths(folder: Path) -> dict[str, np.ndarray]:
    """Two depth images without colour in `folder/depth`, and their points by stem."""
    (folder / "depth").mkdir(parents=True)
    found = {}
    for i, stem in enumerate("ab"):
        depth = np.random.default_rng(i).integers(400, 500, (24, 32)).astype(np.uint16)
        depth[3, 4] = 0
        Image.fromarray(depth).save(folder / "depth" / f"{stem}.png")
        v, u = np.indices(depth.shape)
        z = depth / 1000
        found[stem] = np.stack([(u - 16) * z / 50, (v - 12) * z / 50, z], axis=-1)
    return found


@pytest.mark.parametrize("suffix", [".png", ".pcd", ".ply"])
def test_depth_images_and_clouds_without_colour_are_imported(tmp_path: Path, suffix: str) -> None:
    source, root = tmp_path / "source", tmp_path / "mine"
    expected = write_depths(source)
    (tmp_path / "camera.json").write_text(json.dumps(CAMERA))
    if suffix != ".png":
        shutil.rmtree(source / "depth")
        for stem, xyz in expected.items():
            write_cloud(source / f"{stem}{suffix}", xyz)
    words = ("data", "import", source, "part", "--root", root)
    words += ("--intrinsics", tmp_path / "camera.json")
    refused = lsfa(*words)
    assert refused.exit_code and "alone with --depth-only" in str(refused.exception)
    done = lsfa(*words, "--depth-only")
    assert done.exit_code == 0, done.output
    assert "2 scans in train/good" in done.output
    assert (
        "2 scans in train/good (0 written, 2 there already)" in lsfa(*words, "--depth-only").output
    )
    assert sorted(p.name for p in (root / "part/train/good").iterdir()) == ["gt", "xyz"]
    for scan in read_split(root, "part", "train"):
        xyz = expected[scan.name[-1]]
        np.testing.assert_allclose(scan.xyz, xyz, atol=1e-6)
        assert scan.modalities == ("3d",)


def write_cloud(path: Path, xyz: np.ndarray) -> None:
    """An organised cloud of x, y, z in ASCII."""
    rows = cloud_fields(**{n: xyz[..., i].astype("f4") for i, n in enumerate("xyz")})
    height, width = xyz.shape[:2]
    if path.suffix == ".ply":
        about = (f"obj_info num_cols {width}", f"obj_info num_rows {height}")
        write_ply(path, {"vertex": rows}, about, text=True)
    else:
        write_pcd(path, rows, xyz.shape, text=True)


def test_two_options_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    write_depths(tmp_path)
    target = Target(tmp_path / "mine", "part", "train", images_only=True, depth_only=True)
    with pytest.raises(InputError, match="--images-only and --depth-only leave nothing"):
        import_scans(tmp_path, target)


def test_check_and_run_from_the_command_line(points: Path, tmp_path: Path) -> None:
    checked = lsfa("data", "check", points)
    assert checked.exit_code == 0, checked.output
    assert " m; no colour" in checked.output
    assert f"ready: lsfa run seal --data {points} --modalities 3d" in checked.output
    reports = tmp_path / "reports"
    words = ("run", "seal", "--preset", "tiny", "--only", "none", "--device", "cpu")
    words += ("--data", points, "--reports", reports)
    refused = lsfa(*words)
    assert "holds no colour images" in str(refused.exception)
    assert "`modalities: [3d]` (--modalities 3d)" in str(refused.exception)
    done = lsfa(*words, "--modalities", "3d")
    assert done.exit_code == 0, done.output
    assert "seal, 3D" in done.output
    (page,) = reports.glob("runs/**/*3d*/report.html")
    assert "modalities 3d" in page.read_text(encoding="utf-8")


def test_fit_and_predict(points: Path, demo_root: Path, config: Config, tmp_path: Path) -> None:
    file, out = tmp_path / "seal.lsfa", tmp_path / "out"
    words = ("--preset", "tiny", "--only", "none", "--modalities", "3d", "--device", "cpu")
    done = lsfa("fit", "seal", "--data", points, "--out", file, *words)
    assert done.exit_code == 0, done.output
    rows = {}
    xyz_file = points / "seal/test/hole/xyz/000.tiff"
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    write_cloud(incoming / "000.ply", tifffile.imread(xyz_file))
    for i, scans in enumerate(
        (points / "seal/test/hole", xyz_file, demo_root / "seal/test/hole", incoming)
    ):
        done = lsfa("predict", file, scans, "--out", out / str(i), "--device", "cpu")
        assert done.exit_code == 0, done.output
        rows[i] = pd.read_csv(out / str(i) / "scores.csv").iloc[0]
        assert rows[i]["score"] == pytest.approx(rows[0]["score"], rel=1e-5)
        assert (out / str(i) / "clouds/000.ply").is_file()
    detector = load(file, "cpu")
    xyz = tifffile.imread(xyz_file)
    found = detector.predict(None, xyz)
    assert list(found.scores) == ["3d"] and found.score == pytest.approx(rows[0]["score"], rel=1e-5)
    (again,) = detector.predict_batch(None, [xyz])
    assert again.scores == found.scores
    overlay = np.asarray(Image.open(out / "0/overlays/000.png"))
    off = np.isnan(found.anomaly_map)
    assert (overlay[off] == shaded_depth(xyz)[off]).mean() > 0.95
    with pytest.raises(InputError, match="neither colours nor points were given"):
        detector.predict(None)


def test_a_detector_of_both_refuses_points_alone(
    cached: Config, points: Path, tmp_path: Path
) -> None:
    fit_detector("seal", configure(cached, {"only": "none"}), 0).save_as(tmp_path / "seal.lsfa")
    scan = read_split(points, "seal", "test")[0]
    found = load(tmp_path / "seal.lsfa", "cpu").predict(None, scan.xyz)
    assert found.verdict == "not scored" and "no rgb, but the detector was trained" in found.note
