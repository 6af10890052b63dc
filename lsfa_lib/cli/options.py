"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from lsfa_lib.storage.files import InputError

if TYPE_CHECKING:
    from lsfa_lib.studies.study import Study

DataRoot = Annotated[
    str,
    Option(
        "--data", help="Folder that contains the categories.", show_default="that of the preset"
    ),
]
Preset = Annotated[
    str,
    Option(help="demo or tiny; ours, published or released download weights.", show_default="demo"),
]
ConfigFile = Annotated[str, Option(help="YAML file: a preset and the fields to change.")]
Device = Annotated[str, Option(help="auto: CUDA if available, else CPU; cpu; cuda.")]
ImageSize = Annotated[
    int, Option(help="Side of the point grid and the anomaly maps, px; 0: as in the preset.")
]
Modalities = Annotated[str, Option(help="Use one alone: rgb or 3d.", show_default="rgb and 3d")]
Reports = Annotated[Path, Option("--reports", help="Folder of the reports.")]
Workers = Annotated[int, Option(min=1, help="Parallel runs; they share the cores.")]


def chosen_fields(
    data_root: str, device: str, image_size: int, modalities: str = ""
) -> dict[str, Any]:
    """The fields these options set; those left at their defaults set none."""
    asked: dict[str, Any] = {
        "data.root": data_root,
        "device": "" if device == "auto" else device,
        "preprocess.image_size": image_size,
        "modalities": [name.strip() for name in modalities.split(",") if name.strip()],
    }
    return {name: value for name, value in asked.items() if value}


def source_of(preset: str, config: str) -> str:
    """The preset, or the absolute path of the file. Raises InputError where both are given."""
    if preset and config:
        raise InputError(
            f"--preset {preset} and --config {config} were both given; write `preset: {preset}` "
            "into the file"
        )
    return str(Path(config).resolve()) if config else preset or "demo"


def check_names(studies: Iterable[Study], workers: int) -> None:
    """Raises InputError for a name that does not exist, before anything loads torch.

    Then starts the process that `workers` processes are forked from (0: none), which loads it.
    """
    from lsfa_lib.studies.study_runs import settings_of

    for study in studies:
        for setting in settings_of(study):
            if setting.missing and study.path is None:
                raise InputError(f"method {setting.config.method}: {setting.missing}")
    if workers:
        from lsfa_lib.studies import prefork

        prefork.begin(workers)


def print_table(rows: list[list[str]]) -> None:
    """The rows with their columns aligned."""
    from tabulate import tabulate  # type: ignore[import-untyped]

    typer.echo(tabulate(rows, tablefmt="plain", disable_numparse=True))
