"""Every decision as a field of a frozen dataclass, one a stage; an experiment is `replace(...)`.

Presets keep three recipes apart: PUBLISHED is what the paper's text says, RELEASED what the public
code does (quirks included), OURS the paper's idea with the defects repaired. DEMO is OURS with
backbones that need no download; TINY is DEMO made small enough for tests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lsfa_lib.files import InputError


@dataclass(frozen=True)
class DataConfig:
    root: str = "data/mvtec3d"
    """Folder that holds the categories."""


@dataclass(frozen=True)
class PreprocessConfig:
    image_size: int = 224
    """Side of the square the encoders see, px. Grid and patch sizes follow from it."""
    border_px: int = 10
    """Width of the strips the background plane is fitted on."""
    ransac_distance_m: float = 0.004
    ransac_points: int = 50
    ransac_iterations: int = 1000
    plane_distance_m: float = 0.005
    """Points nearer to the plane are background. The paper's "5e-2" would delete most objects."""
    cluster_gap_m: float = 0.006
    """Parts of the scan farther apart than this are different components (DBSCAN's eps)."""
    cluster_min_points: int = 30
    cluster_method: Literal["grid", "dbscan"] = "grid"
    """`grid`: connected components of the valid mask, a thousand times faster than DBSCAN."""
    noise_competes: bool = False
    """`released`: DBSCAN's noise label can win as the "largest cluster"."""
    rgb_background: Literal["masked", "kept"] = "masked"
    """Colour outside the object: set to black with the plane (M3DM) or kept (CFM)."""


@dataclass(frozen=True)
class ImageEncoderConfig:
    model: str = "vit_base_patch8_224.dino"
    """`efficientnet_lite0` or the name of a timm model."""
    weights: str = "pretrained"
    """`pretrained` (timm's download, or the package's file), a path, or `random`."""
    stages: tuple[int, ...] = ()
    """Feature stages of a convolutional model to concatenate; empty for a ViT's final tokens."""


@dataclass(frozen=True)
class PointEncoderConfig:
    model: Literal["point_mae", "fpfh"] = "point_mae"
    weights: str = "data/weights/pointmae_pretrain.pth"
    """A path, or `random`. FPFH has none."""
    sha256: str = "27ded932bb0a2625d5a8eb006df199b2578598c774aee6d86b985300b6a5fd20"
    """Of the weights file; empty to accept any."""
    groups: int = 1024
    group_size: int = 128
    norm: Literal["sample_statistics", "unit_sphere", "released"] = "sample_statistics"
    normal_radius_m: float = 0.10
    normal_max_neighbours: int = 30
    fpfh_radius_m: float = 0.25
    fpfh_max_neighbours: int = 100
    spacing_m: float = 0.0
    """FPFH is computed on points at least this far apart, so that a neighbour count means a length
    at every image size; 0 takes every valid point."""


@dataclass(frozen=True)
class ProjectionConfig:
    patch_px: int = 4
    """Side of one patch: grid = image_size / patch_px."""
    neighbours: int = 3
    """Nearest group centres a point is interpolated from; 0 takes all of them (Eq. 1)."""
    pooling: Literal["valid_mean", "released"] = "valid_mean"


@dataclass(frozen=True)
class BankConfig:
    keep_ratio: float = 0.10
    """Share of the valid patches of each modality the coreset keeps."""
    keep_ratio_rgb: float | None = None
    """`released`: 0.01, by mistake. None follows `keep_ratio`."""
    projection_eps: float = 0.9
    """Johnson-Lindenstrauss distortion of the projection before selection; 0: all dimensions."""
    statistics: Literal["own", "shared"] = "own"
    """`released` shares them: the mean of xyz and the std of rgb for both modalities."""


@dataclass(frozen=True)
class DetectorConfig:
    image_score: Literal["max", "reweighted", "top_fraction"] = "top_fraction"
    """`reweighted` is PatchCore's and the papers'. The mean of the largest map pixels rests on more
    than one noisy patch; it was the better one in a prototype on other data."""
    top_fraction: float = 0.001
    """Share of all map pixels whose mean is the `top_fraction` score."""
    blur: float = 1 / 56
    """Gaussian sigma as a fraction of the image side: 4 px at 224."""
    blur_8bit: bool = False
    """`released`: the map is rounded to 8 bits before the blur."""
    edge_correction: bool = True
    """Divide the blurred map by the blurred valid mask (at least 1/2), so that the rim of the part
    is not diluted by background zeros."""
    calibrate: bool = True
    """Standardise each modality's maps and scores on validation/good before fusing them."""
    fusion: Literal["mean", "sum", "product"] = "mean"
    false_alarm_rate: float = 0.05
    """Share of good parts the threshold may reject, by a normal fit to validation/good scores."""


