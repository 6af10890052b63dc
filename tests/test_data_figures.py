"""Figures of the data draw the measurements; a scan taken apart shows every reading's fate."""

import base64
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image
from scan_case import PITCH_MM, SIZE, box_scan

from lsfa_lib.config import OURS
from lsfa_lib.figures import data_figures, data_report, scan_statistics
from lsfa_lib.figures.scan_statistics import REGIONS, Measured

CONFIG = replace(OURS, preprocess=replace(OURS.preprocess, image_size=120))
EVIL = "<script>x"


@pytest.fixture(scope="module")
def measured() -> Measured:
    scan = box_scan(name=f"toy/test/hole/{EVIL}")
    return scan_statistics.take_apart(scan, CONFIG.preprocess)


@pytest.fixture(scope="module")
def facts() -> pd.DataFrame:
    one = scan_statistics.facts(box_scan(), CONFIG)
    rows = []
    for category, part in (("nut", 0.4), ("bolt", 0.2), (EVIL, 0.3)):
        shares = {"part": part, "background": 0.55 - part / 2, "loose": 0.05}
        shares["missing"] = 1 - sum(shares.values())
        good = {"category": category, "split": "train", "kind": "good", "defective": False}
        rows += [one | good | shares | {"defect_mm2": 0.0}]
    for kind, area, width in (("hole", 12.0, 1.5), ("hole", 40.0, 6.0), (EVIL, 90.0, 8.0)):
        test = {"category": "nut", "kind": kind, "name": f"nut/test/{kind}/000", "defective": True}
        rows += [one | test | {"defect_mm2": area, "defect_width_mm": width}]
    return pd.DataFrame(rows)


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def image_of(figure: go.Figure, name: str) -> Image.Image:
    names = [note.text for note in figure.layout.annotations if not note.text.startswith("<span")]
    images = [trace for trace in figure.data if trace.type == "image"]
    return picture(images[names.index(name)].source)


def test_shares_of_the_frame_are_stacked_to_one(facts: pd.DataFrame) -> None:
    figure = data_figures.share_figure(facts)
    assert [bar.name for bar in figure.data] == [data_figures.NAMES[r] for r in REGIONS]
    assert list(figure.data[0].x) == [0.2, 0.3, 0.4]
    assert list(figure.data[0].y) == ["bolt ", "&lt;script&gt;x ", "nut "]
    np.testing.assert_allclose(sum(np.array(bar.x) for bar in figure.data), 1)
    title = figure.layout.title.text
    assert title == "The part fills 20 % of the frame of bolt and 40 % of nut"
    alone = data_figures.share_figure(facts[facts["category"] == "nut"])
    assert alone.layout.title.text == "The part fills 40 % of the frame"


def test_defects_are_drawn_by_area_and_width(facts: pd.DataFrame) -> None:
    figure = data_figures.defect_figure(facts)
    assert [trace.name for trace in figure.data] == ["&lt;script&gt;x", "hole"]
    assert list(figure.data[1].x) == [12.0, 40.0] and list(figure.data[1].y) == [1.5, 6.0]
    assert figure.data[0].marker.symbol != figure.data[1].marker.symbol
    patch = facts["patch_mm"].median()
    (line,) = figure.layout.shapes
    assert line.y0 == line.y1 == pytest.approx(patch)
    (note,) = figure.layout.annotations
    assert note.text == f"one patch, {patch:.1f} mm" and note.y == pytest.approx(np.log10(patch))
    assert figure.layout.title.text == data_report.thin_sentence(facts)
    assert figure.layout.title.text.startswith("1 of 3 defects are thinner than a patch")
    assert "12 mm²" in figure.data[1].text[0] and "1.5 mm wide" in figure.data[1].text[0]
    assert EVIL not in figure.to_json()


def test_more_kinds_than_styles_start_again(facts: pd.DataFrame) -> None:
    last = facts.iloc[-1].to_dict()
    many = pd.DataFrame([last | {"kind": f"k{i}"} for i in range(10)])
    figure = data_figures.defect_figure(many)
    assert len(figure.data) == 10
    assert figure.data[8].marker.symbol == figure.data[0].marker.symbol


