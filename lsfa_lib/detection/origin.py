"""Where a detector comes from: the scans and weights it was made with, kept in its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lsfa_lib.datasets.capture import Capture, capture_of, digest_of
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import read_scan
from lsfa_lib.detection.likeness import Means
from lsfa_lib.features.extract import Encoders
from lsfa_lib.records import Modality


@dataclass(frozen=True)
class Origin:
    """What a detector file needs in addition, to score scans from any source."""

    category: str
    captured: tuple[Modality, ...]
    """Modalities of the training scans that new scans need too; ("rgb",) for images without 3D,
    ("3d",) for a detector of 3D alone."""
    keys: dict[Modality, str]
    """Of the encoders: changes with their settings and weights."""
    weights: dict[Modality, dict[str, str | bool]]
    """Model and sha256 of each encoder's weights."""
    captures: tuple[Capture, ...]
    """Frame and camera of each training scan."""
    train: tuple[str, ...]
    """Names of the training scans."""
    calibration: tuple[str, ...]
    """Names of the good scans behind `validation_scores`, in their order."""
    digests: tuple[str, ...]
    """Of the training scans, then of the calibration scans: none may be calibrated with again."""
    versions: dict[str, str]
    means: Means = field(default_factory=dict)
    """Mean feature of each training scan."""


def origin_of(
    train: Sequence[Entry], validation: Sequence[Entry], means: Means, encoders: Encoders
) -> Origin:
    """The origin of a detector fitted to these scans, which are read once more."""
    from lsfa_lib import __version__

    captures, digests = [], []
    for i, entry in enumerate([*train, *validation]):
        scan = read_scan(entry)
        digests.append(digest_of(scan.rgb, scan.xyz))
        if i < len(train):
            captures.append(capture_of(scan))
    return Origin(
        category=train[0].name.split("/")[0],
        captured=train[0].modalities if "rgb" in encoders.keys else ("3d",),
        keys=encoders.keys,
        weights=encoders.about,
        captures=tuple(captures),
        train=tuple(entry.name for entry in train),
        calibration=tuple(entry.name for entry in validation),
        digests=tuple(digests),
        versions={"lsfa_lib": __version__},
        means=means,
    )
