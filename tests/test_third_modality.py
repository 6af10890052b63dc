"""A further modality is one entry of `ENCODERS`: extracted, cached, adapted, aligned, disagreed."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate, normalize

from lsfa_lib.adaptation.adaptors import adapt, disagreement
from lsfa_lib.adaptation.losses import local_alignment
from lsfa_lib.adaptation.training import train_adaptors
from lsfa_lib.config import Config, LossWeights
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.features.cache import cache_entries, cached_features
from lsfa_lib.features.extract import (
    ENCODERS,
    Encoders,
    ModalityEncoder,
    distinct_rows,
    load_encoders,
    load_image,
    modality_features,
    pooling_weights,
)
from lsfa_lib.features.lazy_scan import good_features, read_sample
from lsfa_lib.records import ModalityFeatures, PatchFeatures, Sample

ALL = ("3d", "rgb", "coarse")
CPU = torch.device("cpu")


def coarse_features(encoder: Callable, sample: Sample, config: Config) -> ModalityFeatures:
    """Features of the image at half its size."""
    half = interpolate(sample.rgb[None], scale_factor=0.5, mode="area")
    tokens, (rows, columns) = encoder(half)
    return ModalityFeatures(tokens[0], pooling_weights(rows, columns, config.grid))


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch, tiny: Config) -> Encoders:
    entry = ModalityEncoder("image_encoder", load_image, coarse_features)
    monkeypatch.setitem(ENCODERS, "coarse", entry)
    return load_encoders(tiny, CPU)


@pytest.fixture
def train(tiny: Config, encoders: Encoders) -> list[PatchFeatures]:
    return good_features(read_split(Path(tiny.data.root), "seal", "train"), encoders, tiny)


def test_the_new_modality_has_a_cache_of_its_own(
    tiny: Config, encoders: Encoders, train: list[PatchFeatures]
) -> None:
    assert tuple(train[0].by_modality) == ALL and len(set(encoders.keys.values())) == 3
    assert [kept.files for kept in cache_entries(Path(tiny.cache))] == [len(train)] * 3
    entry = read_split(Path(tiny.data.root), "seal", "train").entries[0]
    sample = read_sample(entry, tiny)
    fresh = modality_features("coarse", sample, encoders, tiny)
    # Stages of reductions 8 and 16: 12 x 12 tokens of 96 px, 6 x 6 of 48 px.
    assert (fresh.tokens.shape, train[0].by_modality["rgb"].tokens.shape) == ((36, 152), (144, 152))
    half, _ = encoders.by_modality["rgb"](interpolate(sample.rgb[None], size=48, mode="area"))
    torch.testing.assert_close(fresh.tokens, half[0])
    again = cached_features(entry, encoders, tiny, CPU, pytest.fail)
    kept = again.by_modality["coarse"]
    torch.testing.assert_close(kept.tokens, fresh.tokens, atol=1e-3, rtol=1e-3)
    # Each of the 24 x 24 patches copies one token.
    assert torch.equal(kept.weights.values(), torch.ones(24 * 24))
    assert torch.equal(kept.weights.col_indices(), fresh.weights.col_indices())


def test_training_aligns_every_pair_and_adapts_every_modality(
    tiny: Config, train: list[PatchFeatures]
) -> None:
    training = replace(tiny.training, steps=3, batch=2, patches_per_scan=0, instances=2)
    trained = train_adaptors(train, replace(tiny, training=training), 0)
    first = trained.history[0]
    for name in ("nearest", "same_scan", "variance", "rank"):
        assert {f"{name}_{m}" for m in ALL} <= first.keys()
    adapted = adapt(trained.adaptors, train[0])
    sides = {}
    for m in ALL:
        rows, index = distinct_rows(adapted, m)
        before, _ = distinct_rows(train[0], m)
        assert rows.shape == before.shape and not torch.allclose(rows, before, atol=0.1)
        sides[m] = normalize(trained.adaptors.project(m, rows), dim=1)[index[adapted.valid]]
    each = [1 - (sides[a] * sides[b]).sum(1) for a, b in combinations(ALL, 2)]
    found = disagreement(trained.adaptors, adapted)
    torch.testing.assert_close(found, sum(each) / 3)


def test_local_alignment_is_the_sum_over_the_pairs(
    tiny: Config, train: list[PatchFeatures]
) -> None:
    weights = LossWeights(la=1.0, ga=0.0, lc=0.0, gc=0.0)
    still = replace(
        tiny.training, steps=1, batch=1, patches_per_scan=0, learning_rate=0.0, weights=weights
    )
    trained = train_adaptors(train[:1], replace(tiny, training=still), 0)
    adapted = adapt(trained.adaptors, train[0])
    sides = []
    for m in ALL:
        rows, index = distinct_rows(adapted, m)
        sides.append((trained.adaptors.project(m, rows), index[adapted.valid]))
    expected = [local_alignment(a, b, still.temperature) for a, b in combinations(sides, 2)]
    assert trained.history[0]["LA"] == pytest.approx(float(sum(expected)), rel=1e-5)
    assert trained.history[0]["loss"] == trained.history[0]["LA"]
