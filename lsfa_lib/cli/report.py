"""`lsfa report`: pages written again, one page to mail, everything to share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lsfa_lib.storage.files import InputError


def report(
    run: Annotated[
        str,
        typer.Argument(help="Run or study to write as one file: its folder, or that one's name."),
    ] = "",
    out: Annotated[
        str, typer.Option(help="The file RUN's page is written to, plotly.js inside: to mail.")
    ] = "",
    bundle: Annotated[
        str, typer.Option(help="Zip of the gallery with all its pages and tables: to share.")
    ] = "",
    study: Annotated[
        str, typer.Option(help="Only this study and its runs go into the bundle.")
    ] = "",
    reports: Annotated[Path, typer.Option("--reports", help="Folder of the reports.")] = Path(
        "reports"
    ),
) -> None:
    """Write every page and the gallery again, or one page to mail, or a zip to share.

    Examples: `lsfa report`, `lsfa report biscuit-demo-s0 --out biscuit.html`,
    `lsfa report --bundle components.zip --study components`.
    """
    from lsfa_lib.pages.bundle import write_bundle
    from lsfa_lib.pages.report import mail, rebuild

    if bool(run) != bool(out) or (run and bundle):
        raise InputError("one page is written by RUN and --out together, a zip by --bundle alone")
    if study and not bundle:
        raise InputError(f"--study {study} chooses what goes into a zip; add --bundle out.zip")
    if run:
        typer.echo(mail(run, reports, Path(out)))
    elif bundle:
        typer.echo(write_bundle(reports, Path(bundle), study))
    else:
        typer.echo(f"open {rebuild(reports).resolve()}")
