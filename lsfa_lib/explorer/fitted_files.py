"""Fitted detectors and their evidence in the cache folder; `lsfa cache` lists and prunes them.

A file carries the mark of what it was made from in its name. One of another mark, such as from
scans that have since been replaced, is not read and goes when the new one is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from lsfa_lib.config import Config
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.detection.detector import Detector, load, save
from lsfa_lib.explorer.evidence import Distances, Evidence
from lsfa_lib.records import MODALITIES
from lsfa_lib.storage.files import InputError, atomic_write


@dataclass(frozen=True)
class FittedFiles:
    """The files of one category under one recipe; nothing is kept where `folder` is None."""

    folder: Path | None

    def describe(self, category: str, config: Config) -> None:
        """What `lsfa cache` says of the folder."""
        if self.folder is None:
            return
        note = {"model": f"detector of {category}", "preprocess": asdict(config.preprocess)}
        with atomic_write(self.folder / "about.json") as file:
            file.write_text(json.dumps(note, indent=1), encoding="utf-8")

    def detector(self, mark: str, device: torch.device) -> Detector | None:
        """The detector of this mark; None where it is missing or damaged."""
        path = self._path("detector", mark)
        if path is None or not path.exists():
            return None
        try:
            return load(path, device)
        except InputError:
            return None

    def keep_detector(self, mark: str, detector: Detector) -> None:
        """Takes the place of the detector of another mark."""
        if path := self._path("detector", mark):
            save(detector, path)
            _only(path)

    def evidence(
        self, mark: str, test: tuple[Entry, ...], side: int
    ) -> tuple[Evidence, Distances] | None:
        """The evidence of this mark on `test`; None where it is missing or damaged."""
        path = self._path("evidence", mark)
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as file:
                kept: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError:
            return None
        valid = np.unpackbits(kept["valid"], axis=-1, count=side).astype(bool)
        parts = {
            name: {m: kept[f"{m}.{name}"] for m in MODALITIES}
            for name in ("distances", "nearest", "scores", "good")
        }
        good = parts.pop("good")
        names, kinds = zip(*((e.name, e.kind) for e in test), strict=True)
        return Evidence(names, kinds, valid, **parts), good

    def keep_evidence(self, mark: str, evidence: Evidence, good: Distances) -> None:
        """Takes the place of the evidence of another mark."""
        path = self._path("evidence", mark)
        if path is None:
            return
        tensors = {"valid": torch.from_numpy(np.packbits(evidence.valid, axis=-1))}
        for m in MODALITIES:
            parts = {
                "distances": evidence.distances[m],
                "nearest": evidence.nearest[m].astype(np.int32),
                "scores": evidence.scores[m],
                "good": good[m],
            }
            tensors |= {f"{m}.{name}": torch.from_numpy(part) for name, part in parts.items()}
        with atomic_write(path) as file:
            file.write_bytes(safetensors_bytes(tensors))
        _only(path)

    def _path(self, name: str, mark: str) -> Path | None:
        return self.folder / f"{name}-{mark}.safetensors" if self.folder else None


def _only(path: Path) -> None:
    """Older files of the same name, but another mark, go."""
    name = path.name.partition("-")[0]
    for other in path.parent.glob(f"{name}-*{path.suffix}"):
        if other != path:
            other.unlink(missing_ok=True)
