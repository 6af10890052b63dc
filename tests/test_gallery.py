"""The gallery shows what is finished, says what to do about the rest, averages what is alike."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from report_case import LSFA, MODES, Case, Reader, write_run, write_study

from lsfa_lib.config import Config, DataConfig, with_losses
from lsfa_lib.pages import gallery, gallery_data
from lsfa_lib.pages.gallery_means import blocks
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import as_json, write_result

EVIL = "</script><script>alert(1)</script>\"'&amp;"


@pytest.fixture
def reports(built: Path, tmp_path: Path) -> Path:
    """A study and a run of its own, before their pages were written."""
    pages = shutil.ignore_patterns("*.html", "thumbnail.png")
    return Path(shutil.copytree(built, tmp_path / "reports", ignore=pages))


def index(reports: Path) -> str:
    return gallery.write_index(reports).read_text(encoding="utf-8")


def not_shown(page: str) -> list[str]:
    """The sentences below `Not shown`."""
    return [part.partition("</li>")[0] for part in page.partition("Not shown")[2].split("<li>")[1:]]


def test_every_run_has_a_card_with_its_numbers_and_links(reports: Path, case: Case) -> None:
    reader = Reader(index(reports))
    (data,) = reader.specs
    places = [run["place"] for run in data["runs"]]
    assert places == [
        "runs/quickstart/cookie-demo-s0",
        "runs/sweep/cookie-demo-IFC-s0-comp0000",
        "runs/sweep/cookie-demo-baseline-s0-comp0000",
        "runs/sweep/zipper-demo-baseline-s0-comp0000",
    ]
    modes = case.result["modes"]
    for mode in MODES:
        keys = ("i_auroc", "aupro_30", "aupro_05", "p_auroc")
        expected = [modes[mode][key] for key in keys] + list(modes[mode]["i_auroc_interval"])
        assert data["runs"][0]["values"][mode] == expected
    for place in places:
        assert f"{place}/notebook.ipynb" in reader.links and f"{place}/result.json" in reader.links
        # Pages and pictures that were not written are not linked.
        assert f"{place}/report.html" not in reader.links
    assert f"cookie {modes['rgb+3d']['i_auroc']:.3f} I-AUROC, RGB + 3D" in reader.words
    assert "4 finished runs and 1 study" in reader.words


def test_a_card_has_the_number_of_the_report(case: Case, tmp_path: Path) -> None:
    result = copy.deepcopy(case.result)
    result["modes"]["rgb+3d"]["i_auroc"] = 0.76852  # 0.7685 in four digits, and 0.768 of those
    write_result(result, tmp_path / "runs" / "quickstart" / "cookie-demo-s0")
    words = Reader(index(tmp_path)).words
    assert "cookie 0.769 I-AUROC, RGB + 3D" in words


def test_a_run_without_its_page_says_so(reports: Path) -> None:
    said = "The report is not written yet."
    assert index(reports).count(said) == 4
    (reports / "runs/quickstart/cookie-demo-s0/report.html").touch()
    assert index(reports).count(said) == 3


def test_settings_are_kept_where_runs_differ(reports: Path) -> None:
    (data,) = Reader(index(reports)).specs
    assert data["settings"] == ["category", "shots"]
    assert [run["settings"] for run in data["runs"]] == [
        ["cookie", "0"],
        ["cookie", "3"],
        ["cookie", "0"],
        ["zipper", "0"],
    ]
    assert [run["studies"] for run in data["runs"]] == [[], *[["components-demo"]] * 3]


def test_a_study_has_an_entry_with_finding_counts_and_links(reports: Path) -> None:
    reader = Reader(index(reports))
    assert (
        "What does IFC bring & is it <sure>? IFC +0.010 I-AUROC against baseline 4 runs · 1 failed "
        "· 2 categories · 1 seed · demo preset · 23 Nov 2026"
    ) in reader.words
    assert "studies/components-demo/table.csv" in reader.links
    assert "studies/components-demo/report.html" not in reader.links
    (reports / "studies/components-demo/report.html").write_text("<title>x</title>")
    assert "studies/components-demo/report.html#runs" in Reader(index(reports)).links


def test_other_pages_are_linked_by_their_title(reports: Path) -> None:
    (reports / "deep study").mkdir()
    page = "<!DOCTYPE html><head><title>How deep &amp; why?</title>"
    (reports / "deep study" / "report.html").write_text(page, encoding="utf-8")
    reader = Reader(index(reports))
    assert "How deep & why?" in reader.words
    assert "deep%20study/report.html" in reader.links


def test_pages_of_one_title_share_a_card(reports: Path) -> None:
    for name, title in (("a", "What? (seal)"), ("b", "What? (gear)"), ("c", "Why?")):
        (reports / name).mkdir()
        (reports / name / "report.html").write_text(f"<title>{title}</title>", encoding="utf-8")
    page = gallery.write_index(reports).read_text(encoding="utf-8")
    assert '<h3><a href="a/report.html">What?</a></h3>' in page
    assert '<a href="a/report.html">seal</a> · <a href="b/report.html">gear</a>' in page
    assert '<h3><a href="c/report.html">Why?</a></h3><p class="links"><a href="c/rep' in page


def test_unfinished_and_damaged_runs_are_listed_with_what_to_do(case: Case, tmp_path: Path) -> None:
    runs = tmp_path / "runs" / "quickstart"
    write_run(runs / "cookie-demo-s0", case, scans=1)
    for name, text in {
        "cut-short": '{"schema": 1, "cat',
        "older": '{"schema": 0}',
        "list": "[]",
        "lacking": '{"schema": 1, "category": "x"}',
        "odd": '{"schema": 1, "category": "x", "modes": [], "config": {}, "preset": "p"}',
    }.items():
        (runs / name).mkdir(parents=True)
        (runs / name / "result.json").write_text(text, encoding="utf-8")
    (runs / "unfinished").mkdir()
    (runs / "failed").mkdir()
    (runs / "failed" / "notebook-failed.ipynb").write_text("{}", encoding="utf-8")
    swept = tmp_path / "runs" / "sweep" / "half"
    write_run(swept, case, scans=1)
    page = index(tmp_path)
    cards = page.partition("Not shown")[0]
    problems = not_shown(page)
    assert cards.count('<li class="card"') == 1
    for name in ("cut-short", "older", "list", "lacking", "odd", "unfinished", "failed"):
        assert f"quickstart/{name}" not in cards
        assert sum(f"quickstart/{name}" in problem for problem in problems) == 1
    assert "sweep/half: unfinished, run.json is missing; start the sweep again" in problems
    assert "quickstart/unfinished: unfinished, result.json is missing; run it again" in problems
    assert len(problems) == 8
    assert all("again" in problem for problem in problems)
    assert str(tmp_path) not in page


def test_a_failed_run_says_the_last_line_of_its_traceback(reports: Path) -> None:
    (problem,) = not_shown(index(reports))
    assert problem == (
        "sweep/zipper-demo-IFC-s0-comp0000: its last attempt failed with "
        "lsfa_lib.storage.files.InputError: …/007.png is missing; add it; fix that and start "
        "the sweep again"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "studies/components-demo: unfinished, study.json is missing; start the sweep again"),
        ("{", "studies/components-demo/study.json is damaged; start the sweep of that study again"),
        ("[]", "studies/components-demo/study.json is damaged"),
        ('{"schema": 1, "title": "x"}', "studies/components-demo/study.json is damaged"),
        (
            '{"schema": 0}',
            "studies/components-demo/study.json has schema 0, this version reads 1; sweep",
        ),
    ],
)
def test_a_study_that_cannot_be_read_leaves_the_others_unharmed(
    reports: Path, case: Case, text: str | None, said: str
) -> None:
    write_study(reports, case, "other", finding="Still here")
    path = reports / "studies" / "components-demo" / "study.json"
    path.unlink()
    if text is not None:
        path.write_text(text, encoding="utf-8")
    page = index(reports)
    assert [problem for problem in not_shown(page) if problem.startswith(said)]
    assert "Still here" in page and page.count('<li class="card"') == 7


def test_a_study_whose_page_failed_is_listed_and_keeps_its_entry(reports: Path) -> None:
    (reports / "studies/components-demo/notebook-failed.ipynb").write_text("{}", encoding="utf-8")
    page = index(reports)
    assert "studies/components-demo: its page failed (see notebook-failed.ipynb)" in page
    assert "IFC +0.010 I-AUROC against baseline" in Reader(page).words


def test_an_empty_folder_says_how_to_make_a_run(tmp_path: Path) -> None:
    page = index(tmp_path)
    assert "lsfa run all" in page and "Not shown" not in page


def test_hostile_names_stay_text(case: Case, tmp_path: Path) -> None:
    config = as_json(replace(LSFA, data=DataConfig(EVIL)))
    result = copy.deepcopy(case.result) | {"category": EVIL, "preset": EVIL, "config": config}
    write_run(tmp_path / "runs" / "quick<b>" / 'a"b#c', Case(result, [], {}), scans=0)
    (tmp_path / "runs" / "quick<b>" / EVIL.replace("/", "_")).mkdir()
    folder = write_study(tmp_path, case, finding=EVIL, title=EVIL)
    about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    about["cells"] = {EVIL: {}}
    folder = folder.rename(folder.with_name("x'\"<script>y"))
    (folder / "study.json").write_text(json.dumps(about), encoding="utf-8")
    page = index(tmp_path)
    assert "<script>alert" not in page and "quick<b>" not in page and "<script>y" not in page
    reader = Reader(page)
    assert reader.words.count(EVIL) >= 4
    assert "runs/quick%3Cb%3E/a%22b%23c/result.json" in reader.links
    assert any(run["category"] == EVIL for run in reader.specs[0]["runs"])


def test_three_hundred_runs_stay_light(case: Case, tmp_path: Path) -> None:
    for i in range(300):
        config = replace(LSFA, bank=replace(LSFA.bank, keep_ratio=0.01 * (1 + i % 30)), shots=i % 7)
        result = case.result | {"category": f"category {i % 10}", "config": as_json(config)}
        folder = tmp_path / "runs" / "sweep" / f"category_{i % 10}-demo-{i}-s0-0123abcd"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        for name in ("run.json", "thumbnail.png", "report.html", "notebook.ipynb"):
            (folder / name).touch()
    path = gallery.write_index(tmp_path)
    assert path.read_text(encoding="utf-8").count('<li class="card"') == 300
    assert path.stat().st_size < 1.2e6


def entry(case: Case, config: Config = LSFA, category: str = "a", **changes) -> object:
    values = {"preset": config.preset, "config": as_json(config), "category": category} | changes
    return gallery_data.RunEntry("runs/x/y", copy.deepcopy(case.result) | values)


def test_means_take_seeds_first_and_then_categories(case: Case) -> None:
    entries = [entry(case, LSFA, c, seed=s) for c, s in (("a", 0), ("a", 1), ("b", 0))]
    for run, value in zip(entries, (0.6, 0.8, 1.0), strict=True):
        run.result["modes"]["3d"]["i_auroc"] = value
    (block,) = blocks(entries)
    (row,) = block.rows
    assert (row.name, row.runs, block.categories) == (
        "demo, 224 px, image 672 px, IFC + CLC",
        3,
        ("a", "b"),
    )
    assert list(row.means) == ["i_auroc", "aupro_30", "aupro_05", "p_auroc"]
    # (mean(0.6, 0.8) + 1.0) / 2, not the mean of three runs.
    assert block.cells(row, "i_auroc")[0][0] == "0.850"
    strict = case.result["modes"]["rgb+3d+disagreement"]["aupro_05"]
    assert block.cells(row, "aupro_05")[4][0] == f"{strict:.3f}"
    entries[2].result["modes"]["3d"]["i_auroc"] = None
    (block,) = blocks(entries)
    assert block.cells(block.rows[0], "i_auroc")[0] == ("–", False)


def test_the_best_mean_is_marked_among_runs_of_the_same_categories(case: Case) -> None:
    shots = [replace(LSFA, shots=n) for n in (0, 5, 10)]
    entries = [entry(case, shots[0]), entry(case, shots[1]), entry(case, shots[2], "b")]
    for run, value in zip(entries, (0.71, 0.7132, 0.99), strict=True):
        for mode in run.result["modes"].values():
            mode["p_auroc"] = 0.5
        run.result["modes"]["rgb"]["p_auroc"] = value
    marked = {
        (block.categories, row.name): [best for _, best in block.cells(row, "p_auroc")]
        for block in blocks(entries)
        for row in block.rows
    }
    assert marked == {
        (("a",), "demo, 224 px, image 672 px, IFC + CLC"): [False] * 5,
        (("a",), "demo, 224 px, image 672 px, IFC + CLC, 5 shots"): [
            False,
            True,
            False,
            False,
            False,
        ],
        (("b",), "demo, 224 px, image 672 px, IFC + CLC, 10 shots"): [
            False,
            True,
            False,
            False,
            False,
        ],
    }


def test_runs_of_other_losses_shots_or_fields_are_never_averaged(case: Case) -> None:
    other = replace(LSFA, bank=replace(LSFA.bank, keep_ratio=0.2))
    entries = [
        entry(case, LSFA),
        entry(case, replace(LSFA, device="cpu", cache="", data=DataConfig("/elsewhere"))),
        entry(case, with_losses(LSFA, "IFC")),
        entry(case, replace(LSFA, shots=10)),
        entry(case, other),
        entry(case, replace(LSFA, preset="mine")),
        entry(case, replace(other, preset="mine")),
    ]
    (block,) = blocks(entries)
    rows = {row.name: row.runs for row in block.rows}
    mine = sorted(key for key in rows if key.startswith("mine"))
    assert {key: runs for key, runs in rows.items() if key not in mine} == {
        "demo, 224 px, image 672 px, IFC + CLC": 2,
        "demo, 224 px, image 672 px, only IFC": 1,
        "demo, 224 px, image 672 px, IFC + CLC, 10 shots": 1,
        "demo, 224 px, image 672 px, IFC + CLC, bank.keep_ratio 0.2": 1,
    }
    # One name was given to two configs: their hashes tell them apart.
    assert len(mine) == 2 and all(
        len(key) == len("mine, 224 px, image 672 px, IFC + CLC (012345)") for key in mine
    )


def test_modes_that_a_run_lacks_are_dashes(case: Case) -> None:
    plain = entry(case, with_losses(LSFA, "none"))
    for mode in MODES[3:]:
        del plain.result["modes"][mode]
    (block,) = blocks([plain])
    assert list(block.rows[0].means.index) == list(MODES[:3])
    (block,) = blocks([plain, entry(case)])
    cells = {row.name: [text for text, _ in block.cells(row, "i_auroc")] for row in block.rows}
    assert cells["demo, 224 px, image 672 px"][3:] == ["–", "–"]
    assert "–" not in cells["demo, 224 px, image 672 px, IFC + CLC"]


def test_a_study_alone_keeps_its_runs_and_their_problems(reports: Path, case: Case) -> None:
    write_study(reports, case, "other")
    (reports / "runs" / "quickstart" / "broken").mkdir()
    contents = gallery_data.find_contents(reports)
    for name in ("components", "components-demo"):
        own = contents.of_study(name)
        assert [study.place for study in own.studies] == ["studies/components-demo"]
        assert {run.place.split("-")[-1] for run in own.runs} == {"comp0000"}
        assert len(own.runs) == 3
        assert [place for place, _ in own.problems] == ["runs/sweep/zipper-demo-IFC-s0-comp0000"]
    with pytest.raises(
        InputError, match="study 'x' does not exist; choose one of other-demo, components-demo"
    ):
        contents.of_study("x")
    empty = gallery_data.find_contents(reports / "nowhere")
    with pytest.raises(InputError, match="study 'x' does not exist; `lsfa sweep` makes"):
        empty.of_study("x")
