"""The presets, each as the fields in which it differs from another one.

PUBLISHED follows the text of the paper and RELEASED the public code (quirks included). OURS has
a large image and no adaptation, as measured with the backbones of DEMO (studies/recipe.yaml);
`only` trains the paper's losses, with the defects of its code fixed. DEMO is OURS with backbones
that need no download; TINY is DEMO with LSFA, reduced for tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from lsfa_lib.config.fields import Config, LossWeights

T = TypeVar("T")


def replaced(config: T, fields: Mapping[str, Any]) -> T:
    """`config` with fields replaced by their dotted names, such as `training.weights.la`."""
    for name, value in fields.items():
        first, _, rest = name.partition(".")
        inner = replaced(getattr(config, first), {rest: value}) if rest else value
        config = replace(config, **{first: inner})  # type: ignore[type-var]
    return config


_UNADAPTED = LossWeights(la=0.0, ga=0.0, lc=0.0, gc=0.0)
OURS = replaced(
    Config(),
    {
        "image_encoder.size": 448,
        "training.weights": _UNADAPTED,
        # More rows detected no better and cost time (`python -m benchmarks.real_size`).
        "bank.max_rows": 20_000,
    },
)
PAPER_SCORES = {
    "detector.image_score": "reweighted",
    "detector.calibrate": False,
    "detector.edge_correction": False,
    "detector.disagreement": False,
    "detector.heads": False,
}
"""Image score and map of PatchCore and the papers."""
_PAPER_SETTINGS = {
    "image_encoder.size": 0,
    "bank.max_rows": 0,
    "adaptor.attend": "all",
    "adaptor.standardise": False,
    "training.patches_per_scan": 0,
    "training.exclude_same_scan": False,
}
PUBLISHED = replaced(
    OURS,
    {
        "preset": "published",
        "preprocess.plane_distance_m": 0.05,
        "preprocess.cluster_method": "dbscan",
        "projection.neighbours": 0,
        **PAPER_SCORES,
        **_PAPER_SETTINGS,
        "training.weights": LossWeights(),
        "training.alignment": "literal",
        "training.compactness": "sum",
        "training.local_queue": 50_000,
    },
)
RELEASED = replaced(
    OURS,
    {
        "preset": "released",
        "preprocess.cluster_method": "dbscan",
        "preprocess.noise_competes": True,
        "point_encoder.norm": "released",
        "projection.pooling": "released",
        "bank.keep_ratio_rgb": 0.01,
        "bank.statistics": "shared",
        **PAPER_SCORES,
        "detector.blur_8bit": True,
        **_PAPER_SETTINGS,
        "training.weights.la": 1.0,
        "training.weights.ga": 0.1,
        "training.weights.lc": 0.9,
        "training.weights.gc": 0.36,
        "training.temperature": 1.0,
        "training.epochs": 2,
        "training.learning_rate": 3e-4,
        "training.local_queue": 60_000,
        "training.compactness_from": 60,
    },
)
DEMO = replaced(
    OURS,
    {
        "preset": "demo",
        "data.root": "data/demo",
        "image_encoder.model": "efficientnet_lite0",
        # Its convolutions cost little compared with the point encoder.
        "image_encoder.size": 672,
        "image_encoder.stages": (2, 3),
        "point_encoder.model": "point_mae_small",
        "point_encoder.weights": "package",
        "point_encoder.sha256": "",
        "point_encoder.group_size": 64,
        "point_encoder.norm": "group_radius",
        "threads": 1,
        # FPFH, for the methods that use it: radii that suit the size of the demo parts.
        "point_encoder.normal_radius_m": 0.003,
        "point_encoder.fpfh_radius_m": 0.005,
        "point_encoder.fpfh_max_neighbours": 128,
        "point_encoder.spacing_m": 0.001,
        # Half the layer on an eighth of the patches: minutes instead of hours on two cores.
        "adaptor.mlp_ratio": 1.0,
        "training.patches_per_scan": 128,
        "crossmodal.patches_per_scan": 128,
    },
)
TINY = replaced(
    DEMO,
    {
        "preset": "tiny",
        "image_encoder.size": 0,
        "preprocess.image_size": 96,
        "point_encoder.groups": 256,
        "point_encoder.group_size": 32,
        "bank.keep_ratio": 0.25,
        "adaptor.projection": 32,
        "training.weights": LossWeights(),
        "training.steps": 6,
        "training.batch": 3,
        "training.patches_per_scan": 64,
        "crossmodal.epochs": 5,
        "crossmodal.patches_per_scan": 64,
    },
)
PRESETS = {c.preset: c for c in (PUBLISHED, RELEASED, OURS, DEMO, TINY)}
RANDOM_WEIGHTS = {
    "image_encoder.weights": "random",
    "point_encoder.weights": "random",
    "point_encoder.sha256": "",
}
"""Untrained backbones, to test shapes, memory and speed."""
LOSSES = {
    "none": (),
    "LA": ("la",),
    "GA": ("ga",),
    "LC": ("lc",),
    "GC": ("gc",),
    "CLC": ("la", "ga"),
    "IFC": ("lc", "gc"),
    "both": ("la", "ga", "lc", "gc"),
}
"""Names of losses and of their sums, with the weights that each keeps."""
