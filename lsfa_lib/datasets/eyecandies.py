"""Eyecandies on disk, as published: `<category>/<split>/data/<index>_<item>.<ext>`.

Splits are `train`, `val` and `test_public`; `test_private` has no ground truth and is not used.
Points stay in the camera's frame: depth and one pinhole camera for all scans, no world transform.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from lsfa_lib.datasets.entry import Entry, SplitName, missing_partners, no_scans, visible
from lsfa_lib.datasets.image_files import decoding, read_any, read_gt
from lsfa_lib.datasets.own_camera import Intrinsics, points_of_depth
from lsfa_lib.records import UNLABELLED, Points, Rgb, Scan
from lsfa_lib.storage.files import InputError, atomic_write

SPLIT_FOLDERS: dict[str, str] = {"train": "train", "validation": "val", "test": "test_public"}
FOLDERS = (*SPLIT_FOLDERS.values(), "test_private")
LIGHTS = ("all spots", "bottom", "right", "top", "left", "light box")
"""Illumination of `image_0` to `image_5`."""
LIGHT = 4
"""The image that papers use."""
DEFECTS = ("bumps", "dents", "colors", "normals")
FOCAL_WIDTHS = 711.11 / 512
"""Focal length over the width of the image; the principal point is (width / 2, height / 2)."""
_ITEM = re.compile(r"(\d+)_(\w+)\.(png|yaml|yml|txt)", re.IGNORECASE)


def pair_files(root: Path, category: str, split: SplitName, light: int) -> Iterator[Entry | str]:
    """The complete scans of a split, and a sentence for each problem with any other.

    The kind is `good`, or the names of the masks that mark anything. `light` is the number of the
    image, 0 to 5, as in `LIGHTS`.
    """
    if light not in range(len(LIGHTS)):
        names = ", ".join(f"{i} {name}" for i, name in enumerate(LIGHTS))
        raise InputError(f"data.light {light} is not a light of Eyecandies; choose among {names}")
    folder = root / category / SPLIT_FOLDERS[split] / "data"
    items = items_of(folder)
    if not items:
        example = f"000_image_{light}.png, 000_depth.png and 000_info_depth.yaml"
        yield no_scans(folder, example)
    needed = needed_of(light)
    needed += ["metadata.yaml", "mask.png"] if split == "test" else []
    for index, item in items.items():
        expected = {name.split(".")[0]: folder / f"{index}_{name}" for name in needed}
        if problem := missing_partners(item, expected):
            yield problem
            continue
        kind = _kind(item) if split == "test" else "good"
        name, rgb = f"{category}/{split}/{kind}/{index}", item[f"image_{light}"]
        gt = item["mask"] if kind != "good" else None
        yield Entry(name, kind, rgb, item["depth"], gt, item["info_depth"])


def pair_unlabelled(folder: Path, light: int, prefix: str) -> Iterator[Entry | str]:
    """As `pair_files`, for the scans in any folder of items, of unknown kind."""
    for index, item in items_of(folder).items():
        expected = {name.split(".")[0]: folder / f"{index}_{name}" for name in needed_of(light)}
        if problem := missing_partners(item, expected):
            yield problem
        else:
            files = item[f"image_{light}"], item["depth"], None, item["info_depth"]
            yield Entry(f"{prefix}{index}", UNLABELLED, *files)


def items_of(folder: Path) -> dict[str, dict[str, Path]]:
    """The items of each scan in a folder by their names, such as `depth`, by the scan's index."""
    items: dict[str, dict[str, Path]] = {}
    for path in visible(folder):
        if match := _ITEM.fullmatch(path.name):
            items.setdefault(match[1], {})[match[2]] = path
    return items


def needed_of(light: int) -> list[str]:
    """The items that every scan must have."""
    return [f"image_{light}.png", "depth.png", "info_depth.yaml"]


