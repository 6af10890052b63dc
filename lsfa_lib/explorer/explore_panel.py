"""The explorer's widgets: choices, figures, blend and threshold, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as w

from lsfa_lib.explorer import explore_html as html
from lsfa_lib.explorer.explore import Explorer
from lsfa_lib.explorer.explore_choices import Choices, Status, relative_folder
from lsfa_lib.explorer.explore_figures import Cloud, Images, Width
from lsfa_lib.explorer.inspection import Inspection
from lsfa_lib.figures.scan_images import picture_of
from lsfa_lib.storage.files import InputError

STEPS = 200
"""Steps of the threshold's slider."""


class Panel:
    """All widgets in one box; `open` fills them."""

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        explorer.data_root = explorer.data_root or explorer.config.data.root
        self._inspection: Inspection | None = None
        self._quiet = False
        self.choices, self.status = Choices(explorer), Status()
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
        self._view = w.VBox(self._rows(), layout=w.Layout(display="none", grid_gap="10px"))
        self.box = w.VBox(
            [w.HTML(html.STYLE), self.choices.box, self.status.box, self._view],
            layout=w.Layout(width="100%", overflow="hidden"),
        ).add_class("lsfa-live")
        self._connect()

    def open(self) -> None:
        """Fits or reads what was chosen, and shows it; an error becomes a sentence."""
        self._run(self._open_chosen)

    def _rows(self) -> list[w.Widget]:
        """What is below the choices, row by row."""
        width = Width()
        width.observe(lambda change: self._images.fit(change["new"]), "width")
        images = _column([width, self._images.widget], "2 1 420px")
        coloring = w.HBox([_label("Cloud coloured by"), self._colors])
        cloud = _column([Width(), coloring, self._cloud.widget], "1 1 270px")
        ends = w.HBox([_label("Colour"), self._blend, _label("Shape")])
        self._mix = w.VBox([self._share, ends])
        threshold = w.HBox([self._threshold, self._reset])
        scores = _column([self._strip, self._counts], "3 1 340px")
        sliders = _column([self._mix, self._limit, threshold], "2 1 280px")
        legend = w.HTML(html.legend_html())
        return [self._verdict, _row(images, cloud), legend, self._why, _row(scores, sliders)]

    def _connect(self) -> None:
        """Widgets act on values that a user sets, not on those that the program sets."""
        choices = self.choices
        acts: dict[w.Widget, Callable[[Any], None]] = {
            choices.root: self._root_changed,
            choices.category: self._recipe_changed,
            choices.preset: self._recipe_changed,
            choices.losses: self._recipe_changed,
            choices.scan: self._scan_changed,
            self._blend: self._blended,
            self._threshold: self._threshold_moved,
            self._colors: lambda _: self._draw_cloud(),
        }

        def changed(change: dict[str, Any]) -> None:
            if not self._quiet:
                self._run(acts[change["owner"]], change["new"])

        for widget in acts:
            widget.observe(changed, "value")
        self._reset.on_click(lambda _: self._run(self._threshold_reset))

    def _open_chosen(self) -> None:
        explorer, choices = self._explorer, self.choices
        with self._silent():
            choices.root.value = relative_folder(explorer.data_root)
            choices.category.options = names = explorer.categories
            category = explorer.category or names[0]
            choices.category.value = category if category in names else None
        with self.status.busy(), choices.disabled():
            self._inspection = inspection = explorer.open()
        self._reach = inspection.reach
        with self._silent():
            choices.scan.options = [
                (" ".join(name.split("/")[2:]), i)
                for i, name in enumerate(inspection.fitted.evidence.names)
            ]
            choices.scan.value = inspection.scan
            self._blend.value = round(100 * inspection.position)
            by_picture, by_score = picture_of(inspection.sample), "score"
            if self._colors.options != (by_picture, by_score):
                self._colors.options = by_picture, by_score
        self._mix.layout.display = None if inspection.blends else "none"
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
        explorer, choices = self._explorer, self.choices
        if explorer.category != choices.category.value:
            explorer.scan = ""
        elif self._inspection is not None:
            explorer.scan = self._inspection.name
        explorer.category, explorer.preset = choices.category.value, choices.preset.value
        explorer.only = choices.losses.value
        self.open()

    def _scan_changed(self, scan: int) -> None:
        self._open.choose(scan)
        self._draw_scan()

    def _picked(self, row: int, column: int) -> None:
        def act() -> None:
            self._open.pixel = row, column
            self._draw_pixel()

        self._run(act)

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

    def _run(self, act: Callable[..., None], *values: Any) -> None:
        """Acts; an error is shown as a sentence in the status line."""
        try:
            act(*values)
        except Exception as error:
            self._explorer.problem = error
            self.status.report(error)

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Widgets that the program sets do not act as if a user had."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before


def _row(*columns: w.Widget) -> w.Box:
    return w.Box(columns, layout=w.Layout(flex_flow="row wrap", grid_gap="8px 28px"))


def _column(widgets: list[w.Widget], flex: str) -> w.VBox:
    """One below the other, next to the other column where there is room."""
    return w.VBox(widgets, layout=w.Layout(flex=flex, min_width="260px", overflow="hidden"))


def _label(text: str) -> w.HTML:
    return w.HTML(f'<span class="lsfa">{text}</span>')
