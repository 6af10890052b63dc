"""Weights from untrusted files: hash first, tensors only, each name and shape checked."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as safetensors_of_bytes
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from lsfa_lib.features.point_mae import PointMAE
from lsfa_lib.storage.files import InputError, atomic_write

PACKAGE_POINTS = Path(__file__).with_name("point_mae_small.safetensors")
"""Weights of the small Point-MAE, pretrained by `lsfa pretrain-points`."""
POINT_MAE_PARTS = ("encoder", "pos_embed", "blocks", "norm", "reduce_dim", "cls_token", "cls_pos")
"""Parts of a Point-MAE or Point-BERT that features need; decoder, heads, mask token are not."""
PREFIXES = ("module.", "MAE_encoder.", "transformer_q.")
"""Prefixes of the encoder's entries in their checkpoints; other entries are ignored."""

# A training loop's metrics are numpy scalars, under the module name of numpy 1 or 2: plain data
# that the tensors-only reader refuses unless allowed.
_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
_PLAIN_DATA: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
]


def load_point_mae(model: PointMAE, weights: str | Path, sha256: str = "") -> PointMAE:
    """`model` with the encoder weights of a Point-MAE or Point-BERT checkpoint, frozen.

    `weights` is a .pth or .safetensors file, or `random` for seeded random weights. Raises
    InputError where the file is missing, damaged, not the one `sha256` names, or lacks a single
    entry: nothing silently keeps its initial value.
    """
    if str(weights) == "random":
        with seeded():
            model.apply(_reset)
    else:
        path = Path(weights)
        if sha256 and path.is_file():
            _check_hash(path, sha256)
        state = read_tensors(path)
        for prefix in PREFIXES:
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            state = own or state
        kept = {k: v for k, v in state.items() if k.split(".")[0] in POINT_MAE_PARTS}
        load_strictly(model, kept, path)
    return model.requires_grad_(False).eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors or torch file; no code in the file is run.

    Of a training checkpoint, those under `base_model`, `model` or `state_dict`. Raises InputError.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such weights file; put it there, or give its path in the encoder's "
            "`weights` (the word `random` stands for random weights)"
        )
    try:
        if path.suffix == ".safetensors":
            return stored_tensors(path)[1]
        with torch.serialization.safe_globals(_PLAIN_DATA):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: is damaged or contains more than tensors (code in it was not run); "
            "save it as .safetensors, or download it again"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, SafetensorError) as error:
        raise InputError(
            f"{path}: cannot be read as weights, it is damaged or truncated; download it again"
        ) from error
    return _tensors(found, path)


def stored_tensors(path: Path, device: str = "cpu") -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a .safetensors file, memory-mapped where the file system can do that.

    Raises OSError where it cannot be read, SafetensorError where it is damaged.
    """
    try:
        with safe_open(path, framework="pt", device=device) as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, found
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
    content = path.read_bytes()
    found = {name: tensor.to(device) for name, tensor in safetensors_of_bytes(content).items()}
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__", {}), found


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes tensors of any device as .safetensors, atomically."""
    stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:
        file.write_bytes(safetensors_bytes(stored, metadata))


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Fills every entry of `module`'s state dict from `state`.

    Raises InputError for the first entry that is missing, left over or of another shape.
    """
    for misfit in _misfits(state, module.state_dict()):
        raise InputError(
            f"{path}: {misfit}; give the weights of this model ({type(module).__name__})"
        )
    module.load_state_dict(dict(state))


def _misfits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in wanted.items():
        if name not in state:
            yield f"lacks {name!r}, has {len(state)} of {len(wanted)} entries"
        elif state[name].shape != tensor.shape:
            found, own = tuple(state[name].shape), tuple(tensor.shape)
            yield f"{name!r} has shape {found}, expected {own}"
    for name in sorted(set(state) - set(wanted)):
        yield f"holds {name!r}, which this model does not have"


def sha256_of(path: Path) -> str:
    """The sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(module: nn.Module) -> str:
    """16 hex digits that change with any name, shape, type or value of the module's state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """A block in which torch's global generator starts from `seed`; it is restored afterwards.

    Layers can be initialised from the global generator only.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _check_hash(path: Path, sha256: str) -> None:
    seen = sha256_of(path)
    if seen != sha256.lower():
        raise InputError(
            f"{path}: its sha256 is {seen}, expected {sha256}; download it again, or set "
            "point_encoder.sha256 to the file's own (empty accepts any)"
        )


def _tensors(found: Any, path: Path) -> dict[str, Tensor]:
    for entry in ("base_model", "model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(entry), Mapping):
            found = found[entry]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(
            f"{path}: holds {type(found).__name__} without named tensors; give a state dict, or a "
            "checkpoint with one under `base_model`, `model` or `state_dict`"
        )
    return dict(found)


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if reset is not None:
        reset()
