"""The demo's products with the camera, lights and files of Eyecandies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from lsfa_lib.datasets.eyecandies import FOCAL_WIDTHS, LIGHT, item_file, write_scan
from lsfa_lib.demo.rendering import Direction, Lens
from lsfa_lib.demo.sensor import measure, photograph
from lsfa_lib.demo.synthetic import STANDARD, DemoSettings, demo_names, for_each, make_scene, stream
from lsfa_lib.records import Points, Rgb, Scan
from lsfa_lib.storage.files import InputError

LENS = Lens(FOCAL_WIDTHS, shift_px=0.5)
_SIDE, _UP = 0.73, 0.68
LIGHTS: tuple[Direction, ...] = (
    (-0.3, -0.3, 0.906),
    (0.0, _SIDE, _UP),
    (_SIDE, 0.0, _UP),
    (0.0, -_SIDE, _UP),
    (-_SIDE, 0.0, _UP),
    (0.05, 0.05, 0.9975),
)
"""Stand-ins for `eyecandies.LIGHTS`; the light box is a lamp directly above."""
KINDS = {
    "good": "good",
    "bent": "bumps",
    "colour": "colors",
    "contamination": "bumps+colors",
    "crack": "normals",
    "cut": "dents",
    "hole": "dents",
}
"""The kind of Eyecandies closest to each of the demo's defects."""


def write_eyecandies_demo(root: Path, settings: DemoSettings = STANDARD) -> None:
    """Writes the scans of `settings` under `root` in the layout of Eyecandies.

    Existing scans are kept. Raises InputError if `root` holds anything else.
    """
    found = root.iterdir() if root.is_dir() else ()
    if any(not path.is_dir() or path.name not in settings.categories for path in found):
        raise InputError(
            f"{root}: holds files that are not this demo's categories; choose an empty folder"
        )
    names = eyecandies_names(settings)

    def write(name: str) -> None:
        scan, images = render_lights(name, names[name], settings)
        write_scan(root, scan, images, normals_of(scan.xyz))

    missing = [n for n in names if not item_file(root, names[n], "depth.png").exists()]
    for_each(write, missing, None)


def eyecandies_names(settings: DemoSettings) -> dict[str, str]:
    """The name of each of the demo's scans in this layout, numbered across the kinds of a split."""
    counts: Counter[str] = Counter()
    found = {}
    for name in demo_names(settings):
        category, split, kind, _ = name.split("/")
        digits = 2 if split == "test" else 3
        found[name] = f"{category}/{split}/{KINDS[kind]}/{counts[category + split]:0{digits}d}"
        counts[category + split] += 1
    return found


def render_lights(name: str, new_name: str, settings: DemoSettings) -> tuple[Scan, list[Rgb]]:
    """A scan of the demo through this lens, called `new_name`, and its image under each light."""
    scene = make_scene(name, settings, name.split("/")[2], LENS)
    images = []
    for light in LIGHTS:
        # The stream restarts each time, so the noise is the same under every light.
        rng, view = stream(name, settings.seed, "photo"), replace(scene.view, light=light)
        images.append(photograph(scene.surface, view, scene.hits, rng))
    xyz = measure(scene.surface, scene.view, scene.hits, stream(name, settings.seed, "sensor"))
    kind, path = new_name.split("/")[2], item_file(Path(), new_name, "depth.png")
    return Scan(images[LIGHT], xyz, scene.defect, new_name, kind, path), images


def normals_of(xyz: Points) -> Points:
    """Unit normals towards the camera from differences between neighbouring points.

    (0, 0, -1), towards the camera, next to pixels without a reading.
    """
    points = np.where((xyz != 0).any(-1, keepdims=True), xyz, np.float32(np.nan))
    down, right = np.gradient(points, axis=(0, 1))
    normal = np.cross(down, right)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    unit = normal / np.where(length > 0, length, np.nan)
    known = np.isfinite(unit).all(-1, keepdims=True)
    return np.where(known, unit, np.array([0, 0, -1], np.float32))
