"""Eyecandies on disk, as published: `<category>/<split>/data/<index>_<item>.<ext>`.

Splits are `train`, `val` and `test_public`; `test_private` has no ground truth and is left alone.
Points stay in the camera's frame: depth and one pinhole camera for all scans, no world transform.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from lsfa_lib.datasets.entry import Entry, SplitName, require_one_size, unreadable, visible
from lsfa_lib.datasets.mvtec3d import read_gt, read_rgb
from lsfa_lib.datasets.own_camera import Intrinsics, points_of_depth
from lsfa_lib.records import Scan
from lsfa_lib.storage.files import InputError, atomic_write

FOLDERS: dict[str, str] = {"train": "train", "validation": "val", "test": "test_public"}
LIGHTS = ("all spots", "bottom", "right", "top", "left", "light box")
"""What `image_0` to `image_5` were taken under."""
LIGHT = 4
"""The picture papers use."""
DEFECTS = ("bumps", "dents", "colors", "normals")
FOCAL_WIDTHS = 711.11 / 512
"""Focal length over the picture's width; the principal point is (width / 2, height / 2)."""
CLASSES = (
    "CandyCane",
    "ChocolateCookie",
    "ChocolatePraline",
    "Confetto",
    "GummyBear",
    "HazelnutTruffle",
    "LicoriceSandwich",
    "Lollipop",
    "Marshmallow",
    "PeppermintCandy",
)
_ITEM = re.compile(r"(\d+)_(\w+)\.(png|yaml|yml|txt)", re.IGNORECASE)


def pair_files(
    root: Path, category: str, split: SplitName, light: int = LIGHT
) -> tuple[list[Entry], list[str]]:
    """As `layouts.pair_files`. The kind is `good`, or the names of the masks that mark anything.

    `light` is the number of its picture, 0 to 5, as in `LIGHTS`.
    """
    if light not in range(len(LIGHTS)):
        names = ", ".join(f"{i} {name}" for i, name in enumerate(LIGHTS))
        raise InputError(f"data.light {light} is no light of Eyecandies; choose among {names}")
    folder = root / category / FOLDERS[split] / "data"
    items: dict[str, dict[str, Path]] = {}
    for path in visible(folder):
        if match := _ITEM.fullmatch(path.name):
            items.setdefault(match[1], {})[match[2]] = path
    found, problems = [], []
    for index in sorted(items):
        item = items[index]
        wanted = {f"image_{light}": "png", "depth": "png", "info_depth": "yaml"}
        if split == "test":
            wanted |= {"metadata": "yaml", "mask": "png"}
        missing = [
            str(folder / f"{index}_{name}.{suffix}")
            for name, suffix in wanted.items()
            if name not in item
        ]
        if missing:
            lone = next(iter(item.values()))
            problems.append(
                f"{lone}: its partner {' and '.join(missing)} is missing; "
                f"restore it, or remove the scan's other files"
            )
            continue
        kind = _kind(item) if split == "test" else "good"
        name = f"{category}/{split}/{kind}/{index}"
        gt = item["mask"] if kind != "good" else None
        rgb, depth = item[f"image_{light}"], item["depth"]
        found.append(Entry(name, kind, rgb, depth, gt, item["info_depth"]))
    if not items:
        problems.append(
            f"{folder}: no scans in here; give it at least one, as 000_image_{light}.png, "
            f"000_depth.png and 000_info_depth.yaml"
        )
    return sorted(found, key=lambda entry: (entry.kind, entry.name)), problems


def read_scan(entry: Entry) -> Scan:
    """As `layouts.read_scan`.

    z = d / 65535 (max - min) + min where d > 0, x = (u - cx) z / f, y = (v - cy) z / f
    """
    assert entry.depth_bounds is not None
    rgb, xyz = read_rgb(entry.rgb), _read_points(entry.xyz, entry.depth_bounds)
    defect = np.zeros(rgb.shape[:2], bool) if entry.gt is None else read_gt(entry.gt)
    require_one_size(entry.xyz, xyz, entry.rgb, rgb)
    require_one_size(entry.xyz, xyz, entry.gt, defect)
    return Scan(rgb, xyz, defect, entry.name, entry.kind, entry.xyz)


def read_normals(entry: Entry) -> Float32[np.ndarray, "H W 3"]:
    """Unit normals in the camera's frame of the published normals picture.

    n = rgb / 127.5 - 1, y and z flipped: the picture's axes point up and towards the camera.
    """
    path = entry.xyz.with_name(entry.xyz.name.replace("_depth", "_normals"))
    coded = read_rgb(path).astype(np.float32) / 127.5 - 1
    unit = coded / np.maximum(np.linalg.norm(coded, axis=-1, keepdims=True), 1e-6)
    return unit * np.array([1, -1, -1], np.float32)


