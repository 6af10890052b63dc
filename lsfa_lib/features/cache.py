"""The feature cache: compact features of each scan, one file a modality.

Files are written whole, memory-mapped when read and checked by key; one that was cut short is
rebuilt, not trusted. About 1 to 4 MB a scan, against 24 for patch features in float32.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from lsfa_lib.config import Config
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.features.extract import EXTRACT, Encoders, patch_valid
from lsfa_lib.records import MODALITIES, ModalityFeatures, PatchFeatures, Sample
from lsfa_lib.storage.files import InputError, atomic_write


def extract(sample: Sample, encoders: Encoders, config: Config) -> PatchFeatures:
    """Features of a sample, as they would come back from the cache; nothing is stored."""
    packed = {m: pack(EXTRACT[m](sample, encoders, config)) for m in MODALITIES}
    device = sample.xyz.device
    return PatchFeatures(
        by_modality={m: unpack(packed[m], device) for m in MODALITIES},
        valid=patch_valid(sample.valid, config.projection.patch_px),
        grid=(config.grid, config.grid),
        name=sample.name,
    )


def cached_features(
    entry: Entry,
    encoders: Encoders,
    config: Config,
    device: torch.device,
    sample: Callable[[], Sample],
) -> PatchFeatures:
    """Features of a scan from the cache, or from its `sample()` and then stored.

    A file that is missing, cut short or written for another key is rebuilt.
    """
    scan = content_hash(entry.files)
    paths = {m: Path(config.cache) / encoders.keys[m] / f"{scan}.safetensors" for m in MODALITIES}
    packed = {m: _read(paths[m]) if config.cache else None for m in MODALITIES}
    ready: Sample | None = None
    for m in MODALITIES:
        if packed[m] is None:
            ready = ready or sample()
            fresh = pack(EXTRACT[m](ready, encoders, config))
            fresh["valid"] = patch_valid(ready.valid, config.projection.patch_px).cpu()
            packed[m] = fresh
            if config.cache:
                _write(paths[m], fresh, encoders.about[m], config)
    tensors = {m: found for m in MODALITIES if (found := packed[m]) is not None}
    return PatchFeatures(
        by_modality={m: unpack(tensors[m], device) for m in MODALITIES},
        valid=tensors["3d"]["valid"].to(device),
        grid=(config.grid, config.grid),
        name=entry.name,
    )


def pack(features: ModalityFeatures) -> dict[str, Tensor]:
    """The tensors of a cache file: half-precision values, small integers, on the CPU."""
    weights = features.weights
    return {
        "tokens": features.tokens.cpu().half().contiguous(),
        "starts": weights.crow_indices().cpu().int(),
        "columns": weights.col_indices()
        .cpu()
        .to(torch.int16 if features.tokens.shape[0] < 2**15 else torch.int32),
        "values": weights.values().cpu().half(),
    }


def unpack(tensors: dict[str, Tensor], device: torch.device) -> ModalityFeatures:
    """What `pack` packed, in float32 on `device`."""
    starts = tensors["starts"].to(device).long()
    tokens = tensors["tokens"].to(device).float()
    weights = torch.sparse_csr_tensor(
        starts,
        tensors["columns"].to(device).long(),
        tensors["values"].to(device).float(),
        size=(starts.shape[0] - 1, tokens.shape[0]),
        check_invariants=False,
    )
    return ModalityFeatures(tokens, weights)


def content_hash(files: tuple[Path, ...]) -> str:
    """sha256 over the bytes of the files: a changed scan is never mistaken for its old features."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def _write(
    path: Path, tensors: dict[str, Tensor], about: dict[str, str | bool], config: Config
) -> None:
    described = path.parent / "about.json"
    if not described.exists():
        note = {**about, "preprocess": dataclasses.asdict(config.preprocess)}
        with atomic_write(described) as file:
            file.write_text(json.dumps(note, indent=1), encoding="utf-8")
    with atomic_write(path) as file:
        file.write_bytes(safetensors_bytes(tensors, metadata=_mark(path)))


def _mark(path: Path) -> dict[str, str]:
    """What a file says it holds; one entry, since safetensors writes several in any order."""
    return {"holds": f"{path.parent.name}/{path.stem}"}


def _read(path: Path) -> dict[str, Tensor] | None:
    """The stored tensors, memory-mapped; None where they are missing or must not be trusted."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata() != _mark(path):
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        # Cut short or damaged: the caller extracts again and replaces the file.
        return None


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache: features of one encoder with one preprocessing."""

    folder: Path
    model: str
    image_size: int
    files: int
    megabytes: float


def cache_entries(cache: Path) -> list[CacheEntry]:
    """What the cache holds, largest first."""
    found = []
    for described in sorted(cache.glob("*/about.json")):
        try:
            note = json.loads(described.read_text(encoding="utf-8"))
            model, size = note["model"], note["preprocess"]["image_size"]
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{described} is damaged ({error}); delete its folder, it will be rebuilt"
            ) from error
        stored = list(described.parent.glob("*.safetensors"))
        size_mb = sum(file.stat().st_size for file in stored) / 1e6
        found.append(CacheEntry(described.parent, model, size, len(stored), size_mb))
    return sorted(found, key=lambda entry: -entry.megabytes)
