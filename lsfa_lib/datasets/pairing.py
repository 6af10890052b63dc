"""The files of a folder, paired by name into scans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lsfa_lib.datasets.entry import Entry, seen, visible
from lsfa_lib.datasets.names import SUFFIXES, WORDS, key, role_of, stated_role

ByRole = dict[str, dict[str, tuple[str, Path]]]
"""Role -> key of a scan -> its stem and its file of this role."""


def pair_files(source: Path, prefix: str, kind: str, colour: bool = True) -> list[Entry | str]:
    """The complete scans in a folder, and a sentence for each problem with any other.

    Without `colour`, depth images and clouds are complete alone; colour images are left out.
    """
    by_role, problems = files_by_role(source)
    colours, depths, masks, clouds = (by_role[r] for r in ("colour", "depth", "mask", "cloud"))
    problems += _unpaired(source, by_role, colour)
    complete = {n: own for n, own in depths.items() if n in colours or not colour} | clouds
    return [
        *problems,
        *(
            Entry(
                f"{prefix}{stem}",
                kind,
                colours.get(n, (stem, xyz))[1] if colour else None,
                xyz,
                masks.get(n, ("", None))[1],
            )
            for n, (stem, xyz) in sorted(complete.items())
            if n not in depths.keys() & clouds.keys()
        ),
    ]


def _unpaired(source: Path, by_role: ByRole, colour: bool) -> Iterator[str]:
    """A sentence for each file without its partner, and for each second one."""
    colours, depths, clouds = (by_role[role] for role in ("colour", "depth", "cloud"))
    for name, (stem, depth) in depths.items():
        if colour and name not in colours:
            yield (
                f"{depth}: no colour image {stem}.png next to it; give both the same stem, or "
                f"import depth alone with --depth-only{seen(source)}"
            )
        elif name in clouds:
            yield f"{depth}: there is a cloud {stem} too; keep one of them"
        elif colour and depth.suffix.lower() == ".raw":
            yield (
                f"{depth}: depths of a viewer's snapshot, which are not aligned to its colour "
                "image; align them in the camera's software, or import depth with --depth-only"
            )
    for name, (stem, path) in colours.items():
        if colour and name not in clouds | depths:
            yield (
                f"{path}: no depth image {stem}_depth.png or cloud next to it; give both the same "
                f"stem, or import images alone with --images-only{seen(source)}"
            )


def files_by_role(source: Path) -> tuple[ByRole, list[str]]:
    """For each role (stem, file) by the key of the scan; a sentence for each second one."""
    found: ByRole = {role: {} for role in SUFFIXES}
    problems = []
    folders = _folders(source)
    files = [p for folder in (source, *folders) for p in visible(folder) if p.is_file()]
    stated = [stated_role(path, source) for path in files]
    known = {key(stem) for role, stem in stated if role}
    for path in files:
        role, stem = role_of(path, source, known)
        if path.suffix.lower() not in SUFFIXES[role]:
            continue
        other = found[role].get(key(stem))
        if other and role == "depth" and path.suffix.lower() == ".raw":
            del found[role][key(stem)]  # the viewer's coloured picture of these depths
        elif other:
            problems.append(f"{path}: {other[1].name} is the same scan's {role}; keep one")
        found[role].setdefault(key(stem), (stem, path))
    return found, problems


def _folders(source: Path) -> list[Path]:
    """The folders of a role, such as rgb and depth."""
    return [p for p in visible(source) if p.is_dir() and p.name.casefold() in WORDS]


def unread(source: Path) -> list[Path]:
    """Entries of a source folder that no import reads: other folders, and broken links."""
    folders = _folders(source)
    places = [path for folder in (source, *folders) for path in visible(folder)]
    return [path for path in places if not path.is_file() and path not in folders]
