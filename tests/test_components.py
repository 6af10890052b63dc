"""The study of components and of selection on tiny scans: cells equal runs, nothing runs twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lsfa_lib.config import Config, with_losses
from lsfa_lib.pipeline import run_category
from lsfa_lib.studies.components import Study, Unit, run_units, unit_config, units
from lsfa_lib.studies.components_report import (
    answer,
    costs,
    forest_figure,
    selection_table,
    shown,
    write_components,
)
from lsfa_lib.studies.components_table import read_cells, table
from lsfa_lib.studies.selection_study import grid, score_category, start


@pytest.fixture
def study(tiny: Config) -> Study:
    quick = replace(tiny, training=replace(tiny.training, steps=3))
    return Study(quick, ("seal",), training_seeds=2, coreset_seeds=2, losses=("ours",))


def test_units_are_every_training_once(study: Study) -> None:
    both = replace(study, losses=("ours", "published"), training_seeds=3)
    found = units(both, "seal")
    assert len(found) == len({unit.file for unit in found}) == 1 + 3 + 2 * 4 * 3
    assert [u.losses for u in found if u.variant in ("baseline", "control")] == ["ours"] * 4


def test_units_train_what_they_are_named_for(study: Study) -> None:
    def config(variant: str, losses: str = "ours") -> Config:
        return unit_config(study.config, Unit("seal", losses, variant, 0))

    weights = config("IFC").training.weights
    assert (weights.la, weights.ga, weights.lc, weights.gc) == (0.0, 0.0, 1.0, 1.0)
    weights = config("heads").training.weights
    assert (weights.la, weights.ga, weights.lc, weights.gc) == (0.6, 0.6, 0.0, 0.0)
    assert config("heads").adaptor.structure == "none"
    assert config("control").training.steps == 0
    printed = config("both", "published").training
    assert (printed.alignment, printed.compactness) == ("literal", "sum")
    assert replace(printed, alignment="infonce", compactness="mean") == study.config.training


def test_cells_equal_runs_and_are_made_once(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    chosen = replace(study, variants=("baseline", "control", "both"))
    run_units(chosen, "seal", folder)
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(made) == 1 + 2 + 2
    run_units(chosen, "seal", folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == made
    for variant, config in (
        ("baseline", with_losses(study.config, "none")),
        ("both", study.config),
    ):
        run = run_category("seal", config, seed=0).result
        content = json.loads((folder / f"seal-ours-{variant}-t0.json").read_text("utf-8"))
        assert content["defective"] == [scan["defective"] for scan in run["scans"]]
        cells = {cell["mode"]: cell for cell in content["cells"] if cell["coreset_seed"] == 0}
        assert list(cells) == list(run["modes"])
        for mode, cell in cells.items():
            for metric in ("i_auroc", "aupro_30", "p_auroc"):
                assert cell[metric] == pytest.approx(run["modes"][mode][metric], abs=1e-9)
            scores = [scan["scores"][mode] for scan in run["scans"]]
            np.testing.assert_allclose(cell["scores"], scores, rtol=1e-6)
    # Another number of steps is another study.
    longer = replace(study.config, training=replace(study.config.training, steps=4))
    run_units(replace(chosen, config=longer, variants=("both",)), "seal", folder)
    now = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in made if now[name] != made[name]} == {
        "seal-ours-both-t0.json",
        "seal-ours-both-t1.json",
    }


def test_a_study_becomes_a_document(study: Study, tmp_path: Path) -> None:
    base = start(study.config)
    quick = replace(base, training=replace(base.training, steps=2, patches_per_scan=16))
    run_units(study, "seal", tmp_path / "cells")
    score_category(quick, "seal", tmp_path / "selection")
    (cells,) = read_cells(tmp_path / "cells")
    lines = table(cells, "ours")
    assert len(lines) == len(shown(lines)) == 5 * 3 + 7
    named = {label for trace in forest_figure(lines).data for label in trace.text}
    # All but the three lines of the baseline and the three of disagreement alone.
    assert len(named) == len(lines) - 6 and "IFC + CLC, RGB" in named
    assert answer(cells, "ours", lines).count("\n- **") + 1 == 8
    assert set(costs([cells])["variant"]) == set(study.variants)
    frame, correlation = selection_table(tmp_path / "selection")
    assert set(frame["configuration"]) == set(grid(quick)) and -1 <= correlation <= 1
    path = write_components(tmp_path / "cells", tmp_path / "selection", tmp_path / "components.md")
    text = path.read_text("utf-8")
    value = lines.query("row == 'IFC + CLC' and mode == 'rgb+3d'")["i_auroc"].item()
    assert f"{value:.3f} [" in text
    assert f"rank correlation over {len(frame)} configurations: {correlation:.2f}." in text
    assert "2 training seeds x 2 coreset seeds. Test scans: seal 3 good + 6 defective." in text
