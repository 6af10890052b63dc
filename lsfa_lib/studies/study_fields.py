"""The fields of a study file: YAML in, typed values out, and a sentence for what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lsfa_lib.storage.files import InputError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """Refuses what YAML lets pass: the same name twice, of which the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"{name!r} is there twice, line {node.start_mark.line + 1} on")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields in a file. InputError where it cannot be read or is no mapping."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        there = sorted(file.stem for file in path.parent.glob("*.yaml"))
        near = difflib.get_close_matches(path.stem, there, n=1, cutoff=0.0)
        hint = f"; the nearest there is {near[0]}.yaml" if near else ""
        raise InputError(f"{path}: no such study file{hint}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a readable YAML file ({reason}); mend it") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no fields; a study has at least `cells:`")
    return values


class Fields:
    """The fields of a mapping in a study file; errors name the file, the field and the way out."""

    def __init__(
        self,
        path: Path,
        values: dict[str, Any],
        names: Iterable[str],
        prefix: str = "",
    ) -> None:
        self.path, self.values, self.prefix = path, values, prefix
        for name in values:
            if name not in names:
                raise InputError(
                    f"{path}: there is no field {prefix}{name}; "
                    f"the nearest is {prefix}{nearest(name, names)}"
                )

    def take(self, name: str, kind: type[T], default: T) -> T:
        """The value of a field, of that type; the default where it is not given."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            wanted = {"str": "text", "dict": "indented fields"}.get(kind.__name__, "a list")
            raise InputError(f"{self.path}: {self.prefix}{name} is {value!r}, wanted {wanted}")
        return value

    def known(self, value: Any, names: Iterable[str], where: str, what: str = "") -> None:
        """Raises InputError, with the nearest of the names, where `value` is none of them."""
        if value not in (there := list(names)):
            raise InputError(
                f"{self.path}: {where}: there is no {what or where} {value!r}; "
                f"the nearest is {nearest(value, there)}"
            )


def nearest(wrong: Any, names: Iterable[str]) -> str:
    """The most similar of some names."""
    return difflib.get_close_matches(str(wrong), list(names), n=1, cutoff=0.0)[0]
