"""`lsfa run`: a study of one cell, a report page for each category and seed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from lsfa_lib.cli import options
from lsfa_lib.storage.files import InputError

if TYPE_CHECKING:
    from lsfa_lib.studies.study import Study


def run(
    categories: Annotated[list[str], Argument(help="Or `all`.", metavar="CATEGORY...")],
    data_root: options.DataRoot = "",
    preset: options.Preset = "",
    config: options.ConfigFile = "",
    only: Annotated[str, Option(help="Train with IFC, CLC, LA, GA, LC, GC, both or none.")] = "",
    shots: Annotated[int, Option(help="Train on this many random scans; 0: on all.")] = 0,
    method: Annotated[
        str, Option(help="One of `lsfa methods`, or a .py file with one.", show_default="lsfa")
    ] = "",
    random_weights: Annotated[
        bool, Option("--random-weights", help="Random weights, to test shapes, memory and speed.")
    ] = False,
    seed: Annotated[int, Option(min=0, help="For the coreset, training and shots.")] = 0,
    seeds: Annotated[int, Option(min=1, help="Run with this many seeds from `seed` on.")] = 1,
    device: options.Device = "auto",
    image_size: options.ImageSize = 0,
    modalities: options.Modalities = "",
    workers: options.Workers = 2,
    reports: options.Reports = Path("reports"),
) -> None:
    """Learn the good parts of each CATEGORY, score its test scans and write a report page.

    Examples: `lsfa run all` (the demo data), `lsfa run bagel --preset ours --data data/mvtec3d`,
    `lsfa run all --only IFC --shots 10 --seeds 3`.
    """
    from lsfa_lib.config import RANDOM_WEIGHTS, configure
    from lsfa_lib.studies.study import Study

    source = options.source_of(preset, config)
    fields: dict[str, Any] = options.chosen_fields(data_root, device, image_size, modalities)
    fields |= dict(RANDOM_WEIGHTS) if random_weights else {}
    own = str(Path(method).resolve()) if method.endswith(".py") else method
    fields |= {n: v for n, v in {"only": only, "shots": shots, "method": own}.items() if v}
    study = Study(
        preset=source,
        cells={run_name(configure(source, fields).preset, fields): fields},
        categories="all" if categories == ["all"] else list(dict.fromkeys(categories)),
        seeds=list(range(seed, seed + seeds)),
        parameters={"keep_detector": True},
    )
    _execute(study, workers, reports)


def run_name(preset: str, fields: dict[str, Any]) -> str:
    """What a run's folder is called between category and seed: `demo-96px-IFC-10shots`."""
    size, shots = fields.get("preprocess.image_size"), fields.get("shots")
    parts = [
        re.sub(r"[^\w.+-]+", "_", preset),
        f"{size}px" if size else "",
        "+".join(fields.get("modalities", ())),
        fields.get("only", ""),
        f"{shots}shots" if shots else "",
        "random" if fields.get("image_encoder.weights") == "random" else "",
        Path(fields.get("method", "")).stem,
    ]
    return "-".join(filter(None, parts))


def _execute(study: Study, workers: int, reports: Path) -> None:
    """Executes the runs and prints their pages and numbers; raises InputError where one failed."""
    # Every mistake the user can have made is found before the first run starts.
    options.check_names([study], workers)
    from lsfa_lib.pages import gallery
    from lsfa_lib.studies.study_runs import runs_of
    from lsfa_lib.studies.sweep_cluster import crew
    from lsfa_lib.studies.watch import Watch

    jobs = runs_of(study, reports.resolve())
    failures, finished = list[str](), list[Path]()
    try:
        with crew(min(workers, len(jobs)), "", Watch(len(jobs))) as run_all:
            for job, outcome in run_all(jobs):
                if outcome.error:
                    failures.append(outcome.error)
                    continue
                page = reports / "runs" / "quickstart" / job.folder.name / "report.html"
                typer.echo(page if finished else f"first report: {page}")
                if not finished:
                    gallery.write_index(reports)
                finished.append(job.folder)
    except KeyboardInterrupt:
        typer.echo("lsfa: stopped; finished runs and extracted features are kept", err=True)
        raise
    if finished:
        _print_numbers([job.folder for job in jobs if job.folder in finished], len(study.seeds))
        typer.echo(f"open {gallery.write_index(reports).resolve()}")
    for reason in failures[:-1]:
        typer.echo(f"lsfa: {reason}", err=True)
    if failures:
        raise InputError(failures[-1])


def _print_numbers(folders: list[Path], seeds: int) -> None:
    """A line for each run, in RGB + 3D or the only mode its method has; means over seeds."""
    from lsfa_lib.figures.findings import counts, lead, seed_lines, three_digits
    from lsfa_lib.figures.names import METRICS, MODES
    from lsfa_lib.storage.results import read_result

    results = [read_result(folder / "result.json") for folder in folders]
    metrics = ("i_auroc", "aupro_30", "p_auroc")
    rows = [["", *(METRICS[metric] for metric in metrics), "defects found", "false alarms"]]
    for result in results:
        mode = lead(result)
        found, bad, rejected, good = counts(result)
        label = f"{result['category']}, {MODES[mode]}"
        label += f", seed {result['seed']}" if seeds > 1 else ""
        values = [three_digits(result["modes"][mode][metric]) for metric in metrics]
        rows.append([label, *values, f"{found} of {bad}", f"{rejected} of {good}"])
    options.print_table(rows)
    if seeds > 1:
        typer.echo("mean ± standard deviation [95 % interval of the mean] over seeds")
        for line in seed_lines(results):
            typer.echo(line)
