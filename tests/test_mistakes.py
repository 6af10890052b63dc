"""Mistakes are counted, placed and told as the scores and maps say; maps stand in light rows."""

import base64
import copy
import io
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image
from report_case import MODES, make_case

from lsfa_lib.config import DEMO, Config
from lsfa_lib.figures import mistakes, scan_figures
from lsfa_lib.figures.findings import counts
from lsfa_lib.figures.mistakes import Judged, Peak
from lsfa_lib.figures.names import SHORT_MODES
from lsfa_lib.figures.scan_images import box_around, score_ranges
from lsfa_lib.methods.fitting import Fitted
from lsfa_lib.pipeline import Run
from lsfa_lib.records import Prediction, Sample
from lsfa_lib.storage.files import InputError

BOTH = "rgb+3d"


def run_of(size: int = 96, trained: bool = True, each: int = 4) -> Run:
    case = make_case(size=size, each=each, trained=trained)
    fitted = Fitted(lambda scan: {}, {}, {}, (), None, DEMO)
    return Run(case.result, case.samples, case.predictions, DEMO, fitted)


@pytest.fixture(scope="module")
def run() -> Run:
    return run_of()


@pytest.fixture(scope="module")
def large() -> Run:
    """Its parts are larger than the pictures drawn of them."""
    return run_of(288, each=2)


@pytest.fixture(scope="module")
def scans(run: Run) -> list[Judged]:
    return mistakes.judged(run)


def disc_sample(name: str = "a/test/cut/000") -> Sample:
    v, u = torch.meshgrid(torch.arange(80), torch.arange(80), indexing="ij")
    valid = (v - 40) ** 2 + (u - 40) ** 2 < 30**2
    valid[41, 41] = False  # a missing reading, not an outline
    defect = torch.zeros(80, 80, dtype=torch.bool)
    defect[36:44, 50:58] = True
    empty = torch.zeros(3, 80, 80)
    return Sample(empty, empty, valid, defect, name, "cut")


def spot(row: int, column: int, size: int = 4, value: float = 1.0) -> np.ndarray:
    anomaly = np.zeros((80, 80), np.float32)
    anomaly[row : row + size, column : column + size] = value
    return anomaly


def config(fraction: float = 16 / 6400, score: str = "top_fraction") -> Config:
    detector = replace(DEMO.detector, top_fraction=fraction, image_score=score)
    return replace(DEMO, detector=detector)


def test_peak_of_a_contrast_is_where_the_map_exceeds_its_surroundings() -> None:
    rows, columns = np.indices((80, 80))
    broad = 3 * np.exp(-((rows - 30) ** 2 + (columns - 26) ** 2) / (2 * 12**2))
    anomaly = (broad + spot(48, 50)).astype(np.float32)
    high = mistakes.peak_of(anomaly, disc_sample(), config())
    contrasting = mistakes.peak_of(anomaly, disc_sample(), config(score="contrast"))
    assert (high.row, high.column) == (30, 26)
    assert 48 <= contrasting.row < 52 and 50 <= contrasting.column < 54


@pytest.mark.parametrize(
    ("at", "on_defect", "at_rim"),
    [
        ((38, 52), True, False),
        ((40, 46), True, False),
        ((40, 38), False, False),
        ((12, 38), False, True),
    ],
)
def test_peaks_lie_on_the_defect_or_at_the_rim(
    at: tuple[int, int], on_defect: bool, at_rim: bool
) -> None:
    anomaly = spot(*at)
    anomaly[at[0] + 1, at[1] + 1] = 1.5
    peak = mistakes.peak_of(anomaly, disc_sample(), config())
    assert (peak.row, peak.column) == (at[0] + 1, at[1] + 1)
    assert (peak.on_defect, peak.at_rim) == (on_defect, at_rim)


def test_distances_of_a_peak_are_in_patches() -> None:
    anomaly = spot(40, 30)
    anomaly[40, 30] = 2.0
    peak = mistakes.peak_of(anomaly, disc_sample(), config())
    assert peak.to_defect == pytest.approx((50 - 30) / 4)
    # The nearest pixel outside, over all of them.
    rows, columns = np.indices((80, 80))
    outside = (rows - 40) ** 2 + (columns - 40) ** 2 >= 30**2
    gap = np.hypot(rows - 40, columns - 30)[outside].min()
    assert peak.to_rim == pytest.approx(gap / 4)


