"""What is shown of runs: stage, step and time left of each that runs, and how each ended."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

QUIET_S = 10.0
"""Without a terminal, a run that continues is mentioned at most this often."""


class Watch:
    """Progress on stderr: a bar of all runs and a line for each on a terminal, else plain lines."""

    def __init__(self, total: int) -> None:
        self.total, self.ended, self.failed = total, 0, 0
        self.terminal = sys.stderr.isatty()
        self.spoken: dict[str, float] = {}
        """When each run was last mentioned."""
        self.lines: dict[str, Any] = {}
        self.bar = self._line("{l_bar}{bar}{r_bar}", total=total, desc="runs")

    def _line(self, form: str, **how: Any) -> Any:
        off = not self.terminal
        return tqdm(bar_format=form, leave=False, dynamic_ncols=True, disable=off, **how)

    def say(self, text: str) -> None:
        """A line that stays."""
        tqdm.write(text, file=sys.stderr)

    def heard(self, run: str, where: str) -> None:
        """A run says where it is: `train adaptors, step 23 of 50, 00:12 left`."""
        now = time.monotonic()
        if self.terminal:
            if run not in self.lines:
                self.lines[run] = self._line("{desc}")
            self.lines[run].set_description_str(f"{run}: {where}")
        elif now - self.spoken.setdefault(run, now) >= QUIET_S:
            self.spoken[run] = now
            self.say(f"{run}: {where}")

    def finished(self, folder: Path, seconds: float, error: str = "") -> None:
        """A run ended, with that error where it failed."""
        self.ended += 1
        self.failed += bool(error)
        if folder.name in self.lines:
            self.lines.pop(folder.name).close()
        self.bar.update()
        self.bar.set_postfix_str(f"{self.failed} failed" if self.failed else "")
        place = f"{self.ended} of {self.total}: {folder.name}"
        if error:
            self.say(f"{place} failed: {error}")
        elif not self.terminal:
            self.say(f"{place} done in {seconds:.1f} s")

    def close(self) -> None:
        """Removes the bars."""
        for line in (*self.lines.values(), self.bar):
            line.close()
