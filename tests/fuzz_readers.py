"""Damaged and odd files for every reader of scans and cameras; `make fuzz` runs it for a time.

Property: an answer within limits, or an InputError that names the file; never another exception,
never NaN, never a write to the source.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import tifffile
from PIL import Image

from lsfa_lib.datasets import mvtec3d
from lsfa_lib.datasets.image_files import read_colour, read_mask
from lsfa_lib.datasets.intrinsics import Intrinsics, at_size, read_intrinsics
from lsfa_lib.datasets.own_camera import read_depth, read_organised_cloud
from lsfa_lib.storage.files import InputError

SIZE = (6, 8)
CAMERA = Intrinsics(10.0, 10.0, 4.0, 3.0)
VALUES = {"fx": 10.0, "fy": 10.0, "cx": 4.0, "cy": 3.0, "width": 8, "height": 6}
MATRIX = [[10.0, 0, 4.0], [0, 10.0, 3.0], [0, 0, 1]]
ODD = [b"nan", b"-inf", b"-1", b"0", b"1e308", b"99999999999", b"", b"x", b'"', b"[", b"\xff\xfe"]
LONGEST_S = 5.0
FLIPS = ("flip", "replace", "insert", "delete", "cut", "repeat", "word")


@dataclass(frozen=True)
class Reader:
    """What is read, and how the answer is looked at."""

    seeds: Callable[[Path], list[Path]]
    """Writes good files to a folder."""
    read: Callable[[Path], Any]


def image(rgb: bool = True, dtype: str = "uint8") -> np.ndarray:
    shape = (*SIZE, 3) if rgb else SIZE
    return (
        np.random.default_rng(0)
        .integers(300 if dtype != "uint8" else 0, 256 if dtype == "uint8" else 60000, shape)
        .astype(dtype)
    )


def depth(dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(400, 600, SIZE).astype(dtype)


def points() -> np.ndarray:
    z = depth("float32") / 1000
    return np.stack([z, z, z], axis=-1)


def saved(folder: Path, suffix: str, images: dict[str, np.ndarray], **options: Any) -> list[Path]:
    paths = []
    for name, array in images.items():
        path = folder / f"{name}{suffix}"
        if suffix == ".tiff":
            tifffile.imwrite(path, array, **options)
        elif suffix == ".npy":
            np.save(path, array)
        elif suffix == ".exr":
            OpenEXR.File({"type": OpenEXR.scanlineimage}, {"Z": array}).write(str(path))
        else:
            Image.fromarray(array).save(path, **options)
        paths.append(path)
    return paths


def photographs(folder: Path, suffix: str) -> list[Path]:
    found = saved(folder, suffix, {"rgb": image(), "grey": image(rgb=False)})
    if suffix in (".png", ".tiff"):
        found += saved(folder, suffix, {"deep": image(rgb=False, dtype="uint16")})
    return found


def depths(folder: Path, suffix: str) -> list[Path]:
    metres = {"metres": depth("float32") / 1000}
    if suffix == ".exr":
        return saved(folder, suffix, metres)
    found = saved(folder, suffix, {"depth": depth()})
    return found + (saved(folder, suffix, metres | {"xyz": points()}) if suffix != ".png" else [])


def raws(folder: Path) -> list[Path]:
    depth().astype("<u2").tofile(folder / "depth.raw")
    return [folder / "depth.raw"]


def plys(folder: Path) -> list[Path]:
    names = "".join(f"property float {n}\n" for n in "xyz")
    names += "".join(f"property uchar {n}\n" for n in ("red", "green", "blue"))
    count = SIZE[0] * SIZE[1]
    size = f"obj_info num_cols {SIZE[1]}\nobj_info num_rows {SIZE[0]}\nelement vertex {count}\n"
    paths = []
    for form, order in (("ascii", ""), ("binary_little_endian", "<"), ("binary_big_endian", ">")):
        fields = np.zeros(count, [(n, f"{order}f4") for n in "xyz"] + [(n, "u1") for n in "rgb"])
        for n in "xyz":
            fields[n] = points()[..., 0].ravel()
        fields["r"] = 200
        lines = "\n".join(" ".join(map(str, row)) for row in fields.tolist())
        body = fields.tobytes() if order else lines.encode()
        paths.append(folder / f"{form}.ply")
        header = f"ply\nformat {form} 1.0\n{size}{names}end_header\n"
        paths[-1].write_bytes(header.encode() + body)
    return paths


def packed_lzf(content: bytes) -> bytes:
    """LZF of literal runs, and one copy where the content begins with a repeated byte."""
    runs = [content[i : i + 32] for i in range(0, len(content), 32)]
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def pcds(folder: Path) -> list[Path]:
    count = SIZE[0] * SIZE[1]
    fields = np.zeros(count, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])
    for n in "xyz":
        fields[n] = points()[..., 0].ravel()
    fields["rgb"] = 0x102030
    columns = b"".join(fields[n].tobytes() for n in fields.dtype.names or ())
    packed = packed_lzf(columns)
    bodies = {
        "ascii": "\n".join(" ".join(map(str, row)) for row in fields.tolist()).encode(),
        "binary": fields.tobytes(),
        "binary_compressed": np.array([len(packed), len(columns)], "<u4").tobytes() + packed,
    }
    header = (
        "VERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
        f"WIDTH {SIZE[1]}\nHEIGHT {SIZE[0]}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA "
    )
    paths = [folder / f"{form}.pcd" for form in bodies]
    for path, (form, body) in zip(paths, bodies.items(), strict=True):
        path.write_bytes(f"{header}{form}\n".encode() + body)
    return paths


def cameras(folder: Path) -> list[Path]:
    flat = [10.0, 0, 0, 0, 10.0, 0, 4.0, 3.0, 1]
    xml = "".join(
        f"<{n}>{v}</{n}>"
        for n, v in zip(
            ("focal_length_x", "focal_length_y", "principal_point_x", "principal_point_y"),
            (10, 10, 4, 3),
            strict=True,
        )
    )
    opencv = "%YAML:1.0\n---\ncamera_matrix: !!opencv-matrix\n   rows: 3\n   cols: 3\n   data: "
    texts = {
        "plain.json": json.dumps(VALUES | {"depth_unit_m": 0.001}),
        "open3d.json": json.dumps({"width": 8, "height": 6, "intrinsic_matrix": flat}),
        "two.json": json.dumps({"depth": VALUES, "color": VALUES | {"fx": 11.0}}),
        "opencv.yaml": f"{opencv}{[each for row in MATRIX for each in row]}\n",
        "pcl.xml": f"<?xml version='1.0'?>\n<depth>{xml}</depth>",
        "k.txt": "\n".join(" ".join(map(str, row)) for row in MATRIX),
        "viewer.csv": "Type,Depth\nResolution x,8\nResolution y,6\n\nIntrinsic:,\n"
        "Fx,10.0\nFy,10.0\nPPx,4.0\nPPy,3.0\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


def trees(folder: Path) -> list[Path]:
    return saved(folder, ".tiff", {"xyz": points()}, photometric="rgb")


READERS = {
    "ply": Reader(plys, read_organised_cloud),
    "pcd": Reader(pcds, read_organised_cloud),
    "camera": Reader(cameras, lambda path: at_size(read_intrinsics(path), 8, 6, path)),
    "tree tiff": Reader(trees, mvtec3d.read_points),
    "depth .raw": Reader(raws, partial(read_depth, camera=replace(CAMERA, width=8, height=6))),
    **{
        f"depth {s}": Reader(partial(depths, suffix=s), partial(read_depth, camera=CAMERA))
        for s in (".png", ".tiff", ".exr", ".npy")
    },
    **{
        f"colour {s}": Reader(partial(photographs, suffix=s), read_colour)
        for s in (".png", ".jpg", ".bmp", ".tiff")
    },
    "mask": Reader(partial(photographs, suffix=".png"), read_mask),
}


def damaged(content: bytes, how: str, place: float, piece: bytes) -> bytes:
    """The content with one change at a place from 0 to 1."""
    at = int(place * len(content))
    if how == "cut":
        return content[:at]
    if how == "flip" and at < len(content):
        bit = piece[0] & 7 if piece else 0
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    if how == "delete":
        return content[:at] + content[at + len(piece) + 1 :]
    if how == "repeat":
        return content[:at] + content[at : at + 64] * (len(piece) + 2) + content[at + 64 :]
    if how == "word":
        words = [m.span() for m in re.finditer(rb"[-+.\w]+", content[:4000])]
        if words:
            start, end = words[int(place * len(words)) % len(words)]
            return content[:start] + ODD[len(piece) % len(ODD)] + content[end:]
    return content[:at] + piece + content[at + (len(piece) if how == "replace" else 0) :]


def answer(reader: Reader, path: Path) -> str:
    """What came out, in a word. AssertionError where the property does not hold."""
    content, state = path.read_bytes(), path.stat()
    start = time.process_time()
    try:
        found = reader.read(path)
    except InputError as error:
        assert path.name in str(error), error
        assert "\n" not in str(error), error
        outcome = re.sub(r"[\d.]+|'.*?'", "", str(error).partition(path.name)[2])[:80]
    else:
        require_limits(found)
        outcome = "read"
    assert time.process_time() - start < LONGEST_S
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == state.st_mtime_ns
    return outcome


def require_limits(found: Any) -> None:
    """The ranges that every answer keeps."""
    if isinstance(found, Intrinsics):
        values = np.array([found.fx, found.fy, found.cx, found.cy, found.metres])
        assert np.isfinite(values).all()
        assert min(found.fx, found.fy) > 0
        assert 0 <= found.metres <= 1
        return
    for array in found if isinstance(found, tuple) else (found,):
        assert array.dtype in (np.uint8, np.float32, bool)
        assert array.ndim == 2 or array.shape[2] == 3
        if array.dtype == np.float32:
            assert np.isfinite(array).all()
            assert (array[..., 2] >= 0).all()
            assert array[..., 2].any()


def fuzz(name: str, seconds: float, seed: int, folder: str) -> None:
    """Changes files for a time; an input with a new kind of answer is changed further."""
    reader, rng = READERS[name], np.random.default_rng(seed)
    place = Path(folder)
    corpus = [(path.suffix, path.read_bytes()) for path in reader.seeds(place)]
    known: set[str] = set()
    tried, slowest, end = 0, 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        suffix, content = corpus[rng.integers(len(corpus))]
        for _ in range(rng.integers(1, 4)):
            piece = rng.bytes(int(rng.integers(0, 9)))
            content = damaged(content, FLIPS[rng.integers(len(FLIPS))], rng.random(), piece)
        path = place / f"input{suffix}"
        path.write_bytes(content)
        start = time.process_time()
        outcome = answer(reader, path)
        slowest, tried = max(slowest, time.process_time() - start), tried + 1
        if outcome not in known and len(content) < 10_000:
            known.add(outcome)
            corpus.append((suffix, content))
    line = {"tried": tried, "answers": len(known), "slowest_s": round(slowest, 4)}
    (place / "done.json").write_text(json.dumps(line))


def in_process(name: str, seconds: float, seed: int) -> bool:
    """Runs a reader in a process of its own, so that a crash of a decoder is seen."""
    folder = tempfile.mkdtemp(prefix="fuzz-")
    process = multiprocessing.Process(target=fuzz, args=(name, seconds, seed, folder))
    process.start()
    process.join()
    done = Path(folder) / "done.json"
    text = done.read_text() if done.exists() else f"CRASH, exit {process.exitcode}: {folder}"
    print(f"{name:<12} {text}", flush=True)
    return done.exists()


def main() -> int:
    """The number of readers that crashed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)}; all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="readers at a time")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)  # tifffile's, of every tag it does not understand
    warnings.simplefilter("ignore")
    with ThreadPoolExecutor(asked.jobs) as pool:
        run = partial(in_process, seconds=asked.seconds, seed=asked.seed)
        return sum(not fine for fine in pool.map(run, asked.readers or READERS))


if __name__ == "__main__":
    sys.exit(main())
