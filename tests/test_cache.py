"""Extracted features are kept, trusted only when whole, and equal to fresh ones."""

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open

from lsfa_lib.config import Config, with_losses
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.features import checkpoints
from lsfa_lib.features.cache import cache_entries, cached_features, delete, extract, prune
from lsfa_lib.features.extract import Encoders, load_encoders
from lsfa_lib.features.lazy_scan import read_sample
from lsfa_lib.pipeline import run_category
from lsfa_lib.records import MODALITIES, PatchFeatures, Sample
from lsfa_lib.storage.files import InputError, locked
from lsfa_lib.storage.results import read_result

CPU = torch.device("cpu")
LSFA = [sys.executable, "-c", "from lsfa_lib.cli.app import main; main()"]


@pytest.fixture(scope="module")
def entry(demo_root: Path) -> Entry:
    return read_split(demo_root, "seal", "train").entries[0]


@pytest.fixture
def encoders(tiny: Config) -> Encoders:
    return load_encoders(tiny, CPU)


def never() -> Sample:
    raise AssertionError("the scan was read although its features are cached")


def fetch(entry: Entry, encoders: Encoders, config: Config) -> PatchFeatures:
    return cached_features(entry, encoders, config, CPU, lambda: read_sample(entry, config))


def assert_equal(a: PatchFeatures, b: PatchFeatures) -> None:
    assert torch.equal(a.valid, b.valid)
    assert (a.grid, a.name) == (b.grid, b.name)
    for m in MODALITIES:
        assert torch.equal(a.by_modality[m].tokens, b.by_modality[m].tokens)
        assert torch.equal(a.by_modality[m].weights.to_dense(), b.by_modality[m].weights.to_dense())


def test_cached_features_equal_fresh_ones(entry: Entry, encoders: Encoders, tiny: Config) -> None:
    first = fetch(entry, encoders, tiny)
    again = cached_features(entry, encoders, tiny, CPU, never)
    assert_equal(first, again)
    assert_equal(first, extract(read_sample(entry, tiny), encoders, tiny))
    assert_equal(first, fetch(entry, encoders, replace(tiny, cache="")))


def test_one_new_encoder_recomputes_one_modality(
    entry: Entry, encoders: Encoders, tiny: Config
) -> None:
    fetch(entry, encoders, tiny)
    finer = replace(tiny, point_encoder=replace(tiny.point_encoder, groups=200))
    changed = load_encoders(finer, CPU)
    assert changed.keys["rgb"] == encoders.keys["rgb"]
    assert changed.keys["3d"] != encoders.keys["3d"]
    fetch(entry, changed, finer)
    assert len(list(Path(tiny.cache).glob("*/*.safetensors"))) == 3


@pytest.mark.parametrize("damage", ["half", "empty", "other scan's"])
def test_damaged_file_is_rebuilt(
    entry: Entry, encoders: Encoders, tiny: Config, demo_root: Path, damage: str
) -> None:
    first = fetch(entry, encoders, tiny)
    (file,) = (Path(tiny.cache) / encoders.keys["3d"]).glob("*.safetensors")
    whole = file.read_bytes()
    if damage == "other scan's":
        other = read_split(demo_root, "biscuit", "train").entries[0]
        fetch(other, encoders, tiny)
        (stranger,) = set(file.parent.glob("*.safetensors")) - {file}
        shutil.copy(stranger, file)
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    assert_equal(first, fetch(entry, encoders, tiny))
    assert file.read_bytes() == whole


def test_changed_scan_is_never_mistaken_for_its_old_features(
    entry: Entry, encoders: Encoders, tiny: Config, tmp_path: Path
) -> None:
    copy = dataclasses.replace(entry, rgb=tmp_path / "copy.png")
    shutil.copy(entry.rgb, copy.rgb)
    fetch(entry, encoders, tiny)
    cached_features(copy, encoders, tiny, CPU, never)
    copy.rgb.write_bytes(copy.rgb.read_bytes() + b"\0")
    with pytest.raises(AssertionError, match="the scan was read"):
        cached_features(copy, encoders, tiny, CPU, never)


def test_a_scan_that_changes_while_it_is_read_is_not_cached(
    entry: Entry, encoders: Encoders, tiny: Config, tmp_path: Path
) -> None:
    copy = dataclasses.replace(entry, rgb=tmp_path / "copy.png")
    shutil.copy(entry.rgb, copy.rgb)

    def read_and_replace() -> Sample:
        sample = read_sample(copy, tiny)
        copy.rgb.write_bytes(copy.rgb.read_bytes() + b"\0")
        return sample

    with pytest.raises(InputError, match=r"changed while it was read; start again"):
        cached_features(copy, encoders, tiny, CPU, read_and_replace)
    assert not list(Path(tiny.cache).rglob("*.safetensors"))


@pytest.mark.parametrize("part", ["rgb", "xyz"])
def test_a_change_of_either_file_is_seen(
    entry: Entry, encoders: Encoders, tiny: Config, demo_root: Path, tmp_path: Path, part: str
) -> None:
    other = read_split(demo_root, "seal", "train").entries[1]
    copies = {name: tmp_path / getattr(entry, name).name for name in ("rgb", "xyz")}
    for name, copy in copies.items():
        shutil.copyfile(getattr(entry, name), copy)
    own = replace(entry, **copies)
    first = fetch(own, encoders, tiny)
    shutil.copyfile(getattr(other, part), copies[part])
    m = "rgb" if part == "rgb" else "3d"
    again = fetch(own, encoders, tiny).by_modality[m].tokens
    old = first.by_modality[m].tokens
    assert again.shape != old.shape or not torch.equal(again, old)


