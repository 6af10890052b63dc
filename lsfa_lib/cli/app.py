"""The `lsfa` command: thin, one function a subcommand."""

from __future__ import annotations

import difflib
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lsfa_lib.cli import data as cli_data
from lsfa_lib.cli import pretrain as cli_pretrain
from lsfa_lib.cli import report as cli_report
from lsfa_lib.cli import study as cli_study
from lsfa_lib.cli import sweep as cli_sweep
from lsfa_lib.cli import weights as cli_weights
from lsfa_lib.storage.files import InputError

if TYPE_CHECKING:
    from lsfa_lib.config import Config
    from lsfa_lib.studies.sweep_worker import Job

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
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_study.app, name="study")
app.add_typer(cli_weights.app, name="weights")
app.command()(cli_sweep.sweep)
app.command()(cli_report.report)
app.command("pretrain-points")(cli_pretrain.pretrain_points)

DataRoot = Annotated[
    str,
    typer.Option(
        "--data", help="Folder that holds the categories.", show_default="that of the preset"
    ),
]
Reports = Annotated[Path, typer.Option("--reports", help="Folder the reports are written to.")]


@app.command()
def run(
    categories: Annotated[
        list[str], typer.Argument(help="Categories to run, or `all`.", metavar="CATEGORY...")
    ],
    data_root: DataRoot = "",
    preset: Annotated[
        str,
        typer.Option(
            help="demo and tiny need no download; ours, published and released do.",
            show_default="demo",
        ),
    ] = "",
    config: Annotated[
        str, typer.Option(help="YAML file of a preset's name and the fields to change.")
    ] = "",
    only: Annotated[
        str, typer.Option(help="Train with IFC, CLC, LA, GA, LC, GC, both or none.")
    ] = "",
    shots: Annotated[
        int, typer.Option(help="Train on that many scans, drawn by the seed; 0: on all.")
    ] = 0,
    method: Annotated[
        str,
        typer.Option(
            help="Another method of `lsfa methods`, or a .py file with one.", show_default="lsfa"
        ),
    ] = "",
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Untrained backbones: for shapes, memory and time."),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the coreset, of training and of drawn shots.")
    ] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Run with that many seeds in a row.")] = 1,
    device: Annotated[str, typer.Option(help="auto takes CUDA where it is; cpu; cuda.")] = "auto",
    image_size: Annotated[
        int, typer.Option(help="Side of the image the encoders see, px; 0 keeps the preset's.")
    ] = 0,
    workers: Annotated[
        int, typer.Option(min=1, help="Runs side by side; they share the cores.")
    ] = 2,
    reports: Reports = Path("reports"),
) -> None:
    """Learn the good parts of each CATEGORY, score its test scans and write a report page.

    Examples: `lsfa run all` (the demo data), `lsfa run bagel --preset ours --data data/mvtec3d`,
    `lsfa run all --only IFC --shots 10 --seeds 3`.
    """
    from lsfa_lib.studies import prefork

    prefork.begin(workers)
    from lsfa_lib.config import RANDOM_WEIGHTS, chosen_config
    from lsfa_lib.notebooks.run import find_notebook
    from lsfa_lib.pages import gallery
    from lsfa_lib.studies.sweep_worker import Job

    if preset and config:
        raise InputError(
            f"--preset {preset} and --config {config} were both given; write `preset: {preset}` "
            "into the file"
        )
    asked: dict[str, Any] = {
        "data_root": data_root,
        "device": device,
        "image_size": image_size,
        "shots": shots,
    }
    asked["fields"] = dict(RANDOM_WEIGHTS) if random_weights else {}
    if method:
        _require_method(method)
        own = method.endswith(".py")
        asked["fields"]["method"] = str(Path(method).resolve()) if own else method
    # Every mistake the user can have made is found before the first run starts.
    chosen = chosen_config(config or preset or "demo", part=only, **asked)
    found = _usable_categories(categories, chosen, seed)
    same = {
        **asked,
        "preset": str(Path(config).resolve()) if config else preset or "demo",
        "data_root": str(Path(chosen.data.root).resolve()),
        "only": only,
    }
    name = run_name(chosen.preset, only, shots, image_size) + "-random" * random_weights
    name += f"-{Path(method).stem}" if method else ""
    notebook, place, jobs = find_notebook("00_quickstart"), reports / "runs" / "quickstart", []
    # Seeds outside: two runs side by side then seldom extract the same features.
    for number in range(seed, seed + seeds):
        for category in found:
            folder = place.resolve() / f"{category}-{name}-s{number}"
            varied = {"category": category, "seed": number, "out": str(folder)}
            jobs.append(Job(notebook.resolve(), folder, {**same, **varied}, place=str(Path.cwd())))
    _run_and_tell(jobs, workers, place)
    if seeds > 1:
        _tell_seeds([job.folder for job in jobs])
    typer.echo(f"open {gallery.write_index(reports).resolve()}")


