"""Main directions, similarity and separation against scikit-learn and plain loops."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from lsfa_lib.adaptation.monitors import effective_rank
from lsfa_lib.config import TINY, Config, DataConfig, with_losses
from lsfa_lib.datasets.layouts import entries
from lsfa_lib.figures import feature_space, similarity_figures
from lsfa_lib.figures.feature_space import Spaces, View
from lsfa_lib.records import MODALITIES
from lsfa_lib.storage.files import InputError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def config(demo_root, tmp_path_factory) -> Config:
    cache = str(tmp_path_factory.mktemp("cache"))
    return replace(TINY, data=DataConfig(str(demo_root)), device="cpu", cache=cache)


@pytest.fixture(scope="module")
def spaces(config: Config) -> Spaces:
    return feature_space.load("seal", config, 0, adapted=True, fit_scans=3)


@pytest.fixture(scope="module")
def hole(config: Config, spaces: Spaces, demo_root) -> View:
    (entry,) = [e for e in entries(demo_root, "seal", "test") if e.kind == "hole"]
    return feature_space.look(spaces, entry)


def some_rows(count: int, width: int) -> np.ndarray:
    scale = np.linspace(3, 0.1, width)
    return (RNG.normal(2, 1, (count, width)) * scale).astype(np.float32)


def test_directions_are_the_principal_ones() -> None:
    scans = [some_rows(60, 7), some_rows(40, 7)]
    found = feature_space.fit_directions(scans)
    rows = np.concatenate(scans)
    known = PCA().fit(rows)
    np.testing.assert_allclose(found.shares, known.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-5)
    cosines = np.abs((found.first * known.components_[:3]).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, rtol=1e-4)
    # A direction and its opposite are the same: the largest entry is positive.
    largest = np.abs(found.first).argmax(axis=1)
    assert found.first.shape == (3, 7) and (found.first[range(3), largest] > 0).all()
    assert found.shown == pytest.approx(known.explained_variance_ratio_[:3].sum())
    edges = np.percentile((rows - rows.mean(axis=0)) @ found.first.T, (2, 98), axis=0)
    np.testing.assert_allclose(np.stack((found.low, found.high)), edges, atol=1e-3)
    rank = effective_rank(torch.from_numpy(rows), torch.ones(len(rows)))
    assert found.effective == pytest.approx(rank, rel=1e-3)


def test_many_rows_are_thinned_evenly() -> None:
    rows = some_rows(3 * feature_space.MOST_ROWS, 4)
    found = feature_space.fit_directions([rows])
    np.testing.assert_allclose(found.mean, rows[::3].mean(axis=0), rtol=1e-4)


def test_colours_are_places_along_the_directions(spaces: Spaces, hole: View) -> None:
    for m in MODALITIES:
        directions, features = spaces.directions["frozen", m], hole.features["frozen"]
        picture = feature_space.colors(directions, features, m)
        assert picture.shape == (*features.grid, 3)
        flat, valid = picture.reshape(-1, 3), features.valid.numpy()
        assert (flat[~valid] == 0).all() and (flat[valid].min(axis=1) >= 30).all()
        rows = feature_space.rows_of(features, m)
        for patch in (0, 17, len(rows) - 1):
            place = directions.first @ (rows[patch] - directions.mean)
            share = (place - directions.low) / (directions.high - directions.low)
            expected = 30 + 225 * share.clip(0, 1)
            np.testing.assert_allclose(flat[valid][patch], expected, atol=0.51)
        assert len(np.unique(flat[valid], axis=0)) > 20


def test_rows_are_those_of_the_valid_patches(hole: View) -> None:
    for m in MODALITIES:
        features = hole.features["frozen"]
        compact = features.by_modality[m]
        dense = (compact.weights.to_dense() @ compact.tokens)[features.valid]
        rows = feature_space.rows_of(features, m)
        np.testing.assert_allclose(rows, dense, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("space", ["frozen", "adapted"])
def test_similarity_is_the_cosine_about_the_mean(spaces: Spaces, hole: View, space) -> None:
    good = feature_space.look(spaces, spaces.train[0])
    patch = similarity_figures.reference_patches(hole)["middle"]
    for m in MODALITIES:
        directions = spaces.directions[space, m]
        found = feature_space.similarity(spaces, (hole, patch), good, (space, m))
        valid = good.features[space].valid
        assert np.isnan(found.ravel()[~valid.numpy()]).all()
        place = int(hole.features[space].valid[:patch].sum())
        query = feature_space.rows_of(hole.features[space], m)[place] - directions.mean
        rows = feature_space.rows_of(good.features[space], m) - directions.mean
        norm = np.linalg.norm
        expected = [float(query @ row / (norm(query) * norm(row))) for row in rows]
        np.testing.assert_allclose(found.ravel()[valid.numpy()], expected, atol=1e-4)
        own = feature_space.similarity(spaces, (hole, patch), hole, (space, m))
        assert own.ravel()[patch] == pytest.approx(1, abs=1e-5)


def test_reference_patches_lie_where_they_say(hole: View) -> None:
    features, px = hole.features["frozen"], 4
    grid = features.grid[0]
    places = similarity_figures.reference_patches(hole)
    assert list(places) == ["defect", "middle", "rim"]
    assert all(bool(features.valid[patch]) for patch in places.values())
    row, column = divmod(places["defect"], grid)
    assert hole.sample.defect[row * px : (row + 1) * px, column * px : (column + 1) * px].any()
    valid = features.valid.view(grid, grid).numpy()
    row, column = divmod(places["rim"], grid)
    around = valid[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
    assert around.size < 9 or not around.all()
    row, column = divmod(places["middle"], grid)
    assert valid[row - 1 : row + 2, column - 1 : column + 2].all()
    pixel = (row * px + 1, column * px + 2)
    chosen = similarity_figures.reference_patches(hole, pixel)
    assert next(iter(chosen)) == "chosen" and chosen["chosen"] == places["middle"]


@pytest.mark.parametrize("pixel", [(0, 0), (-1, 40), (5000, 2)])
def test_a_pixel_off_the_part_is_refused(hole: View, pixel: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="is not on the part of seal/test/hole/000"):
        similarity_figures.reference_patches(hole, pixel)


def test_a_good_scan_has_no_defect_to_compare(spaces: Spaces) -> None:
    good = feature_space.look(spaces, spaces.train[0])
    assert list(similarity_figures.reference_patches(good)) == ["middle", "rim"]


def test_separation_is_the_auroc_of_the_nearest_distances(spaces: Spaces, hole: View) -> None:
    table = feature_space.separation(spaces, "seal")
    assert len(table) == 6 * 2 * 2 and "good" not in set(table["kind"])
    touched = hole.touched.numpy()
    for space, m in (("frozen", "3d"), ("adapted", "rgb")):
        bank = spaces.detectors[space].banks[m]
        rows = (feature_space.rows_of(hole.features[space], m) - bank.mean) / bank.std
        nearest = [float(np.linalg.norm(bank.rows.numpy() - row, axis=1).min()) for row in rows]
        labels = touched[hole.features[space].valid.numpy()]
        expected = roc_auc_score(labels, nearest)
        line = table[
            (table["name"] == "seal/test/hole/000")
            & (table["space"] == space)
            & (table["modality"] == m)
        ]
        assert line["auroc"].item() == pytest.approx(expected, abs=1e-3)
        assert line["patches"].item() == labels.sum() > 0
    few = feature_space.separation(spaces, "seal", scans=1)
    pd.testing.assert_frame_equal(few, table)


def test_touched_are_patches_of_the_part_with_a_defect_pixel(hole: View) -> None:
    side, grid = 4, hole.features["frozen"].grid[0]
    defect, valid = hole.sample.defect, hole.sample.valid
    expected = []
    for row in range(grid):
        for column in range(grid):
            cut = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
            expected.append(bool(defect[cut].any() and valid[cut].any()))
    assert hole.touched.tolist() == expected and any(expected)
    everywhere = replace(hole.sample, defect=torch.ones_like(defect))
    valid_patches = hole.features["frozen"].valid
    assert torch.equal(replace(hole, sample=everywhere).touched, valid_patches)
    assert not valid_patches.all()


def test_the_most_contrasting_scan_divides_the_modalities() -> None:
    rows = [
        ("a", "frozen", "3d", 0.6),
        ("a", "frozen", "rgb", 0.5),
        ("b", "frozen", "3d", 0.4),
        ("b", "frozen", "rgb", 0.9),
        ("c", "frozen", "3d", float("nan")),
        ("c", "frozen", "rgb", float("nan")),
        ("a", "adapted", "3d", 1.0),
        ("a", "adapted", "rgb", 0.0),
    ]
    table = pd.DataFrame(rows, columns=["name", "space", "modality", "auroc"])
    assert feature_space.most_contrasting(table) == "b"
    assert feature_space.most_contrasting(table[table["name"] == "c"]) == ""


def test_adapted_features_differ_and_need_a_training(spaces: Spaces, hole: View, config) -> None:
    assert spaces.detectors["frozen"].adaptors is None
    assert spaces.detectors["adapted"].adaptors is not None
    for m in MODALITIES:
        frozen = feature_space.rows_of(hole.features["frozen"], m)
        adapted = feature_space.rows_of(hole.features["adapted"], m)
        assert frozen.shape == adapted.shape and not np.allclose(frozen, adapted)
    with pytest.raises(InputError, match="adapted features need a training"):
        feature_space.load("seal", with_losses(config, "none"), 0, adapted=True)


def test_directions_come_from_scans_over_the_whole_split(spaces: Spaces, config: Config) -> None:
    assert [e.name[-3:] for e in spaces.train] == ["000", "002", "005"]
    alone = feature_space.load("seal", replace(config, shots=2), 0, fit_scans=8)
    assert len(alone.train) == 2 and list(alone.detectors) == ["frozen"]
