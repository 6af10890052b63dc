"""Your own camera's files into the MVTec 3D-AD layout, which everything here reads.

A scan is a colour image and a depth image with the same stem, or one organised cloud; a mask of
its defect may come with it. The sources are read only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from lsfa_lib.datasets.entry import SPLITS, SplitName, unreadable, visible
from lsfa_lib.datasets.mvtec3d import read_gt, write_scan
from lsfa_lib.datasets.own_camera import (
    Intrinsics,
    read_depth,
    read_intrinsics,
    read_organised_cloud,
)
from lsfa_lib.records import UNLABELLED, Scan
from lsfa_lib.storage.files import InputError, progress

CLOUDS = (".pcd", ".ply")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DEPTHS = (".png", ".tif", ".tiff", ".exr")
ROLES = {
    "colour": (("", "_rgb", "_color", "_colour"), ("rgb", "color", "colour"), PICTURES),
    "depth": (("_depth",), ("depth",), DEPTHS),
    "mask": (("_mask",), ("gt", "mask"), (".png",)),
}
"""Of each role: endings of its files' stems, names of folders that hold it, and file types."""


@dataclass(frozen=True)
class Sources:
    """The files of one scan."""

    stem: str
    colour: Path
    """The cloud, where it is one."""
    depth: Path | None
    mask: Path | None


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
    """Names of the scans in `source`, each written under `target`; those there are left alone.

    `camera` holds the intrinsics of depth images, `depth_unit_m` is the length of one unit of them
    and 0 takes the camera file's, or 1 mm. Raises InputError naming the file and what is wanted.
    """
    _check(source, target)
    found = find_scans(source)
    if not found:
        raise InputError(
            f"{source}: no scans in here; wanted NAME.png with NAME_depth.png (or folders rgb and "
            "depth), or organised NAME.pcd or NAME.ply"
        )
    intrinsics = None
    if any(scan.depth for scan in found):
        if camera is None:
            raise InputError(
                f"{source}: depth images need the camera's intrinsics; give their file by "
                "--intrinsics (JSON with fx, fy, cx, cy in pixels, or XML)"
            )
        intrinsics = read_intrinsics(camera)
        if depth_unit_m:
            intrinsics = replace(intrinsics, metres=depth_unit_m)
    folder = target.root / target.category / target.split / target.kind
    names = []
    for sources in progress(found, f"{target.category} {target.split}"):
        name = "/".join([*folder.parts[-3:], sources.stem])
        names.append(name)
        if not (folder / "xyz" / f"{sources.stem}.tiff").exists():
            write_scan(target.root, _read(sources, name, target.kind, intrinsics))
    return names


def find_scans(source: Path) -> list[Sources]:
    """The scans in a folder by their stems. Raises InputError for one without all its files."""
    clouds = [path for path in visible(source) if path.suffix.lower() in CLOUDS]
    files = {role: _of_role(source, role) for role in ROLES}
    found = [Sources(path.stem, path, None, files["mask"].pop(path.stem, None)) for path in clouds]
    taken = {path.stem for path in clouds}
    for stem, depth in files["depth"].items():
        if stem not in files["colour"]:
            raise InputError(
                f"{depth}: no colour image {stem}.png beside it; give both the same stem"
            )
        if stem in taken:
            raise InputError(f"{depth}: there is a cloud {stem} too; keep one of them")
        found.append(Sources(stem, files["colour"][stem], depth, files["mask"].get(stem)))
        taken.add(stem)
    # A picture beside a cloud of its name is a preview; one beside nothing is a mistake.
    alone = [path for stem, path in files["colour"].items() if stem not in taken]
    if alone:
        raise InputError(
            f"{alone[0]}: no depth image {alone[0].stem}_depth.png or cloud beside it; "
            "give both the same stem"
        )
    return sorted(found, key=lambda scan: scan.stem)


def _of_role(source: Path, role: str) -> dict[str, Path]:
    """Files of a role by the stem of their scan. Raises InputError where two have the same."""
    endings, folders, suffixes = ROLES[role]
    others = [e for name, (each, _, _) in ROLES.items() if name != role for e in each if e]
    stems = []
    for path in visible(source):
        ending = next((e for e in sorted(endings, reverse=True) if path.stem.endswith(e)), None)
        if ending is not None and not any(path.stem.endswith(other) for other in others):
            stems.append((path.stem.removesuffix(ending), path))
    for folder in folders:
        stems += [(path.stem, path) for path in visible(source / folder)]
    found: dict[str, Path] = {}
    for stem, path in stems:
        if path.suffix.lower() not in suffixes:
            continue
        if stem in found:
            raise InputError(f"{path}: {found[stem].name} is the same scan's {role}; keep one")
        found[stem] = path
    return found


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


def _read(sources: Sources, name: str, kind: str, camera: Intrinsics | None) -> Scan:
    if sources.depth is None:
        rgb, xyz = read_organised_cloud(sources.colour)
    else:
        assert camera is not None
        rgb, xyz = _read_colour(sources.colour), read_depth(sources.depth, camera)
        if rgb.shape[:2] != xyz.shape[:2]:
            raise InputError(
                f"{sources.colour}: {rgb.shape[1]} x {rgb.shape[0]} px, but {sources.depth} is "
                f"{xyz.shape[1]} x {xyz.shape[0]} px; register colour to depth first"
            )
    if not xyz.any():
        raise InputError(f"{sources.depth or sources.colour}: no reading at all; leave it out")
    return Scan(rgb, xyz, _defect(sources, kind, xyz), name, kind, sources.depth or sources.colour)


def _defect(sources: Sources, kind: str, xyz: Float32[np.ndarray, "H W 3"]) -> np.ndarray:
    if kind in ("good", UNLABELLED):
        return np.zeros(xyz.shape[:2], bool)
    if sources.mask is None:
        raise InputError(
            f"{sources.colour}: a scan of kind {kind!r} needs a mask {sources.stem}_mask.png that "
            f"marks its defect; draw one, or import it as --kind {UNLABELLED}"
        )
    defect = read_gt(sources.mask)
    if defect.shape != xyz.shape[:2] or not defect.any():
        raise InputError(
            f"{sources.mask}: marks {np.count_nonzero(defect)} pixels of {defect.shape[1]} x "
            f"{defect.shape[0]}, wanted some of {xyz.shape[1]} x {xyz.shape[0]}; draw it again"
        )
    return defect


def _read_colour(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from error
