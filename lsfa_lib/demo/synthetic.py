"""Demo scans in the MVTec 3D-AD layout: four products, six defects, nothing to download.

Honest stand-ins, not test patterns: parts differ in size, colour, texture and pose, the light and
the sensor differ from scan to scan, readings are missing where a real sensor has none, and some
defects show in one modality only. Every scan depends on the settings, the seed and its own name
alone, so more scans of one kind leave all others as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy import ndimage

from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.datasets.mvtec3d import write_scan
from lsfa_lib.demo.defects import DEFECTS, Severities, draw
from lsfa_lib.demo.products import PRODUCTS, Variation, make_part
from lsfa_lib.demo.rendering import DEMO_LENS, Lens, camera_matrix, cast, cell_mm, nearest
from lsfa_lib.demo.sensor import Capture, draw_view, measure, photograph
from lsfa_lib.records import Scan
from lsfa_lib.storage.files import InputError, atomic_write, progress

MANIFEST = "demo.json"
GENERATOR = 1
"""Raised when the same settings would give other scans."""


@dataclass(frozen=True)
class Difficulty:
    """All that makes the demo easy or hard."""

    variation: Variation = field(default_factory=Variation)
    capture: Capture = field(default_factory=Capture)
    severities: Severities = field(default_factory=Severities)


@dataclass(frozen=True)
class DemoCounts:
    """Scans in each category."""

    train: int = 32
    validation: int = 8
    good: int = 12
    """Without a defect in the test split."""
    each_defect: int = 6


@dataclass(frozen=True)
class DemoSettings:
    """Everything a demo tree follows from."""

    categories: tuple[str, ...] = tuple(PRODUCTS)
    counts: DemoCounts = field(default_factory=DemoCounts)
    size: int = 400
    """Pixels along each side of a frame."""
    seed: int = 0
    difficulty: Difficulty = field(default_factory=Difficulty)


STANDARD = DemoSettings()
Light = tuple[float, float, float]
"""Unit vector towards the key light: right, down, up."""


@dataclass(frozen=True)
class Rendered:
    """A scan and its ground truth as it goes to disk."""

    scan: Scan
    gt: UInt8[np.ndarray, "H W"]
    """0, or 253 to 255 where defective, as in the published data."""


def write_demo(root: Path, settings: DemoSettings = STANDARD) -> None:
    """Write the demo tree of `settings` under `root`; the same settings give the same bytes.

    A finished tree of the same settings is left alone, an interrupted one is completed, one of
    other settings is replaced. Raises InputError where `root` holds anything else.
    """
    unknown = [name for name in settings.categories if name not in PRODUCTS]
    if unknown:
        raise InputError(
            f"{root}: no demo product is called {unknown[0]}; choose from {', '.join(PRODUCTS)}"
        )
    if demo_is_complete(root, settings):
        return
    _claim(root, settings)
    names = list(demo_names(settings))
    for name in progress(names, "demo scans"):
        if not (root / _xyz_file(name)).is_file():
            rendered = render(name, settings)
            write_scan(root, rendered.scan, rendered.gt)
    for category in settings.categories:
        _write_json(root / category / "calibration" / "camera_parameters.json", _camera(settings))
    _write_json(root / MANIFEST, {**_manifest(settings), "complete": True})


def demo_is_complete(root: Path, settings: DemoSettings = STANDARD) -> bool:
    """True where `write_demo` has finished a tree of exactly these settings."""
    return _read_manifest(root) == {**_manifest(settings), "complete": True}


def demo_names(settings: DemoSettings) -> Iterator[str]:
    """`<category>/<split>/<kind>/<stem>` of every scan."""
    counts = settings.counts
    groups = [("train/good", counts.train), ("validation/good", counts.validation)]
    groups += [("test/good", counts.good)]
    groups += [(f"test/{kind}", counts.each_defect) for kind in DEFECTS]
    for category in settings.categories:
        for group, count in groups:
            yield from (f"{category}/{group}/{index:03d}" for index in range(count))


def render(name: str, settings: DemoSettings = STANDARD, kind: str | None = None) -> Rendered:
    """The scan called `name`; with another `kind` the same part, pose, light and sensor noise.

    `render(name, settings, "good")` is how the part of a defective scan looked before.
    """
    return render_under(name, settings, kind or name.split("/")[2], DEMO_LENS, {})[0]


def render_under(
    name: str, settings: DemoSettings, kind: str, lens: Lens, lights: dict[int, Light]
) -> tuple[Rendered, dict[int, UInt8[np.ndarray, "H W 3"]]]:
    """As `render`, through another lens; and the pictures with the key light turned elsewhere."""
    product = PRODUCTS[name.split("/")[0]]
    difficulty, size = settings.difficulty, settings.size
    # One stream for each thing: a defect must not shift the noise of the sensor.
    part_rng, view_rng, defect_rng, photo_rng, sensor_rng = _streams(name, settings.seed)
    surface = make_part(product, size, difficulty.variation, part_rng)
    view = draw_view(size, difficulty.capture, view_rng, lens)
    hits = cast(surface, view)
    defective = np.zeros(hits.depth.shape, bool)
    if kind != "good":
        severity = getattr(difficulty.severities, kind)
        spec = draw(severity, surface, product.inside, cell_mm(size), defect_rng)
        surface, mask = DEFECTS[kind](surface, spec)
        # Marked: pixels that saw what is gone now, and those that see the changed place.
        defective = nearest(mask, hits.cell)
        hits = cast(surface, view)
        defective |= nearest(mask, hits.cell)
    rgb = photograph(surface, view, hits, photo_rng)
    xyz = measure(surface, view, hits, sensor_rng)
    scan = Scan(rgb, xyz, defective, name, kind, Path(_xyz_file(name)))
    # A stream is fresh each time: the same grain under every light.
    pictures = {
        number: photograph(
            surface, dataclasses.replace(view, light=light), hits, _streams(name, settings.seed)[3]
        )
        for number, light in lights.items()
    }
    return Rendered(scan, _grey_levels(defective)), pictures


def contact_sheet(root: Path, category: str, width: int = 160) -> Image.Image:
    """A row for each kind of the test split: two scans, each as colour, relief and ground truth."""
    split = read_split(root, category, "test")
    kinds = sorted({entry.kind for entry in split.entries})
    sheet = Image.new("RGB", (6 * width, len(kinds) * width), "white")
    for row, kind in enumerate(kinds):
        chosen = [index for index, entry in enumerate(split.entries) if entry.kind == kind][:2]
        tiles = [tile for index in chosen for tile in _tiles(split[index], width)]
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (column * width, row * width))
    return sheet


def _streams(name: str, seed: int) -> list[np.random.Generator]:
    """Five independent generators that depend on the scan's name and the seed alone."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    children = np.random.SeedSequence(int.from_bytes(digest[:16])).spawn(5)
    return [np.random.default_rng(child) for child in children]


