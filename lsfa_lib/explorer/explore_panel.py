"""The explorer's widgets: choices, figures, blend and threshold, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ipywidgets as w

from lsfa_lib.config import PRESETS
from lsfa_lib.datasets.layouts import categories
from lsfa_lib.explorer.exploration import Exploration
from lsfa_lib.explorer.explore_figures import Cloud, Pictures, Width
from lsfa_lib.explorer.explore_html import (
    STYLE,
    counts_html,
    legend_html,
    note,
    setting,
    strip_html,
    verdict_html,
    why_html,
)
from lsfa_lib.explorer.inspection import Inspection
from lsfa_lib.storage.files import InputError, located, progress_reported_to

LOSSES = {"IFC and CLC": "both", "only IFC": "IFC", "only CLC": "CLC", "none": "none"}
STEPS = 200
"""Places of the threshold's slider."""
STAGES = {
    "load encoders": "Loading the backbones",
    "look for a fitted detector": "Looking for a fitted detector",
    "features of train and validation": "Reading the good parts",
    "train adaptors": "Training the adaptors",
    "fit banks": "Choosing the patches to remember",
    "score test scans": "Scoring the test scans",
}


class Panel:
    """All widgets in one box; `open` fills them."""

    def __init__(self, explorer: Exploration) -> None:
        self._explorer = explorer
        self._inspection: Inspection | None = None
        self._quiet = False
        self._make_choices()
        self._make_view()
        self.box = w.VBox(
            [w.HTML(STYLE), self._choices, self._status, self._view],
            layout=w.Layout(width="100%", overflow="hidden"),
        ).add_class("lsfa-live")

    def open(self) -> None:
        """Fits or reads what the choices say, and shows it; an error becomes a sentence."""
        with self._sentence():
            names = self._explorer.categories
            with self._silent():
                self._category.options = names
                category = self._explorer.category or names[0]
                self._category.value = category if category in names else None
            with self._busy():
                self._inspection = self._explorer.open(self._stage)
            self._fill()

    def _make_choices(self) -> None:
        explorer, style = self._explorer, {"description_width": "auto"}
        explorer.data_root = explorer.data_root or explorer.config.data.root
        self._root = w.Combobox(
            value=explorer.data_root,
            options=_data_roots(),
            description="Data",
            continuous_update=False,
        )
        self._category = w.Dropdown(description="Category", options=[])
        self._preset = w.Dropdown(description="Recipe", options=list(PRESETS))
        part = explorer.only or "both"
        losses = LOSSES if part in LOSSES.values() else {f"only {part}": part, **LOSSES}
        self._losses = w.Dropdown(description="Training", options=list(losses.items()))
        self._scan = w.Dropdown(description="Test scan", options=[])
        found = [self._root, self._category, self._scan, self._preset, self._losses]
        for widget in found:
            widget.style = style
            widget.layout = w.Layout(width="auto", flex="1 1 130px", min_width="130px")
        self._losses.layout.min_width = "175px"
        self._choices = w.Box(found, layout=w.Layout(flex_flow="row wrap", grid_gap="4px 14px"))
        self._preset.value = explorer.preset
        self._losses.value = part
        self._root.observe(self._root_changed, "value")
        for widget in (self._category, self._preset, self._losses):
            widget.observe(self._recipe_changed, "value")
        self._scan.observe(self._scan_changed, "value")

    def _make_view(self) -> None:
        self._message, self._bar = w.HTML(), w.IntProgress(layout=w.Layout(width="220px"))
        self._status = w.HBox([self._bar, self._message], layout=w.Layout(align_items="center"))
        self._verdict, self._strip, self._counts, self._why = (w.HTML() for _ in range(4))
        self._pictures, self._cloud = Pictures(self._picked), Cloud(self._picked)
        self._colors = w.ToggleButtons(
            options=["photo", "score"],
            tooltips=["Points in the photo's colours", "Points in the colours of the score"],
            style={"button_width": "70px"},
        )
        slider = w.Layout(width="auto", flex="1 1 auto")
        self._blend = w.IntSlider(50, 0, 100, 5, readout=False, layout=slider)
        self._share, self._limit = w.HTML(), w.HTML()
        self._threshold = w.IntSlider(0, 0, STEPS, readout=False, layout=slider)
        self._reset = w.Button(
            description="Reset", tooltip="The threshold set on good parts", layout={"width": "70px"}
        )
        self._blend.observe(self._blended, "value")
        self._threshold.observe(self._threshold_moved, "value")
        self._colors.observe(self._colors_changed, "value")
        self._reset.on_click(self._threshold_reset)
        self._view = w.VBox(self._rows(), layout=w.Layout(display="none", grid_gap="10px"))

    def _rows(self) -> list[w.Widget]:
        row = {"flex_flow": "row wrap", "grid_gap": "8px 28px"}
        width = Width()
        width.observe(lambda change: self._pictures.fit(change["new"]), "width")
        pictures = _column([width, self._pictures.widget], "2 1 420px")
        coloring = w.HBox([_label("Cloud coloured by"), self._colors])
        cloud = _column([Width(), coloring, self._cloud.widget], "1 1 270px")
        blend = w.HBox([_label("Colour"), self._blend, _label("Shape")])
        threshold = w.HBox([self._threshold, self._reset])
        sliders = [self._share, blend, self._limit, threshold]
        return [
            self._verdict,
            w.Box([pictures, cloud], layout=w.Layout(**row)),
            w.HTML(legend_html()),
            self._why,
            w.Box(
                [_column([self._strip, self._counts], "3 1 340px"), _column(sliders, "2 1 280px")],
                layout=w.Layout(**row),
            ),
        ]

    def _fill(self) -> None:
        """Everything, after another category or recipe was opened."""
        inspection = self._open
        self._reach = inspection.reach
        with self._silent():
            self._scan.options = [
                (" ".join(name.split("/")[2:]), i)
                for i, name in enumerate(inspection.fitted.evidence.names)
            ]
            self._scan.value = inspection.scan
            self._blend.value = round(100 * inspection.position)
        self._set_threshold()
        self._draw_scan()
        self._view.layout.display = None

    def _set_threshold(self) -> None:
        """The slider to the step nearest to the threshold, which itself stays as it is."""
        low, high = self._reach
        with self._silent():
            self._threshold.value = round(STEPS * (self._open.threshold - low) / (high - low))

    def _draw_scan(self) -> None:
        inspection = self._open
        sample, level = inspection.sample, inspection.level
        self._pictures.show(sample, level)
        self._cloud.show(sample, level, self._colors.value == "score")
        self._draw_pixel()
        self._draw_scores()

    def _draw_pixel(self) -> None:
        inspection = self._open
        self._pictures.mark(*inspection.pixel)
        self._cloud.mark(*inspection.pixel)
        self._why.value = why_html(inspection.why(), inspection)

    def _draw_scores(self) -> None:
        inspection = self._open
        own = inspection.threshold == inspection.own_threshold
        percent = round(100 * inspection.position)
        self._verdict.value = verdict_html(inspection)
        self._strip.value = strip_html(inspection)
        self._counts.value = counts_html(inspection.counts)
        self._share.value = setting("Blend", f"{100 - percent} % colour, {percent} % shape")
        whose = "set on good parts" if own else "yours"
        self._limit.value = setting(f"Threshold {inspection.threshold:.2f}", whose)
        self._reset.disabled = own

    def _draw_map(self) -> None:
        inspection = self._open
        sample, level = inspection.sample, inspection.level
        self._pictures.recolor(sample, level)
        if self._colors.value == "score":
            self._cloud.recolor(sample, level, by_score=True)

    def _root_changed(self, change: dict[str, Any]) -> None:
        if self._quiet:
            return
        explorer, before = self._explorer, self._explorer.data_root
        explorer.data_root, explorer.scan = change["new"].strip(), ""
        with self._sentence():
            try:
                names = explorer.categories
            except InputError:
                explorer.data_root = before
                raise
            if explorer.category not in names:
                explorer.category = names[0]
            self.open()

    def _recipe_changed(self, change: dict[str, Any]) -> None:
        if self._quiet:
            return
        explorer = self._explorer
        if explorer.category != self._category.value:
            explorer.scan = ""
        elif self._inspection is not None:
            explorer.scan = self._inspection.name
        explorer.category, explorer.preset = self._category.value, self._preset.value
        explorer.only = self._losses.value
        self.open()

    def _scan_changed(self, change: dict[str, Any]) -> None:
        if self._quiet:
            return
        with self._sentence():
            self._open.choose(change["new"])
            self._draw_scan()

    def _picked(self, row: int, column: int) -> None:
        with self._sentence():
            self._open.pixel = row, column
            self._draw_pixel()

    def _blended(self, change: dict[str, Any]) -> None:
        if self._quiet:
            return
        with self._sentence():
            self._open.blend(change["new"] / 100)
            self._set_threshold()
            self._draw_map()
            self._draw_pixel()
            self._draw_scores()

    def _threshold_moved(self, change: dict[str, Any]) -> None:
        if self._quiet:
            return
        with self._sentence():
            low, high = self._reach
            self._open.threshold = low + (high - low) * change["new"] / STEPS
            self._draw_scores()

    def _threshold_reset(self, _: w.Button) -> None:
        with self._sentence():
            self._open.threshold = self._open.own_threshold
            self._set_threshold()
            self._draw_scores()

    def _colors_changed(self, change: dict[str, Any]) -> None:
        with self._sentence():
            inspection = self._open
            self._cloud.recolor(inspection.sample, inspection.level, change["new"] == "score")

    @property
    def _open(self) -> Inspection:
        if self._inspection is None:
            raise InputError("nothing is open yet; choose a data folder and a category")
        return self._inspection

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Widgets set by the program do not act as if a user had moved them."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    @contextmanager
    def _sentence(self) -> Iterator[None]:
        """An error becomes a sentence where the explorer tells its state."""
        try:
            yield
        except Exception as error:
            self._explorer.problem = error
            text = str(error)
            if not isinstance(error, InputError):
                text = f"This did not work: {type(error).__name__}: {error}"
            self._message.value = note(text, error=True)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Choices rest while the bar tells how far it is."""
        self._bar.layout.display = None
        for widget in self._choices.children:
            widget.disabled = True
        try:
            with progress_reported_to(self._progress):
                yield
            self._message.value = ""
        finally:
            self._bar.layout.display = "none"
            for widget in self._choices.children:
                widget.disabled = False

    def _stage(self, name: str) -> None:
        self._bar.bar_style, self._bar.value, self._bar.max = "info", 0, 1
        self._message.value = note(f"{STAGES.get(name, name)} …")

    def _progress(self, label: str, done: int, total: int) -> None:
        if total:
            self._bar.max, self._bar.value = total, done


def _column(widgets: list[w.Widget], flex: str) -> w.VBox:
    """One below the other, beside the next column where there is room."""
    return w.VBox(widgets, layout=w.Layout(flex=flex, min_width="260px", overflow="hidden"))


def _label(text: str) -> w.HTML:
    return w.HTML(f'<span class="lsfa">{text}</span>')


def _data_roots() -> list[str]:
    """Folders beside the demo's that hold categories."""
    found = []
    for folder in sorted(located(Path("data")).glob("*/")):
        with suppress(InputError):
            categories(folder)
            found.append(f"data/{folder.name}")
    return found
