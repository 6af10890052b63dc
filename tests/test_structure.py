"""The packages of the library and the order in which they import each other."""

import re
from pathlib import Path

import pytest

import lsfa_lib
from benchmarks.structure import PACKAGE, arrows, cycles, modules

ORDER = (
    *("storage", "config", "records", "datasets", "pseudo", "demo", "features", "adaptation"),
    *("detection", "evaluation", "pretraining", "methods", "selection", "pipeline", "notebooks"),
    *("figures", "pages", "deployment", "studies", "explorer", "cli"),
)
"""A package imports those to its left only."""
ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"


def test_packages_import_down_the_order_only() -> None:
    pairs = arrows(modules())
    assert {room for pair in pairs for room in pair} == set(ORDER)
    against = {(a, b) for a, b in pairs if ORDER.index(a) < ORDER.index(b)}
    assert not against
    assert not cycles(pairs)


def test_the_count_of_arrows_and_cycles_sees_what_it_should() -> None:
    assert cycles({("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")}) == ["a", "b", "c"]
    assert cycles({("a", "b"), ("b", "c"), ("a", "c")}) == []


@pytest.mark.parametrize("name", sorted(lsfa_lib.FRONT))
def test_every_name_of_the_front_can_be_imported(name: str) -> None:
    assert getattr(lsfa_lib, name) is not None
    assert name in dir(lsfa_lib)


def test_files_that_the_architecture_page_names_exist() -> None:
    text = ARCHITECTURE.read_text("utf-8")
    assert len(text.splitlines()) <= 80
    named = re.findall(r"`([\w./*-]+\.(?:py|yaml|ipynb|md)|[\w/]+/)`", text)
    root = PACKAGE.parent
    missing = [n for n in named if not (root / n).exists() and not (PACKAGE / n).exists()]
    assert named
    assert not missing
