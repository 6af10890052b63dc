"""Thresholds and conformal p-values: closed forms, and the rate they promise."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from lsfa_lib.config import DetectorConfig
from lsfa_lib.detection.thresholds import p_value, promise, scans_needed, threshold_of

CONFORMAL = DetectorConfig(threshold="conformal")
GOOD = [0.3, -1.2, 2.5, 0.0, 1.1, -0.4, 0.9, 1.8, -2.0]


@pytest.mark.parametrize("score", [-3.0, -2.0, 0.0, 1.8, 2.0, 2.5, 9.0])
def test_p_value_counts_the_good_scans_that_score_as_high(score: float) -> None:
    above = len([own for own in GOOD if own >= score])
    assert p_value(score, GOOD) == (1 + above) / 10


@pytest.mark.parametrize("rate, needed", [(0.05, 19), (0.01, 99), (0.1, 9), (0.2, 4), (1 / 3, 2)])
def test_scans_that_a_rate_needs(rate: float, needed: int) -> None:
    assert scans_needed(rate) == needed
    assert 1 / (needed + 1) <= rate + 1e-12 < 1 / needed


@pytest.mark.parametrize("count", [19, 20, 38, 39, 40, 100])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25])
def test_above_the_conformal_threshold_is_p_at_most_the_rate(count: int, rate: float) -> None:
    good = np.random.default_rng(count).normal(size=count).tolist()
    threshold = threshold_of(good, replace(CONFORMAL, false_alarm_rate=rate))
    for score in [*good, *(s + 1e-9 for s in good), *(s - 1e-9 for s in good), -9.0, 9.0]:
        assert (score > threshold) == (p_value(score, good) <= rate + 1e-12)


def test_the_normal_threshold_is_a_quantile_and_the_fallback_for_few_scans() -> None:
    expected = np.mean(GOOD) + np.std(GOOD, ddof=1) * norm.ppf(0.95)
    assert threshold_of(GOOD, DetectorConfig()) == pytest.approx(expected)
    assert threshold_of(GOOD, CONFORMAL) == pytest.approx(expected)
    assert threshold_of(GOOD, replace(CONFORMAL, false_alarm_rate=0.1)) == max(GOOD)


def test_what_is_promised_is_said() -> None:
    assert promise(8, CONFORMAL).startswith("8 good scans are too few for a rate of 5.0%, which n")
    assert "needs 19" in promise(8, CONFORMAL) and "not guaranteed" in promise(8, CONFORMAL)
    assert promise(19, CONFORMAL).startswith(
        "on average, at most 5.0% of good parts like the 19 calibration"
    )
    assert promise(19, DetectorConfig()).startswith("the threshold is a normal fit")


def test_the_rate_holds_for_scores_that_are_not_normal() -> None:
    draw = np.random.default_rng(0)
    alarms = []
    for _ in range(4000):
        *good, new = draw.lognormal(sigma=1.5, size=20).tolist()
        alarms.append(new > threshold_of(good, CONFORMAL))
    # 19 scans: exactly 1 in 20. Three standard errors of 4000 draws.
    assert np.mean(alarms) == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 4000))
