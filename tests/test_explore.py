"""What the explorer shows and answers, with its widgets but without a browser."""

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from lsfa_lib.config import TINY, Config, DataConfig
from lsfa_lib.detection.detector import predict
from lsfa_lib.explorer.evidence import blended
from lsfa_lib.explorer.explore import Explorer
from lsfa_lib.explorer.explore_html import (
    CROP,
    closeup,
    overview,
    strip_html,
    verdict_html,
    why_html,
)
from lsfa_lib.explorer.explore_panel import STEPS, Panel
from lsfa_lib.explorer.fitted import Fitted, fitted
from lsfa_lib.explorer.inspection import POSITIONS, Inspection, prepared
from lsfa_lib.features.cache import extract
from lsfa_lib.features.extract import load_encoders
from lsfa_lib.features.lazy_scan import read_sample
from lsfa_lib.figures.scan_images import level_of, score_ranges
from lsfa_lib.notebooks.find import find_notebook
from lsfa_lib.notebooks.run import execute
from lsfa_lib.storage.files import InputError


@pytest.fixture(scope="module")
def config(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    cache = tmp_path_factory.mktemp("explore")
    return replace(TINY, data=DataConfig(str(demo_root)), device="cpu", cache=str(cache))


@pytest.fixture(scope="module")
def seal(config: Config) -> Fitted:
    return fitted("seal", config, seed=0)


@pytest.fixture
def inspection(seal: Fitted) -> Inspection:
    return Inspection(seal)


@pytest.fixture
def explorer(config: Config, monkeypatch: pytest.MonkeyPatch) -> Explorer:
    """On the tiny data, with the cache of these tests."""
    explorer = Explorer("seal", preset="tiny", data_root=config.data.root, device="cpu")
    monkeypatch.setattr("lsfa_lib.config.PRESETS", {"tiny": replace(TINY, cache=config.cache)})
    return explorer


def shown(panel: Panel) -> dict[str, str]:
    """The texts of the panel, without tags."""
    names = ("_verdict", "_counts", "_why", "_limit", "_share")
    found = {name[1:]: getattr(panel, name) for name in names} | {"message": panel.status.message}
    return {name: re.sub("<[^>]*>", "", widget.value) for name, widget in found.items()}


def click(widget, trace: int, **points) -> None:
    """What the browser sends when a figure is clicked."""
    widget._js2py_pointsCallback = {
        "event_type": "plotly_click",
        "points": {"trace_indexes": [trace], **points},
        "device_state": {
            "alt": False, "ctrl": False, "meta": False, "shift": False, "button": 0, "buttons": 1
        },
        "selector": None,
    }  # fmt: skip


def test_colours_mean_what_they_mean_on_a_report(inspection: Inspection, config: Config) -> None:
    seal, encoders = inspection.fitted, load_encoders(config, torch.device("cpu"))
    samples = [read_sample(entry, config) for entry in seal.evidence.entries]
    found = [predict(seal.detector, extract(sample, encoders, config)) for sample in samples]
    modes = {mode: [one[mode] for one in found] for mode in POSITIONS}
    ranges = score_ranges(samples, modes)
    for mode, position in POSITIONS.items():
        inspection.blend(position)
        assert inspection.bounds(position) == pytest.approx(ranges[mode], rel=1e-5)
        anomaly = modes[mode][inspection.scan].anomaly_map.numpy()
        expected = level_of(anomaly, ranges[mode]).astype(int)
        assert np.abs(inspection.level.astype(int) - expected).max() <= 1


def test_it_opens_on_the_highest_score_and_its_worst_pixel(inspection: Inspection) -> None:
    scores = inspection.fitted.evidence.scores
    mean = [(c + s) / 2 for c, s in zip(scores["rgb"], scores["3d"], strict=True)]
    assert inspection.scan == mean.index(max(mean))
    inside = inspection.sample.valid.numpy()
    assert inside[inspection.pixel]
    assert inspection.level[inspection.pixel] == inspection.level[inside].max()


def test_scan_is_chosen_by_the_end_of_its_name(inspection: Inspection) -> None:
    for name in ("good/001", "seal/test/good/001"):
        inspection.choose(name)
        assert inspection.name == "seal/test/good/001"
    with pytest.raises(InputError, match=r"0 test scans are called 'nought'; use a name such as"):
        inspection.choose("nought")
    with pytest.raises(InputError, match=r"test scans are called '000'"):
        inspection.choose("000")


def test_a_threshold_of_ones_own_stays_where_the_detectors_goes_along(
    inspection: Inspection,
) -> None:
    assert inspection.threshold == inspection.fitted.detector.thresholds["rgb+3d"]
    inspection.blend(1.0)
    assert inspection.threshold == inspection.fitted.detector.thresholds["3d"]
    inspection.threshold = 0.7
    inspection.blend(0.2)
    assert inspection.threshold == 0.7


def test_why_names_the_training_scans_and_refuses_pixels_outside(inspection: Inspection) -> None:
    why = inspection.why()
    assert (why.row, why.column) == inspection.pixel
    assert [reason.modality for reason in why.reasons] == ["rgb", "3d"]
    for reason in why.reasons:
        assert reason.source in inspection.fitted.train
        assert prepared(reason.source, inspection.fitted.config).name == reason.source.name
    with pytest.raises(InputError, match=r"pixel \(96, 0\) is outside .*0 to 95"):
        inspection.why(96, 0)
    assert inspection.why(0, 0).reasons == ()
    assert "Nothing was measured at row 0, column 0" in why_html(inspection.why(0, 0), inspection)


def test_texts_hold_the_numbers(inspection: Inspection) -> None:
    why, (caught, bad, rejected, good) = inspection.why(), inspection.counts
    text, answer = why_html(why, inspection), inspection.answer()
    for reason in why.reasons:
        source = reason.source.name
        assert f"distance {reason.distance:.2f}" in text
        assert f"half up to {reason.median:.2f}, 99 % up to {reason.usual:.2f}" in text
        assert source.removeprefix("seal/") in text
        assert f"{reason.distance:.2f} from the closest normal patch" in answer
        assert source in answer
    assert f"{caught} of {bad} defective" in answer
    assert f"{rejected} of {good} good" in answer
    inspection.threshold = -1e9
    assert inspection.answer().startswith(f"**{inspection.name} is called defective**: score ")
    inspection.threshold = 1e9
    assert inspection.answer().startswith(f"**{inspection.name} is called good**")


def test_strip_has_a_dot_for_each_scan_at_its_score(inspection: Inspection) -> None:
    text = strip_html(inspection)
    dots = re.findall(r'<circle cx="([\d.]+)%".*?<title>(.*?)</title>', text)
    placed = {title.split(": ")[0]: float(x) for x, title in dots}
    evidence, scores = inspection.fitted.evidence, inspection.scores
    assert set(placed) == set(evidence.names) and len(dots) == len(evidence.names)
    order = [evidence.names[i] for i in np.argsort(scores)]
    assert sorted(placed.values()) == [placed[name] for name in order]
    line = float(re.search(r'<line x1="([\d.]+)%" x2="\1%"', text).group(1))  # type: ignore[union-attr]
    above = {name for name, x in placed.items() if x > line}
    assert above == {evidence.names[i] for i in np.flatnonzero(scores > inspection.threshold)}
    assert text.count('r="8"') == 1  # the ring


def test_frames_lie_about_the_patch(config: Config) -> None:
    px = config.projection.patch_px
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[40:44, 60:64] = 200  # one whole patch
    for place in ((40, 60), (43, 63)):
        image = np.asarray(closeup(picture, place, config)).astype(int)
        zoom = len(image) // (CROP * px)
        bright = np.argwhere(image[..., 0] > 190)
        middle = (len(image) - 1) / 2
        assert np.abs(bright.mean(axis=0) - middle).max() < zoom
    whole = np.asarray(overview(picture, (42, 62), config))
    assert whole.shape[0] == whole.shape[1] == 96 * 2
    frame = np.argwhere((whole == 255).all(axis=2))
    assert np.abs(frame.mean(axis=0) - 2 * np.array([42, 62])).max() <= 2
    # At the rim the close-up goes on in black.
    assert np.asarray(closeup(picture, (0, 95), config)).shape == image.shape


def test_names_from_data_stay_text(explorer: Explorer, demo_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    name = "<script>alert(1)<"
    shutil.copytree(demo_root / "seal", root / name)
    (root / name / "test" / "hole").rename(root / name / "test" / "<img src=x>")
    explorer.category, explorer.only, explorer.data_root = name, "none", str(root)
    inspection = explorer.open()
    inspection.choose("<img src=x>/000")
    texts = [
        verdict_html(inspection),
        strip_html(inspection),
        why_html(inspection.why(), inspection),
        inspection.answer(),
        inspection.figure().to_json(),
    ]
    for text in texts:
        assert "<script" not in text and "<img src=x" not in text
    assert html.escape(name) in texts[0] and html.escape("<img src=x>") in texts[0]


def test_another_seed_is_another_detector(explorer: Explorer) -> None:
    scores = []
    for seed in (0, 1, 0):
        explorer.seed = seed
        scores.append(explorer.open().scores.tolist())
    assert scores[0] == scores[2] != scores[1]


def test_a_preset_of_ones_own_is_shown(explorer: Explorer, tmp_path: Path) -> None:
    explorer.preset = str(tmp_path / "mine.yaml")
    Path(explorer.preset).write_text("preset: tiny\n", encoding="utf-8")
    panel = Panel(explorer)
    assert panel.choices.preset.value == explorer.preset
    assert "tiny" in panel.choices.preset.options


def test_figure_is_the_reports(inspection: Inspection) -> None:
    figure = inspection.figure()
    assert figure.layout.title.text == inspection.verdict
    kinds = [trace.type for trace in figure.data]
    assert kinds.count("scatter3d") == 1 and kinds.count("image") == 6
    assert inspection.position == 0.5


def test_widgets_follow_scan_blend_and_threshold(explorer: Explorer) -> None:
    panel = Panel(explorer)
    panel.open()
    assert explorer.problem is None and shown(panel)["message"] == ""
    inspection, before = explorer.inspection, shown(panel)
    names = inspection.fitted.evidence.names
    assert [label for label, _ in panel.choices.scan.options] == [
        " ".join(name.split("/")[2:]) for name in names
    ]
    other = next(name for name in names if "/good/" in name and name != inspection.sample.name)
    panel.choices.scan.value = names.index(other)
    assert shown(panel)["verdict"].startswith(f"{other} is called")
    assert shown(panel)["why"] != before["why"]
    panel._threshold.value = 0
    low = inspection.reach[0]
    assert inspection.threshold == low and "yours" in shown(panel)["limit"]
    found, bad, rejected, good = inspection.counts
    assert bad - found + good - rejected <= 1
    for text in (f"{found}found", f"{bad - found}missed", f"{rejected}rejected"):
        assert text in shown(panel)["counts"]
    panel._blend.value = 100
    assert inspection.position == 1.0 and inspection.threshold == low
    assert shown(panel)["share"].endswith("0 % colour, 100 % shape")
    panel._reset.click()
    assert inspection.threshold == inspection.fitted.detector.thresholds["3d"]
    assert panel._reset.disabled and 0 < panel._threshold.value < STEPS


def test_figures_hold_map_cloud_and_the_clicked_pixel(explorer: Explorer) -> None:
    panel = Panel(explorer)
    panel.open()
    inspection = explorer.inspection
    pictures, cloud = panel._images.widget, panel._cloud.widget
    valid = inspection.sample.valid.numpy()
    drawn = np.zeros_like(inspection.level)
    drawn[pictures.data[1].y, pictures.data[1].x] = pictures.data[1].z
    assert np.array_equal(drawn[valid], inspection.level[valid])
    assert len(pictures.data[1].z) == valid.sum() == len(cloud.data[0].x)
    panel._colors.value = "score"
    assert np.array_equal(cloud.data[0].marker.color, inspection.level[valid])
    panel._blend.value = 0
    assert np.array_equal(cloud.data[0].marker.color, inspection.level[valid])

    row, column = (int(i) for i in np.argwhere(valid)[200])
    for trace in (0, 1):  # photo and map
        row += 1 - trace
        click(pictures, trace, point_indexes=[[0, 0]], xs=[column + 0.3], ys=[row - 0.2])
        assert inspection.pixel == (row, column)
        assert f"at row {row}, column {column}" in shown(panel)["why"]
        assert {mark.x[0] for mark in pictures.data[4:]} == {column}
        assert {mark.y[0] for mark in pictures.data[4:]} == {row}
    click(cloud, 0, point_indexes=[123], xs=[0], ys=[0], zs=[0])
    assert inspection.pixel == tuple(np.argwhere(valid)[123].tolist())
    assert cloud.data[1].visible and cloud.data[1].x[0] == pytest.approx(
        cloud.data[0].x[123], abs=0.01
    )
    click(pictures, 0, point_indexes=[[0, 0]], xs=[1.0], ys=[1.0])
    assert "Nothing was measured" in shown(panel)["why"] and not cloud.data[1].visible


def test_errors_are_one_sentence_and_the_view_stays(explorer: Explorer, tmp_path: Path) -> None:
    panel = Panel(explorer)
    panel.open()
    verdict = shown(panel)["verdict"]
    panel.choices.root.value = str(tmp_path / "nowhere")
    text = shown(panel)["message"]
    assert "nowhere: no such folder" in text and "\n" not in text
    assert isinstance(explorer.problem, InputError)
    assert shown(panel)["verdict"] == verdict and panel._view.layout.display is None
    # Widgets still work, and the next good choice takes the sentence away.
    panel.choices.scan.value = 0
    assert shown(panel)["verdict"] != verdict
    panel.choices.losses.value = "none"
    assert shown(panel)["message"] == "" and explorer.only == "none"
    assert explorer.inspection.fitted.detector.adaptors is None


def test_an_unexpected_error_is_a_sentence_too(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = Panel(explorer)
    panel.open()
    explorer.inspection.fitted.evidence.nearest["rgb"][:] = 10**6
    click(panel._images.widget, 0, point_indexes=[[0, 0]], xs=[5.0], ys=[5.0])
    assert shown(panel)["message"].startswith("This did not work: IndexError")


def test_another_category_starts_with_its_own_highest_score(explorer: Explorer) -> None:
    panel = Panel(explorer)
    panel.open()
    seal = explorer.inspection
    panel.choices.category.value = "biscuit"
    assert explorer.inspection.name.startswith("biscuit/test/")
    assert shown(panel)["verdict"].startswith("biscuit/test/")
    panel.choices.category.value = "seal"
    assert explorer.inspection.fitted is seal.fitted  # in memory, not fitted again


def test_data_folder_is_shown_relative_to_the_working_directory(
    demo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explorer = Explorer("zebra", preset="tiny", data_root=str(demo_root))
    panel = Panel(explorer)
    monkeypatch.chdir(demo_root.parent)
    panel.open()
    assert panel.choices.root.value == demo_root.name
    assert explorer.data_root == str(demo_root)
    monkeypatch.chdir(demo_root / "seal")
    panel.open()
    assert panel.choices.root.value == str(demo_root)
    for module in ("storage.files", "explorer.explore_choices"):
        monkeypatch.setattr(f"lsfa_lib.{module}.CHECKOUT", demo_root.parent)
    panel.open()
    assert panel.choices.root.value == demo_root.name


def test_first_category_is_taken_where_none_is_named(demo_root: Path, config: Config) -> None:
    explorer = Explorer(preset="tiny", data_root=str(demo_root))
    assert explorer.categories == ["biscuit", "seal"]
    panel = Panel(Explorer("zebra", preset="tiny", data_root=str(demo_root)))
    panel.open()
    assert "zebra: no such category" in shown(panel)["message"]
    assert panel.choices.category.value is None and panel._view.layout.display == "none"


def test_explorer_answers_without_widgets(explorer: Explorer) -> None:
    why = explorer.why()
    assert why == explorer.inspection.why() and explorer.counts == explorer.inspection.counts
    assert explorer.answer() == explorer.inspection.answer()
    assert explorer.figure().layout.title.text == explorer.inspection.verdict
    scores = blended(explorer.inspection.fitted.evidence.scores, 0.5, "mean")
    assert explorer.inspection.scores.tolist() == scores.tolist()


def test_notebook_runs_without_a_browser(demo_root: Path, tmp_path: Path) -> None:
    parameters = {"category": "seal", "preset": "tiny", "data_root": str(demo_root)}
    parameters |= {"only": "none", "scan": "hole/000"}
    path = execute(find_notebook("explore"), tmp_path, parameters)
    notebook = nbformat.read(path, 4)
    (answer,) = notebook.cells[-1].outputs
    text = answer.data["text/markdown"]
    assert text.startswith("**seal/test/hole/000 is called") and "seal/train/good/" in text
    (figure,) = next(c for c in notebook.cells if c.id == "figure").outputs
    assert set(figure.data) == {"application/vnd.plotly.v1+json"}
    assert path.stat().st_size < 2e6
