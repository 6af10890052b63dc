"""Numbers and sentences of the walkthrough that are more than one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lsfa_lib.detection.memory import Bank, Searched
from lsfa_lib.figures.names import mode_label
from lsfa_lib.records import Modality, is_defective


def shapes(**named: Any) -> str:
    """Markdown: type and shape of arrays and tensors, a line each."""
    lines = []
    for name, value in named.items():
        sparse = isinstance(value, torch.Tensor) and value.layout != torch.strided
        kind = ("sparse " if sparse else "") + str(value.dtype).removeprefix("torch.")
        lines.append(f"- `{name}`: {kind}, {' × '.join(map(str, value.shape))}")
    return "\n".join(lines)


def kept_by_scan(bank: Bank, scans: int) -> list[list[int]]:
    """The patches that the coreset kept of each training scan."""
    kept: list[list[int]] = [[] for _ in range(scans)]
    for scan, patch in bank.source.tolist():
        kept[scan].append(patch)
    return kept


def nearest_source(searched: Searched, bank: Bank, patch: int) -> tuple[int, int, float]:
    """(training scan, patch there, distance) of the bank row nearest to a patch."""
    scan, there = bank.source[int(searched.nearest[patch])].tolist()
    return scan, there, float(searched.distances[patch])


def answer(
    name: str,
    scores: Mapping[str, float],
    thresholds: Mapping[str, float],
    kept: Mapping[Modality, int],
) -> str:
    """The verdict on the scan, as Markdown."""
    lead = "rgb+3d"
    word = "defective" if scores[lead] > thresholds[lead] else "good"
    lines = [
        f"**{name} is called {word}**: its score in {mode_label(lead)} is {scores[lead]:.2f}, the "
        f"threshold from good validation parts is {thresholds[lead]:.2f}.\n"
    ]
    for mode, score in scores.items():
        side = "above" if score > thresholds[mode] else "below"
        limit = f"{side} its threshold {thresholds[mode]:.2f}"
        lines.append(f"- {mode_label(mode)}: {score:.2f}, {limit}.")
    kind = name.split("/")[2]
    if is_defective(kind) not in (None, word == "defective"):
        mistake = f"a miss: the part has a defect ({kind})" if word == "good" else "a false alarm"
        lines.append(f"- This is {mistake}.")
    rows = " and ".join(f"{count} ({mode_label(m)})" for m, count in kept.items())
    lines.append(f"- The banks that decided this hold {rows} patches of good parts.")
    return "\n".join(lines)