def _kind(item: dict[str, Path]) -> str:
    about = _read_yaml(item["metadata"])
    anomalous = about.get("anomalous") if isinstance(about, dict) else None
    if anomalous not in (0, 1):
        raise InputError(
            f"{item['metadata']}: no `anomalous` of 0 or 1 in it; restore the original"
        )
    if not anomalous:
        return "good"
    masks = {name: item[f"{name}_mask"] for name in DEFECTS if f"{name}_mask" in item}
    return "+".join(name for name, path in masks.items() if read_gt(path).any()) or "anomalous"


def read_points(path: Path, bounds: Path) -> Points:
    """Points in metres of the depth image at `path`, (0, 0, 0) without a reading.

    z = d / 65535 (max - min) + min where d > 0, x = (u - cx) z / f, y = (v - cy) z / f

    Raises InputError if the image is not of one channel of 16 bits or the bounds are no depths.
    """
    depth = read_any(path)
    if depth.ndim != 2 or depth.dtype == np.uint8:
        raise InputError(
            f"{path}: an image of {depth.dtype} {depth.shape}, expected one channel of 16 bits; "
            "restore the original"
        )
    about = _read_yaml(bounds)
    try:
        low, high = (float(about["normalization"][end]) for end in ("min", "max"))
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{bounds}: no numbers min and max under `normalization`; restore the original"
        ) from error
    if not (np.isfinite([low, high]).all() and 0 <= low < high):
        raise InputError(
            f"{bounds}: depths from {low} to {high} m, expected 0 <= min < max; "
            "restore the original"
        )
    if not depth.any():
        raise InputError(f"{path}: every depth is 0, no reading at all; leave this scan out")
    z = np.where(depth > 0, depth / 65535 * (high - low) + low, 0.0)
    return points_of_depth(z, camera(depth.shape[1], depth.shape[0]))


def _read_yaml(path: Path) -> Any:
    with decoding(path):
        return yaml.safe_load(path.read_text(encoding="utf-8"))


def camera(width: int, height: int) -> Intrinsics:
    """The one camera of the data set, for an image of this size; 512 x 512 is the published."""
    focal = FOCAL_WIDTHS * width
    return Intrinsics(focal, focal, width / 2, height / 2, 1.0)


def item_file(root: Path, name: str, item: str) -> Path:
    """Path of an item, such as `depth.png`, of the scan of that name."""
    category, split, _, index = name.split("/")
    return root / category / SPLIT_FOLDERS[split] / "data" / f"{index}_{item}"


def write_scan(root: Path, scan: Scan, images: list[Rgb], normals: Points) -> None:
    """Writes `scan`, seen by `camera`, to the path in its name; `images` in the order of LIGHTS.

    Depths are stored in 16 bits between the scan's nearest and farthest: points are read back to
    within 1e-5 m. A defect `a+b` marks the masks of a and of b. Axes of the normals image point up
    and towards the camera. The depth is written last: a scan that has it is complete.
    """
    gt = scan.defect.astype(np.uint8) * 255
    masks = {name: gt * np.uint8(name in scan.kind.split("+")) for name in DEFECTS}
    coded = np.rint((normals * np.array([1, -1, -1]) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    pixels = {f"image_{light}": image for light, image in enumerate(images)}
    pixels |= {"normals": coded, "mask": gt} | {f"{n}_mask": m for n, m in masks.items()}
    for name, image in pixels.items():
        with atomic_write(item_file(root, scan.name, f"{name}.png")) as path:
            Image.fromarray(image).save(path, compress_level=1)
    z = scan.xyz[..., 2].astype(np.float64)
    near, far = float(z[z > 0].min()) - 1e-3, float(z.max())
    anomalous = {name: int(bool(mask.any())) for name, mask in masks.items()}
    about = {
        "metadata": {"anomalous": int(scan.kind != "good")} | anomalous,
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


def is_scan_file(path: Path, category: Path) -> bool:
    """Whether a file of a category is an item of a scan."""
    return path.parent.name == "data" and _ITEM.fullmatch(path.name) is not None
