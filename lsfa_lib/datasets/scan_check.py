"""Problems and peculiarities of one scan."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from lsfa_lib.config import Config, PreprocessConfig
from lsfa_lib.datasets.capture import digest_of
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.image_files import inverted, read_any
from lsfa_lib.datasets.layouts import read_scan
from lsfa_lib.datasets.own_camera import FAR, PLAUSIBLE_M
from lsfa_lib.datasets.plane import readings_of
from lsfa_lib.datasets.preprocess import prepare
from lsfa_lib.records import UNLABELLED, Sample, Scan
from lsfa_lib.storage.files import InputError

NEAR_PX = 3
"""A defect this close to the kept part, in pixels of the sample, is at its edge."""


@dataclass
class Checked:
    """What the check of one scan found."""

    kind: str = ""
    """Empty for a scan that cannot be read."""
    size: tuple[int, int] = (0, 0)
    """Width and height, px."""
    distances_m: tuple[float, ...] = ()
    """From the camera to the nearest and to the farthest reading."""
    digest: str = ""
    """Equal for scans of the same content."""
    stripped: bool = False
    """The border that should show the background has no reading."""
    problems: list[str] = field(default_factory=list)
    """One sentence each, with the file's name and the remedy."""
    warnings: list[str] = field(default_factory=list)


def check_scan(entry: Entry, config: Config | None) -> Checked:
    """Reads a scan and, with a config, prepares it as a run would."""
    try:
        scan = read_scan(entry)
    except InputError as error:
        return Checked(problems=[str(error)])
    size = (scan.rgb.shape[1], scan.rgb.shape[0])
    digest = digest_of(scan.rgb, scan.xyz)
    found = Checked(scan.kind, size, digest=digest, problems=_mask_problem(entry, scan))
    wrong_unit: list[str] = []
    if "3d" in scan.modalities:
        lengths = _distances(scan)
        found.distances_m = (float(lengths.min()), float(lengths.max())) if len(lengths) else ()
        plane = config is None or config.preprocess.background_removal == "plane"
        found.stripped = plane and border_is_empty(scan)
        wrong_unit = _unit_problem(scan, lengths)
        found.problems += wrong_unit
        found.warnings += _depth_warnings(entry, scan)
    if config and not (found.stripped or wrong_unit):
        try:
            sample = prepare(scan, config.preprocess, config.colour_size)
        except InputError as error:
            found.problems.append(str(error))
        else:
            notes = (*sample.notes, *defect_notes(sample))
            found.warnings += [f"{scan.path}: {note}" for note in notes]
    return found


def border_is_empty(scan: Scan, border_px: int = PreprocessConfig().border_px) -> bool:
    """True where no pixel of the four border strips was measured.

    The published scans show the background plane there. Tools that remove the plane and pad to a
    square in place, in the original files, leave zeros.
    """
    measured = readings_of(scan.xyz)
    measured[border_px:-border_px, border_px:-border_px] = False
    return not measured.any()


def _mask_problem(entry: Entry, scan: Scan) -> list[str]:
    """A sentence for an inverted mask, a good scan with a marked pixel, a defective one without."""
    if entry.gt and (problem := inverted(entry.gt, scan.defect)):
        return [problem]
    if scan.kind == UNLABELLED or scan.defect.any() == (scan.kind != "good"):
        return []
    return [
        f"{entry.gt}: marks {np.count_nonzero(scan.defect)} pixels as defective in a scan of kind "
        f"{scan.kind}; restore the original, or move the scan to the right folder"
    ]


def defect_notes(sample: Sample) -> list[str]:
    """A sentence if a marked defect does not touch the part that is scored."""
    labels, count = ndimage.label(sample.defect.cpu().numpy())
    near = ndimage.binary_dilation(sample.valid.cpu().numpy(), iterations=NEAR_PX)
    lost = count - len(np.unique(labels[near & (labels > 0)]))
    if not lost:
        return []
    return [
        f"{lost} of {count} marked defects lie outside of the part that was found; check the mask, "
        "and that one part is in view"
    ]


def _distances(scan: Scan) -> Float[np.ndarray, " N"]:
    """Of the readings from the camera, metres."""
    points = scan.xyz[readings_of(scan.xyz)]
    return np.sqrt(np.einsum("nc,nc->n", points, points))  # a third of the time of linalg.norm


def _unit_problem(scan: Scan, lengths: Float[np.ndarray, " N"]) -> list[str]:
    """A sentence for a scan whose coordinates cannot be metres from a camera."""
    median = float(np.median(lengths)) if len(lengths) else PLAUSIBLE_M[0]
    if PLAUSIBLE_M[0] <= median <= PLAUSIBLE_M[1]:
        return []
    return [
        f"{scan.path}: half of its points are within {median:.3g} of the camera, which cannot be "
        "metres; write coordinates in metres"
    ]


def _depth_warnings(entry: Entry, scan: Scan) -> list[str]:
    """Sentences on readings behind the camera, which count as none, and on ones far away."""
    found, z = [], scan.xyz[..., 2]
    if entry.xyz and not entry.depth_bounds and (behind := (read_any(entry.xyz)[..., 2] < 0).sum()):
        found.append(
            f"{scan.path}: {behind} points have z < 0 and count as no reading; write (0, 0, 0)"
        )
    far = z > FAR * np.median(z[z > 0]) if (z > 0).any() else np.zeros_like(z, bool)
    if far.any():
        found.append(
            f"{scan.path}: {far.sum()} points lie up to {z.max():.3g} m away, over {FAR} times the "
            "median; if that is the camera's value for no reading, write (0, 0, 0)"
        )
    return found
