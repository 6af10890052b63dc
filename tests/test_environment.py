"""Installation: one source of versions, packages that import together, one direction of imports."""

import importlib
import tomllib
from pathlib import Path

import pytest
import yaml
from rattler import MatchSpec

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(line.split("==") for line in PROJECT["dependencies"] if "==" in line)


def conda_dependencies() -> tuple[list[str], list[str]]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    specs = environment["dependencies"]
    (under_pip,) = [spec["pip"] for spec in specs if isinstance(spec, dict)]
    return [spec for spec in specs if isinstance(spec, str)], under_pip


def test_conda_environment_pins_what_pyproject_pins() -> None:
    specs, under_pip = conda_dependencies()
    assert under_pip[-1] == "-e ."
    pinned = [spec for spec in specs + under_pip if "==" in spec]
    assert len(pinned) >= 9
    for spec in pinned:
        name, version = spec.split("==")
        assert PINS[name] == version


def test_conda_specs_are_valid_and_ask_for_the_same_python() -> None:
    specs, _ = conda_dependencies()
    names = [MatchSpec(spec).name.normalized for spec in specs]
    assert names[:2] == ["python", "pip"]
    assert f"python{PROJECT['requires-python']}" in specs


def test_lock_holds_every_pin() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    for name, version in PINS.items():
        assert f"{name}=={version}" in lock


@pytest.mark.parametrize(
    "name", ["torch", "torchvision", "timm", "open3d", "plotly", "papermill", "jupyterlab"]
)
def test_installed_packages_import_together(name: str) -> None:
    # A CPU-only torch beside the registry's torchvision resolves, then fails at `import timm`.
    assert importlib.import_module(name).__version__.split("+")[0] == PINS[name]
