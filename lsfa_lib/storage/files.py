"""Files written completely or not at all, locks, errors a user can act on, and the progress bar."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar
from uuid import uuid4

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

T = TypeVar("T")
CHECKOUT = Path(__file__).parents[2]
Listener = Callable[[str, int, int], None]
"""Called with a label, the number of items done and the total; (stage, 0, 0) begins a stage."""
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


class InputError(ValueError):
    """The user's input cannot be used: one sentence that names the file and the way out."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The closest of the known names, for error sentences."""
    return get_close_matches(str(name), list(known), n=1, cutoff=0.0)[0]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`: renamed to it if the block succeeds, else removed.

    Raises InputError if the folder cannot be written or the disk is full.
    """
    # The suffix stays last because image writers choose their format by it.
    temporary = path.with_name(f".partial-{uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def require_writable(path: Path) -> None:
    """Raises InputError if `path` cannot be written: for the start of work that ends there."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent) as probe:
            probe.write(bytes(4096))  # a full disk still creates empty files
            probe.flush()
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> Exception:
    """The InputError that says why `path` could not be written; any other OSError unchanged."""
    if error.errno == errno.ENOSPC:
        return InputError(f"{path}: the disk is full; free some space or choose another folder")
    if error.errno in (errno.EDQUOT, errno.EFBIG):
        return InputError(
            f"{path}: exceeds what may be written here ({os.strerror(error.errno)}); raise the "
            "quota or the limit, or choose another folder"
        )
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"{path}: the name is too long for the file system; choose a shorter one")
    if error.errno == errno.EISDIR:
        return InputError(f"{path}: is a folder; name a file in it")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return InputError(
            f"{path}: cannot be written ({os.strerror(error.errno)}); choose a writable folder"
        )
    return error


def require_room(folder: Path, needed: int) -> None:
    """Raises InputError if the disk of `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: {free / 1e9:.1f} GB are free, {needed / 1e9:.1f} GB are needed; free some "
            "space or choose another folder"
        )


@contextmanager
def locked(folder: Path, wait: bool = True, name: str = ".lock") -> Iterator[None]:
    """Holds the lock file `name` of `folder`; the lock of a process that dies is released.

    Raises BlockingIOError if the lock is taken and `wait` is False.
    """
    lock = FileLock(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except Timeout as error:
        raise BlockingIOError(f"{folder / name} is taken") from error
    except OSError as error:
        # Some network file systems have no locks; files are written atomically in any case.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise unwritable(folder / name, error) from error
    try:
        yield
    finally:
        lock.release()


def located(path: Path) -> Path:
    """`path` if it exists, else the same path in the checkout if that exists, else `path`.

    Jupyter starts kernels in notebooks/, so data/demo is one folder up. A path that exists in
    neither place belongs where its first folder exists.
    """
    if path.is_absolute():
        return path
    for part in (path, Path(*path.parts[:1])):
        for place in (Path(), CHECKOUT):
            if (place / part).exists():
                return place / path
    return path


@contextmanager
def progress_reported_to(listener: Listener) -> Iterator[None]:
    """Inside, progress is reported to the listener too, and no bar is drawn."""
    before = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(before)


def report_progress(label: str, done: int = 0, total: int = 0) -> None:
    """Reports a stage that begins, or how far it is, to whoever listens."""
    for listener in _LISTENERS.get():
        listener(label, done, total)


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
    """`items`, with a progress bar once it has taken a second."""
    if _LISTENERS.get():
        return _reported(items, label, total)
    # Into a log file a line every ten seconds will do.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        items, label, total, delay=1.0, mininterval=interval, leave=False, dynamic_ncols=True
    )


def _reported(items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    count = len(items) if total is None and isinstance(items, Sized) else total or 0
    for done, item in enumerate(items):
        report_progress(label, done, count)
        yield item
    report_progress(label, count, count)
