"""The feature cache: compact features of each scan, one file per modality.

Files are written atomically, memory-mapped when read and checked by key; a truncated file is
rebuilt, not trusted. About 1 to 4 MB/scan, against 24 MB for patch features in float32. Files may
be deleted at any time, also by another process. Their modification time is that of their last use.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from lsfa_lib.config import Config
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.features.checkpoints import stored_tensors, write_tensors
from lsfa_lib.features.extract import Encoders, modality_features, patch_valid
from lsfa_lib.features.geometry import csr_matrix
from lsfa_lib.records import Modality, ModalityFeatures, PatchFeatures, Sample
from lsfa_lib.storage.files import InputError, atomic_write

DAY_S = 86_400.0


def extract(sample: Sample, encoders: Encoders, config: Config) -> PatchFeatures:
    """Features of a sample, as they would come back from the cache; nothing is stored."""
    packed = {m: _packed(m, sample, encoders, config) for m in encoders.by_modality}
    return _unpacked(packed, sample.name, config, sample.xyz.device)


def cached_features(
    entry: Entry,
    encoders: Encoders,
    config: Config,
    device: torch.device,
    sample: Callable[[], Sample],
) -> PatchFeatures:
    """Features of a scan from the cache, or from its `sample()` and then stored.

    A file that is missing, truncated or written for another key is rebuilt; after one is stored,
    the cache is pruned to LSFA_CACHE_GB. Raises InputError if the scan changes while it is read.
    """
    scan = content_hash(entry.files)
    packed: dict[Modality, dict[str, Tensor]] = {}
    read: Sample | None = None
    for m, key in encoders.keys.items():
        path = Path(config.cache) / key / f"{scan}.safetensors"
        stored = _read(path) if config.cache else None
        if stored is None:
            read = read or sample()
            stored = _packed(m, read, encoders, config)
            if config.cache:
                if content_hash(entry.files) != scan:
                    raise InputError(f"{entry.files[-1]}: changed while it was read; start again")
                size = config.colour_size if m == "rgb" else config.preprocess.image_size
                _write(path, stored, {**encoders.about[m], "size": size}, config)
                if limit := _limit_gb():
                    prune(Path(config.cache), limit)
        packed[m] = stored
    return _unpacked(packed, entry.name, config, device)


def _packed(m: Modality, sample: Sample, encoders: Encoders, config: Config) -> dict[str, Tensor]:
    """The tensors of a cache file: half-precision values, small integers, on the CPU."""
    features = modality_features(m, sample, encoders, config)
    weights = features.weights
    columns = torch.int16 if len(features.tokens) < 2**15 else torch.int32
    return {
        "tokens": features.tokens.cpu().half(),
        "starts": weights.crow_indices().cpu().int(),
        "columns": weights.col_indices().cpu().to(columns),
        "values": weights.values().cpu().half(),
        "valid": patch_valid(sample.valid, config.projection.patch_px).cpu(),
    }


def _unpacked(
    packed: dict[Modality, dict[str, Tensor]], name: str, config: Config, device: torch.device
) -> PatchFeatures:
    """What `_packed` packed, in float32 on `device`."""
    features: dict[Modality, ModalityFeatures] = {}
    for m, stored in packed.items():
        on = {key: tensor.to(device) for key, tensor in stored.items()}
        tokens, counts = on["tokens"].float(), on["starts"].long().diff()
        weights = csr_matrix(counts, on["columns"].long(), on["values"].float(), len(tokens))
        features[m] = ModalityFeatures(tokens, weights)
    # The same in every file: it follows from the scan alone. A copy: a view would keep the file
    # mapped, and its disk space after the cache was pruned.
    valid = next(iter(packed.values()))["valid"].to(device, copy=True)
    return PatchFeatures(features, valid, (config.grid, config.grid), name)


def content_hash(files: tuple[Path, ...]) -> str:
    """sha256 over the bytes of the files: a changed scan is never mistaken for its old features."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def _write(
    path: Path, tensors: dict[str, Tensor], about: dict[str, str | bool | int], config: Config
) -> None:
    described = path.parent / "about.json"
    if not described.exists():
        note = {**about, "preprocess": dataclasses.asdict(config.preprocess)}
        with atomic_write(described) as file:
            file.write_text(json.dumps(note, indent=1), encoding="utf-8")
    write_tensors(path, tensors, _mark(path))


def _mark(path: Path) -> dict[str, str]:
    """What a file contains; one entry, since safetensors writes several in any order."""
    return {"holds": f"{path.parent.name}/{path.stem}"}


def _read(path: Path) -> dict[str, Tensor] | None:
    """The stored tensors, memory-mapped; None where they are missing or must not be trusted."""
    try:
        about, found = stored_tensors(path)
    except (FileNotFoundError, SafetensorError):
        # Missing, truncated or damaged: the caller extracts again and replaces the file.
        return None
    if about != _mark(path):
        return None
    with suppress(OSError):  # a cache that cannot be written is still read
        os.utime(path)
    return found


def _limit_gb() -> float:
    """The limit that LSFA_CACHE_GB sets; 0: none."""
    given = os.environ.get("LSFA_CACHE_GB", "") or "0"
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        raise InputError(f"LSFA_CACHE_GB={given} is not a size; give gigabytes, such as 8")
    return limit


def prune(cache: Path, limit_gb: float) -> int:
    """Deletes the files used least recently until the cache is within the limit; bytes deleted.

    Safe while others use the cache: whoever misses a file extracts its features again. What a
    killed process left half-written is deleted after a day.
    """
    for partial in cache.glob("*/.partial-*"):
        with suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > DAY_S:
                partial.unlink()
    found = [
        (about.st_mtime, about.st_size, path)
        for folder in cache.glob("*/")
        for path, about in _stored(folder)
    ]
    excess = sum(size for _, size, _ in found) - limit_gb * 1e9
    deleted = 0
    for _, size, path in sorted(found):
        if deleted >= excess:
            break
        path.unlink(missing_ok=True)
        deleted += size
    return deleted


def _stored(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The complete files of a folder; not those being written, whose names begin with a dot."""
    for path in folder.glob("[!.]*.safetensors"):
        with suppress(FileNotFoundError):  # deleted meanwhile by another process
            yield path, path.stat()


def delete(folder: Path) -> None:
    """Deletes the files of a folder of the cache, and the folder unless something is left in it."""
    for path in folder.glob("[!.]*"):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache: features of one encoder with one preprocessing."""

    folder: Path
    model: str
    image_size: int
    files: int
    megabytes: float


def cache_entries(cache: Path) -> list[CacheEntry]:
    """The folders of the cache, largest first. Raises InputError for a damaged description."""
    found = []
    for described in sorted(cache.glob("*/about.json")):
        try:
            note = json.loads(described.read_text(encoding="utf-8"))
            model, size = note["model"], note.get("size", note["preprocess"]["image_size"])
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{described} is damaged ({error}); delete its folder, it will be rebuilt"
            ) from error
        sizes = [about.st_size for _, about in _stored(described.parent)]
        found.append(CacheEntry(described.parent, model, size, len(sizes), sum(sizes) / 1e6))
    return sorted(found, key=lambda entry: -entry.megabytes)
