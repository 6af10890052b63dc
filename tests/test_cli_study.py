"""`lsfa study`: cells, then a page and a document with their numbers; mistakes in one sentence."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lsfa_lib.cli.app import app
from lsfa_lib.storage.files import InputError
from lsfa_lib.studies.components_table import read_cells, table


def study(*words: str) -> str:
    found = CliRunner().invoke(app, ["study", *words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_a_study_ends_as_a_page(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the cache is kept where the command runs
    few = ["--data", str(demo_root), "--preset", "tiny", "--workers", "1"]
    seeds = ["--training-seeds", "2", "--coreset-seeds", "1", "--losses", "ours"]
    assert study("components", "seal", *few, *seeds) == "components: seal\n"
    shown = study("page", "--document", "components.md").splitlines()
    assert shown == ["components.md", "reports/components/report.html"]
    (cells,) = read_cells(tmp_path / "reports" / "components" / "cells")
    lines = table(cells, "ours")
    document, page = (Path(name).read_text("utf-8") for name in shown)
    for mean in lines["i_auroc"]:
        assert f"{mean:.3f} [" in document and f"{mean:.3f}<br/>[" in page
    assert "96 px, losses of ours" in page and "against the baseline in RGB + 3D" in page
    assert str(tmp_path) not in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["components", "cap"], "cap: no such category; .* holds biscuit, seal"),
        (["components", "all", "--variants", "IFC,CCL"], "no 'CCL' here; choose from baseline"),
        (["components", "all", "--losses", "mine"], "no 'mine' here; choose from ours, published"),
        (["select", "cap"], "cap: no such category"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    words: list[str], message: str, demo_root: Path
) -> None:
    with pytest.raises(InputError, match=message):
        study(*words, "--data", str(demo_root))


def test_a_page_without_cells_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `lsfa study components` first"):
        study("page", "--reports", str(tmp_path), "--document", str(tmp_path / "a.md"))
    assert list(tmp_path.iterdir()) == []
