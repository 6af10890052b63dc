"""Downloads that resume where they broke off and are verified before the file gets its name.

`LSFA_OFFLINE=1` forbids network access. `LSFA_MIRROR` is the address of a folder that holds the
files under their own names; it replaces their original addresses.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import requests

from lsfa_lib.storage.files import InputError, locked, progress, require_room, unwritable

ATTEMPTS = 4
"""Give up after so many attempts in a row without a new byte."""
TIMEOUT_S = 30
"""A connection that sends nothing for so long counts as broken."""
CHUNK = 1 << 16
"""Bytes written at once; the first part of a chunk that was cut is fetched again."""
FIRST_WAIT_S = 0.5
"""Pause after an attempt; doubled after each one without a new byte."""


@dataclass(frozen=True)
class Remote:
    """A file that somebody else publishes."""

    url: str
    name: str
    """Its name on this disk and on a mirror."""
    digest: str = ""
    """`sha256:...` or `md5:...`, hexadecimal, possibly only its first digits; "" if unknown."""
    page: str = ""
    """Where people find a file that has no address of its own."""


def offline() -> bool:
    """Whether LSFA_OFFLINE forbids network access."""
    return os.environ.get("LSFA_OFFLINE", "") not in ("", "0")


def fetch(remote: Remote, path: Path) -> Path:
    """`path`, which holds the remote file; an existing file is only verified.

    Received bytes are kept in `<name>.part`, from where the next attempt or call resumes. Raises
    InputError with instructions for a download by hand.
    """
    if path.exists():
        verify(path, remote)
        return path
    mirror = os.environ.get("LSFA_MIRROR", "")
    url = f"{mirror.rstrip('/')}/{remote.name}" if mirror else remote.url
    source = f"download {url}" if url else f"find {remote.name} on {remote.page}"
    by_hand = f"\nBy hand: {source}\nand put it at {path.absolute()}"
    if not url:
        raise InputError(f"{path} does not exist and has no download address;{by_hand}")
    if offline():
        raise InputError(
            f"{path} does not exist and LSFA_OFFLINE forbids network access; unset it, or:{by_hand}"
        )
    lock = f".{path.name}.lock"
    with locked(path.parent, name=lock):
        if not path.exists():  # Another process may have fetched it meanwhile.
            _download(url, path, remote, by_hand)
        # While it is held, and only once the file is there: others may wait for this lock.
        path.with_name(lock).unlink(missing_ok=True)
    return path


def received(path: Path) -> int:
    """Bytes of the file that are here already, complete or in part."""
    return max(_size(path), _size(_part(path)))


def verify(path: Path, remote: Remote) -> None:
    """Raises InputError if the file does not have the known digest."""
    kind, _, wanted = remote.digest.partition(":")
    if wanted:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if not found.startswith(wanted.lower()):
            raise InputError(
                f"{path}: its {kind} is {found}, expected {wanted}; delete it and fetch it again"
            )


def _download(url: str, path: Path, remote: Remote, by_hand: str) -> None:
    part = _part(path)
    try:
        _receive_all(url, part, by_hand)
        try:
            verify(part, remote)
        except InputError as error:
            part.unlink()
            raise InputError(f"{url} sent a different file: {error}{by_hand}") from error
        part.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


def _receive_all(url: str, part: Path, by_hand: str) -> None:
    """Downloads into `part` until it is complete; each attempt resumes where the last one ended."""
    fruitless = 0
    while True:
        before = _size(part)
        try:
            return _receive(url, part)
        except requests.RequestException as error:
            answer, reason = error.response, error
        # Other 4xx answers will not change.
        if answer is not None and answer.status_code < 500 and answer.status_code != 429:
            raise InputError(
                f"{url} answers {answer.status_code} {answer.reason}.{by_hand}"
            ) from reason
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == ATTEMPTS:
            raise InputError(
                f"{url} could not be downloaded, {ATTEMPTS} attempts received nothing "
                f"({type(reason).__name__}); start again to resume.{by_hand}"
            ) from reason
        time.sleep(FIRST_WAIT_S * 2**fruitless)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path) -> None:
    """One attempt. Raises requests' errors, also if the connection ends before the file does."""
    have = _size(part)
    # With compression, a range would count compressed bytes.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code == 416:  # No bytes after these: complete, or part of another file.
            if have and answer.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
            part.unlink(missing_ok=True)
            raise requests.ConnectionError(f"{url} has no byte {have}")
        answer.raise_for_status()
        resumed = answer.status_code == 206
        coming = int(answer.headers.get("Content-Length", 0))
        total = coming + (have if resumed else 0)
        require_room(part.parent, coming)
        with part.open("ab" if resumed else "wb") as file:
            chunks = -(-coming // CHUNK) or None
            label = f"{part.stem}, 64 kB"
            for chunk in progress(answer.iter_content(CHUNK), label, chunks):
                file.write(chunk)
    if part.stat().st_size < total:
        raise requests.ConnectionError(f"{url} broke off")
