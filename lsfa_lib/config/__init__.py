"""Settings: dataclasses (`fields`), presets, and `configure`, which builds a Config from both."""

from lsfa_lib.config.build import (
    config_hash,
    configure,
    fields_of,
    flat,
    from_dict,
    structured,
    with_losses,
)
from lsfa_lib.config.checks import checked
from lsfa_lib.config.fields import (
    MODALITIES,
    AdaptorConfig,
    BankConfig,
    Config,
    CrossmodalConfig,
    DataConfig,
    DetectorConfig,
    FinetuneConfig,
    ImageEncoderConfig,
    LossWeights,
    PointEncoderConfig,
    PreprocessConfig,
    ProjectionConfig,
    TrainingConfig,
)
from lsfa_lib.config.presets import (
    DEMO,
    LOSSES,
    OURS,
    PAPER_SCORES,
    PRESETS,
    PUBLISHED,
    RANDOM_WEIGHTS,
    RELEASED,
    TINY,
    replaced,
)
from lsfa_lib.config.resolve import resolve_device, resolve_paths
