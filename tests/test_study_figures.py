"""Curves over what was changed."""

import numpy as np

from lsfa_lib.studies.study_figures import FINEST, common_range


def line(mean: float, low: float = np.nan, high: float = np.nan) -> dict[str, float]:
    return {"aupro_30": mean, "aupro_30_low": low, "aupro_30_high": high}


def test_thousandths_do_not_fill_a_panel() -> None:
    low, high = common_range([line(0.879), line(0.880)], "aupro_30") or (0, 0)
    np.testing.assert_allclose([high - low, (low + high) / 2], [FINEST, 0.8795])


def test_there_is_room_for_every_interval() -> None:
    lines = [line(0.9, 0.8, 0.95), line(0.7), line(np.nan)]
    low, high = common_range(lines, "aupro_30") or (0, 0)
    np.testing.assert_allclose([low, high], [0.7 - 0.015, 0.95 + 0.015])


def test_without_a_number_there_is_no_scale() -> None:
    assert common_range([line(np.nan)], "aupro_30") is None
    assert common_range([], "aupro_30") is None
