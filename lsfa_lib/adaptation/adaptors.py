"""Small networks that adapt the rows of frozen features, and the heads that compare modalities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from lsfa_lib.config import AdaptorConfig, structured
from lsfa_lib.features.checkpoints import seeded, stored_tensors, write_tensors
from lsfa_lib.features.extract import distinct_rows
from lsfa_lib.features.geometry import copying_weights
from lsfa_lib.records import Modality, ModalityFeatures, PatchFeatures
from lsfa_lib.storage.files import InputError, atomic_write


@dataclass(frozen=True)
class ScanRows:
    """The different feature rows of one scan in one modality, and which patch has which.

    Patches that copy one image token share a row, so that nothing is computed on copies.
    """

    rows: Float[Tensor, "R D"]
    index: Int[Tensor, " P"]
    """Row of each of the P valid patches."""
    copies: Float[Tensor, " R"]
    """Patches with that row which take part in attention."""

    @property
    def counts(self) -> Float[Tensor, " R"]:
        """Valid patches with each row."""
        # Whole numbers up to thousands: never in half precision.
        dtype = torch.promote_types(self.rows.dtype, torch.float32)
        return torch.bincount(self.index, minlength=len(self.rows)).to(dtype)


def scan_rows(features: PatchFeatures, config: AdaptorConfig) -> dict[Modality, ScanRows]:
    """Distinct rows of the valid patches by modality; with `attend="all"` the background's too."""
    valid, attending = features.valid, features
    if config.attend == "all":
        attending = replace(features, valid=torch.ones_like(valid))
    found: dict[Modality, ScanRows] = {}
    for m in features.by_modality:
        rows, index = distinct_rows(attending, m)
        none = index < 0
        if bool(none[valid].any()):
            raise InputError(
                f"{features.name}: a valid patch has no feature row in {m}; extract it again"
            )
        if bool(none[attending.valid].any()):
            # Background without a token of its own attends as zeros.
            rows = torch.cat((rows, torch.zeros_like(rows[:1])))
            index = index.masked_fill(none, len(rows) - 1)
        copies = torch.bincount(index[attending.valid], minlength=len(rows)).to(rows)
        found[m] = ScanRows(rows, index[valid], copies)
    return found


def sampled(scan: ScanRows, patches: Int[Tensor, " p"]) -> ScanRows:
    """The scan with only these of its valid patches."""
    used, index = torch.unique(scan.index[patches], return_inverse=True)
    return ScanRows(scan.rows[used], index, torch.bincount(index).to(scan.rows))


class EncoderLayer(nn.Module):
    """Pre-norm transformer encoder layer over the patches of one scan, without positions.

    x = x + MHA(LN(x)),  x = x + MLP(LN(x))

    A row that stands for c patches enters attention with log c added to its logits, which equals
    attention over the c copies.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = attention_heads(dim, heads)
        hidden = round(mlp_ratio * dim)
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(
        self, rows: Float[Tensor, "R D"], copies: Float[Tensor, " R"]
    ) -> Float[Tensor, "R D"]:
        r, d = rows.shape
        q, k, v = self.qkv(self.norm_1(rows)).view(r, 3, self.heads, d // self.heads).unbind(1)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        weights = copies.log().to(q)[None, None, None].expand(1, 1, r, r)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=weights)
        rows = rows + self.out(mixed[0].transpose(0, 1).reshape(r, d))
        return rows + self.mlp(self.norm_2(rows))


class Pointwise(nn.Module):
    """x + W x + b for each patch alone: a linear layer, which is also a 1 x 1 convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(
        self, rows: Float[Tensor, "R D"], copies: Float[Tensor, " R"]
    ) -> Float[Tensor, "R D"]:
        return rows + self.map(rows)


