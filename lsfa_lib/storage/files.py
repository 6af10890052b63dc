"""Files written whole or not at all, errors a user can act on, and the one progress bar."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
CHECKOUT = Path(__file__).parents[2]
Listener = Callable[[str, int, int], None]
"""Called with a label, the number of items done and the total; (stage, 0, 0) begins a stage."""
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


class InputError(ValueError):
    """The user's input cannot be used: one sentence naming the file and the way out."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The closest of the known names, for error sentences."""
    return get_close_matches(str(name), list(known), n=1, cutoff=0.0)[0]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed onto it when the block succeeds, removed otherwise.

    Raises InputError where the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last: image writers choose their format by it.
        handle, name = tempfile.mkstemp(prefix=".partial-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> Exception:
    """The InputError that says why `path` could not be written; any other OSError unchanged."""
    if error.errno == errno.ENOSPC:
        return InputError(f"{path}: the disk is full; free some space or choose another folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return InputError(
            f"{path}: cannot be written ({os.strerror(error.errno)}); choose a writable folder"
        )
    return error


def require_room(folder: Path, needed: int) -> None:
    """Raises InputError where `folder`'s disk has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: {free / 1e9:.1f} GB are free, {needed / 1e9:.1f} GB are needed; free some "
            "space or choose another folder"
        )


@contextmanager
def locked(folder: Path, wait: bool = True, name: str = ".lock") -> Iterator[None]:
    """Inside, no other process has `folder`'s lock `name`; that of one that dies is free again.

    Raises BlockingIOError where it should not wait for another one.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass  # Some network file systems have no locks; all writes are whole anyway.
        yield


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def located(path: Path) -> Path:
    """`path` if it is there, else the same place in the checkout, else `path`.

    Jupyter starts kernels in notebooks/, from where data/demo is one folder up. A path that is
    nowhere lies where its first folder is.
    """
    if path.is_absolute():
        return path
    places = (path, CHECKOUT / path)
    for place in places:
        if place.exists():
            return place
    above = len(path.parts) - 2
    return next((p for p in places if above >= 0 and p.parents[above].exists()), path)


@contextmanager
def progress_told_to(listener: Listener) -> Iterator[None]:
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
