"""A detector from its file, applied to scans from anywhere; the same numbers as in its run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.capture import capture_of, misfit
from lsfa_lib.datasets.preprocess import part_of, prepare
from lsfa_lib.datasets.relief import shaded_depth
from lsfa_lib.deployment.in_frame import in_frame
from lsfa_lib.deployment.regions import Region, regions_of
from lsfa_lib.detection.detector import Detector, predict, surface_of
from lsfa_lib.detection.likeness import LIMIT, unlikeness
from lsfa_lib.detection.origin import Origin
from lsfa_lib.detection.saved import load_complete
from lsfa_lib.detection.thresholds import p_value, promise, threshold_of
from lsfa_lib.features.cache import extract
from lsfa_lib.features.checkpoints import sha256_of
from lsfa_lib.features.extract import Encoders, load_encoders
from lsfa_lib.features.lazy_scan import fixed_threads, on_device
from lsfa_lib.records import UNLABELLED, Mode, Points, Prediction, Rgb, Sample, Scan
from lsfa_lib.storage.files import InputError

GOOD, DEFECTIVE, UNLIKE, NOT_SCORED = (
    *("good", "defective"),
    *("unlike the training scans", "not scored"),
)
VERDICTS = (DEFECTIVE, UNLIKE, NOT_SCORED, GOOD)
"""In the order in which a person should look at them."""


@dataclass(frozen=True)
class Inspection:
    """The result for one scan; with verdict `not scored`, only the note."""

    name: str
    verdict: str
    """One of VERDICTS."""
    note: str = ""
    """Why it is not scored, or what to know of its verdict."""
    score: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    """A scan that scores above is defective."""
    scores: dict[Mode, float] = field(default_factory=dict)
    """In every mode."""
    unlike: float | None = None
    """See `detection.likeness.unlikeness`."""
    anomaly_map: Float32[np.ndarray, "H W"] | None = None
    """In the frame of the input; NaN off the part."""
    regions: tuple[Region, ...] = ()
    seconds: float = 0.0
    sample: Sample | None = None
    predictions: dict[Mode, Prediction] = field(default_factory=dict)
    """In the encoders' square, for figures."""
    peaks: dict[Mode, float] = field(default_factory=dict)
    """Largest pixel of each map on the part."""
    files: list[list[Any]] = field(default_factory=list)
    """Path, size and modification time of each file; then camera and unit, where given."""


