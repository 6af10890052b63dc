"""A fitted category under inspection: which scan, which pixel, how modalities are blended."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, UInt8

from lsfa_lib.config import Config
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.explorer import evidence
from lsfa_lib.explorer.evidence import Reason, blended, blended_threshold
from lsfa_lib.explorer.fitted import Fitted
from lsfa_lib.features.lazy_scan import read_sample
from lsfa_lib.figures.scan_figures import scan_figure
from lsfa_lib.figures.scan_images import level_of, range_of
from lsfa_lib.records import MODES, Modality, Mode, Prediction, Sample
from lsfa_lib.storage.files import InputError

POSITIONS: dict[Mode, float] = {"rgb": 0.0, "rgb+3d": 0.5, "3d": 1.0}
"""Where the detector's own modes lie between RGB and 3D."""


@dataclass(frozen=True)
class Why:
    """One pixel of a test scan, and the normal patches closest to its patch."""

    row: int
    column: int
    level: int
    """Score on the page's scale, per cent."""
    reasons: tuple[Reason, ...]
    """Empty off the part."""


class Inspection:
    """What the explorer shows, without widgets. Opens on the scan with the highest score.

    `scan` is the number of the test scan, `position` lies between RGB (0) and 3D (1), `pixel` is
    (row, column) in the encoders' image.
    """

    def __init__(self, fitted: Fitted) -> None:
        self.fitted = fitted
        self.position = 0.5
        self.threshold = self.own_threshold
        self._surface = _good_surface(fitted)
        self.choose(int(self.scores.argmax()))

    @property
    def blends(self) -> bool:
        """Whether there are two modalities, and so positions between them."""
        return len(self.fitted.evidence.scores) > 1

    @property
    def scores(self) -> Float[np.ndarray, " N"]:
        """Image score of each test scan at the position."""
        return self._blended(self.fitted.evidence.scores, self.position)

    @property
    def own_threshold(self) -> float:
        """The detector's threshold at the position."""
        return blended_threshold(self.fitted.detector, self.position)

    @property
    def reach(self) -> tuple[float, float]:
        """Lowest and highest of scores and of the detector's thresholds, in any of its modes."""
        found, positions = self.fitted, POSITIONS.values()
        ends = [blended_threshold(found.detector, position) for position in positions]
        for position in positions:
            ends += self._blended(found.evidence.scores, position).tolist()
        return min(ends), max(ends)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """(defective parts found, defective parts, good parts rejected, good parts).

        Of the test split, at position and threshold; `findings.counts` returns those of a run.
        """
        above, known_as = self.scores > self.threshold, self.fitted.evidence.known_as
        bad, good = above[known_as(defective=True)], above[known_as(defective=False)]
        return int(bad.sum()), len(bad), int(good.sum()), len(good)

    @property
    def name(self) -> str:
        """Name of the scan."""
        return self.fitted.evidence.names[self.scan]

    @property
    def level(self) -> UInt8[np.ndarray, "S S"]:
        """The scan's map at the position on the page's scale, per cent."""
        return level_of(self._blended(self._maps, self.position), self.bounds(self.position))

    def bounds(self, position: float) -> tuple[float, float]:
        """Map values of 0 % and 100 %: median and 99.9th percentile of good test surface."""
        return range_of(self._blended(self._surface, position))

    @property
    def sample(self) -> Sample:
        """The scan as the encoders saw it."""
        return prepared(self.fitted.evidence.entries[self.scan], self.fitted.config)

    def choose(self, scan: int | str) -> None:
        """Switches to a test scan, by number or by the end of its name, and to its worst pixel."""
        self.scan = scan if isinstance(scan, int) else self._place(scan)
        self._maps = evidence.standardised_maps(
            self.fitted.evidence, self.scan, self.fitted.detector
        )
        inside = self.fitted.evidence.valid[self.scan]
        found = np.where(inside, self._blended(self._maps, self.position), -np.inf)
        row, column = np.unravel_index(found.argmax(), found.shape)
        self.pixel = int(row), int(column)

    def blend(self, position: float) -> None:
        """Moves to a position between RGB and 3D; the detector's own threshold follows."""
        follows = self.threshold == self.own_threshold
        self.position = position
        if follows:
            self.threshold = self.own_threshold

    def why(self, row: int | None = None, column: int | None = None) -> Why:
        """The closest normal patches of a pixel, by default of the chosen one."""
        row, column = self.pixel if row is None or column is None else (row, column)
        fitted, side = self.fitted, self.fitted.config.preprocess.image_size
        if not (0 <= row < side and 0 <= column < side):
            raise InputError(
                f"pixel ({row}, {column}) is outside {self.name}; rows and columns are 0 to "
                f"{side - 1}"
            )
        patch = evidence.patch_at(row, column, fitted.config)
        found = evidence.reasons(fitted.evidence, self.scan, patch, fitted.detector, fitted.train)
        return Why(row, column, int(self.level[row, column]), tuple(found))

    def figure(self) -> go.Figure:
        """The scan as reports draw it: cloud, photo, ground truth and maps of RGB, 3D and both."""
        predictions, ranges = {}, {}
        for mode in MODES if self.blends else self.fitted.evidence.scores:
            position = POSITIONS[mode]
            anomaly = torch.from_numpy(self._blended(self._maps, position))
            score = float(self._blended(self.fitted.evidence.scores, position)[self.scan])
            predictions[mode] = Prediction(anomaly, score)
            ranges[mode] = self.bounds(position)
        return scan_figure(self.sample, predictions, ranges, self.verdict)

    @property
    def verdict(self) -> str:
        """How the scan is classified, and by how much; HTML."""
        score = float(self.scores[self.scan])
        word = "defective" if score > self.threshold else "good"
        return (
            f"<b>{html.escape(self.name)} is called {word}</b>: "
            f"score {score:.2f}, threshold {self.threshold:.2f}"
        )

    def answer(self) -> str:
        """Why the scan is classified as it is, from the numbers, as Markdown."""
        found, bad, rejected, good = self.counts
        lines = [re.sub("</?b>", "**", self.verdict) + ".\n"]
        words = {"rgb": "In colour (RGB)", "3d": "In shape (3D)"}
        for reason in self.why().reasons:
            lines.append(
                f"- **{words[reason.modality]}** its most unusual patch is {reason.distance:.2f} "
                f"from the closest normal patch, which is in {html.escape(reason.source.name)}; "
                f"{rank_text(reason)}."
            )
        lines.append(
            f"- At this threshold {found} of {bad} defective test parts are found and "
            f"{rejected} of {good} good ones rejected."
        )
        return "\n".join(lines)

    def _blended(self, parts: dict[Modality, np.ndarray], position: float) -> np.ndarray:
        return blended(parts, position, self.fitted.detector.config.detector.fusion)

    def _place(self, name: str) -> int:
        names = self.fitted.evidence.names
        found = [i for i, full in enumerate(names) if f"/{full}".endswith(f"/{name}")]
        if len(found) != 1:
            some = ", ".join(full.split("/", 2)[2] for full in names[:3])
            raise InputError(
                f"{len(found)} test scans are called {name!r}; use a name such as {some}"
            )
        return found[0]


def rank_text(reason: Reason) -> str:
    """Where a distance ranks among those of good patches, in words."""
    share = 100 * reason.nearer
    if share == 100:
        return "farther than every patch of the good validation parts"
    digits = f"{min(share, 99.9):.1f}" if share > 99 else f"{share:.0f}"
    return f"farther than {digits} % of the patches of good validation parts"


@lru_cache(maxsize=24)
def prepared(entry: Entry, config: Config) -> Sample:
    """A scan as the encoders see it; the most recent ones are kept for further clicks."""
    return read_sample(entry, config)


def _good_surface(fitted: Fitted) -> dict[Modality, Float[np.ndarray, " n"]]:
    """Standardised map values of all pixels of good test parts; of all parts where none is good."""
    found = fitted.evidence
    good = np.flatnonzero(found.known_as(defective=False)).tolist()
    surfaces: dict[Modality, list[np.ndarray]] = {}
    for i in good or range(len(found.names)):
        for m, level in evidence.standardised_maps(found, i, fitted.detector).items():
            surfaces.setdefault(m, []).append(level[found.valid[i]])
    return {m: np.concatenate(parts) for m, parts in surfaces.items()}
