"""The live explorer: three lines in a notebook show it.

    from lsfa_lib.explorer.explore import Explorer
    explorer = Explorer("seal")
    explorer

All it shows can also be asked without widgets: see `Exploration`.
"""

from __future__ import annotations

from lsfa_lib.explorer.exploration import Exploration
from lsfa_lib.explorer.explore_panel import Panel


class Explorer(Exploration):
    """An exploration that shows itself at the end of a cell, and follows its widgets."""

    _panel: Panel | None = None

    def _ipython_display_(self) -> None:
        from IPython.display import display

        # Another cell shows the same widgets again, and what they were moved to.
        first, self._panel = self._panel is None, self._panel or Panel(self)
        display(self._panel.box)  # type: ignore[no-untyped-call]
        if first:
            self._panel.open()
