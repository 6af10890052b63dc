"""The gallery's first screen: its sentence, its cloud, its products and studies' figures."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser_case import MARKS, Watch, colors
from report_case import COOKIE, Case, make_case, write_run

from lsfa_lib.figures.kept_scans import kept_scans
from lsfa_lib.figures.scan_images import TOP, level_of, shades
from lsfa_lib.pages import gallery
from lsfa_lib.pages.gallery_data import RunEntry, find_contents
from lsfa_lib.pages.gallery_first import products, sentence, study_figure, turning
from lsfa_lib.storage.kept_maps import read_maps, write_maps
from lsfa_lib.storage.study_record import read_study


@pytest.fixture(scope="module")
def made() -> Case:
    return make_case(size=96, each=2)


@pytest.fixture
def reports(made: Case, tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    write_run(folder / COOKIE, made)
    write_maps(kept_scans(made.result, made.samples, made.predictions), folder / COOKIE)
    return folder


def _entry(case: Case, place: str, category: str, created: str, **scores: float) -> RunEntry:
    """A run in which every defective part has one score and every good one another."""
    result = json.loads(json.dumps(case.result)) | {"category": category, "created": created}
    for scan in result["scans"]:
        scan["scores"]["rgb+3d"] = scores["bad" if scan["defective"] else "good"]
    return RunEntry(place, result)


def test_a_run_of_its_own_speaks_for_a_product_then_the_newest(made: Case) -> None:
    found = products(
        [
            _entry(made, "runs/sweep/a", "cookie", "2026-12-01", bad=9.0, good=9.0),
            _entry(made, "runs/quickstart/old", "cookie", "2026-11-01", bad=-9.0, good=9.0),
            _entry(made, "runs/quickstart/new", "cookie", "2026-11-02", bad=-9.0, good=-9.0),
            _entry(made, "runs/sweep/b", "zipper", "2026-11-01", bad=9.0, good=9.0),
        ]
    )
    assert [p.entry.place for p in found] == ["runs/sweep/b", "runs/quickstart/new"]
    assert [(p.found, p.defective, p.rejected, p.good) for p in found] == [
        (8, 8, 2, 2),
        (0, 8, 0, 2),
    ]
    assert sentence(found) == (
        "RGB + 3D finds 8 of 16 defective parts of 2 products and rejects 2 of 4 good ones."
    )
    assert sentence(found[:1]).startswith("RGB + 3D finds 8 of 8 defective parts of zipper and")
    assert sentence([]) == ""


def test_settings_with_runs_of_more_products_speak_for_them(made: Case) -> None:
    """A newer run of one product with another method does not change the sentence on all."""
    found = {
        category: _entry(
            made, f"runs/quickstart/{category}", category, "2026-11-01", bad=9.0, good=-9.0
        )
        for category in ("cookie", "zipper")
    }
    other = _entry(made, "runs/quickstart/other", "cookie", "2026-11-02", bad=-9.0, good=9.0)
    other.result["config"] |= {"method": "cfm"}
    assert [p.entry for p in products([*found.values(), other])] == list(found.values())
    assert [p.entry for p in products([found["cookie"], other])] == [other]


def test_the_cloud_is_that_of_the_clearest_detection(made: Case, reports: Path) -> None:
    found = products(find_contents(reports).runs)
    cloud = turning(found, reports)
    assert cloud is not None and cloud["place"] == COOKIE
    kept = read_maps(reports / COOKIE)
    scores = {
        s["name"]: s["scores"]["rgb+3d"]
        for s in made.result["scans"]
        if s["name"] in kept and s["defective"]
    }
    best = kept[max(scores, key=scores.__getitem__)]
    assert cloud["label"] == f"cookie {best.name.split('/')[2]} {best.name.split('/')[3]}"
    points = np.frombuffer(base64.b64decode(cloud["points"]), "<i2").reshape(-1, 3)
    scale = 1000 / np.abs(best.points).max()
    assert np.abs(points - best.points * scale).max() <= 0.5 + 1e-6
    score = np.frombuffer(base64.b64decode(cloud["score"]), np.uint8).reshape(-1, 3)
    level = level_of(best.anomaly, best.good)[tuple(best.places.astype(int))]
    assert np.array_equal(score, shades(TOP + 1)[level])
    assert turning([], reports) is None


def test_a_run_without_maps_or_with_broken_ones_shows_no_cloud(
    reports: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (reports / COOKIE / "maps.npz").write_bytes(b"broken")
    page = gallery.write_index(reports).read_text("utf-8")
    assert "text/cloud" not in page and "maps.npz is damaged" in caplog.text
    (reports / COOKIE / "maps.npz").unlink()
    assert "text/cloud" not in gallery.write_index(reports).read_text("utf-8")


def test_a_studys_figure_places_its_differences(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from study_case import write_results

    study = read_study(write_results(tmp_path / "studies" / "parts-demo") / "study.json")
    assert study_figure(study) == ""
    (study.folder / "table.csv").write_text(
        "row,mode,d_i_auroc,d_i_auroc_low,d_i_auroc_high\n"
        "none,rgb+3d,,,\nIFC <b>,rgb+3d,0.1,0.05,0.2\nCLC,rgb+3d,-0.05,-0.1,0.02\nCLC,rgb,0.3,,\n"
    )
    svg = study_figure(study)
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', svg)]
    zero = float(re.findall(r'class="zero" x1="([\d.]+)"', svg)[0])
    assert len(places) == 2
    assert (places[0] - zero) / (zero - places[1]) == pytest.approx(2, rel=0.01)
    assert '<g class="better"><title>IFC &lt;b&gt;: +0.100' in svg and "<b>" not in svg
    assert '<g class="open">' in svg and "Difference in I-AUROC from “none”" in svg
    (study.folder / "table.csv").write_text("row,mode\nnone,rgb\n")
    assert study_figure(replace(study)) == ""
    for damaged in ("", 'row,mode,d_i_auroc\nIFC,rgb+3d,"0,1"\n', 'row\n"IFC'):
        (study.folder / "table.csv").write_text(damaged)
        assert study_figure(study) == ""
    assert caplog.text.count("table.csv is damaged") == 3


class TestInABrowser:
    pytestmark = MARKS

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
    def test_the_cloud_turns_and_a_card_opens_its_report(
        self, browser, reports: Path, width: int, scheme: str
    ) -> None:
        from lsfa_lib.pages import report

        report.rebuild(reports)
        watch = Watch(browser, reports / "index.html", width, scheme)
        box = watch.page.locator(".turning canvas").bounding_box()
        assert box["y"] + box["height"] < 900
        before = watch.pixels(box)
        assert colors(before) > 12
        watch.page.wait_for_timeout(600)
        assert np.abs(watch.pixels(box) - before).mean() > 1
        watch.page.locator(".turning button").click()
        assert watch.page.locator(".turning button").inner_text() == "photo"
        assert watch.fits()
        watch.page.locator(".product").first.click()
        watch.page.wait_for_url("**/report.html")
        watch.close()
