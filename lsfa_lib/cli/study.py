"""`lsfa study`: what each part of the method brings, measured with several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lsfa_lib.storage.files import InputError

app = typer.Typer(
    help="Measure what each part of the method brings; `make study` does all of it.",
    no_args_is_help=True,
)

DataRoot = Annotated[Path, typer.Option("--data", help="Folder that holds the categories.")]
Preset = Annotated[str, typer.Option(help="demo and tiny need no download.")]
Size = Annotated[int, typer.Option("--image-size", help="px; 0 keeps the preset's.")]
Workers = Annotated[int, typer.Option(min=1, help="Categories side by side.")]
Reports = Annotated[Path, typer.Option("--reports", help="Folder the results are written to.")]
STUDY, REPORTS = Path("data/study"), Path("reports")


@app.command()
def data(root: Annotated[Path, typer.Option(help="Folder to write to.")] = STUDY) -> None:
    """Write the study's scans: the demo products, other parts, 100 test scans each at 448 px."""
    from lsfa_lib.demo.synthetic import DemoCounts, DemoSettings, write_demo

    counts = DemoCounts(train=32, validation=8, good=40, each_defect=10)
    write_demo(root, DemoSettings(counts=counts, size=448, seed=1))
    typer.echo(f"study data: {root}")


@app.command()
def select(
    categories: Annotated[list[str], typer.Argument(metavar="CATEGORY...")],
    data_root: DataRoot = STUDY,
    preset: Preset = "demo",
    image_size: Size = 0,
    workers: Workers = 2,
    reports: Reports = REPORTS,
) -> None:
    """Score configurations on pseudo-defects of validation scans, then on the test split."""
    from lsfa_lib.config import configure
    from lsfa_lib.studies.selection_study import run_selection, start

    base = start(configure(preset, str(data_root), image_size=image_size))
    folder = reports / "selection" / "cells"
    for category in run_selection(base, tuple(_there(data_root, categories)), folder, workers):
        typer.echo(f"selection: {folder / category}.json")


@app.command()
def components(
    categories: Annotated[list[str], typer.Argument(metavar="CATEGORY...")],
    data_root: DataRoot = STUDY,
    preset: Preset = "demo",
    image_size: Size = 0,
    training_seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant.")] = 3,
    coreset_seeds: Annotated[int, typer.Option(min=1, help="Banks of each training.")] = 2,
    losses: Annotated[str, typer.Option(help="ours, published, or both with a comma.")] = (
        "ours,published"
    ),
    variants: Annotated[str, typer.Option(help="Some of them, with commas; empty: all.")] = "",
    workers: Workers = 2,
    reports: Reports = REPORTS,
) -> None:
    """Train and test every variant of the method; cells that are there already are kept.

    Example: `lsfa study components all --image-size 448 --coreset-seeds 1 --losses ours`.
    """
    from lsfa_lib.config import configure
    from lsfa_lib.studies.components import LOSSES, VARIANTS, Study, run_study

    chosen = tuple(variants.split(",")) if variants else tuple(VARIANTS)
    forms = tuple(losses.split(","))
    for name, known in [(v, VARIANTS) for v in chosen] + [(form, LOSSES) for form in forms]:
        if name not in known:
            raise InputError(f"there is no {name!r} here; choose from {', '.join(known)}")
    config = configure(preset, str(data_root), image_size=image_size)
    there = tuple(_there(data_root, categories))
    study = Study(config, there, training_seeds, coreset_seeds, forms, chosen)
    folder = reports / "components" / "cells" / str(config.preprocess.image_size)
    for category in run_study(study, folder, workers):
        typer.echo(f"components: {category}")


@app.command()
def page(
    reports: Reports = REPORTS,
    document: Annotated[
        str, typer.Option(help="Also write the tables to this Markdown file.")
    ] = "",
) -> None:
    """Write the page of the study from its cells: tables, figures and an answer."""
    from lsfa_lib.pages import report
    from lsfa_lib.studies.components_report import write_components

    cells, selection = (reports / name / "cells" for name in ("components", "selection"))
    parameters = {"cells": str(cells.resolve()), "selection": str(selection.resolve())}
    if document:
        typer.echo(write_components(cells, selection, Path(document)))
    typer.echo(report.run_page("04_components_in_depth", reports / "components", parameters))


def _there(root: Path, categories: list[str]) -> list[str]:
    """The categories asked for. Raises InputError where the data lacks one."""
    from lsfa_lib.datasets import layouts

    known = layouts.categories(root)
    for category in categories:
        if category not in [*known, "all"]:
            raise InputError(
                f"{root / category}: no such category; {root} holds {', '.join(known)}"
            )
    return known if categories == ["all"] else categories
