"""Configurations from presets, files and dotted fields; as plain values and as hash keys."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lsfa_lib.config.checks import checked
from lsfa_lib.config.fields import Config, LossWeights
from lsfa_lib.config.presets import LOSSES, PRESETS
from lsfa_lib.config.resolve import resolve_paths
from lsfa_lib.storage.files import InputError, nearest

T = TypeVar("T")
_NUMBER = re.compile(r"[-+\d.]+e[-+]?\d+")
"""YAML reads 1e-3, without a dot, as text."""
RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {
    "training.own_rows": ("training.exclude_same_scan", {"excluded": True, "kept": False}),
    "training.bank_batches": ("training.queue_batches", {}),
    "training.local_bank": ("training.local_queue", {}),
    "training.global_bank": ("training.global_queue", {}),
}
"""Fields of earlier versions: the current name, and the current value of each old value."""


def configure(
    source: str | Path | Config = "demo", fields: Mapping[str, Any] | None = None
) -> Config:
    """The configuration of a preset, a YAML file or another Config, with `fields` changed.

    `fields` have full names, such as `{"training.temperature": 0.03, "data.root": "scans"}`. Two
    more names set several fields at once: `recipe` takes the recipe of the named preset and keeps
    the data and backbones of `source`; `only` names the losses to train (see LOSSES).

    A file without `name:` is named after the file, so that its runs are not confused with those of
    the preset it changes. Raises InputError for a name that does not exist, a value of the wrong
    type and fields that contradict each other.
    """
    changes = dict(fields or {})
    config = source if isinstance(source, Config) else _of_source(str(source))
    if recipe := changes.pop("recipe", ""):
        config = _with_recipe(config, recipe)
    if losses := changes.pop("only", ""):
        config = with_losses(config, losses)
    nested: dict[str, Any] = {}
    for name, value in changes.items():
        for part in reversed(str(name).split(".")):
            value = {part: value}
        nested = joined(nested, value)
    return resolve_paths(checked(structured(config, nested)))


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The values of both, those of the second where both have one; sections are joined likewise."""
    found = dict(first)
    for name, value in second.items():
        own = found.get(name)
        sections = isinstance(own, Mapping) and isinstance(value, Mapping)
        found[name] = joined(own, value) if sections else value  # type: ignore[arg-type]
    return found


def _of_source(source: str) -> Config:
    """The preset of that name, or the configuration in that file."""
    if source in PRESETS:
        return PRESETS[source]
    file = Path(source)
    if file.suffix not in (".yaml", ".yml") and not file.is_file():
        raise InputError(
            f"preset {source!r} does not exist; the nearest of {', '.join(PRESETS)} is "
            f"{nearest(source, PRESETS)}"
        )
    values = read_yaml(file)
    start = values.pop("preset", "ours")
    if start not in PRESETS:
        raise InputError(
            f"{file}: preset {start!r} does not exist; the nearest of {', '.join(PRESETS)} is "
            f"{nearest(start, PRESETS)}"
        )
    name = str(values.pop("name", start))
    try:
        config = replace(structured(PRESETS[start], values), preset=name)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    if config == PRESETS.get(name, config):
        return config
    if file.stem in PRESETS:
        raise InputError(
            f"{file} changes fields of preset {start} under the name of a preset; add "
            "`name:` and a new name to the file"
        )
    return replace(config, preset=file.stem)


