"""What metrics, modes and terms are called, once for figures, pages, studies and the command line.

Keys are those of result.json; terms are written as they are shown.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

METRICS: dict[str, str] = {
    "i_auroc": "I-AUROC",
    "p_auroc": "P-AUROC",
    "aupro_30": "AUPRO 30 %",
    "aupro_10": "AUPRO 10 %",
    "aupro_05": "AUPRO 5 %",
    "aupro_01": "AUPRO 1 %",
    "aupro_30_peer": "AUPRO (MVTec code) 30 %",
    "aupro_01_peer": "AUPRO (MVTec code) 1 %",
}
MODES: dict[str, str] = {
    "3d": "3D",
    "rgb": "RGB",
    "rgb+3d": "RGB + 3D",
    "disagreement": "Disagreement",
    "rgb+3d+disagreement": "RGB + 3D + disagreement",
    "heads": "Defect heads",
    "rgb+heads": "RGB + defect heads",
    "3d+heads": "3D + defect heads",
    "rgb+3d+heads": "RGB + 3D + defect heads",
    "rgb+3d+disagreement+heads": "RGB + 3D + disagreement + defect heads",
}
SHORT_MODES: dict[str, str] = {
    **MODES,
    "disagreement": "disagreement",
    "rgb+3d+disagreement": "all three",
    "heads": "defect heads",
    "rgb+heads": "RGB + heads",
    "3d+heads": "3D + heads",
    "rgb+3d+heads": "both + heads",
    "rgb+3d+disagreement+heads": "all four",
}
"""For legends, buttons and narrow columns."""
GLOSSARY: dict[str, str] = tomllib.loads(
    Path(__file__).with_name("glossary.toml").read_text("utf-8")
)
"""Term -> explanation, in the order of the list at the end of a page."""


def metric_label(key: str) -> str:
    """What a metric of result.json is called; the key itself for an unknown one."""
    return METRICS.get(key, key)


def mode_label(key: str, short: bool = False) -> str:
    """What a mode is called, `short` in legends and buttons; the key itself for an unknown one."""
    return (SHORT_MODES if short else MODES).get(key, key)
