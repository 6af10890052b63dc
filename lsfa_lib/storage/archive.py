"""Unpacks untrusted archives: nothing leaves the folder, and the disk is not filled."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from lsfa_lib.storage.files import InputError, progress, unwritable


def unpack(archive: Path, folder: Path, most_bytes: int) -> list[Path]:
    """Unpacks a tar archive (any compression) into `folder`; returns the new entries by name.

    Absolute paths, `..`, links that lead outside and devices are refused (tarfile's data filter).
    So is an archive whose files exceed `most_bytes` or the free disk space. A refused archive
    leaves `folder` unchanged. Raises InputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as name:
            inside = Path(name)
            _unpack(archive, inside, min(most_bytes, shutil.disk_usage(folder).free))
            found = sorted(inside.iterdir())
            require_absent(folder / path.name for path in found)
            return [path.rename(folder / path.name) for path in found]
    except InputError:  # A ValueError too.
        raise
    except tarfile.FilterError as error:
        raise InputError(
            f"{archive}: refused, nothing was unpacked ({error}); get it from its publisher"
        ) from error
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise InputError(
            f"{archive}: cannot be unpacked, it is damaged or truncated; download it again"
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error


def require_absent(paths: Iterable[Path]) -> None:
    """Raises InputError if one of the paths exists."""
    for path in paths:
        if path.exists():
            raise InputError(f"{path} already exists; move it away, or choose another folder")


def _unpack(archive: Path, folder: Path, most_bytes: int) -> None:
    """Extracts member by member, so that each announced size is checked before it is written."""
    sum_bytes = 0
    try:
        opened = tarfile.open(archive)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise InputError(f"{archive}: cannot be read ({error.strerror or error})") from error
    with opened as tar:
        for member in progress(tar, archive.name):
            if PurePosixPath(member.name).is_absolute():  # The filter would only strip the slash.
                raise tarfile.AbsolutePathError(member)
            sum_bytes += member.size
            if sum_bytes > most_bytes:
                raise InputError(
                    f"{archive}: its files exceed {most_bytes / 1e9:.1f} GB, more than this data "
                    "set has or the disk has free; nothing was unpacked"
                )
            tar.extract(member, folder, filter="data")
