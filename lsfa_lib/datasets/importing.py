"""Converts your own camera's files to the MVTec 3D-AD layout, which everything here reads.

A scan is a colour image and a depth image with the same stem, or one organised cloud; a mask of
its defect may come with it. The sources are not changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lsfa_lib.datasets.entry import SPLITS, Entry, SplitName, seen
from lsfa_lib.datasets.layouts import read_scan
from lsfa_lib.datasets.mvtec3d import scan_file, write_scan
from lsfa_lib.datasets.own_camera import read_intrinsics
from lsfa_lib.datasets.own_scan import read_own
from lsfa_lib.datasets.pairing import files_by_role, pair_files, unread
from lsfa_lib.records import Scan
from lsfa_lib.storage.files import InputError, progress


@dataclass(frozen=True)
class Target:
    """Where imported scans go."""

    root: Path
    category: str
    split: SplitName
    kind: str = "good"
    """`good`, a defect's name, or `unlabelled` in the test split."""
    prefix: str = ""
    """Put before the names of the scans, for cameras that number each day from 0."""
    images_only: bool = False
    """Import colour images that have no depth image or cloud."""
    depth_only: bool = False
    """Import depth images and clouds without colour."""


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    names: list[str]
    """The scans of the source."""
    written: int
    """How many of them are new; the others were there already, with the same content."""
    unread: list[Path]
    """Folders and links in the source that were not read."""


def import_scans(
    source: Path, target: Target, camera: Path | None = None, depth_unit_m: float = 0.0
) -> Imported:
    """Writes each scan in `source` under `target`, unless the same is there already.

    `camera` holds the intrinsics of depth images. `depth_unit_m` is the length of one unit of
    depth images and clouds; 0: the camera file's; else millimetres for whole numbers, metres for
    clouds. Raises InputError naming the file and what is expected, before anything is written if
    a different scan has one of the names.
    """
    _check(source, target, depth_unit_m)
    found = find_scans(source, target)
    if hidden := [scan.path for scan in found if Path(scan.name).name.startswith(".")]:
        raise InputError(
            f"{hidden[0]}: its name would begin with a dot, which hides it; add a --prefix"
        )
    if not found:
        raise InputError(
            f"{source}: no scans in here; expected NAME.png with NAME_depth.png (or folders rgb "
            f"and depth), or organised NAME.pcd or NAME.ply{seen(source)}"
        )
    _require_same_form(target, found)
    intrinsics = read_intrinsics(camera) if camera else None
    if intrinsics and depth_unit_m:
        intrinsics = replace(intrinsics, metres=depth_unit_m)
    new = []
    for scan in found:
        there = [r for r in ("rgb", "xyz") if scan_file(target.root, scan.name, r).exists()]
        if there:
            _require_same(scan, read_own(scan, intrinsics, depth_unit_m), target.root)
        if ("xyz" if scan.xyz else "rgb") not in there:
            new.append(scan)
    for scan in progress(new, f"{target.category} {target.split}"):
        write_scan(target.root, read_own(scan, intrinsics, depth_unit_m))
    return Imported([scan.name for scan in found], len(new), unread(source))


def _require_same_form(target: Target, found: list[Entry]) -> None:
    """Raises InputError if the category's scans have other modalities than those found."""
    category = target.root / target.category
    points = any(category.glob("*/*/xyz/[!.]*"))
    # Points are written last: without any, colour of these names may be an unfinished import.
    both = [] if points else [scan.name for scan in found if scan.rgb and scan.xyz]
    begun = {scan_file(target.root, name, "rgb") for name in both}
    colour = any(path not in begun for path in category.glob("*/*/rgb/[!.]*"))
    there = ["colour"] * colour + ["points"] * points
    own = ["colour"] * bool(found[0].rgb) + ["points"] * bool(found[0].xyz)
    if there and there != own:
        raise InputError(
            f"{category}: its scans have {' and '.join(there)}, these have {' and '.join(own)}; "
            "import them into another category"
        )


def _require_same(entry: Entry, scan: Scan, root: Path) -> None:
    """Raises InputError if the files that `scan` has under `root` hold something else."""
    rgb, xyz, gt = (
        path if path.exists() else None
        for path in (scan_file(root, scan.name, role) for role in ("rgb", "xyz", "gt"))
    )
    stored, path = read_scan(Entry(scan.name, scan.kind, rgb, xyz, gt)), xyz or rgb
    if gt and not np.array_equal(stored.defect, scan.defect):
        raise InputError(
            f"{entry.gt or entry.path}: {gt} marks other pixels; remove {path} to import the scan "
            "again with this mask"
        )
    pairs = [(stored.rgb, scan.rgb)] * bool(rgb) + [(stored.xyz, scan.xyz)] * bool(xyz)
    if not all(np.array_equal(*pair) for pair in pairs):
        raise InputError(
            f"{entry.rgb or entry.xyz}: a different scan is called {scan.name} already ({path}); "
            "import these with --prefix, such as --prefix day2_, or remove the other"
        )


def find_scans(source: Path, target: Target) -> list[Entry]:
    """The scans in a folder, named as in `target`; `rgb` and `xyz` of a cloud are the same file.

    With `target.depth_only` there is no `rgb`. Raises InputError for a scan without all its files.
    """
    prefix = f"{target.category}/{target.split}/{target.kind}/{target.prefix}"
    if target.images_only:
        by_role, problems = files_by_role(source)
        if problems:
            raise InputError(problems[0])
        colours, masks = by_role["colour"], by_role["mask"]
        return [
            Entry(f"{prefix}{stem}", target.kind, path, None, masks.get(n, ("", None))[1])
            for n, (stem, path) in sorted(colours.items())
        ]
    items = pair_files(source, prefix, target.kind, not target.depth_only)
    if problems := [item for item in items if isinstance(item, str)]:
        raise InputError(problems[0])
    return [item for item in items if isinstance(item, Entry)]


def _check(source: Path, target: Target, depth_unit_m: float) -> None:
    if not source.is_dir():
        what = "is a file" if source.exists() else "no such folder"
        raise InputError(f"{source}: {what}; give the folder that holds the scans")
    if target.images_only and target.depth_only:
        raise InputError("--images-only and --depth-only leave nothing; give one of them")
    if target.split not in SPLITS:
        raise InputError(f"there is no split {target.split!r}; choose among {', '.join(SPLITS)}")
    for name in (target.category, target.kind):
        if not name or name.startswith(".") or Path(name).name != name:
            raise InputError(f"{name!r} cannot be a folder's name; choose a simple one")
    if target.prefix.startswith(".") or Path(f"a{target.prefix}").name != f"a{target.prefix}":
        raise InputError(f"--prefix {target.prefix!r} cannot begin a file's name; choose another")
    if not 0 <= depth_unit_m <= 1:
        raise InputError(
            f"--depth-unit-m {depth_unit_m:g} is not a length; give metres, such as 0.001"
        )
    if target.kind != "good" and target.kind.strip().casefold() == "good":
        raise InputError(f"--kind {target.kind!r}: write good, in lower case")
    if target.split != "test" and target.kind != "good":
        raise InputError(
            f"{target.split} may hold only `good` scans, not {target.kind!r}; use --split test"
        )