def test_a_stray_pixel_and_what_lies_off_the_part_are_no_peak() -> None:
    anomaly = spot(38, 52)
    anomaly[12, 40] = 9.0  # one pixel at the rim
    anomaly[:5] = 20.0  # off the part
    peak = mistakes.peak_of(anomaly, disc_sample(), config(17 / 6400))
    assert peak.on_defect and not peak.at_rim
    alone = mistakes.peak_of(anomaly, disc_sample(), config(1 / 6400))
    assert (alone.row, alone.column) == (12, 40)


def test_without_a_defect_pixel_no_peak_is_on_it() -> None:
    sample = disc_sample()
    sample = replace(sample, defect=torch.zeros_like(sample.defect))
    peak = mistakes.peak_of(spot(38, 52), sample, config())
    assert peak.to_defect == np.inf and not peak.on_defect


def test_scans_are_judged_by_rank_and_threshold(run: Run, scans: list[Judged]) -> None:
    scores = [s["scores"][BOTH] for s in run.result["scans"]]
    assert [scan.score for scan in scans] == sorted(scores, reverse=True)
    assert [scan.rank for scan in scans] == list(range(1, len(scores) + 1))
    found, bad, rejected, good = counts(run.result)
    assert sum(s.called_defective for s in scans if s.defective) == found < bad
    assert sum(s.wrong for s in scans if not s.defective) == rejected
    assert sum(s.wrong for s in scans) == bad - found + rejected
    for scan in scans:
        own = next(s for s in run.result["scans"] if s["name"] == scan.name)
        others = [s for s in run.result["scans"] if s["defective"] != scan.defective]
        higher = sum(s["scores"][BOTH] > scan.score for s in others)
        assert scan.above == (higher if scan.defective else len(others) - higher)
        assert scan.others == len(others) == (good if scan.defective else bad)
        modes = run.result["modes"]
        assert set(scan.seen_by) == {
            m for m in ("3d", "rgb", "disagreement") if own["scores"][m] > modes[m]["threshold"]
        }
        assert run.samples[scan.place].name == scan.name


def test_other_modes_have_their_own_mistakes(run: Run) -> None:
    by_3d = mistakes.judged(run, "3d")
    stains = [scan for scan in by_3d if scan.kind == "stain"]
    assert sum(scan.wrong for scan in stains) >= 2
    score = {s["name"]: s["scores"]["3d"] for s in run.result["scans"]}
    assert all(scan.score == score[scan.name] for scan in by_3d)
    untrained = run_of(48, trained=False)
    assert mistakes.judged(untrained)[0].sources == ("3d", "rgb")
    with pytest.raises(InputError, match="'disagreement' is not in this run; it answers in 3d"):
        mistakes.judged(untrained, "disagreement")


def test_the_worst_are_the_lowest_defective_and_the_highest_good(scans: list[Judged]) -> None:
    misses, alarms = mistakes.worst_misses(scans, 2), mistakes.worst_alarms(scans, 2)
    bad = sorted(s.score for s in scans if s.defective)
    good = sorted((s.score for s in scans if not s.defective), reverse=True)
    assert [s.score for s in misses] == bad[:2] and [s.score for s in alarms] == good[:2]
    assert len(mistakes.worst_alarms(scans, 99)) == 4


def test_typical_is_the_middling_scan_of_each_kind_good_last(scans: list[Judged]) -> None:
    chosen = mistakes.typical(scans)
    assert len(chosen) == 5 and chosen[-1].kind == "good"
    assert [s.rank for s in chosen[:-1]] == sorted(s.rank for s in chosen[:-1])
    for scan in chosen:
        ranks = sorted(s.rank for s in scans if s.kind == scan.kind)
        assert scan.rank == ranks[2]


def judged(**changes: object) -> Judged:
    peak = Peak(3, 4, to_defect=6.2, to_rim=1.0)
    known = {
        "place": 0,
        "name": "nut/test/<script>x/007",
        "kind": "<script>x",
        "defective": True,
        "score": 0.25,
        "threshold": 1.5,
        "rank": 9,
        "scans": 10,
        "above": 3,
        "others": 4,
        "seen_by": (),
        "sources": ("3d", "rgb"),
        "peak": peak,
    }
    return Judged(**known | changes)


