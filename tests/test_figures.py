"""Figures and findings show the numbers they were given."""

import base64
import copy
import io
import json

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image
from report_case import MEAN, STD, Case, make_case

from lsfa_lib import clouds, figures, findings, scan_figures, scan_pictures
from lsfa_lib.records import MODES

BOTH = "rgb+3d"


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(size=48, each=4)


@pytest.fixture(scope="module")
def drawn(case: Case) -> go.Figure:
    maps = {mode: case.predictions[mode][5] for mode in MODES}
    ranges = scan_pictures.score_ranges(case.samples, case.predictions)
    return scan_figures.scan_figure(case.samples[5], maps, ranges, "title", max_points=500)


def _bytes(array: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"])


def _image(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_counts_are_those_of_a_loop_over_the_scans(case: Case) -> None:
    threshold = case.result["modes"][BOTH]["threshold"]
    found = bad = rejected = good = 0
    for scan in case.result["scans"]:
        if scan["defective"]:
            bad += 1
            found += scan["scores"][BOTH] > threshold
        else:
            good += 1
            rejected += scan["scores"][BOTH] > threshold
    assert findings.counts(case.result) == (found, bad, rejected, good)
    assert 0 < found < bad == 16
    sentence = findings.found_sentence(case.result, BOTH)
    assert f"{found} of {bad} defective" in sentence and f"{rejected} of {good} good" in sentence


def test_metrics_table_shows_three_digits_and_marks_the_best(case: Case) -> None:
    style = figures.metrics_table(case.result)
    table = style.data
    assert list(table.index) == ["3D", "RGB", "RGB + 3D"]
    for label, key in figures.COLUMNS.items():
        assert list(table[label]) == [f"{case.result['modes'][m][key]:.3f}" for m in MODES]
    low, high = case.result["modes"]["3d"]["i_auroc_interval"]
    assert table.loc["3D", "95 % interval"] == f"[{low:.3f}, {high:.3f}]"
    style._compute()
    bold = {cell for cell, css in style.ctx.items() if ("font-weight", "700") in css}
    columns = list(table.columns)
    expected = set()
    for label, key in figures.COLUMNS.items():
        values = [case.result["modes"][m][key] for m in MODES]
        expected |= {(r, columns.index(label)) for r in range(3) if values[r] == max(values)}
    assert bold == expected


def test_undefined_metrics_are_dashes_with_their_reason_escaped(case: Case) -> None:
    result = copy.deepcopy(case.result)
    for mode in MODES:
        result["modes"][mode]["p_auroc"] = None
        result["modes"][mode]["notes"] = ["no defect pixel <b>"]
    style = figures.metrics_table(result)
    assert list(style.data["P-AUROC"]) == ["–"] * 3
    assert "no defect pixel &lt;b&gt;" in style.to_html()


def test_histogram_holds_every_score_once(case: Case) -> None:
    figure = figures.score_histogram(case.result, "3d")
    for trace, defective in zip(figure.data, (False, True), strict=True):
        scores = [s["scores"]["3d"] for s in case.result["scans"] if s["defective"] == defective]
        assert sorted(trace.x) == sorted(scores)
        assert trace.xbins.start <= min(scores) and max(scores) < trace.xbins.end
    line = figure.layout.shapes[0]
    assert line.x0 == line.x1 == case.result["modes"]["3d"]["threshold"]
    assert figure.layout.title.text == findings.found_sentence(case.result, "3d")


def test_curves_are_drawn_as_given_and_name_their_area(case: Case) -> None:
    for draw, curve, y, area in (
        (figures.roc_figure, "roc", "tpr", "i_auroc"),
        (figures.pro_figure, "pro", "pro", "aupro_30"),
    ):
        figure = draw(case.result)
        named = [trace for trace in figure.data if trace.showlegend is not False]
        for trace, mode in zip(named, MODES, strict=True):
            values = case.result["modes"][mode]
            assert list(trace.x) == values["curves"][curve]["fpr"]
            assert list(trace.y) == values["curves"][curve][y]
            assert trace.name.endswith(f"{values[area]:.3f}")
        best = max(MODES, key=lambda m: case.result["modes"][m][area])
        assert figure.layout.title.text.startswith(findings.NAMES[best] + " ")
    limits = [shape.x0 for shape in figures.pro_figure(case.result).layout.shapes]
    assert limits == [0.30, 0.10, 0.05, 0.01]


def test_kind_figure_has_a_row_for_each_kind_hardest_on_top(case: Case) -> None:
    figure = figures.kind_figure(case.result)
    by_kind = {}
    for scan in case.result["scans"]:
        by_kind.setdefault(scan["kind"], []).append(scan["scores"][BOTH])
    rows = [trace.name.strip() for trace in figure.data]
    assert rows[0] == "good" and set(rows) == set(by_kind)
    medians = [np.median(by_kind[kind]) for kind in rows[1:]]
    assert medians == sorted(medians, reverse=True)
    for trace in figure.data:
        assert list(trace.x) == by_kind[trace.name.strip()]


def test_answer_repeats_the_numbers_and_escapes_names(case: Case) -> None:
    result = copy.deepcopy(case.result)
    for scan in result["scans"]:
        if scan["kind"] == "scratch":
            scan["kind"], scan["scores"][BOTH] = "<script>", -1.0
    text = findings.answer(result)
    for mode in MODES:
        assert f"{result['modes'][mode]['i_auroc']:.3f}" in text
        assert f"{result['modes'][mode]['aupro_30']:.3f}" in text
    assert "Hardest kind: &lt;script&gt;, 0 of 4 found" in text


def test_one_class_results_are_said_to_be_undefined(case: Case) -> None:
    result = copy.deepcopy(case.result)
    result["scans"] = [s for s in result["scans"] if not s["defective"]]
    for values in result["modes"].values():
        values |= {"i_auroc": None, "aupro_30": None, "i_auroc_interval": [None, None]}
        values["curves"] = {"roc": {"fpr": [], "tpr": []}, "pro": {"fpr": [], "pro": []}}
    assert "Undefined" in figures.roc_figure(result).layout.title.text
    assert "Undefined" in figures.pro_figure(result).layout.title.text
    assert "No defective parts" in figures.kind_figure(result).layout.title.text
    assert len(figures.score_histogram(result).data[1].x) == 0
    assert [c.reason for c in scan_figures.chosen_scans(result)] == ["worst false alarm"]


def test_chosen_scans_are_the_extremes_and_one_of_each_kind(case: Case) -> None:
    scans = {s["name"]: s for s in case.result["scans"]}
    score = {name: scan["scores"][BOTH] for name, scan in scans.items()}
    bad = [name for name, scan in scans.items() if scan["defective"]]
    good = [name for name in scans if name not in bad]
    chosen = scan_figures.chosen_scans(case.result, n=6)
    assert chosen[0].name == max(bad, key=score.get) and "best detection" in chosen[0].reason
    assert chosen[-2].name == min(bad, key=score.get) and "worst miss" in chosen[-2].reason
    assert chosen[-1].name == max(good, key=score.get) and "false alarm" in chosen[-1].reason
    assert {scans[c.name]["kind"] for c in chosen} == {"good", "bump", "dent", "stain", "scratch"}
    assert len({c.name for c in chosen}) == len(chosen) <= 6
    assert [c.name for c in scan_figures.chosen_scans(case.result, n=3)] == [
        chosen[0].name,
        chosen[-2].name,
        chosen[-1].name,
    ]


def test_score_scale_is_the_median_and_one_in_a_thousand_of_good_surface(case: Case) -> None:
    ranges = scan_pictures.score_ranges(case.samples, case.predictions)
    for mode in MODES:
        pixels = []
        for sample, prediction in zip(case.samples, case.predictions[mode], strict=True):
            if sample.kind == "good":
                pixels += prediction.anomaly_map[sample.valid].tolist()
        low, high = np.quantile(pixels, 0.5), np.quantile(pixels, 0.999)
        assert ranges[mode] == pytest.approx((low, high), rel=1e-6)
    values = np.array([1.0, 2.0, 3.0, 6.0, 99.0, -5.0])
    assert scan_pictures.percent(values, (1.0, 3.0)).tolist() == [0, 50, 100, 250, 250, 0]


def test_cloud_is_the_sample_in_millimetres_seen_as_in_the_photo(
    case: Case, drawn: go.Figure
) -> None:
    sample = case.samples[5]
    rows, columns = clouds.spread_points(sample.valid.numpy(), 500)
    points = np.stack([np.asarray(drawn.data[-2][axis]) for axis in "xyz"], axis=1)
    assert points.shape == (500, 3)
    original = sample.xyz.numpy().transpose(1, 2, 0)[rows, columns] * 1000
    # A rigid motion: all distances stay, up to the rounding to 0.01 mm.
    for one in range(0, 500, 50):
        now = np.linalg.norm(points - points[one], axis=1)
        then = np.linalg.norm(original - original[one], axis=1)
        np.testing.assert_allclose(now, then, atol=0.03)
    assert np.corrcoef(points[:, 0], columns)[0, 1] > 0.99
    assert np.corrcoef(points[:, 1], rows)[0, 1] < -0.99
    assert np.corrcoef(points[:, 2], original[:, 2])[0, 1] < -0.99
    np.testing.assert_allclose(points.max(axis=0), -points.min(axis=0), atol=0.011)


def test_buttons_recolour_the_cloud_by_photo_truth_and_each_score(
    case: Case, drawn: go.Figure
) -> None:
    sample = case.samples[5]
    at = clouds.spread_points(sample.valid.numpy(), 500)
    buttons = {b.label: b.args for b in drawn.layout.updatemenus[0].buttons}
    assert list(buttons) == ["photo", "ground truth", "3D", "RGB", "RGB + 3D"]
    for change, traces in buttons.values():
        assert [drawn.data[i].type for i in traces] == ["scatter3d"]
        assert all(len(v) == 1 for k, v in change.items() if k != "hovertemplate")
    color = {label: _bytes(args[0]["marker.color"][0]) for label, args in buttons.items()}
    assert color["ground truth"].tolist() == sample.defect.numpy()[at].astype(int).tolist()
    assert color["ground truth"].any()
    ranges = scan_pictures.score_ranges(case.samples, case.predictions)
    for mode in MODES:
        low, high = ranges[mode]
        values = case.predictions[mode][5].anomaly_map.numpy()[at]
        expected = np.clip(np.rint((values - low) / (high - low) * 100), 0, 250)
        assert color[findings.NAMES[mode]].tolist() == expected.astype(int).tolist()
        assert buttons[findings.NAMES[mode]][0]["marker.cmax"] == [250]
    scale = buttons["photo"][0]["marker.colorscale"][0]
    shown = np.array([json.loads(f"[{c[1][4:-1]}]") for c in scale])[color["photo"]]
    photo = (sample.rgb.numpy().transpose(1, 2, 0) * STD + MEAN)[at] * 255
    # 250 colours stand for at most 500 different ones.
    assert np.abs(shown - photo).mean() < 3


def test_pictures_show_photo_truth_and_maps(case: Case, drawn: go.Figure) -> None:
    sample = case.samples[5]
    notes = drawn.layout.annotations
    images = {note.text: drawn.data[i] for i, note in enumerate(notes)}
    assert list(images) == [
        "photo",
        "relief (3D)",
        "ground truth",
        "score, 3D",
        "score, RGB",
        "score, RGB + 3D",
    ]
    photo = np.asarray(_image(images["photo"].source), float)
    expected = (sample.rgb.numpy().transpose(1, 2, 0) * STD + MEAN) * 255
    assert np.abs(photo - expected).mean() < 4
    score = _image(images["score, RGB + 3D"].source).convert("RGBA")
    outline = np.all(np.asarray(score)[..., :3] == (0xD5, 0x5E, 0x00), axis=2)
    valid, defect = sample.valid.numpy(), sample.defect.numpy()
    assert ((np.asarray(score)[..., 3] == 0) == (~valid & ~outline)).all()
    assert outline.any() and not (outline & defect).any()


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_relief_is_bright_where_the_surface_faces_the_upper_left(mirror: float) -> None:
    y, x = np.mgrid[:40, :40].astype(float) - 20
    z = 500 + 0.2 * (x**2 + y**2) / 20
    xyz = np.stack((mirror * x, y, z), axis=2)
    shade = scan_pictures.relief(xyz, np.ones((40, 40), bool)).astype(int)
    assert shade[8, 8] > shade[20, 20] > shade[32, 32]
    assert abs(shade[8, 32] - shade[32, 8]) <= 1


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, -1), (-1, 1, 1), (-1, -1, 1)])
def test_axes_are_those_of_the_photo_whatever_the_cameras(signs: tuple[int, int, int]) -> None:
    y, x = np.mgrid[:30, :30].astype(float) - 14.5
    xyz = np.stack((x, y, 400 + 0.05 * x**2), axis=2) * signs
    axes = scan_pictures.photo_axes(xyz, np.ones((30, 30), bool))
    expected = np.diag((1.0, -1.0, -1.0)) * signs
    np.testing.assert_allclose(axes, expected, atol=1e-3)


