"""The public data sets' commands, with a small archive of the real one's form."""

import hashlib
import http.server
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.datasets import public
from lsfa_lib.datasets.layouts import categories
from lsfa_lib.datasets.public import DATA, fetch_data
from lsfa_lib.storage.files import InputError

NAME = "mvtec_3d_anomaly_detection.tar.xz"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive whose digest stands where the published one's does."""
    for category in ("bagel", "cookie"):
        (tmp_path / "tree" / category / "train" / "good" / "rgb").mkdir(parents=True)
        (tmp_path / "tree" / category / "train" / "good" / "rgb" / "000.png").write_bytes(b"png")
    path = tmp_path / "served" / NAME
    path.parent.mkdir()
    with tarfile.open(path, "w:xz") as tar:
        for folder in sorted((tmp_path / "tree").iterdir()):
            tar.add(folder, folder.name)
    digest = "md5:" + hashlib.md5(path.read_bytes()).hexdigest()
    remote = DATA["mvtec3d"].archive
    assert remote is not None
    small = replace(DATA["mvtec3d"], archive=replace(remote, digest=digest), needed_bytes=10**6)
    monkeypatch.setitem(public.DATA, "mvtec3d", small)
    return path


@pytest.fixture
def mirror(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("LSFA_MIRROR", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.delenv("LSFA_OFFLINE", raising=False)
        yield
        server.shutdown()


def test_download_leaves_the_categories_and_no_archive(mirror: None, tmp_path: Path) -> None:
    root = tmp_path / "data"
    command = ["data", "download", "mvtec3d", "--root", str(root)]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, InputError)
    assert "CC BY-NC-SA 4.0" in str(refused.exception)
    assert "--accept-licence" in str(refused.exception)
    assert not root.exists()
    done = CliRunner().invoke(app, [*command, "--accept-licence"])
    assert done.exit_code == 0, done.output
    assert f"bagel, cookie; next: lsfa data check {root}" in done.output
    assert categories(root) == ["bagel", "cookie"]
    assert sorted(path.name for path in root.iterdir()) == ["bagel", "cookie"]


def test_an_archive_fetched_by_hand_is_checked_and_kept(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    assert fetch_data("mvtec3d", root, True, archive) == ["bagel", "cookie"]
    assert archive.exists()
    with pytest.raises(InputError, match="bagel already exists"):
        fetch_data("mvtec3d", root, True, archive)
    archive.write_bytes(archive.read_bytes() + b"!")
    with pytest.raises(InputError, match=f"{NAME}: its md5 is "):
        fetch_data("mvtec3d", tmp_path / "other", True, archive)
    with pytest.raises(InputError, match="no such archive"):
        fetch_data("mvtec3d", tmp_path / "other", True, tmp_path / "none")
    assert list((tmp_path / "other").iterdir()) == []


def test_room_is_asked_for_first(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = replace(DATA["mvtec3d"], needed_bytes=10**18)
    monkeypatch.setitem(public.DATA, "mvtec3d", large)
    with pytest.raises(InputError, match=r"GB are free, 1000000000\.0 GB are needed"):
        fetch_data("mvtec3d", tmp_path / "data", True, archive)


def test_what_was_received_needs_no_room_again(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = replace(DATA["mvtec3d"], needed_bytes=10**18)
    monkeypatch.setitem(public.DATA, "mvtec3d", large)
    part = tmp_path / "data" / f"{NAME}.part"
    part.parent.mkdir()
    with part.open("wb") as file:
        file.truncate(10**9)  # sparse: takes no room here
    with pytest.raises(InputError, match=r"GB are free, 999999999\.0 GB are needed"):
        fetch_data("mvtec3d", part.parent, True)


def test_categories_that_are_there_are_said_before_the_download(
    mirror: None, archive: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    fetch_data("mvtec3d", root, True)
    archive.unlink()  # a download would fail
    with pytest.raises(InputError, match="bagel already exists; move it away"):
        fetch_data("mvtec3d", root, True)
    assert sorted(path.name for path in root.iterdir()) == ["bagel", "cookie"]


def test_what_only_a_browser_gets_is_said_in_two_lines(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        fetch_data("eyecandies", tmp_path / "eyecandies", True)
    _, first, second = str(caught.value).splitlines()
    assert first.startswith("By hand: download its classes from https://")
    assert second == f"and unpack each one to {tmp_path / 'eyecandies' / '<class>'}"
    with pytest.raises(InputError, match="choose mvtec3d or eyecandies"):
        fetch_data("mvtec", tmp_path, True)
