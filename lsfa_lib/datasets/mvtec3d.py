"""MVTec 3D-AD on disk: `<category>/<split>/<good|defect>/{rgb,xyz,gt}/<stem>.{png,tiff,png}`.

Defect folders are found, never listed in code, and the three files of a scan are paired by their
stem. `layouts` reads it and other layouts, `tree_check.check_tree` a whole tree and reports.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Bool, Float32, Shaped, UInt8
from PIL import Image

from lsfa_lib.datasets.entry import SPLITS, Entry, SplitName, require_one_size, unreadable, visible
from lsfa_lib.records import UNLABELLED, Scan
from lsfa_lib.storage.files import InputError, atomic_write

SUFFIXES = {"rgb": (".png",), "xyz": (".tiff", ".tif"), "gt": (".png",)}


def pair_files(root: Path, category: str, split: SplitName) -> tuple[list[Entry], list[str]]:
    """As `layouts.pair_files`."""
    folder = root / category / split
    found: list[Entry] = []
    problems: list[str] = []
    for kind in sorted(path.name for path in visible(folder) if path.is_dir()):
        if split != "test" and kind != "good":
            problems.append(
                f"{folder / kind}: {split} may hold only `good` scans; move this folder to test"
            )
            continue
        complete, unpaired = _pair_kind(folder / kind, f"{category}/{split}/{kind}")
        found += complete
        problems += unpaired
    if not found and not problems:
        problems.append(
            f"{folder}: no scans in here; give it at least one, as good/rgb/000.png and "
            f"good/xyz/000.tiff"
        )
    return found, problems


def read_scan(entry: Entry) -> Scan:
    """As `layouts.read_scan`."""
    rgb = read_rgb(entry.rgb)
    xyz = _read_xyz(entry.xyz)
    defect = np.zeros(rgb.shape[:2], bool) if entry.gt is None else read_gt(entry.gt)
    require_one_size(entry.xyz, xyz, entry.rgb, rgb)
    require_one_size(entry.xyz, xyz, entry.gt, defect)
    return Scan(rgb, xyz, defect, entry.name, entry.kind, entry.xyz)


def xyz_file(root: Path, name: str) -> Path:
    """The points of the scan called `name`."""
    folder, stem = name.rsplit("/", 1)
    return root / folder / "xyz" / f"{stem}.tiff"


def write_scan(root: Path, scan: Scan, gt: UInt8[np.ndarray, "H W"] | None = None) -> None:
    """Writes `scan` where its name says under `root`, so that it is read back bit by bit.

    `gt` replaces the default ground truth, 255 where `scan.defect`; unlabelled scans have none.
    """
    xyz = xyz_file(root, scan.name)
    images = {"rgb": scan.rgb}
    if scan.kind != UNLABELLED:
        images["gt"] = scan.defect.astype(np.uint8) * 255 if gt is None else gt
    for role, image in images.items():
        with atomic_write(xyz.parents[1] / role / f"{xyz.stem}.png") as path:
            Image.fromarray(image).save(path, compress_level=1)
    # The points are written last: a scan that has them is complete.
    with atomic_write(xyz) as path:
        tifffile.imwrite(path, scan.xyz, photometric="rgb", metadata=None, software=False)


def _pair_kind(folder: Path, prefix: str) -> tuple[list[Entry], list[str]]:
    """Complete scans of one kind, named `<prefix>/<stem>`; a sentence for each other stem."""
    files: dict[str, dict[str, Path]] = {}
    problems: list[str] = []
    for role, suffixes in SUFFIXES.items():
        files[role] = {}
        for path in visible(folder / role):
            if path.suffix.lower() not in suffixes:
                continue
            if path.stem in files[role]:
                problems.append(
                    f"{path}: {files[role][path.stem].name} has this stem too; keep one"
                )
            files[role][path.stem] = path
    gt_needed = folder.name not in ("good", UNLABELLED) or (folder / "gt").is_dir()
    found = []
    for stem in sorted(set().union(*files.values())):
        missing = [
            folder / role / f"{stem}{SUFFIXES[role][0]}"
            for role in files
            if stem not in files[role] and (role != "gt" or gt_needed)
        ]
        if missing:
            lone = next(files[role][stem] for role in files if stem in files[role])
            problems.append(
                f"{lone}: its partner {' and '.join(map(str, missing))} is missing; "
                f"restore it, or remove the scan's other files"
            )
        else:
            rgb, xyz = files["rgb"][stem], files["xyz"][stem]
            gt = files["gt"].get(stem)
            found.append(Entry(f"{prefix}/{stem}", folder.name, rgb, xyz, gt))
    return found, problems


def _read_png(
    path: Path, modes: tuple[str, ...], wanted: str
) -> Shaped[np.ndarray, "H W *channels"]:
    try:
        with Image.open(path) as image:
            # Pillow reads 16-bit colour as 8-bit without a word; the header (byte 24) tells.
            depth = path.read_bytes()[24] if image.format == "PNG" else 8
            if image.mode in modes and depth <= 8:
                return np.array(image)
            seen = f"{image.mode} with {depth} bits a channel"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from error
    raise InputError(f"{path}: a picture in {seen}, {wanted} is wanted; convert it")


def read_rgb(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """An RGB picture of 8 bits a channel. Raises InputError for any other."""
    return _read_png(path, ("RGB",), "RGB with 8 bits a channel")


def read_gt(path: Path) -> Bool[np.ndarray, "H W"]:
    """True where a grey picture is not 0. Raises InputError for any other."""
    return _read_png(path, ("L", "1"), "L (grey) with 8 bits") > 0


def _read_xyz(path: Path) -> Float32[np.ndarray, "H W 3"]:
    try:
        xyz = tifffile.imread(path)
    except Exception as error:  # a damaged header makes tifffile raise nearly anything
        raise unreadable(path, error) from error
    xyz = xyz.astype(xyz.dtype.newbyteorder("="), copy=False)
    if xyz.ndim != 3 or xyz.shape[2] != 3 or xyz.dtype != np.float32:
        raise InputError(
            f"{path}: holds {xyz.dtype} {xyz.shape}, float32 (height, width, 3) is wanted; "
            f"write x, y, z in metres as three 32-bit channels"
        )
    if not np.isfinite(xyz).all():
        bad = int((~np.isfinite(xyz)).any(axis=2).sum())
        raise InputError(
            f"{path}: {bad} pixels have NaN or infinite coordinates; "
            f"write (0, 0, 0) where there is no reading"
        )
    if not xyz.any():
        raise InputError(f"{path}: every coordinate is 0, no reading at all; leave this scan out")
    return xyz


def odd_files(category: Path) -> list[Path]:
    """Files below the splits of a category that are not a scan's rgb, xyz or gt."""
    return [
        path
        for split in SPLITS
        for path in sorted((category / split).rglob("*"))
        if path.is_file()
        and not (
            len(path.relative_to(category).parts) == 4
            and path.suffix.lower() in SUFFIXES.get(path.parent.name, ())
            and not path.name.startswith(".")
        )
    ]
