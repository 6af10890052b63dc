"""Refuses configs with values out of range and with fields that contradict each other."""

from __future__ import annotations

from dataclasses import asdict, replace

from lsfa_lib.config.fields import MODALITIES, BankConfig, Config
from lsfa_lib.storage.files import InputError, nearest


def checked(config: Config) -> Config:
    """`config`; InputError where a value is out of range or two fields contradict each other."""
    _check_sizes(config)
    if config.adaptor.attend == "all" and config.training.patches_per_scan:
        raise InputError(
            "adaptor.attend all needs training.patches_per_scan 0: drawn patches leave out the "
            "background it attends to"
        )
    if config.finetune.method != "none" and not any(asdict(config.training.weights).values()):
        raise InputError(
            f"finetune.method {config.finetune.method} without a loss trains nothing; choose "
            "one, such as only: both, or set finetune.method to none"
        )
    if config.finetune.method != "none" and config.method != "lsfa":
        raise InputError(
            f"finetune.method {config.finetune.method} trains LSFA's backbones, not those of "
            f"method {config.method}; leave one out"
        )
    if config.pseudo_defects and config.method not in ("lsfa", "unadapted"):
        raise InputError(
            f"pseudo_defects scores LSFA's detector, not method {config.method}; leave one out"
        )
    _check_bank(config.bank)
    _check_heads(config)
    _check_modalities("finetune.modalities", config.finetune.modalities)
    _check_modalities("modalities", config.modalities)
    if not config.modalities:
        raise InputError("modalities is empty; name rgb, 3d or both, such as modalities: [3d]")
    # In one order, so that the same choice has the same hash.
    return replace(config, modalities=tuple(m for m in MODALITIES if m in config.modalities))


def _check_modalities(field: str, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in MODALITIES:
            raise InputError(
                f"{field} holds {name!r}, expected some of {', '.join(MODALITIES)}; "
                f"the nearest is {nearest(name, MODALITIES)}"
            )


def _check_bank(bank: BankConfig) -> None:
    share, rgb = "above 0, at most 1", bank.keep_ratio_rgb
    rules = {
        "keep_ratio": (share, 0 < bank.keep_ratio <= 1),
        "keep_ratio_rgb": (share, rgb is None or 0 < rgb <= 1),
        "max_rows": ("0 for no limit, or more", bank.max_rows >= 0),
        "memory_mb": ("above 0", bank.memory_mb > 0),
        "projection_eps": ("0 to 1", 0 <= bank.projection_eps <= 1),
        "whitening": ("0 to 1", 0 <= bank.whitening <= 1),
    }
    for field, (expected, right) in rules.items():
        if not right:
            raise InputError(f"bank.{field} is {getattr(bank, field):g}, expected {expected}")


def _check_heads(config: Config) -> None:
    detector = config.detector
    if detector.heads and not detector.calibrate:
        raise InputError(
            "detector.heads needs detector.calibrate true: logits and distances have no common "
            "scale; set it, or set detector.heads to false"
        )
    if config.pseudo_defects and detector.heads and not detector.heads_without:
        raise InputError(
            "pseudo_defects would score the heads on the kinds they were trained on; leave kinds "
            "out with detector.heads_without, such as [blended], or set detector.heads to false"
        )


def _check_sizes(config: Config) -> None:
    if config.preprocess.image_size % config.projection.patch_px:
        raise InputError(
            f"image size {config.preprocess.image_size} is not a multiple of the patch of "
            f"{config.projection.patch_px} px; choose one that is"
        )
    if config.image_encoder.size < 0:
        raise InputError(
            f"image_encoder.size is {config.image_encoder.size}, expected a number of pixels, or 0 "
            "for that of preprocess.image_size"
        )
