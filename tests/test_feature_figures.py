"""Figures of features draw what `feature_space` found; buttons show what they say."""

import base64
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from lsfa_lib.config import TINY, DataConfig
from lsfa_lib.datasets.layouts import entries
from lsfa_lib.figures import feature_figures, feature_space, similarity_figures
from lsfa_lib.figures.feature_space import Spaces, View
from lsfa_lib.figures.scan_images import box_around
from lsfa_lib.records import MODALITIES

EVIL = "<script>x"


@pytest.fixture(scope="module")
def spaces(demo_root, tmp_path_factory) -> Spaces:
    cache = str(tmp_path_factory.mktemp("cache"))
    config = replace(TINY, data=DataConfig(str(demo_root)), device="cpu", cache=cache)
    return feature_space.load("seal", config, 0, adapted=True, fit_scans=3)


@pytest.fixture(scope="module")
def frozen(spaces: Spaces) -> Spaces:
    return replace(spaces, detectors={"frozen": spaces.detectors["frozen"]})


@pytest.fixture(scope="module")
def hole(spaces: Spaces, demo_root) -> View:
    (entry,) = [e for e in entries(demo_root, "seal", "test") if e.kind == "hole"]
    view = feature_space.look(spaces, entry)
    return replace(view, sample=replace(view.sample, name=f"seal/test/hole/{EVIL}"))


@pytest.fixture(scope="module")
def good(spaces: Spaces) -> View:
    return feature_space.look(spaces, spaces.train[0])


def separated(**means: tuple[float, float]) -> pd.DataFrame:
    """Two scans a kind, a tenth about these means of 3D and RGB; adapted a twentieth better."""
    rows = []
    for kind, values in means.items():
        for m, mean in zip(MODALITIES, values, strict=True):
            for i, step in enumerate((-0.1, 0.1)):
                name = f"nut/test/{kind}/{i:03}"
                row = {"name": name, "kind": kind, "modality": m, "patches": 9}
                rows.append({**row, "space": "frozen", "auroc": mean + step})
                rows.append({**row, "space": "adapted", "auroc": mean + step + 0.05})
    return pd.DataFrame(rows)


FOUND = separated(bent=(0.6, 0.5), colour=(0.5, 0.85), hole=(0.8, 0.7))


def pictures(figure: go.Figure) -> dict[str, Image.Image]:
    names = [note.text for note in figure.layout.annotations]
    images = [trace.source for trace in figure.data if trace.type == "image"]
    return {
        name: Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2])))
        for name, source in zip(names, images, strict=True)
    }


def test_features_are_painted_on_pictures_and_on_the_cloud(spaces: Spaces, hole: View) -> None:
    figure = feature_figures.feature_scan(hole, spaces, "<b>title</b>")
    names = ["photo", "ground truth", "3D features", "RGB features", "3D adapted", "RGB adapted"]
    shown = pictures(figure)
    assert list(shown) == names
    box = box_around((hole.sample.valid | hole.sample.defect).numpy())
    valid = box.cut(hole.sample.valid.numpy())
    for name, key in (("3D features", ("frozen", "3d")), ("RGB adapted", ("adapted", "rgb"))):
        seen = np.asarray(shown[name].convert("RGBA"))
        assert ((seen[..., 3] == 0) == ~valid).all()
        colors = feature_space.colors(spaces.directions[key], hole.features[key[0]], key[1])
        large = box.cut(colors.repeat(4, 0).repeat(4, 1))
        assert np.abs(seen[valid][:, :3].astype(int) - large[valid]).mean() < 6
    (menu,) = figure.layout.updatemenus
    assert [b.label for b in menu.buttons] == [
        "photo",
        "3D",
        "RGB",
        "3D adapted",
        "RGB adapted",
        "ground truth",
    ]
    cloud = figure.data[-1]
    assert cloud.type == "scatter3d"
    assert all(list(b.args[1]) == [len(figure.data) - 1] for b in menu.buttons)
    assert figure.layout.meta["narrow"]["updatemenus[0].type"] == "dropdown"
    codes = menu.buttons[2].args[0]["marker.color"][0]
    assert len(base64.b64decode(codes["bdata"])) == len(cloud.x) == hole.sample.valid.sum()
    assert EVIL not in figure.to_json() and len(figure.to_json()) < 500_000


