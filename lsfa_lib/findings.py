"""What the numbers of result.json say, in sentences and counts."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

Result = dict[str, Any]
"""What result.json holds."""

NAMES = {"3d": "3D", "rgb": "RGB", "rgb+3d": "RGB + 3D"}
BOTH = "rgb+3d"


def answer(result: Result) -> str:
    """Which parts are defective and where, answered from the numbers, as Markdown."""
    modes = result["modes"]
    lines = [f"**{found_sentence(result, BOTH)}.**\n"]
    auroc = "; ".join(
        f"{NAMES.get(m, m)} {three_digits(v['i_auroc'])} {interval(v['i_auroc_interval'])}"
        for m, v in modes.items()
    )
    lines.append(f"- **Which:** a defective part outranks a good one with I-AUROC {auroc}.")
    aupro = "; ".join(f"{NAMES.get(m, m)} {three_digits(v['aupro_30'])}" for m, v in modes.items())
    strict = three_digits(modes[BOTH]["aupro_05"])
    lines.append(
        f"- **Where:** AUPRO at 30 % is {aupro}; with 5 % of good pixels allowed, "
        f"{NAMES[BOTH]} keeps {strict}."
    )
    lines.append(f"- {hardest_sentence(result, BOTH)}.")
    return "\n".join(lines)


def counts(result: Result, mode: str = BOTH) -> tuple[int, int, int, int]:
    """(defective parts found, defective parts, good parts rejected, good parts) at the threshold.

    With no threshold nothing is found and nothing rejected.
    """
    threshold = number(result["modes"][mode]["threshold"])
    above = {s["name"]: s["scores"][mode] > threshold for s in result["scans"]}
    bad = [above[s["name"]] for s in result["scans"] if s["defective"]]
    good = [above[s["name"]] for s in result["scans"] if not s["defective"]]
    return sum(bad), len(bad), sum(good), len(good)


def best_mode(result: Result, metric: str) -> tuple[str, float]:
    """Mode with the highest value of a metric, and that value; NaN where it is undefined in all."""
    values = {m: number(v[metric]) for m, v in result["modes"].items()}
    mode = max(values, key=lambda m: -math.inf if math.isnan(values[m]) else values[m])
    return mode, values[mode]


def number(value: float | None) -> float:
    """JSON's null back as NaN."""
    return math.nan if value is None else float(value)


def three_digits(value: float | None) -> str:
    """0.934, or a dash for an undefined value."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def interval(bounds: Iterable[float | None]) -> str:
    """[0.880, 0.970]."""
    low, high = bounds
    return f"[{three_digits(low)}, {three_digits(high)}]"


def found_sentence(result: Result, mode: str) -> str:
    """How many parts of each sort lie above the threshold."""
    name = NAMES.get(mode, mode)
    if result["modes"][mode]["threshold"] is None:
        return f"{name}: no threshold, as there are no validation scans"
    found, bad, rejected, good = counts(result, mode)
    return (
        f"{name} finds {found} of {bad} defective parts and rejects {rejected} of {good} good ones"
    )


def best_sentence(best: tuple[str, float], text: str) -> str:
    """Which mode is ahead, and with what value."""
    mode, value = best
    if math.isnan(value):
        return "Undefined: the test split lacks good or defective parts"
    return f"{NAMES.get(mode, mode)} {text} {value:.3f}"


def hardest_sentence(result: Result, mode: str) -> str:
    """The kind of defect of which the smallest share is found."""
    threshold = number(result["modes"][mode]["threshold"])
    found: dict[str, list[bool]] = {}
    for scan in result["scans"]:
        if scan["defective"]:
            found.setdefault(scan["kind"], []).append(scan["scores"][mode] > threshold)
    if not found:
        return "No defective parts in the test split"
    kind = min(found, key=lambda k: (np.mean(found[k]), k))
    hits, total = sum(found[kind]), len(found[kind])
    if hits == total:
        return f"Every kind of defect is found in full by {NAMES.get(mode, mode)}"
    return f"Hardest kind: {html.escape(kind)}, {hits} of {total} found"
