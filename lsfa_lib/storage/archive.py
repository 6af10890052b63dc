"""Archives from strangers, unpacked so that nothing leaves the folder and no disk is filled."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from lsfa_lib.storage.files import InputError, progress, unwritable


class _Member(tarfile.TarInfo):
    """A member of an archive that ends where it should: tarfile takes any nonsense for the end."""

    @classmethod
    def fromtarfile(cls, tar: Any) -> Any:
        """The next member; raises ReadError where there is neither one nor the end's mark."""
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # The right one; typeshed lacks it.
                raise
            raise tarfile.ReadError(f"no end of archive: {error}") from error


def unpack(archive: Path, folder: Path, most_bytes: int) -> list[Path]:
    """Unpacks a tar archive (of any compression) into `folder`; what stands there now, by name.

    Absolute paths, `..`, links that lead out and devices are refused (tarfile's data filter), and
    so is an archive whose files come to more than `most_bytes` or than the disk has room for. A
    refused archive leaves `folder` as it was. Raises InputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as name:
            inside = Path(name)
            _unpack(archive, inside, min(most_bytes, shutil.disk_usage(folder).free))
            found = sorted(inside.iterdir())
            taken = [folder / path.name for path in found if (folder / path.name).exists()]
            if taken:
                raise InputError(
                    f"{taken[0]} is there already; move it away, or choose another folder"
                )
            return [path.rename(folder / path.name) for path in found]
    except InputError:  # A ValueError too.
        raise
    except tarfile.FilterError as error:
        raise InputError(
            f"{archive}: refused, nothing was unpacked ({error}); get it from its publisher"
        ) from error
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise InputError(
            f"{archive}: cannot be unpacked, it is damaged or cut short; download it again"
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error


def _unpack(archive: Path, folder: Path, most_bytes: int) -> None:
    """Member by member, so that what is announced is known before it is written."""
    sum_bytes = 0
    with tarfile.open(archive, "r|*", tarinfo=_Member) as tar:
        for member in progress(tar, archive.name):
            if PurePosixPath(member.name).is_absolute():  # The filter would take the slash off.
                raise tarfile.AbsolutePathError(member)
            sum_bytes += member.size
            if sum_bytes > most_bytes:
                raise InputError(
                    f"{archive}: its files come to more than {most_bytes / 1e9:.1f} GB, which this "
                    "data set has not or the disk has no room for; nothing was unpacked"
                )
            tar.extract(member, folder, filter="data")
