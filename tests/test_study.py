"""Study files: what they expand into, and a sentence for everything that can be wrong in one."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from study_case import write_notebook

from lsfa_lib.notebooks.find import notebook_names
from lsfa_lib.storage.files import InputError
from lsfa_lib.studies.study import Choices, cell_name, read_studies
from lsfa_lib.studies.study_runs import Run, fingerprint, runs_of, settings_of

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))
CELLS: dict[str, Any] = {"none": {"only": "none"}, "IFC": {"only": "IFC"}}


def write(folder: Path, name: str = "asked", **fields: Any) -> Path:
    """A study file of these fields; `cells` where neither cells, grid nor include is given."""
    if not {"cells", "grid", "include"} & set(fields):
        fields["cells"] = CELLS
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return path


def expanded(path: Path, root: Path, **choices: Any) -> list[Run]:
    """The runs of a study file, on tiny data."""
    fields = {"data.root": str(root), **choices.pop("fields", {})}
    (study,) = read_studies(path, Choices(**{"preset": "tiny", "fields": fields, **choices}))
    return runs_of(study)


def test_seeds_are_outermost_then_cells_then_categories(demo_root: Path, tmp_path: Path) -> None:
    runs = expanded(write(tmp_path, categories="all", seeds=[3, 1]), demo_root)
    assert [(run.seed, run.cell, run.category) for run in runs] == [
        (seed, cell, category)
        for seed in (3, 1)
        for cell in ("none", "IFC")
        for category in ("biscuit", "seal")
    ]
    first = runs[0]
    assert first.parameters == {
        "category": "biscuit",
        "seed": 3,
        "preset": "tiny",
        "fields": {"data.root": str(demo_root), "only": "none"},
        "out": str(first.folder),
    }
    assert first.notebook == ROOT / "notebooks" / "00_quickstart.ipynb"
    assert first.folder.name == f"biscuit-tiny-96_px-no_training-s3-{first.key[:8]}"
    assert len({run.key for run in runs}) == len({run.folder for run in runs}) == 8


def test_inference_is_timed_with_the_first_seed_only(demo_root: Path, tmp_path: Path) -> None:
    cells = {"timed": {"only": "none", "timed_scans": 2}}
    path = write(tmp_path, cells=cells, categories=["seal"], seeds=[3, 1])
    runs = expanded(path, demo_root)
    assert [run.parameters["fields"]["timed_scans"] for run in runs] == [2, 0]
    # The same seed, timed, is another run.
    (timed,) = expanded(path, demo_root, seeds=(1,))
    assert timed.parameters["fields"]["timed_scans"] == 2 and timed.key != runs[1].key


def test_a_grid_is_every_combination_and_names_its_cells(demo_root: Path, tmp_path: Path) -> None:
    grid = {"only": ["IFC", "both"], "shots": [3, 5], "training.temperature": [0.03, 0.3]}
    runs = expanded(write(tmp_path, grid=grid, categories=["seal"]), demo_root)
    assert len(runs) == 8
    assert runs[0].cell == "only IFC, shots 3, training.temperature 0.03"
    last = {"data.root": str(demo_root), "only": "both", "shots": 5, "training.temperature": 0.3}
    assert runs[-1].parameters["fields"] == last
    assert "only_IFC-3_shots-training.temperature_0.03" in runs[0].folder.name
    assert cell_name({"fields": {}, "only": ""}) == "no fields, only –"
    # As earlier study files wrote it.
    nested = {k: v for k, v in grid.items() if "." not in k}
    nested["fields"] = [{"training.temperature": 0.03}, {"training.temperature": 0.3}]
    again = expanded(write(tmp_path, "nested", grid=nested, categories=["seal"]), demo_root)
    assert [(run.cell, run.key) for run in again] == [(run.cell, run.key) for run in runs]


def test_with_cells_a_grid_runs_each_at_every_point(demo_root: Path, tmp_path: Path) -> None:
    path = write(tmp_path, cells=CELLS, grid={"bank.seed": [3, 4]}, categories=["seal"])
    runs = expanded(path, demo_root)
    points = [(cell, {"bank.seed": seed}) for cell in CELLS for seed in (3, 4)]
    assert [(run.cell, run.point) for run in runs] == points
    assert [run.parameters["fields"]["bank.seed"] for run in runs] == [3, 4, 3, 4]
    assert len({run.key for run in runs}) == len({run.folder for run in runs}) == 4


def test_a_section_of_a_cell_adds_to_what_is_shared(demo_root: Path, tmp_path: Path) -> None:
    cells = {
        "small": {"training": {"learning_rate": 1e-3}},
        "warm": {"training": {"learning_rate": 1e-2, "warmup": 0.5}},
        "short": {"training.steps": 5, "preprocess": {"background_removal": "plane"}},
    }
    path = write(tmp_path, parameters={"training": {"steps": 20}}, cells=cells)
    fields = {"data.root": str(demo_root), "preprocess.image_size": 64}
    (study,) = read_studies(path, Choices(preset="tiny", fields=fields))
    for _ in range(2):  # the first reading leaves the second alone
        found = {setting.cell: setting.config for setting in settings_of(study)}
        training = [found[cell].training for cell in cells]
        assert [own.steps for own in training] == [20, 20, 5]
        assert [own.learning_rate for own in training[:2]] == [1e-3, 1e-2]
        assert training[0].warmup == training[2].warmup != training[1].warmup == 0.5
        assert {own.preprocess.image_size for own in found.values()} == {64}


def test_choices_come_before_the_file_and_cells_before_choices(
    demo_root: Path, tmp_path: Path
) -> None:
    size = "preprocess.image_size"
    cells = {"as asked": {}, "large": {size: 128}, "other": {"preset": "demo"}}
    path = write(tmp_path, cells=cells, seeds=[0, 1], categories="all", parameters={size: 48})
    chosen = {"seeds": (7,), "categories": ("seal",), "fields": {size: 64, "device": "cpu"}}
    runs = expanded(path, demo_root, **chosen)
    assert [run.parameters["fields"][size] for run in runs] == [64, 128, 64]
    assert [run.parameters["preset"] for run in runs] == ["tiny", "tiny", "demo"]
    devices = {(run.seed, run.category, run.parameters["fields"]["device"]) for run in runs}
    assert devices == {(7, "seal", "cpu")}
    (study,) = read_studies(path, Choices(preset="tiny", fields={size: 64}))
    assert (study.name, study.folder) == ("asked", "asked-tiny-64px")
    assert [run.parameters["fields"][size] for run in expanded(path, demo_root)][:1] == [48]


def test_the_key_follows_what_the_numbers_follow(demo_root: Path, tmp_path: Path) -> None:
    path = write(tmp_path, categories=["seal"])
    (first, _) = expanded(path, demo_root)
    same = write(tmp_path, "same", cells={"renamed": {"fields": {"cache": "elsewhere"}}})
    again = expanded(same, demo_root, fields={"device": "cpu"}, categories=("seal",))[0]
    assert again.key != first.key  # trained with both losses
    cell = {"only": "none", "scans": 2, "fields": {"cache": "elsewhere"}}
    again = expanded(
        write(tmp_path, "same", cells={"renamed": cell}, categories=["seal"]), demo_root
    )[0]
    assert (again.key, again.folder) == (first.key, first.folder)
    moved = tmp_path / "moved"
    shutil.copytree(demo_root, moved)
    assert expanded(path, moved)[0].key == first.key
    scan = next((moved / "seal").rglob("*.png"))
    os.utime(scan, ns=(1, 1))
    fingerprint.cache_clear()
    assert expanded(path, moved)[0].key != first.key
    # Only a method that learns from all categories follows the scans of another one.
    shared = write(tmp_path, "shared", cells={"a": {"method": "m3dm_shared"}}, categories=["seal"])
    before = [expanded(each, moved)[0].key for each in (path, shared)]
    os.utime(next((moved / "biscuit").rglob("*.png")), ns=(1, 1))
    fingerprint.cache_clear()
    after = [expanded(each, moved)[0].key for each in (path, shared)]
    assert after[0] == before[0] and after[1] != before[1]
    others = [
        expanded(path, demo_root, seeds=(1,))[0],
        expanded(path, demo_root, fields={"preprocess.image_size": 48})[0],
        expanded(path, demo_root, categories=("biscuit",))[0],
    ]
    assert len({first.key, *(run.key for run in others)}) == 4


def test_a_notebook_beside_the_study_counts_its_parameters_and_its_cells(
    demo_root: Path, tmp_path: Path
) -> None:
    declared = (
        'category: str = ""  # a\nseed: int = 0  # b\nout: str = ""  # c\nword: str = ""  # d'
    )
    write_notebook(tmp_path / "own.ipynb", declared, "print(word)")
    cells = {"a": {"word": "x"}, "b": {"word": "<y>/.."}}
    path = write(tmp_path, run="own.ipynb", cells=cells, categories=["seal"])
    runs = expanded(path, demo_root)
    out = str(runs[0].folder)
    assert runs[0].parameters == {"category": "seal", "seed": 0, "out": out, "word": "x"}
    assert runs[0].key != runs[1].key
    assert runs[1].folder.name == f"seal-tiny-word_y_..-s0-{runs[1].key[:8]}"
    with pytest.raises(
        InputError, match=r"training.steps needs a parameter `fields` in own\.ipynb"
    ):
        expanded(
            write(tmp_path, "no", run="own.ipynb", cells={"a": {"training.steps": 1}}), demo_root
        )
    write_notebook(tmp_path / "own.ipynb", declared, "print(word, 2)")
    assert expanded(path, demo_root)[0].key != runs[0].key


def test_presets_may_be_files_found_from_the_study_file(demo_root: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("preset: tiny\nbank: {keep_ratio: 0.5}\n", encoding="utf-8")
    cells = {"mine": {"preset": "mine.yaml"}, "theirs": {}}
    runs = expanded(write(tmp_path, cells=cells, categories=["seal"]), demo_root)
    assert [run.parameters["preset"] for run in runs] == [str(mine), "tiny"]
    assert runs[0].folder.name.startswith("seal-mine-96_px-")
    path = write(tmp_path, "both", preset="mine.yaml", categories=["seal"])
    (study,) = read_studies(path, Choices(fields={"data.root": str(demo_root)}))
    assert (study.preset, study.folder) == (str(mine), "both-mine")
    assert runs_of(study)[0].parameters["preset"] == str(mine)
    (study,) = read_studies(path, Choices(preset=str(mine)))
    assert study.preset == str(mine)
    with pytest.raises(
        InputError, match=r"--preset: .*yours\.yaml was not found; give its path fr"
    ):
        read_studies(path, Choices(preset="yours.yaml"))
    with pytest.raises(InputError, match="--preset: there is no preset 'tny'; the nearest is tiny"):
        read_studies(path, Choices(preset="tny"))


def test_included_studies_come_in_order(tmp_path: Path) -> None:
    write(tmp_path, "one")
    write(tmp_path, "two", title="Why?")
    inner = write(tmp_path, "inner", include=["two.yaml"])
    path = write(tmp_path, "all", include=["one.yaml", inner.name])
    studies = read_studies(path, Choices(seeds=(4,)))
    assert [(study.name, study.title, study.seeds) for study in studies] == [
        ("one", "one", [4]),
        ("two", "Why?", [4]),
    ]


def test_a_file_like_another_gives_what_differs(demo_root: Path, tmp_path: Path) -> None:
    first = {"title": "First?", "seeds": [3], "categories": ["seal"], "page": "12_recipes"}
    write(tmp_path, "first", parameters={"scans": 2}, reference="IFC", **first)
    for name, about in {
        "second": {"like": "first.yaml", "title": "Second?", "page": ""},
        "third": {"like": "second.yaml", "categories": ["biscuit"], "parameters": {"shots": 5}},
    }.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    (study,) = read_studies(tmp_path / "third.yaml")
    assert (study.name, study.title, study.page, study.reference) == ("third", "Second?", "", "IFC")
    assert (study.seeds, study.categories, study.cells) == ([3], ["biscuit"], CELLS)
    assert study.parameters == {"shots": 5}
    (second,) = read_studies(tmp_path / "second.yaml")
    assert second.parameters == {"scans": 2} and second.categories == ["seal"]
    # The runs of the same cells are the same.
    own = expanded(tmp_path / "first.yaml", demo_root)
    assert [r.key for r in expanded(tmp_path / "second.yaml", demo_root)] == [r.key for r in own]


def test_a_file_like_a_wrong_one_names_both(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("like: other.yaml\n", encoding="utf-8")
    write(tmp_path, "other", cells={"a": "IFC"})
    with pytest.raises(InputError, match=r"mine\.yaml: like: .*other\.yaml: cell 'a' is 'IFC', "):
        read_studies(mine)
    (tmp_path / "other.yaml").write_text("like: mine.yaml\n", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"itself through `like` \(mine.yaml -> other.yaml -> mine.yaml\); remove"
    ):
        read_studies(mine)
    write(tmp_path, "one")
    write(tmp_path, "other", include=["one.yaml"])
    with pytest.raises(InputError, match=r"other\.yaml only includes others; name a file with cel"):
        read_studies(mine)
    mine.write_text("like: one.yaml\nreference: nothing\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.yaml: reference: there is no cell 'nothing'"):
        read_studies(mine)


def test_missing_photographs_are_said_in_one_sentence(tmp_path: Path, demo_root: Path) -> None:
    root = tmp_path / "mvtec3d"
    choices = Choices(fields={"data.root": str(root)})
    real = read_studies(ROOT / "studies" / "validity.yaml", choices)[-1]
    assert (real.name, real.page, real.seeds) == ("validity_real", "16_validity", [0, 1, 2])
    assert real.parameters["data.root"] == "data/mvtec3d"
    with pytest.raises(InputError, match=r"mvtec3d: no such folder; .*lsfa data download mvtec3d"):
        runs_of(real)
    shutil.copytree(demo_root / "seal", root / "seal")
    with pytest.raises(InputError, match=r"mvtec3d/tire: no such category; .* holds seal; the nea"):
        runs_of(real)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "field": ({"seed": [0]}, "there is no field seed; the nearest is seeds"),
    "notebook": ({"run": "00_quickstar"}, "no notebook '00_quickstar'; the nearest is 00_quicksta"),
    "notebook's path": (
        {"run": "own.ipynb"},
        r"own\.ipynb was not found; give the notebook's path",
    ),
    "page": ({"page": "04_component"}, "no notebook '04_component'; the nearest is 04_components"),
    "page without study": (
        {"page": "00_quickstart"},
        "page 00_quickstart has no parameter `study`",
    ),
    "field of a cell": (
        {"cells": {"a": {"onyl": "IFC"}}},
        "cell 'a': there is no field or parameter 'onyl'; the nearest is only",
    ),
    "shared field": (
        {"parameters": {"shot": 1}},
        "`parameters`: there is no field or parameter 'shot'; the nearest is shots",
    ),
    "parameter": ({"cells": {"a": {"scan": 1}}}, "no field or parameter 'scan'; .* is scans"),
    "type": ({"cells": {"a": {"scans": "five"}}}, "cell 'a': scans is 'five', expected int"),
    "flag for a number": ({"parameters": {"scans": True}}, "scans is True, expected int"),
    "type of a field": ({"cells": {"a": {"shots": "five"}}}, "cell 'a': shots is 'five', expected"),
    "nested fields": ({"cells": {"a": {"fields": 3}}}, "cell 'a': fields is 3, expected indented"),
    "owned": ({"cells": {"a": {"seed": 3}}}, "cell 'a': seed is set by the sweep; write `seeds:`"),
    "former root": ({"parameters": {"data_root": "x"}}, "'data_root'; the nearest is data.root"),
    "shared preset": ({"parameters": {"preset": "demo"}}, "gives preset; write it as `preset:`"),
    "config field": (
        {"cells": {"a": {"fields": {"training.temprature": 1.0}}}},
        "cell 'a': there is no field training.temprature; the nearest is training.temperature",
    ),
    "config value": (
        {"cells": {"a": {"fields": {"training.steps": "many"}}}},
        "cell 'a': training.steps is 'many', expected a valid integer",
    ),
    "loss": ({"cells": {"a": {"only": "IFCC"}}}, "cell 'a': there is no loss 'IFCC'; .* is IFC"),
    "recipe": ({"cells": {"a": {"recipe": "publish"}}}, "cell 'a': .*'publish'; .* is published"),
    "cell's preset": ({"cells": {"a": {"preset": "dmo"}}}, "no preset 'dmo'; the nearest is demo"),
    "image size": (
        {"cells": {"a": {"preprocess.image_size": 97}}},
        "cell 'a': image size 97 is not a multip",
    ),
    "category": ({"categories": ["seel"]}, "seel: no such category; .* the nearest is seal"),
    "category twice": ({"categories": ["seal", "seal"]}, "categories lists 'seal' twice; remove"),
    "categories": ({"categories": 3}, "categories is 3, expected `all` or a list"),
    "seed twice": ({"seeds": [0, 1, 0]}, "seeds lists 0 twice; remove one"),
    "seed": ({"seeds": [-1]}, r"seeds is \[-1\], expected a list such as \[0, 1, 2\]"),
    "no seeds": ({"seeds": []}, r"seeds is \[\], expected a list"),
    "shots": ({"cells": {"a": {"shots": 7}}}, "cell 'a': .*7 shots of 6 scans; ask for 1 to 6"),
    "one shot": ({"cells": {"a": {"shots": 1}}}, "cell 'a': 1 training scan, but LC and GC need"),
    "same cells": (
        {"cells": {"a": {"only": "both"}, "b": {"fields": {}}}},
        "cells 'a' and 'b' are the same run; change or remove one",
    ),
    "no cells": ({"cells": {}}, "has no settings to run; add at least one to `cells` or `grid`"),
    "points that are cells": (
        {"cells": CELLS, "grid": {"onyl": ["IFC"]}},
        "grid: there is no field or parameter 'onyl'; the nearest is only",
    ),
    "grid of none": ({"grid": {"only": []}}, r"grid only is \[\], expected a list of its values"),
    "grid of a word": ({"grid": {"only": "IFC"}}, "grid only is 'IFC', expected a list"),
    "grid twice": ({"grid": {"shots": [3, 3]}}, "grid shots lists 3 twice; remove one"),
    "cell": ({"cells": {"a": "IFC"}}, "cell 'a' is 'IFC', expected parameters such as {only: IFC}"),
    "cells as a list": ({"cells": ["a"]}, r"cells is \['a'\], expected indented fields"),
    "title": ({"title": ["a"]}, r"title is \['a'\], expected text"),
    "reference": ({"reference": "nothing"}, "reference: there is no cell 'nothing'; .* is none"),
    "control": ({"control": "IFK"}, "control: there is no cell 'IFK'; the nearest is IFC"),
    "table": (
        {"published": {"table": "table4_component"}},
        "no table 'table4_component'; .*_components",
    ),
    "published field": (
        {"published": {"tabel": "x"}},
        "no field published.tabel; .*published.table",
    ),
    "published cell": (
        {"published": {"table": "table4_components", "rows": {"IFCC": "IFC"}}},
        "published.rows: there is no cell 'IFCC'; the nearest is IFC",
    ),
    "row": (
        {"published": {"table": "table4_components", "rows": {"IFC": "IF"}}},
        "published.rows of table4_components: there is no row 'IF'; the nearest is IFC",
    ),
    "like nothing": (
        {"like": "askd.yaml"},
        r"asked.yaml: like: .*askd\.yaml: no such study file; ",
    ),
    "like itself": (
        {"like": "asked.yaml"},
        "inherits from itself through `like` .asked.yaml -> asked.yaml.; remove one",
    ),
    "like elsewhere": (
        {"like": "../a.yaml"},
        "like is '../a.yaml', expected the name of a file in",
    ),
    "like several": ({"like": ["a.yaml"]}, r"like is \['a.yaml'\], expected the name of a file in"),
    "include with more": (
        {"include": ["a.yaml"], "seeds": [1]},
        "`include` cannot be combined with `seeds`",
    ),
    "include of none": ({"include": []}, "`include` lists no study file; write at least one"),
    "included file": ({"include": ["askd.yaml"]}, "no such study file; the nearest there is asked"),
    "include of itself": ({"include": ["asked.yaml"]}, "includes itself .asked.yaml -> asked.yaml"),
}


@pytest.mark.parametrize("fields, message", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_with_the_way_out(
    fields: dict[str, Any], message: str, demo_root: Path, tmp_path: Path
) -> None:
    path = write(tmp_path, **fields)
    with pytest.raises(InputError, match=message) as error:
        expanded(path, demo_root)
    said = str(error.value)
    assert str(tmp_path) in said and "\n" not in said


@pytest.mark.parametrize(
    "text, message",
    [
        ("cells: {a: {only: none}", "is not a readable YAML file .*; fix it"),
        ("- a\n- b\n", "holds list, expected fields such as `preset:`"),
        ("", "holds no fields; a study has at least `cells:`"),
        ("cells:\n  a: {only: none}\n  a: {only: IFC}\n", "'a' occurs twice from line 2"),
        ("preset: dmo\ncells: {a: {}}\n", "preset: there is no preset 'dmo'; the nearest is demo"),
        ("cells: {? [x] : {}}\n", "is not a readable YAML file"),
        ("cells: {off: {only: none}}\n", "reads the name False as bool; write it in quotes"),
        ("cells: {0.1: }\n", "cell '0.1' is None, expected parameters such as"),
        ("cells: {a: {}}\n7: x\n", "reads the name 7 as int; write it in quotes"),
    ],
)
def test_a_broken_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read_studies(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_study_included_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "one")
    path = write(tmp_path, "all", include=["one.yaml", "one.yaml"])
    with pytest.raises(InputError, match="includes a study called one twice; remove or rename one"):
        read_studies(path)


def test_data_that_are_not_there_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; give the folder"):
        expanded(write(tmp_path), tmp_path / "nowhere")


def test_a_run_notebook_needs_what_every_run_is_given(tmp_path: Path) -> None:
    write_notebook(tmp_path / "own.ipynb", 'category: str = ""  # a\nout: str = ""  # b')
    with pytest.raises(InputError, match=r"own\.ipynb has no parameter `seed`, .*; add it"):
        read_studies(write(tmp_path, run="own.ipynb"))
    write_notebook(tmp_path / "own.ipynb", "seed: int = 0  # b")
    with pytest.raises(InputError, match=r"own\.ipynb has no parameter `category`, .*; add it"):
        read_studies(write(tmp_path, run="own.ipynb"))


def test_a_notebook_without_numbers_has_no_page_over_them_and_no_seeds(
    demo_root: Path, tmp_path: Path
) -> None:
    write_notebook(tmp_path / "own.ipynb", 'category: str = ""  # a')
    about = {"run": "own.ipynb", "cells": {"all": {}}, "seeds": [3, 4]}
    with pytest.raises(InputError, match=r"own has no parameter `out` .*; remove `page`"):
        read_studies(write(tmp_path, **about, page="04_components"))
    choices = Choices(fields={"data.root": str(demo_root)})
    (study,) = read_studies(write(tmp_path, **about), choices)
    assert not study.has_numbers and {run.seed for run in runs_of(study)} == {3}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_of_the_project_can_be_run(path: Path, demo_root: Path) -> None:
    choices = Choices(categories=("seal",), fields={"data.root": str(demo_root)})
    for study in read_studies(path, choices):
        assert study.title.endswith("?")
        assert {study.notebook.stem, study.page} - {""} <= set(notebook_names())
        settings = settings_of(study)
        assert len(settings) == len(study.cells) * len(study.points)
        assert {setting.config.data.root for setting in settings} == {str(demo_root)}
        assert set(study.published.rows) <= set(study.cells)


BESIDE = {"methods", "methods_more", "crossmodal", "efficiency", "precision", "recipe", "bank"}
"""Studies of other questions than those of LSFA's paper."""
IN_DEPTH = {"in_depth", "components_in_depth", "selection"}
"""What docs/components.md is written from."""
VALIDITY = {"validity", "validity_demo1", "validity_demo2", "validity_real"}
"""Generated data against real photographs."""


def test_the_paper_is_every_study_of_ours() -> None:
    included = Counter(study.name for study in read_studies(ROOT / "studies" / "paper.yaml"))
    assert included == Counter(
        p.stem for p in STUDIES if p.stem not in {"paper", *BESIDE, *IN_DEPTH, *VALIDITY}
    )
