"""Files from the network: resumed where they broke off, whole and checked before they have a name.

`LSFA_OFFLINE=1` forbids the network. `LSFA_MIRROR` is the address of a folder that holds files
under their own names, asked instead of their sources.
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
"""In a row that bring nothing."""
PATIENCE_S = 30
"""Without a byte for so long, the connection counts as broken."""
CHUNK = 1 << 16
"""Bytes at once; of a chunk that is cut in two, the first part is fetched again."""
FIRST_WAIT_S = 0.5
"""After an attempt; doubled each time one brings nothing."""


@dataclass(frozen=True)
class Remote:
    """A file somebody else keeps."""

    url: str
    name: str
    """What it is called here and on a mirror."""
    digest: str = ""
    """`sha256:...` or `md5:...`, hexadecimal; the first digits are enough. "": not known."""
    page: str = ""
    """Where people find a file that has no address of its own."""


def offline() -> bool:
    """Whether LSFA_OFFLINE forbids the network."""
    return os.environ.get("LSFA_OFFLINE", "") not in ("", "0")


def fetch(remote: Remote, path: Path) -> Path:
    """`path`, holding the remote file; one that is there already is only checked.

    What has arrived is kept beside it as `<name>.part`, and the next attempt, or the next call,
    goes on from there. Raises InputError with the way to do it by hand.
    """
    if path.exists():
        verify(path, remote)
        return path
    url = _address(remote)
    by_hand = f"\nBy hand: download {url}\nand put it at {path.absolute()}"
    if not url:
        raise InputError(
            f"{path} is not there and has no address to fetch it from;"
            f"\nBy hand: find {remote.name} on {remote.page}\nand put it at {path.absolute()}"
        )
    if offline():
        raise InputError(
            f"{path} is not there and LSFA_OFFLINE forbids the network; unset it, or:{by_hand}"
        )
    lock = f".{path.name}.lock"
    try:
        with locked(path.parent, name=lock):
            if not path.exists():  # Nobody else has fetched it meanwhile.
                _download(url, path, remote, by_hand)
    finally:
        path.with_name(lock).unlink(missing_ok=True)
    return path


def _download(url: str, path: Path, remote: Remote, by_hand: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        _attempts(url, part, remote, by_hand)
        try:
            verify(part, remote)
        except InputError as error:
            part.unlink()
            raise InputError(f"{url} sent something else: {error}{by_hand}") from error
        part.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


def verify(path: Path, remote: Remote) -> None:
    """Raises InputError unless the file has the digest that is known of it."""
    kind, _, wanted = remote.digest.partition(":")
    if wanted:
        with path.open("rb") as file:
            seen = hashlib.file_digest(file, kind).hexdigest()
        if not seen.startswith(wanted.lower()):
            raise InputError(
                f"{path}: its {kind} is {seen}, wanted {wanted}; delete it, fetch it again"
            )


def _address(remote: Remote) -> str:
    mirror = os.environ.get("LSFA_MIRROR", "")
    return f"{mirror.rstrip('/')}/{remote.name}" if mirror else remote.url


def _attempts(url: str, part: Path, remote: Remote, by_hand: str) -> None:
    """Downloads into `part` until it is complete; each attempt goes on where the last one ended."""
    fruitless = 0
    while True:
        before = _size(part)
        try:
            return _receive(url, part, remote)
        except requests.HTTPError as error:
            answer = error.response
            assert answer is not None  # raise_for_status gives it
            if answer.status_code < 500 and answer.status_code != 429:  # It will not change.
                said = f"{answer.status_code} {answer.reason}"
                raise InputError(f"{url} answers {said}.{by_hand}") from error
            reason: Exception = error
        except requests.RequestException as error:
            reason = error
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == ATTEMPTS:
            raise InputError(
                f"{url} could not be downloaded, {ATTEMPTS} attempts brought nothing "
                f"({type(reason).__name__}); start again to go on where it broke off.{by_hand}"
            ) from reason
        time.sleep(FIRST_WAIT_S * 2**fruitless)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, remote: Remote) -> None:
    """One attempt. Raises requests' errors; also where the connection ends before the file does."""
    have = _size(part)
    asked = {"Range": f"bytes={have}-"} if have else {}
    # Compressed on the way, a range would be one of the compressed bytes.
    asked["Accept-Encoding"] = "identity"
    with requests.get(url, headers=asked, stream=True, timeout=PATIENCE_S) as answer:
        if answer.status_code == 416:  # Nothing behind what is there: complete, or of another file.
            if have and have == _total(answer.headers.get("Content-Range", "")):
                return
            part.unlink(missing_ok=True)
            raise requests.ConnectionError(f"{url} has no byte {have}")
        answer.raise_for_status()
        goes_on = answer.status_code == 206
        coming = int(answer.headers.get("Content-Length", 0))
        total = coming + (have if goes_on else 0)
        require_room(part.parent, coming)
        with part.open("ab" if goes_on else "wb") as file:
            chunks = -(-total // CHUNK) or None
            for chunk in progress(answer.iter_content(CHUNK), f"{remote.name}, 64 kB", chunks):
                file.write(chunk)
    if part.stat().st_size < total:
        raise requests.ConnectionError(f"{url} broke off")


def _total(content_range: str) -> int:
    """The size in `bytes */123`; -1 where it is not told."""
    size = content_range.rpartition("/")[2]
    return int(size) if size.isdecimal() else -1
