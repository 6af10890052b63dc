"""Installation: one source of versions, packages that import together, one direction of imports."""

import ast
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


LAYERS = [
    {"files", "open3d_import"},
    {"archive", "download"},
    {"inprocess", "sketch"},
    {"records", "config"},
    {"config_io"},
    {"geometry", "datasets", "coreset", "curves", "nearest", "plane", "solids"},
    {"losses", "low_rank", "feature_queue", "instances", "monitors", "schedule"},
    {"metrics", "preprocess", "encoders", "memory", "pseudo_defects"},
    {"shapes"},
    {"features", "scan_statistics", "masked", "probe"},
    {"pretrain"},
    {"adaptors"},
    {"objective"},
    {"training"},
    {"feature_cache", "detector", "finetune"},
    {"scenes", "crossmodal"},
    {"method"},
    {"cuts", "patchcore", "lsfa", "variation", "rgb_anomalib"},
    {"cfm", "m3dm"},
    {"evidence"},
    {"results", "findings", "paired", "tables", "page"},
    {"running"},
    {"pipeline", "figures"},
    {"efficiency"},
    {"fitted_files"},
    {"fitted"},
    {"data_report"},
    {"selection", "components", "feature_space", "mistakes"},
    {"selection_study", "components_table"},
    {"components_report", "study_table"},
    {"study_report", "study_figures", "methods_report"},
    {"scan_images", "image_grid"},
    {"clouds"},
    {"gallery_data"},
    {"gallery_means"},
    {"map_rows", "scan_parts", "feature_figures"},
    {"data_figures", "similarity_figures"},
    {"scan_figures", "notebook_html", "gallery"},
    {"inspection", "explore_figures"},
    {"explore_html", "exploration"},
    {"explore_panel"},
    {"explore"},
    {"report_head"},
    {"notebook_run"},
    {"report", "bundle"},
    {"study_fields"},
    {"study"},
    {"study_runs"},
    {"sweep_worker"},
    {"warm_start"},
    {"sweep_cluster"},
    {"sweep"},
    {"cli_study", "cli_sweep", "cli_report", "cli_weights", "cli_data", "cli_pretrain"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


WHOLE = {"datasets", "encoders"}
"""Packages that count as one module here."""


def unit(parts: list[str]) -> str:
    """Where a module stands: its own name, or its package's."""
    return parts[0] if parts[0] in WHOLE else parts[-1]


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lsfa_lib"):
            parts = (node.module or "").split(".")[1:]
            package = (ROOT / "lsfa_lib").joinpath(*parts).is_dir()
            names = [[*parts, alias.name] for alias in node.names] if package else [parts]
            found |= {unit(name) for name in names}
    return found


def test_imports_go_one_way() -> None:
    package = ROOT / "lsfa_lib"
    modules = {
        path: list(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if path.stem != "__init__"
    }
    own = {path: unit(parts) for path, parts in modules.items()}
    assert set(own.values()) == set(LEVEL)
    alone = [name for name in own.values() if name not in WHOLE]
    assert len(alone) == len(set(alone))
    for path, name in own.items():
        for other in imported_modules(path) - {name}:
            assert LEVEL[other] <= LEVEL[name], f"{name} imports {other}"
