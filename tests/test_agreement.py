"""Which methods miss the same defects: correlations and pairs against loops."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from study_case import LIFT, write_results

from lsfa_lib.studies import agreement, by_defect, study_table

Scores = dict[agreement.Trial, pd.DataFrame]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> study_table.StudyRuns:
    folder = tmp_path_factory.mktemp("studies") / "parts-demo"
    return study_table.load(write_results(folder))


@pytest.fixture(scope="module")
def scores(study: study_table.StudyRuns) -> Scores:
    return agreement.standardised(study, study_table.table(study))


def test_scores_are_in_deviations_of_the_validation_scans(
    study: study_table.StudyRuns, scores: Scores
) -> None:
    assert set(scores) == {(c, s, 0) for c in ("cap", "ring") for s in (0, 1)}
    held = np.array([-1.0, 0.0, 0.5, 2.5])
    for (category, seed, _), table in scores.items():
        assert list(table.columns) == ["defective", *LIFT]
        for cell in LIFT:
            for scan in study.results[cell, category, seed, 0]["scans"]:
                expected = (scan["scores"]["rgb+3d"] - held.mean()) / held.std()
                assert table.loc[scan["name"], cell] == pytest.approx(expected)
                assert table.loc[scan["name"], "defective"] == scan["defective"]


def test_correlations_are_those_of_defective_scans(scores: Scores) -> None:
    found = agreement.correlations(scores)
    for a, b in combinations(LIFT, 2):
        each = [
            spearmanr(t.loc[t["defective"], a], t.loc[t["defective"], b]).statistic
            for t in scores.values()
        ]
        assert found.loc[a, b] == found.loc[b, a] == pytest.approx(np.mean(each))
    assert (np.diag(found) == 1).all()
    drawn = np.array(agreement.correlation_figure(scores).data[0].z, float)
    assert np.isnan(np.diag(drawn)).all() and drawn[0, 1] == found.iloc[0, 1]


def test_a_pair_is_scored_by_the_mean_of_both(scores: Scores) -> None:
    found = agreement.areas(scores)
    assert len(found) == 4 + 6
    for pair, values in found.items():
        for category, area in zip(("cap", "ring"), values, strict=True):
            each = [
                roc_auc_score(table["defective"], sum(table[cell] for cell in pair))
                for (name, *_), table in scores.items()
                if name == category
            ]
            assert area == pytest.approx(np.mean(each))
    table = agreement.pair_table(scores).data
    best = max((p for p in found if len(p) == 2), key=lambda p: found[p].mean())
    assert table.index[0] == " & ".join(best)
    alone = max(found[cell,].mean() for cell in best)
    assert table["gain"].iloc[0] == pytest.approx(found[best].mean() - alone)


def test_the_pair_is_chosen_on_the_other_category(scores: Scores) -> None:
    found = agreement.areas(scores)
    expected = []
    for size in (1, 2):
        own = [values for pair, values in found.items() if len(pair) == size]
        expected.append(np.mean([max(own, key=lambda v: v[1 - c])[c] for c in (0, 1)]))
    assert agreement.held_out_gain(scores) == pytest.approx(tuple(expected))
    assert f"{expected[1] - expected[0]:+.3f}" in agreement.sentence(scores)
    one = {key: table for key, table in scores.items() if key[0] == "cap"}
    assert agreement.sentence(one).startswith("Two methods and two categories")


def test_a_study_that_defines_no_area_has_no_pair(scores: Scores) -> None:
    good = {key: table[~table["defective"]] for key, table in scores.items()}
    for nothing in ({}, good):
        assert agreement.areas(nothing) == {}
        assert agreement.pair_table(nothing).data.empty
        assert agreement.sentence(nothing).startswith("Two methods and two categories")
    assert len(agreement.correlation_figure({}).data[0].z) == 0
    kept = {key: good[key] if key[0] == "cap" else table for key, table in scores.items()}
    assert all(len(values) == 1 for values in agreement.areas(kept).values())


def test_kinds_are_those_of_the_leading_mode(study: study_table.StudyRuns, tmp_path: Path) -> None:
    lines = study_table.table(study)
    table = by_defect.lead_kind_table(study, lines).data
    both = by_defect.by_group(study, "rgb+3d", by_defect._kinds)
    assert list(table.index) == [f"{cell} (RGB + 3D)" for cell in LIFT]
    np.testing.assert_allclose(table[list(both.columns)], both)
