"""What a reader must know of single test scans: those not scored, and those scored in part."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

MOST = 5
"""Scans named; the rest are counted."""


def remarks(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: scans that no part was found in or that cannot be read, then notes."""
    refused = [(r["name"], r["reason"]) for r in result.get("refused", [])]
    noted = [(s["name"], note) for s in result.get("scans", []) for note in s.get("notes", [])]
    lines = []
    for scans, lead in (
        (refused, "**Not scored (no part found, or not readable), and in no metric:**"),
        (noted, "**To check:**"),
    ):
        if scans:
            lines.append(f"- {lead} {len(scans)} of the test scans.")
            lines += [f"  - {_short(name)}: {_text(text)}" for name, text in scans[:MOST]]
            lines += [f"  - {len(scans) - MOST} more"] if len(scans) > MOST else []
    return lines


def _short(name: str) -> str:
    return html.escape("/".join(name.split("/")[-2:]))


def _text(sentence: str) -> str:
    """The sentence, with the file it names without its folders."""
    file, colon, rest = sentence.partition(": ")
    return html.escape(f"{Path(file).name}{colon}{rest}" if "/" in file else sentence)
