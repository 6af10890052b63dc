"""Documents name only what exists."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
import torch
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.config import DEMO, OURS, fields_of
from lsfa_lib.features.local_descriptors import Descriptors
from lsfa_lib.methods import asymmetric, asymmetric_pair, differnet, gan, variation
from lsfa_lib.methods.flow import new_flow

ROOT = Path(__file__).parents[1]
METHOD = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
SECTIONS = {name.partition(".")[0] for name in fields_of(OURS)}


def named_fields(text: str) -> list[str]:
    """Names such as `training.steps`; `.steps` alone belongs to the section named before it."""
    found, section = [], ""
    for name in re.findall(r"`([a-z_]*\.[a-z_.]+)`", text):
        section = name.partition(".")[0] or section
        if section in SECTIONS:
            found.append(section + "." + name.partition(".")[2])
    return found


def test_every_field_the_method_names_exists() -> None:
    named = named_fields(METHOD)
    assert len(set(named)) > 25
    known = set(fields_of(OURS)) | {"training.weights"}
    assert [name for name in named if name not in known] == []


def test_every_choice_of_the_method_has_its_field() -> None:
    sizes = METHOD[METHOD.index("| method | published | here |") :].partition("\n\n")[0]
    rows = [
        line
        for line in METHOD.replace(sizes, "").splitlines()
        if line.startswith("| ") and "| paper |" not in line
    ]
    assert len(rows) > 20
    assert [row for row in rows if not named_fields(row.rpartition(" | ")[2])] == []


def test_the_method_states_the_sizes_of_its_networks() -> None:
    count = {
        "3D-ST": Descriptors(),
        "Depth GAN": gan.Networks(2, gan.WIDTHS[2]),
        "Voxel GAN": gan.Networks(3, gan.WIDTHS[3]),
        "Depth AE": variation._network(torch.nn.Conv2d, True),
        "Voxel AE": variation._network(torch.nn.Conv3d, False),
    }
    if importlib.util.find_spec("FrEIA"):
        side, width = DEMO.grid // 2, 152 * len(differnet.SCALES)
        count |= {
            "AST, 3D": asymmetric_pair.Pair(asymmetric.SAMPLES**2, side),
            "AST, RGB": asymmetric_pair.Pair(asymmetric.COMPONENTS, side),
            "DifferNet": new_flow((width,), differnet.BLOCKS, differnet.CLAMP, differnet._subnet),
        }
        assert f"; {width} features |" in METHOD
    for title, network in count.items():
        parameters = sum(each.numel() for each in network.parameters())
        (row,) = re.findall(rf"^\| {title} \|.*\| ([\d,]+) \|$", METHOD, re.MULTILINE)
        assert row == f"{parameters:,}", title


def test_modules_the_method_names_exist() -> None:
    modules = {path.stem for path in (ROOT / "lsfa_lib").rglob("*") if path.suffix in ("", ".py")}
    for heading in re.findall(r"^## .*\((.*)\)$", METHOD, flags=re.MULTILINE):
        assert set(re.findall(r"`(\w+)`", heading)) <= modules


def test_commands_the_readme_names_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"(?<!\.)lsfa (data [a-z]+|[a-z]+)", readme))
    assert {"run", "presets", "data check", "sweep"} <= commands
    for command in commands:
        found = CliRunner().invoke(app, [*command.split(), "--help"])
        assert found.exit_code == 0, command
    options = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    for option in set(re.findall(r"lsfa run .*?(--[a-z-]+)", readme)):
        assert option in options


def test_the_readme_lists_every_notebook_with_its_question() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\d\d_\w+)` \| (.+\?) \|$", text, re.MULTILINE))
    asked = {
        path.stem: nbformat.read(path, 4).cells[0].source.splitlines()[0].removeprefix("# ")
        for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")
    }
    assert listed == asked


def test_the_readme_shows_only_screenshots_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(shown) == 3 and all((ROOT / name).stat().st_size < 200_000 for name in shown)


@pytest.mark.parametrize(
    "document", ["README.md", "reports/README.md", "docs/method.md", "docs/point_mae_small.md"]
)
def test_links_lead_to_files_that_exist(document: str) -> None:
    file = ROOT / document
    linked = re.findall(r"\]\(([^):#]+)\)", file.read_text(encoding="utf-8"))
    assert [name for name in linked if not (file.parent / name).exists()] == []