def camera(width: int, height: int) -> Intrinsics:
    """The one camera of the data set, for a picture of this size; 512 x 512 is the published."""
    focal = FOCAL_WIDTHS * width
    return Intrinsics(focal, focal, width / 2, height / 2, 1.0)


def item_file(root: Path, name: str, item: str) -> Path:
    """Where an item, such as `depth.png`, of the scan of that name lies."""
    category, split, _, index = name.split("/")
    return root / category / FOLDERS[split] / "data" / f"{index}_{item}"


def write_scan(
    root: Path,
    scan: Scan,
    images: list[UInt8[np.ndarray, "H W 3"]],
    normals: Float32[np.ndarray, "H W 3"],
) -> None:
    """Write `scan`, seen by `camera`, where its name says; `images` in the order of LIGHTS.

    Depths go into 16 bits between the scan's nearest and farthest, so that points come back to
    1e-5 m. A defect `a+b` marks the masks of a and of b. The depth comes last: a scan with one was
    written whole.
    """
    kind = scan.kind
    gt = scan.defect.astype(np.uint8) * 255
    masks = {name: gt * np.uint8(name in kind.split("+")) for name in DEFECTS}
    coded = np.rint((normals * np.array([1, -1, -1]) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    pixels = {f"image_{light}": image for light, image in enumerate(images)}
    pixels |= {"normals": coded, "mask": gt} | {f"{n}_mask": m for n, m in masks.items()}
    for name, image in pixels.items():
        with atomic_write(item_file(root, scan.name, f"{name}.png")) as path:
            Image.fromarray(image).save(path, compress_level=1)
    z = scan.xyz[..., 2].astype(np.float64)
    near, far = float(z[z > 0].min()) - 1e-3, float(z.max())
    about = {
        "metadata": {"anomalous": int(kind != "good")}
        | {name: int(bool(mask.any())) for name, mask in masks.items()},
        "info_depth": {"normalization": {"min": near, "max": far}},
    }
    for name, content in about.items():
        with atomic_write(item_file(root, scan.name, f"{name}.yaml")) as path:
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with atomic_write(item_file(root, scan.name, "pose.txt")) as path:
        np.savetxt(path, np.eye(4))
    depth = np.where(z > 0, np.rint((z - near) / (far - near) * 65535), 0).astype(np.uint16)
    with atomic_write(item_file(root, scan.name, "depth.png")) as path:
        Image.fromarray(depth).save(path)


def odd_files(category: Path) -> list[Path]:
    """Files of a category that are no item of a scan."""
    return [
        path
        for split in (*FOLDERS.values(), "test_private")
        for path in sorted((category / split).rglob("*"))
        if path.is_file() and not (path.parent.name == "data" and _ITEM.fullmatch(path.name))
    ]


def _kind(item: dict[str, Path]) -> str:
    about = _read_yaml(item["metadata"])
    anomalous = about.get("anomalous") if isinstance(about, dict) else None
    if anomalous not in (0, 1):
        raise InputError(
            f"{item['metadata']}: no `anomalous` of 0 or 1 in it; restore the original"
        )
    if not anomalous:
        return "good"
    marked = [
        name for name in DEFECTS if (path := item.get(f"{name}_mask")) and read_gt(path).any()
    ]
    return "+".join(marked) or "anomalous"


def _read_points(path: Path, bounds: Path) -> Float32[np.ndarray, "H W 3"]:
    depth = _read_depth(path)
    about = _read_yaml(bounds)
    try:
        low, high = (float(about["normalization"][end]) for end in ("min", "max"))
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{bounds}: no numbers min and max under `normalization`; restore the original"
        ) from error
    if not (np.isfinite([low, high]).all() and 0 <= low < high):
        raise InputError(
            f"{bounds}: depths from {low} to {high} m, wanted 0 <= min < max; restore the original"
        )
    if not depth.any():
        raise InputError(f"{path}: every depth is 0, no reading at all; leave this scan out")
    z = np.where(depth > 0, depth / 65535 * (high - low) + low, 0.0)
    return points_of_depth(z, camera(depth.shape[1], depth.shape[0]))


def _read_depth(path: Path) -> Shaped[np.ndarray, "H W"]:
    try:
        with Image.open(path) as image:
            depth = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from error
    if depth.ndim != 2 or depth.dtype == np.uint8:
        raise InputError(
            f"{path}: a picture of {depth.dtype} {depth.shape}, one channel of 16 bits is wanted; "
            "restore the original"
        )
    return depth


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise unreadable(path, error) from error
