"""Demo scans in the MVTec 3D-AD layout: products with six defects, nothing to download.

Realistic stand-ins, not test patterns: parts differ in size, colour, texture and pose, light and
sensor differ between scans, readings are missing where a real sensor has none, and some defects
are visible in one modality only. A scan depends on the settings, the seed and its name alone, so
scans can be written in any order, and more scans of one kind do not change the others.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.random import Generator
from scipy import ndimage

from lsfa_lib.datasets.mvtec3d import write_scan, xyz_file
from lsfa_lib.demo import rendering
from lsfa_lib.demo.defects import DEFECTS, Severities, Severity, draw
from lsfa_lib.demo.held_out import HELD_OUT
from lsfa_lib.demo.products import PRODUCTS, Variation, make_part
from lsfa_lib.demo.rendering import DEMO_LENS, Hits, Lens, Surface, View, cast
from lsfa_lib.demo.sensor import Capture, draw_view, measure, photograph
from lsfa_lib.demo.wear import Wear, worn
from lsfa_lib.records import Scan
from lsfa_lib.storage.files import InputError, atomic_write, progress

MANIFEST = "demo.json"
KNOWN = PRODUCTS | HELD_OUT
GENERATOR = 1
"""Increased when the same settings would produce different scans."""
PURPOSES = ("part", "view", "defect", "photo", "sensor", "wear")
"""Random streams of a scan: a defect must not change the noise of the sensor."""


@dataclass(frozen=True)
class Difficulty:
    """Everything that makes the demo easy or hard."""

    variation: Variation = field(default_factory=Variation)
    capture: Capture = field(default_factory=Capture)
    severities: Severities = field(default_factory=Severities)
    wear: Wear = field(default_factory=Wear)


@dataclass(frozen=True)
class DemoCounts:
    """Scans in each category; `good` are the test scans without a defect."""

    train: int = 32
    validation: int = 8
    good: int = 12
    each_defect: int = 6


@dataclass(frozen=True)
class DemoSettings:
    """Everything that determines a demo data set; frames have `size` x `size` pixels."""

    categories: tuple[str, ...] = tuple(PRODUCTS)
    counts: DemoCounts = field(default_factory=DemoCounts)
    size: int = 400
    seed: int = 0
    difficulty: Difficulty = field(default_factory=Difficulty)


REALISTIC = Difficulty(
    Variation(shift_mm=4.0, scale=0.03, shade=0.12, texture=1.25, warp_mm=0.3, backdrop=2.0),
    Capture(
        tilt_deg=2.0,
        distance_mm=6.0,
        light_turn_deg=20.0,
        exposure=0.10,
        focus_px=(0.5, 1.0),
        flying_share=0.1,
    ),
    Severities(
        hole=Severity((0.2, 1.0), depth_mm=(0.4, 4.0)),
        crack=Severity((0.2, 0.9), depth_mm=(0.2, 2.0)),
        cut=Severity((0.25, 1.5)),
        bent=Severity((0.6, 3.0), depth_mm=(0.5, 2.0)),
        contamination=Severity((0.2, 1.1), depth_mm=(0.1, 1.0), strength=(0.1, 0.6)),
        colour=Severity((0.2, 1.4), strength=(0.08, 0.4)),
    ),
    Wear(spots=8.0, spot_strength=0.12, scratches=4.0, scratch_contrast=0.15, shade=0.04),
)
"""Version 2 of the demo. Defects are as small as real ones, and nearer to their contrast than in
version 1: on a category of MVTec 3D-AD the medians are 0.18 % of the frame and 0.4 standard
deviations of the surroundings."""
DIFFICULTIES = {1: Difficulty(), 2: REALISTIC}
"""By version of the demo."""
STANDARD = DemoSettings(difficulty=REALISTIC)


@dataclass(frozen=True)
class Scene:
    """The part in front of the camera, and the pixels that show its defect."""

    surface: Surface
    view: View
    hits: Hits
    defect: Bool[np.ndarray, "H W"]


def write_demo(root: Path, settings: DemoSettings = STANDARD, workers: int | None = None) -> None:
    """Writes the demo data of `settings` under `root`; equal settings produce equal bytes.

    Complete data of the same settings is kept, interrupted data is completed, data of other
    settings is replaced. Raises InputError if `root` holds anything else.
    """
    unknown = [name for name in settings.categories if name not in KNOWN]
    if unknown:
        raise InputError(
            f"{root}: no demo product is called {unknown[0]}; choose from {', '.join(KNOWN)}"
        )
    if demo_is_complete(root, settings):
        return
    _claim(root, settings)

    def write(name: str) -> None:
        scan = render(name, settings)
        write_scan(root, scan, _grey_levels(scan.defect))

    missing = [name for name in demo_names(settings) if not xyz_file(root, name).is_file()]
    for_each(write, missing, workers)
    camera = rendering.camera_matrix(settings.size)
    calibration = {"fx": camera[0, 0], "fy": camera[1, 1], "cx": camera[0, 2], "cy": camera[1, 2]}
    calibration |= {"width": settings.size, "height": settings.size}
    for category in settings.categories:
        _write_json(root / category / "calibration" / "camera_parameters.json", calibration)
    _write_json(root / MANIFEST, _manifest(settings, complete=True))


def for_each(write: Callable[[str], None], names: Sequence[str], workers: int | None) -> None:
    """Calls `write` for every scan in `workers` threads, by default one per core.

    Threads scale like processes here, as numpy, scipy and the PNG encoder release the interpreter
    lock, and they need neither start-up time nor a guarded main module.
    """
    with ThreadPoolExecutor(workers) as pool:
        for _ in progress(pool.map(write, names), "demo scans", len(names)):
            pass


def demo_is_complete(root: Path, settings: DemoSettings = STANDARD) -> bool:
    """Whether `write_demo` has finished a data set of exactly these settings."""
    return _read_manifest(root) == _manifest(settings, complete=True)


def demo_names(settings: DemoSettings) -> Iterator[str]:
    """`<category>/<split>/<kind>/<stem>` of every scan."""
    counts = settings.counts
    groups = {"train/good": counts.train, "validation/good": counts.validation}
    groups |= {"test/good": counts.good}
    groups |= {f"test/{kind}": counts.each_defect for kind in DEFECTS}
    for category in settings.categories:
        for group, count in groups.items():
            yield from (f"{category}/{group}/{index:03d}" for index in range(count))


def render(name: str, settings: DemoSettings = STANDARD, kind: str = "") -> Scan:
    """The scan called `name`; with another `kind`, the same part, pose, light and sensor noise.

    `render(name, settings, "good")` shows the part of a defective scan before it was damaged.
    """
    kind = kind or name.split("/")[2]
    scene = make_scene(name, settings, kind)
    surface, view, hits = scene.surface, scene.view, scene.hits
    rgb = photograph(surface, view, hits, stream(name, settings.seed, "photo"))
    xyz = measure(surface, view, hits, stream(name, settings.seed, "sensor"))
    return Scan(rgb, xyz, scene.defect, name, kind, xyz_file(Path(), name))


def make_scene(name: str, settings: DemoSettings, kind: str, lens: Lens = DEMO_LENS) -> Scene:
    """The part of the scan called `name` with a defect of `kind`, in front of its camera."""
    product, difficulty = KNOWN[name.split("/")[0]], settings.difficulty
    part_rng, view_rng, defect_rng = (stream(name, settings.seed, p) for p in PURPOSES[:3])
    mm, wear_rng = rendering.cell_mm(settings.size), stream(name, settings.seed, "wear")
    surface = make_part(product, settings.size, difficulty.variation, part_rng)
    surface = worn(surface, difficulty.wear, mm, wear_rng)
    view = draw_view(settings.size, difficulty.capture, view_rng, lens)
    if kind == "good":
        hits = cast(surface, view)
        return Scene(surface, view, hits, np.zeros(hits.depth.shape, bool))
    severity = getattr(difficulty.severities, kind)
    spec = draw(severity, surface, product.inside, mm, defect_rng)
    damaged, mask = DEFECTS[kind](surface, spec)
    # Marked are pixels that saw material missing now, and those that see changed material.
    before, hits = cast(surface, view, mask), cast(damaged, view)
    defect = rendering.nearest(mask, before.cell) | rendering.nearest(mask, hits.cell)
    return Scene(damaged, view, hits, defect)


def stream(name: str, seed: int, purpose: str) -> Generator:
    """Random numbers that depend on the scan's name, the seed and one of `PURPOSES` alone."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    key = (PURPOSES.index(purpose),)
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest[:16]), spawn_key=key))


def _grey_levels(defect: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """255 inside, 254 and 253 in the two outermost rings, as in the published ground truth."""
    inner = ndimage.binary_erosion(defect)
    core = ndimage.binary_erosion(inner)
    return (253 * defect.astype(np.uint8) + inner + core).astype(np.uint8)


def _claim(root: Path, settings: DemoSettings) -> None:
    """Marks `root` as an incomplete demo of these settings, without scans of other settings."""
    old, new = _read_manifest(root), _manifest(settings, complete=False)
    if old is None and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(
            f"{root}: holds files that are not a demo of this library; choose an empty folder"
        )
    if old is not None and {**old, "complete": False} != new:
        for category in KNOWN:
            shutil.rmtree(root / category, ignore_errors=True)
    _write_json(root / MANIFEST, new)


def _manifest(settings: DemoSettings, complete: bool) -> dict[str, Any]:
    """The manifest of a data set after a round trip through JSON."""
    content = {"generator": GENERATOR, **asdict(settings), "complete": complete}
    return json.loads(json.dumps(content))


def _read_manifest(root: Path) -> dict[str, Any] | None:
    """The manifest in `root`; None if there is none that this library wrote."""
    try:
        content = json.loads((root / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) and "generator" in content else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
