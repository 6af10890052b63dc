"""`lsfa weights`: the public weights, seen, fetched and checked."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Argument

from lsfa_lib.cli import options

app = typer.Typer(
    help="""The public weights: DINO, Point-MAE and others. The demo needs none.

    LSFA_WEIGHTS names another folder for them, LSFA_MIRROR the address of a folder that holds them
    under the names shown by `lsfa weights list`, LSFA_OFFLINE=1 forbids the network.
    """,
    no_args_is_help=True,
)
Name = Annotated[str, Argument(help="Name from `lsfa weights list`, or timm model name.")]


@app.command("list")
def show() -> None:
    """Name, size, licence, use and file of all weights, and which are here."""
    from lsfa_lib.features.weights import REGISTRY

    rows = []
    for weights in REGISTRY:
        size = f"{weights.about_bytes / 1e6:.0f} MB" if weights.about_bytes else ""
        here = "here" if weights.path.exists() else ""
        rows.append(
            [weights.name, size, weights.licence, weights.used_by, here, weights.remote.name]
        )
    options.print_table(rows)


@app.command()
def where() -> None:
    """Print the folder of the weights."""
    from lsfa_lib.features.weights import folder

    typer.echo(folder().absolute())


@app.command()
def fetch(name: Name) -> None:
    """Download weights and check them. Resumes if interrupted."""
    from lsfa_lib.features.weights import named, ready

    typer.echo(ready(named(name)))


@app.command()
def check(
    name: Annotated[str, Argument(help="Weights to check; default: all local files.")] = "",
) -> None:
    """Read weights that are here and compare their digest."""
    from lsfa_lib.features import weights
    from lsfa_lib.storage.files import InputError

    chosen = [weights.named(name)] if name else [w for w in weights.REGISTRY if w.path.exists()]
    problems = []
    for each in chosen:
        try:
            typer.echo(f"{each.name:<18} sha256 {weights.check(each)}")
        except InputError as error:
            problems.append(str(error))
    if not chosen:
        typer.echo(f"{weights.folder()} holds none of them; `lsfa weights list` shows their names")
    if problems:
        raise InputError("; ".join(problems))
