"""The live explorer: three lines in a notebook show it.

    from lsfa_lib.explorer.explore import Explorer
    explorer = Explorer("seal")
    explorer

Everything it shows is also available without widgets, such as `explorer.why(row, column)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from lsfa_lib.config import Config, configure
from lsfa_lib.datasets.layouts import categories
from lsfa_lib.explorer.fitted import Fitted, fitted
from lsfa_lib.explorer.inspection import Inspection, Why

KEPT = 3
"""Fitted detectors that an explorer holds in memory."""


class Explorer:
    """One category of a data set under one recipe; shows itself at the end of a cell.

    Nothing is read or fitted before it is shown or asked. Without a category the first of the data
    set is taken, without a scan the one with the highest score. `modalities` is `["3d"]` or
    `["rgb"]` for one alone. `problem` is the last error that
    the shown explorer reported.
    """

    def __init__(
        self,
        category: str = "",
        *,
        preset: str = "demo",
        only: str = "",
        modalities: Sequence[str] = (),
        data_root: str = "",
        scan: str = "",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.category, self.preset, self.only, self.data_root = category, preset, only, data_root
        self.modalities = list(modalities)
        self.scan, self.seed, self.device = scan, seed, device
        self.problem: Exception | None = None
        self._kept: dict[tuple[str, Config, int], Fitted] = {}
        self._opened: Inspection | None = None
        self._panel: Any = None

    @property
    def config(self) -> Config:
        """The recipe."""
        asked = {"device": self.device, "only": self.only, "data.root": self.data_root}
        fields: dict[str, Any] = {name: value for name, value in asked.items() if value}
        if self.modalities:
            fields["modalities"] = self.modalities
        return configure(self.preset, fields)

    @property
    def categories(self) -> list[str]:
        """Those of the data set."""
        return categories(Path(self.config.data.root))

    def open(self) -> Inspection:
        """Fits what was chosen, or reads what was fitted before."""
        config, category = self.config, self.category or self.categories[0]
        key = category, config, self.seed
        if key not in self._kept:
            while len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = fitted(category, config, self.seed)
        self._opened = Inspection(self._kept[key])
        if self.scan:
            self._opened.choose(self.scan)
        return self._opened

    @property
    def inspection(self) -> Inspection:
        """The scan, pixel and settings shown; opened first where needed."""
        return self._opened or self.open()

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """(defective parts found, defective parts, good parts rejected, good parts) as shown."""
        return self.inspection.counts

    def why(self, row: int | None = None, column: int | None = None) -> Why:
        """The normal patches closest to a pixel of the scan, by default its worst one."""
        return self.inspection.why(row, column)

    def figure(self) -> go.Figure:
        """The scan as reports draw it."""
        return self.inspection.figure()

    def answer(self) -> str:
        """Why the scan is classified as it is, from the numbers, as Markdown."""
        return self.inspection.answer()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        from lsfa_lib.explorer.explore_panel import Panel

        # Another cell shows the same widgets again, in their current state.
        first, self._panel = self._panel is None, self._panel or Panel(self)
        display(self._panel.box)  # type: ignore[no-untyped-call]
        if first:
            self._panel.open()
