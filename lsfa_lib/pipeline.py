"""The straight path: scans -> features -> a fitted method -> predictions -> metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.layouts import Split, split_of
from lsfa_lib.datasets.scan_check import defect_notes
from lsfa_lib.evaluation.evaluate import evaluate
from lsfa_lib.features.lazy_scan import fixed_threads, lazy_scan, loaded
from lsfa_lib.methods import Method, find_method
from lsfa_lib.methods.cost import inference_cost, resident_mb
from lsfa_lib.methods.fitting import Fitted, fit_method, scored
from lsfa_lib.records import P_AUROC_MAP, UNLABELLED, Mode, Prediction, Sample, is_defective
from lsfa_lib.selection.selection import pseudo_scores
from lsfa_lib.storage import results
from lsfa_lib.storage.files import InputError


@dataclass(frozen=True)
class Run:
    """A finished run: its numbers, test samples with their predictions, and the fitted method."""

    result: dict[str, Any]
    samples: list[Sample]
    predictions: dict[Mode, list[Prediction]]
    config: Config
    """As used: methods may change backbones and scores."""
    fitted: Fitted

    def save_detector(self, folder: Path) -> None:
        """Saves the fitted detector to the folder, if the method has one."""
        if save := getattr(self.fitted.predict, "save", None):
            save(folder)


def run_category(category: str, config: Config, seed: int, folder: Path | None = None) -> Run:
    """The config's method fitted to the good parts of a category and evaluated on its test split.

    Deterministic: the same scans, config and seed give the same numbers on one machine, regardless
    of its load. Checkpoints and trained weights are kept in `folder`. Raises InputError if the data
    cannot be used.
    """
    method = find_method(config.method)
    config = method.call("config", config)
    clock = results.Stopwatch()
    empty_mb = resident_mb() if config.timed_scans else 0.0
    with fixed_threads(config.threads):
        fitted = fit_method(method, category, config, seed, clock, folder)
        split, cost = split_of(config.data, category, "test"), None
        refused: dict[str, str] = {}
        with clock("predict test"):
            samples, predictions = score_split(split, fitted, refused)
        split = _scored(split, refused)
        with clock("metrics"):
            modes = {mode: evaluate(samples, predictions[mode], seed) for mode in fitted.modes}
            for mode, values in modes.items():
                values["p_auroc"] = modes.get(mode + P_AUROC_MAP, values)["p_auroc"]
        if config.timed_scans:
            with clock("cost"):
                other_mb = empty_mb + _held_mb(samples, predictions)
                cost = inference_cost(method, fitted, split, config, other_mb)
        selection = pseudo_scores(category, seed, fitted) if config.pseudo_defects else None
    result = {
        **_about(category, config, seed, method, fitted),
        "counts": _counts(samples, fitted),
        "modes": {m: {**values, "threshold": fitted.thresholds[m]} for m, values in modes.items()},
        "scans": _scans(samples, predictions),
        "refused": [{"name": name, "reason": reason} for name, reason in refused.items()],
        "cost": cost,
        "selection": selection,
        "seconds": clock.seconds,
        "peak_memory_mb": results.peak_memory_mb(),
    }
    return Run(results.as_json(result), samples, predictions, config, fitted)


def score_split(
    split: Split, fitted: Fitted, refused: dict[str, str] | None = None
) -> tuple[list[Sample], dict[Mode, list[Prediction]]]:
    """Samples and predictions of every scan of a split; ground truth is passed on, not read.

    A scan that cannot be used raises InputError, or is noted in `refused` with the reason.
    """
    samples: list[Sample] = []
    predictions: dict[Mode, list[Prediction]] = {mode: [] for mode in fitted.modes}
    scans = [lazy_scan(entry, fitted.encoders, fitted.config) for entry in split.entries]
    for scan in loaded(scans, True, fitted.encoders is not None, refused):
        samples.append(scan.sample)
        for mode, prediction in scored(fitted.predict, scan).items():
            predictions[mode].append(prediction)
        scan.kept.pop("features", None)  # only the samples are needed until the end
    return samples, predictions


def _held_mb(samples: list[Sample], predictions: dict[Mode, list[Prediction]]) -> float:
    """Memory of the host that samples and maps take, MB."""
    maps = [each.anomaly_map for own in predictions.values() for each in own]
    tensors = [*maps, *(t for sample in samples for t in vars(sample).values())]
    held = (t.nbytes for t in tensors if isinstance(t, Tensor) and t.device.type == "cpu")
    return sum(held) / 1e6


def _scored(split: Split, refused: dict[str, str]) -> Split:
    """The scans of a split that were scored. Raises InputError if none was."""
    kept = tuple(entry for entry in split.entries if entry.name not in refused)
    if not kept:
        raise InputError(
            f"none of {len(refused)} test scans can be scored; the first: "
            f"{next(iter(refused.values()))}"
        )
    return Split(kept)


def _about(
    category: str, config: Config, seed: int, method: Method, fitted: Fitted
) -> dict[str, Any]:
    """The provenance of the numbers."""
    return {
        "schema": results.SCHEMA,
        "category": category,
        "preset": config.preset,
        "seed": seed,
        "created": results.now(),
        "config": config,
        "method": {"title": method.title, "source": method.source},
        "weights": fitted.encoders.about if fitted.encoders else {},
        "train_scans": fitted.train,
        **fitted.report,
        "validation_scores": fitted.validation_scores,
        "machine": results.machine(resolve_device(config.device)),
        "commit": results.commit(),
    }


def _scans(
    samples: list[Sample], predictions: dict[Mode, list[Prediction]]
) -> list[dict[str, Any]]:
    """Each test scan with the defect's share of the square, and its image score in every mode."""
    return [
        {
            "name": sample.name,
            "kind": sample.kind,
            "defective": is_defective(sample.kind),
            "defect_percent": 100 * float(sample.defect.float().mean()),
            "scores": {mode: found[i].image_score for mode, found in predictions.items()},
            "notes": [*sample.notes, *defect_notes(sample)],
        }
        for i, sample in enumerate(samples)
    ]


def _counts(samples: list[Sample], fitted: Fitted) -> dict[str, int]:
    """Number of scans by their role."""
    return {
        "train": len(fitted.train),
        "validation": len(next(iter(fitted.validation_scores.values()))),
        "test_good": sum(sample.kind == "good" for sample in samples),
        "test_defective": sum(is_defective(sample.kind) is True for sample in samples),
        "test_unlabelled": sum(sample.kind == UNLABELLED for sample in samples),
    }
