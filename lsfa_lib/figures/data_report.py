"""What the scans of a data set are, in tables and sentences; every number from the measurements."""

from __future__ import annotations

import html
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from lsfa_lib.datasets.entry import SPLITS
from lsfa_lib.figures.tables import marked
from lsfa_lib.records import UNLABELLED

FLAT_MM = 10.0
"""A part lower than twice the usual reach of the background plane loses much of its rim."""
MUCH = 0.05
"""Share of the part without a reading, or not connected and dropped, that is reported as odd."""
SEEN = 0.7
"""Share of a defect with a point of the part, below which its material counts as missing."""


def counts_table(counts: pd.DataFrame) -> Styler:
    """Scans of each category: good ones by split, then the kinds of defects of the test split."""
    good = counts["good"].unstack("split").reindex(columns=list(SPLITS), fill_value=0)
    good.columns = pd.Index([split if split != "test" else "test, good" for split in good.columns])
    defects = counts.drop(columns="good").groupby("category").sum()
    frame = pd.concat((good, defects), axis=1).fillna(0).astype(int)
    return _plain(frame.map(lambda n: str(n) if n else "–").rename_axis("category").reset_index())


def class_table(facts: pd.DataFrame) -> Styler:
    """A row a category: the medians of its training scans."""
    rows = []
    for category, scans in facts[facts["split"] == "train"].groupby("category"):
        sizes = scans[["width_px", "height_px"]].drop_duplicates().to_numpy().tolist()
        rows.append(
            {
                "category": str(category),
                "scans": str(len(scans)),
                "frame, px": ", ".join(f"{width} × {height}" for width, height in sizes),
                "part": percent(mid(scans, "part")),
                "background": percent(mid(scans, "background")),
                "length, mm": f"{mid(scans, 'length_mm'):.0f}",
                "width, mm": f"{mid(scans, 'width_mm'):.0f}",
                "height, mm": f"{mid(scans, 'height_mm'):.1f}",
                "missing readings": percent(mid(scans, "holes")),
                "plane's tilt": f"{mid(scans, 'tilt_deg'):.1f}°",
                "patch, mm": f"{mid(scans, 'patch_mm'):.2f}",
            }
        )
    return _plain(pd.DataFrame(rows))


def defect_table(facts: pd.DataFrame) -> Styler:
    """A row a kind of defect, medians and in brackets least and largest; smallest kind first."""
    defects = defects_of(facts)
    rows = {}
    for kind, scans in defects.groupby("kind"):
        area = scans["defect_mm2"]
        widths = scans["defect_width_mm"]
        rows[area.median(), str(kind)] = {
            "kind": str(kind),
            "scans": str(len(scans)),
            "area, mm²": f"{area.median():.0f} [{area.min():.0f}, {area.max():.0f}]",
            "of the part": percent(mid(scans, "defect_share")),
            "patches": f"{mid(scans, 'defect_patches'):.1f}",
            "widest place, mm": f"{widths.median():.1f} [{widths.min():.1f}, {widths.max():.1f}]",
            "thinner than a patch": f"{int((widths < scans['patch_mm']).sum())} of {len(scans)}",
            "on a point of the part": percent(mid(scans, "defect_seen")),
        }
    caption = "" if rows else thin_sentence(facts)
    return _plain(pd.DataFrame([rows[key] for key in sorted(rows)]), caption)


def answer(counts: pd.DataFrame, facts: pd.DataFrame, category: str) -> str:
    """What is in the data of a category, as Markdown: sizes, background, defects, oddities."""
    own = facts[facts["category"] == category]
    train = own[own["split"] == "train"]
    off = own["background"] + own["loose"]
    background = float((off / (off + own["part"])).median())
    lines = [
        f"**{percent(background)} of what the camera read of {html.escape(category)} is "
        f"background; a part keeps {percent(mid(train, 'part'))} of the frame, "
        f"{mid(train, 'patches'):.0f} of {_grid_patches(train)} patches.**\n",
        f"- **Part:** {mid(train, 'length_mm'):.0f} × {mid(train, 'width_mm'):.0f} mm and "
        f"{mid(train, 'height_mm'):.1f} mm high; {percent(mid(train, 'holes'))} of it has "
        f"no reading. The plane below is tilted by {mid(train, 'tilt_deg'):.1f}° "
        f"({train['tilt_deg'].min():.1f} to {train['tilt_deg'].max():.1f}°).",
        *_defect_lines(own),
    ]
    odd = oddities(counts, facts, category)
    lines += [f"- **Odd:** {text}." for text in odd] or ["- Nothing odd was found."]
    return "\n".join(lines)


