"""A detector file on new scans: the run's own numbers, whatever the way in; bad files and scans."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open3d
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import lsfa_lib
from lsfa_lib.cli.app import app
from lsfa_lib.config import TINY, Config, configure
from lsfa_lib.datasets.layouts import entries, read_scan, read_split
from lsfa_lib.demo.rendering import camera_matrix
from lsfa_lib.deployment.inspector import NOT_SCORED, UNLIKE, Inspector, load
from lsfa_lib.deployment.predicting import Scoring
from lsfa_lib.deployment.report import MOST_FIGURES, is_shown
from lsfa_lib.deployment.results import opened
from lsfa_lib.detection import saved
from lsfa_lib.methods.fitting import fit_detector
from lsfa_lib.pipeline import Run
from lsfa_lib.storage.files import InputError


@pytest.fixture(scope="module")
def file(seal_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector that the run of the seal keeps."""
    folder = tmp_path_factory.mktemp("kept")
    seal_run.save_detector(folder)
    (path,) = folder.glob("detector-*.safetensors")
    detector, origin = saved.load_complete(path, torch.device("cpu"))
    # So low that every scan has regions: the tiny encoders find little.
    low = {mode: [0.5, 0.6, 0.7] for mode in detector.modes}
    saved.save(replace(detector, peaks=low), folder / "seal.lsfa", origin)
    return folder / "seal.lsfa"


@pytest.fixture(scope="module")
def inspector(file: Path) -> Inspector:
    return load(file, "cpu")


