"""`lsfa report`: rewrites pages, writes one page to mail, or a zip to share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from lsfa_lib.cli import options
from lsfa_lib.storage.files import InputError, require_writable


def report(
    run: Annotated[
        str, Argument(help="Run or study to save as one file: its folder or its name.")
    ] = "",
    out: Annotated[
        str, Option(help="File for the page of RUN, with plotly.js inside, to send by mail.")
    ] = "",
    bundle: Annotated[
        str, Option(help="Zip file for the gallery with all pages and tables, to share.")
    ] = "",
    study: Annotated[str, Option(help="Bundle only this study and its runs.")] = "",
    reports: options.Reports = Path("reports"),
) -> None:
    """Rewrite all pages and the gallery, or write one page to mail or a zip to share.

    Examples: `lsfa report`, `lsfa report biscuit-demo-s0 --out biscuit.html`,
    `lsfa report --bundle components.zip --study components`.
    """
    from lsfa_lib.pages.bundle import write_bundle
    from lsfa_lib.pages.report import mail, rebuild

    if bool(run) != bool(out) or (run and bundle):
        raise InputError(
            "RUN needs --out and --out needs RUN: `lsfa report RUN --out FILE`; "
            "--bundle takes neither"
        )
    if study and not bundle:
        raise InputError(f"--study {study} selects what a zip contains; add --bundle out.zip")
    if out or bundle:
        require_writable(Path(out or bundle))
    if run:
        typer.echo(mail(run, reports, Path(out)))
    elif bundle:
        typer.echo(write_bundle(reports, Path(bundle), study))
    else:
        typer.echo(f"open {rebuild(reports).resolve()}")