def thin_sentence(facts: pd.DataFrame) -> str:
    """How many defects no patch fits into."""
    defects = defects_of(facts)
    if not len(defects):
        return "No defect to measure"
    thin = int((defects["defect_width_mm"] < defects["patch_mm"]).sum())
    patch = patch_mm(facts)
    if not thin:
        return f"Each of {len(defects)} defects is wider than a patch of {patch:.1f} mm"
    return f"{thin} of {len(defects)} defects are thinner than a patch of {patch:.1f} mm"


def oddities(counts: pd.DataFrame, facts: pd.DataFrame, category: str) -> list[str]:
    """What may trouble a detector in the scans of a category, a sentence each."""
    own = facts[facts["category"] == category]
    test = counts.xs(category, level="category").reindex(["test"]).fillna(0)
    good, every = test["good"].sum(), test.to_numpy().sum()
    unknown = test[UNLABELLED].sum() if UNLABELLED in test else 0.0
    sizes = len(own[["width_px", "height_px"]].drop_duplicates())
    low = int(((own["height_mm"] < FLAT_MM) & (own["background"] > 0)).sum())
    cut = int(own["at_edge"].sum())
    unread, loose = mid(own, "holes"), float((own["loose"] / own["part"]).max())
    found = {
        "no good test scan, so that false alarms and AUROC are undefined": good == 0,
        f"{unknown:.0f} test scans are unlabelled: scored, but in no metric": unknown > 0,
        "no defective test scan, so that nothing can be found": every - good - unknown == 0,
        f"frames of {sizes} sizes": sizes > 1,
        f"{low} of {len(own)} parts rise less than {FLAT_MM:g} mm above the plane, so that their "
        "lowest readings are removed with it; lower preprocess.plane_distance_m": low > 0,
        f"{percent(unread)} of the part's surface has no reading": unread > MUCH,
        f"pieces apart from the part, up to {percent(loose)} of its size, are dropped": (
            loose > MUCH
        ),
        f"{cut} of {len(own)} parts touch the edge of the frame": cut > 0,
    }
    return [text for text, so in found.items() if so]


def defects_of(facts: pd.DataFrame) -> pd.DataFrame:
    """The scans whose ground truth marks something."""
    return facts[facts["defective"] & (facts["defect_mm2"] > 0)]


def patch_mm(facts: pd.DataFrame) -> float:
    """Median side of a patch; of the defective scans where there are some."""
    defects = defects_of(facts)
    return mid(defects if len(defects) else facts, "patch_mm")


def mid(scans: pd.DataFrame, column: str) -> float:
    """Median of a column."""
    return float(scans[column].median())


def percent(share: float) -> str:
    """`41 %`, `1.7 %`."""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def short_name(scan: Any) -> str:
    """`hole/003` of `biscuit/test/hole/003`, escaped."""
    return html.escape("/".join(str(scan).split("/")[-2:]))


def _defect_lines(own: pd.DataFrame) -> list[str]:
    defects = defects_of(own)
    if not len(defects):
        return []
    small = defects.nsmallest(1, "defect_patches")
    thin = bool((defects["defect_width_mm"] < defects["patch_mm"]).any())
    hard = "; such a defect fills no patch and is hard to find." if thin else "."
    lines = [
        f"- **Defects:** the median covers {mid(defects, 'defect_mm2'):.0f} mm², "
        f"{percent(mid(defects, 'defect_share'))} of the part or "
        f"{mid(defects, 'defect_patches'):.0f} patches of {patch_mm(own):.1f} mm; the smallest, "
        f"{short_name(small['name'].item())}, {small['defect_patches'].item():.1f} patches. "
        f"{thin_sentence(own)}{hard}"
    ]
    seen = defects.groupby("kind")["defect_seen"].median().sort_values()
    missing = [f"{html.escape(str(k))} {percent(v)}" for k, v in seen.items() if v < SEEN]
    if missing:
        lines.append(
            "- **Missing material:** where a defect took the surface away no point of the part is "
            f"left. Share of the defect that still has one: {', '.join(missing)}. The rest can be "
            "scored at its rim alone."
        )
    return lines


def _grid_patches(facts: pd.DataFrame) -> int:
    sides = facts[["width_px", "height_px"]].max(axis=1) * facts["pitch_mm"] / facts["patch_mm"]
    return round(float(sides.median())) ** 2


def _plain(frame: pd.DataFrame, caption: str = "") -> Styler:
    return marked(frame, pd.DataFrame(index=frame.index), caption=caption).hide(axis="index")