def test_a_good_scan_and_frozen_features_need_fewer_buttons(frozen: Spaces, good: View) -> None:
    figure = feature_figures.feature_scan(good, frozen, "")
    assert list(pictures(figure)) == ["photo", "3D features", "RGB features"]
    assert [b.label for b in figure.layout.updatemenus[0].buttons] == ["photo", "3D", "RGB"]
    assert "updatemenus[0].type" not in figure.layout.meta["narrow"]


def test_variance_is_drawn_cumulated(spaces: Spaces, frozen: Spaces) -> None:
    figure = feature_figures.variance_figure(spaces)
    assert len(figure.data) == 4 and len(feature_figures.variance_figure(frozen).data) == 2
    for trace, (key, name) in zip(
        figure.data, feature_figures.names_of(spaces).items(), strict=True
    ):
        shares = spaces.directions[key].shares
        np.testing.assert_allclose(trace.y, shares.cumsum(), rtol=1e-5)
        assert list(trace.x) == list(range(1, len(shares) + 1))
        effective = spaces.directions[key].effective
        assert trace.name == f"{name}, {effective:.1f} directions"
    three = spaces.directions["frozen", "3d"]
    assert f"3D {three.effective:.1f} of {len(three.shares)}" in figure.layout.title.text


def test_buttons_move_the_ring_and_change_the_maps(spaces: Spaces, hole: View, good: View) -> None:
    figure = similarity_figures.similarity_figure(hole, good, spaces, [])
    places = similarity_figures.reference_patches(hole)
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == list(places)
    box = box_around((hole.sample.valid | hole.sample.defect).numpy())
    images = [i for i, trace in enumerate(figure.data) if trace.type == "image"]
    # Two photos, four maps for each scan, each on its own axes.
    assert len(images) == len({figure.data[i].xaxis for i in images}) == 10
    maps = []
    for button in menu.buttons:
        change, (ring, *changed) = button.args
        # All maps and neither photo.
        assert changed == [i for i in images if i not in (images[0], images[5])]
        assert figure.data[ring].type == "scatter" and change["source"][0] is None
        row, column = divmod(places[button.label], hole.grid)
        assert change["x"][0] == [column * 4 + 1.5] * 2 and change["y"][0] == [row * 4 + 1.5] * 2
        assert not any(change["x"][1:])
        assert box.left <= column * 4 < box.left + box.side
        maps.append(tuple(change["source"][1:]))
    assert maps[0] == tuple(figure.data[i].source for i in changed)
    assert list(figure.data[ring].x) == menu.buttons[0].args[0]["x"][0]
    assert len(set(maps)) == len(places)
    assert EVIL not in figure.to_json() and len(figure.to_json()) < 500_000


def test_maps_are_the_cosines(frozen: Spaces, hole: View, good: View) -> None:
    figure = similarity_figures.similarity_figure(hole, good, frozen, [])
    patch = similarity_figures.reference_patches(hole)["defect"]
    found = feature_space.similarity(frozen, (hole, patch), good, ("frozen", "rgb"))
    images = [t.source for t in figure.data if t.type == "image"][:6]
    seen = Image.open(io.BytesIO(base64.b64decode(images[5].partition("base64,")[2])))
    levels = np.asarray(seen)
    box = box_around(good.sample.valid.numpy())
    valid = box.cut(good.sample.valid.numpy())
    expected = np.rint(found.clip(0, 1) * 250).repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(levels[valid], box.cut(expected)[valid])


