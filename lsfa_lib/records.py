"""The nouns of the library: what one stage hands to the next, with shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from lsfa_lib.config.fields import MODALITIES as MODALITIES

Rgb = UInt8[np.ndarray, "H W 3"]
Points = Float32[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]
Modality = str
"""One of MODALITIES."""
Evidence = str
"""What a patch is scored by: a modality's distance to its bank, `disagreement` or `heads`."""
Mode = str
"""One evidence, or several fused: their names joined by `+`, such as `rgb+3d`."""
MODES: tuple[Mode, ...] = ("3d", "rgb", "rgb+3d")
"""Those every detector answers in; trained alignment adds two with `disagreement`,
`detector.heads` two with `heads`."""

P_AUROC_MAP = ", P-AUROC map"
"""Ends the name of a mode whose map is that of another mode, scaled for P-AUROC (CFM's release)."""
UNLABELLED = "unlabelled"
"""Kind of a test scan of which nobody knows whether it is good: scored, but in no metric."""


def is_defective(kind: str) -> bool | None:
    """What a scan's kind says of it; None where nobody knows."""
    return None if kind == UNLABELLED else kind != "good"


@dataclass(frozen=True)
class Scan:
    """One capture as it lies on disk: colour, organised points and ground truth of equal size.

    `xyz` is in metres in the camera frame; a pixel without a reading is (0, 0, 0), and so are all
    pixels of an image without 3D. Points without colour have a shaded depth image as `rgb`, to look
    at.
    `defect` marks defective pixels and is read by metrics and figures only.
    """

    rgb: Rgb
    xyz: Points
    defect: Mask
    name: str
    """`<category>/<split>/<kind>/<stem>`, unique in a data set."""
    kind: str
    """Folder the scan was found in: `good` or the name of the defect."""
    path: Path
    """The xyz file, or the image if there is none; for error messages."""
    modalities: tuple[Modality, ...] = MODALITIES
    """What was captured; `("rgb",)` for an image without 3D, `("3d",)` without colour."""


@dataclass(frozen=True)
class Sample:
    """One scan made ready for the encoders: S = `PreprocessConfig.image_size` and R =
    `Config.colour_size`, two samplings of the same square.

    `valid` is True where the object was measured, and on all of an image without 3D. It is made
    once, in preprocess, and carried: no later step asks whether a coordinate or a feature is zero.
    """

    rgb: Float[Tensor, "3 R R"]
    """ImageNet-normalised; without colour the shaded depth image, which no method reads."""
    xyz: Float[Tensor, "3 S S"]
    """Metres; zero where not valid."""
    valid: Bool[Tensor, "S S"]
    defect: Bool[Tensor, "S S"]
    name: str
    kind: str
    notes: tuple[str, ...] = ()
    """Sentences on what was left out of the scan."""
    modalities: tuple[Modality, ...] = MODALITIES
    """What was captured; see `Scan`."""


@dataclass(frozen=True)
class ModalityFeatures:
    """Compact features of one modality: T tokens and the sparse map that spreads them on P patches.

    Patch features are `weights @ tokens`. The map is linear, so the weights are pooled instead of
    the features, and 50k x 1152 numbers never exist.
    """

    tokens: Float[Tensor, "T D"]
    weights: Float[Tensor, "P T"]
    """torch.sparse_csr; for `3d` the rows of patches without a valid pixel are empty."""


@dataclass(frozen=True)
class PatchFeatures:
    """Features of one sample, by modality, on one grid of P = rows x columns patches."""

    by_modality: dict[Modality, ModalityFeatures]
    valid: Bool[Tensor, " P"]
    """True where at least one pixel of the patch is valid."""
    grid: tuple[int, int]
    name: str


@dataclass(frozen=True)
class Prediction:
    """What the detector says of one sample in one mode. Every metric reads this map and score."""

    anomaly_map: Float[Tensor, "S S"]
    image_score: float


@dataclass(frozen=True)
class Scores:
    """Metrics of one mode over a test split; NaN where undefined, with the reason in `notes`."""

    i_auroc: float
    p_auroc: float
    aupro_30: float
    aupro_10: float
    aupro_05: float
    aupro_01: float
    aupro_30_peer: float
    aupro_01_peer: float
    notes: tuple[str, ...] = ()
