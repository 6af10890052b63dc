"""`lsfa data`: demo scans, public data sets, your own camera's scans, and their faults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from lsfa_lib.storage.files import InputError

if TYPE_CHECKING:
    from lsfa_lib.datasets.tree_check import Report

app = typer.Typer(help="Make, download, import or check data.", no_args_is_help=True)


@app.command()
def demo(
    root: Annotated[
        Path | None, Option(help="Folder to write to.", show_default="data/demo or data/held_out")
    ] = None,
    seed: Annotated[int, Option(help="Another seed gives other parts.")] = 0,
    size: Annotated[int, Option(min=64, help="Side of the camera frame, px.")] = 400,
    layout: Annotated[str, Option(help="mvtec3d or eyecandies.")] = "mvtec3d",
    version: Annotated[int, Option(help="1: larger and clearer defects on cleaner parts.")] = 2,
    study: Annotated[
        bool, Option("--study", help="Those of studies/in_depth.yaml: 100 test scans at 448 px.")
    ] = False,
    held_out: Annotated[
        bool,
        Option(
            "--held-out", help="Three held-out products that were not used to choose any setting."
        ),
    ] = False,
) -> None:
    """Write the demo data: four products with six kinds of defects, as MVTec 3D-AD stores them.

    Existing data with the same settings is reused; other files in the folder are left alone. With
    `--layout eyecandies` the products are stored as in that data set, under its six lights. With
    `--held-out` there are three products: gear, walnut and connector, to score a finished recipe.
    """
    from lsfa_lib.demo.eyecandies_demo import write_eyecandies_demo
    from lsfa_lib.demo.held_out import HELD_OUT
    from lsfa_lib.demo.products import PRODUCTS
    from lsfa_lib.demo.synthetic import DIFFICULTIES, DemoCounts, DemoSettings, write_demo

    writers = {"mvtec3d": write_demo, "eyecandies": write_eyecandies_demo}
    if layout not in writers:
        raise InputError(f"there is no layout {layout!r}; choose among {', '.join(writers)}")
    known = ", ".join(map(str, DIFFICULTIES))
    if version not in DIFFICULTIES:
        raise InputError(f"there is no demo version {version}; choose among {known}")
    counts = DemoCounts()
    if study:
        counts, size, seed = DemoCounts(good=40, each_defect=10), 448, 1
    difficulty = DIFFICULTIES[version]
    categories = tuple(HELD_OUT if held_out else PRODUCTS)
    settings = DemoSettings(categories, counts, size, seed, difficulty)
    root = root or Path("data/held_out" if held_out else "data/demo")
    writers[layout](root, settings)
    typer.echo(f"demo data: {root}")


@app.command()
def download(
    name: Annotated[str, Argument(help="mvtec3d, or eyecandies (prints instructions).")],
    root: Annotated[
        Path | None, Option(help="Folder for the categories.", show_default="data/NAME")
    ] = None,
    accept_licence: Annotated[
        bool, Option("--accept-licence", help="You accept the data set's terms.")
    ] = False,
    archive: Annotated[
        Path | None, Option(help="An archive you downloaded yourself, instead.")
    ] = None,
) -> None:
    """Download a public data set, check its digest and unpack it.

    Resumes if interrupted. Without --accept-licence, only the terms are shown.
    """
    from lsfa_lib.datasets.public import fetch_data

    folder = root or Path("data") / name
    found = fetch_data(name, folder, accept_licence, archive)
    typer.echo(f"{folder}: {', '.join(found)}; next: lsfa data check {folder}")


@app.command()
def check(
    path: Annotated[Path, Argument(help="Folder that holds the categories.")],
    preset: Annotated[str, Option(help="Prepare scans as this preset does.")] = "demo",
    config: Annotated[str, Option(help="YAML file of the run; instead of --preset.")] = "",
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Read and prepare every scan below PATH; list what was found and what is wrong.

    The last line says whether the data is ready, or what to do first. The exit code is 2 if
    something must be fixed before `lsfa run`.
    """
    from lsfa_lib.config import configure
    from lsfa_lib.datasets.tree_check import check_tree

    chosen = f" --config {config}" if config else f" --preset {preset}" * (preset != "demo")
    report = check_tree(path, configure(config or preset), chosen)
    if as_json:
        typer.echo(_as_json(report))
    else:
        _print(report)
    if report.problems:
        raise InputError(f"{path}: {report.verdict}")


