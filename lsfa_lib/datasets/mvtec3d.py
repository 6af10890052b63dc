"""MVTec 3D-AD on disk: `<category>/<split>/<good|defect>/{rgb,xyz,gt}/<stem>.{png,tiff,png}`.

Nothing here changes a file. Defect folders are found, never listed in code, and the three files of
a scan are paired by their stem. `tree_check.check_tree` reads a whole tree and reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
import tifffile
from jaxtyping import Bool, Float32, Shaped, UInt8
from PIL import Image

from lsfa_lib.files import InputError, write_whole
from lsfa_lib.records import Scan

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
SUFFIXES = {"rgb": (".png",), "xyz": (".tiff", ".tif"), "gt": (".png",)}


@dataclass(frozen=True)
class Entry:
    """One scan by its files, no pixel read yet."""

    name: str
    """`<category>/<split>/<kind>/<stem>`."""
    kind: str
    rgb: Path
    xyz: Path
    gt: Path | None
    """None where a `good` folder has no gt folder: no pixel is defective."""


@dataclass(frozen=True)
class Split:
    """The scans of one split, sorted by (kind, stem), each read from disk when it is asked for.

    A real category holds hundreds of frames of 10 MB; one is in memory at a time.
    """

    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Scan]:
        return map(read_scan, self.entries)

    @overload
    def __getitem__(self, index: int) -> Scan: ...
    @overload
    def __getitem__(self, index: slice) -> Split: ...
    def __getitem__(self, index: int | slice) -> Scan | Split:
        if isinstance(index, slice):
            return Split(self.entries[index])
        return read_scan(self.entries[index])


def categories(root: Path) -> list[str]:
    """Names of the categories in `root`: its folders that hold a `train` or a `test` folder."""
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; give the folder that holds the categories"
            + _those_there(root.parent, "its parent holds")
        )
    found = sorted(
        folder.name
        for folder in root.iterdir()
        if (folder / "train").is_dir() or (folder / "test").is_dir()
    )
    if not found:
        raise InputError(
            f"{root}: no category in here (a folder with `train` and `test` in it); "
            f"give the folder that holds the categories" + _those_there(root, "this one holds")
        )
    return found


def read_split(root: Path, category: str, split: SplitName) -> Split:
    """The scans of one split, read one by one; order and errors as in `entries`."""
    return Split(tuple(entries(root, category, split)))


def entries(root: Path, category: str, split: SplitName) -> list[Entry]:
    """Names and files of one split sorted by (kind, stem), `good` in its alphabetical place.

    Raises InputError for an unknown category, an empty split and a scan without all its files.
    """
    there = categories(root)
    if category not in there:
        raise InputError(
            f"{root / category}: no such category; {root} holds {', '.join(there)}: choose one"
        )
    found, problems = pair_files(root, category, split)
    if problems:
        more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    return found


def pair_files(root: Path, category: str, split: SplitName) -> tuple[list[Entry], list[str]]:
    """Complete entries of a split, and a sentence for each thing that keeps others from being so.

    Files are paired by stem, so that one lost file cannot shift all that sort behind it.
    """
    folder = root / category / split
    found: list[Entry] = []
    problems: list[str] = []
    for kind in sorted(path.name for path in _visible(folder) if path.is_dir()):
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
    """The scan of `entry`. Raises InputError where a file is broken or not of the published form.

    Ground truth is True where the file is not 0: the values 253, 254 and 255 all occur.
    """
    rgb = _read_rgb(entry.rgb)
    xyz = _read_xyz(entry.xyz)
    defect = np.zeros(rgb.shape[:2], bool) if entry.gt is None else _read_gt(entry.gt)
    for path, array in ((entry.rgb, rgb), (entry.gt, defect)):
        if array.shape[:2] != xyz.shape[:2]:
            raise InputError(
                f"{path}: {_size(array)} px, but {entry.xyz} is {_size(xyz)} px; "
                f"restore the original, the files of a scan have one size"
            )
    return Scan(rgb, xyz, defect, entry.name, entry.kind, entry.xyz)


def write_scan(root: Path, scan: Scan, gt: UInt8[np.ndarray, "H W"] | None = None) -> None:
    """Write `scan` where its name says under `root`, so that `read_scan` gives it back bit by bit.

    `gt` replaces the ground truth's default, 255 where `scan.defect`.
    """
    category_split_kind, stem = scan.name.rsplit("/", 1)
    folder = root / category_split_kind
    if gt is None:
        gt = scan.defect.astype(np.uint8) * 255
    # The xyz file comes last: a scan with one was written whole.
    for name, image in (("rgb", scan.rgb), ("gt", gt)):
        with write_whole(folder / name / f"{stem}.png") as path:
            Image.fromarray(image).save(path, compress_level=1)
    with write_whole(folder / "xyz" / f"{stem}.tiff") as path:
        tifffile.imwrite(path, scan.xyz, photometric="rgb", metadata=None, software=False)


def _pair_kind(folder: Path, prefix: str) -> tuple[list[Entry], list[str]]:
    """Complete scans of one kind, named `<prefix>/<stem>`; a sentence for each other stem."""
    files: dict[str, dict[str, Path]] = {}
    problems: list[str] = []
    for role, suffixes in SUFFIXES.items():
        files[role] = {}
        for path in _visible(folder / role):
            if path.suffix.lower() not in suffixes:
                continue
            if path.stem in files[role]:
                problems.append(
                    f"{path}: {files[role][path.stem].name} has this stem too; keep one"
                )
            files[role][path.stem] = path
    gt_needed = folder.name != "good" or (folder / "gt").is_dir()
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


def _visible(folder: Path) -> list[Path]:
    """What `folder` holds, sorted, without hidden files; nothing where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _those_there(folder: Path, lead: str) -> str:
    names = [path.name for path in _visible(folder) if path.is_dir()][:12]
    return f"; {lead} {', '.join(names)}" if names else ""


def _size(array: Shaped[np.ndarray, "H W *channels"]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file; it was moved or removed, restore it")
    if path.is_file() and path.stat().st_size == 0:
        return InputError(f"{path}: the file is empty; restore the original")
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return InputError(
        f"{path}: cannot be decoded ({reason}), it may be cut short; restore the original"
    )


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
        raise _unreadable(path, error) from error
    raise InputError(f"{path}: a picture in {seen}, {wanted} is wanted; convert it")


def _read_rgb(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    return _read_png(path, ("RGB",), "RGB with 8 bits a channel")


def _read_gt(path: Path) -> Bool[np.ndarray, "H W"]:
    return _read_png(path, ("L", "1"), "L (grey) with 8 bits") > 0


def _read_xyz(path: Path) -> Float32[np.ndarray, "H W 3"]:
    try:
        xyz = tifffile.imread(path)
    except Exception as error:  # a damaged header makes tifffile raise nearly anything
        raise _unreadable(path, error) from error
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
