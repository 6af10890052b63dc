"""More good scans for the threshold of a detector that is fitted already."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lsfa_lib.config import DetectorConfig, configure
from lsfa_lib.datasets.capture import digest_of
from lsfa_lib.datasets.incoming import find_incoming, read_incoming, require_camera, require_scans
from lsfa_lib.datasets.own_camera import Intrinsics
from lsfa_lib.deployment.inspector import NOT_SCORED, UNLIKE, Inspection, Inspector
from lsfa_lib.detection.detector import Detector
from lsfa_lib.detection.thresholds import thresholds_of
from lsfa_lib.records import Mode
from lsfa_lib.storage.files import InputError, progress

FAR = 6.0
"""A score this many robust standard deviations above the median of all is named."""


@dataclass(frozen=True)
class Calibrated:
    """An inspector with more calibration scans, and sentences on what to look at."""

    inspector: Inspector
    added: int
    warnings: tuple[str, ...]


def calibrate(
    inspector: Inspector,
    paths: Sequence[Path],
    camera: Intrinsics | None = None,
    unit_m: float = 0.0,
) -> Calibrated:
    """The inspector with the scores of good scans added; nothing is trained.

    Scans that are known already, by their content, are left out, and so are those that do not fit:
    both are reported. Raises InputError if none is left.
    """
    origin, light = inspector.origin, inspector.config.data.light
    found = find_incoming(paths, origin.captured, light)
    require_scans(found, paths)
    require_camera(found, camera)
    warnings, known = [f"left out: {text}" for text in found.problems.values()], set(origin.digests)
    added: list[Inspection] = []
    digests: list[str] = []
    for entry in progress(found.entries, "calibration"):
        try:
            scan = read_incoming(entry, camera, unit_m)
        except InputError as error:
            warnings.append(f"left out: {error}")
            continue
        if (digest := digest_of(scan.rgb, scan.xyz)) in known:
            warnings.append(f"left out: {entry.name} was used for this detector already")
            continue
        inspection = inspector.inspect(scan)
        if inspection.verdict in (NOT_SCORED, UNLIKE):
            warnings.append(f"left out: {entry.name}: {inspection.note}")
            continue
        known.add(digest)
        added.append(inspection)
        digests.append(digest)
    if not added:
        raise InputError(
            f"{', '.join(map(str, paths))}: no good scan to add ({'; '.join(warnings)}); give "
            "good scans that the detector has not seen"
        )
    grown = _with(inspector, added, digests)
    return Calibrated(grown, len(added), (*warnings, *_far_above(grown)))


def with_rule(inspector: Inspector, rate: float, threshold: str) -> Inspector:
    """The inspector with another false-alarm rate or threshold rule; 0 and "" keep them.

    Raises InputError for a rule that does not exist.
    """
    asked = {"detector.false_alarm_rate": rate, "detector.threshold": threshold}
    changed = configure(inspector.config, {name: value for name, value in asked.items() if value})
    scores = inspector.detector.validation_scores
    return replace(inspector, detector=_ruled(scores, inspector, changed.detector))


def _ruled(
    scores: dict[Mode, list[float]], inspector: Inspector, rules: DetectorConfig
) -> Detector:
    return replace(
        inspector.detector,
        config=replace(inspector.config, detector=rules),
        validation_scores=scores,
        thresholds=thresholds_of(scores, rules),
    )


def _with(inspector: Inspector, added: Sequence[Inspection], digests: Sequence[str]) -> Inspector:
    detector, origin = inspector.detector, inspector.origin
    scores = {
        mode: [*own, *(each.scores[mode] for each in added)]
        for mode, own in detector.validation_scores.items()
    }
    peaks = {
        mode: [*own, *(each.peaks[mode] for each in added)] for mode, own in detector.peaks.items()
    }
    grown = replace(_ruled(scores, inspector, inspector.config.detector), peaks=peaks)
    about = replace(
        origin,
        calibration=(*origin.calibration, *(each.name for each in added)),
        digests=(*origin.digests, *digests),
    )
    return replace(inspector, detector=grown, origin=about)


def _far_above(inspector: Inspector) -> list[str]:
    """A sentence for each calibration scan far above all others: it may be defective."""
    scores = inspector.good_scores
    middle = statistics.median(scores)
    spread = 1.4826 * statistics.median(abs(score - middle) for score in scores)
    limit = middle + FAR * spread
    return [
        f"calibration scan {name} scores {score:.2f}, far above the others (median {middle:.2f}); "
        "if it is defective, leave it out and calibrate again"
        for name, score in zip(inspector.origin.calibration, scores, strict=True)
        if score > limit
    ]
