"""A fitted detector as one file: tensors and JSON, no code, sealed by a digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from lsfa_lib.adaptation.adaptors import described, restored
from lsfa_lib.config import from_dict
from lsfa_lib.datasets.capture import Capture
from lsfa_lib.detection.detector import Detector, Scale
from lsfa_lib.detection.heads import head_numbers, head_tensors, restored_head
from lsfa_lib.detection.memory import Bank
from lsfa_lib.detection.origin import Origin
from lsfa_lib.features.checkpoints import stored_tensors
from lsfa_lib.storage.files import InputError, atomic_write

HEADER = "lsfa_detector"
"""Key of the digest and the JSON: one, since the order of several in a header is random."""
FORMAT = 2
"""Of the file; raised when older versions of the package could not read it rightly."""


def save(detector: Detector, path: Path, origin: Origin | None = None) -> None:
    """Writes one safetensors file: banks, adaptors, heads, and all else as JSON in its header.

    With its origin the detector can be loaded for scans from anywhere (deployment/).
    """
    tensors, about = _contents(detector)
    about["format"] = FORMAT
    if origin:
        tensors |= {f"origin.{m}.means": t.contiguous() for m, t in origin.means.items()}
        about["origin"] = {n: v for n, v in vars(origin).items() if n not in ("means", "captures")}
        about["origin"]["captures"] = [asdict(capture) for capture in origin.captures]
    text = json.dumps(about)
    with atomic_write(path) as file:
        header = {HEADER: f"{_digest(text, tensors)} {text}"}
        file.write_bytes(safetensors_bytes(tensors, metadata=header))


def load(path: Path, device: torch.device) -> Detector:
    """The detector that `save` wrote, with identical predictions. InputError for any other file."""
    return load_complete(path, device)[0]


def load_complete(path: Path, device: torch.device) -> tuple[Detector, Origin | None]:
    """The detector and its origin, None if it was saved without. InputError for any other file."""
    try:
        metadata, tensors = stored_tensors(path, str(device))
        digest, _, text = metadata[HEADER].partition(" ")
        about = json.loads(text)
        _require_format(about)
        if digest != _digest(text, tensors):
            raise InputError("its content does not match its digest")
        origin = _origin(about["origin"], tensors) if "origin" in about else None
        return _detector(about, tensors, device), origin
    except (
        *(OSError, SafetensorError, KeyError, TypeError, ValueError),
        *(RuntimeError, AttributeError),
    ) as error:
        raise InputError(
            f"{path} is not a saved detector ({error}); fit and save it again"
        ) from error


def _contents(detector: Detector) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a detector by name, and all else as plain values."""
    tensors, numbers = {}, {}
    for m, bank in detector.banks.items():
        tensors[f"{m}.rows"] = bank.rows.cpu().contiguous()
        tensors[f"{m}.source"] = bank.source.cpu().contiguous()
        if bank.whitening is not None:
            tensors[f"{m}.whitening"] = bank.whitening.cpu().contiguous()
        numbers[m] = {"mean": bank.mean, "std": bank.std}
    about = {
        "banks": numbers,
        "scales": {e: asdict(scale) for e, scale in detector.scales.items()},
        "thresholds": detector.thresholds,
        "validation_scores": detector.validation_scores,
        "surface": detector.surface,
        "peaks": detector.peaks,
        "config": asdict(detector.config),
        "adaptors": detector.adaptors and described(detector.adaptors),
        "heads": {m: head_numbers(head) for m, head in detector.heads.items()},
    }
    weights = detector.adaptors.state_dict() if detector.adaptors else {}
    tensors |= {f"adaptors.{name}": t.cpu().contiguous() for name, t in weights.items()}
    for m, head in detector.heads.items():
        tensors |= {f"heads.{m}.{n}": t.cpu().contiguous() for n, t in head_tensors(head).items()}
    return tensors, about


def _detector(about: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> Detector:
    banks = {
        m: Bank(
            rows=tensors[f"{m}.rows"],
            source=tensors[f"{m}.source"],
            whitening=tensors.get(f"{m}.whitening"),
            **numbers,
        )
        for m, numbers in about["banks"].items()
    }
    adaptors = None
    if about["adaptors"] is not None:
        adaptors = restored(about["adaptors"], _under("adaptors.", tensors), device)
    return Detector(
        banks=banks,
        scales={e: Scale(**scale) for e, scale in about["scales"].items()},
        thresholds=about["thresholds"],
        validation_scores=about["validation_scores"],
        config=from_dict(about["config"]),
        adaptors=adaptors,
        heads={
            m: restored_head(_under(f"heads.{m}.", tensors), numbers)
            for m, numbers in about["heads"].items()
        },
        surface={mode: (low, high) for mode, (low, high) in about["surface"].items()},
        peaks=about["peaks"],
    )


def _origin(about: dict[str, Any], tensors: dict[str, Tensor]) -> Origin:
    captures = tuple(Capture(**_with_tuples(each)) for each in about.pop("captures"))
    means = {m: tensors[f"origin.{m}.means"].cpu() for m in about["keys"]}
    return Origin(captures=captures, means=means, **_with_tuples(about))


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """The values with tuples where JSON has lists."""
    return {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}


def _require_format(about: dict[str, Any]) -> None:
    found = about.get("format", 1)
    if found != FORMAT:
        wrote = about.get("origin", {}).get("versions", {}).get("lsfa_lib", "another version")
        raise InputError(f"format {found} of lsfa_lib {wrote}, this version reads {FORMAT}")


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    """sha256 of the JSON and of all tensors by name."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
