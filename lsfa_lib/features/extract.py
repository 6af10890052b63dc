"""Sample -> features of every modality on one grid of patches, by frozen encoders (`ENCODERS`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

from lsfa_lib.config import Config, ImageEncoderConfig, PointEncoderConfig, config_hash
from lsfa_lib.features.checkpoints import PACKAGE_POINTS, fingerprint, load_point_mae
from lsfa_lib.features.fpfh import fpfh_patches
from lsfa_lib.features.geometry import (
    csr_matrix,
    one_thread,
    patch_weights,
    released_patch_weights,
    spread,
)
from lsfa_lib.features.image import LITE0, fold_batch_norms, load_image_encoder, require_layers
from lsfa_lib.features.point_mae import ARCHITECTURES, PointMAE
from lsfa_lib.features.weights import of_model, ready
from lsfa_lib.records import Modality, ModalityFeatures, PatchFeatures, Sample
from lsfa_lib.storage.files import located

FORMAT = 1
"""Raised when extraction changes its result, so that older cache files are not read."""


@dataclass(frozen=True)
class Encoders:
    """The frozen backbones, by modality, and what identifies their weights."""

    by_modality: dict[Modality, nn.Module | None]
    """None for FPFH, which has no weights."""
    keys: dict[Modality, str]
    """One cache folder each: changes with preprocessing, encoder settings, weights or format."""
    about: dict[Modality, dict[str, str | bool]]
    """Model, sha256 of its weights and whether they are random, for result and report."""


def load_encoders(
    config: Config, device: torch.device, modalities: Collection[Modality] | None = None
) -> Encoders:
    """The backbones of `config` for these modalities (None: all), frozen, on `device`.

    Raises InputError for weights that are missing, altered or incomplete.
    """
    _keep_freed_memory()
    used = ENCODERS if modalities is None else modalities
    loaded = {m: e.load(config, device) for m, e in ENCODERS.items() if m in used}
    return described_encoders(loaded, config)


def _keep_freed_memory() -> None:
    """Lets malloc reuse freed blocks of up to 31 MB instead of returning them to the system.

    New zeroed pages from the system take up to a third of the time of a scan. glibc raises its
    thresholds to the size of a block that is freed (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def described_encoders(
    by_modality: Mapping[Modality, nn.Module | None], config: Config
) -> Encoders:
    """These backbones with the keys and descriptions that follow from their present weights."""
    keys: dict[Modality, str] = {}
    about: dict[Modality, dict[str, str | bool]] = {}
    for m, backbone in by_modality.items():
        settings = getattr(config, ENCODERS[m].stage)
        weights = "none" if backbone is None else fingerprint(backbone)
        keys[m] = config_hash(FORMAT, m, config.preprocess, config.projection, settings, weights)
        random = settings.weights == "random" and backbone is not None
        about[m] = {"model": settings.model, "sha256": weights, "random": random}
    return Encoders(dict(by_modality), keys, about)


@one_thread()
@torch.inference_mode()
def modality_features(
    m: Modality, sample: Sample, encoders: Encoders, config: Config
) -> ModalityFeatures:
    """Features of one modality of a sample."""
    return ENCODERS[m].extract(encoders.by_modality[m], sample, config)


def load_image(config: Config, device: torch.device) -> nn.Module:
    """The image backbone of `config`, folded unless it is to be trained. Raises InputError."""
    encoder = load_image_encoder(config.image_encoder, config.colour_size, device)
    # The order of its children is that of its layers; other networks may name them otherwise.
    if config.image_encoder.model == LITE0 and config.finetune.method == "none":
        fold_batch_norms(encoder.backbone)
    return _plain_attention(encoder, config.image_encoder.precision, device)


def image_features(encoder: Any, sample: Sample, config: Config) -> ModalityFeatures:
    """Image tokens (h*w, D) and the adaptive average pooling that spreads them on the grid.

    For 28 -> 56 this "pooling" is exact 2 x 2 replication, so no copy is stored or searched.
    """
    with _reduced_precision(config.image_encoder, sample.rgb.device):
        tokens, (rows, columns) = encoder(sample.rgb[None])
    return ModalityFeatures(tokens[0].float(), pooling_weights(rows, columns, config.grid))


def load_point_encoder(config: Config, device: torch.device) -> nn.Module | None:
    """The point backbone of `config`; None for FPFH. Raises InputError."""
    if config.point_encoder.model == "fpfh":
        return None
    encoder = load_points(config.point_encoder).to(device)
    return _plain_attention(encoder, config.point_encoder.precision, device)


def load_points(config: PointEncoderConfig) -> PointMAE:
    """The Point-MAE of a config with its weights, frozen. Raises InputError."""
    architecture = ARCHITECTURES[config.model]
    require_layers("point_encoder.taps", config.taps, architecture.depth, config.model)
    architecture = replace(architecture, taps=config.taps or architecture.taps)
    points = PointMAE(config.groups, config.group_size, config.norm, architecture)
    path, known = located(Path(config.weights)), of_model(config.model)
    if config.weights == "package":
        path = PACKAGE_POINTS
    elif known and path.name == known.remote.name and not path.exists():
        path = ready(known)
    load_point_mae(points, path, config.sha256)
    # No feature depends on the blocks after the last tap.
    points.blocks.blocks = points.blocks.blocks[: max(architecture.taps) + 1]
    return points


def point_features(encoder: Any, sample: Sample, config: Config) -> ModalityFeatures:
    """Point tokens (T, D) and the sparse weights from them to the grid (Eq. 1)."""
    projection = config.projection
    if encoder is None:
        tokens, weights = fpfh_patches(
            sample.xyz, sample.valid, config.point_encoder, projection.patch_px
        )
        return ModalityFeatures(tokens, weights)
    with _reduced_precision(config.point_encoder, sample.xyz.device):
        centres, tokens = encoder(sample.xyz[:, sample.valid].T.contiguous())
    pool = patch_weights if projection.pooling == "valid_mean" else released_patch_weights
    weights = pool(sample.xyz, sample.valid, centres, projection.patch_px, projection.neighbours)
    return ModalityFeatures(tokens.float(), weights)


def _reduced_precision(
    settings: ImageEncoderConfig | PointEncoderConfig, device: torch.device
) -> AbstractContextManager[Any]:
    """A block in which matrix products have the precision of these settings."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=settings.precision == "bfloat16", cache_enabled=False
    )


def _plain_attention(encoder: Any, precision: str, device: torch.device) -> Any:
    """The encoder; without fused attention for bfloat16 on a CPU, where that is half as fast."""
    if precision == "bfloat16" and device.type == "cpu":
        for module in encoder.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
    return encoder


@dataclass(frozen=True)
class ModalityEncoder:
    """How the features of one modality are made."""

    stage: str
    """Field of Config with the settings of its encoder, `model` and `weights` among them."""
    load: Callable[[Config, torch.device], nn.Module | None]
    """The frozen encoder; None for one without weights. Raises InputError."""
    extract: Callable[[Any, Sample, Config], ModalityFeatures]
    """Features of a sample by that encoder."""


ENCODERS: dict[Modality, ModalityEncoder] = {
    "3d": ModalityEncoder("point_encoder", load_point_encoder, point_features),
    "rgb": ModalityEncoder("image_encoder", load_image, image_features),
}
"""Extraction, cache, adaptors and training work on the modalities listed here, by their name only;
another one, such as normals or a second image resolution, is one more entry."""


def distinct_rows(
    features: PatchFeatures, modality: Modality
) -> tuple[Float[Tensor, "R D"], Int[Tensor, " P"]]:
    """The different feature rows of the valid patches, and which of them each patch has (-1: none).

    Where every patch copies one token (28 x 28 tokens on a 56 x 56 grid) the rows are those tokens:
    a quarter of the work in the bank and in the search, with the same result.
    """
    compact, valid = features.by_modality[modality], features.valid
    starts, columns = compact.weights.crow_indices(), compact.weights.col_indices()
    entries = starts.diff()
    index = torch.full_like(entries, -1)
    if int(entries.max()) > 1:
        index[valid] = torch.arange(int(valid.sum()), device=index.device)
        return spread(compact.weights, compact.tokens)[valid], index
    own = valid & (entries == 1)
    used, position = torch.unique(columns[starts[:-1][own]], return_inverse=True)
    index[own] = position
    return compact.tokens[used], index


def patch_valid(valid: Bool[Tensor, "S S"], patch_px: int) -> Bool[Tensor, " P"]:
    """True for patches with at least one valid pixel."""
    side = valid.shape[0] // patch_px
    return valid.view(side, patch_px, side, patch_px).any(dim=3).any(dim=1).flatten()


def pooling_weights(rows: int, columns: int, grid: int) -> Float[Tensor, "P T"]:
    """torch.sparse_csr, float32: adaptive average pooling of rows x columns tokens to the grid.

    The matrix of two dimensions is the Kronecker product of those along rows and columns.
    """
    along = (
        adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64), grid).T.numpy()
        for size in (rows, columns)
    )
    m = scipy.sparse.csr_matrix(scipy.sparse.kron(*along))
    m.eliminate_zeros()  # small Kronecker products are stored with them
    counts, columns_of, values = (
        torch.from_numpy(each) for each in (np.diff(m.indptr), m.indices, m.data)
    )
    return csr_matrix(counts.long(), columns_of.long(), values.float(), rows * columns)
