"""Figures and findings show the numbers they were given."""

import base64
import copy
import io
import json
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image
from report_case import MEAN, MODES, STD, Case, make_case

from lsfa_lib.config import DEMO, TINY, Config, DataConfig, LossWeights, with_losses
from lsfa_lib.datasets import relief
from lsfa_lib.figures import clouds, findings, result_figures, scan_figures, scan_images
from lsfa_lib.figures.names import METRICS, SHORT_MODES, mode_label
from lsfa_lib.figures.style import LINES
from lsfa_lib.figures.training_figure import training_figure
from lsfa_lib.storage.results import as_json

BOTH = "rgb+3d"


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(size=48, each=4)


@pytest.fixture(scope="module")
def drawn(case: Case) -> go.Figure:
    maps = {mode: case.predictions[mode][5] for mode in MODES}
    ranges = scan_images.score_ranges(case.samples, case.predictions)
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
    style = result_figures.metrics_table(case.result)
    table = style.data
    assert list(table.index) == [
        "3D",
        "RGB",
        "RGB + 3D",
        "disagreement",
        "all three",
    ]
    for key, label in METRICS.items():
        assert list(table[label]) == [f"{case.result['modes'][m][key]:.3f}" for m in MODES]
    low, high = case.result["modes"]["3d"]["i_auroc_interval"]
    assert table.loc["3D", "95 % interval"] == f"[{low:.3f}, {high:.3f}]"
    style._compute()
    bold = {cell for cell, css in style.ctx.items() if ("font-weight", "700") in css}
    columns = list(table.columns)
    expected = set()
    for key, label in METRICS.items():
        values = [case.result["modes"][m][key] for m in MODES]
        expected |= {(r, columns.index(label)) for r in range(5) if values[r] == max(values)}
    assert bold == expected


def test_undefined_metrics_are_dashes_with_their_reason_escaped(case: Case) -> None:
    result = copy.deepcopy(case.result)
    for mode in MODES:
        result["modes"][mode]["p_auroc"] = None
        result["modes"][mode]["notes"] = ["no defect pixel <b>"]
    style = result_figures.metrics_table(result)
    assert list(style.data["P-AUROC"]) == ["–"] * 5
    assert "no defect pixel &lt;b&gt;" in style.to_html()


def test_histogram_holds_every_score_once(case: Case) -> None:
    figure = result_figures.score_histogram(case.result, "3d")
    for trace, defective in zip(figure.data, (False, True), strict=True):
        scores = [s["scores"]["3d"] for s in case.result["scans"] if s["defective"] == defective]
        assert sorted(trace.x) == sorted(scores)
        assert trace.xbins.start <= min(scores) and max(scores) < trace.xbins.end
    line = figure.layout.shapes[0]
    assert line.x0 == line.x1 == case.result["modes"]["3d"]["threshold"]
    assert figure.layout.title.text == findings.found_sentence(case.result, "3d")


def test_curves_are_drawn_as_given_and_name_their_area(case: Case) -> None:
    for draw, curve, y, area in (
        (result_figures.roc_figure, "roc", "tpr", "i_auroc"),
        (result_figures.pro_figure, "pro", "pro", "aupro_30"),
    ):
        figure = draw(case.result)
        named = [trace for trace in figure.data if trace.showlegend is not False]
        for trace, mode in zip(named, MODES, strict=True):
            values = case.result["modes"][mode]
            assert list(trace.x) == values["curves"][curve]["fpr"]
            assert list(trace.y) == values["curves"][curve][y]
            assert trace.name == f"{mode_label(mode, short=True)}  {values[area]:.3f}"
        assert len({(trace.line.color, trace.line.dash) for trace in named}) == len(MODES)
        assert len({trace.line.dash for trace in named}) == len(MODES)
        best = max(MODES, key=lambda m: case.result["modes"][m][area])
        assert figure.layout.title.text.startswith(mode_label(best) + " ")
    limits = [shape.x0 for shape in result_figures.pro_figure(case.result).layout.shapes]
    assert limits == [0.30, 0.10, 0.05, 0.01]


