"""maps.npz: the maps of a few test scans that a run keeps, so that runs can be looked at together.

The scans follow from names and kinds alone: all runs of a category keep the same ones, and nobody
chose flattering ones.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from lsfa_lib.storage.files import InputError, atomic_write

FILE = "maps.npz"
STEPS = 2000
"""Of a cloud's coordinates, over its largest extent: 0.05 mm on a part of 100 mm."""


@dataclass(frozen=True)
class KeptScan:
    """One test scan with the map of one mode; images are cropped to the part and reduced."""

    name: str
    mode: str
    jpeg: bytes
    """The photo, or what `picture` names."""
    valid: Bool[np.ndarray, "s s"]
    defect: Bool[np.ndarray, "s s"]
    anomaly: Float[np.ndarray, "s s"]
    """The map: what was stored as 8 bits, within half a step of what the detector said."""
    good: tuple[float, float]
    """Map values that are 0 % and 100 %: median and 99.9th percentile of good test surface."""
    places: UInt8[np.ndarray, "2 n"]
    """Rows and columns of the points of the cloud."""
    points: Float[np.ndarray, "n 3"]
    """Their coordinates, mm."""
    picture: str = "photo"
    """What `photo` is."""

    @property
    def photo(self) -> UInt8[np.ndarray, "s s 3"]:
        """The photo, of the map's size."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg)).convert("RGB"))


def chosen(scans: Iterable[dict[str, Any]]) -> list[str]:
    """The scans to keep, of the `scans` of result.json: the first by name of each kind.

    Kinds of defects by name, the good one last; scores are not looked at.
    """
    order = sorted(scans, key=lambda scan: (scan["kind"] == "good", scan["kind"], scan["name"]))
    return list({scan["kind"]: scan["name"] for scan in reversed(order)}.values())[::-1]


def write_maps(scans: Iterable[KeptScan], folder: Path) -> Path:
    """Writes `folder/maps.npz` atomically and returns its path."""
    path = folder / FILE
    arrays: dict[str, Any] = {}
    for number, scan in enumerate(scans):
        arrays |= {f"{number}.{name}": value for name, value in _packed(scan).items()}
    with atomic_write(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return path


def read_maps(folder: Path) -> dict[str, KeptScan]:
    """The scans in `folder/maps.npz` by name; {} for a run of a version that kept none.

    Raises InputError where the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            count = len({name.partition(".")[0] for name in arrays.files})
            scans = [_unpacked(arrays, f"{number}.") for number in range(count)]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged; delete it and run again") from error
    return {scan.name: scan for scan in scans}


def _packed(scan: KeptScan) -> dict[str, np.ndarray]:
    """The fields as small arrays."""
    low, high = float(scan.anomaly.min()), float(scan.anomaly.max())
    levels = np.rint((scan.anomaly - low) / ((high - low) or 1.0) * 255)
    step = float(np.abs(scan.points).max(initial=0.0)) * 2 / STEPS or 1.0
    return {
        "text": np.array([scan.name, scan.mode, scan.picture]),
        "jpeg": np.frombuffer(scan.jpeg, np.uint8),
        "masks": np.packbits(np.stack((scan.valid, scan.defect))),
        # Differences between neighbours are small numbers, which take less room.
        "levels": np.diff(levels.astype(np.uint8), axis=1, prepend=np.uint8(0)),
        "places": scan.places,
        "steps": np.diff(np.rint(scan.points.T / step).astype(np.int16), prepend=np.int16(0)),
        "scales": np.array([low, high, step, *scan.good]),
    }


def _unpacked(arrays: Any, prefix: str) -> KeptScan:
    text, levels, scales = (arrays[prefix + name] for name in ("text", "levels", "scales"))
    low, high, step, *good = scales.tolist()
    bits = np.unpackbits(arrays[prefix + "masks"], count=2 * levels.size)
    valid, defect = bits.reshape(2, *levels.shape).astype(bool)
    level = np.cumsum(levels, axis=1, dtype=np.uint8)
    return KeptScan(
        name=str(text[0]),
        mode=str(text[1]),
        jpeg=arrays[prefix + "jpeg"].tobytes(),
        valid=valid,
        defect=defect,
        anomaly=low + level * ((high - low) / 255),
        good=(good[0], good[1]),
        places=arrays[prefix + "places"],
        points=np.cumsum(arrays[prefix + "steps"], axis=1, dtype=np.int16).T * step,
        picture=str(text[2]) if len(text) > 2 else "photo",  # absent in older files
    )
