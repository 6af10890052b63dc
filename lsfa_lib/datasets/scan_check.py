"""What is wrong or odd in one scan that can be read."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from lsfa_lib.config import Config
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.image_files import read_any
from lsfa_lib.datasets.own_camera import PLAUSIBLE_M
from lsfa_lib.datasets.preprocess import prepare
from lsfa_lib.records import Sample, Scan
from lsfa_lib.storage.files import InputError

FAR = 10
"""A reading at this many times the median depth is far from everything that is inspected."""
NEAR_PX = 3
"""A defect this close to the kept part, in pixels of the sample, is at its edge."""


def preparation(scan: Scan, config: Config) -> tuple[list[str], list[str]]:
    """(problems, warnings): the sentence with which a run would refuse the scan; what it leaves."""
    try:
        sample = prepare(scan, config.preprocess, config.colour_size)
    except InputError as error:
        return [str(error)], []
    return [], [f"{scan.path}: {note}" for note in (*sample.notes, *defect_notes(sample))]


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


def unit_problem(scan: Scan) -> list[str]:
    """A sentence for a scan whose coordinates cannot be metres from a camera."""
    lengths = np.linalg.norm(scan.xyz[np.any(scan.xyz != 0, axis=2)], axis=1)
    median = float(np.median(lengths))
    if PLAUSIBLE_M[0] <= median <= PLAUSIBLE_M[1]:
        return []
    return [
        f"{scan.path}: half of its points are within {median:.3g} of the camera, which cannot be "
        "metres; write coordinates in metres"
    ]


def depth_warnings(entry: Entry, scan: Scan) -> list[str]:
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