def _grey_levels(defective: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    """255 inside, 254 and 253 in the two outermost rings: not only 255 is defective."""
    inner = ndimage.binary_erosion(defective)
    core = ndimage.binary_erosion(inner)
    return (253 * defective.astype(np.uint8) + inner + core).astype(np.uint8)


def _tiles(scan: Scan, width: int) -> list[Image.Image]:
    """Colour, relief lit from the upper left, and colour with the truth's outline in red."""
    depth = np.where(scan.xyz[..., 2] > 0, scan.xyz[..., 2], np.nan)
    down, right = np.gradient(depth * 1000)
    scale = 1.2 * len(depth) / 400
    relief = np.nan_to_num(np.clip(0.55 + 0.5 * np.tanh(scale * (down + right) / 2), 0, 1))
    outline = ndimage.binary_dilation(scan.defect, iterations=3) & ~scan.defect
    marked = np.where(outline[..., None], np.array([255, 30, 30], np.uint8), scan.rgb)
    grey = np.repeat((relief * 255).astype(np.uint8)[..., None], 3, axis=2)
    return [Image.fromarray(a).resize((width, width)) for a in (scan.rgb, grey, marked)]


def _claim(root: Path, settings: DemoSettings) -> None:
    """Make `root` ours: a marker that says incomplete, and no scans of other settings."""
    old = _read_manifest(root)
    if old is None and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(
            f"{root}: holds files that are not a demo of this library; choose an empty folder"
        )
    if old is not None and {**old, "complete": False} != {**_manifest(settings), "complete": False}:
        for category in PRODUCTS:
            shutil.rmtree(root / category, ignore_errors=True)
    _write_json(root / MANIFEST, {**_manifest(settings), "complete": False})


def _manifest(settings: DemoSettings) -> dict[str, Any]:
    """The settings as they look after a round trip through JSON."""
    return json.loads(json.dumps({"generator": GENERATOR, **dataclasses.asdict(settings)}))


def _read_manifest(root: Path) -> dict[str, Any] | None:
    """What the manifest in `root` says; None where there is none that this library wrote."""
    try:
        content = json.loads((root / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) and "generator" in content else None


def _camera(settings: DemoSettings) -> dict[str, float]:
    camera = camera_matrix(settings.size)
    return {
        "fx": camera[0, 0],
        "fy": camera[1, 1],
        "cx": camera[0, 2],
        "cy": camera[1, 2],
        "width": settings.size,
        "height": settings.size,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _xyz_file(name: str) -> str:
    folder, stem = name.rsplit("/", 1)
    return f"{folder}/xyz/{stem}.tiff"
