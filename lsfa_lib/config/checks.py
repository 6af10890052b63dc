"""Refuses configs with values out of range and with fields that contradict each other."""

from __future__ import annotations

from dataclasses import asdict, replace

from lsfa_lib.config.fields import MODALITIES, BankConfig, Config
from lsfa_lib.storage.files import InputError, nearest

WIDEST = 0.2
"""Upper limit of a Gaussian's sigma, as a share of the map's side: the kernel ends at 4 sigma and
must be shorter than the side."""


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
    _check_maps(config)
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
    _require({f"bank.{field}": (getattr(bank, field), *rule) for field, rule in rules.items()})


def _check_maps(config: Config) -> None:
    own, other = config.detector, config.crossmodal.blur
    rate, top, surround, blur = own.false_alarm_rate, own.top_fraction, own.surround, own.blur
    sigma = f"at least 0, below {WIDEST:g}"
    _require(
        {
            "detector.false_alarm_rate": (rate, "between 0 and 1", 0 < rate < 1),
            "detector.top_fraction": (top, "above 0, at most 1", 0 < top <= 1),
            "detector.surround": (surround, f"above 0, below {WIDEST:g}", 0 < surround < WIDEST),
            "detector.blur": (blur, sigma, 0 <= blur < WIDEST),
            "crossmodal.blur": (other, sigma, 0 <= other < WIDEST),
        }
    )


def _require(rules: dict[str, tuple[float | None, str, bool]]) -> None:
    """Raises InputError for the first field that is not right: its value, and what is expected."""
    for field, (value, expected, right) in rules.items():
        if not right:
            raise InputError(f"{field} is {value:g}, expected {expected}")


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
