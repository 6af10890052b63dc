"""The `lsfa` command: thin, one function a subcommand."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from lsfa_lib.files import InputError

app = typer.Typer(
    help="""Find defects in parts seen as colour image + 3D scan, learning from good parts only.

    Start with `lsfa data demo`, then `lsfa run all`; open reports/index.html.
    With your own data: `lsfa data check PATH`, then `lsfa run CATEGORY --data PATH`.
    """,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data = typer.Typer(help="Make demo scans, or check a data set.", no_args_is_help=True)
app.add_typer(data, name="data")

DataRoot = Annotated[Path, typer.Option("--data", help="Folder that holds the categories.")]
Reports = Annotated[Path, typer.Option("--reports", help="Folder the reports are written to.")]


@data.command()
def demo(
    root: Annotated[Path, typer.Option(help="Folder to write the categories to.")] = Path(
        "data/demo"
    ),
    seed: Annotated[int, typer.Option(help="Another seed gives other parts.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the camera frame, px.")] = 400,
) -> None:
    """Write the demo data: four products with six kinds of defects, as MVTec 3D-AD stores them.

    Complete data of the same settings are kept; anything else in the folder is left alone.
    """
    from lsfa_lib.datasets.synthetic import DemoSettings, write_demo

    write_demo(root, DemoSettings(size=size, seed=seed))
    typer.echo(f"demo data: {root}")


@data.command()
def check(path: Annotated[Path, typer.Argument(help="Folder that holds the categories.")]) -> None:
    """Read every scan below PATH; say what is there and what is wrong.

    Ends with exit code 2 when something has to be mended before `lsfa run`.
    """
    from lsfa_lib.datasets.tree_check import check_tree

    report = check_tree(path)
    for split in report.splits:
        sizes = ", ".join(f"{width} x {height}" for width, height in split.sizes)
        kinds = ", ".join(f"{count} {kind}" for kind, count in split.kinds.items())
        typer.echo(f"{split.category:<16} {split.split:<11} {kinds}; {sizes} px")
    for file in report.odd_files:
        typer.echo(f"not used: {file}")
    for problem in report.problems:
        typer.echo(f"problem: {problem}")
    if report.problems:
        raise InputError(f"{path}: {len(report.problems)} problem(s), each said above")
    typer.echo("no problem found")


@app.command()
def run(
    categories: Annotated[
        list[str], typer.Argument(help="Categories to run, or `all`.", metavar="CATEGORY...")
    ],
    data_root: DataRoot = Path("data/demo"),
    preset: Annotated[
        str, typer.Option(help="demo and tiny need no download; ours, published and released do.")
    ] = "demo",
    seed: Annotated[int, typer.Option(help="Seed of the coreset.")] = 0,
    device: Annotated[str, typer.Option(help="auto takes CUDA where it is; cpu; cuda.")] = "auto",
    image_size: Annotated[
        int, typer.Option(help="Side of the image the encoders see, px; 0 keeps the preset's.")
    ] = 0,
    workers: Annotated[
        int, typer.Option(min=1, help="Categories run side by side; they share the cores.")
    ] = 2,
    reports: Reports = Path("reports"),
) -> None:
    """Learn the good parts of each CATEGORY, score its test scans and write a report page.

    Examples: `lsfa run all` (the demo data), `lsfa run bagel --data data/mvtec3d --preset ours`.
    """
    from lsfa_lib import gallery, report
    from lsfa_lib.config import configure, resolve_device
    from lsfa_lib.datasets import mvtec3d

    # Every mistake the user can have made is found before the first kernel starts.
    configure(preset, str(data_root), device, image_size)
    resolve_device(device)
    known = mvtec3d.categories(data_root)
    chosen = known if categories == ["all"] else categories
    for category in chosen:
        for split in mvtec3d.SPLITS:
            mvtec3d.read_split(data_root, category, split)
    size = f"-{image_size}px" if image_size else ""
    jobs = {}
    for category in chosen:
        folder = reports / "runs" / "quickstart" / f"{category}-{preset}{size}-s{seed}"
        jobs[folder] = {
            "category": category,
            "preset": preset,
            "seed": seed,
            "data_root": str(data_root.resolve()),
            "out": str(folder.resolve()),
            "device": device,
            "image_size": image_size,
        }
    try:
        for page in report.run_pages("00_quickstart", jobs, workers):
            typer.echo(page)
    except KeyboardInterrupt:
        typer.echo("lsfa: stopped; finished runs and extracted features are kept", err=True)
        raise
    typer.echo(f"open {gallery.write_index(reports).resolve()}")


@app.command(name="report")
def report_command(reports: Reports = Path("reports")) -> None:
    """Write every page again from the runs that are there, and the index."""
    from lsfa_lib import report

    typer.echo(f"open {report.rebuild(reports).resolve()}")


@app.command()
def cache(
    folder: Annotated[Path, typer.Option("--cache", help="Folder of the cache.")] = Path(
        "data/cache"
    ),
    prune: Annotated[
        str, typer.Option(help="Delete the features of this key, or `all`; they can be rebuilt.")
    ] = "",
) -> None:
    """Show what extracted features are kept, and delete what is no longer wanted."""
    from lsfa_lib.feature_cache import cache_entries

    entries = cache_entries(folder)
    if prune and prune != "all" and prune not in [entry.folder.name for entry in entries]:
        raise InputError(f"{folder} holds no key {prune!r}; `lsfa cache` lists what it holds")
    for entry in entries:
        gone = prune in ("all", entry.folder.name)
        if gone:
            shutil.rmtree(entry.folder)
        typer.echo(
            f"{entry.folder.name}  {entry.model:<28} {entry.image_size} px  "
            f"{entry.files:>5} files  {entry.megabytes:8.1f} MB{'  deleted' if gone else ''}"
        )
    if not entries:
        typer.echo(f"{folder} holds no features yet; `lsfa run` fills it")


def main() -> None:
    """Runs the command line; a user's mistake ends with one sentence and exit code 2."""
    try:
        app()
    except InputError as error:
        typer.echo(f"lsfa: {error}", err=True)
        sys.exit(2)
