"""Image files as arrays. A file that cannot be decoded raises InputError, which names it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps

from lsfa_lib.datasets.tiff import MOST_VALUES, read_tiff
from lsfa_lib.records import Mask, Rgb
from lsfa_lib.storage.files import InputError

TIFF = (".tif", ".tiff")
JPEG = (".jpg", ".jpeg")
LEAST_JPEG = 31
"""Values up to this can be compression artefacts."""
PLAIN = ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I", "F", "1")
"""Modes of Pillow whose values are brightness."""
LONGEST_PX = 65_535
"""Longest side of an image: that of JPEG."""
MOST_MARKED = 0.5
"""Share of the frame that a defect can cover."""


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
        depth = _png_bits(path) or 8
        if image.mode in modes and depth <= 8:
            return np.array(ImageOps.exif_transpose(image))
        raise InputError(
            f"{path}: an image in {image.mode} with {depth} bits per channel, expected {expected}; "
            f"convert it, or all of its folder with `{_import_of(path.parents[1])}`"
        )


def _import_of(folder: Path) -> str:
    """The command that imports a folder such as CATEGORY/test/good into another tree."""
    split = folder.parent.name
    if split not in ("train", "validation", "test"):
        return f"lsfa data import {shlex.quote(str(folder))} NAME"
    place = f"--split {split} --kind {folder.name}"
    words = shlex.quote(str(folder)), shlex.quote(folder.parents[1].name)
    return f"lsfa data import {' '.join(words)} --root data/converted {place}"


def read_colour(path: Path) -> Rgb:
    """Any photograph as RGB of 8 bits, turned upright as its EXIF orientation says.

    Grey and palette become RGB, an alpha channel is dropped, 16 bits are scaled by their range.
    Raises InputError for floats, several images in one file, and values that use less than 12 of
    16 bits, which would become black.
    """
    values = _upright(path)
    if values.dtype == np.uint16:
        _require_range(path, values, 4096)
        values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif values.ndim == 3 and values.dtype == np.uint8 and _png_bits(path) == 16:
        _require_range(path, values[..., :3], 4096 // 256)  # Pillow keeps the upper 8 bits only
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


def _png_bits(path: Path) -> int:
    """Bits per channel of a PNG; 0 for any other file."""
    with path.open("rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(b"\x89PNG") and len(header) == 25 else 0


def _require_range(path: Path, values: Shaped[np.ndarray, "*sizes"], least: int) -> None:
    """Raises InputError if 99.9 % of 16-bit values are below `least`."""
    if values.size and np.quantile(values, 0.999) < least:
        raise InputError(
            f"{path}: nearly all of its values are below 1/16 of their range, as if 12 bits or "
            "fewer had been stored in 16; export 8 bits"
        )


def read_mask(path: Path) -> Mask:
    """True where any image, grey or coloured, is not black. Raises InputError.

    Transparent pixels are not marked. If all opaque pixels are black, they are the marks.
    """
    values = _upright(path)
    opaque = np.ones(values.shape[:2], bool)
    if values.ndim == 3:
        if values.shape[2] in (2, 4):
            opaque = values[..., -1] > 0
        values = values[..., :1] if values.shape[2] in (1, 2) else values[..., :3]
        values = values.max(axis=2, initial=0)
    if values.ndim != 2:
        raise InputError(f"{path}: an image of {values.shape}, expected a mask; draw it again")
    marked = _marked(values, path) & opaque
    return marked if marked.any() or opaque.all() else opaque


def inverted(path: Path, mask: Mask) -> str:
    """A sentence if a mask marks most of its frame, else ""."""
    if mask.mean() <= MOST_MARKED:
        return ""
    return (
        f"{path}: marks {mask.mean():.0%} of the frame, as an inverted mask does; mark the defect, "
        "and leave all other pixels black or transparent"
    )


def _opened(path: Path) -> Image.Image:
    """An image of Pillow, not decoded yet."""
    image = Image.open(path)
    if image.width * image.height > MOST_VALUES // 3 or max(image.size) > LONGEST_PX:
        image.close()
        raise ValueError(f"an image of {image.width} x {image.height} px, too large for a camera's")
    return image


def _marked(values: Shaped[np.ndarray, "H W"], path: Path) -> Mask:
    if path.suffix.lower() not in JPEG:
        return values > 0
    # JPEG leaves small values around what was marked.
    return values > max(LEAST_JPEG, int(values.max(initial=0)) // 2)


def _upright(path: Path) -> Shaped[np.ndarray, "H W *channels"]:
    """The values of an image that Pillow or tifffile reads, without palette, upright."""
    with decoding(path):
        if path.suffix.lower() in TIFF:
            return read_tiff(path)
        with _opened(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode in PLAIN:
                return np.array(upright)
            return np.array(upright.convert("RGBA" if "transparency" in upright.info else "RGB"))


def read_any(path: Path) -> Shaped[np.ndarray, "*sizes"]:
    """The values stored in a .tiff, .npy, .exr (one channel) or any image that Pillow reads.

    Axes of one entry before and after the image are left out.
    """
    suffix = path.suffix.lower()
    with decoding(path):
        if suffix in TIFF:
            values = read_tiff(path)
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