def test_clouds_hold_every_sort_of_reading_level_with_the_plane(measured: Measured) -> None:
    figure = data_figures.cloud_figure(measured, most=3000)
    *before, after = figure.data
    assert [trace.scene for trace in figure.data] == ["scene"] * 3 + ["scene2"]
    readings = (~measured.regions["missing"]).sum()
    for trace, region in zip(before, REGIONS[:3], strict=True):
        share = measured.regions[region].sum() / readings
        assert trace.name == f"{data_figures.NAMES[region]}, {data_report.percent(share)}"
        assert len(trace.x) == pytest.approx(3000 * share, abs=1)
        assert trace.marker.color == data_figures.COLORS[region]
        assert trace.visible is True
    ground, box = before[1], before[0]
    # The ground is level in the figure, though the camera saw it tilted.
    slope = np.polyfit(ground.x, ground.z, 1)[0]
    assert abs(np.degrees(np.arctan(slope))) < 0.1 and abs(np.median(ground.z)) < 0.05
    assert np.median(box.z) == pytest.approx(20, abs=0.1)
    assert np.ptp(box.x) == pytest.approx(60, abs=1) and np.ptp(box.y) == pytest.approx(40, abs=1)
    # The piece beside it lies to the upper left, in the photo and here.
    assert max(before[2].x) < min(box.x) and min(before[2].y) > max(box.y)
    assert len(after.x) == 3000 and after.marker.colorscale[0][1] == "rgb(120,120,120)"
    labels = [button.label for button in figure.layout.updatemenus[0].buttons]
    assert labels == ["photo", "ground truth"]
    assert all(list(b.args[1]) == [3] for b in figure.layout.updatemenus[0].buttons)
    kept = data_report.percent(measured.regions["part"].sum() / readings)
    assert figure.layout.title.text.endswith(f": {kept} of the readings belong to the part")
    assert EVIL not in figure.to_json() and len(figure.to_json()) < 500_000


def test_lengths_are_those_of_the_scan(measured: Measured) -> None:
    ground = data_figures.cloud_figure(measured, most=50_000).data[1]
    across = SIZE[1] - 1
    assert np.ptp(ground.x) == pytest.approx(across * PITCH_MM / np.cos(np.radians(3)), abs=0.05)
    assert np.ptp(ground.y) == pytest.approx((SIZE[0] - 1) * PITCH_MM, abs=0.05)


def test_a_sort_without_points_is_left_out_of_the_view(measured: Measured) -> None:
    joined = {**measured.regions, "loose": np.zeros_like(measured.regions["loose"])}
    good = replace(measured.scan, defect=np.zeros_like(measured.scan.defect))
    figure = data_figures.cloud_figure(replace(measured, regions=joined, scan=good), most=500)
    assert [trace.visible for trace in figure.data] == [True, True, "legendonly", None]
    assert len(figure.layout.updatemenus) == 0 and "menus" not in str(figure.layout.meta)


def test_scenes_lie_beside_each_other_and_on_a_phone_below(measured: Measured) -> None:
    layout = data_figures.cloud_figure(measured, most=500).to_plotly_json()["layout"]
    assert layout["scene"]["domain"]["x"][1] <= layout["scene2"]["domain"]["x"][0]
    narrow = layout["meta"]["narrow"]
    assert narrow["scene.domain"]["y"][0] > narrow["updatemenus[0].y"]
    assert narrow["updatemenus[0].y"] >= narrow["scene2.domain"]["y"][1]


def test_pictures_show_what_became_of_each_pixel(measured: Measured) -> None:
    figure = data_figures.image_figure(measured)
    kept = np.asarray(image_of(figure, "what is kept").convert("RGB"))
    assert kept.shape == (240, 240, 3)
    colors = {r: tuple(bytes.fromhex(c[1:])) for r, c in data_figures.COLORS.items()}
    # 240 x 180 px lie in the middle of a square of 240.
    for region, (row, column) in {
        "part": (80, 80),
        "background": (160, 20),
        "loose": (20, 20),
        "missing": (90, 104),
    }.items():
        assert measured.regions[region][row, column]
        assert tuple(kept[row + 30, column]) == colors[region]
    heights = image_of(figure, "height above the plane").convert("RGBA")
    assert heights.getpixel((104, 120))[3] == 0
    bar = figure.layout.coloraxis
    assert bar.cmax == pytest.approx(20, abs=0.3) and list(bar.colorbar.tickvals)[:3] == [0, 5, 10]
    shares = {r: measured.regions[r].mean() for r in REGIONS}
    keys = figure.layout.annotations[0].text
    assert all(f"{data_figures.NAMES[r]} {data_report.percent(shares[r])}" in keys for r in REGIONS)
    narrow = figure.layout.meta["narrow"]
    assert narrow["annotations[0].text"].count("<br>") == 3
    assert "rises 20.1 mm above a plane tilted by 3.0°" in figure.layout.title.text
    assert EVIL not in figure.to_json() and len(figure.to_json()) < 400_000


def test_a_good_scan_has_no_truth_to_show(measured: Measured) -> None:
    good = replace(measured.scan, defect=np.zeros_like(measured.scan.defect))
    figure = data_figures.image_figure(replace(measured, scan=good))
    names = [note.text for note in figure.layout.annotations][1:]
    assert names == ["photo", "what is kept", "height above the plane"]
