"""The table of components as sentences, figures and a document; every number from the cells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from pandas.io.formats.style import Styler

from lsfa_lib.evaluation.bootstrap import verdict
from lsfa_lib.figures.findings import NAMES
from lsfa_lib.figures.style import TEMPLATE
from lsfa_lib.selection.selection import rank_correlation
from lsfa_lib.storage.files import InputError, atomic_write
from lsfa_lib.studies.components import VARIANTS
from lsfa_lib.studies.components_table import (
    ALL_THREE,
    DISAGREEMENT,
    PATCHCORE,
    Cells,
    read_cells,
    table,
)

LOSSES_IN_WORDS = {"ours": "losses of ours", "published": "losses as printed"}
TITLES = {"i_auroc": "I-AUROC", "aupro_30": "AUPRO 30 %", "p_auroc": "P-AUROC"}
NO_INTERVAL = "one seed, no interval"
COLOURS = {
    "confirmed": "#009E73",
    "worse": "#D55E00",
    "no better than untrained": "#E69F00",
    "not confirmed with these features": "#8a94a0",
    NO_INTERVAL: "#8a94a0",
}


def shown(lines: pd.DataFrame, metrics: tuple[str, ...] = tuple(TITLES)) -> pd.DataFrame:
    """The table as people read it: values, differences to the baseline, intervals, verdicts."""
    rows = []
    for line in _records(lines):
        row = {"row": line["row"], "mode": NAMES.get(line["mode"], line["mode"])}
        for metric in metrics:
            row[TITLES[metric]] = _bounded(line, metric, "{:.3f}")
            row[f"Δ {TITLES[metric]}"] = _bounded(line, f"d_{metric}", "{:+.3f}")
        row["Δ I-AUROC to control"] = _bounded(line, "c_i_auroc", "{:+.3f}")
        row["by I-AUROC"] = verdict(line)
        rows.append(row)
    return pd.DataFrame(rows)


def _records(lines: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in line.items()} for line in lines.to_dict("records")]


def _bounded(line: dict[str, Any], name: str, form: str) -> str:
    if name not in line or np.isnan(line[name]):
        return ""
    value, low, high = (form.format(line[name + end]) for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def styled(lines: pd.DataFrame) -> Styler:
    """`shown` for a page, narrow enough for it: P-AUROC and control are in the document alone."""
    cells = shown(lines, ("i_auroc", "aupro_30")).drop(columns="Δ I-AUROC to control")
    narrow = cells.map(lambda text: text.replace(" [", "<br>["))
    narrow["mode"] = narrow["mode"].str.replace("RGB + 3D + disagreement", "all three")
    return narrow.style.hide(axis="index").set_table_attributes('class="metrics"')


def losses_of(cells: Cells) -> list[str]:
    """The forms of the losses these cells were trained with."""
    return list(dict.fromkeys(losses for losses, _, _ in cells.values))


def heading(cells: Cells, losses: str) -> str:
    """Image size and losses of one table."""
    return f"{cells.image_size} px, {LOSSES_IN_WORDS[losses]}"


def forest_figure(lines: pd.DataFrame, metric: str = "i_auroc", title: str = "") -> go.Figure:
    """Difference of each row to the baseline, with its 95 % interval; zero is no gain.

    Disagreement alone is left out: far below the baseline, it would hide the others' differences.
    """
    compared = [
        line
        for line in _records(lines)
        if not np.isnan(line.get(f"d_{metric}", np.nan)) and line["mode"] != DISAGREEMENT
    ]
    kinds = [verdict(line, metric) or NO_INTERVAL for line in compared]
    figure = go.Figure()
    for kind in dict.fromkeys(kinds):
        chosen = [i for i, other in enumerate(kinds) if other == kind]
        gains, lows, highs = (
            np.array([compared[i][f"d_{metric}{end}"] for i in chosen])
            for end in ("", "_low", "_high")
        )
        figure.add_scatter(
            x=gains,
            y=chosen,
            text=[_label(compared[i]) for i in chosen],
            mode="markers",
            name=kind,
            marker={"size": 9, "color": COLOURS[kind]},
            error_x={
                "array": highs - gains,
                "arrayminus": gains - lows,
                "color": COLOURS[kind],
                "thickness": 2,
            },
            hovertemplate="%{text}<br>%{x:+.3f}<extra></extra>",
        )
    for place, line in enumerate(compared):
        # Above its line instead of beside it: on a phone there is no room to the left.
        figure.add_annotation(
            x=0,
            xref="paper",
            xanchor="left",
            y=place,
            yshift=14,
            text=_label(line),
            showarrow=False,
            font={"size": 12},
        )
    figure.add_vline(0.0, line={"width": 1, "dash": "dash", "color": "#6b7682"})
    found = f"{kinds.count('confirmed')} of {len(kinds)} gains in {TITLES[metric]} are confirmed"
    if set(kinds) <= {NO_INTERVAL}:
        largest = max(compared, key=lambda line: line[f"d_{metric}"], default={})
        gain = f"{largest[f'd_{metric}']:+.3f}, {_label(largest)}" if largest else "none"
        found = f"Largest gain in {TITLES[metric]}: {gain}"
    # One kind alone has no legend; on a phone each kind of several has a line of it.
    below = 110 if len(set(kinds)) > 1 else 60
    return figure.update_layout(
        template=TEMPLATE,
        height=130 + below + 36 * len(compared),
        title={"text": f"{title}: {found}" if title else found},
        margin={"l": 16, "b": below},
        xaxis={"title": {"text": f"Δ {TITLES[metric]} to the baseline"}, "nticks": 6},
        yaxis={
            "range": [len(compared) - 0.5, -1],
            "showticklabels": False,
            "showgrid": False,
            "showline": False,
            "ticks": "",
        },
        # Measured from the figure's own edge: shares of a low plot would run into its axis.
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
    )


def _label(line: dict[str, Any]) -> str:
    if line["mode"] in (DISAGREEMENT, ALL_THREE):
        return str(line["row"])
    return f"{line['row']}, {NAMES[line['mode']]}"


def answer(cells: Cells, losses: str, lines: pd.DataFrame) -> str:
    """What each part brings, in sentences made of the numbers."""
    both = lines[lines["mode"].isin(["rgb+3d", "disagreement", ALL_THREE])]
    sentences = []
    for line in _records(both):
        if (said := verdict(line)) and "control" not in line["row"]:
            gain = _bounded(line, "d_i_auroc", "{:+.3f}")
            pro = _bounded(line, "d_aupro_30", "{:+.3f}")
            sentences.append(
                f"- **{line['row']}**: {said}. I-AUROC {gain}, AUPRO {pro} against the baseline "
                "in RGB + 3D."
            )
    stopped = [
        f"{cells.stopped[key]} of {cells.trainings[key]} trainings of {key[1]} collapsed"
        for key in cells.stopped
        if key[0] == losses and cells.stopped[key]
    ]
    if stopped:
        sentences.append(f"- {'; '.join(stopped)}: measured with the adaptors before it.")
    return "\n".join(sentences)


def resolution(sizes: list[Cells]) -> str:
    """What the image size alone brings to the unadapted baseline."""
    if len(sizes) < 2:
        return f"One image size was run: {sizes[0].image_size} px."
    said = []
    for mode in PATCHCORE:
        name = ("ours", "baseline", mode)
        for metric in ("i_auroc", "aupro_30"):
            means = [f"{c.values[name][metric].mean():.3f}" for c in sizes]
            said.append(f"{NAMES[mode]} {TITLES[metric]} {' → '.join(means)}")
    pixels = " → ".join(str(c.image_size) for c in sizes)
    return f"**Image size alone**, {pixels} px, unadapted: {'; '.join(said)}."


def write_components(cells_folder: Path, selection_folder: Path, path: Path) -> Path:
    """Writes the document of the study as Markdown and returns its path."""
    with atomic_write(path) as file:
        file.write_text("\n".join(_document(cells_folder, selection_folder)) + "\n", "utf-8")
    return path


def _document(cells_folder: Path, selection_folder: Path) -> Iterator[str]:
    sizes = read_cells(cells_folder)
    yield "# What each part brings\n"
    yield (
        "Written by `lsfa study page` from the cells of the study, not by hand. Paired differences "
        "to the unadapted baseline with 95 % bootstrap intervals: of I-AUROC over test scans, "
        "training seeds and coreset seeds, of AUPRO and P-AUROC over seeds alone. The categories "
        "are these and no sample of all there are. *Confirmed*: the interval of the difference to "
        "the baseline lies above 0, and so does that to random untrained adaptors. Many rows are "
        "compared, so one in forty would seem confirmed by chance.\n"
    )
    for cells in sizes:
        for losses in losses_of(cells):
            lines = table(cells, losses)
            yield f"## {heading(cells, losses)}\n"
            yield _setting(cells, losses) + "\n"
            yield answer(cells, losses, lines) + "\n"
            yield shown(lines).to_markdown(index=False) + "\n"
    yield "## Image size, time and memory\n"
    yield resolution(sizes) + "\n"
    yield costs(sizes).to_markdown(index=False, floatfmt=".1f") + "\n"
    if any(selection_folder.glob("*.json")):
        yield from _selection(selection_folder)


def _setting(cells: Cells, losses: str) -> str:
    shape = next(v["i_auroc"].shape for k, v in cells.values.items() if k[0] == losses)
    trainings = max(v["i_auroc"].shape[1] for k, v in cells.values.items() if k[0] == losses)
    tests = ", ".join(
        f"{name} {int((~d).sum())} good + {int(d.sum())} defective"
        for name, d in zip(cells.categories, cells.defective, strict=True)
    )
    there = {variant for form, variant, _ in cells.values if form in (losses, "ours")}
    lacking = [variant for variant in VARIANTS if variant not in there]
    left_out = f" Not run at this size: {', '.join(lacking)}." if lacking else ""
    seeds = f"{trainings} training seeds x {shape[2]} coreset seeds."
    encoders = " and ".join(cells.encoders)
    return f"Features: {encoders}. {seeds} Test scans: {tests}.{left_out}"


def costs(sizes: list[Cells]) -> pd.DataFrame:
    """Seconds and memory of each variant, means over trainings and categories."""
    rows = []
    for cells in sizes:
        for (losses, variant), seconds in cells.seconds.items():
            rows.append(
                {
                    "px": cells.image_size,
                    "losses": losses,
                    "variant": variant,
                    "train, s": seconds["train"],
                    "banks, s": seconds["fit"],
                    "predict a split, s": seconds["predict"],
                    "peak memory, MB": cells.peak_memory_mb,
                }
            )
    return pd.DataFrame(rows)


def selection_table(folder: Path, mode: str = ALL_THREE) -> tuple[pd.DataFrame, float]:
    """Selection score and test score of each configuration, and their rank correlation.

    Means over the categories that have both; a configuration without the mode is scored by RGB +
    3D. The test score is the mean of I-AUROC and AUPRO, as the selection score is.
    """
    contents = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))]
    if not contents:
        raise InputError(f"{folder} holds no scores; run `lsfa study select` first")
    each = [content["configurations"] for content in contents]
    rows = []
    for name in each[0]:
        if not all(name in found and found[name]["pseudo"] for found in each):
            continue
        chosen, tested = [], []
        for found in each:
            pseudo, test = found[name]["pseudo"], found[name]["test"]
            read = mode if mode in test else "rgb+3d"
            chosen.append((pseudo["i_auroc"][read] + pseudo["aupro_30"][read]) / 2)
            tested.append((test[read]["i_auroc"] + test[read]["aupro_30"]) / 2)
        rows.append({"configuration": name, "selection": np.mean(chosen), "test": np.mean(tested)})
    frame = pd.DataFrame(rows).sort_values("selection", ascending=False)
    return frame, rank_correlation(frame["selection"].tolist(), frame["test"].tolist())


def selection_figure(folder: Path) -> go.Figure:
    """Selection score against test score, a dot a configuration."""
    frame, correlation = selection_table(folder)
    figure = go.Figure()
    figure.add_scatter(
        x=frame["selection"],
        y=frame["test"],
        text=frame["configuration"],
        mode="markers",
        marker={"size": 10, "color": "#0072B2"},
        hovertemplate="%{text}<br>selection %{x:.3f}<br>test %{y:.3f}<extra></extra>",
    )
    return figure.update_layout(
        template=TEMPLATE,
        title={"text": f"Rank correlation {correlation:.2f} over {len(frame)} configurations"},
        xaxis={"title": {"text": "score on pseudo-defects of validation scans"}},
        yaxis={"title": {"text": "score on the test split"}},
    )


def _selection(folder: Path) -> Iterator[str]:
    frame, correlation = selection_table(folder)
    names = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
    yield "## Does the selection score predict the test result?\n"
    yield (
        f"Configurations around the one the choice began with, scored on pseudo-defects of "
        f"validation/good scans and afterwards on the test split, one seed; means over {names}. "
        f"Spearman's rank correlation over {len(frame)} configurations: {correlation:.2f}.\n"
    )
    yield frame.to_markdown(index=False, floatfmt=".3f") + "\n"
