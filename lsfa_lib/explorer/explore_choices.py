"""The upper part of the explorer's panel: what to open, how far it is, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ipywidgets as w

from lsfa_lib.config import PRESETS
from lsfa_lib.datasets.layouts import categories
from lsfa_lib.explorer import explore_html as html
from lsfa_lib.explorer.explore import Explorer
from lsfa_lib.storage.files import CHECKOUT, InputError, located, progress_reported_to

LOSSES = {
    "as in the recipe": "",
    "IFC and CLC": "both",
    "only IFC": "IFC",
    "only CLC": "CLC",
    "none": "none",
}
STAGES = {
    "load encoders": "Loading the backbones",
    "look for a fitted detector": "Looking for a fitted detector",
    "features of train and validation": "Reading the good parts",
    "train adaptors": "Training the adaptors",
    "fit banks": "Choosing the patches of the memory bank",
    "score test scans": "Scoring the test scans",
}


class Choices:
    """Data folder, category, test scan, recipe and training."""

    def __init__(self, explorer: Explorer) -> None:
        only = explorer.only
        losses = LOSSES if only in LOSSES.values() else {f"only {only}": only, **LOSSES}
        self.root = w.Combobox(options=_data_roots(), description="Data", continuous_update=False)
        self.category = w.Dropdown(description="Category", options=[])
        self.scan = w.Dropdown(description="Test scan", options=[])
        presets = list(dict.fromkeys([explorer.preset, *PRESETS]))  # it may be a file
        self.preset = w.Dropdown(description="Recipe", options=presets, value=explorer.preset)
        self.losses = w.Dropdown(description="Training", options=list(losses.items()), value=only)
        found = [self.root, self.category, self.scan, self.preset, self.losses]
        for widget in found:
            widget.style = {"description_width": "auto"}
            widget.layout = w.Layout(width="auto", flex="1 1 130px", min_width="130px")
        self.losses.layout.min_width = "175px"
        self.box = w.Box(found, layout=w.Layout(flex_flow="row wrap", grid_gap="4px 14px"))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, nothing can be chosen."""
        for widget in self.box.children:
            widget.disabled = True
        try:
            yield
        finally:
            for widget in self.box.children:
                widget.disabled = False


class Status:
    """A line with a progress bar, or with a sentence on what went wrong."""

    def __init__(self) -> None:
        self.message = w.HTML()
        self._bar = w.IntProgress(bar_style="info", layout=w.Layout(width="220px"))
        self.box = w.HBox([self._bar, self.message], layout=w.Layout(align_items="center"))

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Inside, the bar shows progress."""
        self._bar.layout.display = None
        try:
            with progress_reported_to(self._progress):
                yield
            self.message.value = ""
        finally:
            self._bar.layout.display = "none"

    def report(self, error: Exception) -> None:
        """The error as a sentence."""
        text = str(error)
        if not isinstance(error, InputError):
            text = f"This did not work: {type(error).__name__}: {error}"
        self.message.value = html.note(text, error=True)

    def _progress(self, label: str, done: int, total: int) -> None:
        """A stage begins where the total is 0."""
        self._bar.max, self._bar.value = total or 1, done
        if not total:
            self.message.value = html.note(f"{STAGES.get(label, label)} …")


def relative_folder(folder: str) -> str:
    """The folder relative to the working directory or the checkout, if it is found by that name."""
    path = Path(folder).absolute()
    for base in (Path.cwd(), CHECKOUT):
        if path.is_relative_to(base):
            shown = path.relative_to(base)
            if located(shown).absolute() == path:
                return str(shown)
    return folder


def _data_roots() -> list[str]:
    """Folders next to the demo's that hold categories."""
    found = []
    for folder in sorted(located(Path("data")).glob("*/")):
        with suppress(InputError):
            categories(folder)
            found.append(f"data/{folder.name}")
    return found