@dataclass(frozen=True)
class Inspector:
    """A loaded detector with its encoders."""

    detector: Detector
    origin: Origin
    encoders: Encoders
    sha256: str
    """Of its file."""

    @property
    def config(self) -> Config:
        """Of the detector, on this machine's device."""
        return self.detector.config

    @property
    def mode(self) -> Mode:
        """The mode that decides: both modalities fused, or the only one."""
        return "rgb+3d" if "rgb+3d" in self.detector.modes else self.detector.modes[0]

    @property
    def good_scores(self) -> list[float]:
        """Scores of the calibration scans in the deciding mode."""
        return self.detector.validation_scores[self.mode]

    @property
    def threshold(self) -> float:
        """A scan that scores above is defective."""
        return self.detector.thresholds[self.mode]

    @property
    def pixel_threshold(self) -> float:
        """Map value that a good part exceeds anywhere with the wanted false-alarm rate."""
        return threshold_of(self.detector.peaks[self.mode], self.config.detector)

    @property
    def promise(self) -> str:
        """What the threshold promises, in one sentence."""
        return promise(len(self.good_scores), self.config.detector)

    def predict(
        self,
        rgb: Rgb | None,
        xyz: Points | None = None,
        name: str = "array",
    ) -> Inspection:
        """The verdict of one scan; points in metres, (0, 0, 0) without a reading.

        `rgb` is None for a detector of 3D alone, `xyz` for one of images alone.
        """
        captured = tuple(m for m, part in (("3d", xyz), ("rgb", rgb)) if part is not None)
        if rgb is None:
            if xyz is None:
                raise InputError("neither colours nor points were given; give rgb, xyz or both")
            rgb = shaded_depth(xyz)
        points = np.zeros(rgb.shape, np.float32) if xyz is None else xyz
        nowhere = np.zeros(rgb.shape[:2], bool)
        return self.inspect(Scan(rgb, points, nowhere, name, UNLABELLED, Path(name), captured))

    def predict_batch(
        self,
        rgb: Iterable[Rgb] | None,
        xyz: Iterable[Points] | None = None,
    ) -> list[Inspection]:
        """The verdicts of several scans, equal to those of `predict` for each."""
        images, points = (None if part is None else list(part) for part in (rgb, xyz))
        nothing: list[None] = [None] * len(images or points or [])
        pairs = zip(images or nothing, points or nothing, strict=True)
        return [self.predict(*pair, name=str(i)) for i, pair in enumerate(pairs)]

    def inspect(self, scan: Scan) -> Inspection:
        """The verdict of a scan; one that does not fit is not scored, and the note says why."""
        with fixed_threads(self.config.threads):
            return self.judged(scan)

    def judged(self, scan: Scan) -> Inspection:
        """As `inspect`, with the number of threads that torch has."""
        began = time.perf_counter()
        try:
            found = self._judged(scan)
        except InputError as error:
            found = Inspection(scan.name, NOT_SCORED, str(error))
        return replace(found, seconds=time.perf_counter() - began)

    def _judged(self, scan: Scan) -> Inspection:
        scan = self._as_trained(scan)
        part = part_of(scan, self.config.preprocess)
        sample = prepare(scan, self.config.preprocess, self.config.colour_size, part)
        sample = on_device(sample, resolve_device(self.config.device))
        features = extract(sample, self.encoders, self.config)
        predictions = predict(self.detector, features)
        scores = {mode: each.image_score for mode, each in predictions.items()}
        _, peaks = surface_of([predictions], [features], self.config)
        anomaly = in_frame(predictions[self.mode].anomaly_map, part)
        regions = tuple(regions_of(anomaly, self.pixel_threshold, scan.xyz))
        unlike, score = unlikeness(features, self.origin.means), scores[self.mode]
        if not math.isfinite(score + unlike):
            raise InputError(f"{scan.path}: features are not finite; check the encoder's weights")
        verdict, note = self._verdict(score, unlike, bool(regions))
        return Inspection(
            name=scan.name,
            verdict=verdict,
            note=note,
            score=score,
            p_value=p_value(score, self.good_scores),
            threshold=self.threshold,
            scores=scores,
            unlike=unlike,
            anomaly_map=anomaly,
            regions=regions,
            sample=sample,
            predictions=predictions,
            peaks={mode: own[0] for mode, own in peaks.items()},
        )

    def _verdict(self, score: float, unlike: float, marked: bool) -> tuple[str, str]:
        """The verdict, and what to know of it."""
        verdict = DEFECTIVE if score > self.threshold else GOOD
        if unlike > LIMIT:
            note = (
                f"its mean features are {unlike:.1f} times as far from the nearest training scan "
                f"as any training scan from another (limit {LIMIT:g}); by its score it is {verdict}"
            )
            return UNLIKE, note
        if verdict == DEFECTIVE and not marked:
            return DEFECTIVE, "no area of the map exceeds the pixel threshold"
        return verdict, ""

    def _as_trained(self, scan: Scan) -> Scan:
        """The scan with the modalities of the training scans. InputError where it does not fit."""
        captured = self.origin.captured
        if lacking := [m for m in captured if m not in scan.modalities]:
            raise InputError(
                f"{scan.path}: no {lacking[0]}, but the detector was trained with it; give the "
                "complete scan"
            )
        if captured != scan.modalities:  # a photograph stays to look at, points would not be used
            xyz = scan.xyz if "3d" in captured else np.zeros_like(scan.xyz)
            scan = replace(scan, xyz=xyz, modalities=captured)
        if scan.rgb.shape != scan.xyz.shape:
            raise InputError(
                f"{scan.path}: colours {scan.rgb.shape} and points {scan.xyz.shape} differ in "
                "shape; give both in the same frame"
            )
        if "3d" in captured and not scan.xyz[..., 2].any():
            raise InputError(f"{scan.path}: no reading at all; capture it again")
        if reason := misfit(capture_of(scan), self.origin.captures):
            raise InputError(f"{scan.path}: {reason}")
        return scan


def load(path: Path | str, device: str = "auto") -> Inspector:
    """The detector in a file that `lsfa fit` or `lsfa run` wrote, with its encoders.

    Raises InputError if the file is damaged or lacks its origin, and if weights are missing or are
    not those it was fitted with.
    """
    path, on = Path(path), resolve_device(device)
    detector, origin = load_complete(path, on)
    if origin is None:
        raise InputError(f"{path} does not say which scans it was trained on; fit it again")
    if detector.config.finetune.method != "none":
        raise InputError(
            f"{path}: its backbones were fine-tuned ({detector.config.finetune.method}), and a "
            "detector file holds no backbones; fit one with adaptors (finetune.method none)"
        )
    config = replace(detector.config, device=str(on), cache="")
    encoders = _encoders(config, origin, path)
    return Inspector(replace(detector, config=config), origin, encoders, sha256_of(path))


def _encoders(config: Config, origin: Origin, path: Path) -> Encoders:
    """The encoders of the config, with the weights the detector was fitted with."""
    encoders = load_encoders(config, resolve_device(config.device), origin.keys)
    for m, key in origin.keys.items():
        if encoders.keys[m] != key:
            known, found = origin.weights[m], encoders.about[m]
            raise InputError(
                f"{path} was fitted with {known['model']} weights of sha256 "
                f"{str(known['sha256'])[:12]}, but those of {m} here have "
                f"{str(found['sha256'])[:12]}; restore them, or fit it again"
            )
    return encoders
