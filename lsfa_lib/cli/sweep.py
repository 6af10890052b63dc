"""`lsfa sweep`: a study's runs, side by side, then the table and the page that answer it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm.auto import tqdm

from lsfa_lib.storage.files import InputError


def sweep(
    study: Annotated[Path, typer.Argument(help="Study file, such as studies/components.yaml.")],
    preset: Annotated[
        str, typer.Option(help="Instead of the study's own.", show_default="the study's")
    ] = "",
    data_root: Annotated[
        str,
        typer.Option(
            "--data", help="Folder that holds the categories.", show_default="that of the preset"
        ),
    ] = "",
    categories: Annotated[
        str, typer.Option(help="With commas; `all`.", show_default="the study's")
    ] = "",
    seeds: Annotated[str, typer.Option(help="With commas.", show_default="the study's")] = "",
    workers: Annotated[
        int, typer.Option(min=1, help="Runs side by side; they share the cores.")
    ] = 2,
    scheduler: Annotated[
        str, typer.Option(help="Address of a dask scheduler, tcp://..., whose workers run it.")
    ] = "",
    device: Annotated[str, typer.Option(help="auto takes CUDA where it is; cpu; cuda.")] = "auto",
    image_size: Annotated[
        int, typer.Option(help="Side of the image the encoders see, px; 0 keeps the preset's.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Repeat finished runs too.")] = False,
    reports: Annotated[
        Path, typer.Option("--reports", help="Folder the reports are written to.")
    ] = Path("reports"),
) -> None:
    """Execute every run of a STUDY that is not finished, then write its table and its page.

    Examples: `lsfa sweep studies/components.yaml`, `lsfa sweep studies/paper.yaml --preset ours
    --data data/mvtec3d --seeds 0,1,2`. Stopped in the middle, it goes on when it is started again.
    """
    from lsfa_lib.studies import prefork

    if not scheduler:
        prefork.begin(workers)
    from lsfa_lib.studies.study import Choices, read_studies
    from lsfa_lib.studies.sweep import run_sweep

    choices = Choices(
        preset=preset,
        data_root=data_root,
        categories=tuple(filter(None, categories.split(","))),
        seeds=_numbers(seeds),
        device=device,
        image_size=image_size,
    )
    _tell_progress()
    try:
        swept = run_sweep(read_studies(study, choices), reports, workers, scheduler, force)
    except KeyboardInterrupt:
        typer.echo("lsfa: stopped; finished runs are kept, start it again to go on", err=True)
        raise
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
        raise InputError(f"--seeds {text} is no list of seeds; write such as --seeds 0,1,2")
    return tuple(map(int, parts))


def _table_lines(folder: Path) -> list[str]:
    """A study's table in short: each cell in the mode that reports lead with."""
    import json

    import pandas as pd

    from lsfa_lib.figures.findings import BOTH, NAMES
    from lsfa_lib.studies.study_table import METRICS, lead_lines, spread

    if not (folder / "table.parquet").exists():
        return []
    about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    lines = [f"{about['title']} ({about['preset']}, {NAMES[BOTH]})"]
    for line in lead_lines(pd.read_parquet(folder / "table.parquet")):
        values = {str(name): value for name, value in line.items()}
        only = "" if line["mode"] == BOTH else f", {NAMES[line['mode']]}"
        said = [f"{label} {spread(values, name)}" for name, label in METRICS.items()]
        failed = f"   {values['missing']} of its runs failed" if values["missing"] else ""
        lines.append(f"  {values['row'] + only:<24} {'   '.join(said)}{failed}")
    lines += [f"  {cell}: {why}" for cell, why in about.get("unavailable", {}).items()]
    return [*lines, f"  {about['finding']}", f"  {folder}"]


class _Beside(logging.Handler):
    """Writes lines to stderr without breaking a progress bar there."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        tqdm.write(self.format(record), file=sys.stderr)


def _tell_progress() -> None:
    """Failures at once; where stderr is no terminal and has no bar, every finished run too."""
    for name in ("lsfa_lib.studies.sweep", "lsfa_lib.studies.sweep_cluster"):
        log = logging.getLogger(name)
        log.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
        log.propagate = False
        log.handlers = [_Beside()]
