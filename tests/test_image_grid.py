"""Images of rows lie next to or below each other, wide and on a phone, and never on each other."""

import base64
import io

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from lsfa_lib.figures.image_grid import CLOUD_HEIGHT_PX, ColorBar, ImageRow, image_grid
from lsfa_lib.figures.scan_images import Box, box_around
from lsfa_lib.figures.style import adapt_to_phones

BAR = ColorBar("mm", {0.0: "0", 5.0: "5"}, 8.0)


def image(shade: int, side: int) -> np.ndarray:
    return np.full((side, side), shade, np.uint8)


def rows(count: int, images: int, **more: object) -> list[ImageRow]:
    return [
        ImageRow(
            f"<b>row {r}</b>",
            {f"p{i}": image(10 * r + i, 50 + r) for i in range(images)},
            Box(0, 0, 50 + r),
            **more,
        )
        for r in range(count)
    ]


def shade(source: str) -> int:
    """What `image` was drawn in."""
    data = base64.b64decode(source.partition("base64,")[2])
    return int(np.median(np.asarray(Image.open(io.BytesIO(data)))))


def cells(layout: dict, count: int) -> list[tuple[float, float, float, float]]:
    names = ["", *map(str, range(2, count + 1))]
    return [(*layout[f"xaxis{n}"]["domain"], *layout[f"yaxis{n}"]["domain"]) for n in names]


def on_a_phone(figure: go.Figure) -> dict:
    layout = figure.to_plotly_json()["layout"]
    for path, value in layout["meta"]["narrow"].items():
        keys = path.replace("[", ".").replace("]", "").split(".")
        at = layout
        for key in keys[:-1]:
            at = at[int(key) if isinstance(at, (list, tuple)) else key]
        at[keys[-1]] = value
    return layout


def assert_apart(found: list[tuple[float, float, float, float]]) -> None:
    for i, (left, right, low, high) in enumerate(found):
        assert 0 <= left < right <= 1 and 0 <= low < high <= 1
        for other_left, other_right, other_low, other_high in found[:i]:
            beside = right <= other_left or other_right <= left
            assert beside or high <= other_low or other_high <= low


def plot_height(layout: dict) -> float:
    return layout["height"] - layout["margin"]["b"] - layout["margin"].get("t", 34)


def placed(note: dict, layout: dict) -> tuple[float, float]:
    """Where a note's lower edge is, as shares of width and height."""
    at = []
    for axis in "xy":
        value, ref = note[axis], note[f"{axis}ref"]
        if ref != "paper":
            low, high = layout[f"{axis}axis{ref.removesuffix(' domain')[1:]}"]["domain"]
            value = low + value * (high - low)
        at.append(value)
    return at[0], at[1] + note.get("yshift", 0) / plot_height(layout)


def assert_names_are_readable(layout: dict, width: float, count: int) -> None:
    """Texts of 12 px lie on no image."""
    height = plot_height(layout)
    for note in layout["annotations"]:
        if note.get("visible") is False:
            continue
        x, low = placed(note, layout)
        high, reach = low + 12 / height, 20 / width if note["xanchor"] == "center" else 0.0
        for left, right, cell_low, cell_high in cells(layout, count):
            beside = x + reach <= left or right <= x - reach
            assert beside or low >= cell_high - 1e-4 or high <= cell_low + 1e-4