def test_sentences_say_what_the_numbers_say() -> None:
    assert mistakes.sentence(judged()) == (
        "<b>&lt;script&gt;x/007, missed</b>: score 0.25, threshold 1.50; rank 9 of 10, 3 of 4 "
        "good scans score higher. The map peaks 6 patches from the defect, at the part's rim; no "
        "single source of evidence exceeds its own threshold."
    )
    on = Peak(3, 4, to_defect=0.5, to_rim=9.0)
    found = judged(score=2.0, peak=on, seen_by=("rgb",))
    assert ", found</b>" in mistakes.sentence(found)
    assert "peaks on the defect, inside the part; RGB alone exceeds its" in mistakes.sentence(found)
    both = judged(seen_by=("3d", "rgb"), peak=Peak(0, 0, np.inf, 9.0))
    assert "no pixel of the defect is left at this image size" in mistakes.sentence(both)
    assert "every single source exceeds its own threshold" in mistakes.sentence(both)
    two = judged(seen_by=("3d", "rgb"), sources=("3d", "rgb", "disagreement"))
    assert "3D and RGB exceed their own threshold" in mistakes.sentence(two)
    good = judged(defective=False, score=2.0, kind="good")
    assert ", false alarm</b>" in mistakes.sentence(good)
    assert "3 of 4 defective scans score lower. The map peaks at the part's rim" in (
        mistakes.sentence(good)
    )
    assert ", passed</b>" in mistakes.sentence(judged(defective=False, score=1.0))


def test_answer_counts_the_mistakes(run: Run) -> None:
    off, on = Peak(0, 0, 9.0, 9.0), Peak(0, 0, 0.0, 1.0)
    some = [
        judged(peak=off, seen_by=("3d",)),
        judged(peak=on, seen_by=("3d",)),
        judged(peak=on, seen_by=("rgb",), kind="cut"),
        judged(peak=off, seen_by=("3d", "rgb"), kind="cut"),
        judged(peak=off, kind="cut"),
        judged(score=9.0, peak=on, kind="hole"),
        judged(defective=False, score=2.0, peak=on),
        judged(defective=False, score=2.0, peak=off),
        judged(defective=False, score=1.0, peak=on),
    ]
    text = mistakes.answer(run, some)
    assert "- **Missed:** cut 3, &lt;script&gt;x 2." in text
    assert (
        "3 of 5 misses are seen by one source alone (3D 2, RGB 1), 1 by none, 1 by several." in text
    )
    assert "off the defect in 3 of 5 misses" in text and "not high enough, in 2." in text
    assert "- **False alarms:** 1 of 2 peak at the part's rim" in text
    right = [scan for scan in some if not scan.wrong]
    text = mistakes.answer(run, right)
    assert "No defective scan is missed" in text and "No good scan is rejected" in text


def pictures(figure: go.Figure) -> list[Image.Image]:
    images = [trace.source for trace in figure.data if trace.type == "image"]
    return [Image.open(io.BytesIO(base64.b64decode(i.partition("base64,")[2]))) for i in images]


def test_grid_has_a_row_a_scan_and_a_column_a_mode(run: Run, scans: list[Judged]) -> None:
    chosen = mistakes.typical(scans)
    figure = scan_figures.maps_grid(run, chosen)
    names = ["photo", "relief (3D)", "ground truth", *(SHORT_MODES[mode] for mode in MODES)]
    notes = [note.text for note in figure.layout.annotations]
    assert notes.count("photo") == 5 and notes[1:9] == names
    assert len(pictures(figure)) == 5 * 8
    titles = [note for note in notes if note.startswith("<b>")]
    first = chosen[0]
    assert titles[0] == (
        f"<b>{first.kind}</b> {first.name[-3:]}: {mistakes.verdict(first)}, "
        f"score {first.score:.2f}, rank {first.rank} of 20"
    )
    narrow = figure.layout.meta["narrow"]
    assert narrow["annotations[0].text"] == titles[0].rpartition(", rank")[0]
    assert figure.layout.title.text.startswith("RGB + 3D finds ")
    assert list(figure.layout.meta["thumbnail"]) == [figure.data[0].source, figure.data[1].source]