def test_closest_patches_and_their_sentence(frozen: Spaces, hole: View, good: View) -> None:
    found = similarity_figures.closest_patches(hole, good, frozen)
    assert list(found) == ["the defect", "the part's middle", "the part's rim"]
    patch = similarity_figures.reference_patches(hole)["rim"]
    for m, name in (("3d", "3D"), ("rgb", "RGB")):
        cosines = feature_space.similarity(frozen, (hole, patch), good, ("frozen", m))
        assert found["the part's rim"][name] == pytest.approx(np.nanmax(cosines))
    sentence = similarity_figures.similarity_sentence(found)
    numbers = found["the defect"]
    assert sentence == (
        f"A good scan matches the defect with a cosine of at most {numbers['3D']:.2f} in 3D and "
        f"{numbers['RGB']:.2f} in RGB"
    )


def test_separation_is_drawn_by_kind_hardest_on_top() -> None:
    figure = feature_figures.separation_figure(FOUND)
    # plotly draws the first row at the bottom.
    assert list(figure.layout.yaxis.categoryarray) == ["colour ", "hole ", "bent "]
    named = {t.name: t for t in figure.data if t.name}
    assert list(named) == ["3D", "3D adapted", "RGB", "RGB adapted"]
    assert list(named["RGB"].x) == [0.85, 0.7, 0.5]
    assert list(named["3D adapted"].x) == [0.55, 0.85, 0.65]
    small = [t for t in figure.data if not t.name]
    assert len(small) == 2 and sorted(small[0].x) == [0.4, 0.5, 0.6, 0.7, 0.7, 0.9]
    assert figure.layout.xaxis.range[0] < 0.4
    assert figure.layout.title.text == (
        "3D separates the patches of 2 of 3 kinds of defects better than RGB; neither separates "
        "bent"
    )


def test_scan_sentence_names_the_modalities_best_first(hole: View) -> None:
    own = FOUND.assign(name=hole.sample.name)
    one = own[(own["kind"] == "colour") & (own["auroc"].between(0.59, 0.76))]
    sentence = feature_figures.scan_sentence(hole, one)
    assert "patch AUROC of the defect RGB 0.75, 3D 0.60" in sentence and "&lt;script" in sentence
    assert feature_figures.scan_sentence(hole, FOUND) == "<b>seal/test/hole/&lt;script&gt;x</b>"


def test_answer_repeats_the_numbers(spaces: Spaces, frozen: Spaces) -> None:
    similar = {"the defect": {"3D": 0.912, "RGB": 0.504}}
    text = feature_figures.answer(frozen, FOUND[FOUND["space"] == "frozen"], similar)
    assert text.startswith("**3D separates the patches of 2 of 3 kinds of defects better than RGB")
    assert "- **RGB**, patch AUROC: colour 0.85, hole 0.70, bent 0.50." in text
    assert (
        "at the defect the most similar one of the good scan has cosine 0.91 (3D), 0.50 (RGB)"
        in text
    )
    assert feature_figures.effective_sentence(frozen) in text and "Training" not in text
    adapted = feature_figures.answer(spaces, FOUND, similar)
    assert "kinds of 3D from 0.633 to 0.683 and of RGB from 0.683 to 0.733" in adapted
    ranks = [f"{spaces.directions['adapted', m].effective:.1f}" for m in MODALITIES]
    assert f"the effective rank of adapted features is 3D {ranks[0]}, RGB {ranks[1]}." in adapted


def test_nothing_on_the_part_is_said(frozen: Spaces) -> None:
    empty = FOUND.assign(auroc=float("nan"))
    text = feature_figures.answer(frozen, empty, {})
    assert "No defect covers a patch of the part" in text
    figure = feature_figures.separation_figure(empty)
    assert len(figure.data) == 0 and "No defect" in figure.layout.title.text


def test_kinds_stay_text(frozen: Spaces) -> None:
    evil = separated(**{EVIL: (0.5, 0.6)})
    shown = feature_figures.separation_figure(evil).to_json()
    text = feature_figures.answer(frozen, evil, {})
    assert EVIL not in shown and EVIL not in text and "&lt;script" in text