def _require_method(name: str) -> None:
    """Raises InputError where there is no such method or a package it needs is missing."""
    from lsfa_lib.methods.method import find_method

    found = find_method(name)
    if found.missing:
        raise InputError(f"{found.title}: {found.missing}")


@app.command()
def methods() -> None:
    """List the methods `run --method` and studies can take, and what each is."""
    from lsfa_lib.methods.method import all_methods

    rows = [
        [name, found.title, found.source, found.missing] for name, found in all_methods().items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in sorted(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def _run_and_tell(jobs: list[Job], workers: int, place: Path) -> None:
    """Runs the jobs, whose folders are in `place`; raises InputError where one has failed."""
    from lsfa_lib.studies.sweep import run_all

    failures = []
    try:
        for job, outcome in run_all(jobs, workers):
            if outcome.state == "failed":
                failures.append(outcome.error)
            else:
                typer.echo(place / job.folder.name / "report.html")
    except KeyboardInterrupt:
        typer.echo("lsfa: stopped; finished runs and extracted features are kept", err=True)
        raise
    if failures:
        for reason in failures[:-1]:
            typer.echo(f"lsfa: {reason}", err=True)
        raise InputError(failures[-1])


def run_name(preset: str, only: str, shots: int, image_size: int) -> str:
    """What a run's folder is called between category and seed: `demo-96px-IFC-10shots`."""
    parts = [re.sub(r"[^\w.+-]+", "_", preset)]
    parts += [f"{image_size}px"] if image_size else []
    parts += [only] if only else []
    parts += [f"{shots}shots"] if shots else []
    return "-".join(parts)


def _usable_categories(categories: list[str], config: Config, seed: int) -> list[str]:
    """The categories to run; raises InputError where the config cannot be run on one of them."""
    from lsfa_lib.adaptation.training import require_scans
    from lsfa_lib.config import resolve_device
    from lsfa_lib.datasets import layouts
    from lsfa_lib.datasets.entry import SPLITS
    from lsfa_lib.features.lazy_scan import few_shot

    resolve_device(config.device)
    root = Path(config.data.root)
    known = layouts.categories(root)
    found = known if categories == ["all"] else list(dict.fromkeys(categories))
    for category in found:
        splits = {name: layouts.split_of(config.data, category, name) for name in SPLITS}
        drawn = few_shot(splits["train"], config.shots, seed)
        require_scans(len(drawn), config.training.weights)
    return found


def _tell_seeds(folders: list[Path]) -> None:
    from lsfa_lib.figures.findings import seed_lines
    from lsfa_lib.storage.results import read_result

    typer.echo("mean ± standard deviation [95 % interval of the mean] over seeds")
    for line in seed_lines([read_result(folder / "result.json") for folder in folders]):
        typer.echo(line)


@app.command()
def presets(
    names: Annotated[
        list[str] | None, typer.Argument(help="Presets to show; all where none is named.")
    ] = None,
    differing: Annotated[
        bool, typer.Option("--differing", help="Only the fields that differ between them.")
    ] = False,
    yaml: Annotated[
        str, typer.Option(help="Write this preset as YAML, to change and give to `run --config`.")
    ] = "",
) -> None:
    """Show every field of the presets; `*` marks those that differ between them."""
    from lsfa_lib.config import OURS, PRESETS, fields_of

    for name in [*(names or []), *([yaml] if yaml else [])]:
        if name not in PRESETS:
            near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
            raise InputError(
                f"there is no preset {name!r}; the nearest of {', '.join(PRESETS)} is {near}"
            )
    if yaml:
        typer.echo(_as_yaml(PRESETS[yaml]), nl=False)
        return
    fields = {name: fields_of(PRESETS[name]) for name in names or PRESETS}
    if differing and len(fields) < 2:
        raise InputError(
            f"one preset differs from nothing; name another beside {next(iter(fields))}"
        )
    rows = [["", "field", *fields]]
    for field in fields_of(OURS):
        values = [each[field] for each in fields.values()]
        differs = any(value != values[0] for value in values)
        if field != "preset" and (differs or not differing):
            rows.append(["*" if differs else "", field, *map(_short, values)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def _as_yaml(config: Config) -> str:
    """The config as a file that `load_config` reads back exactly."""
    import yaml

    from lsfa_lib.storage.results import as_json

    # Tuples become lists, which plain YAML can say.
    return yaml.safe_dump(as_json(config), sort_keys=False, allow_unicode=True)


def _short(value: Any) -> str:
    """The value in at most 24 characters; `--yaml` has it in full."""
    from lsfa_lib.figures.findings import shown

    text = shown(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


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
    from lsfa_lib.features.cache import cache_entries

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
