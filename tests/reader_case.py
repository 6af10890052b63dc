"""One scan of an own camera as files, and what an import makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from lsfa_lib.datasets.importing import Target, import_scans
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.records import Scan

SIZE = (24, 32)
CAMERA = {"fx": 40.0, "fy": 40.0, "cx": 16.0, "cy": 12.0}


def colours(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def depths() -> np.ndarray:
    return np.random.default_rng(0).integers(400, 600, SIZE).astype(np.uint16)


def put_depth(path: Path, depth: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, depth)
    elif path.suffix == ".tiff":
        tifffile.imwrite(path, depth)
    else:
        Image.fromarray(depth).save(path)
    return path


def write_source(folder: Path) -> Path:
    """A new folder with one scan, and the camera beside it."""
    folder.mkdir()
    Image.fromarray(colours()).save(folder / "a.png")
    put_depth(folder / "a_depth.png", depths())
    (folder.parent / "camera.json").write_text(json.dumps(CAMERA))
    return folder


def brought(source: Path, **about: str) -> Scan:
    """The only scan of a folder after its import."""
    root = source.parent / "mine"
    target = Target(root, "part", about.pop("split", "train"), **about)  # type: ignore[arg-type]
    import_scans(source, target, source.parent / "camera.json")
    (scan,) = read_split(root, "part", target.split)
    return scan