@pytest.fixture(scope="module")
def results(file: Path, demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `lsfa predict` writes of the seal's test scans."""
    out = tmp_path_factory.mktemp("out") / "results"
    done = lsfa("predict", file, demo_root / "seal" / "test", "--out", out, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "too few" not in done.output, done.output
    assert "of 9 scans defective" in done.output, done.output[150:]
    return out


def lsfa(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def of_run(run: Run) -> dict[str, dict[str, float]]:
    """The run's scores by the name that predict gives the scan."""
    return {scan["name"].split("/test/")[1]: scan["scores"] for scan in run.result["scans"]}


def test_predict_gives_the_scores_of_the_run(results: Path, seal_run: Run) -> None:
    table = pd.read_csv(results / "scores.csv").set_index("scan")
    expected = of_run(seal_run)
    assert set(table.index) == set(expected)
    threshold = seal_run.fitted.thresholds["rgb+3d"]
    for name, scores in expected.items():
        for mode, score in scores.items():
            assert table.loc[name, f"score_{mode}"] == pytest.approx(score, rel=1e-5, abs=1e-5)
        verdict = "defective" if scores["rgb+3d"] > threshold else "good"
        assert table.loc[name, "verdict"] == verdict
    numbers = table.columns.drop(["verdict", "note"])
    parquet = pd.read_parquet(results / "scores.parquet").set_index("scan")
    found = parquet[numbers].astype(float)
    pd.testing.assert_frame_equal(found, table[numbers].astype(float), rtol=1e-5)


def test_single_and_batch_in_python_give_the_same(
    file: Path, demo_root: Path, seal_run: Run
) -> None:
    detector = lsfa_lib.load(file, "cpu")
    scans = list(read_split(demo_root, "seal", "test"))[:3]
    batch = detector.predict_batch([s.rgb for s in scans], [s.xyz for s in scans])
    for scan, found in zip(scans, batch, strict=True):
        alone = detector.predict(scan.rgb, scan.xyz)
        assert alone.scores == found.scores
        assert found.scores == pytest.approx(of_run(seal_run)[scan.name.split("/test/")[1]])
        assert np.array_equal(alone.anomaly_map, found.anomaly_map, equal_nan=True)


def test_a_fresh_process_in_another_folder_gives_the_same(
    file: Path, demo_root: Path, results: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_root / "seal" / "test" / "hole", tmp_path / "in")
    shutil.copyfile(file, tmp_path / "seal.lsfa")
    code = "from lsfa_lib.cli.app import main; main()"
    words = ["predict", "seal.lsfa", "in", "--out", "out", "--device", "cpu"]
    path = {"PYTHONPATH": os.pathsep.join([str(Path(lsfa_lib.__file__).parents[1])])}
    subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=os.environ | path, check=True
    )
    found = pd.read_csv(tmp_path / "out" / "scores.csv", dtype={"scan": str})
    expected = pd.read_csv(results / "scores.csv").set_index("scan")
    assert found["scan"].tolist() == ["000"]
    for column in ("score", "score_3d", "score_rgb", "p_value", "area_mm2"):
        assert found[column][0] == pytest.approx(expected.loc["hole/000", column], rel=1e-5)


def test_maps_overlays_and_clouds_are_in_the_frame_of_the_input(
    results: Path, demo_root: Path, inspector: Inspector
) -> None:
    (scan,) = (s for s in read_split(demo_root, "seal", "test") if s.kind == "hole")
    anomaly = tifffile.imread(results / "maps" / "hole" / "000.tiff")
    found = inspector.inspect(scan)
    assert anomaly.dtype == np.float32 and anomaly.shape == scan.rgb.shape[:2]
    assert np.array_equal(anomaly, found.anomaly_map, equal_nan=True)
    assert Image.open(results / "overlays" / "hole" / "000.png").size == scan.rgb.shape[1::-1]
    readings = scan.xyz[scan.xyz[..., 2] != 0]
    cloud = open3d.io.read_point_cloud(str(results / "clouds" / "hole" / "000.ply"))
    assert np.allclose(np.asarray(cloud.points), readings)
    colours = np.asarray(Image.open(results / "overlays" / "hole" / "000.png"))
    assert np.allclose(np.asarray(cloud.colors) * 255, colours[scan.xyz[..., 2] != 0])
    vertices = vertices_of(results / "clouds" / "hole" / "000.ply")
    assert vertices.dtype.names == ("x", "y", "z", "red", "green", "blue", "score")
    assert np.array_equal(np.stack([vertices[axis] for axis in "xyz"], 1), readings)
    rgb = np.stack([vertices[name] for name in ("red", "green", "blue")], 1)
    assert np.array_equal(rgb, colours[scan.xyz[..., 2] != 0])
    assert np.array_equal(vertices["score"], np.nan_to_num(anomaly[scan.xyz[..., 2] != 0]))


def vertices_of(path: Path) -> np.ndarray:
    """The vertices of a binary PLY by its specification: names and types as the header has them."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    magic, form, element, *properties = header.decode("ascii").splitlines()
    assert (magic, form) == ("ply", "format binary_little_endian 1.0")
    kinds = {"float": "<f4", "uchar": "u1"}
    named = [line.split() for line in properties]
    assert {word for word, _, _ in named} == {"property"}
    found = np.frombuffer(body, [(name, kinds[kind]) for _, kind, name in named])
    assert element == f"element vertex {len(found)}"
    return found


def test_a_map_is_the_square_seen_at_the_pixels_of_the_frame() -> None:
    from lsfa_lib.deployment.in_frame import in_frame

    ramp = torch.arange(8.0).expand(8, 8).contiguous()
    part = np.ones((16, 32), bool)
    part[0, 0] = False
    found = in_frame(ramp, part)
    centres = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    assert np.isnan(found[0, 0])
    np.testing.assert_allclose(found[5], centres, atol=1e-6)


def test_regions_and_report(results: Path, inspector: Inspector) -> None:
    regions = json.loads((results / "regions.json").read_text())
    assert sum(map(len, regions.values())) > 5
    table = pd.read_csv(results / "scores.csv").set_index("scan")
    for name, own in regions.items():
        assert table.loc[name, "regions"] == len(own)
        anomaly = tifffile.imread(results / "maps" / f"{name}.tiff")
        above = int((np.nan_to_num(anomaly, nan=-np.inf) > inspector.pixel_threshold).sum())
        assert sum(region["area_px"] for region in own) == above
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "seal: inspection of 9 scans" in page
    assert 'href="overlays/hole/000.png"' in page and "Show code" not in page


def test_a_second_call_scores_nothing_again(
    file: Path, demo_root: Path, results: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_root / "seal" / "test" / "good", tmp_path / "in")
    words = ("predict", file, tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu")
    assert lsfa(*words).exit_code == 0
    record = tmp_path / "out" / "records" / "000.json"
    before = record.stat().st_mtime_ns
    done = lsfa(*words, "--fail-on-defect")
    # The tiny encoders call two of the good scans defective.
    assert done.exit_code == 1 and record.stat().st_mtime_ns == before
    record.write_bytes(record.read_bytes()[:50])
    assert lsfa(*words).exit_code == 0
    assert json.loads(record.read_text())["scan"] == "000"
    with (results / "detector.json").open() as about:
        assert json.load(about)["category"] == "seal"
    (tmp_path / "out" / "detector.json").write_text('{"sha256": "0", "category": "seal"}')
    assert "holds results of another detector file" in str(lsfa(*words).exception)


@pytest.mark.parametrize("cores", [1, 3])
def test_the_number_of_cores_changes_no_output(
    cores: int, inspector: Inspector, demo_root: Path, results: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        with opened(tmp_path / "out", inspector) as out:
            rows = Scoring(out, [demo_root / "seal" / "test"]).batch()
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    columns = pd.read_csv(results / "scores.csv").columns.drop("seconds")
    found, expected = (pd.read_csv(f / "scores.csv") for f in (tmp_path / "out", results))
    pd.testing.assert_frame_equal(found[columns], expected[columns])
    assert len(rows) == 9
    for row in rows:
        for output in ("maps/{}.tiff", "overlays/{}.png", "clouds/{}.ply"):
            name = output.format(row["scan"])
            assert (tmp_path / "out" / name).read_bytes() == (results / name).read_bytes()


def test_scans_read_in_another_unit_are_scored_again(
    file: Path, demo_root: Path, tmp_path: Path
) -> None:
    scan = read_split(demo_root, "seal", "test")[0]
    (tmp_path / "in").mkdir()
    Image.fromarray(scan.rgb).save(tmp_path / "in" / "a.png")
    depth = np.rint(scan.xyz[..., 2] * 10_000).astype(np.uint16)
    Image.fromarray(depth).save(tmp_path / "in" / "a_depth.png")
    matrix = camera_matrix(len(depth))
    camera = dict(zip(("fx", "cx", "cy"), (matrix[0, 0], *matrix[:2, 2]), strict=True))
    (tmp_path / "camera.json").write_text(json.dumps(camera | {"fy": camera["fx"]}))
    words = ("predict", file, tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu")
    words = (*words, "--intrinsics", tmp_path / "camera.json", "--depth-unit-m")
    record, outputs = tmp_path / "out" / "records" / "a.json", tmp_path / "out" / "maps" / "a.tiff"

    def read(unit_m: float) -> dict[str, Any]:
        assert lsfa(*words, unit_m).exit_code == 0
        return json.loads(record.read_text())

    assert read(0.001)["verdict"] == NOT_SCORED and not outputs.exists()
    scored, written = read(0.0001), record.stat().st_mtime_ns
    assert scored["score"] is not None and outputs.exists()
    assert read(0.0001) == scored and record.stat().st_mtime_ns == written
    # A scan that is not scored leaves no map of an earlier one.
    assert read(0.001)["verdict"] == NOT_SCORED and not outputs.exists()
    assert not list((tmp_path / "out").rglob("a.p*")) and not list(tmp_path.rglob("figures/a*"))


def test_a_broken_link_is_named_and_the_watch_ends(
    file: Path, demo_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_root / "seal" / "test" / "good", tmp_path / "in")
    link = tmp_path / "in" / "rgb" / "001.png"
    link.unlink()
    link.symlink_to(tmp_path / "gone.png")
    words = ("predict", file, tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu")
    assert lsfa(*words, "--watch", "--settle", 0, "--idle", 0.1).exit_code == 0
    notes = pd.read_csv(tmp_path / "out" / "scores.csv").set_index("scan")["note"]
    assert f"{link}: does not exist, or its link is broken; restore it" in notes.to_list()
    assert len(notes) == 3


def test_only_what_a_killed_predict_left_is_deleted(inspector: Inspector, tmp_path: Path) -> None:
    left, other = tmp_path / "maps" / "hole" / ".partial-1.tiff", tmp_path / "runs" / ".partial-2"
    for path in (left, other):
        path.parent.mkdir(parents=True)
        path.touch()
    with opened(tmp_path, inspector):
        assert not left.exists() and other.exists()
    (tmp_path / "detector.json").write_text("{")
    with pytest.raises(InputError, match=r"detector\.json is damaged"), opened(tmp_path, inspector):
        pass


def test_views_are_made_of_the_scans_that_the_report_shows() -> None:
    def record(name: str, verdict: str, score: float | None) -> dict[str, Any]:
        return {"scan": name, "verdict": verdict, "score": score}

    bad = [record(str(i), "defective", 2.0 + i) for i in range(MOST_FIGURES)]
    assert is_shown(record("new", "good", 9.0), bad[1:])
    assert not is_shown(record("new", "good", 9.0), bad)
    assert not is_shown(record("new", "defective", 1.9), bad)
    assert is_shown(record("new", "defective", 2.1), bad)
    assert is_shown(record("0", "defective", 1.0), bad)  # the same scan, changed
    assert is_shown(record("new", "good", 0.5), [record("b", "not scored", None)] * 20)


def test_a_changed_scan_leaves_no_view_of_the_old_one(
    inspector: Inspector, demo_root: Path, tmp_path: Path
) -> None:
    entry = entries(demo_root, "seal", "test")[0]
    scan = read_scan(entry)
    found = inspector.inspect(scan)
    bad = {"verdict": "defective", "score": 1e9}
    with opened(tmp_path / "out", inspector) as out:
        out.keep(entry, found, scan)
        (view,) = (tmp_path / "out" / "figures").rglob("*.json")
        assert json.loads(view.read_text())["data"]
        out.keep(entry, found, scan, [{"scan": f"{i}", **bad} for i in range(MOST_FIGURES)])
        assert not view.exists()


def test_images_alone(demo_root: Path, cached: Config, tmp_path: Path) -> None:
    shutil.copytree(
        demo_root / "seal", tmp_path / "data" / "seal", ignore=shutil.ignore_patterns("xyz")
    )
    config = configure(cached, {"data.root": str(tmp_path / "data"), "only": "none"})
    fit_detector("seal", config, 0).save_as(tmp_path / "seal.lsfa")
    image = demo_root / "seal" / "test" / "hole" / "rgb" / "000.png"
    folder = tmp_path / "data" / "seal" / "test" / "hole" / "rgb"
    rows = []
    for i, scans in enumerate((image, folder, demo_root / "seal" / "test" / "hole")):
        out = tmp_path / f"out{i}"
        done = lsfa("predict", tmp_path / "seal.lsfa", scans, "--out", out, "--device", "cpu")
        assert done.exit_code == 0, done.output
        rows.append(pd.read_csv(out / "scores.csv").iloc[0])
        assert not (out / "clouds").exists()
    expected = load(tmp_path / "seal.lsfa", "cpu").predict(np.asarray(Image.open(image)))
    assert [row["score"] for row in rows] == pytest.approx([expected.score] * 3, rel=1e-5)
    assert list(expected.scores) == ["rgb"] and np.isfinite(expected.anomaly_map).all()


def test_scans_that_do_not_fit_are_never_a_silent_verdict(
    inspector: Inspector, demo_root: Path
) -> None:
    scan = read_split(demo_root, "seal", "test")[0]
    other = read_split(demo_root, "biscuit", "test")[0]
    bright = np.full_like(scan.rgb, 255)
    cases = {
        "millimetres": inspector.predict(scan.rgb, scan.xyz * 1000),
        "500 x": inspector.predict(scan.rgb[:, :150], scan.xyz[:, :150]),
        "no reading at all": inspector.predict(scan.rgb, np.zeros_like(scan.xyz)),
        "overexposed": inspector.predict(bright, scan.xyz),
        "no 3d": inspector.predict(scan.rgb),
    }
    sizes = cases.pop("500 x")
    assert sizes.verdict == NOT_SCORED and "a frame of 150 x 200 px" in sizes.note
    for word, found in cases.items():
        assert found.verdict == NOT_SCORED and found.score is None
        assert word in found.note
    assert inspector.predict(other.rgb, other.xyz).verdict == UNLIKE


def test_features_that_are_not_finite_are_no_verdict(file: Path, demo_root: Path) -> None:
    scan, broken = read_split(demo_root, "seal", "test")[0], load(file, "cpu")
    network = broken.encoders.by_modality["rgb"]
    assert network is not None
    for parameter in network.parameters():
        parameter.data.fill_(torch.nan)
    found = broken.predict(scan.rgb, scan.xyz)
    assert found.verdict == NOT_SCORED and "features are not finite" in found.note


def altered(file: Path, path: Path, change: str) -> Path:
    """A copy of the file with one thing changed."""
    with safe_open(file, "pt") as stored:
        digest, _, text = stored.metadata()[saved.HEADER].partition(" ")
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    about = json.loads(text)
    if change == "format":
        about["format"] = 99
    elif change == "no origin":
        del about["origin"]
    elif change == "fine-tuned":
        about["config"]["finetune"]["method"] = "lora"
    elif change == "weights":
        about["origin"]["keys"]["rgb"] = "0" * 16
    elif change == "bank":
        tensors["rgb.rows"][0, 0] += 1
    text = json.dumps(about)
    digest = digest if change == "bank" else saved._digest(text, tensors)
    save_file(tensors, path, {saved.HEADER: f"{digest} {text}"})
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("format", r"is not a saved detector \(format 99 of lsfa_lib 0.1.0, this version reads 2"),
        ("no origin", "does not say which scans it was trained on; fit it again"),
        ("fine-tuned", r"its backbones were fine-tuned \(lora\), and a detector file holds no"),
        ("weights", "was fitted with .* weights of sha256 .* restore them, or fit it again"),
        ("bank", "its content does not match its digest"),
    ],
)
def test_a_changed_file_is_refused(file: Path, tmp_path: Path, change: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load(altered(file, tmp_path / "changed.lsfa", change), "cpu")


class Harmful:
    """Unpickled, it would write a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_file_with_code_in_it_or_cut_short_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = file.read_bytes()
    torch.save(Harmful(), tmp_path / "torch.lsfa")
    for bad in (pickle.dumps(Harmful()), content[:-10], content[:50], b"", None):
        path = tmp_path / ("torch.lsfa" if bad is None else "bad.lsfa")
        if bad is not None:
            path.write_bytes(bad)
        with pytest.raises(InputError, match=r"\.lsfa is not a saved detector"):
            load(path)
    assert not (tmp_path / "harm").exists()
    with pytest.raises(InputError, match="is not a saved detector"):
        load(tmp_path / "missing.lsfa")


def test_fit_from_the_command_line_needs_no_test_split(demo_root: Path, tmp_path: Path) -> None:
    shutil.copytree(
        demo_root / "seal", tmp_path / "data" / "seal", ignore=shutil.ignore_patterns("test")
    )
    out = tmp_path / "seal.lsfa"
    words = ("fit", "seal", "--data", tmp_path / "data", "--preset", "tiny", "--out", out)
    done = lsfa(*words, "--only", "none", "--device", "cpu", "--image-size", "96")
    assert done.exit_code == 0, done.output
    assert "6 training and 3 calibration scans" in done.output
    assert "3 good scans are too few for a rate of 5.0%, which needs 19" in done.output
    found = load(out, "cpu")
    assert found.config.detector.threshold == "conformal"
    assert [c.width for c in found.origin.captures] == [200] * 6
    rules = "detector: {false_alarm_rate: 0.2, threshold: normal}"
    for text, words, expected in (
        ("", (), ("conformal", 0.05)),
        (rules, (), ("normal", 0.2)),
        (rules, ("--rate", 0.1, "--threshold", "conformal"), ("conformal", 0.1)),
    ):
        config = tmp_path / "mine.yaml"
        config.write_text(f"preset: tiny\n{text}\n")
        words = (*words, "--data", tmp_path / "data", "--only", "none")
        done = lsfa("fit", "seal", "--config", config, "--out", out, *words)
        assert done.exit_code == 0, done.output
        rule = load(out, "cpu").config.detector
        assert (rule.threshold, rule.false_alarm_rate) == expected
    both = lsfa("fit", "seal", "--config", config, "--preset", "tiny", "--out", out)
    assert "--preset tiny and --config" in str(both.exception)


def test_fit_refuses_what_a_file_cannot_hold(tmp_path: Path) -> None:
    config = tmp_path / "tuned.yaml"
    config.write_text("preset: tiny\nfinetune:\n  method: lora\n")
    tuned = lsfa("fit", "seal", "--config", config, "--out", tmp_path / "x.lsfa")
    assert "which a detector file does not hold; train adaptors" in str(tuned.exception)
    config.write_text("preset: tiny\nmethod: cfm\n")
    other = lsfa("fit", "seal", "--config", config, "--out", tmp_path / "x.lsfa")
    assert "method cfm keeps no detector; use lsfa or unadapted" in str(other.exception)
    assert replace(TINY, method="lsfa") == TINY
    folder = lsfa("fit", "seal", "--preset", "tiny", "--out", tmp_path)
    assert f"{tmp_path}: is a folder; name a file in it" in str(folder.exception)


def test_nothing_readable_is_said(file: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no scan")
    done = lsfa("predict", file, tmp_path / "in", "--out", tmp_path / "out")
    assert "in: no scans in here; expected folders rgb and xyz" in str(done.exception)
    done = lsfa("predict", file, tmp_path / "nowhere", "--out", tmp_path / "out")
    assert "nowhere: no such file or folder" in str(done.exception)