def test_kind_figure_has_a_row_for_each_kind_hardest_on_top(case: Case) -> None:
    figure = result_figures.kind_figure(case.result)
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
    assert "Undefined" in result_figures.roc_figure(result).layout.title.text
    assert "Undefined" in result_figures.pro_figure(result).layout.title.text
    assert "No defective parts" in result_figures.kind_figure(result).layout.title.text
    assert len(result_figures.score_histogram(result).data[1].x) == 0
    assert list(scan_figures.chosen_scans(result).values()) == ["worst false alarm"]


def test_chosen_scans_are_the_extremes_and_one_of_each_kind(case: Case) -> None:
    scans = {s["name"]: s for s in case.result["scans"]}
    score = {name: scan["scores"][BOTH] for name, scan in scans.items()}
    bad = [name for name, scan in scans.items() if scan["defective"]]
    good = [name for name in scans if name not in bad]
    chosen = scan_figures.chosen_scans(case.result, n=6)
    best, *_, missed, alarm = chosen
    assert best == max(bad, key=score.get) and "best detection" in chosen[best]
    assert missed == min(bad, key=score.get) and "worst miss" in chosen[missed]
    assert alarm == max(good, key=score.get) and "false alarm" in chosen[alarm]
    assert {scans[name]["kind"] for name in chosen} == {"good", "bump", "dent", "stain", "scratch"}
    assert len(chosen) <= 6
    assert list(scan_figures.chosen_scans(case.result, n=3)) == [best, missed, alarm]


def test_score_scale_is_the_median_and_one_in_a_thousand_of_good_surface(case: Case) -> None:
    ranges = scan_images.score_ranges(case.samples, case.predictions)
    for mode in MODES:
        pixels = []
        for sample, prediction in zip(case.samples, case.predictions[mode], strict=True):
            if sample.kind == "good":
                pixels += prediction.anomaly_map[sample.valid].tolist()
        low, high = np.quantile(pixels, 0.5), np.quantile(pixels, 0.999)
        assert ranges[mode] == pytest.approx((low, high), rel=1e-6)
    values = np.array([1.0, 2.0, 3.0, 6.0, 99.0, -5.0])
    assert scan_images.level_of(values, (1.0, 3.0)).tolist() == [0, 50, 100, 250, 250, 0]


def test_cloud_is_the_sample_in_millimetres_seen_as_in_the_photo(
    case: Case, drawn: go.Figure
) -> None:
    sample = case.samples[5]
    rows, columns = clouds.spread_points(sample.valid.numpy(), 500)
    points = np.stack([np.asarray(drawn.data[-1][axis]) for axis in "xyz"], axis=1)
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
    every = clouds.surface_of(scan_images.pixels_of(sample))
    np.testing.assert_allclose(np.nanmax(every, axis=(0, 1)), -np.nanmin(every, axis=(0, 1)))
    np.testing.assert_allclose(points, every[rows, columns], atol=0.0051)


