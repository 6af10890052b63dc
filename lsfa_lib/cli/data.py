"""`lsfa data`: demo scans, public data sets, your own camera's scans, and their faults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from lsfa_lib.storage.files import InputError

app = typer.Typer(help="Make, download, import or check data.", no_args_is_help=True)


@app.command()
def demo(
    root: Annotated[
        Path | None, Option(help="Folder to write to.", show_default="data/demo or data/held_out")
    ] = None,
    seed: Annotated[int, Option(help="Another seed gives other parts.")] = 0,
    size: Annotated[int, Option(help="Side of the camera frame, px.")] = 400,
    layout: Annotated[str, Option(help="mvtec3d or eyecandies.")] = "mvtec3d",
    version: Annotated[int, Option(help="1: larger and clearer defects on cleaner parts.")] = 2,
    study: Annotated[
        bool, Option("--study", help="Those of studies/in_depth.yaml: 100 test scans at 448 px.")
    ] = False,
    held_out: Annotated[
        bool, Option("--held-out", help="Three other products, on which nothing was chosen.")
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
    name: Annotated[str, Argument(help="mvtec3d; eyecandies says how to get it by hand.")],
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

    Resumes if interrupted. The data set's terms are shown first.
    """
    from lsfa_lib.datasets.public import fetch_data

    folder = root or Path("data") / name
    found = fetch_data(name, folder, accept_licence, archive)
    typer.echo(f"{folder}: {', '.join(found)}; next: lsfa data check {folder}")


@app.command()
def check(path: Annotated[Path, Argument(help="Folder that holds the categories.")]) -> None:
    """Read every scan below PATH; list what was found and what is wrong.

    The exit code is 2 if something must be fixed before `lsfa run`.
    """
    from lsfa_lib.datasets.tree_check import check_tree

    report = check_tree(path)
    for split in report.splits:
        sizes = ", ".join(f"{width} x {height}" for width, height in split.sizes)
        kinds = ", ".join(f"{count} {kind}" for kind, count in split.kinds.items())
        near, far = split.distances_m
        depths = f"{near:.3f} to {far:.3f} m" if near <= far else "no 3D"
        typer.echo(f"{split.category:<16} {split.split:<11} {kinds}; {sizes} px; {depths}")
    for file in report.odd_files:
        typer.echo(f"not used: {file}")
    for problem in report.problems:
        typer.echo(f"problem: {problem}")
    if report.problems:
        raise InputError(f"{path}: {len(report.problems)} problem(s), each said above")
    typer.echo("no problem found")


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
        Path | None, Option(help="JSON or XML with fx, fy, cx, cy; for depth images.")
    ] = None,
    depth_unit_m: Annotated[
        float, Option(help="Metres per unit of depth; 0: from the intrinsics, else 1 mm.")
    ] = 0.0,
) -> None:
    """Bring scans of your own camera into the layout everything here reads.

    A scan is NAME.png with NAME_depth.png (16-bit PNG, TIFF or EXR; or folders rgb and depth), or
    an organised NAME.pcd or NAME.ply. Defective scans come with NAME_mask.png.
    """
    from lsfa_lib.datasets.importing import Target, import_scans

    target = Target(root, category, split, kind)  # type: ignore[arg-type]
    names = import_scans(source, target, intrinsics, depth_unit_m)
    scans = f"{len(names)} scan{'s' * (len(names) != 1)}"
    typer.echo(f"{root / category}: {scans} in {split}/{kind}")
    typer.echo(f"next: lsfa data check {root}")