def test_maps_of_a_row_are_on_the_pages_scale(run: Run, scans: list[Judged]) -> None:
    ranges = score_ranges(run.samples, run.predictions)
    scan = scans[0]
    row = scan_figures.map_row(run, scan, ranges)
    sample = run.samples[scan.place]
    box = box_around((sample.valid | sample.defect).numpy())
    assert row.box == box
    low, high = ranges["3d"]
    level = 100 * (run.predictions["3d"][scan.place].anomaly_map.numpy() - low) / (high - low)
    seen = np.asarray(row.images["3D"])
    valid = box.cut(sample.valid.numpy()) & (seen < 251)  # without the defect's outline
    expected = np.rint(box.cut(level).clip(0, 250))
    np.testing.assert_array_equal(seen[valid], expected[valid])
    assert (seen[~box.cut(sample.valid.numpy()) & (seen != 254)] == 255).all()


@pytest.mark.parametrize("which", ["run", "large"])
def test_ring_lies_on_the_peak_in_photo_and_map(request: pytest.FixtureRequest, which: str) -> None:
    asked: Run = request.getfixturevalue(which)
    scan = mistakes.worst_misses(mistakes.judged(asked), 1)[0]
    figure = scan_figures.mistake_figure(asked, scan)
    rings = [trace for trace in figure.data if trace.type == "scatter"]
    images = {t.xaxis: t for t in figure.data if t.type == "image"}
    names = [note.text for note in figure.layout.annotations]
    assert [names[list(images).index(ring.xaxis)] for ring in rings] == ["photo", "RGB + 3D"]
    sample = asked.samples[scan.place]
    box = box_around((sample.valid | sample.defect).numpy())
    assert pictures(figure)[0].width == min(box.side, scan_figures.MOST_PX)
    # Axes count the pixels of the encoders' image, however small the images are stored.
    assert tuple(figure.layout.xaxis.range) == (box.left - 0.5, box.left + box.side - 0.5)
    for ring in rings:
        assert (ring.x[0], ring.y[0]) == (scan.peak.column, scan.peak.row)
    text = figure.layout.title.text.replace("<br>", " ")
    assert text == mistakes.sentence(scan)
    assert max(map(len, figure.layout.title.text.split("<br>"))) <= scan_figures.LINE_LETTERS


def test_grids_stay_light_at_any_image_size(large: Run) -> None:
    chosen = mistakes.judged(large)[:8]
    assert len(scan_figures.maps_grid(large, chosen).to_json()) < 1_000_000


def test_names_stay_text(run: Run) -> None:
    evil = copy.deepcopy(run.result)
    samples = list(run.samples)
    for i, scan in enumerate(evil["scans"]):
        if scan["kind"] == "dent":
            scan["kind"], scan["name"] = "<script>x", f"a/test/<script>x/<b>{i}"
            samples[i] = replace(samples[i], name=scan["name"])
    other = replace(run, result=evil, samples=samples)
    scans = mistakes.judged(other)
    dents = [scan for scan in scans if scan.kind == "<script>x"]
    shown = scan_figures.maps_grid(other, dents).to_json() + mistakes.answer(other, scans)
    shown += scan_figures.mistake_figure(other, dents[-1]).to_json()
    assert "<script>" not in shown and "&lt;script&gt;x" in shown and "<b>1" not in shown


def test_predictions_of_every_mode_are_drawn_in_their_order(run: Run, scans: list[Judged]) -> None:
    flat = {m: list(found) for m, found in run.predictions.items()}
    i = scans[0].place
    flat["rgb"][i] = Prediction(torch.full_like(flat["rgb"][i].anomaly_map, 1e6), 1e6)
    row = scan_figures.map_row(
        replace(run, predictions=flat), scans[0], score_ranges(run.samples, run.predictions)
    )
    assert list(row.images)[3:] == ["3D", "RGB", "RGB + 3D", "disagreement", "all three"]
    assert len(MODES) == 5
    assert set(np.unique(np.asarray(row.images["RGB"]))) <= {250, 254, 255}
