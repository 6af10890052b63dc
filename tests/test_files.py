"""Files appear whole or not at all, and failures become one sentence."""

from pathlib import Path

import pytest

from lsfa_lib.storage.files import InputError, atomic_write, require_writable


def test_file_appears_only_after_the_block(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "result.json"
    with atomic_write(target) as file:
        file.write_text("done")
        assert not target.exists()
        assert file.suffix == ".json"
    assert target.read_text() == "done"
    assert [path.name for path in target.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_interrupted_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(stop), atomic_write(target) as file:
        file.write_text("half")
        raise stop
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "whole") as file:
        file.write_text("")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_full_disk_is_said_with_the_file_name(tmp_path: Path) -> None:
    target = tmp_path / "cache.bin"
    with (
        pytest.raises(InputError, match=r"cache\.bin: the disk is full; free some space"),
        atomic_write(target),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file where the folder should be")
    with (
        pytest.raises(InputError, match=r"reports.*cannot be written .*choose a writable folder"),
        atomic_write(tmp_path / "reports" / "index.html"),
    ):
        raise AssertionError("the block must not run")


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="/sys is Linux's")
def test_read_only_folder_is_said_to_root_too() -> None:
    with (
        pytest.raises(InputError, match=r"cannot be written .*choose a writable folder"),
        atomic_write(Path("/sys/kernel/reports/result.json")),
    ):
        raise AssertionError("the block must not run")


def test_a_folder_in_the_place_of_a_file_is_said(tmp_path: Path) -> None:
    said = pytest.raises(InputError, match="is a folder; name a file in it")
    with said, atomic_write(tmp_path / "out") as file:
        file.write_text("x")
        (tmp_path / "out").mkdir()
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_place_of_a_result_is_tried_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "models" / "seal.lsfa")
    assert [*tmp_path.rglob("*")] == [tmp_path / "models"]
    with pytest.raises(InputError, match=r"models: is a folder; name a file in it"):
        require_writable(tmp_path / "models")
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"seal\.lsfa: cannot be written .*choose a writable"):
        require_writable(tmp_path / "taken" / "seal.lsfa")
