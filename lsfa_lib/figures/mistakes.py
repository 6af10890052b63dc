"""Which scans a detector gets wrong, and what its maps show there: peaks, modalities, ranks."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage

from lsfa_lib.config import Config
from lsfa_lib.detection.maps import contrast
from lsfa_lib.figures.findings import found_sentence, grouped, lead, number, ranked
from lsfa_lib.figures.names import mode_label
from lsfa_lib.figures.scan_images import depth_in
from lsfa_lib.pipeline import Run
from lsfa_lib.records import Mode, Sample
from lsfa_lib.storage.files import InputError

NEAR_PATCHES = 1.0
"""A peak this near to a defect counts as on it: the map is no finer."""
RIM_PATCHES = 2.0
"""A peak this near to the outside of the part counts as at its rim."""


@dataclass(frozen=True)
class Peak:
    """Where a map, or its contrast if that is scored, is highest: in its largest spot on the part.

    Spots are the connected pixels that make the score, the top 0.1 %: one stray pixel at the rim
    is no peak.
    """

    row: int
    column: int
    """In pixels of the map."""
    to_defect: float
    """Patches to the nearest pixel of the defect; infinite without one."""
    to_rim: float
    """Patches to the outside of the part."""

    @property
    def on_defect(self) -> bool:
        """It lies on the true defect, or within a patch of it."""
        return self.to_defect <= NEAR_PATCHES

    @property
    def at_rim(self) -> bool:
        """It lies within two patches of the part's outline."""
        return self.to_rim <= RIM_PATCHES


@dataclass(frozen=True)
class Judged:
    """One test scan as a mode judges it."""

    place: int
    """Index among the samples of the run."""
    name: str
    kind: str
    defective: bool
    score: float
    threshold: float
    rank: int
    """1 for the highest score of the test split."""
    scans: int
    above: int
    """Good scans with a higher score than a defective one, or defective ones with a lower score
    than a good one: the pairs in the wrong order."""
    others: int
    """Scans of that other class."""
    seen_by: tuple[Mode, ...]
    """Single sources of evidence whose own score exceeds their own threshold."""
    sources: tuple[Mode, ...]
    """All single sources of the run."""
    peak: Peak

    @property
    def called_defective(self) -> bool:
        """The score exceeds the threshold."""
        return self.score > self.threshold

    @property
    def wrong(self) -> bool:
        """A miss or a false alarm."""
        return self.called_defective != self.defective


def judged(run: Run, mode: str = "") -> list[Judged]:
    """Every labelled test scan of a run as `mode` judges it, highest score first."""
    mode = _known_mode(run, mode)
    thresholds = {m: number(v["threshold"]) for m, v in run.result["modes"].items()}
    sources = tuple(m for m in thresholds if "+" not in m)
    place = {scan["name"]: i for i, scan in enumerate(run.result["scans"])}
    scans = [scan for scan in ranked(run.result, mode) if scan["defective"] is not None]
    found = []
    for rank, scan in enumerate(scans, 1):
        score, bad, i = scan["scores"][mode], scan["defective"], place[scan["name"]]
        others = [s["scores"][mode] for s in scans if s["defective"] != bad]
        anomaly = run.predictions[mode][i].anomaly_map.cpu().numpy()
        found.append(
            Judged(
                place=i,
                name=scan["name"],
                kind=scan["kind"],
                defective=bad,
                score=score,
                threshold=thresholds[mode],
                rank=rank,
                scans=len(scans),
                above=sum(other > score if bad else other < score for other in others),
                others=len(others),
                seen_by=tuple(m for m in sources if scan["scores"][m] > thresholds[m]),
                sources=sources,
                peak=peak_of(anomaly, run.samples[i], run.config),
            )
        )
    return found


def _known_mode(run: Run, mode: str) -> Mode:
    """The mode, or the one the run is shown by. InputError where the run does not have it."""
    mode, modes = mode or lead(run.result), run.result["modes"]
    if mode not in modes:
        raise InputError(
            f"mode {mode!r} is not in this run; it answers in {', '.join(modes)} (disagreement "
            "needs a training with alignment)"
        )
    return mode


