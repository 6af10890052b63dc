"""What heads are trained on: labelled patches of pseudo-defects on the training scans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lsfa_lib.adaptation.adaptors import Adaptors, adapt
from lsfa_lib.adaptation.schedule import generator_of
from lsfa_lib.config import Config
from lsfa_lib.features.cache import extract
from lsfa_lib.features.extract import Encoders, distinct_rows, patch_valid
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.pseudo.blobs import REAL
from lsfa_lib.pseudo.defects import CHANGES, Kind, pseudo_defect, seeds_of
from lsfa_lib.records import Modality, PatchFeatures, Sample
from lsfa_lib.storage.files import InputError, progress

CLEAR = 3
"""Patches between a defect and the patches that count as normal: backbones see farther than one."""
NORMAL_BESIDE = 40
"""Normal patches kept of each scan with a pseudo-defect."""


@dataclass(frozen=True)
class Labelled:
    """N labelled patches of one modality, of training scans with a pseudo-defect each."""

    rows: Float[Tensor, "N D"]
    """Adapted features, not standardised."""
    defective: Bool[Tensor, " N"]
    scan: Int[Tensor, " N"]
    """Number of the training scan."""


def labelled_patches(
    scans: Sequence[LazyScan],
    encoders: Encoders,
    adaptors: Adaptors | None,
    config: Config,
    seed: int,
) -> dict[Modality, Labelled]:
    """Patches of one pseudo-defect of each kind on each scan; nothing if `detector.heads` is off.

    A modality learns from the kinds that change it, and has none if no kind does. Only patches
    are kept, one scan and its donor at a time are in memory. Raises InputError for fewer than two
    scans, and if every kind is left out.
    """
    if not config.detector.heads:
        return {}
    kinds = _kinds(config, encoders)
    if len(scans) < 2:
        raise InputError(
            f"{len(scans)} training scan, but detector.heads compares each training scan with the "
            "others and needs at least 2; set detector.heads to false"
        )
    parts: dict[Modality, list[Labelled]] = {}
    label = f"{scans[0].name.split('/')[0]}/heads"
    for i, (sample, donor) in enumerate(progress(_with_donors(scans), label, len(scans))):
        for kind, modalities in kinds.items():
            own = seeds_of(seed, i)[kind]
            made = pseudo_defect(sample, donor, kind, own, REAL)
            some = replace(encoders, by_modality={m: encoders.by_modality[m] for m in modalities})
            features = adapt(adaptors, extract(made, some, config))
            patches = _chosen(made, config.projection.patch_px, generator_of(own, i))
            for m in modalities:
                parts.setdefault(m, []).append(_labelled(features, m, i, *patches))
    return {m: _joined(own) for m, own in parts.items()}


def patch_labels(sample: Sample, patch_px: int) -> tuple[Bool[Tensor, " P"], Bool[Tensor, " P"]]:
    """The patches that are defective, and those that are normal; the rest is neither.

    Defective: at least half of the pixels are; if no patch is, the one with the most. Normal:
    valid, with no defective pixel in any patch up to `CLEAR` rows and columns away.
    """
    share = F.avg_pool2d(sample.defect.float()[None], patch_px)
    near = F.max_pool2d((share > 0).float(), 2 * CLEAR + 1, 1, CLEAR).flatten() > 0
    share = share.flatten()
    defective = share >= 0.5
    # The grid is too coarse for the smallest defects.
    if bool(share.any()) and not bool(defective.any()):
        defective[share.argmax()] = True
    return defective, patch_valid(sample.valid, patch_px) & ~near


def drawn_patches(
    among: Bool[Tensor, " P"], count: int, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """Up to `count` of these patches, at random."""
    places = among.nonzero().flatten()
    return places[torch.randperm(len(places), generator=generator)[:count].to(places.device)]


def _kinds(config: Config, encoders: Encoders) -> dict[Kind, list[Modality]]:
    """The kinds to train on, and the modalities in use that each changes."""
    without = config.detector.heads_without
    kinds = {
        kind: [m for m in encoders.by_modality if m in changed]
        for kind, changed in CHANGES.items()
        if kind not in without
    }
    if not any(kinds.values()):
        raise InputError(
            f"detector.heads_without {', '.join(without)} leaves no kind of pseudo-defect that "
            f"changes {', '.join(encoders.by_modality)}; leave fewer out, or set detector.heads to "
            "false"
        )
    return {kind: modalities for kind, modalities in kinds.items() if modalities}


def _with_donors(scans: Sequence[LazyScan]) -> Iterator[tuple[Sample, Sample]]:
    """Each sample with the next one, the last with the first."""
    first = sample = scans[0].passing_sample()
    for scan in scans[1:]:
        donor = scan.passing_sample()
        yield sample, donor
        sample = donor
    yield sample, first


def _chosen(
    made: Sample, patch_px: int, generator: torch.Generator
) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]:
    """All defective and some normal patches of a sample, and which of them are defective."""
    defective, normal = patch_labels(made, patch_px)
    patches = torch.cat(
        (defective.nonzero().flatten(), drawn_patches(normal, NORMAL_BESIDE, generator))
    )
    return patches, defective[patches]


def _labelled(
    features: PatchFeatures,
    m: Modality,
    scan: int,
    patches: Int[Tensor, " n"],
    defective: Bool[Tensor, " n"],
) -> Labelled:
    rows, index = distinct_rows(features, m)
    row = index[patches]
    held = row >= 0
    return Labelled(rows[row[held]], defective[held], torch.full_like(row[held], scan))


def _joined(parts: Sequence[Labelled]) -> Labelled:
    return Labelled(
        torch.cat([part.rows for part in parts]),
        torch.cat([part.defective for part in parts]),
        torch.cat([part.scan for part in parts]),
    )