@dataclass(frozen=True)
class Config:
    preset: str = "ours"
    data: DataConfig = field(default_factory=DataConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    point_encoder: PointEncoderConfig = field(default_factory=PointEncoderConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    device: str = "auto"
    """`auto` takes CUDA where it is."""
    cache: str = "data/cache"
    """Folder of extracted features; empty to keep none."""

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.preprocess.image_size // self.projection.patch_px


OURS = Config()
PUBLISHED = replace(
    OURS,
    preset="published",
    preprocess=replace(OURS.preprocess, plane_distance_m=0.05, cluster_method="dbscan"),
    projection=replace(OURS.projection, neighbours=0),
    detector=replace(
        OURS.detector, image_score="reweighted", calibrate=False, edge_correction=False
    ),
)
RELEASED = replace(
    OURS,
    preset="released",
    preprocess=replace(OURS.preprocess, cluster_method="dbscan", noise_competes=True),
    point_encoder=replace(OURS.point_encoder, norm="released"),
    projection=replace(OURS.projection, pooling="released"),
    bank=replace(OURS.bank, keep_ratio_rgb=0.01, statistics="shared"),
    detector=replace(
        OURS.detector,
        image_score="reweighted",
        blur_8bit=True,
        calibrate=False,
        edge_correction=False,
    ),
)
DEMO = replace(
    OURS,
    preset="demo",
    data=DataConfig(root="data/demo"),
    image_encoder=ImageEncoderConfig(model="efficientnet_lite0", stages=(2, 3)),
    point_encoder=PointEncoderConfig(
        model="fpfh",
        weights="",
        sha256="",
        normal_radius_m=0.003,
        fpfh_radius_m=0.005,
        fpfh_max_neighbours=128,
        spacing_m=0.001,
    ),
)
TINY = replace(
    DEMO,
    preset="tiny",
    preprocess=replace(DEMO.preprocess, image_size=96),
    bank=replace(DEMO.bank, keep_ratio=0.25),
)
PRESETS = {c.preset: c for c in (PUBLISHED, RELEASED, OURS, DEMO, TINY)}


def configure(
    preset: str, data_root: str = "", device: str = "auto", image_size: int = 0
) -> Config:
    """The preset of that name with the fields a user changes most; "" and 0 keep the preset's."""
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r} does not exist; choose one of {', '.join(PRESETS)}")
    config = replace(PRESETS[preset], device=device)
    if data_root:
        config = replace(config, data=DataConfig(root=data_root))
    if image_size:
        config = replace(config, preprocess=replace(config.preprocess, image_size=image_size))
    if config.preprocess.image_size % config.projection.patch_px:
        raise InputError(
            f"image size {config.preprocess.image_size} is not a multiple of the patch of "
            f"{config.projection.patch_px} px; choose one that is"
        )
    return config


def resolve_device(name: str) -> torch.device:
    """The torch device of `auto`, `cpu` or `cuda`."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {name!r} is not known; choose auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device cuda was asked for but torch sees none; use --device cpu or auto")
    if not available or name == "cpu":
        return torch.device("cpu")
    # TF32 convolutions would move features by 1e-3, and scores away from those of the CPU.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def from_dict(values: dict[str, Any]) -> Config:
    """The Config that `dataclasses.asdict` made these values from; JSON's lists become tuples."""
    return _from_dict(Config, values)


def _from_dict(cls: type, values: dict[str, Any]) -> Any:
    defaults = {f.name: getattr(cls(), f.name) for f in dataclasses.fields(cls)}
    unknown = set(values) - set(defaults)
    if unknown:
        raise InputError(f"{cls.__name__} has no field {min(unknown)!r}; see lsfa_lib.config")
    fields = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(defaults[name]):
            value = _from_dict(type(defaults[name]), value)
        fields[name] = tuple(value) if isinstance(value, list) else value
    return cls(**fields)


def config_hash(*parts: Any) -> str:
    """16 hex digits that change when any field of the given dataclasses or values changes."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(part: Any) -> Any:
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return {"type": type(part).__name__, **dataclasses.asdict(part)}
    return str(part) if isinstance(part, Path) else part
