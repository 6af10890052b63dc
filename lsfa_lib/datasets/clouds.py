"""Organised clouds in PLY and PCD files: ASCII, binary and compressed, of either byte order."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float64, UInt8

from lsfa_lib.datasets.image_files import decoding
from lsfa_lib.storage.files import InputError

PLY_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
HEADER_BYTES = 100_000
WIDTHS, HEIGHTS = "num_cols|width|columns?|cols", "num_rows|height|rows?"
COLOURS = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("r", "g", "b"),
)


@dataclass(frozen=True)
class Cloud:
    """Points in the order of the file, in its unit, with NaN or infinity as they are there."""

    points: Float64[np.ndarray, "N 3"]
    colours: UInt8[np.ndarray, "N 3"] | None
    width: int
    """Of the camera's frame; 0 if the file does not say."""
    height: int


def read_cloud(path: Path) -> Cloud:
    """The cloud in a .ply or .pcd file. Raises InputError if it is damaged or of another form."""
    with decoding(path), path.open("rb") as file:
        first = file.read(3)
        file.seek(0)
        fields, width, height = (_read_ply if first == b"ply" else _read_pcd)(file)
        known = {n for n in fields.dtype.names or () if fields[n].ndim == 1}
        if lacking := [axis for axis in "xyz" if axis not in known]:
            raise ValueError(f"no field {', '.join(lacking)}")
        points = np.stack([fields[axis].astype(np.float64) for axis in "xyz"], axis=-1)
        return Cloud(points, _colours(fields), width, height)


def _header(file: BinaryIO, last: bytes) -> list[str]:
    """The lines up to the one that begins with `last`."""
    lines: list[str] = []
    while file.tell() < HEADER_BYTES and (line := file.readline(HEADER_BYTES)):
        lines.append(line.decode("latin-1").strip())
        if line.startswith(last):
            return lines
    raise ValueError(f"no {last.decode()} in its header")


def _read_ply(file: BinaryIO) -> tuple[np.ndarray, int, int]:
    header = _header(file, b"end_header")
    order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
    form = next((order[w[1]] for line in header if (w := line.split())[:1] == ["format"]), None)
    if form is None:
        raise ValueError("no known format in its header")
    for name, count, dtype in _elements(header, form or "<"):
        if dtype is None:
            raise ValueError(f"lists in element {name} before or in the vertices")
        fields = _rows(file, dtype, count) if form else _text_rows(file, dtype, count)
        if name == "vertex":
            about = "\n".join(line for line in header if re.match("obj_info|comment", line))
            return fields, _number(about, WIDTHS), _number(about, HEIGHTS)
    raise ValueError("no element vertex in its header")


def _elements(header: list[str], order: str) -> Iterator[tuple[str, int, np.dtype | None]]:
    """Name, count and type of each element; the type is None if it holds lists."""
    found: list[tuple[str, int, list[tuple[str, str]] | None]] = []
    for words in (line.split() for line in header):
        if words[:1] == ["element"]:
            found.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"] and words[1] == "list":
            found[-1] = (*found[-1][:2], None)
        elif words[:1] == ["property"] and (own := found[-1][2]) is not None:
            own.append((words[2], order + PLY_TYPES[words[1]]))
    for name, count, own in found:
        yield name, count, None if own is None else np.dtype(own)


def _read_pcd(file: BinaryIO) -> tuple[np.ndarray, int, int]:
    header = {w[0]: w[1:] for line in _header(file, b"DATA") if (w := line.split())}
    sizes, kinds = header["SIZE"], header["TYPE"]
    counts = [int(n) for n in header.get("COUNT", ["1"] * len(sizes))]
    names = [f"{name}{i if name == '_' else ''}" for i, name in enumerate(header["FIELDS"])]
    forms = [f"<{k.lower()}{s}" for k, s in zip(kinds, sizes, strict=True)]
    dtype = np.dtype(
        [(n, f) if c == 1 else (n, f, (c,)) for n, f, c in zip(names, forms, counts, strict=True)]
    )
    width, height = int(header["WIDTH"][0]), int(header["HEIGHT"][0])
    count = int(header.get("POINTS", [str(width * height)])[0])
    form = header["DATA"][0]
    if form == "ascii":
        return _text_rows(file, dtype, count), width, height
    if form == "binary":
        return _rows(file, dtype, count), width, height
    if form != "binary_compressed":
        raise ValueError(f"data {form}")
    packed, size = (int(n) for n in np.frombuffer(file.read(8), "<u4", 2))
    if size != count * dtype.itemsize:
        raise ValueError(f"{size} bytes of {count} points of {dtype.itemsize}")
    columns, start = _unpacked(file.read(packed), size), 0
    found = np.empty(count, dtype)
    for name in dtype.names or ():  # stored field by field
        own = dtype[name]
        found[name] = np.frombuffer(
            columns, own.base, count * max(1, int(np.prod(own.shape))), start
        ).reshape(count, *own.shape)
        start += count * own.itemsize
    return found, width, height


