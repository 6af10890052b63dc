"""Every setting as a field of a frozen dataclass, one dataclass per stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

MODALITIES = ("3d", "rgb")
PseudoKind = Literal["pasted", "blended", "dent", "bump", "colour"]
"""Kinds of pseudo-defect (pseudo/)."""


def added(default: Any) -> Any:
    """A field that an earlier version did not have, and that worked as `default` does.

    Hashes leave it out at its default, so that what was kept under them is still found.
    """
    return field(default=default, metadata={"added": True})


@dataclass(frozen=True)
class DataConfig:
    root: str = "data/mvtec3d"
    """Folder that holds the categories."""
    light: int = 4
    """Eyecandies: which of its six images is used; papers use 4, lit from the left."""


@dataclass(frozen=True)
class PreprocessConfig:
    image_size: int = 224
    """Side of the square of points and anomaly maps, px. Grid and patch sizes follow from it."""
    border_px: int = 10
    """Width of the strips the background plane is fitted on."""
    ransac_distance_m: float = 0.004
    ransac_points: int = 50
    ransac_iterations: int = 1000
    plane_distance_m: float = 0.005
    """Points closer to the plane are background. The paper's "5e-2" would delete most objects."""
    cluster_gap_m: float = 0.006
    """Parts of the scan farther apart than this are different components (DBSCAN's eps)."""
    cluster_min_points: int = 30
    cluster_method: Literal["grid", "every_part", "dbscan"] = "grid"
    """`grid`: connected components of the valid mask, a thousand times faster than DBSCAN.
    `every_part`: the same, with all components of at least a fifth of the largest kept."""
    noise_competes: bool = False
    """`released`: DBSCAN's noise label can win as the "largest cluster"."""
    rgb_background: Literal["masked", "kept"] = "masked"
    """Colour outside the object: set to black with the plane (M3DM) or kept (CFM)."""
    background_removal: Literal["plane", "none"] = added("plane")
    """`none`: every reading belongs to the part. For parts that fill the frame, and for scans from
    which the background was removed before."""


@dataclass(frozen=True)
class ImageEncoderConfig:
    model: str = "vit_base_patch8_224.dino"
    """`efficientnet_lite0` or the name of a timm model."""
    weights: str = "pretrained"
    """`pretrained` (timm's download, or the package's file), a path, or `random`."""
    stages: tuple[int, ...] = ()
    """Feature stages of a convolutional model to concatenate; empty for a ViT's tokens."""
    blocks: tuple[int, ...] = ()
    """Blocks of a ViT (from 0) whose normed tokens are concatenated; empty for the last only."""
    size: int = 0
    """Side of the square image it receives, px; 0: `preprocess.image_size`. A larger image
    reveals smaller defects; twice the side takes four times as long."""
    precision: Literal["float32", "bfloat16"] = added("float32")
    """Of matrix products: `bfloat16` is about twice as fast on processors that support it."""


@dataclass(frozen=True)
class PointEncoderConfig:
    model: Literal["point_mae", "point_bert", "point_mae_small", "fpfh"] = "point_mae"
    """`point_mae_small` is this package's own (docs/point_mae_small.md)."""
    weights: str = "data/weights/pointmae_pretrain.pth"
    """A path, `random`, or `package` for those of `point_mae_small`. FPFH has none."""
    sha256: str = "27ded932bb0a2625d5a8eb006df199b2578598c774aee6d86b985300b6a5fd20"
    """Of the weights file; empty to accept any."""
    taps: tuple[int, ...] = ()
    """Blocks (from 0) whose normed outputs are concatenated; empty for the model's own three."""
    groups: int = 1024
    group_size: int = 128
    norm: Literal["sample_statistics", "unit_sphere", "group_radius", "released"] = (
        "sample_statistics"
    )
    normal_radius_m: float = 0.10
    normal_max_neighbours: int = 30
    fpfh_radius_m: float = 0.25
    fpfh_max_neighbours: int = 100
    spacing_m: float = 0.0
    """FPFH is computed on points at least this far apart, so that a neighbour count corresponds to
    the same length at every image size; 0 uses every valid point."""
    precision: Literal["float32", "bfloat16"] = added("float32")
    """As for the image encoder; distances between points are always computed in float32."""


@dataclass(frozen=True)
class ProjectionConfig:
    patch_px: int = 4
    """Side of one patch: grid = image_size / patch_px."""
    neighbours: int = 3
    """Nearest group centres that a point is interpolated from; 0 uses all (Eq. 1)."""
    pooling: Literal["valid_mean", "released"] = "valid_mean"


