"""Whether the scores of good-looking scans have moved away from those of the calibration scans."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import mannwhitneyu

FEWEST = 8
"""Scans on either side with which the distributions are compared."""
LEVEL = 0.01
"""A warning is given below this p-value."""


def drift_warning(scores: Sequence[float], good: Sequence[float], threshold: float) -> str:
    """A sentence if scores up to the threshold differ from those of good scans; "" otherwise.

    Two-sided Mann-Whitney U test of both, each without what exceeds the threshold.
    """
    found, known = ([s for s in own if s <= threshold] for own in (scores, good))
    if min(len(found), len(known)) < FEWEST:
        return ""
    test = mannwhitneyu(found, known)
    if test.pvalue >= LEVEL:
        return ""
    higher = test.statistic > len(found) * len(known) / 2
    return (
        f"the scores of {len(found)} scans called good are {'higher' if higher else 'lower'} than "
        f"those of the {len(known)} calibration scans (Mann-Whitney U, p = {test.pvalue:.2g}): the "
        "parts, the light or the camera may have changed; look at the scans, then calibrate with "
        "recent good ones"
    )
