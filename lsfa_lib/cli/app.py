"""The `lsfa` command: its subcommands, in the order in which they are used."""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lsfa_lib.cli import data, deploy, listing, pretrain, report, run, sweep, weights
from lsfa_lib.storage.files import InputError

ORDER = (
    *("data", "run", "sweep", "report", "fit", "predict", "calibrate", "methods"),
    *("presets", "cache", "weights", "pretrain-points"),
)


class InOrder(TyperGroup):
    """Lists commands in the order of use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        return list(ORDER)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name. Raises InputError for one that was removed."""
        if cmd_name == "study":
            raise InputError("`lsfa study` was removed; run `lsfa sweep studies/in_depth.yaml`")
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=InOrder,
    help="""Find defects in parts seen as colour image + 3D scan, trained on good parts only.

    Start with `lsfa data demo`, then `lsfa run all`; open reports/index.html.
    With your own data: `lsfa data check PATH`, then `lsfa run CATEGORY --data PATH`.
    """,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
app.command("pretrain-points")(pretrain.pretrain_points)
for command in (
    *(run.run, sweep.sweep, report.report, deploy.fit, deploy.predict, deploy.calibrate),
    *(listing.methods, listing.presets, listing.cache),
):
    app.command()(command)


def _print_version(asked: bool) -> bool:
    from importlib.metadata import version

    if asked:
        typer.echo(f"lsfa {version('lsfa_lib')}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `lsfa` itself."""


def main() -> None:
    """Runs the command line; a user's mistake ends with one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may not be valid text
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except InputError as error:
        typer.echo(f"lsfa: {error}", err=True)
        sys.exit(2)
