"""What is explored: a category of a data set under a recipe, opened when it is first asked for."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from lsfa_lib.config import Config, configure
from lsfa_lib.datasets.layouts import categories
from lsfa_lib.explorer.evidence import Confusion
from lsfa_lib.explorer.fitted import Fitted, Told, fitted
from lsfa_lib.explorer.inspection import Inspection, Why
from lsfa_lib.storage.files import located


class Exploration:
    """One category of a data set under one recipe, and what of it is being looked at.

    Nothing is read or fitted before it is shown or asked. Without a category the first of the data
    set is taken, without a scan the one with the highest score. `problem` is the last error that
    the shown explorer put into a sentence.
    """

    def __init__(
        self,
        category: str = "",
        *,
        preset: str = "demo",
        only: str = "both",
        data_root: str = "",
        scan: str = "",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.category, self.preset, self.only, self.data_root = category, preset, only, data_root
        self.scan, self.seed, self.device = scan, seed, device
        self.problem: Exception | None = None
        self._kept: dict[tuple[str, Config], Fitted] = {}
        self._opened: Inspection | None = None

    @property
    def config(self) -> Config:
        """The recipe."""
        fields = {"device": self.device, "only": self.only or "both"}
        if self.data_root:
            fields["data.root"] = self.data_root
        return configure(self.preset, fields)

    @property
    def categories(self) -> list[str]:
        """Those of the data set."""
        return categories(located(Path(self.config.data.root)))

    def open(self, told: Told = lambda _: None) -> Inspection:
        """Fits what was chosen, or reads what was fitted before; `told` hears of each stage."""
        config, category = self.config, self.category or self.categories[0]
        if (category, config) not in self._kept:
            self._kept[category, config] = fitted(category, config, self.seed, told)
        self._opened = Inspection(self._kept[category, config])
        if self.scan:
            self._opened.choose(self.scan)
        return self._opened

    @property
    def inspection(self) -> Inspection:
        """What is being looked at; opened when it was not."""
        return self._opened or self.open()

    @property
    def counts(self) -> Confusion:
        """Test parts found, missed, rejected and passed at the present blend and threshold."""
        return self.inspection.counts

    def why(self, row: int | None = None, column: int | None = None) -> Why:
        """The normal patches closest to a pixel of the scan; its worst one where none is given."""
        return self.inspection.why(row, column)

    def figure(self) -> go.Figure:
        """The scan as reports draw it."""
        return self.inspection.figure()

    def answer(self) -> str:
        """Why the scan is called what it is called, from the numbers, as Markdown."""
        return self.inspection.answer()
