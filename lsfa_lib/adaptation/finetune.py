"""Training the backbones themselves with the losses of the adaptors (LSFA, Tables 8 and 9).

The last blocks, the complete backbone, or low-rank additions to its linear maps (LoRA, AdaLoRA).
No adaptor follows them; the projection heads are trained as well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from lsfa_lib.adaptation import trainable
from lsfa_lib.adaptation.adaptors import ScanRows, new_adaptors, scan_rows
from lsfa_lib.adaptation.schedule import fitted_schedule
from lsfa_lib.adaptation.trainer import Task
from lsfa_lib.adaptation.training import Trained, digests, fit
from lsfa_lib.config import Config, FinetuneConfig, config_hash
from lsfa_lib.features.cache import extract
from lsfa_lib.features.checkpoints import load_strictly, read_tensors, write_tensors
from lsfa_lib.features.extract import Encoders, described_encoders, distinct_rows
from lsfa_lib.records import Modality, PatchFeatures, Sample
from lsfa_lib.storage.files import InputError, progress


@dataclass(frozen=True)
class Finetuned:
    """Tuned backbones and how they were trained."""

    encoders: Encoders
    """With keys of their own; additions are merged, so these are plain encoders."""
    trained: Trained
    """Adaptors of structure `none`: standardisation and heads, for the features of `encoders`."""
    drift: dict[Modality, float]
    """How far the features of the training scans moved, see `drift`."""
    trainable: dict[Modality, int]
    """Trained weights of each backbone, without the heads."""


def finetune(
    samples: list[Sample],
    encoders: Encoders,
    config: Config,
    seed: int,
    checkpoint: Path | None = None,
) -> Finetuned:
    """New backbones, trained as `config.finetune` says on the good scans of one category.

    `encoders` stays unchanged. Raises InputError where method, backbones or scans do not fit
    together, and TrainingStopped, with the heads alone, where the training collapses.
    """
    how = config.finetune
    _require_weights(samples, encoders, how)
    frozen = [extract(sample, encoders, config) for sample in progress(samples, "frozen features")]
    adaptors = new_adaptors(frozen, replace(config.adaptor, structure="none"), seed)
    backbones = _copies(encoders, how.modalities)
    schedule, _ = fitted_schedule(config.training, len(samples))
    tuners: dict[Modality, trainable.Tuner | None] = {}
    for m, backbone in backbones.items():
        tuners[m] = trainable.open_weights(backbone, m, config, schedule.steps, seed)
        trainable.close_unused(backbone, tokens_of(m, backbone, samples[0]))
    counts = dict.fromkeys(encoders.by_modality, 0)
    counts |= {m: trainable.trained_weights(backbone) for m, backbone in backbones.items()}
    source = partial(_rows, samples, frozen, backbones, config)
    names = tuple(sample.name for sample in samples)
    key = config_hash(how, encoders.keys, digests(frozen)) if checkpoint else ""
    task = Task(adaptors, source, names, backbones, key=key)
    notes: tuple[str, ...] = ()
    if how.method == "adalora":
        trainable.regularise(tuners, schedule.accumulate)
        task = replace(task, after_step=partial(trainable.allocate, tuners))
        if checkpoint and schedule.checkpoint_every:
            notes = ("no checkpoints: they would lack the importances AdaLoRA ranks by",)
        checkpoint = None
    trained = fit(task, config.training, seed, checkpoint)
    for m, tuner in tuners.items():
        backbones[m] = trainable.merged(backbones[m], tuner)
    tuned = _encoders(encoders, backbones, config, how.method)
    after = [extract(sample, tuned, config) for sample in progress(samples, "tuned features")]
    trained = replace(trained, notes=trained.notes + notes)
    return Finetuned(tuned, trained, drift(frozen, after), counts)


def _require_weights(samples: list[Sample], encoders: Encoders, how: FinetuneConfig) -> None:
    if not samples:
        raise InputError("0 training scans were given to finetune; give at least 2")
    if not how.modalities:
        raise InputError("finetune.modalities is empty; name rgb, 3d or both")
    if "3d" in how.modalities and encoders.by_modality["3d"] is None:
        raise InputError(
            "FPFH has no weights to train; set finetune.modalities to [rgb], or choose "
            "point_encoder.model point_mae"
        )
    if how.method in trainable.LOW_RANK and how.rank < 1:
        raise InputError(f"finetune.rank is {how.rank}, expected at least 1")


def _copies(encoders: Encoders, modalities: Iterable[Modality]) -> nn.ModuleDict:
    """Copies of the backbones of these modalities, which have one."""
    given: Any = encoders.by_modality
    return nn.ModuleDict({m: copy.deepcopy(given[m]) for m in modalities})


def tokens_of(m: Modality, backbone: nn.Module, sample: Sample) -> Float[Tensor, "T D"]:
    """The tokens of a sample, with a gradient to the backbone."""
    if m == "rgb":
        return backbone(sample.rgb[None])[0][0]
    return backbone(sample.xyz[:, sample.valid].T.contiguous())[1]


def _rows(
    samples: list[Sample],
    frozen: list[PatchFeatures],
    backbones: nn.ModuleDict,
    config: Config,
    scan: int,
) -> dict[Modality, ScanRows]:
    """Rows of a training scan from the present backbones.

    Only tokens change: their places on the grid depend on the scan alone.
    """
    by_modality = dict(frozen[scan].by_modality)
    for m, backbone in backbones.items():
        inputs = (m, backbone, samples[scan])
        tokens = (
            recomputed(tokens_of, *inputs, use_reentrant=False)
            if config.finetune.recompute and torch.is_grad_enabled()
            else tokens_of(*inputs)
        )
        by_modality[m] = replace(by_modality[m], tokens=tokens)
    return scan_rows(replace(frozen[scan], by_modality=by_modality), config.adaptor)


def drift(before: list[PatchFeatures], after: list[PatchFeatures]) -> dict[Modality, float]:
    """Mean over the valid patches of 1 - cos(before, after) by modality: what was forgotten.

    0 exactly for equal features: computed as half the squared distance of the directions.
    """
    moved: dict[Modality, float] = {}
    for m in before[0].by_modality:
        each = []
        for old, new in zip(before, after, strict=True):
            a, b = (
                F.normalize(rows, dim=1)[index[f.valid]]
                for f in (old, new)
                for rows, index in [distinct_rows(f, m)]
            )
            each.append((a - b).square().sum(1) / 2)
        moved[m] = float(torch.cat(each).mean())
    return moved


def _encoders(
    encoders: Encoders, backbones: nn.ModuleDict, config: Config, origin: str
) -> Encoders:
    """`encoders` with these backbones instead; results and reports name their `origin`."""
    found = described_encoders({**encoders.by_modality, **backbones}, config)
    for m in backbones:
        found.about[m]["finetuned"] = origin
    return found


def save_encoders(finetuned: Finetuned, path: Path) -> None:
    """Writes the weights of the tuned backbones, not those left frozen, as safetensors."""
    given: Any = finetuned.encoders.by_modality
    tuned = nn.ModuleDict({m: given[m] for m, count in finetuned.trainable.items() if count})
    write_tensors(path, tuned.state_dict())


def load_finetuned(path: Path, encoders: Encoders, config: Config) -> Encoders:
    """`encoders` with the weights `save_encoders` wrote; the features come back bit by bit.

    Raises InputError unless every entry fits the backbones of `encoders`.
    """
    tensors = read_tensors(path)
    modalities = sorted({name.split(".")[0] for name in tensors})
    for m in modalities:
        if encoders.by_modality.get(m) is None:
            raise InputError(
                f"{path}: has weights of {m!r}, for which there is no backbone here; "
                "give a file of save_encoders and the config it was trained with"
            )
    backbones = _copies(encoders, modalities)
    for m, backbone in backbones.items():
        own = {n.removeprefix(f"{m}."): t for n, t in tensors.items() if n.startswith(f"{m}.")}
        load_strictly(backbone, own, path)
    return _encoders(encoders, backbones, config, path.name)
