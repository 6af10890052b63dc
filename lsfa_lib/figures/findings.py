"""What the numbers of result.json say, in sentences and counts."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lsfa_lib.config import LOSSES, MODALITIES, PRESETS, Config, fields_of, flat
from lsfa_lib.evaluation.bootstrap import half_width, within
from lsfa_lib.figures.names import metric_label, mode_label
from lsfa_lib.figures.remarks import remarks

T = TypeVar("T")
Result = dict[str, Any]
"""The content of result.json."""

BOTH = "rgb+3d"
"""The mode a report leads with: the one the papers report, with or without training."""
LITTLE_VARIANCE = 0.1
"""Share of the initial variance below which a training that was not stopped is near collapse."""
PLACES = ("preset", "data.root", "device", "cache", "timed_scans", "pseudo_defects")
"""Fields that do not change the numbers, except for the data behind them."""
SIZES = ("preprocess.image_size", "image_encoder.size")
DEFAULT_WEIGHTS = {n: w for n, w in fields_of(Config()).items() if n.startswith("training.weights")}


def answer(result: Result) -> str:
    """Which parts are defective and where, answered from the numbers, as Markdown."""
    modes, leading = result["modes"], lead(result)
    auroc = "; ".join(
        f"{mode_label(m)} {three_digits(v['i_auroc'])} {interval(v['i_auroc_interval'])}"
        for m, v in modes.items()
    )
    aupro = "; ".join(f"{mode_label(m)} {three_digits(v['aupro_30'])}" for m, v in modes.items())
    strict = three_digits(modes[leading]["aupro_05"])
    lines = [
        f"**{found_sentence(result, leading)}.**\n",
        f"- **Which:** I-AUROC {auroc}.",
        f"- **Where:** {metric_label('aupro_30')} is {aupro}; at a limit of 5 % "
        f"instead of 30 %, {mode_label(leading)} reaches {strict}.",
        f"- {hardest_sentence(result, leading)}.",
        *remarks(result),
    ]
    return "\n".join(lines)


def lead(result: Result) -> str:
    """The mode a run is shown by: RGB + 3D, or the only one of a single-modality method."""
    modes = result["modes"]
    return BOTH if BOTH in modes else next(iter(modes))


def flagged(result: Result, mode: str, defective: bool | None) -> list[bool]:
    """For each test scan of this truth (None: unlabelled), whether it scores above the threshold.

    Without a threshold none does.
    """
    threshold = number(result["modes"][mode]["threshold"])
    scans = [scan for scan in result["scans"] if scan["defective"] is defective]
    return [scan["scores"][mode] > threshold for scan in scans]


def counts(result: Result, mode: str = "") -> tuple[int, int, int, int]:
    """(defective parts found, defective parts, good parts rejected, good parts) at the threshold.

    In the mode the run is shown by, unless another is named.
    """
    bad, good = (flagged(result, mode or lead(result), truth) for truth in (True, False))
    return sum(bad), len(bad), sum(good), len(good)


def labelled(result: Result) -> list[Result]:
    """The test scans that are known to be good or defective."""
    return [scan for scan in result["scans"] if scan["defective"] is not None]


def grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """The items by their key, keys and items in the order they come."""
    found: dict[str, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def ranked(result: Result, mode: str) -> list[Result]:
    """The test scans by their score in a mode, highest first; equal ones by name."""
    return sorted(result["scans"], key=lambda scan: (-scan["scores"][mode], scan["name"]))


def number(value: float | None) -> float:
    """JSON's null back as NaN."""
    return math.nan if value is None else float(value)


