"""What a Config means on this machine: the folders of its paths and the torch device."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lsfa_lib.config.fields import Config
from lsfa_lib.storage.files import CHECKOUT, InputError, located

if TYPE_CHECKING:
    import torch


def resolve_paths(config: Config) -> Config:
    """`config` with paths that also work in a subfolder of the checkout, such as notebooks/.

    Data not found relative to that folder are read from the checkout, whose cache is used.
    """
    data = replace(config.data, root=str(located(Path(config.data.root))))
    inside = CHECKOUT in Path.cwd().parents
    cache = str(CHECKOUT / config.cache) if config.cache and inside else config.cache
    return replace(config, data=data, cache=cache)


def resolve_device(name: str) -> torch.device:
    """The torch device of `auto`, `cpu`, `cuda` or `cuda:<index>`."""
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise InputError(f"device {name!r} is not known; choose auto, cpu or cuda")
    count = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    if not count:
        raise InputError(
            f"device {name} was requested but torch sees none; use --device cpu or auto"
        )
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        raise InputError(f"device {name} does not exist; torch sees cuda:0 to cuda:{count - 1}")
    # TF32 convolutions would change features by 1e-3, so scores would differ from those on the CPU.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(name if ":" in name else "cuda")
