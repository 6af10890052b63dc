"""MVTec 3D-AD on disk: `<category>/<split>/<good|defect>/{rgb,xyz,gt}/<stem>.{png,tiff,png}`.

Defect folders are found, never listed in code, and the three files of a scan are paired by their
stem. A category without any folder `xyz` holds images without 3D, PNG or JPEG; one without any
folder `rgb` holds points without colour. `layouts` reads this and other layouts,
`tree_check.check_tree` checks a complete tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8
from PIL import Image

from lsfa_lib.datasets.entry import SPLITS, Entry, SplitName, missing_partners, no_scans, visible
from lsfa_lib.datasets.image_files import read_any
from lsfa_lib.records import UNLABELLED, Points, Scan
from lsfa_lib.storage.files import InputError, atomic_write

FOLDERS = SPLITS
SUFFIXES = {
    "rgb": (".png", ".jpg", ".jpeg", ".bmp"),
    "xyz": (".tiff", ".tif"),
    "gt": (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg"),
}
FOLDERS_OF = {"rgb": ("rgb",), "xyz": ("xyz",), "gt": ("gt", "ground_truth", "mask", "masks")}
"""Names of the folder of each role; the first that exists is read."""
MISSPELT = {"good": ("good", "ok"), UNLABELLED: ("unlabelled", "unlabeled")}
"""Other spellings, which would be taken for the name of a defect."""


def pair_files(root: Path, category: str, split: SplitName) -> list[Entry | str]:
    """The complete scans of a split, and a sentence for each problem with any other."""
    folder = root / category / split
    kinds = [path for path in visible(folder) if path.is_dir()]
    example = "good/rgb/000.png and good/xyz/000.tiff"
    return [item for kind in kinds for item in _pair_kind(kind)] or [no_scans(folder, example)]


def _pair_kind(folder: Path) -> Iterator[Entry | str]:
    """As `pair_files`, for the scans of `<category>/<split>/<kind>`."""
    split = folder.parent.name
    for name, spellings in MISSPELT.items():
        if folder.name != name and folder.name.casefold() in spellings:
            yield f"{folder}: rename it to {name}, the name in this layout"
            return
    if split != "test" and folder.name != "good":
        yield f"{folder}: {split} may hold only `good` scans; move this folder to test"
        return
    there = [role for role in ("rgb", "xyz") if any(folder.parents[1].glob(f"*/*/{role}"))]
    roles = there or ["rgb"]
    if folder.name not in ("good", UNLABELLED) or _place(folder, "gt").is_dir():
        roles.append("gt")
    yield from pair_folder(folder, roles, "/".join(folder.parts[-3:]) + "/", folder.name)


def pair_folder(folder: Path, roles: list[str], prefix: str, kind: str) -> Iterator[Entry | str]:
    """As `pair_files`, for the scans in the folders rgb, xyz and gt of a folder.

    Each needs a file for each of the roles; names begin with the prefix.
    """
    scans: dict[str, dict[str, Path]] = {}
    places = {role: _place(folder, role) for role in SUFFIXES}
    for role, suffixes in SUFFIXES.items():
        for path in visible(places[role]):
            if path.suffix.lower() in suffixes:
                files = scans.setdefault(path.stem, {})
                if role in files:
                    yield f"{path}: {files[role].name} has this stem too; keep one"
                files[role] = path
    for stem, files in sorted(scans.items()):
        expected = {role: places[role] / f"{stem}{SUFFIXES[role][0]}" for role in roles}
        if problem := missing_partners(files, expected):
            yield problem
        else:
            yield Entry(prefix + stem, kind, files.get("rgb"), files.get("xyz"), files.get("gt"))


def _place(folder: Path, role: str) -> Path:
    found = (folder / name for name in FOLDERS_OF[role])
    return next((path for path in found if path.is_dir()), folder / role)


def read_points(path: Path) -> Points:
    """Points in metres, (0, 0, 0) without a reading, which z < 0 is too.

    Raises InputError for any other file.
    """
    xyz = read_any(path)
    if xyz.ndim != 3 or xyz.shape[2] != 3 or xyz.dtype != np.float32:
        raise InputError(
            f"{path}: holds {xyz.dtype} {xyz.shape}, expected float32 (height, width, 3); "
            f"write x, y, z in metres as three 32-bit channels"
        )
    if not np.isfinite(xyz).all():
        bad = int((~np.isfinite(xyz)).any(axis=2).sum())
        raise InputError(
            f"{path}: {bad} pixels have NaN or infinite coordinates; "
            f"write (0, 0, 0) where there is no reading"
        )
    if behind := (xyz[..., 2] < 0).any():
        xyz = np.where(xyz[..., 2:] < 0, np.float32(0), xyz)
    if not xyz.any():
        raise InputError(
            f"{path}: every {'z is below 0' if behind else 'coordinate is 0'}, no reading at all; "
            "leave this scan out"
        )
    return xyz


def xyz_file(root: Path, name: str) -> Path:
    """The points of the scan called `name`."""
    return scan_file(root, name, "xyz")


def scan_file(root: Path, name: str, role: str) -> Path:
    """Path that the file of this role (rgb, xyz, gt) of the scan called `name` is written to."""
    folder, stem = name.rsplit("/", 1)
    return _place(root / folder, role) / f"{stem}{SUFFIXES[role][0]}"


def write_scan(root: Path, scan: Scan, gt: UInt8[np.ndarray, "H W"] | None = None) -> None:
    """Writes `scan` to the path in its name under `root`; reading it returns identical arrays.

    `gt` replaces the default ground truth, 255 where `scan.defect`. Unlabelled scans get none. A
    good scan gets none in a folder whose other scans have none.
    """
    images: dict[str, UInt8[np.ndarray, "H W *channels"]] = {}
    there = scan_file(root, scan.name, "xyz" if "3d" in scan.modalities else "rgb").parent
    bare = scan.kind == "good" and any(visible(there))
    if scan.kind != UNLABELLED and not (bare and not _place(there.parent, "gt").is_dir()):
        images["gt"] = scan.defect.astype(np.uint8) * 255 if gt is None else gt
    if "rgb" in scan.modalities:
        images["rgb"] = scan.rgb
    for role, image in images.items():
        with atomic_write(scan_file(root, scan.name, role)) as path:
            Image.fromarray(image).save(path, compress_level=1)
    if "3d" not in scan.modalities:
        return
    # The points are written last: a scan that has them is complete.
    with atomic_write(scan_file(root, scan.name, "xyz")) as path:
        tifffile.imwrite(path, scan.xyz, photometric="rgb", metadata=None, software=False)


def is_scan_file(path: Path, category: Path) -> bool:
    """Whether a file of a category is the rgb, xyz or gt file of a scan."""
    return (
        len(path.relative_to(category).parts) == 4
        and any(
            path.parent.name in names and path.suffix.lower() in SUFFIXES[role]
            for role, names in FOLDERS_OF.items()
        )
        and not path.name.startswith(".")
    )
