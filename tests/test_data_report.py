"""Tables and sentences about the data repeat the measurements; text from data stays text."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from scan_case import box_scan

from lsfa_lib.config import OURS
from lsfa_lib.figures import data_report, scan_statistics

CONFIG = replace(OURS, preprocess=replace(OURS.preprocess, image_size=120))
ONE = SimpleNamespace(**scan_statistics.facts(box_scan(), CONFIG))


def fact(name: str, **changes: object) -> dict:
    """The numbers of the box scan under another name, some of them changed; good without defect."""
    category, split, kind, _ = name.split("/")
    good = {"defect_mm2": 0.0, "defect_width_mm": 0.0} if kind == "good" else {}
    known = vars(ONE) | {"category": category, "split": split, "kind": kind, "name": name}
    return known | good | {"defective": kind != "good"} | changes


def table(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(rows)


def counted(facts: pd.DataFrame) -> pd.DataFrame:
    counts = facts.groupby(["category", "split", "kind"]).size().unstack("kind", fill_value=0)
    return counts.reindex(columns=["good", *sorted(set(counts.columns) - {"good"})], fill_value=0)


FACTS = table(
    fact("nut/train/good/000", part=0.40, background=0.50, loose=0.0, missing=0.10),
    fact("nut/train/good/001", part=0.44, background=0.46, loose=0.0, missing=0.10),
    fact("nut/test/good/000"),
    fact("nut/test/hole/000", defect_mm2=10.0, defect_width_mm=1.0, defect_patches=0.6),
    fact("nut/test/hole/001", defect_mm2=30.0, defect_width_mm=6.0, defect_patches=2.0),
    fact("nut/test/cut/000", defect_mm2=50.0, defect_width_mm=9.0, defect_seen=0.25),
    fact("bolt/train/good/000", part=0.20, background=0.75, loose=0.0, missing=0.05),
)
COUNTS = counted(FACTS)


def cells(page: str) -> list[list[str]]:
    body = page.partition("<tbody>")[2]
    found = [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in body.split("</tr>")
    ]
    return [row for row in found if row]


def test_counts_have_a_row_a_category() -> None:
    page = data_report.counts_table(COUNTS).to_html()
    assert cells(page) == [
        ["bolt", "1", "–", "–", "–", "–"],
        ["nut", "2", "–", "1", "1", "2"],
    ]
    head = re.findall(r"<th[^>]*>([^<]*)</th>", page.partition("<tbody>")[0])
    assert head == ["category", "train", "validation", "test, good", "cut", "hole"]


def test_classes_are_told_by_their_training_scans() -> None:
    rows = cells(data_report.class_table(FACTS).to_html())
    nut = rows[1]
    assert nut[:5] == ["nut", "2", "240 × 180", "42 %", "48 %"]
    assert nut[5:7] == [f"{ONE.length_mm:.0f}", f"{ONE.width_mm:.0f}"]
    assert nut[7:] == ["20.1", "0.4 %", "3.0°", f"{ONE.patch_mm:.2f}"]
    assert rows[0][3] == "20 %"


def test_kinds_of_defects_are_sorted_by_their_area() -> None:
    rows = cells(data_report.defect_table(FACTS).to_html())
    assert [row[:3] for row in rows] == [
        ["hole", "2", "20 [10, 30]"],
        ["cut", "1", "50 [50, 50]"],
    ]
    assert rows[0][5:7] == ["3.5 [1.0, 6.0]", "1 of 2"]
    assert [row[7] for row in rows] == ["100 %", "25 %"]


def test_equal_areas_are_two_kinds() -> None:
    twice = table(fact("nut/test/a/000"), fact("nut/test/b/000"))
    assert [row[0] for row in cells(data_report.defect_table(twice).to_html())] == ["a", "b"]


def test_answer_repeats_the_numbers() -> None:
    text = data_report.answer(COUNTS, FACTS, "nut")
    gone = FACTS[FACTS["category"] == "nut"]
    share = (gone["background"] + gone["loose"]) / (
        gone["background"] + gone["loose"] + gone["part"]
    )
    assert f"**{data_report.percent(share.median())} of what the camera read of nut" in text
    assert f"42 % of the frame, {ONE.patches} of 900 patches.**" in text
    assert "20.1 mm high" in text and "tilted by 3.0°" in text
    patch = f"{ONE.patch_mm:.1f}"
    assert f"the median covers 30 mm², 1.2 % of the part or 2 patches of {patch} mm" in text
    assert "the smallest, hole/000, 0.6 patches" in text
    assert f"1 of 3 defects are thinner than a patch of {patch} mm; such a defect" in text
    assert "Share of the defect that still has one: cut 25 %." in text
    assert "hole 100 %" not in text
    assert "bolt" not in text and "Nothing odd was found" in text


def test_wide_defects_are_not_called_hard() -> None:
    wide = FACTS.assign(defect_width_mm=FACTS["defect_width_mm"] * 10)
    text = data_report.answer(COUNTS, wide, "nut")
    assert f"Each of 3 defects is wider than a patch of {ONE.patch_mm:.1f} mm." in text
    assert "hard to find" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"holes": 0.12}, "12 % of the part's surface has no reading"),
        ({"height_mm": 6.0}, "6 of 6 parts rise less than 10 mm"),
        ({"at_edge": True}, "6 of 6 parts touch the edge of the frame"),
        ({"loose": 0.2, "part": 0.4}, "up to 50 % of its size, are dropped"),
    ],
)
def test_oddities_are_told(changes: dict, said: str) -> None:
    assert data_report.oddities(COUNTS, FACTS, "nut") == []
    odd = data_report.oddities(COUNTS, FACTS.assign(**changes), "nut")
    assert len(odd) == 1 and said in odd[0]
    assert f"- **Odd:** {odd[0]}." in data_report.answer(COUNTS, FACTS.assign(**changes), "nut")


def test_splits_that_lack_good_or_defective_scans_are_odd() -> None:
    no_good = FACTS.drop(index=2)
    (odd,) = data_report.oddities(counted(no_good), no_good, "nut")
    assert odd.startswith("no good test scan")
    no_bad = FACTS[~FACTS["defective"]]
    (odd,) = data_report.oddities(counted(no_bad), no_bad, "nut")
    assert odd.startswith("no defective test scan")
    text = data_report.answer(counted(no_bad), no_bad, "nut")
    assert "Defects" not in text and data_report.thin_sentence(no_bad) == "No defect to measure"
    assert ">No defect to measure</caption>" in data_report.defect_table(no_bad).to_html()
    sizes = FACTS.assign(width_px=[240, 240, 240, 300, 240, 240, 240])
    assert data_report.oddities(COUNTS, sizes, "nut") == ["frames of 2 sizes"]


def test_names_of_folders_stay_text() -> None:
    evil = "<script>x"
    facts = table(
        fact(f"{evil}/train/good/000"),
        fact(f"{evil}/test/good/000"),
        fact(f"{evil}/test/{evil}/{evil}", defect_seen=0.1),
    )
    counts = counted(facts)
    pages = [
        data_report.counts_table(counts).to_html(),
        data_report.class_table(facts).to_html(),
        data_report.defect_table(facts).to_html(),
        data_report.answer(counts, facts, evil),
    ]
    for page in pages:
        assert "<script>" not in page and "&lt;script&gt;x" in page


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (0.0172, "1.7 %"), (0.0996, "10 %"), (0.415, "42 %")]
)
def test_percent_has_the_digits_it_needs(share: float, text: str) -> None:
    assert data_report.percent(share) == text