def _print(report: Report) -> None:
    for split in report.splits:
        sizes = ", ".join(f"{width} x {height}" for width, height in split.sizes)
        kinds = ", ".join(f"{count} {kind}" for kind, count in split.kinds.items())
        near, far = split.distances_m
        depths = f"{near:.3f} to {far:.3f} m" if near <= far else "no 3D"
        depths += "" if split.colour else "; no colour"
        typer.echo(f"{split.category:<16} {split.split:<11} {kinds}; {sizes} px; {depths}")
    for file in report.odd_files:
        typer.echo(f"not used: {file}")
    for warning in report.warnings:
        typer.echo(f"warning: {warning}")
    for problem in report.problems:
        typer.echo(f"problem: {problem}")
    if not report.problems:
        typer.echo(report.verdict)


def _as_json(report: Report) -> str:
    import json
    from dataclasses import asdict

    from lsfa_lib.storage.results import as_json

    paths = {"root": str(report.root), "odd_files": [str(file) for file in report.odd_files]}
    values = {"ready": not report.problems, "verdict": report.verdict, **asdict(report), **paths}
    return json.dumps(as_json(values), indent=1, ensure_ascii=False)


@app.command()
def split(
    root: Annotated[Path, Argument(help="Folder that holds the categories.")],
    category: Annotated[str, Argument(help="The category.")],
    share: Annotated[float, Option(help="Share of the training scans; at least two scans.")] = 0.2,
    seed: Annotated[int, Option(min=0, help="Another seed draws other scans.")] = 0,
    move: Annotated[bool, Option("--move", help="Move them; without it they are listed.")] = False,
) -> None:
    """Move randomly drawn training scans to validation/good; list them first.

    Without --move nothing is changed.
    """
    from lsfa_lib.datasets.splitting import drawn_scans, move_to_validation

    scans = drawn_scans(root, category, share, seed)
    for scan in scans:
        typer.echo(scan.name)
    if move:
        move_to_validation(scans)
    done = "moved to" if move else "would move to"
    typer.echo(f"{len(scans)} scans {done} {root / category / 'validation' / 'good'}")
    typer.echo(f"next: lsfa data check {root}" if move else "nothing was changed; add --move")


@app.command("import")
def import_(
    source: Annotated[Path, Argument(help="Folder that holds the scans.")],
    category: Annotated[str, Argument(help="Name of the part; becomes a folder.")],
    root: Annotated[Path, Option(help="Folder of the categories.")] = Path("data/mine"),
    split: Annotated[str, Option(help="train, validation or test.")] = "train",
    kind: Annotated[
        str, Option(help="good, a defect's name, or unlabelled (the last two in test).")
    ] = "good",
    intrinsics: Annotated[
        Path | None, Option(help="JSON, YAML, XML or text with the camera; for depth images.")
    ] = None,
    depth_unit_m: Annotated[
        float, Option(help="Metres per unit of depth or cloud; 0: as the camera file says.")
    ] = 0.0,
    prefix: Annotated[str, Option(help="Put before the scans' names, such as day2_.")] = "",
    images_only: Annotated[
        bool, Option("--images-only", help="Colour images that have no 3D.")
    ] = False,
    depth_only: Annotated[
        bool, Option("--depth-only", help="Depth images or clouds without colour.")
    ] = False,
) -> None:
    """Convert scans from your own camera to the layout of MVTec 3D-AD.

    A scan is NAME.png with NAME_depth.png (16-bit PNG, TIFF, EXR or NPY; or folders rgb and depth),
    or an organised NAME.pcd or NAME.ply. Defective scans come with NAME_mask.png.
    """
    from lsfa_lib.datasets.importing import Target, import_scans

    alone = {"images_only": images_only, "depth_only": depth_only}
    target = Target(root, category, split, kind, prefix, **alone)  # type: ignore[arg-type]
    done = import_scans(source, target, intrinsics, depth_unit_m)
    scans = f"{len(done.names)} scan{'s' * (len(done.names) != 1)}"
    kept = len(done.names) - done.written
    known = f" ({done.written} written, {kept} there already)" if kept else ""
    for path in done.unread:
        typer.echo(f"not read: {path}")
    typer.echo(f"{root / category}: {scans} in {split}/{kind}{known}")
    typer.echo(f"next: lsfa data check {root}")