def test_buttons_recolour_the_cloud_by_photo_truth_and_each_score(
    case: Case, drawn: go.Figure
) -> None:
    sample = case.samples[5]
    at = clouds.spread_points(sample.valid.numpy(), 500)
    buttons = {b.label: b.args for b in drawn.layout.updatemenus[0].buttons}
    assert list(buttons) == ["photo", "ground truth", *(SHORT_MODES[mode] for mode in MODES)]
    for change, traces in buttons.values():
        assert [drawn.data[i].type for i in traces] == ["scatter3d"]
        assert all(len(v) == 1 for k, v in change.items() if k != "hovertemplate")
    color = {label: _bytes(args[0]["marker.color"][0]) for label, args in buttons.items()}
    assert color["ground truth"].tolist() == sample.defect.numpy()[at].astype(int).tolist()
    assert color["ground truth"].any()
    ranges = scan_images.score_ranges(case.samples, case.predictions)
    for mode in MODES:
        low, high = ranges[mode]
        values = case.predictions[mode][5].anomaly_map.numpy()[at]
        expected = np.clip(np.rint((values - low) / (high - low) * 100), 0, 250)
        assert color[mode_label(mode, short=True)].tolist() == expected.astype(int).tolist()
        assert buttons[mode_label(mode, short=True)][0]["marker.cmax"] == [250]
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
        "disagreement",
        "score, all three",
    ]
    photo = np.asarray(_image(images["photo"].source), float)
    expected = (sample.rgb.numpy().transpose(1, 2, 0) * STD + MEAN) * 255
    assert np.abs(photo - expected).mean() < 4
    score = _image(images["score, RGB + 3D"].source).convert("RGBA")
    outline = np.all(np.asarray(score)[..., :3] == (0xD5, 0x5E, 0x00), axis=2)
    valid, defect = sample.valid.numpy(), sample.defect.numpy()
    assert ((np.asarray(score)[..., 3] == 0) == (~valid & ~outline)).all()
    assert outline.any() and not (outline & defect).any()


def test_panels_lie_beside_the_cloud_or_below_it_and_never_on_each_other(
    case: Case, drawn: go.Figure
) -> None:
    def boxes(layout: dict) -> list[tuple[float, float, float, float]]:
        names = ["", *map(str, range(2, 9))]
        return [(*layout[f"xaxis{n}"], *layout[f"yaxis{n}"]) for n in names]

    full = drawn.to_plotly_json()["layout"]
    wide = {name: full[name]["domain"] for name in full if name[:5] in ("xaxis", "yaxis")}
    narrow = full["meta"]["narrow"]
    slim = {n.split(".")[0]: v for n, v in narrow.items() if "axis" in n and "domain" in n}
    for layout in (wide, slim):
        found = boxes(layout)
        for i, (left, right, low, high) in enumerate(found):
            assert 0 <= left < right <= 1 and 0 <= low < high <= 1
            for other_left, other_right, other_low, other_high in found[:i]:
                apart = right <= other_left or other_right <= left
                assert apart or high <= other_low or other_high <= low
    assert full["scene"]["domain"]["x"][1] < min(box[0] for box in boxes(wide))
    assert narrow["scene.domain"]["y"][0] > max(box[3] for box in boxes(slim))
    assert narrow["updatemenus[0].type"] == "dropdown"


def test_a_run_without_training_has_three_modes_and_their_pictures() -> None:
    case = make_case(size=48, each=2, trained=False)
    (figure,) = scan_figures.scan_figures(case.result, case.samples, case.predictions, n=1)
    labels = [button.label for button in figure.layout.updatemenus[0].buttons]
    assert labels == ["photo", "ground truth", "3D", "RGB", "RGB + 3D"]
    assert len([t for t in figure.data if t.type == "image"]) == 6
    assert "updatemenus[0].type" not in figure.layout.meta["narrow"]
    assert figure.layout.height == 440 + 34 + 74  # as high as the cloud
    assert 420 + 2 * 132 < figure.layout.meta["narrow"]["height"] < 850
    assert list(result_figures.metrics_table(case.result).data.index) == ["3D", "RGB", "RGB + 3D"]
    assert len(training_figure(case.result).data) == 0
    sentence = "Nothing was trained: the features are those of the frozen backbones"
    assert findings.training_sentence(case.result) == sentence
    old = {key: value for key, value in case.result.items() if key != "training"}
    assert findings.training_sentence(old) == sentence


def test_thumbnail_is_the_map_the_report_leads_with(case: Case, drawn: go.Figure) -> None:
    notes = [note.text for note in drawn.layout.annotations]
    lead = drawn.data[notes.index("score, RGB + 3D")].source
    photo = drawn.data[notes.index("photo")].source
    assert list(drawn.layout.meta["thumbnail"]) == [photo, lead]
    assert lead != drawn.data[notes.index("score, all three")].source


