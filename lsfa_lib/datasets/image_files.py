"""Image files as arrays. A file that cannot be decoded raises InputError, which names it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image, ImageOps

from lsfa_lib.records import Mask, Rgb
from lsfa_lib.storage.files import InputError

TIFF = (".tif", ".tiff")
PLAIN = ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I", "F", "1")
"""Modes of Pillow whose values are brightness."""
MOST_PAGES = 20_000
"""Of a TIFF that stores each row as one."""
MOST_VALUES = 3 * 10**8
"""Of one image: a damaged header can ask for more than the memory."""


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Any error inside the block becomes an InputError about `path`."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; it was moved or removed, restore it") from error
    except Exception as error:  # a damaged header can even ask for 128 GiB: MemoryError
        if path.is_file() and path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty; restore the original") from error
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise InputError(
            f"{path}: cannot be decoded ({reason}), it may be truncated; restore the original"
        ) from error


def read_rgb(path: Path) -> Rgb:
    """An RGB image with 8 bits per channel, upright. Raises InputError for any other."""
    return _read_8_bit(path, ("RGB",), "RGB with 8 bits per channel")


def read_gt(path: Path) -> Mask:
    """True where a grey image is not 0: 253, 254 and 255 all occur. InputError for any other."""
    return _marked(_read_8_bit(path, ("L", "1"), "L (grey) with 8 bits"), path)


def _read_8_bit(
    path: Path, modes: tuple[str, ...], expected: str
) -> Shaped[np.ndarray, "H W *channels"]:
    with decoding(path), _opened(path) as image:
        # Pillow silently reads 16-bit colour as 8-bit; byte 24, in the header, has the depth.
        depth = path.read_bytes()[24] if image.format == "PNG" else 8
        if image.mode in modes and depth <= 8:
            return np.array(ImageOps.exif_transpose(image))
        raise InputError(
            f"{path}: an image in {image.mode} with {depth} bits per channel, expected {expected}; "
            f"convert it, or all of its folder with `lsfa data import {path.parents[1]} NAME`"
        )


def read_colour(path: Path) -> Rgb:
    """Any photograph as RGB of 8 bits, turned upright as its EXIF orientation says.

    Grey and palette become RGB, an alpha channel is dropped, 16 bits are scaled by their range.
    Raises InputError for floats, several images in one file, and values that use less than 12 of
    16 bits, which would become black.
    """
    values = _upright(path)
    if values.dtype == np.uint16:
        if values.max(initial=0) < 4096:
            raise InputError(
                f"{path}: values up to {values.max(initial=0)} of 65535, as a camera of 12 bits "
                "stores them; export 8 bits"
            )
        values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.ndim == 3 and values.shape[2] in (1, 2):
        values = values[..., 0]
    if values.ndim == 2:
        values = np.stack([values] * 3, axis=-1)
    if values.ndim != 3 or values.shape[2] not in (3, 4) or values.dtype != np.uint8:
        raise InputError(
            f"{path}: an image of {values.dtype} {values.shape}, expected colours or grey of 8 or "
            "16 bits; export it as PNG"
        )
    return np.ascontiguousarray(values[..., :3])


def read_mask(path: Path) -> Mask:
    """True where any image, grey or coloured, is not black. Raises InputError."""
    values = _upright(path)
    if values.ndim == 3:
        values = values[..., :1] if values.shape[2] in (1, 2) else values[..., :3]
        values = values.max(axis=2, initial=0)
    if values.ndim != 2:
        raise InputError(f"{path}: an image of {values.shape}, expected a mask; draw it again")
    return _marked(values, path)


def _opened(path: Path) -> Image.Image:
    """An image of Pillow, not decoded yet."""
    image = Image.open(path)
    if image.width * image.height > MOST_VALUES // 3:
        image.close()
        raise ValueError(f"an image of {image.width} x {image.height} px, too large for a camera's")
    return image


def _marked(values: Shaped[np.ndarray, "H W"], path: Path) -> Mask:
    # JPEG leaves small values around what was marked.
    return values > (127 if path.suffix.lower() in (".jpg", ".jpeg") else 0)


def _upright(path: Path) -> Shaped[np.ndarray, "H W *channels"]:
    """The values of an image that Pillow or tifffile reads, without palette, upright."""
    with decoding(path):
        if path.suffix.lower() in TIFF:
            return _tiff(path)
        with _opened(path) as image:
            upright = ImageOps.exif_transpose(image)
            return np.array(upright if upright.mode in PLAIN else upright.convert("RGB"))


def _tiff(path: Path) -> Shaped[np.ndarray, "*sizes"]:
    """The only image of a TIFF, channels last, upright."""
    _require_chain(path)
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        # Some writers store each row of an image as a page.
        if len(file.series) > 1 or (len(series.pages) > 1 and series.shape[-1] > 4):
            raise ValueError(f"{max(len(file.series), len(series.pages))} images, expected one")
        if math.prod(series.shape) > MOST_VALUES:
            raise ValueError(f"an image of {series.shape}, too large for a camera's")
        page = file.pages[0]
        values = file.asarray()
        assert isinstance(page, tifffile.TiffPage)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
            values = np.moveaxis(page.colormap, 0, -1)[values]
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind in "bu":
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


def read_any(path: Path) -> Shaped[np.ndarray, "*sizes"]:
    """The values stored in a .tiff, .npy, .exr (one channel) or any image that Pillow reads.

    Axes of one entry before and after the image are left out.
    """
    suffix = path.suffix.lower()
    with decoding(path):
        if suffix in TIFF:
            values = _tiff(path)
        elif suffix == ".npy":
            values = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
        elif suffix == ".exr":
            values = _read_exr(path)
        else:
            with _opened(path) as image:
                values = np.asarray(ImageOps.exif_transpose(image))
        if values.dtype.kind not in "biuf":
            raise ValueError(f"values of {values.dtype}, expected numbers")
    while values.ndim > 2 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    return values


def _read_exr(path: Path) -> Shaped[np.ndarray, "H W"]:
    """The only channel, or the one called Z or depth."""
    import OpenEXR

    with OpenEXR.File(str(path), header_only=True) as file:
        low, high = file.header()["dataWindow"]
        if math.prod(int(b) - int(a) + 1 for a, b in zip(low, high, strict=True)) > MOST_VALUES:
            raise ValueError(f"an image of {low} to {high}, too large for a camera's")
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = file.channels()
        named = [n for n in channels if n.lower().split(".")[-1] in ("z", "depth", "y")]
        chosen = list(channels) if len(channels) == 1 else named
        if len(chosen) != 1:
            raise InputError(
                f"{path}: channels {', '.join(channels)}, expected one called Z; export depth alone"
            )
        return np.array(channels[chosen[0]].pixels)


def require_size(
    path: Path,
    array: Shaped[np.ndarray, "H W *channels"],
    xyz: Path,
    points: Shaped[np.ndarray, "h w 3"],
    remedy: str = "restore the original, all files of a scan have the same size",
) -> None:
    """Raises InputError unless the array read from `path` has the size of the points of `xyz`."""
    (height, width), (rows, columns) = array.shape[:2], points.shape[:2]
    if (height, width) != (rows, columns):
        raise InputError(
            f"{path}: {width} x {height} px, but {xyz} is {columns} x {rows} px; {remedy}"
        )