class _Loader(yaml.SafeLoader):
    """Refuses what YAML allows: a repeated name, whose first value would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"{name!r} occurs twice from line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields in a YAML file. Raises InputError where it cannot be read or holds none."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a readable YAML file ({reason}); fix it") from error
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path} holds {type(values).__name__}, expected fields such as `preset:`")
    return values or {}


def structured(base: T, changes: Mapping[str, Any]) -> T:
    """The dataclass `base` with nested `changes`, every value checked against its field's type.

    Raises InputError with the dotted name of a field that does not exist (and the nearest one) or
    whose value has the wrong type.
    """
    import pydantic  # here, since it takes half a second

    values = _merged(asdict(base), changes, "")  # type: ignore[call-overload]
    try:
        # From JSON, a list may stand for a tuple and a whole number for a float; nothing else.
        text = json.dumps(values, default=str)
        return pydantic.TypeAdapter(type(base)).validate_json(text, strict=True)
    except pydantic.ValidationError as errors:
        error = errors.errors()[0]
    name, value = ".".join(map(str, error["loc"])), error["input"]
    if error["type"] == "literal_error":
        choices = re.findall("'(.*?)'", error["ctx"]["expected"])
        raise InputError(
            f"{name} is {value!r}, expected one of {', '.join(choices)}; the nearest is "
            f"{nearest(value, choices)}"
        )
    expected = error["msg"].removeprefix("Input should be ").lower()
    raise InputError(f"{name} is {value!r}, expected {expected}; write it without quotes")


def _merged(base: dict[str, Any], changes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        if f"{prefix}{name}" in RENAMED:
            new, values = RENAMED[prefix + name]
            wanted = json.dumps(values.get(value, value), default=str)  # as YAML writes it
            raise InputError(f"{prefix}{name} is now called {new}; write {new}: {wanted}")
        if name not in base:
            raise InputError(f"there is no field {prefix}{name}; {_near(name, base, prefix)}")
        if isinstance(base[name], dict):
            if not isinstance(value, Mapping):
                raise InputError(f"{prefix}{name} is {value!r}, expected its fields, indented")
            value = _merged(base[name], value, f"{prefix}{name}.")
        elif isinstance(value, str) and isinstance(base[name], float) and _NUMBER.fullmatch(value):
            value = float(value)
        merged[name] = value
    return merged


def _near(name: str, base: dict[str, Any], prefix: str) -> str:
    """Which field was meant: one of that name in a stage, else the nearest of this stage."""
    inner = [field for field, _ in flat(base) if field.endswith(f".{name}")]
    if not inner:
        return f"the nearest is {prefix}{nearest(name, base)}"
    stage = inner[0].partition(".")[0]
    return f"{prefix}{' and '.join(inner)} exist; in a file write `{stage}: {{{name}: ...}}`"


def from_dict(values: Mapping[str, Any]) -> Config:
    """The Config that was stored as these values; fields renamed since then are translated."""
    stored = json.loads(json.dumps(values))
    for old, (new, meaning) in RENAMED.items():
        (stage, name), new_name = old.split("."), new.split(".")[1]
        if name in stored.get(stage, {}):
            value = stored[stage].pop(name)
            stored[stage][new_name] = meaning.get(value, value)
    return structured(Config(), stored)


def with_losses(config: Config, name: str) -> Config:
    """`config` with only those losses; `none` leaves features unadapted.

    A loss that has no weight in `config` gets the default one.
    """
    if name not in LOSSES:
        raise InputError(
            f"there is no loss {name!r}; the nearest of {', '.join(LOSSES)} is "
            f"{nearest(name, LOSSES)}"
        )
    own, default = asdict(config.training.weights), asdict(LossWeights())
    kept = {term: (own[term] or default[term]) if term in LOSSES[name] else 0.0 for term in own}
    return replace(config, training=replace(config.training, weights=LossWeights(**kept)))


def _with_recipe(config: Config, recipe: str) -> Config:
    """The recipe of a preset, such as `published`, with the data and backbones of `config`.

    Modalities, image size, plane distance and the removal of the background are also kept: they
    belong to the data. The size of the image encoder's image belongs to the recipe.
    """
    if recipe not in PRESETS:
        raise InputError(
            f"there is no recipe {recipe!r}; the nearest of {', '.join(PRESETS)} is "
            f"{nearest(recipe, PRESETS)}"
        )
    base = PRESETS[recipe]
    # Weights other than the published ones keep the norm they were trained with, unless released.
    same_model = config.point_encoder.model == base.point_encoder.model
    own = same_model or base.point_encoder.norm == "released"
    norm = (base if own else config).point_encoder.norm
    return replace(
        base,
        preset=f"{recipe}-{config.preset}",
        data=config.data,
        modalities=config.modalities,
        preprocess=replace(
            base.preprocess,
            image_size=config.preprocess.image_size,
            plane_distance_m=config.preprocess.plane_distance_m,
            background_removal=config.preprocess.background_removal,
        ),
        image_encoder=replace(config.image_encoder, size=base.image_encoder.size),
        point_encoder=replace(config.point_encoder, norm=norm),
        device=config.device,
        cache=config.cache,
        threads=config.threads,
    )


def fields_of(config: Config) -> dict[str, Any]:
    """Every field by its full name, such as `training.weights.la`; for tables."""
    return dict(flat(asdict(config)))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Entries of nested dicts, with dotted names such as `training.weights.la`."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def config_hash(*parts: Any) -> str:
    """16 hex digits that change when any field of the given dataclasses or values changes."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(part: Any) -> Any:
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return {"type": type(part).__name__, **_hashed(part)}
    return str(part) if isinstance(part, Path) else part


def _hashed(part: Any) -> dict[str, Any]:
    """As `asdict`, without fields that were added later and have their default (`fields.added`)."""
    values = {f: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {
        f.name: _hashed(value) if dataclasses.is_dataclass(value) else value
        for f, value in values.items()
        if not (f.metadata.get("added") and value == f.default)
    }