def size_of(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("*/*.safetensors"))


def test_the_files_used_least_recently_are_deleted(
    encoders: Encoders, tiny: Config, demo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = read_split(demo_root, "seal", "train").entries[:3]
    for age, entry in zip((30, 20, 10), entries, strict=True):
        before = set(Path(tiny.cache).glob("*/*.safetensors"))
        fetch(entry, encoders, tiny)
        for new in set(Path(tiny.cache).glob("*/*.safetensors")) - before:
            os.utime(new, (new.stat().st_mtime - age,) * 2)
    cached_features(entries[0], encoders, tiny, CPU, never)  # now the one used last
    most = 1.02 * size_of(Path(tiny.cache))
    monkeypatch.setenv("LSFA_CACHE_GB", str(most / 1e9))
    added = read_split(demo_root, "seal", "train").entries[3]
    fetch(added, encoders, tiny)
    assert size_of(Path(tiny.cache)) <= most
    for kept in (entries[0], added, entries[2]):
        cached_features(kept, encoders, tiny, CPU, never)
    with pytest.raises(AssertionError, match="the scan was read"):
        cached_features(entries[1], encoders, tiny, CPU, never)
    writing = Path(tiny.cache) / encoders.keys["rgb"] / ".partial-1.safetensors"
    writing.write_bytes(b"x")
    assert prune(Path(tiny.cache), 1e-9) > 0
    assert list(Path(tiny.cache).glob("*/*.safetensors")) == [writing]
    assert sum(folder.files for folder in cache_entries(Path(tiny.cache))) == 0
    delete(writing.parent)
    assert writing.exists()
    os.utime(writing, (0, 0))  # left by a process that was killed
    prune(Path(tiny.cache), 1.0)
    assert not writing.exists()
    delete(writing.parent)
    assert not writing.parent.exists()
    monkeypatch.setenv("LSFA_CACHE_GB", "much")
    with pytest.raises(InputError, match="LSFA_CACHE_GB=much is not a size; give gigabytes"):
        fetch(entries[1], encoders, tiny)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is Linux's")
def test_a_file_system_without_memory_maps_and_locks_serves_the_cache(
    entry: Entry, encoders: Encoders, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    asked = []

    def unsupported(*_: object) -> None:
        asked.append("lock")
        raise OSError(errno.ENOLCK, "No locks available")

    first = fetch(entry, encoders, tiny)
    with pytest.raises(OSError, match="No such device"):
        safe_open("/proc/self/status", framework="pt")  # what such a file system answers
    monkeypatch.setattr(checkpoints, "safe_open", refuse)
    monkeypatch.setattr("fcntl.flock", unsupported)
    assert_equal(first, cached_features(entry, encoders, tiny, CPU, never))
    with locked(Path(tiny.cache)):
        assert asked


@pytest.mark.slow
def test_two_sweeps_share_a_cache_smaller_than_their_features(
    demo_root: Path, tiny: Config, tmp_path: Path
) -> None:
    words = ("run", "seal", "--data", demo_root, "--preset", "tiny", "--workers", "1")
    running = [
        subprocess.Popen(
            [*LSFA, *map(str, words), "--only", only, "--reports", only],
            cwd=tmp_path,
            env=os.environ | {"LSFA_CACHE_GB": "0.0005"},
            stderr=subprocess.DEVNULL,
        )
        for only in ("none", "IFC")
    ]
    assert [process.wait(300) for process in running] == [0, 0]
    for only in ("none", "IFC"):
        (path,) = (tmp_path / only).glob("runs/quickstart/*/result.json")
        alone = run_category("seal", with_losses(tiny, only), 0).result
        assert read_result(path)["modes"] == alone["modes"]
    assert size_of(tmp_path / "data" / "cache") <= 500_000 < size_of(Path(tiny.cache))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is Linux's")
def test_features_in_use_keep_no_cache_file_open(
    entry: Entry, encoders: Encoders, tiny: Config
) -> None:
    fetch(entry, encoders, tiny)
    used = cached_features(entry, encoders, tiny, CPU, never)
    mapped = {Path(each.path).suffix for each in psutil.Process().memory_maps()}
    assert ".so" in mapped and ".safetensors" not in mapped
    assert bool(used.valid.any())


def test_features_are_compact(entry: Entry, encoders: Encoders, tiny: Config) -> None:
    features = fetch(entry, encoders, tiny)
    stored = sum(file.stat().st_size for file in Path(tiny.cache).glob("*/*.safetensors"))
    dimensions = sum(features.by_modality[m].tokens.shape[1] for m in MODALITIES)
    assert stored < features.valid.numel() * dimensions * 4 / 4


def test_entries_say_what_is_kept(entry: Entry, encoders: Encoders, tiny: Config) -> None:
    assert cache_entries(Path(tiny.cache)) == []
    fetch(entry, encoders, tiny)
    found = {kept.model: kept for kept in cache_entries(Path(tiny.cache))}
    assert set(found) == {"efficientnet_lite0", "point_mae_small"}
    assert {(kept.files, kept.image_size) for kept in found.values()} == {(1, 96)}
    described = found["point_mae_small"].folder / "about.json"
    described.write_text("{")
    with pytest.raises(InputError, match=r"is damaged .*; delete its folder, it will be rebuilt"):
        cache_entries(Path(tiny.cache))