def test_view_is_from_above_and_tells_its_units() -> None:
    scene = clouds.scene(np.array([[-50.0, -40, -5], [50, 40, 5]]))
    assert scene["aspectmode"] == "data"
    assert [scene[f"{a}axis"]["title"]["text"] for a in "xyz"] == ["x, mm", "y, mm", ""]
    eye, unit = scene["camera"]["eye"], (100 * 80 * 10) ** (1 / 3)
    # In millimetres the eye is 164 from the part of 100: all of it is in view.
    assert np.hypot(eye["y"], eye["z"]) * unit == pytest.approx(164, rel=0.01)
    assert eye["z"] > -eye["y"] > 0


def test_spread_points_keep_the_limit_and_cover_the_part_evenly() -> None:
    valid = np.ones((80, 80), bool)
    rows, columns = clouds.spread_points(valid, 1600)
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 1600
    count = np.zeros((8, 8))
    np.add.at(count, (rows // 10, columns // 10), 1)
    assert count.min() >= 20 and count.max() <= 30
    few = np.zeros((80, 80), bool)
    few[3, 5] = few[7, 9] = True
    assert [v.tolist() for v in clouds.spread_points(few, 1600)] == [[3, 7], [5, 9]]


def test_figures_change_neither_samples_nor_results(case: Case) -> None:
    before = copy.deepcopy(case)
    scan_figures.scan_figures(case.result, case.samples, case.predictions, n=2)
    figures.metrics_table(case.result)
    assert case.result == before.result
    for now, then in zip(case.samples, before.samples, strict=True):
        assert torch.equal(now.rgb, then.rgb) and torch.equal(now.xyz, then.xyz)