def _rows(file: BinaryIO, dtype: np.dtype, count: int) -> np.ndarray:
    content = file.read(max(count, 0) * dtype.itemsize)
    return np.frombuffer(content, dtype, count)


def _text_rows(file: BinaryIO, dtype: np.dtype, count: int) -> np.ndarray:
    lines = [line for line, _ in zip(file, range(count), strict=False)]
    if len(lines) != count:
        raise ValueError(f"{len(lines)} lines of {count} points")
    found = np.zeros(count, dtype)
    if not count:
        return found
    # Windows writes NaN as -nan(ind) or 1.#QNAN.
    plain = re.sub(rb"-?nan\(\w+\)|-?1\.#\w+", b"nan", b"".join(lines), flags=re.IGNORECASE)
    text = io.StringIO(plain.decode("ascii"))
    values = np.loadtxt(text, np.float64, comments=None, ndmin=2)
    names = [n for n in dtype.names or () for _ in range(max(1, int(np.prod(dtype[n].shape))))]
    if values.shape != (count, len(names)):
        raise ValueError(f"{values.shape[0]} x {values.shape[1]} values, not {len(names)} a point")
    with np.errstate(over="ignore", invalid="ignore"):
        for name in dtype.names or ():
            own = values[:, [i for i, other in enumerate(names) if other == name]]
            found[name] = own.reshape(found[name].shape)
    return found


def _unpacked(packed: bytes, size: int) -> bytes:
    """`size` bytes from LZF: runs of literal bytes, and copies of what came before."""
    found, i = bytearray(), 0
    while i < len(packed):
        control = packed[i]
        i += 1
        if control < 32:
            found += packed[i : i + control + 1]
            i += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += packed[i]
            i += 1
        start = len(found) - ((control & 31) << 8) - packed[i] - 1
        i += 1
        if start < 0 or len(found) > size:
            break
        length += 2
        piece = bytes(found[start : start + length])
        # A copy may reach into itself: then it repeats.
        found += (piece * (length // len(piece) + 1))[:length]
    if len(found) != size:
        raise ValueError(f"{len(found)} bytes of {size} after unpacking")
    return bytes(found)


def _colours(fields: np.ndarray) -> UInt8[np.ndarray, "N 3"] | None:
    """Colours in 8 bits, from three fields or from one packed as 0xRRGGBB; None without any."""
    names = fields.dtype.names or ()
    for channels in COLOURS:
        if set(channels) <= set(names):
            return _filled(_in_8_bits(np.stack([fields[name] for name in channels], axis=-1)))
    packed = next((fields[name] for name in ("rgb", "rgba") if name in names), None)
    if packed is None or packed.dtype.itemsize != 4 or packed.ndim != 1:
        return None
    bits = packed.astype(packed.dtype.newbyteorder("=")).view(np.uint32)
    bytes_of = [(bits >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)]
    return _filled(np.stack(bytes_of, axis=-1))


def _filled(colours: UInt8[np.ndarray, "N 3"]) -> UInt8[np.ndarray, "N 3"] | None:
    """None for a field that the camera did not fill."""
    return colours if colours.any() else None


def _in_8_bits(values: np.ndarray) -> Any:
    """From 0 to 255 where a value needs it, else from 0 to 1 or the range of a whole type."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, posinf=0, neginf=0)
        most = 1 if values.max(initial=0) <= 1 else 255
    else:
        wide = values.dtype.itemsize < 4 and values.max(initial=0) > 255
        most = np.iinfo(values.dtype).max if wide else 255
    return np.rint(values.clip(0, most) / (most / 255)).astype(np.uint8)


def _number(about: str, names: str) -> int:
    found = re.search(rf"\b(?:{names})\b\s*[=:]?\s*(\d{{1,6}})\b", about, re.IGNORECASE)
    return int(found[1]) if found else 0


def require_organised(path: Path, cloud: Cloud, size: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """(height, width) of a cloud that keeps its rows and columns; `size` where it does not say.

    Raises InputError for any other.
    """
    height, width = (cloud.height, cloud.width) if cloud.width and cloud.height else size
    count = len(cloud.points)
    if height < 2 and size[0] * size[1] == count:
        height, width = size
    if not width:
        raise InputError(
            f"{path}: no rows and columns in its header, expected an organised cloud; export it "
            "organised, as .pcd, or with a colour image of the same name"
        )
    if min(width, height) < 2 or count != width * height:
        raise InputError(
            f"{path}: {count} points of {width} x {height}, expected an organised cloud with its "
            "rows and columns; export it again without filtering its points"
        )
    return height, width
