"""`lsfa sweep`: a study's runs in parallel, then the table and the page that answer it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from lsfa_lib.cli import options
from lsfa_lib.storage.files import InputError, require_writable


def sweep(
    study: Annotated[Path, Argument(help="Study file, such as studies/components.yaml.")],
    preset: Annotated[
        str, Option(help="Replaces the study's own.", show_default="the study's")
    ] = "",
    data_root: options.DataRoot = "",
    categories: Annotated[
        str, Option(help="Comma-separated, or `all`.", show_default="the study's")
    ] = "",
    seeds: Annotated[str, Option(help="Comma-separated.", show_default="the study's")] = "",
    workers: options.Workers = 2,
    scheduler: Annotated[
        str, Option(help="Address of a dask scheduler, tcp://..., whose workers run it.")
    ] = "",
    device: options.Device = "auto",
    image_size: options.ImageSize = 0,
    force: Annotated[bool, Option("--force", help="Repeat finished runs too.")] = False,
    reports: options.Reports = Path("reports"),
    document: Annotated[str, Option(help="Also write the tables to this Markdown file.")] = "",
) -> None:
    """Execute every run of a STUDY that is not finished, then write its table and its page.

    Examples: `lsfa sweep studies/components.yaml`, `lsfa sweep studies/paper.yaml --preset ours
    --data data/mvtec3d --seeds 0,1,2`. Resumes if interrupted.
    """
    from lsfa_lib.studies.study import Choices, read_studies

    choices = Choices(
        preset=preset,
        categories=tuple(filter(None, categories.split(","))),
        seeds=_numbers(seeds),
        fields=options.chosen_fields(data_root, device, image_size),
    )
    studies = read_studies(study, choices)
    options.check_names(studies, 0 if scheduler else workers)
    if document:
        require_writable(Path(document))
    from lsfa_lib.studies.sweep import run_sweep

    try:
        swept = run_sweep(studies, reports, workers, scheduler, force)
    except KeyboardInterrupt:
        typer.echo("lsfa: stopped; finished runs are kept, start it again to resume", err=True)
        raise
    if document:
        from lsfa_lib.studies.document import write_document

        typer.echo(write_document(swept.folders, Path(document)))
    for folder in swept.folders:
        for line in _table_lines(folder):
            typer.echo(line)
    for folder, reason in swept.failures.items():
        typer.echo(f"failed: {folder.name}: {reason}", err=True)
    typer.echo(f"open {swept.index}")
    if swept.failures:
        raise typer.Exit(1)


def _numbers(text: str) -> tuple[int, ...]:
    parts = list(filter(None, text.split(",")))
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--seeds {text} is not a list of seeds; for example: --seeds 0,1,2")
    return tuple(map(int, parts))


def _table_lines(folder: Path) -> list[str]:
    """A study's table in short: each cell in the mode that reports lead with."""
    import pandas as pd

    from lsfa_lib.figures.findings import BOTH
    from lsfa_lib.figures.names import METRICS, MODES
    from lsfa_lib.storage.study_record import read_study
    from lsfa_lib.studies import study_table

    if not (folder / "table.parquet").exists():
        return []
    about = read_study(folder / "study.json")
    lines = [f"{about.title} ({about.preset}, {MODES[BOTH]})"]
    for line in study_table.lead_lines(pd.read_parquet(folder / "table.parquet")):
        only = "" if line["mode"] == BOTH else f", {MODES[line['mode']]}"
        said = [f"{METRICS[m]} {study_table.spread(line, m)}" for m in study_table.METRICS]
        failed = f"   {line['missing']} of its runs failed" if line["missing"] else ""
        lines.append(f"  {line['row'] + only:<24} {'   '.join(said)}{failed}")
    lines += [f"  {cell}: {why}" for cell, why in about.unavailable.items()]
    return [*lines, f"  {about.finding}", f"  {folder}"]