def test_training_figure_shows_the_history_as_it_was(case: Case) -> None:
    history = case.result["training"]["history"]
    figure = training_figure(case.result)
    rows: dict[str, list[go.Scatter]] = {}
    for trace in figure.data:
        rows.setdefault(trace.yaxis, []).append(trace)
        assert list(trace.x) == list(range(1, 41))
    titles = [note.text for note in figure.layout.annotations]
    assert len(rows) == len(titles) == 6
    first = {key: next(step[key] for step in history if key in step) for key in history[-1]}
    keys = {
        "y": ("LA", "GA", "LC", "GC"),
        "y2": ("variance_3d", "variance_rgb"),
        "y3": ("rank_3d", "rank_rgb"),
        "y4": ("nearest_3d", "nearest_rgb"),
        "y5": ("alignment_accuracy",),
        "y6": ("gradient_norm",),
    }
    for axis, names in keys.items():
        for trace, key in zip(rows[axis], names, strict=True):
            scale = first[key] if axis in ("y2", "y3") else 1.0
            expected = [step.get(key, np.nan) / scale for step in history]
            np.testing.assert_allclose(trace.y, expected, rtol=1e-6)
    assert np.isnan(rows["y"][2].y[:4]).all() and rows["y2"][0].y[0] == 1.0
    assert [trace.name for trace in rows["y"]] == ["LA", "GA", "LC", "GC"]
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert legend == ["LA", "GA", "LC", "GC", "3D", "RGB"]
    assert rows["y2"][0].line.color == rows["y3"][0].line.color == LINES["3d"]["color"]
    assert figure.layout.yaxis.type == "log" and figure.layout.xaxis6.title.text == "step"


def test_training_finding_is_the_variance_kept(case: Case) -> None:
    history = case.result["training"]["history"]
    kept = [round(100 * history[-1][k] / history[0][k]) for k in ("variance_3d", "variance_rgb")]
    title = training_figure(case.result).layout.title.text
    assert title == (
        f"No collapse: the final feature variance is {kept[0]} % (3D) and {kept[1]} % (RGB) of its "
        "initial value"
    )
    assert kept == [81, 148]
    result = copy.deepcopy(case.result)
    result["training"]["history"][-1]["variance_rgb"] = 0.09
    assert "Near collapse: " in findings.training_sentence(result)
    assert "and 9 % (RGB)" in findings.training_sentence(result)


def test_quantities_the_training_lacks_have_no_row_and_long_ones_stay_small(case: Case) -> None:
    result = copy.deepcopy(case.result)
    lacking = ("LC", "GC", "nearest_3d", "nearest_rgb")
    step = {k: v for k, v in result["training"]["history"][-1].items() if k not in lacking}
    result["training"]["history"] = [{**step, "LA": float(i)} for i in range(5000)]
    figure = training_figure(result)
    assert [trace.name for trace in figure.data if trace.yaxis == "y"] == ["LA", "GA"]
    assert len({trace.yaxis for trace in figure.data}) == 5
    steps, values = figure.data[0].x, figure.data[0].y
    assert len(steps) == 400 and (steps[0], steps[-1]) == (1, 5000)
    assert np.diff(steps.astype(int)).min() >= 12 and np.diff(steps.astype(int)).max() <= 13
    np.testing.assert_array_equal(values, steps.astype(float) - 1)
    assert len(figure.to_json()) < 60_000


