"""Pictures of rows lie beside or below each other, wide and on a phone, and never on each other."""

import numpy as np
import plotly.graph_objects as go
import pytest

from lsfa_lib.figures.image_grid import Box, ColorBar, PictureRow, Room, box_around, image_grid

BAR = ColorBar("mm", "Viridis", {0.0: "0", 5.0: "5"}, 8.0)


def rows(count: int, pictures: int, **more: object) -> list[PictureRow]:
    names = [f"p{i}" for i in range(pictures)]
    return [
        PictureRow(f"<b>row {r}</b>", {name: f"data:{r}{name}" for name in names}, 50 + r, **more)
        for r in range(count)
    ]


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


def assert_names_are_readable(layout: dict, width: float, count: int, bottom: float) -> None:
    """Texts of 12 px lie on no picture."""
    height = layout["height"] - bottom - layout["margin"].get("t", 34)
    for note in layout["annotations"]:
        if note.get("visible") is False:
            continue
        low, high = note["y"], note["y"] + 12 / height
        reach = 20 / width if note["xanchor"] == "center" else 0.0
        for left, right, cell_low, cell_high in cells(layout, count):
            beside = note["x"] + reach <= left or right <= note["x"] - reach
            assert beside or low >= cell_high - 1e-4 or high <= cell_low + 1e-4


@pytest.mark.parametrize(("count", "pictures", "bar"), [(1, 3, BAR), (8, 8, BAR), (2, 5, None)])
def test_pictures_do_not_overlap(count: int, pictures: int, bar: ColorBar | None) -> None:
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
        assert_names_are_readable(layout, width, count * pictures, 74 if bar else 8)
    # Square cells in both: widths and heights in pixels agree.
    for layout, width in ((wide, 1050), (narrow, 348)):
        bottom = 74 if bar else 8
        height = layout["height"] - bottom - layout["margin"].get("t", 34)
        left, right, low, high = cells(layout, 1)[0]
        assert (right - left) * width == pytest.approx((high - low) * height, rel=0.02)


def test_titles_and_names_stand_above_their_pictures() -> None:
    figure = image_grid(rows(2, 3, narrow_title="slim<br>two"), "title", None, (99, 2))
    for layout, shown in ((figure.to_plotly_json()["layout"], 3), (on_a_phone(figure), 6)):
        notes = layout["annotations"]
        names = [n for n in notes if n["text"].startswith("p")]
        assert len([n for n in names if n.get("visible") is not False]) == shown
        for name, (left, right, _, high) in zip(names, cells(layout, 6), strict=True):
            assert name["x"] == pytest.approx((left + right) / 2, abs=1e-4)
            if name.get("visible") is not False:
                assert high <= name["y"] < high + 0.02
        tops = [cells(layout, 6)[0][3], cells(layout, 6)[3][3]]
        titles = [n for n in notes if not n["text"].startswith("p")]
        assert all(title["y"] > top for title, top in zip(titles, tops, strict=True))
        assert titles[0]["y"] < 1 and titles[1]["y"] < cells(layout, 6)[0][2]
    assert [n["text"] for n in on_a_phone(figure)["annotations"] if "<" in n["text"]] == [
        "slim<br>two"
    ] * 2


def test_pictures_keep_order_size_and_ring() -> None:
    asked = rows(2, 2)
    asked[1] = PictureRow("second", asked[1].pictures, 51, {"p1": (12.0, 40.0)})
    figure = image_grid(asked, "title", BAR)
    images = [t for t in figure.data if t.type == "image"]
    assert [t.source for t in images] == ["data:0p0", "data:0p1", "data:1p0", "data:1p1"]
    assert tuple(figure.layout.xaxis.range) == (-0.5, 49.5)
    assert tuple(figure.layout.yaxis3.range) == (50.5, -0.5)
    (ring,) = [t for t in figure.data if t.type == "scatter" and t.x[0] is not None]
    assert (ring.xaxis, ring.yaxis) == ("x4", "y4") == (images[3].xaxis, images[3].yaxis)
    assert set(ring.x) == {12.0} and set(ring.y) == {40.0}
    # One drag zooms the pictures of a row and no other.
    assert figure.layout.xaxis2.matches == "x" and figure.layout.xaxis4.matches == "x3"
    assert figure.layout.xaxis3.matches is None
    assert on_a_phone(figure)["xaxis4"]["fixedrange"] is True
    assert tuple(figure.layout.coloraxis.colorbar.tickvals) == (0, 5)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 8)
    assert list(figure.layout.meta["thumbnail"]) == ["data:0p0", "data:0p1"]


def test_a_cloud_has_its_room_beside_or_above() -> None:
    figure = image_grid(rows(1, 4), "", None, (2, 2), Room(500.0, 380.0, 440.0), menu=True)
    wide, narrow = figure.to_plotly_json()["layout"], on_a_phone(figure)
    assert wide["scene"]["domain"]["x"][1] < min(c[0] for c in cells(wide, 4))
    assert narrow["scene"]["domain"]["y"][0] > max(c[3] for c in cells(narrow, 4))
    assert narrow["scene"]["domain"]["x"] == [0, 1] and narrow["margin"]["t"] == 34
    flat = image_grid(rows(1, 2), "", None, (2, 2), Room(500.0, 380.0, 440.0))
    assert flat.layout.height == 440 + 34 + 8


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
