"""TIFF files as arrays, as cameras and their software write them."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from jaxtyping import Shaped
from tifffile import PHOTOMETRIC

from lsfa_lib.storage.files import InputError

MOST_PAGES = 20_000
"""Of a TIFF that stores each row as one."""
MOST_VALUES = 3 * 10**8
"""Of one image: a damaged header can ask for more than the memory."""
CONVERTED = (PHOTOMETRIC.SEPARATED, PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB, PHOTOMETRIC.ITULAB)
"""Colours that are not red, green and blue."""


def read_tiff(path: Path) -> Shaped[np.ndarray, "*sizes"]:
    """The only image of a TIFF, channels last, upright.

    Raises ValueError for any other file, and InputError for colours other than RGB.
    """
    _require_chain(path)
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        # Some writers store each row of an image as a page.
        if len(file.series) > 1 or (len(series.pages) > 1 and series.shape[-1] > 4):
            raise ValueError(f"{max(len(file.series), len(series.pages))} images, expected one")
        if math.prod(series.shape) > MOST_VALUES:
            raise ValueError(f"an image of {series.shape}, too large for a camera's")
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        plain = page.compression == tifffile.COMPRESSION.NONE
        if page.photometric in CONVERTED or (page.photometric == PHOTOMETRIC.YCBCR and plain):
            name = PHOTOMETRIC(page.photometric).name
            raise InputError(f"{path}: colours as {name}, expected RGB or grey; export it as PNG")
        values = file.asarray()
        if page.photometric == PHOTOMETRIC.PALETTE and page.colormap is not None:
            values = np.moveaxis(page.colormap, 0, -1)[values]
        if page.photometric == PHOTOMETRIC.MINISWHITE and values.dtype.kind in "bu":
            values = ~values
        if values.ndim == 3 and page.planarconfig == 2 and page.samplesperpixel == len(values):
            values = np.moveaxis(values, 0, -1)
        orientation = page.tags.valueof(274, 1)
    if values.ndim < 2 or not values.size:
        raise ValueError(f"an image of {values.shape}, expected rows and columns")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    turns = {2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}
    quarter, mirrored = turns.get(int(orientation), (0, 0))
    values = np.rot90(values, quarter)
    return values[:, ::-1] if mirrored else values


def _require_chain(path: Path) -> None:
    """Raises ValueError if the pages of a TIFF form a loop, in which tifffile would not end."""
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        count, link, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
        at, seen = 8 if big else 4, set[int]()
        while True:
            (page,) = _number_at(file, at, order + link)
            if not page:
                return
            if page in seen or len(seen) > MOST_PAGES:
                raise ValueError(f"{len(seen)} pages or more, which form a loop")
            seen.add(page)
            (entries,) = _number_at(file, page, order + count)
            at = page + struct.calcsize(count) + entries * entry


def _number_at(file: BinaryIO, at: int, form: str) -> tuple[int]:
    """The number at a place of the file; 0 behind its end."""
    if at >= 2**63:
        return (0,)
    file.seek(at)
    size = struct.calcsize(form)
    return struct.unpack(form, file.read(size).ljust(size, b"\0"))