def attention_heads(dim: int, most: int) -> int:
    """The largest divisor of `dim` up to `most` that leaves each head 8 dimensions, or 1."""
    return max(h for h in range(1, most + 1) if dim % h == 0 and (h == 1 or dim // h >= 8))


def new_layers(dim: int, config: AdaptorConfig) -> list[nn.Module]:
    """The layers of `adaptor.structure`; `linear` and `conv_1x1` are two names of one map."""
    if config.structure == "none":
        return []
    if config.structure in ("linear", "conv_1x1"):
        return [Pointwise(dim)]
    depth = 2 if config.structure == "encoder_2" else 1
    return [EncoderLayer(dim, config.heads, config.mlp_ratio) for _ in range(depth)]


class Adaptor(nn.Module):
    """Adapts the rows of one modality; `head` projects them to the width all modalities share."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, config: AdaptorConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(()))
        self.layers = nn.ModuleList(new_layers(dim, config))
        self.head = nn.Linear(dim, config.projection)

    def forward(self, scan: ScanRows) -> Float[Tensor, "R D"]:
        rows = (scan.rows - self.mean) / self.std
        for layer in self.layers:
            rows = layer(rows, scan.copies)
        return rows


class Adaptors(nn.Module):
    """One adaptor per modality, trained together and saved together."""

    by_modality: Any  # nn.ModuleDict does not know what it holds

    def __init__(self, dims: dict[Modality, int], config: AdaptorConfig) -> None:
        super().__init__()
        self.config, self.dims = config, dims
        self.by_modality = nn.ModuleDict({m: Adaptor(dim, config) for m, dim in dims.items()})

    def forward(self, scans: dict[Modality, ScanRows]) -> dict[Modality, ScanRows]:
        """The same patches with adapted rows."""
        return {m: replace(s, rows=self.by_modality[m](s)) for m, s in scans.items()}

    def project(self, m: Modality, rows: Float[Tensor, "R D"]) -> Float[Tensor, "R C"]:
        """H_m of adapted rows."""
        return self.by_modality[m].head(rows)


def new_adaptors(train: Sequence[PatchFeatures], config: AdaptorConfig, seed: int) -> Adaptors:
    """Untrained adaptors for these features, standardised by them where the config says so.

    Standardised by their mean row and one scale, the root of their mean variance: distances keep
    their order.
    """
    dims = {m: features.tokens.shape[1] for m, features in train[0].by_modality.items()}
    with seeded(seed):
        adaptors = Adaptors(dims, config)
    adaptors.to(train[0].valid.device)
    if config.standardise:
        for m in dims:
            rows = torch.cat([distinct_rows(features, m)[0] for features in train])
            variance, mean = torch.var_mean(rows, dim=0)
            adaptors.by_modality[m].mean.copy_(mean)
            adaptors.by_modality[m].std.copy_(variance.mean().sqrt().clamp_min(1e-12))
    return adaptors


@torch.inference_mode()
def adapt(adaptors: Adaptors | None, features: PatchFeatures) -> PatchFeatures:
    """The scan with adapted features, whose tokens are its distinct rows; unchanged for None."""
    if adaptors is None:
        return features
    adapted = adaptors(scan_rows(features, adaptors.config))
    return replace(
        features,
        by_modality={
            m: ModalityFeatures(s.rows, copying_weights(features.valid, s.index, s.rows))
            for m, s in adapted.items()
        },
    )


@torch.inference_mode()
def disagreement(adaptors: Adaptors, adapted: PatchFeatures) -> Float[Tensor, " V"]:
    """1 - cos(H_I F_I, H_P F_P) of each of the V valid patches of an adapted scan, from 0 to 2.

    With more than two modalities the mean over their pairs.
    """
    sides = []
    for m in adapted.by_modality:
        rows, index = distinct_rows(adapted, m)
        sides.append(F.normalize(adaptors.project(m, rows), dim=1)[index[adapted.valid]])
    return torch.stack([1 - (a * b).sum(1) for a, b in combinations(sides, 2)]).mean(0)


def described(adaptors: Adaptors) -> dict[str, Any]:
    """Everything but the weights, for JSON."""
    return {"dims": adaptors.dims, "adaptor": asdict(adaptors.config)}


def restored(about: dict[str, Any], weights: dict[str, Tensor], device: torch.device) -> Adaptors:
    """The adaptors of `described` with these weights (their `state_dict`), frozen, on `device`."""
    adaptors = Adaptors(about["dims"], structured(AdaptorConfig(), about["adaptor"]))
    adaptors.load_state_dict(weights)
    return adaptors.to(device).requires_grad_(False)


def save_adaptors(adaptors: Adaptors, path: Path) -> None:
    """The weights to `path` in safetensors, their structure to a .json file of the same name."""
    write_tensors(path, adaptors.state_dict())
    with atomic_write(path.with_suffix(".json")) as file:
        file.write_text(json.dumps(described(adaptors), indent=1), encoding="utf-8")


def load_adaptors(path: Path, device: torch.device) -> Adaptors:
    """What `save_adaptors` wrote, bit by bit. InputError where the files are not of that kind."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return restored(about, stored_tensors(path, str(device))[1], device)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{path} and its .json are not saved adaptors ({error}); train and save them again"
        ) from error
