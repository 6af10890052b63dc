"""Downloads from a server of this machine that breaks off, lies, and sends the wrong bytes."""

import hashlib
import http.server
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lsfa_lib.storage import download
from lsfa_lib.storage.download import CHUNK, Remote, fetch, offline, verify
from lsfa_lib.storage.files import InputError, locked

BYTES = np.random.default_rng(0).bytes(3_000_017)
SHA = "sha256:" + hashlib.sha256(BYTES).hexdigest()
LOCK = ".m.bin.lock"
"""Stays after a download that failed: another one may wait for it."""


class Server(http.server.ThreadingHTTPServer):
    """Sends BYTES, as the attributes say, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = BYTES
        self.breaks_after: list[int] = []
        """Bytes of the answer until the connection is cut, a request each."""
        self.statuses: list[int] = []
        self.knows_ranges = True
        self.announces = 0
        """Bytes it says that will come, instead of the truth."""
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/some/model.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        serves = self.server
        asked = self.headers.get("Range")
        serves.asked.append(asked)
        if serves.statuses and (status := serves.statuses.pop(0)) != 200:
            self.send_error(status)
            return
        found = re.fullmatch(r"bytes=(\d+)-", asked or "") if serves.knows_ranges else None
        start = int(found[1]) if found else 0
        if found and start >= len(serves.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(serves.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = serves.content[start:]
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(serves.announces or len(body)))
        self.end_headers()
        cut = serves.breaks_after.pop(0) if serves.breaks_after else len(body)
        self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)
    for name in ("LSFA_OFFLINE", "LSFA_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def remote(server: Server, **known: object) -> Remote:
    about = {"digest": SHA, **known}
    return Remote(server.url, "model.bin", **about)  # type: ignore[arg-type]


def test_a_file_arrives_whole_and_is_not_fetched_twice(server: Server, tmp_path: Path) -> None:
    path = fetch(remote(server), tmp_path / "new folder" / "m.bin")
    assert path.read_bytes() == BYTES
    assert [file.name for file in path.parent.iterdir()] == ["m.bin"]
    assert fetch(remote(server), path) == path
    assert server.asked == [None]


def test_a_download_that_breaks_off_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [20 * CHUNK, 0, 10 * CHUNK + 77]
    path = fetch(remote(server), tmp_path / "m.bin")
    assert path.read_bytes() == BYTES
    starts = [f"bytes={20 * CHUNK}-", f"bytes={20 * CHUNK}-", f"bytes={30 * CHUNK}-"]
    assert server.asked == [None, *starts]


def test_what_an_earlier_call_left_is_used(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "m.bin.part"
    part.write_bytes(BYTES[:1000])
    assert fetch(remote(server), tmp_path / "m.bin").read_bytes() == BYTES
    assert server.asked == ["bytes=1000-"] and not part.exists()
    part.write_bytes(BYTES)
    (tmp_path / "m.bin").unlink()
    assert fetch(remote(server), tmp_path / "m.bin").read_bytes() == BYTES


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.knows_ranges, server.breaks_after = False, [9 * CHUNK]
    assert fetch(remote(server), tmp_path / "m.bin").read_bytes() == BYTES
    assert server.asked == [None, f"bytes={9 * CHUNK}-"]


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "m.bin.part").write_bytes(BYTES + b"more")
    assert fetch(remote(server), tmp_path / "m.bin").read_bytes() == BYTES


@pytest.mark.parametrize("digest", [SHA, SHA[:15], "md5:" + hashlib.md5(BYTES).hexdigest()])
@pytest.mark.parametrize("sent", [BYTES[:-1], BYTES[:-1] + b"!", b""])
def test_wrong_bytes_are_not_kept(server: Server, tmp_path: Path, digest: str, sent: bytes) -> None:
    server.content = sent
    with pytest.raises(InputError, match=r"sent a different file") as caught:
        fetch(remote(server, digest=digest), tmp_path / "m.bin")
    assert {path.name for path in tmp_path.iterdir()} == {LOCK}
    *_, first, second = str(caught.value).splitlines()
    assert first == f"By hand: download {server.url}"
    assert second == f"and put it at {tmp_path / 'm.bin'}"


def test_a_file_of_another_content_is_named(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(BYTES[:-1] + b"!")
    with pytest.raises(InputError, match=r"m\.bin: its sha256 is .* delete it") as caught:
        fetch(remote(server), path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in str(caught.value)
    assert server.asked == [] and path.exists()
    verify(path, Remote("", "", digest="md5:" + hashlib.md5(path.read_bytes()).hexdigest()))


def test_servers_errors(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429, 200]
    assert fetch(remote(server), tmp_path / "m.bin").read_bytes() == BYTES
    server.asked, server.statuses = [], [404]
    with pytest.raises(InputError, match="answers 404 Not Found") as caught:
        fetch(remote(server), tmp_path / "other.bin")
    assert len(server.asked) == 1
    assert len(str(caught.value).splitlines()) == 3
    server.asked, server.statuses = [], [500] * 99
    with pytest.raises(InputError, match="4 attempts received nothing"):
        fetch(remote(server), tmp_path / "other.bin")
    assert len(server.asked) == download.ATTEMPTS


def test_nobody_there(server: Server, tmp_path: Path) -> None:
    nowhere = Remote("http://127.0.0.1:9/model.bin", "model.bin")
    with pytest.raises(InputError, match="attempts received nothing"):
        fetch(nowhere, tmp_path / "m.bin")
    assert {path.name for path in tmp_path.iterdir()} == {LOCK}


def test_a_mirror_is_asked_instead(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSFA_MIRROR", server.url.rpartition("/")[0] + "/")
    elsewhere = Remote("http://127.0.0.1:9/away.bin", "model.bin", digest=SHA)
    assert fetch(elsewhere, tmp_path / "m.bin").read_bytes() == BYTES


def test_offline_nothing_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSFA_OFFLINE", "1")
    assert offline()
    with pytest.raises(InputError, match="LSFA_OFFLINE forbids network access"):
        fetch(remote(server), tmp_path / "m.bin")
    (tmp_path / "m.bin").write_bytes(BYTES)
    assert fetch(remote(server), tmp_path / "m.bin").read_bytes() == BYTES
    assert server.asked == []
    monkeypatch.setenv("LSFA_OFFLINE", "0")
    assert not offline()


def test_a_full_disk_is_said_before(server: Server, tmp_path: Path) -> None:
    server.announces = 10**18
    with pytest.raises(InputError, match=r"GB are free, 1000000000\.0 GB are needed"):
        fetch(remote(server), tmp_path / "m.bin")
    assert {path.name for path in tmp_path.iterdir()} == {LOCK}


def test_two_at_once_download_it_once(server: Server, tmp_path: Path) -> None:
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(remote(server), tmp_path / "m.bin")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == BYTES for path in paths] == [True] * 3
    assert server.asked == [None]
    assert [file.name for file in tmp_path.iterdir()] == ["m.bin"]


def test_a_waiting_download_that_is_stopped_leaves_the_lock_of_the_other(
    server: Server, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from lsfa_lib.storage.download import Remote, fetch\n"
        "print('ready', flush=True)\n"
        "fetch(Remote(sys.argv[1], 'm.bin'), Path(sys.argv[2]))"
    )
    with locked(tmp_path, name=LOCK):
        command = [sys.executable, "-c", code, server.url, str(tmp_path / "m.bin")]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert waiting.stdout is not None and waiting.stdout.readline() == b"ready\n"
        time.sleep(1)
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait() != 0 and server.asked == []
        assert (tmp_path / LOCK).exists()
