"""False alarms on fresh good scans against the rate asked for: `python -m benchmarks.false_alarms`.

Writes false_alarms.md, which docs/deployment.md refers to.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from lsfa_lib.config import DetectorConfig, configure
from lsfa_lib.demo.synthetic import STANDARD, DemoCounts, render, write_demo
from lsfa_lib.deployment.inspector import Inspector, load
from lsfa_lib.detection.thresholds import threshold_of, uses_conformal
from lsfa_lib.methods.fitting import fit_detector
from lsfa_lib.storage.files import atomic_write, progress
from lsfa_lib.storage.results import commit, now

RULES: tuple[Literal["conformal", "normal"], ...] = ("conformal", "normal")
COUNTS, JUDGED, DRAWS, RATE = (8, 20, 60), 100, 1000, 0.05
PRODUCT, FRESH_SEED = "seal", 7
RESULTS = Path(__file__).parent / "false_alarms.md"
TEXT = f"""# False alarms

Written by `python -m benchmarks.false_alarms` on {{date}} at {{commit}}, nothing by hand.

{{scans}} fresh good scans of the demo's {PRODUCT} (version 2, another seed) were scored by a
detector with the preset `demo`. Of them n were drawn for calibration and the others judged, {DRAWS}
times; a rate of {RATE:.0%} was asked for. In square brackets: where 90 % of the draws lie.

{{drawn}}

The detector's own {{own}} validation scans as calibration, {JUDGED} of the fresh scans judged, with
the 95 % binomial interval:

{{split}}
"""


def main() -> None:
    """Makes the scans, fits the detector, scores and writes the tables."""
    with tempfile.TemporaryDirectory() as folder:
        inspector = _fitted(Path(folder))
        scores = np.array(list(_fresh_scores(inspector, max(COUNTS) + JUDGED)))
        own = inspector.good_scores
    text = TEXT.format(
        date=now()[:10],
        commit=commit(),
        scans=len(scores),
        own=len(own),
        drawn=_drawn(scores).to_markdown(index=False),
        split=_split(scores[:JUDGED], own).to_markdown(index=False),
    )
    with atomic_write(RESULTS) as file:
        file.write_text(text, encoding="utf-8")
    print(text)


def _fitted(folder: Path) -> Inspector:
    counts = DemoCounts(train=32, validation=max(COUNTS), good=1, each_defect=1)
    write_demo(folder / "data", replace(STANDARD, categories=(PRODUCT,), counts=counts))
    config = configure("demo", {"data.root": str(folder / "data"), "cache": ""})
    fit_detector(PRODUCT, config, 0).save_as(folder / "part.lsfa")
    return load(folder / "part.lsfa")


def _fresh_scores(inspector: Inspector, count: int) -> Iterator[float]:
    settings = replace(STANDARD, seed=FRESH_SEED)
    for i in progress(range(count), "fresh scans"):
        scan = render(f"{PRODUCT}/test/good/{i:03d}", settings)
        found = inspector.predict(scan.rgb, scan.xyz)
        assert found.score is not None, found.note
        yield found.score


def _drawn(scores: np.ndarray) -> pd.DataFrame:
    """Mean false-alarm rate, and where 90 % of the draws lie, by calibration scans and rule."""
    random, lines = np.random.default_rng(0), []
    orders = [random.permutation(len(scores)) for _ in range(DRAWS)]
    for count in COUNTS:
        line = {"calibration scans": str(count)}
        for rule in RULES:
            rules = DetectorConfig(threshold=rule, false_alarm_rate=RATE)
            if rule == "conformal" and not uses_conformal(count, rules):
                line[rule] = "too few scans"
                continue
            rates = [
                (scores[order[count:]] > threshold_of(scores[order[:count]].tolist(), rules)).mean()
                for order in orders
            ]
            low, high = np.quantile(rates, [0.05, 0.95])
            line[rule] = f"{np.mean(rates):.1%} [{low:.1%}, {high:.1%}]"
        lines.append(line)
    return pd.DataFrame(lines)


def _split(judged: np.ndarray, own: list[float]) -> pd.DataFrame:
    lines = []
    for count in COUNTS:
        line = {"calibration scans": str(count)}
        for rule in RULES:
            rules = DetectorConfig(threshold=rule, false_alarm_rate=RATE)
            alarms = int((judged > threshold_of(own[:count], rules)).sum())
            found = binomtest(alarms, len(judged)).proportion_ci()
            name = "" if rule == "normal" or uses_conformal(count, rules) else " (normal)"
            line[rule] = f"{alarms} of {len(judged)}{name} [{found.low:.1%}, {found.high:.1%}]"
        lines.append(line)
    return pd.DataFrame(lines)


if __name__ == "__main__":
    main()
