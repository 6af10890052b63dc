"""What the losses do, measured on a few scans: alignment, compactness, their queue and clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lsfa_lib.adaptation.adaptors import Adaptors, adapt, scan_rows
from lsfa_lib.adaptation.feature_queue import FeatureQueue
from lsfa_lib.adaptation.instances import instance_features
from lsfa_lib.adaptation.monitors import effective_rank
from lsfa_lib.adaptation.nearest import nearest_index
from lsfa_lib.features.extract import distinct_rows
from lsfa_lib.features.geometry import direct_distances
from lsfa_lib.figures.feature_space import rows_of
from lsfa_lib.figures.style import spread_out
from lsfa_lib.records import MODALITIES, Modality, PatchFeatures
from lsfa_lib.studies.lesson import Lesson

Matrix = Float[np.ndarray, "n n"]


@torch.inference_mode()
def projected(adaptors: Adaptors, features: PatchFeatures) -> dict[Modality, Float[Tensor, "V C"]]:
    """Unit vectors H(x) of the V valid patches, by modality."""
    adapted = adaptors(scan_rows(features, adaptors.config))
    return {m: F.normalize(adaptors.project(m, s.rows), dim=1)[s.index] for m, s in adapted.items()}


def cosines(adaptors: Adaptors, features: PatchFeatures, most: int = 0) -> Matrix:
    """cos(a_t, b_k) between image patches t and point patches k; at most `most`, evenly drawn."""
    found = projected(adaptors, features)
    count = len(found["rgb"])
    some = spread_out(count, most or count)
    return (found["rgb"][some] @ found["3d"][some].T).cpu().numpy()


def partner_ranks(matrix: Matrix) -> Int[np.ndarray, " n"]:
    """Rank of the own partner among all columns of each row; 1 where it is the most similar."""
    return 1 + (matrix > np.diag(matrix)[:, None]).sum(axis=1)


@torch.inference_mode()
def instance_cosines(adaptors: Adaptors, scans: Sequence[PatchFeatures]) -> Matrix:
    """The same between the instance features of scans: the means of their patches (GA)."""
    sides: dict[Modality, list[Tensor]] = {m: [] for m in MODALITIES}
    for features in scans:
        for m, rows in adaptors(scan_rows(features, adaptors.config)).items():
            mean = instance_features(rows.rows, rows.counts, 1, 0)
            sides[m].append(F.normalize(adaptors.project(m, mean), dim=1)[0])
    image, points = (torch.stack(sides[m]) for m in ("rgb", "3d"))
    return (image @ points.T).cpu().numpy()


def compact_distances(
    lesson: Lesson, adaptors: Adaptors | None, m: Modality
) -> dict[str, Float[np.ndarray, " n"]]:
    """Distances to the nearest patch of the training scans: of good patches and of the defect's.

    In units of the root mean square distance between training patches, so that a scale that
    training changes does not look like compactness.
    """
    train = np.concatenate([rows_of(adapt(adaptors, f), m) for f in lesson.train])
    scale = float(np.sqrt(2 * train.var(axis=0).sum()))
    bank = torch.from_numpy(train)
    good = rows_of(adapt(adaptors, lesson.good.features["frozen"]), m)
    bad = rows_of(adapt(adaptors, lesson.bad.features["frozen"]), m)
    touched = lesson.bad.touched[lesson.bad.features["frozen"].valid].cpu().numpy()
    found = {"good part": good, "defect": bad[touched]}  # a defect may leave no patch
    return {
        name: nearest_distances(torch.from_numpy(rows), bank) / scale
        for name, rows in found.items()
        if len(rows)
    }


def summary(lesson: Lesson, adaptors: Adaptors) -> dict[str, float]:
    """What the losses aim at, on scans that were not trained on: partners, distances, rank."""
    good = lesson.good.features["frozen"]
    matrix = cosines(adaptors, good)
    found = {"partner": float((partner_ranks(matrix) == 1).mean())}
    distances = compact_distances(lesson, adaptors, "rgb")
    found["good"] = float(np.median(distances["good part"]))
    defect = float(np.median(distances.get("defect", np.nan)))
    found["contrast"] = defect / found["good"]
    rows = torch.from_numpy(rows_of(adapt(adaptors, good), "rgb"))
    found["rank"] = effective_rank(rows, torch.ones(len(rows)))
    return found


def nearest_distances(
    rows: Float[Tensor, "R D"], bank: Float[Tensor, "M D"]
) -> Float[np.ndarray, " R"]:
    """Distance of each row to its nearest row of the bank."""
    nearest = bank[nearest_index(rows, bank)]
    return torch.linalg.vector_norm(rows - nearest, dim=1).cpu().numpy()


def own_copies(
    lesson: Lesson, epochs: Sequence[float], m: Modality = "rgb", noise: float = 0.02
) -> dict[float, tuple[float, float]]:
    """Queue length in epochs -> share of patches whose nearest row is of their own scan, distance.

    The scans pass in turn, as in training; older copies differ from the present features by
    `noise` of their standard deviation, which stands for the weights' change. Nothing is excluded.
    """
    scans = [torch.from_numpy(rows_of(f, m)) for f in lesson.train]
    generator = torch.Generator().manual_seed(lesson.seed)
    found: dict[float, tuple[float, float]] = {}
    for length in epochs:
        capacity = max(1, round(length * sum(len(rows) for rows in scans)))
        queue = FeatureQueue(capacity, scans[0].shape[1])
        # Scan 0 is queried next, so the last row enqueued is of the scan before it.
        for _ in range(int(np.ceil(length)) + 1):
            for scan, rows in enumerate(scans):
                moved = noise * rows.std() * torch.randn(rows.shape, generator=generator)
                queue.enqueue(rows + moved, scan)
        held, source = queue.held
        index = nearest_index(scans[0], held)
        own = float((source[index] == 0).float().mean())
        distance = torch.linalg.vector_norm(scans[0] - held[index], dim=1).mean()
        found[length] = (own, float(distance))
    return found


def queue_distances(lesson: Lesson, scans: int, m: Modality = "rgb") -> Float[np.ndarray, " R"]:
    """Distances of the first scan's patches to a queue of this many other scans."""
    held = [torch.from_numpy(rows_of(f, m)) for f in lesson.train[: scans + 1]]
    scale = float(np.sqrt(2 * held[0].numpy().var(axis=0).sum()))
    return nearest_distances(held[0], torch.cat(held[1:])) / scale


