"""Scores files, each once: all that are there, or those that arrive; also after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lsfa_lib.config import resolve_device
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.incoming import (
    Incoming,
    find_incoming,
    read_incoming,
    require_camera,
    require_scans,
)
from lsfa_lib.datasets.own_camera import Intrinsics
from lsfa_lib.deployment.drift import drift_warning
from lsfa_lib.deployment.inspector import NOT_SCORED, Inspection
from lsfa_lib.deployment.report import write_report
from lsfa_lib.deployment.results import Record, Results, problem_record
from lsfa_lib.features.lazy_scan import fixed_threads, side_by_side
from lsfa_lib.storage.files import InputError, progress

POLL_S = 0.25
REPORT_EVERY_S = 30.0


@dataclass
class Scoring:
    """Scans from some paths on their way into a results folder."""

    results: Results
    paths: Sequence[Path]
    camera: Intrinsics | None = None
    unit_m: float = 0.0
    """Metres per unit of depth images and clouds; see `read_own`."""
    records: dict[str, Record] = field(default_factory=dict)
    """Of the scans done, in this process or before it."""

    def batch(self) -> list[Record]:
        """Scores every scan that has no record yet, then writes tables and report; all rows."""
        found = self._look()
        require_scans(found, self.paths)
        require_camera(found, self.camera)
        self.records = self.results.records()
        waiting = [entry for entry in found.entries if self._is_new(entry)]
        try:
            for entry in progress(self.scored(waiting), "scans", len(waiting)):
                if self._is_new(entry):
                    file = entry.files[-1]
                    found.problems[str(file)] = f"{file}: changed while it was read; call again"
        finally:  # also what was done before an interrupt or a full disk
            rows = self._write_tables(found)
        self._write_report(rows)
        return rows

    def watch(self, settle_s: float, stop: Callable[[float], bool]) -> list[Record]:
        """Scores scans as they arrive, until `stop` of the idle seconds; all rows.

        A scan's files are read once they have not changed for `settle_s` seconds.
        """
        self.records = self.results.records()
        seen: dict[str, tuple[object, float]] = {}
        busy, last_report, reported = time.monotonic(), -REPORT_EVERY_S, True
        rows = self._write_tables(self._look())
        while True:
            try:
                found = self._look()
                require_camera(found, self.camera)
            except InputError:
                self._write_report(rows)
                raise
            new = [entry for entry in found.entries if self._is_new(entry)]
            ready = list(self._settled(new, seen, settle_s))
            list(self.scored(ready))
            now = time.monotonic()
            busy = now if new else busy
            if ready:
                rows, reported = self._write_tables(found), False
            elif not reported and now - last_report > REPORT_EVERY_S:
                self._write_report(rows)
                last_report, reported = time.monotonic(), True
            elif stop(now - busy):
                return self.finished()
            else:
                time.sleep(POLL_S)

    def finished(self) -> list[Record]:
        """Writes tables and report of what is done; all rows."""
        rows = self._write_tables(self._look())
        self._write_report(rows)
        return rows

    @property
    def warning(self) -> str:
        """The warning of drift; "" if there is none."""
        inspector = self.results.inspector
        scores = [
            r["score"] for r in self.records.values() if r["verdict"] in ("good", "defective")
        ]
        return drift_warning(scores, inspector.good_scores, inspector.threshold)

    def _look(self) -> Incoming:
        inspector, skip = self.results.inspector, self.results.folder
        light = inspector.config.data.light
        found = find_incoming(self.paths, inspector.origin.captured, light, skip)
        entries = []
        for entry in found.entries:
            if missing := [file for file in entry.files if not file.exists()]:
                sentence = f"{missing[0]}: does not exist, or its link is broken; restore it"
                found.problems[str(missing[0])] = sentence
            else:
                entries.append(entry)
        return replace(found, entries=entries)

    def _is_new(self, entry: Entry) -> bool:
        """No record, or files that changed since: then it is another scan of that name."""
        record = self.records.get(entry.name)
        return record is None or record["files"] != self._state(entry)

    def _state(self, entry: Entry) -> list[list[object]]:
        """That of the scan's files, and how they are read; [] while one is missing."""
        state = state_of(entry)
        if state and (self.camera or self.unit_m):
            state.append([str(self.camera), self.unit_m])
        return state

    def _settled(
        self, new: Sequence[Entry], seen: dict[str, tuple[object, float]], settle_s: float
    ) -> Iterator[Entry]:
        """Those whose files have been the same for so long."""
        now = time.monotonic()
        for entry in new:
            state = state_of(entry)
            if entry.name not in seen or seen[entry.name][0] != state:
                seen[entry.name] = state, now
            if state and now - seen[entry.name][1] >= settle_s:
                yield entry

    def scored(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        """The entries, each once it is scored: as many at a time as there are cores."""
        config = self.results.inspector.config
        with fixed_threads(config.threads):
            yield from side_by_side(self._score, entries, resolve_device(config.device))

    def _score(self, entry: Entry) -> None:
        began, state, scan = time.perf_counter(), self._state(entry), None
        inspector = self.results.inspector
        try:
            scan = read_incoming(entry, self.camera, self.unit_m)
            found = inspector.judged(scan)
        except InputError as error:
            found = Inspection(entry.name, NOT_SCORED, str(error))
        if not state or self._state(entry) != state:
            return  # it changed while it was read: scored at the next look
        found = replace(found, seconds=time.perf_counter() - began, files=state)
        records = list(self.records.values())  # other threads add to them
        self.records[entry.name] = self.results.keep(entry, found, scan, records)

    def _write_tables(self, found: Incoming) -> list[Record]:
        rows = [self.records[name] for name in sorted(self.records)]
        rows += [problem_record(name, text) for name, text in sorted(found.problems.items())]
        self.results.write_tables(rows)
        return rows

    def _write_report(self, rows: Sequence[Record]) -> None:
        write_report(self.results.folder, rows, self.results.inspector, self.warning)


def state_of(entry: Entry) -> list[list[object]]:
    """Path, size and modification time of a scan's files; [] while one is missing."""
    files = dict.fromkeys(entry.files)
    try:
        stats = {file: file.stat() for file in files}
    except FileNotFoundError:
        return []
    return [[str(f.resolve()), s.st_size, s.st_mtime_ns] for f, s in stats.items()]
