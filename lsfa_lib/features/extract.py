"""Sample -> features of both modalities on one grid of patches, by the frozen backbones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lsfa_lib.config import Config, ImageEncoderConfig, PointEncoderConfig, config_hash
from lsfa_lib.features.checkpoints import PACKAGE_POINTS, fingerprint, load_point_mae
from lsfa_lib.features.fpfh import fpfh_patches
from lsfa_lib.features.geometry import patch_weights, released_patch_weights, spread
from lsfa_lib.features.image import load_image_encoder
from lsfa_lib.features.point_mae import POINT_BERT, PUBLISHED, SMALL, PointMAE
from lsfa_lib.features.weights import of_model, ready
from lsfa_lib.records import MODALITIES, Modality, ModalityFeatures, PatchFeatures, Sample
from lsfa_lib.storage.files import InputError

ARCHITECTURES = {"point_mae": PUBLISHED, "point_bert": POINT_BERT, "point_mae_small": SMALL}
FORMAT = 1
"""Raised when extraction changes its result, so that older cache files are not read."""


@dataclass(frozen=True)
class Encoders:
    """Both frozen backbones and what identifies their weights."""

    image: nn.Module
    points: PointMAE | None
    """None where the config asks for FPFH, which has no weights."""
    keys: dict[Modality, str]
    """One cache folder each: changes with preprocessing, encoder settings, weights or format."""
    about: dict[Modality, dict[str, str | bool]]
    """Model, sha256 of its weights and whether they are random, for result and report."""


def load_encoders(config: Config, device: torch.device) -> Encoders:
    """The two backbones of `config`, frozen, on `device`.

    Raises InputError for weights that are missing, altered or incomplete.
    """
    image = load_image_encoder(config.image_encoder, config.preprocess.image_size, device)
    points = None
    if config.point_encoder.model != "fpfh":
        points = load_points(config.point_encoder).to(device)
    return described_encoders(image, points, config)


def load_points(config: PointEncoderConfig) -> PointMAE:
    """The Point-MAE of a config with its weights, frozen. Raises InputError."""
    architecture = ARCHITECTURES[config.model]
    outside = [tap for tap in config.taps if not 0 <= tap < architecture.depth]
    if outside:
        raise InputError(
            f"point_encoder.taps has {outside[0]}, but {config.model!r} has the blocks 0 to "
            f"{architecture.depth - 1}; choose among these"
        )
    architecture = replace(architecture, taps=config.taps or architecture.taps)
    points = PointMAE(config.groups, config.group_size, config.norm, architecture)
    path, known = Path(config.weights), of_model(config.model)
    if config.weights == "package":
        path = PACKAGE_POINTS
    elif known and path.name == known.remote.name and not path.exists():
        path = ready(known)
    return load_point_mae(points, path, config.sha256).without_unused()


def described_encoders(image: nn.Module, points: PointMAE | None, config: Config) -> Encoders:
    """These backbones with the keys and descriptions that follow from their present weights."""
    prints: dict[Modality, str] = {
        "rgb": fingerprint(image),
        "3d": "none" if points is None else fingerprint(points),
    }
    settings: dict[Modality, ImageEncoderConfig | PointEncoderConfig] = {
        "rgb": config.image_encoder,
        "3d": config.point_encoder,
    }
    keys: dict[Modality, str] = {
        m: config_hash(FORMAT, config.preprocess, config.projection, settings[m], prints[m])
        for m in MODALITIES
    }
    about: dict[Modality, dict[str, str | bool]] = {
        m: {
            "model": settings[m].model,
            "sha256": prints[m],
            "random": settings[m].weights == "random" and prints[m] != "none",
        }
        for m in MODALITIES
    }
    return Encoders(image, points, keys, about)


@torch.inference_mode()
def image_features(sample: Sample, encoders: Encoders, config: Config) -> ModalityFeatures:
    """Image tokens (h*w, D) and the adaptive average pooling that spreads them on the grid.

    For 28 -> 56 this "pooling" is exact 2 x 2 replication, so no copy is stored or searched.
    """
    tokens, (rows, columns) = encoders.image(sample.rgb[None])
    along_rows = adaptive_pooling(rows, config.grid)
    along_columns = adaptive_pooling(columns, config.grid)
    return ModalityFeatures(tokens[0], to_torch(scipy.sparse.kron(along_rows, along_columns)))


@torch.inference_mode()
def point_features(sample: Sample, encoders: Encoders, config: Config) -> ModalityFeatures:
    """Point tokens (T, D) and the sparse weights from them to the grid (Eq. 1)."""
    projection = config.projection
    if encoders.points is None:
        tokens, weights = fpfh_patches(
            sample.xyz, sample.valid, config.point_encoder, projection.patch_px
        )
        return ModalityFeatures(tokens, weights)
    centres, tokens = encoders.points(sample.xyz[:, sample.valid].T.contiguous())
    pool = patch_weights if projection.pooling == "valid_mean" else released_patch_weights
    weights = pool(sample.xyz, sample.valid, centres, projection.patch_px, projection.neighbours)
    return ModalityFeatures(tokens, weights)


EXTRACT: dict[Modality, Callable[[Sample, Encoders, Config], ModalityFeatures]] = {
    "3d": point_features,
    "rgb": image_features,
}


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


def adaptive_pooling(size: int, out: int) -> scipy.sparse.csr_matrix:
    """The matrix (out, size) of one-dimensional adaptive average pooling."""
    start = np.arange(out) * size // out
    end = -(-(np.arange(1, out + 1) * size) // out)
    matrix = scipy.sparse.lil_matrix((out, size))
    for row, (a, b) in enumerate(zip(start, end, strict=True)):
        matrix[row, a:b] = 1.0 / (b - a)
    return matrix.tocsr()


def to_torch(matrix: scipy.sparse.spmatrix) -> Float[Tensor, "P T"]:
    """The same matrix as torch.sparse_csr, float32."""
    m = scipy.sparse.csr_matrix(matrix)
    m.eliminate_zeros()  # small Kronecker products are stored with them
    return torch.sparse_csr_tensor(
        torch.from_numpy(m.indptr.astype(np.int64)),
        torch.from_numpy(m.indices.astype(np.int64)),
        torch.from_numpy(m.data.astype(np.float32)),
        size=m.shape,
        check_invariants=False,
    )
