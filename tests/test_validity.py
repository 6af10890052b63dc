"""Generated data against real photographs: gains, rank correlation, and what is said of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import roc_auc_score
from study_case import DEFECTIVE, SEEDS, scores_of, write_results

from lsfa_lib.storage.files import InputError
from lsfa_lib.studies import validity, validity_report
from lsfa_lib.studies.validity import AREA, REAL, by_chance, correlation, reversed_pairs

DEMOS = {"demo 1": "validity_demo1", "demo 2": "validity_demo2"}
LIFTS = {
    "real": {"base": 0.0, "a": 0.8, "b": 0.5, "c": 0.2, "d": -0.4, "<e>": -0.8},
    "demo2": {"base": 0.0, "a": 1.0, "b": 0.6, "c": 0.3, "d": -0.3, "<e>": -0.9},
    "demo1": {"base": 0.0, "a": -0.6, "b": 0.9, "c": -0.2, "d": 0.5, "<e>": -0.7},
}
CATEGORIES = {"real": ("tire",), "demo2": ("cap", "ring"), "demo1": ("box", "rod")}


def write(reports: Path, name: str, **changes: object) -> Path:
    """A finished study of one data set."""
    about = {"name": f"validity_{name}", **changes.pop("about", {})}
    given = {"lift": LIFTS[name], "categories": CATEGORIES[name], **changes}
    return write_results(reports / "studies" / f"validity_{name}-tiny", about=about, **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of real photographs, those of both demos beside it."""
    reports = tmp_path_factory.mktemp("reports")
    return [write(reports, name) for name in ("demo1", "demo2", "real")][-1]


@pytest.fixture(scope="module")
def found(folder: Path) -> validity.Compared:
    return validity.load(folder, DEMOS)


def expected_gain(name: str, cell: str) -> float:
    """The I-AUROC gain by sklearn, in RGB."""

    def area(own: str) -> float:
        lift = LIFTS[name][own]
        return float(
            np.mean(
                [
                    roc_auc_score(DEFECTIVE, scores_of(category, own, seed, "rgb", lift))
                    for category in CATEGORIES[name]
                    for seed in SEEDS
                ]
            )
        )

    return area(cell) - area("base")


def test_gains_are_means_over_categories_and_seeds_in_rgb(found: validity.Compared) -> None:
    assert found.recipes == ["a", "b", "c", "d", "<e>"] and found.left_out == []
    assert found.real.data == REAL
    for name, each in zip(("real", "demo1", "demo2"), (found.real, *found.generated), strict=True):
        for cell in found.recipes:
            assert each.mean.loc[cell, AREA] == pytest.approx(expected_gain(name, cell))
            lift = LIFTS[name][cell]
            assert each.mean.loc[cell, "aupro_30"] == pytest.approx(0.1 * lift)
            assert each.mean.loc[cell, "aupro_01"] == pytest.approx(-0.01 * lift)


def test_the_correlation_is_that_of_scipy_and_lies_in_its_interval(
    found: validity.Compared,
) -> None:
    for each in found.generated:
        line = correlation(each, found.real)
        own, real = each.mean[AREA], found.real.mean[AREA]
        assert line[AREA] == pytest.approx(spearmanr(own, real).statistic)
        assert -1 <= line[f"{AREA}_low"] <= line[AREA] <= line[f"{AREA}_high"] <= 1
        few, real_few = (replace(g, drawn=g.drawn.head(100)) for g in (each, found.real))
        pairs = zip(few.drawn.to_numpy(), real_few.drawn.to_numpy(), strict=True)
        drawn = [spearmanr(*pair).statistic for pair in pairs]
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        shown = correlation(few, real_few)
        assert shown[f"{AREA}_low"] == pytest.approx(min(low, line[AREA]))
        assert shown[f"{AREA}_high"] == pytest.approx(max(high, line[AREA]))
        again = correlation(each, found.real, "aupro_30")
        lifts = [list(LIFTS[n].values())[1:] for n in (each.runs.about.name[9:], "real")]
        assert again == {"aupro_30": pytest.approx(spearmanr(*lifts).statistic)}
    assert correlation(found.generated[1], found.real, "aupro_30")["aupro_30"] == pytest.approx(1)


def test_resamples_are_paired_over_recipes_and_not_over_data(found: validity.Compared) -> None:
    real = found.real
    again = validity.gains(REAL, real.runs, 0)
    np.testing.assert_array_equal(again.drawn, real.drawn)
    # Paired: the difference of two recipes varies less than it would of independent resamples.
    a, b = real.drawn["a"], real.drawn["b"]
    assert (a - b).std() < np.hypot(a.std(), b.std())
    assert real.drawn.mean().to_numpy() == pytest.approx(real.mean[AREA].to_numpy(), abs=0.01)
    one, two = (each.drawn["a"] for each in found.generated)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.1


