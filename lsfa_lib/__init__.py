"""LSFA: self-supervised feature adaptation for RGB + 3D industrial anomaly detection."""

import importlib
import warnings
from typing import Any

# torch says once per process that sparse CSR is in beta; we only multiply with it, which is tested.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

__version__ = "0.1.0"
FRONT = {
    "configure": "lsfa_lib.config:configure",
    "run_category": "lsfa_lib.pipeline:run_category",
    "run_sweep": "lsfa_lib.studies.sweep:run_sweep",
    "Explorer": "lsfa_lib.explorer.explore:Explorer",
    "metrics": "lsfa_lib.evaluation.metrics",
    "METHODS": "lsfa_lib.methods:METHODS",
    "load": "lsfa_lib.deployment.inspector:load",
}
"""Names that `from lsfa_lib import ...` offers, and where they lie; imported when asked for."""


def __getattr__(name: str) -> Any:
    if name not in FRONT:
        raise AttributeError(f"module 'lsfa_lib' has no attribute {name!r}")
    module, _, attribute = FRONT[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return [*globals(), *FRONT]
