"""The demo's products as Eyecandies stores its candies: its camera, its lights, its files."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from lsfa_lib.datasets.eyecandies import FOCAL_WIDTHS, LIGHT, item_file, write_scan
from lsfa_lib.demo.rendering import Lens
from lsfa_lib.demo.synthetic import STANDARD, DemoSettings, Light, demo_names, render_under
from lsfa_lib.records import Scan
from lsfa_lib.storage.files import InputError, progress

LENS = Lens(FOCAL_WIDTHS, shift_px=0.5)
_SIDE, _UP = 0.73, 0.68
LIGHTS: dict[int, Light] = {
    0: (-0.3, -0.3, 0.906),
    1: (0.0, _SIDE, _UP),
    2: (_SIDE, 0.0, _UP),
    3: (0.0, -_SIDE, _UP),
    4: (-_SIDE, 0.0, _UP),
    5: (0.05, 0.05, 0.9975),
}
"""Stand-ins for `eyecandies.LIGHTS`; the light box is a lamp straight above."""
CALLED = {
    "good": "good",
    "bent": "bumps",
    "colour": "colors",
    "contamination": "bumps+colors",
    "crack": "normals",
    "cut": "dents",
    "hole": "dents",
}
"""What each of the demo's defects is nearest to."""


def write_eyecandies_demo(root: Path, settings: DemoSettings = STANDARD) -> None:
    """Write the scans of `settings` under `root` in the layout of Eyecandies.

    Scans that are there are left alone. Raises InputError where `root` holds anything else.
    """
    if root.is_dir() and any(
        not (path.is_dir() and path.name in settings.categories) for path in root.iterdir()
    ):
        raise InputError(
            f"{root}: holds files that are not this demo's categories; choose an empty folder"
        )
    for name, called in progress(names(settings), "demo scans"):
        if not item_file(root, called, "depth.png").exists():
            scan, pictures = rendered(name, called, settings)
            write_scan(root, scan, pictures, normals_of(scan.xyz))


def names(settings: DemoSettings) -> list[tuple[str, str]]:
    """The demo's name of each scan, and its name here: numbered through a split's kinds."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    found = []
    for name in demo_names(settings):
        category, split, kind, _ = name.split("/")
        index = f"{counts[category, split]:0{2 if split == 'test' else 3}d}"
        counts[category, split] += 1
        found.append((name, f"{category}/{split}/{CALLED[kind]}/{index}"))
    return found


def rendered(
    name: str, called: str, settings: DemoSettings
) -> tuple[Scan, dict[int, UInt8[np.ndarray, "H W 3"]]]:
    """A scan of the demo through this lens, and its picture under each light."""
    own, pictures = render_under(name, settings, name.split("/")[2], LENS, LIGHTS)
    kind = called.split("/")[2]
    return replace(own.scan, name=called, kind=kind, rgb=pictures[LIGHT]), pictures


def normals_of(xyz: Float32[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W 3"]:
    """Unit normals towards the camera from differences between neighbouring points.

    (0, 0, -1), straight at the camera, beside pixels without a reading.
    """
    points = np.where((xyz != 0).any(-1, keepdims=True), xyz, np.float32(np.nan))
    down, right = np.gradient(points, axis=(0, 1))
    normal = np.cross(down, right)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    unit = normal / np.where(length > 0, length, np.nan)
    return np.where(
        np.isfinite(unit).all(-1, keepdims=True), unit, np.array([0, 0, -1], np.float32)
    )