def test_settings_name_what_differs_from_the_preset(case: Case) -> None:
    def said(config: Config) -> list[str]:
        return findings.settings({"preset": config.preset, "config": as_json(config)})

    assert findings.settings(case.result) == ["demo", "224 px", "image 672 px", "IFC + CLC"]
    assert said(with_losses(DEMO, "IFC")) == ["demo", "224 px", "image 672 px", "only IFC"]
    assert said(with_losses(DEMO, "both")) == ["demo", "224 px", "image 672 px", "IFC + CLC"]
    assert said(with_losses(TINY, "none")) == ["tiny", "96 px", "no training"]
    assert said(replace(with_losses(TINY, "LA"), shots=1)) == ["tiny", "96 px", "only LA", "1 shot"]
    odd = replace(DEMO.training, weights=LossWeights(la=0.3, ga=0.0, lc=1.0, gc=0.0), steps=7)
    changed = replace(DEMO, training=odd, bank=replace(DEMO.bank, keep_ratio=0.2), shots=10)
    assert said(changed) == [
        "demo",
        "224 px",
        "image 672 px",
        "only LA + LC",
        "10 shots",
        "bank.keep_ratio 0.2",
        "training.weights.la 0.3",
        "1 more",
    ]
    # Where a run is made, and on which machine, changes no number.
    moved = replace(DEMO, device="cpu", cache="", data=DataConfig(root="/elsewhere"))
    assert said(moved) == ["demo", "224 px", "image 672 px"]
    assert said(replace(changed, preset="mine"))[:4] == ["mine", *said(changed)[1:4]]
    weights = replace(DEMO, point_encoder=replace(DEMO.point_encoder, weights="/home/me/w.pth"))
    assert said(weights)[3:] == ["point_encoder.weights …/w.pth"]
    fine = replace(DEMO.projection, patch_px=1)
    assert said(replace(DEMO, method="cfm", shots=5, projection=fine)) == [
        "demo",
        "cfm",
        "224 px",
        "image 672 px",
        "5 shots",
        "projection.patch_px 1",
    ]
    # What a method changes in every config is not told, and a run of it has a title.
    own = replace(DEMO, method="patchcore_rgb", training=replace(DEMO.training, steps=0))
    result = {"preset": "demo", "config": as_json(own), "method": {"title": "PatchCore, RGB"}}
    assert findings.settings(result) == ["demo", "PatchCore, RGB", "224 px", "image 672 px"]


def test_lines_over_seeds_are_mean_deviation_and_interval(case: Case) -> None:
    runs = []
    for category, value in (("seal", 0.7), ("seal", 0.8), ("seal", 0.9), ("cookie", 0.5)):
        run = copy.deepcopy(case.result) | {"category": category}
        run["modes"]["3d"]["i_auroc"] = value
        run["modes"]["rgb"]["i_auroc"] = None if value == 0.8 else value
        runs.append(run)
    lines = findings.seed_lines(runs)
    assert len(lines) == 2 * len(MODES)
    assert lines[0].startswith("seal         3D ") and lines[0].endswith("   3 seeds")
    # Student's t: 0.8 - 4.303 x 0.1 / sqrt(3), and no further than 1.
    assert "I-AUROC 0.800 ± 0.100 [0.552, 1.000]" in lines[0]
    assert "I-AUROC –   AUPRO 30 % 0." in lines[1]
    assert "I-AUROC 0.500 ± –   AUPRO 30 %" in lines[len(MODES)]


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_relief_is_bright_where_the_surface_faces_the_upper_left(mirror: float) -> None:
    y, x = np.mgrid[:40, :40].astype(float) - 20
    z = 500 + 0.2 * (x**2 + y**2) / 20
    xyz = np.stack((mirror * x, y, z), axis=2)
    shade = relief.relief(xyz, np.ones((40, 40), bool)).astype(int)
    assert shade[8, 8] > shade[20, 20] > shade[32, 32]
    assert abs(shade[8, 32] - shade[32, 8]) <= 1


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, -1), (-1, 1, 1), (-1, -1, 1)])
def test_axes_are_those_of_the_photo_whatever_the_cameras(signs: tuple[int, int, int]) -> None:
    y, x = np.mgrid[:30, :30].astype(float) - 14.5
    xyz = np.stack((x, y, 400 + 0.05 * x**2), axis=2) * signs
    axes = relief.photo_axes(xyz, np.ones((30, 30), bool))
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
    result_figures.metrics_table(case.result)
    assert case.result == before.result
    for now, then in zip(case.samples, before.samples, strict=True):
        assert torch.equal(now.rgb, then.rgb) and torch.equal(now.xyz, then.xyz)