@dataclass(frozen=True)
class BankConfig:
    keep_ratio: float = 0.10
    """Share of the valid patches of each modality the coreset keeps."""
    keep_ratio_rgb: float | None = None
    """`released`: 0.01, by mistake. None follows `keep_ratio`."""
    max_rows: int = added(0)
    """Largest number of rows of a bank; 0: no limit but `keep_ratio`."""
    memory_mb: float = added(2048.0)
    """Memory for the rows that the coreset is selected from, MB. Where all training scans need
    more, each is reduced to an equal number of rows first. Rows that take less than a quarter of it
    are also held, so that they are computed once."""
    projection_eps: float = 0.9
    """Johnson-Lindenstrauss distortion of the projection before selection; 0: all dimensions."""
    statistics: Literal["own", "shared"] = "own"
    """`released` shares them: the mean of xyz and the std of rgb for both modalities."""
    whitening: float = 0.0
    """Distances in principal directions divided by (variance + 5 % of the mean one)^(w/2): 0 leaves
    them as they are, at 1 all directions in which good parts vary count the same."""
    seed: int | None = None
    """Seed of the coreset; None follows the run's seed."""


@dataclass(frozen=True)
class DetectorConfig:
    image_score: Literal["max", "reweighted", "top_fraction", "contrast"] = "contrast"
    """`reweighted`: PatchCore and the papers. `top_fraction`: the mean of the largest map pixels,
    which does not depend on a single noisy patch. `contrast`: the same of the map minus its local
    mean, so that light or wear that raises the map of a whole part does not count."""
    top_fraction: float = 0.001
    """Share of all map pixels whose mean is the `top_fraction` or `contrast` score."""
    surround: float = 3 / 56
    """Gaussian sigma of the local mean for `contrast`, as a fraction of the image side."""
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
    disagreement: bool = True
    """Third score, if alignment was trained: 1 - cos of the two modalities' projections."""
    heads: bool = False
    """Further score: a small network per modality, trained on pseudo-defects of the training scans.
    An earlier form gained on generated data and lost on real photographs (docs/method.md)."""
    heads_without: tuple[PseudoKind, ...] = ()
    """Kinds of pseudo-defect that heads are not trained on, to measure on kinds they never saw."""
    false_alarm_rate: float = 0.05
    """Share of good parts the threshold may reject."""
    threshold: Literal["normal", "conformal"] = "normal"
    """From validation/good scores: by a normal fit, or by conformal p-values, which promise the
    rate for any distribution but need 1 / rate - 1 scans (19 for 5 %); with fewer: normal."""


@dataclass(frozen=True)
class AdaptorConfig:
    structure: Literal["encoder_1", "encoder_2", "linear", "conv_1x1", "none"] = "encoder_1"
    """Encoder layers over the patches of a scan, or a linear map per patch; `none`: heads only."""
    heads: int = 12
    """Upper limit; used: the largest divisor of the width with at least 8 dimensions per head."""
    mlp_ratio: float = 4.0
    projection: int = 512
    """Width of the projection heads."""
    attend: Literal["valid", "all"] = "valid"
    """`all`: background patches take part in attention, as in the paper."""
    standardise: bool = True
    """Centre the features and divide them by one number per modality, so that learning rates and
    distances are comparable across backbones; False: raw features, as in the paper."""


@dataclass(frozen=True)
class LossWeights:
    """CLC = LA + GA and IFC = LC + GC; a weight of 0 leaves a term out."""

    la: float = 0.6
    ga: float = 0.6
    lc: float = 1.0
    gc: float = 1.0


