"""What the notebooks of studies show is what the tables hold."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_case import LSFA
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from study_case import LIFT, SEEDS, write_results

from lsfa_lib.config import with_losses
from lsfa_lib.evaluation.bootstrap import verdict
from lsfa_lib.storage.files import InputError
from lsfa_lib.studies import by_defect, sensitivity, study_figures, study_report, study_table
from lsfa_lib.studies.document import write_document
from lsfa_lib.studies.published import published_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("reports") / "studies" / "parts-demo")


def read(folder: Path) -> tuple[study_table.StudyRuns, pd.DataFrame]:
    study = study_table.load(folder)
    return study, study_table.table(study)


def cells_of(html: str) -> pd.DataFrame:
    (frame,) = pd.read_html(html, index_col=0)
    return frame


def test_comparison_holds_values_differences_and_the_papers(folder: Path) -> None:
    study, lines = read(folder)
    shown = study_report.comparison(study, lines)
    frame, line = shown.data, lines[(lines["row"] == "IFC") & (lines["mode"] == "rgb+3d")].iloc[0]
    assert list(frame.index) == list(LIFT)
    assert frame.loc["IFC", "I-AUROC"].startswith(f"{line['i_auroc']:.3f} [")
    assert frame.loc["IFC", "Δ I-AUROC"].startswith(f"{line['d_i_auroc']:+.3f} [")
    assert frame.loc["none", "Δ I-AUROC"] == "–"
    assert list(frame["I-AUROC, paper"]) == ["0.929", "–", "–", "0.971"]
    html = shown.to_html()
    assert "2 categories and 2 seeds" in html and "Δ: difference from “none”" in html
    # The paper is about RGB + 3D: other modes have no such column.
    assert "I-AUROC, paper" not in study_report.comparison(study, lines, "3d").data


def group_area(study: study_table.StudyRuns, cell: str, chosen: list[int]) -> float:
    """Mean over runs of the AUROC of these defective scans against all good ones, by sklearn."""
    areas = []
    for result in study.of_cell(cell):
        scans = [s for i, s in enumerate(result["scans"]) if not s["defective"] or i in chosen]
        scores = [s["scores"]["rgb+3d"] for s in scans]
        areas.append(roc_auc_score([s["defective"] for s in scans], scores))
    return float(np.mean(areas))


def test_defects_are_grouped_by_kind_and_by_thirds_of_their_area(folder: Path) -> None:
    study, _ = read(folder)
    kinds, sizes = by_defect.kind_table(study).data, by_defect.size_table(study).data
    for cell in LIFT:
        for name, start in (("dent", 11), ("stain", 10)):
            expected = group_area(study, cell, list(range(start, 24, 2)))
            assert kinds.loc[cell, name] == pytest.approx(expected)
        # 14 defective scans, the area grows with their place: 5, 5 and 4 of them.
        for name, start, end in (("small", 10, 15), ("medium", 15, 20), ("large", 20, 24)):
            expected = group_area(study, cell, list(range(start, end)))
            assert sizes.loc[cell, name] == pytest.approx(expected)
    least = (kinds.loc["CLC", ["dent", "stain"]] - kinds.loc["none", ["dent", "stain"]]).min()
    assert kinds.loc["CLC", "least gain"] == pytest.approx(least)
    assert np.isnan(kinds.loc["none", "least gain"])
    assert list(sizes) == ["small", "medium", "large", "least gain"]


def test_cells_are_compared_over_the_runs_that_all_have_finished(tmp_path: Path) -> None:
    failed = (("CLC", "ring", SEEDS[0]),)
    study, _ = read(write_results(tmp_path / "studies" / "parts-demo", LIFT, failed))
    kinds = by_defect.kind_table(study).data
    for cell in LIFT:
        own = {k: r for k, r in study.results.items() if k[1:3] != failed[0][1:]}
        expected = group_area(replace(study, results=own), cell, list(range(11, 24, 2)))
        assert kinds.loc[cell, "dent"] == pytest.approx(expected)


def test_a_cell_with_further_evidence_has_a_row_for_all_of_it(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "studies" / "parts-demo", disagreeing=("IFC",))
    study, _ = read(folder)
    kinds = by_defect.kind_table(study).data
    assert list(kinds.index) == [*LIFT, "IFC, all three"]
    alone = by_defect.by_group(
        study, "rgb+3d+disagreement", lambda r: {s["name"]: s["kind"] for s in r["scans"]}
    )
    assert kinds.loc["IFC, all three", "dent"] == pytest.approx(alone.loc["IFC", "dent"])


def test_results_without_areas_have_no_table_by_size(folder: Path) -> None:
    study, _ = read(folder)
    for result in study.results.values():
        for scan in result["scans"]:
            del scan["defect_percent"]
    assert by_defect.size_table(study).data.empty


def test_answer_says_what_is_confirmed_what_is_not_and_what_the_paper_reports(folder: Path) -> None:
    study, lines = read(folder)
    text = study_report.answer(study, lines)
    assert text.startswith("**1 of 3 variants beats “none” in RGB + 3D; largest gain: IFC +")
    assert "- **IFC**: confirmed. I-AUROC +" in text
    assert "- **both**: not confirmed." in text
    assert "; the paper reports +0.042." in text and text.count("the paper reports") == 1
    assert "- **CLC**: worse." in text
    assert "runs failed" not in text and "One seed" not in text


def test_answer_says_what_failed_and_that_one_seed_is_one(tmp_path: Path) -> None:
    lost = (("IFC", "ring", 0),)
    folder = write_results(tmp_path / "studies" / "parts-demo", failed=lost, seeds=(0,))
    text = study_report.answer(*read(folder))
    assert "1 of 8 runs failed (IFC)" in text
    assert "One seed: intervals cover the choice of test scans only" in text


def test_names_of_cells_and_categories_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = write_results(tmp_path / "studies" / "x-demo", {"none": 0.0, evil: 2.0})
    study, lines = read(folder)
    shown = [
        study_report.answer(study, lines),
        study_report.comparison(study, lines).to_html(),
        study_report.category_table(study, "i_auroc", "3d").to_html(),
        study_report.cost_table(study).to_html(),
    ]
    for text in shown:
        assert "<script>" not in text and "&lt;script&gt;" in text


def test_gains_figure_draws_the_differences(folder: Path) -> None:
    study, lines = read(folder)
    figure = study_figures.gains_figure(study, lines)
    drawn = sorted(x for trace in figure.data for x in trace.x)
    patchcore = lines[lines["row"] != "none"]
    assert drawn == pytest.approx(sorted(patchcore["d_i_auroc"]))
    assert "none" in figure.layout.xaxis.title.text
    confirmed = sum(verdict(line) == "confirmed" for _, line in patchcore.iterrows())
    assert (
        figure.layout.title.text == f"{confirmed} of 9 changes improve I-AUROC" and confirmed == 3
    )


def test_category_table_has_every_cell_and_every_published_method(folder: Path) -> None:
    study, lines = read(folder)
    frame = study_report.category_table(study, "i_auroc", "rgb+3d").data
    rows = published_file("lsfa_mvtec3d_per_category")
    methods = [r for r in rows if (r["metric"], r["modality"]) == ("i_auroc", "rgb+3d")]
    assert len(frame) == len(LIFT) + len(methods) and len(methods) == 12
    own = frame.loc["IFC (this run)"]
    values = [study.results["IFC", "cap", s, 0]["modes"]["rgb+3d"]["i_auroc"] for s in SEEDS]
    assert own["cap"] == pytest.approx(sum(values) / 2)
    line = lines[(lines["row"] == "IFC") & (lines["mode"] == "rgb+3d")].iloc[0]
    assert own["mean"] == pytest.approx(line["i_auroc"])
    assert frame.loc["LSFA", "mean, published"] == 0.971
    assert pd.isna(frame.loc["LSFA", "cap"])


def test_a_category_of_the_papers_stands_beside_theirs(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "studies" / "mvtec-ours", categories=("bagel", "tire"))
    frame = study_report.category_table(read(folder)[0], "aupro_30", "3d").data
    assert (frame.loc["LSFA", "bagel"], frame.loc["LSFA", "tire"]) == (0.974, 0.981)


def test_costs_are_means_over_runs(folder: Path) -> None:
    frame = study_report.cost_table(read(folder)[0]).data
    assert frame.loc["IFC"].to_dict() == {
        "train, s": 2.0,
        "fit banks, s": 1.0,
        "predict, s": 4.0,
        "memory bank, patches": "100",
        "peak memory, MB": "700",
    }


def test_sensitivity_draws_the_one_number_that_was_changed(tmp_path: Path) -> None:
    configs = {
        "none": LSFA,
        "IFC": replace(LSFA, training=replace(LSFA.training, temperature=0.03)),
        "CLC": replace(LSFA, training=replace(LSFA.training, temperature=0.3)),
        "both": replace(LSFA, training=replace(LSFA.training, instances=4)),
    }
    study, lines = read(write_results(tmp_path / "studies" / "s-demo", configs=configs))
    fields = sensitivity.changed_fields(study)
    assert fields == {
        "training.temperature": {"none": 0.1, "IFC": 0.03, "CLC": 0.3},
        "training.instances": {"none": 1.0, "both": 4.0},
    }
    figure = sensitivity.sensitivity_figure(study, lines)
    temperature, instances = figure.data
    assert list(temperature.x) == [0.03, 0.1, 0.3] and list(instances.x) == [1.0, 4.0]
    by_cell = lines[lines["mode"] == "rgb+3d"].set_index("row")["i_auroc"]
    assert list(temperature.y) == pytest.approx([by_cell[c] for c in ("IFC", "none", "CLC")])
    most = by_cell[["IFC", "none", "CLC"]]
    moved = most.max() - most.min()
    assert figure.layout.title.text == (
        f"Largest effect: training.temperature changes I-AUROC by {moved:.3f}"
    )
    # Two numbers changed at once, or a loss left out, are not a sensitivity.
    study, lines = read(
        write_results(tmp_path / "studies" / "t-demo", configs={"IFC": with_losses(LSFA, "IFC")})
    )
    assert sensitivity.changed_fields(study) == {}


def test_shots_are_drawn_over_their_number(tmp_path: Path) -> None:
    lift = {"all": 1.0, "5 shots": -0.5, "all, unadapted": 0.8, "5 shots, unadapted": 0.0}
    configs = {
        name: replace(
            with_losses(LSFA, "none" if "unadapted" in name else "both"),
            shots=5 if name.startswith("5") else 0,
        )
        for name in lift
    }
    study, lines = read(write_results(tmp_path / "studies" / "shots-demo", lift, configs=configs))
    figure = study_figures.shots_figure(study, lines)
    by_cell = lines[lines["mode"] == "rgb+3d"].set_index("row")["i_auroc"]
    adapted, unadapted = figure.data
    assert (adapted.name, list(adapted.x)) == ("adapted", [5, 32])
    assert list(adapted.y) == pytest.approx([by_cell["5 shots"], by_cell["all"]])
    assert list(unadapted.y) == pytest.approx(
        [by_cell["5 shots, unadapted"], by_cell["all, unadapted"]]
    )
    best = max(by_cell["5 shots"], by_cell["5 shots, unadapted"])
    assert figure.layout.title.text.startswith(f"I-AUROC with 5 scans: {best:.3f}, all 32: ")


def test_differences_list_the_fields_that_differ(tmp_path: Path) -> None:
    configs = {"IFC": with_losses(LSFA, "IFC"), "CLC": LSFA, "both": LSFA}
    study, _ = read(write_results(tmp_path / "studies" / "d-demo", configs=configs))
    frame = study_report.differences(study).data
    assert set(frame.index) == {"training.weights.la", "training.weights.ga"}
    assert list(frame.loc["training.weights.la"]) == ["0.6", "0", "0.6", "0.6"]


def test_frontier_lists_what_was_collected() -> None:
    rows = [r for r in published_file("frontier") if r["dataset"] == "mvtec3d"]
    frame = study_report.frontier_table("mvtec3d").data
    assert len(frame) == len(rows)
    assert frame.loc["LSFA", "I-AUROC"] == "0.971"
    assert frame.loc["LSFA", "provenance"] == "primary"


def test_gains_without_intervals_are_drawn_and_not_called_confirmed(tmp_path: Path) -> None:
    study, lines = read(write_results(tmp_path / "studies" / "one-demo", seeds=(0,)))
    figure = study_figures.gains_figure(study, lines, "aupro_30")
    (trace,) = figure.data
    assert trace.name == "one seed, no interval" and len(trace.x) == 9
    assert figure.layout.title.text == "Largest difference in AUPRO 30 %: +0.200, IFC, 3D"


def test_selection_orders_cells_by_pseudo_defects(tmp_path: Path) -> None:
    configs = dict.fromkeys(LIFT, replace(LSFA, pseudo_defects=True))
    folder = tmp_path / "studies" / "selection-demo"
    study, lines = read(write_results(folder, configs=configs, disagreeing=("IFC",)))
    found, correlation = study_figures.selection_cells(lines)
    assert found["configuration"].is_unique and set(found["configuration"]) == set(LIFT)
    assert list(found["selection"]) == sorted(found["selection"], reverse=True)
    of_three = lines[(lines["row"] == "IFC") & (lines["mode"] == "rgb+3d+disagreement")].iloc[0]
    row = found.set_index("configuration").loc["IFC"]
    assert row["selection"] == of_three["selection"]
    assert row["test"] == pytest.approx((of_three["i_auroc"] + of_three["aupro_30"]) / 2)
    expected = spearmanr(found["selection"], found["test"]).statistic
    assert correlation == pytest.approx(expected)
    figure = study_figures.selection_figure(lines)
    assert figure.layout.title.text == f"Rank correlation {correlation:.2f} over 4 configurations"
    assert "selection" in study_report.comparison(study, lines).data
    text = write_document([folder_with_tables(folder)], tmp_path / "a.md").read_text("utf-8")
    assert f"rank correlation over 4 configurations: {correlation:.2f}." in text


def folder_with_tables(folder: Path) -> Path:
    study_table.write_tables(folder)
    return folder


def test_studies_become_a_document(tmp_path: Path) -> None:
    lift = {"none": 0.0, "control": 0.0, "IFC": 2.0, "both": 0.02}
    folder = tmp_path / "studies" / "parts-demo"
    how = {"seeds": (0, 1, 2), "points": 2, "disagreeing": ("both",)}
    write_results(folder, lift, about={"control": "control"}, **how)
    study, lines = read(folder_with_tables(folder))
    path = write_document([folder, tmp_path / "absent"], tmp_path / "components.md")
    text = path.read_text("utf-8")
    value = lines.query("row == 'IFC' and mode == 'rgb+3d'")["i_auroc"].item()
    assert f"{value:.3f} [" in text and study_report.answer(study, lines) in text
    assert (
        "3 training seeds x 2 coreset seeds. Test scans: cap 10 good + 14 defective, ring" in text
    )
    assert "Δ I-AUROC to control" in text and "Rank correlation" not in text
    reference = lines[lines["row"] == "none"].set_index("mode")["aupro_30"]["3d"]
    assert "parts, 224 px: none" in text and f"{reference:.3f}" in text
    shown = study_report.comparison(study, lines, "rgb+3d+disagreement").to_html()
    assert "2 points of the grid" in shown and "Δ: difference from “none” in RGB + 3D" in shown
    with pytest.raises(InputError, match="no study has a table to write"):
        write_document([tmp_path / "absent"], path)
    failed = tuple((cell, "ring", seed) for cell in lift for seed in (0, 1, 2))
    folder = write_results(tmp_path / "studies" / "part-demo", lift, failed, seeds=(0, 1, 2))
    text = write_document([folder_with_tables(folder)], path).read_text("utf-8")
    assert "Test scans: cap 10 good + 14 defective.\n" in text
    assert "nan" not in text.partition("## The references")[2]


def test_timed_cells_have_their_costs_in_the_document(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "studies" / "parts-demo")
    for i, path in enumerate(sorted(tmp_path.rglob("result.json"))):
        result = json.loads(path.read_text())
        result["seconds"] |= {"fit": 2.0, "train adaptors": 3.0, "fit banks": 4.0}
        seconds = {"read": 0.01, "prepare": 0.02, "features rgb": 0.1, "detect": 0.2}
        if i:
            result["cost"] = {"seconds": seconds, "memory_mb": 300.0}
        path.write_text(json.dumps(result))
    text = write_document([folder_with_tables(folder)], tmp_path / "a.md").read_text("utf-8")
    _, costs = text.split("medians over the timed runs.\n\n")
    header, _, *rows = [line.split() for line in costs.split("\n\n")[0].splitlines()]
    assert " ".join(header) == "| | learn, s | load, ms | features, ms | detect, ms | MB |"
    for row, cell in zip(rows, LIFT, strict=True):
        assert row[1::2] == [cell, "9.0", "30.0", "100.0", "200.0", "300.0"]


def panel(*means: tuple[float, float, float]) -> pd.DataFrame:
    """Lines with a mean and its interval each."""
    return pd.DataFrame(means, columns=["aupro_30", "aupro_30_low", "aupro_30_high"])


def test_the_scale_of_panels_has_room_for_intervals_and_is_not_too_fine() -> None:
    nan = np.nan
    low, high = sensitivity.common_range(panel((0.879, nan, nan), (0.88, nan, nan)), "aupro_30")
    np.testing.assert_allclose([high - low, (low + high) / 2], [sensitivity.FINEST, 0.8795])
    lines = panel((0.9, 0.8, 0.95), (0.7, nan, nan), (nan, nan, nan))
    low, high = sensitivity.common_range(lines, "aupro_30")
    np.testing.assert_allclose([low, high], [0.7 - 0.015, 0.95 + 0.015])
    assert sensitivity.common_range(panel((nan, nan, nan)), "aupro_30") is None
    assert sensitivity.common_range(panel(), "aupro_30") is None
