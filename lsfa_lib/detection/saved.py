"""A fitted detector as one file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from lsfa_lib.adaptation.adaptors import described, restored
from lsfa_lib.config import from_dict
from lsfa_lib.detection.detector import Detector, Scale
from lsfa_lib.detection.heads import head_numbers, head_tensors, restored_head
from lsfa_lib.detection.memory import Bank
from lsfa_lib.storage.files import InputError, atomic_write

HEADER = "lsfa_detector"


def save(detector: Detector, path: Path) -> None:
    """Writes one safetensors file: banks, adaptors, heads, and all else as JSON in its header."""
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
        "config": asdict(detector.config),
        "adaptors": detector.adaptors and described(detector.adaptors),
        "heads": {m: head_numbers(head) for m, head in detector.heads.items()},
    }
    weights = detector.adaptors.state_dict() if detector.adaptors else {}
    tensors |= {f"adaptors.{name}": t.cpu().contiguous() for name, t in weights.items()}
    for m, head in detector.heads.items():
        tensors |= {f"heads.{m}.{n}": t.cpu().contiguous() for n, t in head_tensors(head).items()}
    with atomic_write(path) as file:
        file.write_bytes(safetensors_bytes(tensors, metadata={HEADER: json.dumps(about)}))


def load(path: Path, device: torch.device) -> Detector:
    """The detector that `save` wrote, with identical predictions. InputError for any other file."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = json.loads(file.metadata()[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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
                for m, numbers in about.get("heads", {}).items()
            },
        )
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, InputError) as error:
        raise InputError(
            f"{path} is not a saved detector ({error}); fit and save it again"
        ) from error


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