@dataclass(frozen=True)
class TrainingConfig:
    weights: LossWeights = field(default_factory=LossWeights)
    """All 0: features are used as the backbones return them."""
    alignment: Literal["infonce", "literal"] = "infonce"
    """`literal`: Eq. 2 and 3 as printed, raw products over one common denominator."""
    compactness: Literal["mean", "sum", "mean_squared"] = "mean"
    """Of the distances of a scan's patches: Eq. 5 prints a sum."""
    temperature: float = 0.1
    """Of the row-wise InfoNCE."""
    instances: int = 1
    """K of k-means: instance features per scan; 1 is the mean over valid patches."""
    steps: int = 50
    epochs: int = 0
    """If not 0: passes over the training scans, instead of `steps`."""
    batch: int = 8
    accumulate: int = 1
    """Parts that a batch is processed in, to save memory; alignment between instances (GA) then
    sees the scans of one part only."""
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup: float = 1 / 3
    """Share of the steps in which the learning rate rises linearly; a half-cosine to 0 follows."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0: no clipping."""
    mixed_precision: bool = False
    """bfloat16 in the forward pass, on CUDA only: it slows a CPU down."""
    patches_per_scan: int = 1024
    """Valid patches drawn per scan and step; 0: all. Makes the cost of a step independent of the
    image size."""
    local_queue: int = 0
    """Capacity of the local queue, patches; 0: set by `queue_batches`."""
    queue_batches: int = 4
    """Capacity of the local queue, batches, if `local_queue` is 0. The paper's 5e4 rows are 2 of
    its batches of 8 x 3136."""
    global_queue: int = 1024
    """Capacity of the global queue, instance features."""
    exclude_same_scan: bool = True
    """Exclude the bank rows of the query's own scan (older copies of it) from the search. False, as
    in the paper: a queue longer than an epoch is then shortened to half an epoch."""
    compactness_from: int = 0
    """First step with LC and GC, where LA or GA is trained; released: 60."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: none."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Which weights of the backbones are trained; learning rate, steps, losses: TrainingConfig.

    There is no dropout: the backbones stay in eval mode, with fixed BatchNorm statistics.
    """

    method: Literal["none", "last_blocks", "whole", "lora", "adalora"] = "none"
    """`none` trains adaptors on frozen backbones; the others train backbones, without adaptors.
    `whole`: every weight that the features depend on."""
    blocks: int = 1
    """For `last_blocks`: number of transformer blocks, or of stages of a convolutional model."""
    modalities: tuple[str, ...] = MODALITIES
    """Backbones to train; the others stay frozen, but their heads are trained."""
    rank: int = 8
    """Rank of the low-rank updates; AdaLoRA starts at 3/2 of it and prunes to it on average."""
    alpha: int = 16
    """The updates are scaled by alpha / rank, for AdaLoRA by alpha / (3/2 rank)."""
    recompute: bool = True
    """Activation checkpointing: memory for the activations of one scan instead of all scans of a
    step, at the cost of one more forward pass."""


@dataclass(frozen=True)
class CrossmodalConfig:
    """Method `cfm`: each modality's features predicted from the other's (arXiv 2312.04521)."""

    epochs: int = 50
    batch: int = 4
    learning_rate: float = 1e-3
    patches_per_scan: int = 0
    """Valid patches drawn per scan and step; 0: all, as published."""
    aggregation: Literal["product", "sum", "max", "from_rgb", "from_3d"] = "product"
    """`from_rgb` and `from_3d`: one direction only, named after the modality it predicts from."""
    blur: float = 4.7 / 224
    """Gaussian sigma as a fraction of the image side."""
    top_fraction: float = 0.0
    """Share of all map pixels whose mean is the image score; 0: the largest pixel only."""
    normalisation: Literal["none", "released"] = "none"
    """`released`: a different scale of the map for each metric, as in the public evaluation."""
    cut: Literal["", "full", "M", "S", "T"] = ""
    """Backbones truncated after 12, 8, 4 or 1 blocks; "" leaves the encoders unchanged."""


@dataclass(frozen=True)
class Config:
    preset: str = "ours"
    method: str = "lsfa"
    """A name of `lsfa methods`, or the path of a .py file (docs/adding_a_method.md)."""
    data: DataConfig = field(default_factory=DataConfig)
    modalities: tuple[str, ...] = added(MODALITIES)
    """In use: `[3d]` or `[rgb]` alone leaves out the other's features and images. LA, GA and
    methods that relate colour to shape, such as CFM, need both."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    point_encoder: PointEncoderConfig = field(default_factory=PointEncoderConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    adaptor: AdaptorConfig = field(default_factory=AdaptorConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    crossmodal: CrossmodalConfig = field(default_factory=CrossmodalConfig)
    shots: int = 0
    """Training scans drawn by the seed; 0 takes all."""
    timed_scans: int = 0
    """Test scans whose inference is timed one by one, with its memory; 0 times none."""
    pseudo_defects: bool = False
    """Also score pseudo-defects on validation/good scans (selection/)."""
    device: str = "auto"
    """`auto`: CUDA if available, else CPU."""
    threads: int = 4
    """CPU threads of torch. Fixed, so that scores do not depend on load or number of workers."""
    cache: str = "data/cache"
    """Folder of extracted features; empty to keep none."""

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.preprocess.image_size // self.projection.patch_px

    @property
    def colour_size(self) -> int:
        """Side of the image that the image encoder receives, px."""
        return self.image_encoder.size or self.preprocess.image_size
