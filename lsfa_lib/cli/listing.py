"""`lsfa methods`, `lsfa presets`, `lsfa cache`: what can be chosen, and what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from lsfa_lib.cli import options
from lsfa_lib.storage.files import InputError, nearest

if TYPE_CHECKING:
    from lsfa_lib.config import Config


def methods() -> None:
    """List the methods that `run --method` and studies accept, and the extras they need."""
    from lsfa_lib.methods import METHODS

    found = sorted(METHODS.items())
    options.print_table(
        [
            [name, m.title, m.source, m.missing or (m.needs and f"extra {m.needs}")]
            for name, m in found
        ]
    )


def presets(
    names: Annotated[list[str] | None, Argument(help="Presets to show; default: all.")] = None,
    differing: Annotated[
        bool, Option("--differing", help="Only the fields that differ between them.")
    ] = False,
    yaml: Annotated[
        str, Option(help="Write this preset as YAML, to change and give to `run --config`.")
    ] = "",
) -> None:
    """Show every field of the presets; `*` marks those that differ between them."""
    from lsfa_lib.config import OURS, PRESETS, fields_of

    for name in [*(names or []), *([yaml] if yaml else [])]:
        if name not in PRESETS:
            raise InputError(
                f"there is no preset {name!r}; the nearest of {', '.join(PRESETS)} is "
                f"{nearest(name, PRESETS)}"
            )
    if yaml:
        typer.echo(_as_yaml(PRESETS[yaml]), nl=False)
        return
    fields = {name: fields_of(PRESETS[name]) for name in names or PRESETS}
    if differing and len(fields) < 2:
        raise InputError(
            f"--differing compares presets; name another one than {next(iter(fields))}"
        )
    rows = [["", "field", *fields]]
    for field in fields_of(OURS):
        values = [each[field] for each in fields.values()]
        differs = any(value != values[0] for value in values)
        if field != "preset" and (differs or not differing):
            rows.append(["*" if differs else "", field, *map(_short, values)])
    options.print_table(rows)


def _as_yaml(config: Config) -> str:
    """The config as a file that `configure` reads back exactly."""
    import json
    from dataclasses import asdict

    import yaml

    # Through JSON, since plain YAML has no tuples.
    values = json.loads(json.dumps(asdict(config)))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _short(value: Any) -> str:
    """The value in at most 24 characters; `--yaml` has it in full."""
    from lsfa_lib.figures.findings import shown

    text = shown(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


def cache(
    folder: Annotated[Path, Option("--cache", help="Folder of the cache.")] = Path("data/cache"),
    prune: Annotated[
        str, Option(help="Delete the features of this key, or `all`; they can be rebuilt.")
    ] = "",
    limit_gb: Annotated[
        float,
        Option(min=0.0, help="Delete what was used least recently, down to this size; 0: nothing."),
    ] = 0.0,
) -> None:
    """Show which extracted features are stored, and delete those no longer needed.

    Example: `lsfa cache --limit-gb 8`. With LSFA_CACHE_GB=8 in the environment every command keeps
    the limit by itself.
    """
    from lsfa_lib.features import cache

    if limit_gb:
        typer.echo(f"{cache.prune(folder, limit_gb) / 1e6:.1f} MB deleted")
    entries = cache.cache_entries(folder)
    if prune and prune != "all" and prune not in [entry.folder.name for entry in entries]:
        raise InputError(f"{folder} holds no key {prune!r}; `lsfa cache` lists what it holds")
    for entry in entries:
        gone = prune in ("all", entry.folder.name)
        if gone:
            cache.delete(entry.folder)
        typer.echo(
            f"{entry.folder.name}  {entry.model:<28} {entry.image_size} px  "
            f"{entry.files:>5} files  {entry.megabytes:8.1f} MB{'  deleted' if gone else ''}"
        )
    if not entries:
        typer.echo(f"{folder} holds no features yet; `lsfa run` fills it")