@pytest.mark.parametrize(("count", "pictures", "bar"), [(1, 3, BAR), (8, 8, BAR), (2, 5, None)])
def test_images_do_not_overlap(count: int, pictures: int, bar: ColorBar | None) -> None:
    figure = image_grid(rows(count, pictures), "title", bar)
    wide, narrow = figure.to_plotly_json()["layout"], on_a_phone(figure)
    assert_apart(cells(wide, count * pictures))
    assert_apart(cells(narrow, count * pictures))
    # In a row of its own each scan, from left to right; on a phone four beside each other.
    x = np.array(cells(wide, count * pictures)).reshape(count, pictures, 4)
    assert (np.diff(x[:, :, 0]) > 0).all() and (np.ptp(x[:, :, 2], axis=1) == 0).all()
    y = np.array(cells(narrow, count * pictures)).reshape(count, pictures, 4)
    assert len(np.unique(y[0, :, 3])) == -(-pictures // 4)
    assert narrow["height"] != wide["height"]
    for layout, width in ((wide, 1050), (narrow, 348)):
        assert_names_are_readable(layout, width, count * pictures)
    # Square cells in both: widths and heights in pixels agree.
    for layout, width in ((wide, 1050), (narrow, 348)):
        height = plot_height(layout)
        left, right, low, high = cells(layout, 1)[0]
        assert (right - left) * width == pytest.approx((high - low) * height, rel=0.02)


def test_titles_and_names_stand_above_their_pictures() -> None:
    figure = image_grid(rows(2, 3, narrow_title="slim<br>two"), "title", None, (99, 2))
    for layout, shown in ((figure.to_plotly_json()["layout"], 3), (on_a_phone(figure), 6)):
        notes = layout["annotations"]
        names = [n for n in notes if n["text"].startswith("p")]
        assert len([n for n in names if n.get("visible") is not False]) == shown
        for name, (left, right, _, high) in zip(names, cells(layout, 6), strict=True):
            x, y = placed(name, layout)
            assert x == pytest.approx((left + right) / 2, abs=1e-4)
            if name.get("visible") is not False:
                assert high <= y < high + 0.02
        tops = [cells(layout, 6)[0][3], cells(layout, 6)[3][3]]
        titles = [placed(n, layout)[1] for n in notes if not n["text"].startswith("p")]
        assert all(title > top for title, top in zip(titles, tops, strict=True))
        assert titles[0] < 1 and titles[1] < cells(layout, 6)[0][2]
    assert [n["text"] for n in on_a_phone(figure)["annotations"] if "<" in n["text"]] == [
        "slim<br>two"
    ] * 2


def test_images_keep_order_place_and_ring() -> None:
    asked = rows(2, 2)
    asked[1] = ImageRow("second", asked[1].images, Box(30, 7, 102), {"p1": (12.0, 40.0)})
    figure = image_grid(asked, "title", BAR)
    images = [t for t in figure.data if t.type == "image"]
    assert [shade(t.source) for t in images] == [0, 1, 10, 11]
    assert tuple(figure.layout.xaxis.range) == (-0.5, 49.5)
    # 51 pixels are drawn of a box of 102: each covers two of the scan's.
    assert tuple(figure.layout.xaxis3.range) == (6.5, 108.5)
    assert tuple(figure.layout.yaxis3.range) == (131.5, 29.5)
    assert (images[2].dx, images[2].x0, images[2].y0) == (2.0, 7.5, 30.5)
    (ring,) = [t for t in figure.data if t.type == "scatter" and t.x[0] is not None]
    assert (ring.xaxis, ring.yaxis) == ("x4", "y4") == (images[3].xaxis, images[3].yaxis)
    assert set(ring.x) == {12.0} and set(ring.y) == {40.0}
    # One drag zooms the pictures of a row and no other.
    assert figure.layout.xaxis2.matches == "x" and figure.layout.xaxis4.matches == "x3"
    assert figure.layout.xaxis3.matches is None
    assert on_a_phone(figure)["xaxis4"]["fixedrange"] is True
    assert tuple(figure.layout.coloraxis.colorbar.tickvals) == (0, 5)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 8)
    assert [shade(source) for source in figure.layout.meta["thumbnail"]] == [0, 1]


def test_a_cloud_has_its_room_beside_or_above() -> None:
    figure = image_grid(rows(1, 4), "", None, (2, 2), with_cloud=True)
    wide, narrow = figure.to_plotly_json()["layout"], on_a_phone(figure)
    assert wide["scene"]["domain"]["x"][1] < min(c[0] for c in cells(wide, 4))
    assert narrow["scene"]["domain"]["y"][0] > max(c[3] for c in cells(narrow, 4))
    assert narrow["scene"]["domain"]["x"] == [0, 1] and narrow["margin"]["t"] == 4
    flat = image_grid(rows(1, 2), "", None, (2, 2), with_cloud=True)
    assert flat.layout.height == CLOUD_HEIGHT_PX + 34 + 8
    before = flat.layout.meta["narrow"]
    adapt_to_phones(flat, {"height": 7})
    assert flat.layout.meta["narrow"] == {**before, "height": 7}


def test_box_is_the_square_around_with_a_margin() -> None:
    mask = np.zeros((100, 100), bool)
    mask[40:60, 20:25] = True
    box = box_around(mask)
    assert (box.top, box.side) == (37, 26) and box.left in (9, 10)
    assert box.cut(mask).sum() == mask.sum() and box.cut(mask).shape == (26, 26)
    assert box_around(np.ones((50, 50), bool)) == Box(0, 0, 50)
    assert box_around(np.zeros((50, 50), bool)) == Box(0, 0, 50)
    corner = np.zeros((100, 100), bool)
    corner[0, 99] = True
    box = box_around(corner)
    assert (box.top, box.left + box.side) == (0, 100) and box.cut(corner).sum() == 1
