"""The explorer's widgets: choices, figures, blend and threshold, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ipywidgets as w

from lsfa_lib.config import PRESETS
from lsfa_lib.datasets.layouts import categories
from lsfa_lib.explorer import explore_html as html
from lsfa_lib.explorer.explore import Explorer
from lsfa_lib.explorer.explore_figures import Cloud, Images, Width
from lsfa_lib.explorer.inspection import Inspection
from lsfa_lib.storage.files import InputError, located, progress_reported_to

LOSSES = {"IFC and CLC": "both", "only IFC": "IFC", "only CLC": "CLC", "none": "none"}
STEPS = 200
"""Steps of the threshold's slider."""
STAGES = {
    "load encoders": "Loading the backbones",
    "look for a fitted detector": "Looking for a fitted detector",
    "features of train and validation": "Reading the good parts",
    "train adaptors": "Training the adaptors",
    "fit banks": "Choosing the patches of the memory bank",
    "score test scans": "Scoring the test scans",
}
ROW = {"flex_flow": "row wrap", "grid_gap": "8px 28px"}


class Panel:
    """All widgets in one box; `open` fills them."""

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        self._inspection: Inspection | None = None
        self._quiet = False
        self._make_choices()
        self._make_view()
        self.box = w.VBox(
            [w.HTML(html.STYLE), self._choices, self._status, self._view],
            layout=w.Layout(width="100%", overflow="hidden"),
        ).add_class("lsfa-live")

    def open(self) -> None:
        """Fits or reads what was chosen, and shows it; an error becomes a sentence."""
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
        explorer = self._explorer
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
            widget.style = {"description_width": "auto"}
            widget.layout = w.Layout(width="auto", flex="1 1 130px", min_width="130px")
        self._losses.layout.min_width = "175px"
        self._choices = w.Box(found, layout=w.Layout(flex_flow="row wrap", grid_gap="4px 14px"))
        self._preset.value, self._losses.value = explorer.preset, part
        self._on(self._root, self._root_changed)
        for widget in (self._category, self._preset, self._losses):
            self._on(widget, self._recipe_changed)
        self._on(self._scan, self._scan_changed)

    def _make_view(self) -> None:
        self._message, self._bar = w.HTML(), w.IntProgress(layout=w.Layout(width="220px"))
        self._status = w.HBox([self._bar, self._message], layout=w.Layout(align_items="center"))
        self._verdict, self._strip, self._counts, self._why = (w.HTML() for _ in range(4))
        self._share, self._limit = w.HTML(), w.HTML()
        self._images, self._cloud = Images(self._picked), Cloud(self._picked)
        self._colors = w.ToggleButtons(
            options=["photo", "score"],
            tooltips=["Points in the photo's colours", "Points in the colours of the score"],
            style={"button_width": "70px"},
        )
        slider = {"readout": False, "layout": w.Layout(width="auto", flex="1 1 auto")}
        self._blend = w.IntSlider(50, 0, 100, 5, **slider)
        self._threshold = w.IntSlider(0, 0, STEPS, **slider)
        self._reset = w.Button(
            description="Reset", tooltip="The threshold set on good parts", layout={"width": "70px"}
        )
        self._on(self._blend, self._blended)
        self._on(self._threshold, self._threshold_moved)
        self._on(self._colors, lambda _: self._draw_cloud())
        self._reset.on_click(lambda _: self._run(self._threshold_reset))
        self._view = w.VBox(self._rows(), layout=w.Layout(display="none", grid_gap="10px"))

    def _rows(self) -> list[w.Widget]:
        width = Width()
        width.observe(lambda change: self._images.fit(change["new"]), "width")
        images = _column([width, self._images.widget], "2 1 420px")
        coloring = w.HBox([_label("Cloud coloured by"), self._colors])
        cloud = _column([Width(), coloring, self._cloud.widget], "1 1 270px")
        blend = w.HBox([_label("Colour"), self._blend, _label("Shape")])
        threshold = w.HBox([self._threshold, self._reset])
        scores = _column([self._strip, self._counts], "3 1 340px")
        sliders = _column([self._share, blend, self._limit, threshold], "2 1 280px")
        return [
            self._verdict,
            w.Box([images, cloud], layout=w.Layout(**ROW)),
            w.HTML(html.legend_html()),
            self._why,
            w.Box([scores, sliders], layout=w.Layout(**ROW)),
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
        """Moves the slider to the step nearest to the threshold, which itself is unchanged."""
        low, high = self._reach
        with self._silent():
            self._threshold.value = round(STEPS * (self._open.threshold - low) / (high - low))

    def _draw_scan(self) -> None:
        sample, level = self._open.sample, self._open.level
        self._images.show(sample, level)
        self._cloud.show(sample, level, self._colors.value == "score")
        self._draw_pixel()
        self._draw_scores()

    def _draw_pixel(self) -> None:
        inspection = self._open
        self._images.mark(*inspection.pixel)
        self._cloud.mark(*inspection.pixel)
        self._why.value = html.why_html(inspection.why(), inspection)

    def _draw_scores(self) -> None:
        inspection = self._open
        own = inspection.threshold == inspection.own_threshold
        percent = round(100 * inspection.position)
        self._verdict.value = html.verdict_html(inspection)
        self._strip.value = html.strip_html(inspection)
        self._counts.value = html.counts_html(inspection.counts)
        self._share.value = html.setting("Blend", f"{100 - percent} % colour, {percent} % shape")
        whose = "set on good parts" if own else "yours"
        self._limit.value = html.setting(f"Threshold {inspection.threshold:.2f}", whose)
        self._reset.disabled = own

    def _draw_cloud(self) -> None:
        inspection, by_score = self._open, self._colors.value == "score"
        self._cloud.recolor(inspection.sample, inspection.level, by_score)

    def _root_changed(self, root: str) -> None:
        explorer, before = self._explorer, self._explorer.data_root
        explorer.data_root, explorer.scan = root.strip(), ""
        try:
            names = explorer.categories
        except InputError:
            explorer.data_root = before
            raise
        if explorer.category not in names:
            explorer.category = names[0]
        self.open()

    def _recipe_changed(self, _: str) -> None:
        explorer = self._explorer
        if explorer.category != self._category.value:
            explorer.scan = ""
        elif self._inspection is not None:
            explorer.scan = self._inspection.name
        explorer.category, explorer.preset = self._category.value, self._preset.value
        explorer.only = self._losses.value
        self.open()

    def _scan_changed(self, scan: int) -> None:
        self._open.choose(scan)
        self._draw_scan()

    def _picked(self, row: int, column: int) -> None:
        with self._sentence():
            self._open.pixel = row, column
            self._draw_pixel()

    def _blended(self, percent: int) -> None:
        self._open.blend(percent / 100)
        self._set_threshold()
        self._images.recolor(self._open.sample, self._open.level)
        if self._colors.value == "score":
            self._draw_cloud()
        self._draw_pixel()
        self._draw_scores()

    def _threshold_moved(self, step: int) -> None:
        low, high = self._reach
        self._open.threshold = low + (high - low) * step / STEPS
        self._draw_scores()

    def _threshold_reset(self) -> None:
        self._open.threshold = self._open.own_threshold
        self._set_threshold()
        self._draw_scores()

    @property
    def _open(self) -> Inspection:
        if self._inspection is None:
            raise InputError("nothing is open yet; choose a data folder and a category")
        return self._inspection

    def _on(self, widget: w.Widget, act: Callable[[Any], None]) -> None:
        """Acts on a new value that a user has set, not one that the program has."""

        def changed(change: dict[str, Any]) -> None:
            if not self._quiet:
                self._run(lambda: act(change["new"]))

        widget.observe(changed, "value")

    def _run(self, act: Callable[[], None]) -> None:
        with self._sentence():
            act()

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Widgets that the program sets do not act as if a user had."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    @contextmanager
    def _sentence(self) -> Iterator[None]:
        """An error is shown as a sentence in the status line."""
        try:
            yield
        except Exception as error:
            self._explorer.problem = error
            text = str(error)
            if not isinstance(error, InputError):
                text = f"This did not work: {type(error).__name__}: {error}"
            self._message.value = html.note(text, error=True)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Choices are disabled while the bar shows progress."""
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
        self._message.value = html.note(f"{STAGES.get(name, name)} …")

    def _progress(self, label: str, done: int, total: int) -> None:
        if total:
            self._bar.max, self._bar.value = total, done


def _column(widgets: list[w.Widget], flex: str) -> w.VBox:
    """One below the other, next to the other column where there is room."""
    return w.VBox(widgets, layout=w.Layout(flex=flex, min_width="260px", overflow="hidden"))


def _label(text: str) -> w.HTML:
    return w.HTML(f'<span class="lsfa">{text}</span>')


def _data_roots() -> list[str]:
    """Folders next to the demo's that hold categories."""
    found = []
    for folder in sorted(located(Path("data")).glob("*/")):
        with suppress(InputError):
            categories(folder)
            found.append(f"data/{folder.name}")
    return found