def test_reversed_pairs_are_those_of_kendall(found: validity.Compared) -> None:
    one, two = found.generated
    for each in (one, two):
        wrong = reversed_pairs(each, found.real)
        own, real = each.mean[AREA].to_numpy(), found.real.mean[AREA].to_numpy()
        count = sum((own[i] - own[j]) * (real[i] - real[j]) < 0 for i in range(5) for j in range(i))
        assert wrong.sum() == 2 * count
        if len(set(own)) == len(set(real)) == 5:
            assert kendalltau(own, real).statistic == pytest.approx((10 - 2 * count) / 10)
    assert reversed_pairs(two, found.real, "aupro_30").sum() == 0


def test_by_chance_is_what_random_orders_reach() -> None:
    rng = np.random.default_rng(0)
    drawn = [abs(spearmanr(range(10), rng.permutation(10)).statistic) for _ in range(4000)]
    assert by_chance(10) == pytest.approx(np.quantile(drawn, 0.95), abs=0.03)
    assert np.isnan(by_chance(2))


def test_the_answer_says_which_demo_to_trust_and_what_it_orders_wrongly(
    found: validity.Compared,
) -> None:
    text = validity_report.answer(found)
    one, _ = found.generated
    assert text.startswith(f"**demo 2 orders recipes most like {REAL}: rank correlation ")
    wrong = reversed_pairs(one, found.real)
    assert f"{10 - wrong.sum() // 2} of 10 pairs of recipes in the order of the real" in text
    assert f"of 4 pairs each: {wrong.nlargest(1).index[0]} ({wrong.max()})" in text
    own, real = (each.mean.loc["a", AREA] for each in (one, found.real))
    assert own < 0 < real and f"a ({own:+.3f} here, {real:+.3f} there)" in text
    assert "demo 1**" in text and "do not choose among recipes by it alone" in text
    assert f"5 recipes in random order correlate within ±{by_chance(5):.2f} in 19" in text
    assert "<e>" not in text


def test_tables_and_figure_hold_the_gains(found: validity.Compared) -> None:
    frame = validity_report.gains_table(found).data
    assert list(frame.index) == ["1. a", "2. b", "3. c", "4. d", "5. <e>"]
    assert len(frame.columns) == 9
    gain = found.real.mean.loc["a", AREA]
    assert frame.loc["1. a", f"Δ I-AUROC, {REAL}"].startswith(f"{gain:+.3f} [")
    assert frame.loc["1. a", "Δ AUPRO 1 %, demo 2"] == "-0.010"
    html = validity_report.gains_table(found).to_html()
    assert "<e>" not in html and "&lt;e&gt;" in html
    data = validity_report.data_table(found).data
    assert list(data["good test scans"]) == [10, 20, 20]
    assert list(data["defective"]) == [14, 28, 28]
    ranks = validity_report.correlation_table(found).data
    assert list(ranks.index) == list(DEMOS) and ranks.loc["demo 2", "AUPRO 30 %"] == "1.00"
    traces = [t for t in validity_report.gains_figure(found).data if t.mode == "markers+text"]
    assert [t.name for t in traces] == ["demo 1", "demo 2"] * 3
    np.testing.assert_array_equal(traces[1].x, found.generated[1].mean[AREA])
    np.testing.assert_array_equal(traces[1].y, found.real.mean[AREA])
    assert list(traces[1].text) == ["1", "2", "3", "4", "5"]


def test_what_was_not_swept_or_finished_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path, "real", failed=(("c", "tire", 1),))
    alone = validity.load(folder, DEMOS)
    assert alone.generated == [] and alone.recipes == ["a", "b", "d", "<e>"]
    text = validity_report.answer(alone)
    assert text.startswith("**No generated data set was swept, so nothing can be compared.**")
    assert (
        "- demo 1 is left out: validity_demo1-tiny has no finished runs to compare; run `lsfa "
        "sweep studies/validity_demo1.yaml`."
    ) in text
    assert "- c is left out: it was not finished on every data set." in text
    title = validity_report.gains_figure(alone).layout.title.text
    assert title == "No generated data to compare with"
    assert validity_report.correlation_table(alone).data.empty
    write(tmp_path, "demo2")
    both = validity.load(folder, DEMOS)
    assert [each.data for each in both.generated] == ["demo 2"] and "c" not in both.recipes


def test_data_sets_need_one_reference_and_the_reference_its_runs(tmp_path: Path) -> None:
    folder = write(tmp_path, "real")
    write(tmp_path, "demo2", about={"reference": "a"})
    with pytest.raises(InputError, match=r"demo 2 is compared with 'a' and real .* with 'base'"):
        validity.load(folder, DEMOS)
    folder = write(tmp_path, "real", failed=(("base", "tire", 0),))
    with pytest.raises(InputError, match="base was not finished in RGB; sweep it again"):
        validity.load(folder, {})


def test_two_recipes_have_no_rank_correlation(tmp_path: Path) -> None:
    few = {cell: LIFTS["real"][cell] for cell in ("base", "a", "b")}
    folder = write(tmp_path, "real", lift=few)
    write(tmp_path, "demo2", lift=few)
    found = validity.load(folder, DEMOS)
    assert np.isnan(correlation(found.generated[0], found.real)[AREA])
    text = validity_report.answer(found)
    assert "rank correlation of I-AUROC gains –" in text and "random order" not in text
