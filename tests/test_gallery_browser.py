"""The gallery in Chromium without a network: filters, sorts, compares, and runs no text as code."""

import copy
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from browser_case import MARKS, Watch
from PIL import Image
from report_case import COOKIE, LSFA, Case, write_run, write_study

from lsfa_lib.config import with_losses
from lsfa_lib.pages import bundle, gallery, report
from lsfa_lib.storage.results import as_json

EVIL = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(2)>"
ROPE = "runs/quickstart/rope-demo-s0"
pytestmark = MARKS


@pytest.fixture(scope="module")
def reports(built: Path, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two categories, a run, and an older one of another preset without training."""
    reports = tmp_path_factory.mktemp("gallery") / "reports"
    shutil.copytree(built, reports)
    config = as_json(replace(with_losses(LSFA, "none"), preset="mine"))
    rope = copy.deepcopy(case.result) | {
        "category": "rope",
        "preset": "mine",
        "config": config,
        "created": "2026-10-01T08:00:00+00:00",
    }
    for mode in ("disagreement", "rgb+3d+disagreement"):
        del rope["modes"][mode]
    for mode in ("3d", "rgb"):
        rope["modes"][mode] |= {"i_auroc": 0.5}
    rope["modes"]["rgb+3d"] |= {"i_auroc": 0.999, "p_auroc": 0.5}
    own = write_run(reports / ROPE, Case(rope, case.samples, case.predictions), scans=1)
    report.render(own, own.parent / "report.html")
    gallery.write_index(reports)
    return reports


class Gallery(Watch):
    """The gallery with what it shows."""

    @property
    def shown(self) -> list[str]:
        places = self.page.locator(".card:visible")
        return [card.get_attribute("data-place").split("/", 1)[1] for card in places.all()]

    @property
    def state(self) -> dict[str, str]:
        chosen = parse_qs(urlsplit(self.page.url).fragment)
        return {name: values[0] for name, values in chosen.items()}

    def choose(self, name: str, value: str) -> None:
        self.page.locator(f"#tools [name={name}]").select_option(value)

    def card(self, place: str):
        return self.page.locator(f'.card[data-place="{place}"]')


SWEPT = [
    f"sweep/{name}-s0-comp0000"
    for name in ("cookie-demo-IFC", "cookie-demo-baseline", "zipper-demo-baseline")
]
ALL = ["quickstart/cookie-demo-s0", "quickstart/rope-demo-s0", *SWEPT]


@pytest.mark.parametrize("width", [390, 1280])
def test_gallery_filters_and_opens_reports(browser, reports: Path, width: int) -> None:
    watch = Gallery(browser, reports / "index.html", width=width)
    assert watch.shown == ALL and watch.state == {}
    picture = watch.page.locator(".card img").first
    picture.scroll_into_view_if_needed()
    watch.page.wait_for_function("document.querySelector('.card img').naturalWidth === 448")
    if width == 390:
        watch.page.click("text=Filter")
    for name, value, expected in (
        ("category", "zipper", SWEPT[2:]),
        ("preset", "mine", ["quickstart/rope-demo-s0"]),
        ("study", "components-demo", SWEPT),
    ):
        watch.choose(name, value)
        assert watch.shown == expected and watch.state == {name: value}
        assert watch.page.locator("#filtered").inner_text() == f": {value}"
        watch.choose(name, "")
    watch.page.fill("#tools [name=to]", "2026-10-31")
    assert watch.shown == ["quickstart/rope-demo-s0"]
    watch.page.fill("#tools [name=from]", "2026-10-02")
    assert watch.shown == [] and watch.page.is_visible("text=No matching run.")
    watch.page.click(".none button")
    watch.page.wait_for_function("document.querySelectorAll('.card:not([hidden])').length === 5")
    assert watch.state == {}
    watch.page.fill("#tools [name=text]", "COOK 3  shots")
    assert watch.shown == SWEPT[:1]
    assert watch.page.locator("#shown").inner_text() == "1 of 5 runs"
    assert watch.fits()
    watch.card(f"runs/{SWEPT[0]}").get_by_text("Report").click()
    watch.page.wait_for_selector("text=How it was made")
    watch.page.click("text=All reports")
    watch.page.wait_for_selector("h1:text('Reports')")
    watch.close()


def test_the_number_shown_and_the_order_follow_metric_and_modality(
    browser, reports: Path, case: Case
) -> None:
    watch = Gallery(browser, reports / "index.html")
    number = watch.card(COOKIE).locator(".number")
    modes = case.result["modes"]
    low, high = modes["rgb+3d"]["i_auroc_interval"]
    value = modes["rgb+3d"]["i_auroc"]
    assert number.inner_text().split("\n") == [
        f"{value:.3f}",
        f"I-AUROC, RGB + 3D [{low:.3f}, {high:.3f}]",
    ]
    watch.choose("sort", "best")
    assert watch.shown[0] == "quickstart/rope-demo-s0"
    watch.choose("metric", "p_auroc")
    assert watch.shown[-1] == "quickstart/rope-demo-s0"
    watch.choose("mode", "rgb")
    watch.choose("metric", "aupro_05")
    number.scroll_into_view_if_needed()  # cards out of view have no text yet
    assert number.inner_text().split("\n") == [
        f"{modes['rgb']['aupro_05']:.3f}",
        "AUPRO 5 %, RGB",
    ]
    best = max(mode["aupro_05"] for mode in modes.values())
    assert watch.card(COOKIE).locator(".best").inner_text() == f"{best:.3f}"
    # A run without the modality is no answer to it.
    watch.choose("mode", "disagreement")
    assert watch.shown == [place for place in ALL if "rope" not in place]
    shown = watch.page.locator("#shown").inner_text()
    assert shown == "4 of 5 runs (1 does not compute this score)"
    watch.choose("sort", "newest")
    watch.choose("mode", "rgb")
    assert watch.shown[-1] == "quickstart/rope-demo-s0"
    watch.close()


def test_means_follow_the_metric(browser, reports: Path) -> None:
    watch = Gallery(browser, reports / "index.html")
    table = watch.page.locator(".means:visible")
    assert table.locator("thead th").first.inner_text() == "I-AUROC"
    assert table.locator("[scope=rowgroup]").all_inner_texts() == [
        "cookie, zipper",
        "cookie",
        "rope",
    ]
    assert table.locator("td.best").last.inner_text() == "0.999"
    watch.page.select_option("#means-metric", "p_auroc")
    assert table.locator("thead th").first.inner_text() == "P-AUROC"
    assert watch.state == {"metric": "p_auroc"}
    assert watch.page.locator("#tools [name=metric]").input_value() == "p_auroc"
    watch.close()


def test_an_address_opens_the_same_view(browser, reports: Path) -> None:
    first = Gallery(browser, reports / "index.html")
    first.choose("study", "components-demo")
    first.choose("sort", "newest")
    first.choose("metric", "aupro_30")
    first.page.fill("#tools [name=text]", "cookie & 3")
    first.page.fill("#tools [name=text]", "cookie")
    shown, address = first.shown, first.page.url
    first.close()
    second = Gallery(browser, reports / "index.html")
    second.page.goto(address)
    assert second.shown == shown == SWEPT[:2]
    assert second.page.locator("#tools [name=metric]").input_value() == "aupro_30"
    # What this gallery does not have is left out.
    second.page.goto(address.partition("#")[0] + "#category=nothing&compare=nowhere&sort=best")
    second.page.wait_for_function("document.querySelectorAll('.card:not([hidden])').length === 5")
    assert not second.page.is_visible("dialog")
    second.page.click("text=Its runs")
    assert second.shown == SWEPT and second.state == {"study": "components-demo"}
    second.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_two_runs_are_compared_with_the_keyboard(
    browser, reports: Path, case: Case, width: int
) -> None:
    watch = Gallery(browser, reports / "index.html", width=width)
    watch.page.get_by_label(
        "Compare cookie, demo, 224 px, image 672 px, IFC + CLC · seed 0"
    ).first.focus()
    watch.page.keyboard.press("Space")
    bar = watch.page.locator("#ticked")
    assert (
        "cookie, demo, 224 px, image 672 px, IFC + CLC · seed 0: tick another run to compare."
        in bar.inner_text()
    )
    watch.page.get_by_label("Compare rope").focus()
    watch.page.keyboard.press("Space")
    dialog = watch.page.locator("dialog")
    dialog.wait_for()
    assert watch.state == {"compare": f"{COOKIE}|{ROPE}"} and not bar.is_visible()
    assert dialog.locator(".sides h3").all_inner_texts() == ["A: cookie", "B: rope"]
    assert dialog.locator(".sides img").count() == 2
    auroc = case.result["modes"]["rgb+3d"]["i_auroc"]
    rows = {
        row.split("\t")[0]: row for row in dialog.locator("tbody >> nth=0 >> tr").all_inner_texts()
    }
    cells = rows["RGB + 3D"].split("\t")
    assert cells[1].startswith(f"{auroc:.3f}") and cells[2].startswith("0.999")
    assert cells[3] == f"+{0.999 - round(auroc, 3):.3f}"
    assert rows["disagreement"].split("\t")[2:] == ["–", "–"]
    body, best = dialog.locator("tbody"), "tr[data-of={}][data-in='rgb+3d'] td.best"
    assert "0.999" in dialog.locator(best.format("i_auroc")).inner_text()
    p_auroc = case.result["modes"]["rgb+3d"]["p_auroc"]
    assert dialog.locator(best.format("p_auroc")).inner_text() == f"{p_auroc:.3f}"
    assert "−" in body.nth(3).inner_text()
    differing = [
        row.replace("\u200b", "") for row in dialog.locator(".settings tr").all_inner_texts()
    ]
    assert differing[:2] == ["category\tcookie\trope", "preset\tdemo\tmine"]
    assert "training.weights.la\t0.6\t0" in differing and len(differing) == 7
    assert dialog.evaluate("d => d.scrollWidth <= d.clientWidth") and watch.fits()
    watch.page.keyboard.press("Escape")
    # The page hears of the closing after the key.
    watch.page.wait_for_function("!location.hash.includes('rope')")
    assert not dialog.is_visible() and watch.state == {"compare": COOKIE}
    bar.get_by_role("button").click()
    assert watch.state == {} and not bar.is_visible()
    watch.page.goto(watch.page.url.partition("#")[0] + f"#compare={COOKIE}|{ROPE}")
    dialog.wait_for()
    watch.close()


def test_text_of_the_data_never_runs(browser, case: Case, tmp_path: Path) -> None:
    result = copy.deepcopy(case.result) | {"category": EVIL, "preset": EVIL}
    for scan in result["scans"]:
        scan["kind"] = EVIL if scan["defective"] else "good"
        scan["name"] = f"{EVIL}/{scan['name']}"
    evil = Case(
        result, [replace(s, name=f"{EVIL}/{s.name}") for s in case.samples], case.predictions
    )
    folder = tmp_path / "runs" / "quick'<b>" / '"><script>alert(3)<'
    write_run(folder, evil, scans=2)
    write_run(tmp_path / COOKIE, case, scans=1)
    study = write_study(tmp_path, case, finding=EVIL, title=EVIL)
    about = json.loads((study / "study.json").read_text(encoding="utf-8"))
    about["cells"] |= {EVIL: {}}
    about["runs"][0] |= {"cell": EVIL, "error": EVIL, "state": "failed"}
    (study / "study.json").write_text(json.dumps(about), encoding="utf-8")
    report.rebuild(tmp_path)
    watch = Gallery(browser, tmp_path / "index.html")
    assert EVIL in watch.page.locator(".card h3").first.inner_text()
    watch.page.locator(".tick input").nth(0).check()
    watch.page.locator(".tick input").nth(1).check()
    assert EVIL in watch.page.locator("dialog h3").first.inner_text()
    watch.page.keyboard.press("Escape")
    watch.choose("category", EVIL)
    assert len(watch.shown) == 1
    watch.close()
    for page in (folder, study):
        watch = Watch(browser, page / "report.html")
        if page == folder:
            watch.draw()
        assert EVIL in watch.page.locator("main").inner_text()
        watch.page.wait_for_timeout(300)
        watch.close()


def test_a_bundle_opens_offline_from_where_it_was_unzipped(
    browser, reports: Path, tmp_path: Path
) -> None:
    path = bundle.write_bundle(reports, tmp_path / "out.zip", "components")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "elsewhere")
    watch = Gallery(browser, tmp_path / "elsewhere" / "reports" / "index.html")
    assert watch.shown == SWEPT
    watch.page.locator(".card img").first.scroll_into_view_if_needed()
    watch.page.wait_for_function("document.querySelector('.card img').naturalWidth === 448")
    watch.page.locator(".study h3 a").click()
    watch.page.wait_for_selector("text=1 failed; the numbers above are without it.")
    watch.page.locator(".runs a").first.click()
    watch.page.wait_for_selector("text=How it was made")
    watch.draw()
    assert watch.page.locator(".canvas canvas").count() >= 1
    home = (tmp_path / "elsewhere").as_uri()
    assert len(watch.files) > 5 and all(file.startswith(home) for file in watch.files)
    watch.close()


def test_a_large_gallery_answers_at_once(browser, case: Case, tmp_path: Path) -> None:
    picture = Image.new("RGB", (448, 224), "#345")
    for i in range(300):
        result = case.result | {"category": f"category {i % 10}", "seed": i}
        folder = tmp_path / "runs" / "quickstart" / f"run-{i}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        picture.save(folder / "thumbnail.png")
    watch = Gallery(browser, gallery.write_index(tmp_path))
    # Pictures that are not shown are not read.
    visible = "[...document.querySelectorAll('.card')].filter(card => !card.hidden).length"
    assert watch.page.evaluate(visible) == 24
    assert sum(file.endswith("thumbnail.png") for file in watch.files) <= 24 + 10
    watch.page.get_by_role("button", name="Show all 300 runs").click()
    assert watch.page.evaluate(visible) == 300
    assert watch.page.get_by_role("button", name="Show all").count() == 0
    spent = watch.page.evaluate(
        """() => {
          const start = performance.now(), sort = document.querySelector("[name=sort]");
          sort.value = "best";
          sort.dispatchEvent(new Event("input", { bubbles: true }));
          document.body.getBoundingClientRect();
          return performance.now() - start;
        }"""
    )
    assert spent < 1500
    watch.close()