def peak_of(anomaly: Float[np.ndarray, "S S"], sample: Sample, config: Config) -> Peak:
    """The map's peak on the part, and its distances to defect and outline."""
    patch_px = config.projection.patch_px
    valid, defect = sample.valid.cpu().numpy(), sample.defect.cpu().numpy()
    if config.detector.image_score == "contrast":
        sigma = config.detector.surround * len(anomaly)
        anomaly = contrast(torch.from_numpy(anomaly), sample.valid.cpu(), sigma).numpy()
    on_part = np.where(valid, anomaly, -np.inf)
    count = min(max(1, round(config.detector.top_fraction * anomaly.size)), int(valid.sum()))
    spots, _ = ndimage.label(
        on_part >= np.partition(on_part, -count, None)[-count], np.ones((3, 3))
    )
    largest = np.bincount(spots.ravel())[1:].argmax() + 1
    place = np.where(spots == largest, on_part, -np.inf).argmax()
    at = int(place // len(valid)), int(place % len(valid))
    to_defect = ndimage.distance_transform_edt(~defect)[at] if defect.any() else np.inf
    # Pixels without a reading inside the part are no outline; a hole through it is one.
    part = ndimage.binary_closing(np.pad(valid, 4), iterations=3)[4:-4, 4:-4] | valid
    to_rim = depth_in(part)[at]
    return Peak(*at, float(to_defect / patch_px), float(to_rim / patch_px))


def worst_misses(scans: Iterable[Judged], n: int = 3) -> list[Judged]:
    """The `n` defective scans with the lowest scores, lowest first; not all need be missed."""
    return [scan for scan in reversed(list(scans)) if scan.defective][:n]


def worst_alarms(scans: Iterable[Judged], n: int = 3) -> list[Judged]:
    """The `n` good scans with the highest scores; not all need be false alarms."""
    return [scan for scan in scans if not scan.defective][:n]


def typical(scans: Iterable[Judged]) -> list[Judged]:
    """The median-score scan of each kind, the kind found best first and good parts last."""
    middle = [own[len(own) // 2] for own in grouped(scans, attrgetter("kind")).values()]
    return sorted(middle, key=lambda scan: (not scan.defective, scan.rank))


def verdict(scan: Judged) -> str:
    """`found`, `missed`, `false alarm` or `passed`."""
    if scan.defective:
        return "found" if scan.called_defective else "missed"
    return "false alarm" if scan.called_defective else "passed"


def sentence(scan: Judged) -> str:
    """What went wrong in one scan, from its numbers; HTML."""
    name = html.escape("/".join(scan.name.split("/")[-2:]))
    pairs = "good scans score higher" if scan.defective else "defective scans score lower"
    return (
        f"<b>{name}, {verdict(scan)}</b>: score {scan.score:.2f}, threshold {scan.threshold:.2f}; "
        f"rank {scan.rank} of {scan.scans}, {scan.above} of {scan.others} {pairs}. "
        f"The map peaks {_where(scan)}; {_seen(scan)}."
    )


def answer(run: Run, scans: list[Judged], mode: str = "") -> str:
    """What the mistakes have in common, counted over the complete test split, as Markdown."""
    misses = [scan for scan in scans if scan.defective and scan.wrong]
    alarms = [scan for scan in scans if not scan.defective and scan.wrong]
    lines = [f"**{found_sentence(run.result, mode or lead(run.result))}.**\n"]
    if misses:
        off = sum(not scan.peak.on_defect for scan in misses)
        lines += [
            f"- **Missed:** {_counted(html.escape(scan.kind) for scan in misses)}.",
            f"- **Detected by a single source:** {_alone(misses)}.",
            f"- **Where the map peaks:** off the defect in {off} of {len(misses)} misses, where "
            f"the defect itself was not seen; on it, but not high enough, in {len(misses) - off}.",
        ]
    else:
        lines.append("- No defective scan is missed.")
    if alarms:
        rim = sum(scan.peak.at_rim for scan in alarms)
        lines.append(
            f"- **False alarms:** {rim} of {len(alarms)} peak at the part's rim, within "
            f"{RIM_PATCHES:g} patches of its outline."
        )
    else:
        lines.append("- No good scan is rejected.")
    return "\n".join(lines)


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())


def _alone(misses: list[Judged]) -> str:
    """How many misses one source alone detects, and which; how many none does."""
    alone = [mode_label(s.seen_by[0], short=True) for s in misses if len(s.seen_by) == 1]
    none = sum(not scan.seen_by for scan in misses)
    several = len(misses) - none - len(alone)
    text = f"{len(alone)} of {len(misses)} misses are seen by one source alone"
    text += f" ({_counted(alone)})" if alone else ""
    return f"{text}, {none} by none" + (f", {several} by several" if several else "")


def _where(scan: Judged) -> str:
    rim = "at the part's rim" if scan.peak.at_rim else "inside the part"
    if not scan.defective:
        return rim
    if scan.peak.on_defect:
        return f"on the defect, {rim}"
    if not np.isfinite(scan.peak.to_defect):
        return f"{rim}; no pixel of the defect is left at this image size"
    return f"{scan.peak.to_defect:.0f} patches from the defect, {rim}"


def _seen(scan: Judged) -> str:
    names = [mode_label(m, short=True) for m in scan.seen_by]
    if not scan.sources:
        return "the method has one score"
    if not names:
        return "no single source of evidence exceeds its own threshold"
    if len(names) == len(scan.sources):
        return "every single source exceeds its own threshold"
    alone = " alone exceeds its" if len(names) == 1 else " exceed their"
    return f"{' and '.join(names)}{alone} own threshold"
