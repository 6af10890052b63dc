"""Thresholds and p-values from the scores of good scans that a detector was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch

from lsfa_lib.config import DetectorConfig
from lsfa_lib.records import Mode


def thresholds_of(scores: dict[Mode, list[float]], config: DetectorConfig) -> dict[Mode, float]:
    """The score that the configured share of good parts exceeds, by mode; see `threshold_of`."""
    return {mode: threshold_of(own, config) for mode, own in scores.items()}


def threshold_of(scores: Sequence[float], config: DetectorConfig) -> float:
    """The score that `false_alarm_rate` of the good parts exceed, by the config's rule.

    `conformal`: a score above it has p <= rate (see `p_value`); with too few scans for the rate,
    and with `normal`, mean + z std of the scores, which holds if they are normally distributed.
    """
    rate = config.false_alarm_rate
    if uses_conformal(len(scores), config):
        allowed = math.floor(rate * (len(scores) + 1) + 1e-9) - 1
        return sorted(scores)[-1 - allowed]
    values = torch.tensor(scores, dtype=torch.float64)
    return float(values.mean() + values.std() * NormalDist().inv_cdf(1 - rate))


def p_value(score: float, good: Sequence[float]) -> float:
    """Conformal p-value of a score among n good ones: p = (1 + #{s_i >= s}) / (n + 1).

    A good part exchangeable with those n has p <= r with probability at most r, whatever the
    distribution of the scores.
    """
    return (1 + sum(own >= score for own in good)) / (len(good) + 1)


def scans_needed(rate: float) -> int:
    """Good scans with which a p-value can be as small as the rate: 19 for 5 %."""
    return math.ceil(1 / rate - 1 - 1e-9)


def uses_conformal(count: int, config: DetectorConfig) -> bool:
    """Whether that many scores give the conformal threshold of the config."""
    return config.threshold == "conformal" and count >= scans_needed(config.false_alarm_rate)


def promise(count: int, config: DetectorConfig) -> str:
    """One sentence: what the threshold promises about false alarms, with that many good scans."""
    rate, needed = config.false_alarm_rate, scans_needed(config.false_alarm_rate)
    if uses_conformal(count, config):
        return (
            f"on average, at most {rate:.1%} of good parts like the {count} calibration scans are "
            "called defective (conformal, whatever the distribution of the scores)"
        )
    normal = (
        f"the threshold is a normal fit to the scores of {count} good scans, and its false-alarm "
        f"rate of {rate:.1%} is not guaranteed"
    )
    if config.threshold == "normal":
        return normal
    return (
        f"{count} good scans are too few for a rate of {rate:.1%}, which needs {needed}: {normal}"
    )
