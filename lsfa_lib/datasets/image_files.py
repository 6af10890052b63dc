"""Image files as arrays. A file that cannot be decoded raises InputError, which names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image

from lsfa_lib.records import Mask, Rgb
from lsfa_lib.storage.files import InputError


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
    """An RGB image with 8 bits per channel. Raises InputError for any other."""
    return _read_8_bit(path, ("RGB",), "RGB with 8 bits per channel")


def read_gt(path: Path) -> Mask:
    """True where a grey image is not 0: 253, 254 and 255 all occur. InputError for any other."""
    return _read_8_bit(path, ("L", "1"), "L (grey) with 8 bits") > 0


def _read_8_bit(
    path: Path, modes: tuple[str, ...], expected: str
) -> Shaped[np.ndarray, "H W *channels"]:
    with decoding(path), Image.open(path) as image:
        # Pillow silently reads 16-bit colour as 8-bit; byte 24, in the header, has the depth.
        depth = path.read_bytes()[24] if image.format == "PNG" else 8
        if image.mode in modes and depth <= 8:
            return np.array(image)
        raise InputError(
            f"{path}: an image in {image.mode} with {depth} bits per channel, expected {expected}; "
            "convert it"
        )


def read_any(path: Path) -> Shaped[np.ndarray, "*sizes"]:
    """The values stored in a .tiff, .exr (one channel of it) or any image that Pillow reads."""
    with decoding(path):
        if path.suffix.lower() in (".tif", ".tiff"):
            return tifffile.imread(path)
        if path.suffix.lower() == ".exr":
            return _read_exr(path)
        with Image.open(path) as image:
            return np.asarray(image)


def _read_exr(path: Path) -> Shaped[np.ndarray, "H W"]:
    """The only channel, or the one called Z or depth."""
    import OpenEXR

    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = file.channels()
        named = [n for n in channels if n.lower().split(".")[-1] in ("z", "depth", "y")]
        chosen = list(channels) if len(channels) == 1 else named
        if len(chosen) != 1:
            raise InputError(
                f"{path}: channels {', '.join(channels)}, expected one called Z; export depth alone"
            )
        return np.asarray(channels[chosen[0]].pixels)


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
