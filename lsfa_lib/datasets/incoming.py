"""New scans without labels, in any layout that can be imported, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lsfa_lib.datasets import eyecandies, mvtec3d
from lsfa_lib.datasets.entry import Entry, visible
from lsfa_lib.datasets.layouts import read_scan
from lsfa_lib.datasets.names import SUFFIXES, WORDS, role_of
from lsfa_lib.datasets.own_camera import Intrinsics
from lsfa_lib.datasets.own_scan import read_own
from lsfa_lib.datasets.pairing import pair_files
from lsfa_lib.records import UNLABELLED, Scan
from lsfa_lib.storage.files import InputError

ROLES = {*mvtec3d.SUFFIXES, *WORDS, "data"}
"""Folders that hold files of the scans of the folder they lie in."""
EXPECTED = (
    "folders rgb and xyz, NAME.png with NAME_depth.png, organised NAME.pcd or NAME.ply, or files "
    "of Eyecandies"
)


@dataclass(frozen=True)
class Incoming:
    """The scans found, and what is wrong with other files."""

    entries: list[Entry]
    """Named by folder and stem below what was given."""
    problems: dict[str, str]
    """Name -> sentence: scans that lack a file, and files that cannot belong to a scan."""


def find_incoming(
    paths: Sequence[Path], captured: Sequence[str], light: int, skip: Path | None = None
) -> Incoming:
    """The scans in folders (and folders below them) and of single files, sorted by name.

    Captured are the modalities of the training scans: without 3D, images alone are scans, and
    without colour, points alone. `light` selects one of the images of Eyecandies; the folder `skip`
    is not looked into. Raises InputError for a path that does not exist.
    """
    entries: dict[str, Entry] = {}
    problems: dict[str, str] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give scans or the folder of scans")
        for item in _scans_of(path, captured, light, skip and skip.resolve()):
            if isinstance(item, str):
                problems[item.partition(": ")[0]] = item  # a problem begins with its file
            elif (other := entries.get(item.name)) and other.files != item.files:
                problems[str(item.files[-1])] = (
                    f"{item.files[-1]}: {other.files[-1]} is called {item.name} too; rename one, "
                    "or predict them into different folders"
                )
            else:
                entries[item.name] = item
    return Incoming(sorted(entries.values(), key=lambda entry: entry.name), problems)


def require_scans(found: Incoming, paths: Sequence[Path]) -> None:
    """Raises InputError if nothing was found at all."""
    if not found.entries and not found.problems:
        raise InputError(f"{', '.join(map(str, paths))}: no scans in here; expected {EXPECTED}")


def require_camera(found: Incoming, camera: Intrinsics | None) -> None:
    """Raises InputError if there are depth images but no intrinsics."""
    clouds = SUFFIXES["cloud"]
    own = [e.xyz for e in found.entries if e.xyz and _is_own(e)]
    depths = [path for path in own if path.suffix.lower() not in clouds]
    if depths and camera is None:
        raise InputError(
            f"{depths[0]}: depth images need the camera's intrinsics; pass the camera file "
            "with --intrinsics (JSON, YAML, XML or text with fx, fy, cx, cy in pixels)"
        )


def read_incoming(entry: Entry, camera: Intrinsics | None, unit_m: float = 0.0) -> Scan:
    """The scan of an entry, by the reader of its layout. Raises InputError."""
    return read_own(entry, camera, unit_m) if _is_own(entry) else read_scan(entry)


def _is_own(entry: Entry) -> bool:
    """Whether it is an organised cloud, or a colour and a depth image of one's own camera."""
    return entry.xyz is not None and not entry.depth_bounds and entry.xyz.parent.name != "xyz"


def _scans_of(
    path: Path, captured: Sequence[str], light: int, skip: Path | None
) -> Iterator[Entry | str]:
    if path.is_dir():
        for folder in _folders(path, skip):
            relative = folder.relative_to(path).as_posix()
            prefix = "" if relative == "." else f"{relative}/"
            yield from _scans_in(folder, prefix, captured, light)
        return
    if path.suffix.lower() in SUFFIXES["cloud"] and "3d" in captured:
        yield Entry(path.stem, UNLABELLED, path if "rgb" in captured else None, path, None)
        return
    folder = path.parent.parent if path.parent.name in ROLES else path.parent
    items = [i for f in (folder, path.parent) for i in _scans_in(f, "", captured, light)]
    own = [item for item in items if isinstance(item, Entry) and path in item.files]
    said = [item for item in items if isinstance(item, str) and path.stem in item]
    yield from own[:1] or said[:1] or [f"{path}: not a file of a scan; expected {EXPECTED}"]


def _folders(path: Path, skip: Path | None) -> Iterator[Path]:
    """The folder and those below it that may hold scans."""
    if path.resolve() == skip:
        return
    yield path
    for folder in visible(path):
        # A folder of defects may be called like a role, but then it has folders in it.
        if folder.is_dir() and (folder.name not in ROLES or any(map(Path.is_dir, visible(folder)))):
            yield from _folders(folder, skip)


def _scans_in(
    folder: Path, prefix: str, captured: Sequence[str], light: int
) -> Iterator[Entry | str]:
    """The scans whose files lie in the folder or in its folders of roles."""
    depth, colour = "3d" in captured, "rgb" in captured
    for place in (folder, folder / "data"):
        if items := eyecandies.items_of(place):
            found = eyecandies.pair_unlabelled(place, light, prefix)
            images = (item.get(f"image_{light}") for item in items.values())
            yield from found if depth else _images([i for i in images if i], prefix)
            return
    if not depth:
        place = folder / "rgb" if (folder / "rgb").is_dir() else folder
        yield from _images(visible(place), prefix)
    elif (folder / ("rgb" if colour else "xyz")).is_dir() and not (folder / "depth").is_dir():
        roles = ["rgb", "xyz"] if colour else ["xyz"]
        yield from map(_unlabelled, mvtec3d.pair_folder(folder, roles, prefix, UNLABELLED))
    else:
        yield from map(_unlabelled, pair_files(folder, prefix, UNLABELLED, colour))


def _unlabelled(item: Entry | str) -> Entry | str:
    """Without the mask that may lie next to a scan."""
    return item if isinstance(item, str) else replace(item, gt=None)


def _images(paths: Sequence[Path], prefix: str) -> Iterator[Entry | str]:
    """Images alone, for a detector trained without 3D; depth images and masks are none."""
    known: dict[str, Path] = {}
    for path in paths:
        role, stem = role_of(path, path.parent)
        if path.suffix.lower() not in mvtec3d.SUFFIXES["rgb"] or role != "colour":
            continue
        if stem in known:
            yield f"{path}: {known[stem].name} has this stem too; keep one"
        else:
            known[stem] = path
            yield Entry(f"{prefix}{stem}", UNLABELLED, path, None, None)
