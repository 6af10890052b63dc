"""Images without 3D: read, prepared, learned from, reported; what needs points says so."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.config import Config, configure
from lsfa_lib.datasets.layouts import entries, read_split
from lsfa_lib.datasets.preprocess import prepare
from lsfa_lib.explorer.fitted import fitted
from lsfa_lib.explorer.inspection import Inspection
from lsfa_lib.features.extract import load_encoders
from lsfa_lib.figures.scan_images import pixels_of
from lsfa_lib.pipeline import run_category
from lsfa_lib.selection.pseudo_set import pseudo_set
from lsfa_lib.storage.files import InputError


@pytest.fixture(scope="module")
def images(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seal of the demo without its points; colours as JPEG."""
    root = tmp_path_factory.mktemp("images")
    shutil.copytree(demo_root / "seal", root / "seal", ignore=shutil.ignore_patterns("xyz"))
    for path in root.glob("seal/*/*/rgb/*.png"):
        Image.open(path).crop((0, 0, 200, 160)).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    for path in root.glob("seal/*/*/gt/*.png"):
        Image.open(path).crop((0, 0, 200, 160)).save(path)
    return root


@pytest.fixture
def config(images: Path, cached: Config) -> Config:
    return configure(cached, {"data.root": str(images)})


def test_an_image_is_read_without_points(images: Path) -> None:
    entry = entries(images, "seal", "train")[0]
    assert entry.xyz is None and entry.files == (entry.rgb,) and entry.rgb.suffix == ".jpg"
    scan = read_split(images, "seal", "train")[0]
    assert scan.modalities == ("rgb",) and scan.path == entry.rgb
    assert scan.rgb.shape == scan.xyz.shape == (160, 200, 3) and not scan.xyz.any()


def test_all_of_an_image_is_valid_and_keeps_its_colours(images: Path, config: Config) -> None:
    scan = read_split(images, "seal", "train")[0]
    sample = prepare(scan, config.preprocess)
    # 160 rows of 200: a tenth of the square is padding on either side, 9.6 rows of 96.
    rows = torch.zeros(96, dtype=torch.bool)
    rows[10:86] = True
    assert torch.equal(sample.valid, rows[:, None].expand(96, 96))
    square = np.zeros((200, 200, 3), np.uint8)
    square[20:180] = scan.rgb
    expected = Image.fromarray(square).resize((96, 96), Image.Resampling.BICUBIC)
    assert (pixels_of(sample).photo == np.asarray(expected)).all()


@pytest.mark.parametrize(
    "fields", [{"only": "IFC"}, {"only": "none"}, {"method": "patchcore_rgb"}], ids=str
)
def test_methods_of_the_image_score_it(config: Config, fields: dict[str, str]) -> None:
    result = run_category("seal", configure(config, fields), 0).result
    assert list(result["modes"]) == ["rgb"] == list(result["weights"])
    assert result["counts"]["test_defective"] == 6
    assert 0.5 < result["modes"]["rgb"]["p_auroc"] <= 1


def test_a_method_of_the_image_loads_no_point_encoder(cached: Config) -> None:
    run = run_category("seal", configure(cached, {"method": "patchcore_rgb"}), 0)
    assert list(run.result["weights"]) == ["rgb"]
    assert run.fitted.encoders is not None and list(run.fitted.encoders.by_modality) == ["rgb"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "LA and GA align images with points; run with --only IFC"),
        ({"method": "cfm"}, "CFM needs 3d; choose a method of the image alone"),
        ({"method": "depth_vm"}, "Depth VM needs 3d"),
        ({"only": "none", "modalities": ["3d"]}, r"LSFA \(ours\) needs 3d; choose a method of the"),
    ],
    ids=["lsfa", "cfm", "depth_vm", "3d alone"],
)
def test_what_needs_points_says_so(config: Config, fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=rf"seal holds images without 3D, but .*{sentence}"):
        run_category("seal", configure(config, fields), 0)


def test_the_explorer_shows_the_colours_alone(config: Config) -> None:
    with pytest.raises(InputError, match=r"images without 3D, but LA and GA align"):
        fitted("seal", config, 0)
    inspection = Inspection(fitted("seal", configure(config, {"only": "none"}), 0))
    assert not inspection.blends and [r.modality for r in inspection.why().reasons] == ["rgb"]
    assert len(inspection.figure().data) > 3 and "In colour (RGB)" in inspection.answer()


def test_a_lost_xyz_file_is_still_missed(demo_root: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_root / "seal", tmp_path / "seal")
    shutil.rmtree(tmp_path / "seal" / "test" / "good" / "xyz")
    with pytest.raises(InputError, match=r"its partner .*000\.tiff is missing"):
        entries(tmp_path, "seal", "test")


def test_check_and_run_from_the_command_line(images: Path, tmp_path: Path) -> None:
    checked = CliRunner().invoke(app, ["data", "check", str(images)])
    assert checked.exit_code == 0, checked.output
    assert "200 x 160 px; no 3D" in checked.output
    reports = tmp_path / "reports"
    words = f"run seal --preset tiny --only IFC --device cpu --data {images} --reports {reports}"
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    (page,) = reports.glob("runs/**/report.html")
    assert "RGB" in page.read_text(encoding="utf-8")


def test_a_head_of_colours_learns_from_images_alone(config: Config) -> None:
    heads = configure(config, {"only": "none", "detector.heads": True})
    found = run_category("seal", heads, 0)
    assert list(found.result["modes"]) == ["rgb", "heads", "rgb+heads"]
    with pytest.raises(InputError, match=r"leaves no kind of pseudo-defect that changes rgb;"):
        none = {"detector.heads_without": ["pasted", "blended", "colour"]}
        run_category("seal", configure(heads, none), 0)


def test_selection_on_images_has_no_defect_that_they_cannot_show(config: Config) -> None:
    encoders = load_encoders(config, torch.device("cpu"), ["rgb"])
    found = pseudo_set("seal", config, encoders, 0)
    assert sorted(set(found.kinds)) == ["pseudo_blended", "pseudo_colour", "pseudo_pasted"]
    for made, mask in zip(found.pseudo, found.masks, strict=True):
        good = next(f for f in found.good if f.name == made.name.rpartition("#")[0])
        assert mask.any()
        assert not torch.equal(made.by_modality["rgb"].tokens, good.by_modality["rgb"].tokens)
