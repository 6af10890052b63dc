"""The same scans under every setting: maps, differences and the cloud hold the right numbers."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser_case import MARKS, Watch
from nbformat import v4
from PIL import Image
from report_case import make_case
from study_case import LIFT, write_results

from lsfa_lib.figures.comparator import Compared, comparator, difference, percent
from lsfa_lib.figures.kept_scans import kept_scans
from lsfa_lib.figures.scan_images import CLEAR, OUTLINE, level_of
from lsfa_lib.pages import report
from lsfa_lib.pages.notebook_html import PLOTLY
from lsfa_lib.storage.kept_maps import KeptScan, write_maps
from lsfa_lib.storage.study_record import read_study
from lsfa_lib.studies import study_maps, study_table

CELLS = ("none", "IFC", "CLC")


@pytest.fixture(scope="module")
def kept() -> dict[str, list[KeptScan]]:
    """The scans that runs of three settings would keep; their maps differ."""
    found = {}
    for factor, cell in enumerate(CELLS, 1):
        case = make_case(size=96, each=1, seed=4)
        for prediction in case.predictions["rgb+3d"]:
            prediction.anomaly_map.pow_(factor)
        found[cell] = kept_scans(case.result, case.samples, case.predictions)
    return found


@pytest.fixture(scope="module")
def scans(kept: dict[str, list[KeptScan]]) -> list[Compared]:
    return [
        Compared(
            scan.name.removeprefix("cookie/test/"),
            {cell: own[i] for cell, own in kept.items()},
            dict(zip(CELLS, ("missed", "found", "missed"), strict=True)),
        )
        for i, scan in enumerate(kept["none"])
    ]


def test_the_difference_is_that_of_the_two_maps(scans: list[Compared]) -> None:
    own, base = scans[0].kept["IFC"], scans[0].kept["none"]
    by_hand = [
        100 * (scan.anomaly - scan.good[0]) / (scan.good[1] - scan.good[0]) for scan in (own, base)
    ]
    assert np.allclose(difference(own, base), by_hand[0] - by_hand[1])
    assert not difference(base, base).any()
    # On the reference's pixels, whatever the setting's image size.
    masks = {name: getattr(own, name)[::2, ::2] for name in ("anomaly", "valid", "defect")}
    small = replace(own, **masks)
    assert difference(small, base).shape == base.anomaly.shape
    assert (
        np.corrcoef(difference(small, base).ravel(), (by_hand[0] - by_hand[1]).ravel())[0, 1] > 0.9
    )


def _index(trace) -> np.ndarray:
    data = base64.b64decode(trace["source"].partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)))


def test_images_hold_the_levels_and_the_differences(scans: list[Compared]) -> None:
    figure = comparator(scans, "none")
    images = [trace for trace in figure.data if trace.type == "image"]
    assert len(images) == 6 * len(scans)
    for number, scan in enumerate(scans):
        _, reference, *others = images[6 * number : 6 * number + 6]
        assert all((image.visible is not False) == (number == 0) for image in (reference, *others))
        base = scan.kept["none"]
        for cell, (shown, changed) in zip(
            CELLS[1:], zip(others[::2], others[1::2], strict=True), strict=True
        ):
            own, index = scan.kept[cell], _index(shown)
            drawn = own.valid & (index != OUTLINE)
            assert np.array_equal(index[drawn], level_of(own.anomaly, own.good)[drawn])
            assert (index[~own.valid & (index != OUTLINE)] == CLEAR).all()
            index, true = _index(changed), percent(own) - percent(base)
            drawn = base.valid & (index != OUTLINE)
            expected = np.clip((true + 100) / 200, 0, 1) * 250
            assert np.abs(index[drawn] - expected[drawn]).max() <= 0.5 + 1e-9
            assert (index == OUTLINE).any() == base.defect.any()


def test_menus_choose_the_scan_and_the_colours_of_its_cloud(scans: list[Compared]) -> None:
    figure = comparator(scans, "none")
    choice, colors = figure.layout.updatemenus
    assert [b.label for b in choice.buttons] == [scan.label for scan in scans]
    assert [b.label for b in colors.buttons] == [f"cloud: {name}" for name in ("photo", *CELLS)]
    visible, texts, traces = choice.buttons[1].args
    shown = [t for t, on in zip(traces, visible["visible"], strict=True) if on]
    assert [figure.data[t].type for t in shown] == ["image"] * 6 + ["scatter3d"]
    assert texts["annotations[1].text"] == "none<br>missed"
    assert texts["annotations[2].text"] == "IFC<br>found"
    assert np.array_equal(
        figure.data[shown[-1]].x, scans[1].kept["none"].points[:, 0].round(2).astype("f4")
    )
    change, clouds = colors.buttons[2].args
    assert list(clouds) == [i for i, trace in enumerate(figure.data) if trace.type == "scatter3d"]
    for packed, scan in zip(change["marker.color"], scans, strict=True):
        own = scan.kept["IFC"]
        level = np.frombuffer(base64.b64decode(packed["bdata"]), np.uint8)
        places = tuple(own.places.astype(int))
        assert np.array_equal(level, level_of(own.anomaly, own.good)[places])


def _kept_study(folder: Path, kept: dict[str, list[KeptScan]]) -> study_table.StudyRuns:
    """A made-up study whose runs kept these maps, of their last scans."""
    write_results(folder, {cell: LIFT[cell] for cell in CELLS})
    for run in read_study(folder / "study.json").runs:
        place = folder / run.folder / "result.json"
        result = json.loads(place.read_text("utf-8"))
        own = []
        for scan, entry in zip(
            kept[run.cell], result["scans"][-len(kept[run.cell]) :], strict=True
        ):
            entry["name"] = scan.name.replace("cookie", run.category)
            own.append(replace(scan, name=entry["name"]))
        place.write_text(json.dumps(result), "utf-8")
        write_maps(own, place.parent)
    return study_table.load(folder)


def test_a_study_shows_the_scans_of_every_category_in_turn(
    kept: dict[str, list[KeptScan]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _kept_study(tmp_path / "studies" / "parts-demo", kept)
    found = study_maps.compared_scans(study)
    kinds = ("bump", "dent", "good", "scratch", "stain")
    assert [s.label for s in found] == [f"{c}, {k} 000" for c in ("cap", "ring") for k in kinds]
    for scan in found:
        assert list(scan.kept) == list(CELLS)
        category, kind, stem = scan.label.replace(",", "").split()
        name = f"{category}/test/{kind}/{stem}"
        for cell in CELLS:
            result = study.results[(cell, category, 0, 0)]
            entry = next(s for s in result["scans"] if s["name"] == name)
            right = (entry["scores"]["rgb+3d"] > 1.0) == entry["defective"]
            assert (scan.outcomes[cell] in ("found", "passed")) == right
    figure = study_maps.side_by_side(study)
    assert len(figure.layout.updatemenus[0].buttons) == 10
    monkeypatch.setattr(study_maps, "MOST_IMAGES", 6 * len(CELLS))
    assert [s.label for s in study_maps.compared_scans(study)] == [
        *("cap, bump 000", "cap, dent 000", "ring, bump 000")
    ]


def test_without_maps_a_sentence_names_the_command(tmp_path: Path) -> None:
    study = study_table.load(write_results(tmp_path / "studies" / "parts-demo"))
    said = study_maps.side_by_side(study).data
    assert "before maps were kept" in said
    assert "`lsfa sweep studies/parts.yaml --force`" in said


def test_changed_verdicts_are_counted_over_all_scans(tmp_path: Path) -> None:
    study = study_table.load(write_results(tmp_path / "studies" / "parts-demo"))
    better = worse = total = 0
    for (cell, *rest), result in study.results.items():
        if cell == "IFC":
            base = study.results[("none", *rest)]
            for own, other in zip(result["scans"], base["scans"], strict=True):
                right = [(s["scores"]["rgb+3d"] > 1.0) == s["defective"] for s in (own, other)]
                better, worse = better + (right == [True, False]), worse + (right == [False, True])
                total += 1
    expected = (
        f"Of {total} verdicts of “none”, “IFC” corrects {better} and turns {worse} correct ones"
    )
    assert study_maps.changes_sentence(study).startswith(expected)
    assert better > 10
    table = study_maps.changes_table(study).data
    assert list(table.index) == ["IFC", "CLC", "both"]
    assert list(table.columns) == ["dent", "good", "stain", "cap", "ring", "all scans"]
    assert table.loc["IFC", "all scans"] == f"+{better} −{worse}"
    parts = [int(table.loc["IFC", kind].split()[0]) for kind in ("dent", "good", "stain")]
    assert sum(parts) == better == sum(int(table.loc["IFC", c].split()[0]) for c in ("cap", "ring"))


@pytest.fixture(scope="module")
def page(scans: list[Compared], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    drawn = {PLOTLY: json.loads(comparator(scans, "none", "IFC differs").to_json())}
    cells = [v4.new_code_cell("draw", outputs=[v4.new_output("display_data", drawn)])]
    nbformat.write(v4.new_notebook(cells=cells), folder / "notebook.ipynb")
    return report.render(folder / "notebook.ipynb", folder / "report.html", plotly="inline")


class TestInABrowser:
    pytestmark = MARKS

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
    def test_menus_change_what_is_drawn(self, browser, page: Path, width: int, scheme: str) -> None:
        watch = Watch(browser, page, width, scheme)
        watch.page.locator(".canvas canvas").wait_for()
        watch.settle()

        def image() -> np.ndarray:
            shown = watch.page.locator(".imagelayer image").nth(3)
            shown.scroll_into_view_if_needed()
            watch.settle()
            return watch.pixels(shown.bounding_box())

        def cloud_pixels() -> np.ndarray:
            watch.page.locator(".updatemenu-header").first.scroll_into_view_if_needed()
            watch.settle()
            return watch.cloud()

        def choose(menu: int, label: str) -> None:
            watch.page.locator(".updatemenu-header").nth(menu).click()
            watch.page.locator(".updatemenu-dropdown-button", has_text=label).first.click()
            watch.page.mouse.move(2, 2)
            watch.settle()

        before, cloud = image(), cloud_pixels()
        choose(1, "photo")
        assert np.abs(cloud_pixels() - cloud).mean() > 5
        assert np.abs(image() - before).mean() < 1
        cloud = cloud_pixels()
        choose(0, "stain")
        assert np.abs(image() - before).mean() > 2
        assert np.abs(cloud_pixels() - cloud).mean() > 1
        assert watch.page.locator(".imagelayer image").count() == 6
        assert watch.fits()
        watch.close()
