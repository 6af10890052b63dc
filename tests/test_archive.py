"""Archives made to do harm, damaged ones, and sound ones."""

import io
import tarfile
from pathlib import Path

import pytest

from lsfa_lib.storage.archive import unpack
from lsfa_lib.storage.files import InputError

ROOM = 10**6


def write_archive(path: Path, *members: tarfile.TarInfo, mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for member in (file("bagel/train/000.png", 5), *members):
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def file(name: str, size: int = 3) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_a_sound_archive_is_unpacked(tmp_path: Path) -> None:
    for number, mode in enumerate(("w", "w:xz", "w:gz", "w:bz2")):
        folder = tmp_path / str(number)
        archive = write_archive(tmp_path / f"{number}.tar", file("cookie/a b.png"), mode=mode)
        assert unpack(archive, folder, ROOM) == [folder / "bagel", folder / "cookie"]
        assert (folder / "bagel/train/000.png").read_bytes() == b"x" * 5
        assert sorted(path.name for path in folder.iterdir()) == ["bagel", "cookie"]


HARM = {
    "absolute path": file("/tmp/lsfa-outside.txt"),
    "absolute link": special("link", tarfile.SYMTYPE, "/etc"),
    "up": file("../outside.txt"),
    "up in the middle": file("bagel/../../outside.txt"),
    "symlink out": special("bagel/link", tarfile.SYMTYPE, "../../.."),
    "hard link out": special("bagel/hard", tarfile.LNKTYPE, "../../outside.txt"),
    "device": special("bagel/null", tarfile.CHRTYPE),
    "pipe": special("bagel/pipe", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("what", HARM)
def test_harm_is_refused_and_leaves_nothing(what: str, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("mine")
    folder = tmp_path / "data"
    archive = write_archive(tmp_path / "bad.tar.xz", HARM[what])
    with pytest.raises(InputError, match=r"bad\.tar\.xz: refused, nothing was unpacked"):
        unpack(archive, folder, ROOM)
    assert list(folder.iterdir()) == []
    assert (tmp_path / "outside.txt").read_text() == "mine"


def test_ten_gigabytes_of_zeros_are_refused_before_they_are_written(tmp_path: Path) -> None:
    archive = tmp_path / "zeros.tar"
    with archive.open("wb") as out:
        out.write(file("bagel/zeros.bin", 10**10).tobuf())
        out.truncate(10**10 + 1024)  # sparse: it takes no room here
    with pytest.raises(InputError, match=r"exceed 0\.0 GB"):
        unpack(archive, tmp_path / "data", ROOM)
    assert list((tmp_path / "data").iterdir()) == []
    many = [file(f"bagel/{i}", ROOM // 10) for i in range(11)]
    with pytest.raises(InputError, match="nothing was unpacked"):
        unpack(write_archive(tmp_path / "many.tar.xz", *many), tmp_path / "data", ROOM)


def test_a_damaged_archive_is_said(tmp_path: Path) -> None:
    whole = write_archive(tmp_path / "a.tar.xz", file("b", 50_000)).read_bytes()
    half = len(whole) // 2
    broken = b"", b"no archive", whole[:half], whole[:half] + b"????" + whole[half + 4 :]
    for number, content in enumerate(broken):
        archive = tmp_path / f"{number}.tar.xz"
        archive.write_bytes(content)
        with pytest.raises(InputError, match="damaged or truncated; download it again"):
            unpack(archive, tmp_path / "data", ROOM)
        assert list((tmp_path / "data").iterdir()) == []


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "data" / "bagel").mkdir(parents=True)
    with pytest.raises(InputError, match="bagel already exists"):
        unpack(write_archive(tmp_path / "a.tar.xz", file("cookie/1")), tmp_path / "data", ROOM)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["bagel"]
