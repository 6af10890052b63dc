"""Configurations as files, as values and as keys: YAML in, plain values out, hashes."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from lsfa_lib.config import PRESETS, Config, checked, configure, only, with_recipe
from lsfa_lib.storage.files import CHECKOUT, InputError, located

T = TypeVar("T")


def chosen_config(
    preset: str,
    *,
    data_root: str = "",
    device: str = "auto",
    image_size: int = 0,
    part: str = "",
    shots: int = 0,
    recipe: str = "",
    fields: dict[str, Any] | None = None,
) -> Config:
    """What a run's user asked for: a preset or the path of a YAML file, and what differs from it.

    "", 0 and device `auto` keep the preset's or file's own. `fields` are others by full name, such
    as `{"training.temperature": 0.03}`. A file without a name of its own is called by its file
    name, so that its runs are not taken for those of the preset it changes.
    """
    file = Path(preset)
    is_file = preset not in PRESETS and (file.suffix in (".yaml", ".yml") or file.is_file())
    config = load_config(file) if is_file else configure(preset)
    if is_file and config.preset in PRESETS and config != PRESETS[config.preset]:
        if file.stem in PRESETS:
            raise InputError(
                f"{file} changes fields of preset {config.preset} under the name of a preset; add "
                "`name:` and a new name to the file"
            )
        config = replace(config, preset=file.stem)
    if recipe:
        config = with_recipe(config, recipe)
    if data_root:
        config = replace(config, data=replace(config.data, root=data_root))
    if device != "auto":
        config = replace(config, device=device)
    if image_size:
        config = replace(config, preprocess=replace(config.preprocess, image_size=image_size))
    if shots:
        config = replace(config, shots=shots)
    config = only(config, part) if part else config
    return resolve_paths(checked(with_fields(config, fields or {})))


def resolve_paths(config: Config) -> Config:
    """`config` for whoever works in a folder of the checkout, such as JupyterLab in notebooks/.

    Data that are not below that folder are taken from the checkout, which has one cache.
    """
    data = replace(config.data, root=str(located(Path(config.data.root))))
    inside = CHECKOUT in Path.cwd().parents
    cache = str(CHECKOUT / config.cache) if config.cache and inside else config.cache
    return replace(config, data=data, cache=cache)


def with_fields(config: Config, fields: dict[str, Any]) -> Config:
    """`config` with fields replaced by their full names; InputError names the nearest right one."""
    for name, value in fields.items():
        nested = value
        for part in reversed(str(name).split(".")):
            nested = {part: nested}
        config = _updated(config, nested, "")
    return config


def load_config(path: Path) -> Config:
    """The Config of a YAML file: a `preset` to start from and the fields that differ from it.

    Raises InputError, naming the file and the nearest right field, for one that does not exist and
    for a value of another type.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not a readable YAML file ({error}); mend it") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds {type(values).__name__}, wanted fields such as `preset:`")
    start = values.pop("preset", "ours")
    name = values.pop("name", start)
    if str(start) not in PRESETS:
        raise InputError(
            f"{path}: preset {start!r} does not exist; choose one of {', '.join(PRESETS)}"
        )
    try:
        config = _updated(PRESETS[start], values, "")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return checked(replace(config, preset=str(name)))


def from_dict(values: dict[str, Any]) -> Config:
    """The Config that `dataclasses.asdict` made these values from; JSON's lists become tuples."""
    return from_dict_as(Config, values)


def from_dict_as(cls: type[T], values: dict[str, Any]) -> T:
    """The dataclass of type `cls` with these values, the rest at its defaults."""
    return _updated(cls(), values, "")


def _updated(config: T, values: dict[str, Any], prefix: str) -> T:
    """`config` with the fields in `values` replaced, by name and type, at every level."""
    hints = typing.get_type_hints(type(config))
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1, cutoff=0.0)[0]
            raise InputError(f"there is no field {prefix}{name}; the nearest is {prefix}{near}")
        if dataclasses.is_dataclass(old := getattr(config, name)):
            if not isinstance(value, dict):
                raise InputError(f"{prefix}{name} is {value!r}, wanted its fields, indented")
            fields[name] = _updated(old, value, f"{prefix}{name}.")
        else:
            fields[name] = _converted(value, hints[name], prefix + name)
    return replace(config, **fields)  # type: ignore[type-var]


def _converted(value: Any, hint: Any, name: str) -> Any:
    """`value` as `hint` wants it: a whole number may stand for a float, a list for a tuple."""
    arguments, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin is Literal:
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), map(str, arguments), n=1, cutoff=0.0)[0]
        choices = ", ".join(map(str, arguments))
        raise InputError(f"{name} is {value!r}, wanted one of {choices}; the nearest is {near}")
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        if len(inner) == len(value):
            return tuple(_converted(v, h, name) for v, h in zip(value, inner, strict=True))
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        hint = next(h for h in arguments if h is not type(None))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and re.fullmatch(r"[-+\d.]+e[-+]?\d+", value):
        return float(value)  # YAML reads 1e-3, without a dot, as text
    is_number_for_flag = isinstance(value, bool) and hint is not bool
    if isinstance(hint, type) and isinstance(value, hint) and not is_number_for_flag:
        return value
    wanted = getattr(hint, "__name__", str(hint))
    raise InputError(f"{name} is {value!r}, wanted {wanted}; write it without quotes")


def fields_of(config: Config) -> dict[str, Any]:
    """Every field by its full name, such as `training.weights.la`; for tables."""
    return dict(flat(dataclasses.asdict(config)))


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Entries of nested dicts under names such as `training.weights.la`."""
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
        return {"type": type(part).__name__, **dataclasses.asdict(part)}
    return str(part) if isinstance(part, Path) else part