def three_digits(value: float | None) -> str:
    """0.934, or a dash for an undefined value."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def interval(bounds: Iterable[float | None]) -> str:
    """[0.880, 0.970]."""
    low, high = bounds
    return f"[{three_digits(low)}, {three_digits(high)}]"


def found_sentence(result: Result, mode: str) -> str:
    """How many defective, good and unlabelled parts lie above the threshold."""
    name = mode_label(mode)
    if result["modes"][mode]["threshold"] is None:
        return f"{name}: no threshold, as there are no validation scans"
    found, bad, rejected, good = counts(result, mode)
    text = f"finds {found} of {bad} defective parts and rejects {rejected} of {good} good ones"
    unknown = flagged(result, mode, None)
    if not unknown:
        return f"{name} {text}"
    more = f"flags {sum(unknown)} of {len(unknown)} unlabelled parts as defective"
    return f"{name} {text}, and {more}" if bad or good else f"{name} {more}"


def best_sentence(result: Result, metric: str, text: str) -> str:
    """Which mode has the highest value of a metric, and that value."""
    values = {m: number(v[metric]) for m, v in result["modes"].items()}
    defined = {mode: value for mode, value in values.items() if not math.isnan(value)}
    if not defined:
        return "Undefined: the test split lacks good or defective parts"
    best = max(defined, key=defined.__getitem__)
    return f"{mode_label(best)} {text} {defined[best]:.3f}"


def hardest_sentence(result: Result, mode: str) -> str:
    """The kind of defect of which the smallest share is found."""
    threshold = number(result["modes"][mode]["threshold"])
    kinds = grouped(filter(itemgetter("defective"), result["scans"]), itemgetter("kind"))
    if not kinds:
        return "No defective parts in the test split"
    found = {k: [scan["scores"][mode] > threshold for scan in own] for k, own in kinds.items()}
    kind = min(found, key=lambda k: (np.mean(found[k]), k))
    hits, total = sum(found[kind]), len(found[kind])
    if hits == total:
        return f"{mode_label(mode)} finds all defects of every kind"
    return f"Hardest kind: {html.escape(kind)}, {hits} of {total} found"


def training_sentence(result: Result) -> str:
    """Whether the features collapsed while the adaptors were trained, by the variance they keep."""
    if result["config"].get("method", "lsfa") != "lsfa":
        return f"{result['method']['title']} ({result['method']['source']}) has no adaptors"
    if not result.get("training"):
        asked = result["config"].get("training", {})
        if any(asked.get("weights", {}).values()) and not (asked["steps"] or asked["epochs"]):
            return "Nothing was trained: the adaptors are random"
        return "Nothing was trained: the features are those of the frozen backbones"
    first, last = result["training"]["history"][0], result["training"]["history"][-1]
    trained = [m for m in MODALITIES if f"variance_{m}" in last]
    kept = {m: last[f"variance_{m}"] / (first[f"variance_{m}"] or math.inf) for m in trained}
    text = "No collapse" if min(kept.values()) >= LITTLE_VARIANCE else "Near collapse"
    shares = " and ".join(f"{100 * kept[m]:.0f} % ({mode_label(m)})" for m in trained)
    return f"{text}: the final feature variance is {shares} of its initial value"


def seed_lines(runs: list[Result]) -> list[str]:
    """A line for each category and mode: mean, standard deviation and interval over seeds.

    The interval is Student's 95 % interval of the mean over the runs, so of their seeds alone.
    """
    lines = []
    for category, same in grouped(runs, itemgetter("category")).items():
        for mode in same[0]["modes"]:
            cells = [
                f"{metric_label(key)} {_spread([number(run['modes'][mode][key]) for run in same])}"
                for key in ("i_auroc", "aupro_30")
            ]
            name = mode_label(mode)
            lines.append(f"{category:<12} {name:<24} {'   '.join(cells)}   {len(same)} seeds")
    return lines


def _spread(values: list[float]) -> str:
    if any(math.isnan(value) for value in values):
        return "–"
    mean, half = statistics.fmean(values), half_width(np.array(values))
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    found = f"{mean:.3f} ± {three_digits(deviation)}"
    return f"{found} {interval(within(mean - half, mean + half))}" if len(values) > 1 else found


def settings(result: Result) -> list[str]:
    """What determines a run's numbers: `demo`, `224 px`, `image 672 px`, `only IFC`, `10 shots`.

    Then the fields that differ from the preset's, two by name and the rest counted.
    """
    config, preset = dict(flat(result["config"])), str(result["preset"])
    start = fields_of(PRESETS[preset]) if preset in PRESETS else {}
    words = [preset]
    if size := config.get("preprocess.image_size"):
        words.append(f"{size} px")
    if size := config.get("image_encoder.size"):
        words.append(f"image {size} px")
    other = config.get("method", "lsfa") != "lsfa"
    if other:
        # A run that is only planned has a config and no result yet.
        words.insert(1, str(result.get("method", {}).get("title", Path(config["method"]).stem)))
    elif (losses := _losses(config)) != (_losses(start) if start else "none"):
        words.append({"none": "no training", "both": "IFC + CLC"}.get(losses, f"only {losses}"))
    if shots := config.get("shots"):
        words.append("1 shot" if shots == 1 else f"{shots} shots")
    # What a method changes in every config says nothing about this run.
    kept = ("crossmodal.", "projection.") if other else ""
    names = [name for name in _changed(config, start) if name.startswith(kept)]
    changed = [f"{name} {shown(config[name])}" for name in names]
    return words + changed[:2] + ([f"{len(changed) - 2} more"] if changed[2:] else [])


def _losses(config: dict[str, Any]) -> str:
    """Name of the losses with a weight: `IFC`, `none`, `both`, `LA + LC`."""
    weights = {n: v for n, v in config.items() if n.startswith("training.weights.")}
    if not weights:
        return "both"  # a result of a version that had none to name
    used = {name.rpartition(".")[2] for name, value in weights.items() if value}
    for name, parts in LOSSES.items():
        if set(parts) == used:
            return name
    return " + ".join(sorted(part.upper() for part in used))


def _changed(config: dict[str, Any], start: dict[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        if name not in start or name in (*PLACES, *SIZES, "shots"):
            continue
        before = list(start[name]) if isinstance(start[name], tuple) else start[name]
        if name in DEFAULT_WEIGHTS:
            # The losses are named as a whole: a weight counts where it is none that `only` sets.
            before = before or DEFAULT_WEIGHTS[name]
            value = value or before
        if value != before:
            yield name


def shown(value: Any) -> str:
    """A setting as a page shows it; absolute paths are reduced to their last part."""
    if value is None or value == "" or value in ([], ()):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(entry) for entry in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and Path(value).is_absolute():
        return f"…/{Path(value).name}"
    return str(value)