def queue_contents(
    capacity: int, rows: int, scans: int, steps: int
) -> Float[np.ndarray, "steps capacity"]:
    """Which scan each place of a queue holds after each scan enqueued; NaN where it is empty."""
    queue, seen = FeatureQueue(capacity, 1), []
    for step in range(steps):
        queue.enqueue(torch.zeros(rows, 1), step % scans)
        held = np.full(capacity, np.nan)
        held[: len(queue)] = queue.scans[: len(queue)].numpy()
        seen.append(held)
    return np.stack(seen)


def clusters(features: PatchFeatures, m: Modality, k: int, seed: int) -> Float[np.ndarray, " P"]:
    """Cluster of each patch by the K instance features of its scan; NaN off the part."""
    rows, index = distinct_rows(features, m)
    held = index >= 0
    counts = torch.bincount(index[held], minlength=len(rows)).to(rows)
    centres = instance_features(rows, counts, k, seed)
    nearest = direct_distances(rows, centres).argmin(1)
    patches = torch.full(index.shape, torch.nan)
    patches[held] = nearest[index[held]].float()
    return patches.numpy()


def instances_plane(
    lesson: Lesson, adaptors: Adaptors | None, m: Modality = "rgb"
) -> dict[str, Float[np.ndarray, "n 2"]]:
    """Mean features of every scan on the two main directions of the training scans' means."""
    scans = [*lesson.train, lesson.good.features["frozen"], lesson.bad.features["frozen"]]
    means = np.stack([rows_of(adapt(adaptors, f), m).mean(axis=0) for f in scans])
    train = means[: len(lesson.train)]
    directions = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)[2][:2]
    flat = (means - train.mean(axis=0)) @ directions.T
    count = len(lesson.train)
    return {"training": flat[:count], "good": flat[count:-1], "defective": flat[-1:]}


def attention_of(row: Float[np.ndarray, " V"], temperature: float) -> Float[np.ndarray, " V"]:
    """softmax(row / temperature): how LA divides a patch's pull over all its candidates."""
    scaled = np.exp((row - row.max()) / temperature)
    return scaled / scaled.sum()


def on_grid(values: Float[np.ndarray, " V"], features: PatchFeatures) -> Float[np.ndarray, " P"]:
    """Values of the valid patches on all patches, NaN elsewhere."""
    valid = features.valid.cpu().numpy()
    patches = np.full(valid.shape, np.nan)
    patches[valid] = values
    return patches
