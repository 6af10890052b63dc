"""Converts your own camera's files to the MVTec 3D-AD layout, which everything here reads.

A scan is a colour image and a depth image with the same stem, or one organised cloud; a mask of
its defect may come with it. The sources are not changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from lsfa_lib.datasets.entry import SPLITS, Entry, SplitName, visible
from lsfa_lib.datasets.image_files import decoding, read_gt, require_size
from lsfa_lib.datasets.mvtec3d import write_scan, xyz_file
from lsfa_lib.datasets.own_camera import (
    Intrinsics,
    read_depth,
    read_intrinsics,
    read_organised_cloud,
)
from lsfa_lib.records import UNLABELLED, Mask, Scan
from lsfa_lib.storage.files import InputError, progress

WORDS = {"rgb": "colour", "color": "colour", "colour": "colour", "depth": "depth"}
WORDS |= {"mask": "mask", "gt": "mask"}
"""Role of a file by its folder, or by the ending of its stem; a file without either is colour."""
SUFFIXES = {
    "colour": (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
    "depth": (".png", ".tif", ".tiff", ".exr"),
    "mask": (".png",),
    "cloud": (".pcd", ".ply"),
}


@dataclass(frozen=True)
class Target:
    """Where imported scans go."""

    root: Path
    category: str
    split: SplitName
    kind: str = "good"
    """`good`, a defect's name, or `unlabelled` in the test split."""


def import_scans(
    source: Path, target: Target, camera: Path | None = None, depth_unit_m: float = 0.0
) -> list[str]:
    """Names of the scans in `source`, each written under `target`; existing ones are kept.

    `camera` holds the intrinsics of depth images. `depth_unit_m` is the length of one unit of
    depth; 0 uses the camera file's, or 1 mm. Raises InputError naming the file and what is
    expected.
    """
    _check(source, target)
    found = find_scans(source, target)
    if not found:
        raise InputError(
            f"{source}: no scans in here; expected NAME.png with NAME_depth.png (or folders rgb "
            "and depth), or organised NAME.pcd or NAME.ply"
        )
    intrinsics = None
    if any(scan.rgb != scan.xyz for scan in found):
        if camera is None:
            raise InputError(
                f"{source}: depth images need the camera's intrinsics; give their file by "
                "--intrinsics (JSON with fx, fy, cx, cy in pixels, or XML)"
            )
        intrinsics = read_intrinsics(camera)
        if depth_unit_m:
            intrinsics = replace(intrinsics, metres=depth_unit_m)
    for scan in progress(found, f"{target.category} {target.split}"):
        if not xyz_file(target.root, scan.name).exists():
            write_scan(target.root, read_own(scan, intrinsics))
    return [scan.name for scan in found]


def find_scans(source: Path, target: Target) -> list[Entry]:
    """The scans in a folder, named as in `target`; `rgb` and `xyz` of a cloud are the same file.

    Raises InputError for a scan without all its files.
    """
    prefix = f"{target.category}/{target.split}/{target.kind}/"
    items = pair_files(source, prefix, target.kind)
    if problems := [item for item in items if isinstance(item, str)]:
        raise InputError(problems[0])
    return [item for item in items if isinstance(item, Entry)]


def pair_files(source: Path, prefix: str, kind: str) -> list[Entry | str]:
    """The complete scans in a folder, and a sentence for each problem with any other."""
    by_role, problems = _by_role(source)
    colours, depths, masks, clouds = by_role.values()
    for stem, depth in depths.items():
        if stem not in colours:
            problems.append(
                f"{depth}: no colour image {stem}.png next to it; give both the same stem"
            )
        elif stem in clouds:
            problems.append(f"{depth}: there is a cloud {stem} too; keep one of them")
    # An image next to a cloud of its name is a preview; one next to nothing is a mistake.
    problems += [
        f"{path}: no depth image {stem}_depth.png or cloud next to it; give both the same stem"
        for stem, path in colours.items()
        if stem not in clouds | depths
    ]
    complete = {stem: xyz for stem, xyz in depths.items() if stem in colours and stem not in clouds}
    complete |= {stem: xyz for stem, xyz in clouds.items() if stem not in depths}
    return [
        *problems,
        *(
            Entry(f"{prefix}{stem}", kind, (colours | clouds)[stem], xyz, masks.get(stem))
            for stem, xyz in sorted(complete.items())
        ),
    ]


def _by_role(source: Path) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """For each role the files by the stem of their scan; a sentence for each second one."""
    found: dict[str, dict[str, Path]] = {role: {} for role in SUFFIXES}
    problems = []
    for path in [p for folder in (source, *map(source.joinpath, WORDS)) for p in visible(folder)]:
        role, stem = role_of(path, source)
        if path.suffix.lower() not in SUFFIXES[role]:
            continue
        if other := found[role].get(stem):
            problems.append(f"{path}: {other.name} is the same scan's {role}; keep one")
        found[role].setdefault(stem, path)
    return found, problems


def role_of(path: Path, source: Path) -> tuple[str, str]:
    """Role of a file in the folder `source` or in one of its folders, and the stem of its scan."""
    start, _, ending = path.stem.rpartition("_")
    if path.parent != source:
        return WORDS[path.parent.name], path.stem
    if path.suffix.lower() in SUFFIXES["cloud"]:
        return "cloud", path.stem
    return (WORDS[ending], start) if start and ending in WORDS else ("colour", path.stem)


def _check(source: Path, target: Target) -> None:
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder that holds the scans")
    if target.split not in SPLITS:
        raise InputError(f"there is no split {target.split!r}; choose among {', '.join(SPLITS)}")
    for name in (target.category, target.kind):
        if not name or name.startswith(".") or Path(name).name != name:
            raise InputError(f"{name!r} cannot be a folder's name; choose a simple one")
    if target.split != "test" and target.kind != "good":
        raise InputError(
            f"{target.split} may hold only `good` scans, not {target.kind!r}; use --split test"
        )


def read_own(scan: Entry, camera: Intrinsics | None) -> Scan:
    """The scan of an entry of `pair_files`; depth images need the camera. Raises InputError."""
    assert scan.xyz is not None
    if scan.rgb == scan.xyz:
        rgb, xyz = read_organised_cloud(scan.xyz)
    else:
        assert camera is not None
        with decoding(scan.rgb), Image.open(scan.rgb) as image:
            rgb = np.asarray(image.convert("RGB"))
        xyz = read_depth(scan.xyz, camera)
        require_size(scan.rgb, rgb, scan.xyz, xyz, "register colour to depth first")
    if not xyz.any():
        raise InputError(f"{scan.xyz}: no reading at all; leave it out")
    return Scan(rgb, xyz, _defect(scan, xyz.shape[:2]), scan.name, scan.kind, scan.xyz)


def _defect(scan: Entry, size: tuple[int, ...]) -> Mask:
    if scan.kind in ("good", UNLABELLED):
        return np.zeros(size, bool)
    if scan.gt is None:
        raise InputError(
            f"{scan.rgb}: a scan of kind {scan.kind!r} needs a mask "
            f"{Path(scan.name).name}_mask.png that marks its defect; draw one, or import it as "
            f"--kind {UNLABELLED}"
        )
    defect = read_gt(scan.gt)
    if defect.shape != size or not defect.any():
        raise InputError(
            f"{scan.gt}: marks {np.count_nonzero(defect)} pixels of {defect.shape[1]} x "
            f"{defect.shape[0]}, expected some of {size[1]} x {size[0]}; draw it again"
        )
    return defect
