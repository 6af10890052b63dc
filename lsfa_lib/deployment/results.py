"""A folder of results: one record per scan, written last and whole; tables derived from them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lsfa_lib.datasets.entry import Entry
from lsfa_lib.deployment.in_frame import overlay, write_cloud, write_map, write_png
from lsfa_lib.deployment.inspector import NOT_SCORED, Inspection, Inspector
from lsfa_lib.deployment.report import figure_of, is_shown
from lsfa_lib.records import Mode, Scan
from lsfa_lib.storage.files import InputError, atomic_write, locked

Record = dict[str, Any]
"""One scan as JSON: see `record_of`."""
MAP, OVERLAY, CLOUD = "maps/{}.tiff", "overlays/{}.png", "clouds/{}.ply"
FIGURE, RECORD = "figures/{}.json", "records/{}.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results:
    """The folder, and the detector whose results it holds."""

    folder: Path
    inspector: Inspector

    def keep(
        self, entry: Entry, found: Inspection, scan: Scan | None, others: Sequence[Record] = ()
    ) -> Record:
        """Writes the outputs of a scan, then its record: a scan with a record is complete.

        The interactive view takes as long as a third of the detection: it is made only if the
        report would show this scan among the others so far.
        """
        record = record_of(found)
        if scan is not None and found.anomaly_map is not None:
            self.write_outputs(entry.name, found, scan)
            self.write_view(found, is_shown(record, others))
        else:
            for name in (MAP, OVERLAY, CLOUD, FIGURE):  # of another scan that had this name
                (self.folder / name.format(entry.name)).unlink(missing_ok=True)
        self._write_json(RECORD.format(entry.name), record)
        return record

    def records(self) -> dict[str, Record]:
        """The records of all scans by name; a damaged one is left out, and its scan done again."""
        found = {}
        for path in sorted((self.folder / "records").rglob("*.json")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                found[str(record["scan"])] = record
            except (ValueError, KeyError, TypeError) as error:
                _log.warning("%s is damaged (%s); its scan is scored again", path, error)
        return found

    def write_tables(self, records: Sequence[Record]) -> None:
        """Writes scores.csv, scores.parquet and regions.json."""
        frame = table_of(records, self.inspector.detector.modes)
        with atomic_write(self.folder / "scores.csv") as file:
            frame.to_csv(file, index=False, float_format="%.6g")
        with atomic_write(self.folder / "scores.parquet") as file:
            frame.to_parquet(file)
        self._write_json("regions.json", {r["scan"]: r["regions"] for r in records})

    def write_outputs(self, name: str, found: Inspection, scan: Scan) -> None:
        """Writes map, overlay and cloud of a scan that was scored."""
        inspector, anomaly = self.inspector, found.anomaly_map
        assert anomaly is not None
        bounds = inspector.detector.surface[inspector.mode]
        image = overlay(scan.rgb, anomaly, bounds, inspector.pixel_threshold)
        write_map(self.folder / MAP.format(name), anomaly)
        write_png(self.folder / OVERLAY.format(name), image)
        if "3d" in inspector.origin.captured:
            write_cloud(self.folder / CLOUD.format(name), scan.xyz, image, anomaly)

    def write_view(self, found: Inspection, shown: bool) -> None:
        """Writes the interactive view of a scan; removes it if it is not shown."""
        path = self.folder / FIGURE.format(found.name)
        if not shown:
            path.unlink(missing_ok=True)  # of another scan that had this name
            return
        with atomic_write(path) as file:
            file.write_text(figure_of(self.inspector, found), encoding="utf-8")

    def _write_json(self, name: str, values: Any) -> None:
        with atomic_write(self.folder / name) as file:
            file.write_text(json.dumps(values, indent=1), encoding="utf-8")


@contextmanager
def opened(folder: Path, inspector: Inspector) -> Iterator[Results]:
    """The results folder, locked for this process.

    Raises InputError if another process writes there, and if it holds another detector's results.
    """
    try:
        with locked(folder, wait=False):
            _require_same(folder / "detector.json", inspector)
            for name in (MAP, OVERLAY, CLOUD, FIGURE, RECORD):
                for left in (folder / name).parent.rglob(".partial-*"):  # of a killed process
                    left.unlink()
            yield Results(folder, inspector)
    except BlockingIOError as error:
        raise InputError(
            f"{folder}: another `lsfa predict` writes here; stop it, or choose another --out"
        ) from error


def _require_same(path: Path, inspector: Inspector) -> None:
    """Notes the detector in a new folder. InputError if the folder has another one's results."""
    about = {"sha256": inspector.sha256, "category": inspector.origin.category}
    if not path.exists():
        with atomic_write(path) as file:
            file.write_text(json.dumps(about), encoding="utf-8")
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged; choose another --out") from error
    if known != about:
        raise InputError(
            f"{path.parent} holds results of another detector file (or of this one before it was "
            "calibrated); choose another --out"
        )


def record_of(found: Inspection) -> Record:
    """The plain values of an inspection, regions in full."""
    return {
        "scan": found.name,
        "verdict": found.verdict,
        "score": found.score,
        "p_value": found.p_value,
        "threshold": found.threshold,
        "scores": found.scores,
        "unlike": found.unlike,
        "regions": [asdict(region) for region in found.regions],
        "seconds": found.seconds,
        "note": found.note,
        "files": found.files,
    }


def problem_record(name: str, sentence: str) -> Record:
    """The row of files that make no complete scan."""
    return record_of(Inspection(name, NOT_SCORED, sentence))


def table_of(records: Sequence[Record], modes: Sequence[Mode]) -> pd.DataFrame:
    """One row per scan: verdict, scores, number, area and place of its regions."""
    rows = []
    for record in records:
        regions = record["regions"]
        largest = regions[0] if regions else {}
        areas = [region["area_mm2"] for region in regions if region["area_mm2"] is not None]
        column, row = largest.get("centroid_px") or (None, None)
        x, y, z = largest.get("centroid_mm") or (None, None, None)
        rows.append(
            {
                **{n: record[n] for n in ("scan", "verdict", "score", "p_value", "threshold")},
                **{f"score_{mode}": record["scores"].get(mode) for mode in modes},
                "unlike": record["unlike"],
                "regions": len(regions) if record["score"] is not None else None,
                "area_px": sum(r["area_px"] for r in regions) if regions else None,
                "area_mm2": sum(areas) if areas else None,
                **{"column_px": column, "row_px": row, "x_mm": x, "y_mm": y, "z_mm": z},
                **{"seconds": record["seconds"], "note": record["note"]},
            }
        )
    numbers = [f"score_{mode}" for mode in modes]
    numbers = ["score", "p_value", "threshold", *numbers, "unlike", "area_mm2"]
    numbers += ["column_px", "row_px", "x_mm", "y_mm", "z_mm", "seconds"]
    types: dict[str, str] = dict.fromkeys(numbers, "float64") | {
        "regions": "Int64",
        "area_px": "Int64",
    }
    columns = ["scan", "verdict", *numbers[:3], *(f"score_{mode}" for mode in modes), "unlike"]
    columns += ["regions", "area_px", "area_mm2", *numbers[-6:], "note"]
    return pd.DataFrame(rows, columns=columns).astype(types)
