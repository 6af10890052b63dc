"""Scans in the form each sensor's own software writes: imported, they equal the scene."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import tifffile
from fuzz_readers import packed_lzf
from PIL import Image
from scan_case import SensorScene, cloud_fields, sensor_scene, write_pcd, write_ply

from lsfa_lib.datasets.importing import Target, import_scans
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.datasets.relief import shaded_depth
from lsfa_lib.storage.files import InputError

DOCUMENT = Path(__file__).parents[1] / "docs" / "data.md"


@dataclass(frozen=True)
class Sensor:
    """How the files of a sensor are written, and what the import of them is told."""

    row: str
    """Its row of the table in docs/data.md."""
    write: Callable[[Path, SensorScene], np.ndarray]
    """Writes the folder; returns the colours that the imported scan must have."""
    camera: str = ""
    """File with the intrinsics, in the folder."""
    unit_m: float = 0.0
    depth_only: bool = False
    colour_tolerance: float = 0


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tiff":
        tifffile.imwrite(path, image)
    else:
        Image.fromarray(image).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def decoded(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def coordinates(scene: SensorScene, hole: float, unit_m: float = 1.0) -> dict[str, np.ndarray]:
    """x, y and z as 32-bit floats in a unit, with a value where there is no reading."""
    xyz = np.where(scene.depth_mm[..., None] > 0, scene.xyz / unit_m, hole).astype("f4")
    return {name: xyz[..., i] for i, name in enumerate("xyz")}


def channels(scene: SensorScene) -> dict[str, np.ndarray]:
    return {name: scene.rgb[..., i] for i, name in enumerate(("red", "green", "blue"))}


def grey(scene: SensorScene, dtype: str = "uint8") -> np.ndarray:
    return scene.rgb[..., 1].astype(dtype) * (257 if dtype == "uint16" else 1)


def three(image: np.ndarray) -> np.ndarray:
    return image[..., None].repeat(3, axis=2)


def enlarged(image: np.ndarray, times: int) -> np.ndarray:
    return image.repeat(times, axis=0).repeat(times, axis=1)


# Intel RealSense


def realsense_aligned(folder: Path, scene: SensorScene) -> np.ndarray:
    """Python bindings of the SDK, depth aligned to colour, units of a D405."""
    save(folder / "part_Color.png", scene.rgb)
    save(folder / "part_Depth.png", scene.depth_mm * 10)
    camera = scene.camera
    about = {
        **{n: camera[n] for n in ("width", "height", "fx", "fy")},
        **{"ppx": camera["cx"], "ppy": camera["cy"], "coeffs": [0.0] * 5},
        **{"model": "distortion.inverse_brown_conrady", "depth_scale": 0.0001},
    }
    (folder / "color.json").write_text(json.dumps(about))
    return scene.rgb


def realsense_open3d(folder: Path, scene: SensorScene) -> np.ndarray:
    """Open3D's recorder: JPEG, millimetres, its matrix column by column."""
    save(folder / "color" / "000000.jpg", scene.rgb)
    save(folder / "depth" / "000000.png", scene.depth_mm)
    about = {n: scene.camera[n] for n in ("width", "height")}
    about["intrinsic_matrix"] = np.array(scene.matrix()).T.ravel().tolist()
    (folder / "camera_intrinsic.json").write_text(json.dumps(about))
    return decoded(folder / "color" / "000000.jpg")


def realsense_viewer(folder: Path, scene: SensorScene) -> np.ndarray:
    """Snapshot of the viewer: a picture of the depths, the depths without header, their camera."""
    save(folder / "part_Depth.png", three((scene.depth_mm // 4).astype(np.uint8)))
    save(folder / "part_Color.png", scene.rgb)
    scene.depth_mm.astype("<u2").tofile(folder / "part_Depth.raw")
    height, width = scene.depth_mm.shape
    (folder / "part_Depth_metadata.csv").write_text(
        "Frame Info: \nType,Depth\nFormat,Z16\nFrame Number,123\nTimestamp (ms),1700000000000.12\n"
        f"Resolution x,{width}\nResolution y,{height}\nBytes per pixel,2\n\nIntrinsic:,\n"
        f"Fx,{scene.focal:.6f}\nFy,{scene.focal:.6f}\nPPx,{scene.centre[0]:.6f}\n"
        f"PPy,{scene.centre[1]:.6f}\nDistorsion,Brown Conrady\n"
    )
    return shaded_depth(scene.xyz.astype(np.float32))


# Microsoft Azure Kinect, Kinect, Structure


def azure_kinect(folder: Path, scene: SensorScene) -> np.ndarray:
    """Open3D's reader of recordings, which transforms depth to the colour camera."""
    save(folder / "color" / "00000.jpg", scene.rgb)
    save(folder / "depth" / "00000.png", scene.depth_mm)
    about = {
        **{"color_mode": "MJPG_720P", "depth_mode": "WFOV_2X2BINNED", "serial_number_": "0001"},
        **{n: scene.camera[n] for n in ("width", "height")},
        "intrinsic_matrix": np.array(scene.matrix()).T.ravel().tolist(),
        "stream_length_usec": 5_000_000,
    }
    (folder / "intrinsic.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(json.dumps({"path_dataset": str(folder)}))
    return decoded(folder / "color" / "00000.jpg")


def kinect_tiff(folder: Path, scene: SensorScene) -> np.ndarray:
    """Image grabber of the Point Cloud Library."""
    save(folder / "frame_20121214T142255.814212_rgb.tiff", scene.rgb)
    save(folder / "frame_20121214T142255.814212_depth.tiff", scene.depth_mm)
    tags = "".join(
        f"<{name}>{value}</{name}>"
        for name, value in (
            ("focal_length_x", scene.focal),
            ("focal_length_y", scene.focal),
            ("principal_point_x", scene.centre[0]),
            ("principal_point_y", scene.centre[1]),
            ("z_multiplication_factor", 0.001),
        )
    )
    (folder / "camera.xml").write_text(f"<?xml version='1.0'?>\n<depth>{tags}</depth>")
    return scene.rgb


def kinect_pcd(folder: Path, scene: SensorScene) -> np.ndarray:
    """Compressed PCD in metres: NaN without a reading, colour packed into a float."""
    red, green, blue = (scene.rgb[..., i].astype("u4") for i in range(3))
    rows = cloud_fields(**coordinates(scene, np.nan), rgb=(red << 16) + (green << 8) + blue)
    path = folder / "part.pcd"
    write_pcd(path, rows, scene.depth_mm.shape)
    head = path.read_bytes().partition(b"DATA")[0].replace(b"TYPE F F F U", b"TYPE F F F F")
    columns = b"".join(rows[name].tobytes() for name in rows.dtype.names)
    packed = packed_lzf(columns)
    sizes = struct.pack("<II", len(packed), len(columns))
    path.write_bytes(head + b"DATA binary_compressed\n" + sizes + packed)
    return scene.rgb


# Industrial scanners, millimetres


def zivid(folder: Path, scene: SensorScene) -> np.ndarray:
    """Ordered PLY: NaN without a reading; rows and columns follow from the 2D image beside it."""
    rows = cloud_fields(**coordinates(scene, np.nan, 0.001), **channels(scene))
    write_ply(folder / "part.ply", {"vertex": rows})
    save(folder / "part.png", np.dstack([scene.rgb, np.full_like(scene.rgb[..., 0], 255)]))
    return scene.rgb


def zivid_depth(folder: Path, scene: SensorScene) -> np.ndarray:
    """2D image and the z of its point cloud in millimetres, as NumPy saves it."""
    save(folder / "part.png", scene.rgb)
    np.save(folder / "part_depth.npy", coordinates(scene, np.nan, 0.001)["z"])
    (folder / "camera.yml").write_text(
        f"CameraMatrix:\n  FX: {scene.focal}\n  FY: {scene.focal}\n"
        f"  CX: {scene.centre[0]}\n  CY: {scene.centre[1]}\nDistortion: {{K1: 0}}\n"
    )
    return scene.rgb


def photoneo(folder: Path, scene: SensorScene) -> np.ndarray:
    """PLY of PhoXi Control: (0, 0, 0) without a reading, then elements of the frame."""
    height, width = scene.depth_mm.shape
    one = np.ones(scene.depth_mm.shape, "f4")
    vertex = cloud_fields(
        **coordinates(scene, 0.0, 0.001),
        **{"nx": 0 * one, "ny": 0 * one, "nz": one},
        **channels(scene),
        **{"Texture32": one * 700, "Depth32": one * 500, "Confidence32": one},
    )
    axes = [f"{axis}_axis{n}" for axis in "xyz" for n in "xyz"]
    elements = {
        "vertex": vertex,
        "camera": numbers("view_px", "view_py", "view_pz", *axes),
        "phoxi_frame_params": cloud_fields(
            frame_width=np.array([width], "u4"),
            frame_height=np.array([height], "u4"),
            frame_index=np.array([7], "u4"),
            frame_start_time=np.array([0.5], "f4"),
            frame_duration=np.array([0.5], "f4"),
        ),
        "camera_matrix": numbers(*(f"cm{i}" for i in range(9))),
        "distortion_matrix": numbers(*(f"dm{i}" for i in range(14))),
        "camera_resolution": numbers("width", "height"),
    }
    about = f"obj_info Photoneo PLY PointCloud (Width = {width}; Height = {height}; Ordered)"
    write_ply(folder / "part.ply", elements, (about,))
    return scene.rgb


def photoneo_texture(folder: Path, scene: SensorScene) -> np.ndarray:
    """The same as text and without colour; the texture as an image of 16 bits."""
    height, width = scene.depth_mm.shape
    about = f"obj_info Photoneo PLY PointCloud (Width = {width}; Height = {height}; Ordered)"
    elements = {"vertex": cloud_fields(**coordinates(scene, 0.0, 0.001))}
    write_ply(folder / "part.ply", elements, (about,), text=True)
    save(folder / "part_texture.png", grey(scene, "uint16"))
    return three(grey(scene))


def numbers(*names: str) -> np.ndarray:
    return cloud_fields(**{name: np.zeros(1, "f4") for name in names})


def ensenso(folder: Path, scene: SensorScene) -> np.ndarray:
    """Point map as PCD with NaN without a reading, and the rectified grey image."""
    rows = cloud_fields(**coordinates(scene, np.nan, 0.001))
    write_pcd(folder / "part.pcd", rows, scene.depth_mm.shape)
    save(folder / "part.png", grey(scene))
    return three(grey(scene))


def blaze(folder: Path, scene: SensorScene) -> np.ndarray:
    """Depth map and intensity of 16 bits; the confidence map is left out."""
    save(folder / "part_depth.png", scene.depth_mm)
    save(folder / "part_intensity.png", grey(scene, "uint16"))
    save(folder / "part_confidence.png", grey(scene, "uint16"))
    (folder / "blaze.json").write_text(json.dumps(scene.camera))
    return three(grey(scene))


# Stereolabs ZED


def zed_export(folder: Path, scene: SensorScene) -> np.ndarray:
    """Export of a recording: left image with alpha, depth in millimetres, numbered."""
    save(folder / "left000012.png", np.dstack([scene.rgb, np.full_like(scene.rgb[..., 0], 255)]))
    save(folder / "depth000012.png", scene.depth_mm)
    (folder / "left.json").write_text(json.dumps({"K": scene.matrix()}))
    return scene.rgb


def zed_floats(folder: Path, scene: SensorScene) -> np.ndarray:
    """Depth as the Python bindings return it: NaN occluded, -inf too near, inf too far."""
    z = coordinates(scene, np.nan, 0.001)["z"]
    z[-1, :8], z[-1, 8:16] = -np.inf, np.inf
    save(folder / "part.png", scene.rgb)
    np.save(folder / "part_depth.npy", z)
    (folder / "left.json").write_text(json.dumps({"K": scene.matrix()}))
    return scene.rgb


# iPhone LiDAR: colour of four times the resolution


def stray_scanner(folder: Path, scene: SensorScene) -> np.ndarray:
    """Stray Scanner: millimetres, a matrix of the colour image without its size."""
    save(folder / "rgb" / "000000.png", enlarged(scene.rgb, 4))
    save(folder / "depth" / "000000.png", scene.depth_mm)
    save(folder / "confidence" / "000000.png", grey(scene) % 3)
    lines = [", ".join(map(str, row)) for row in scene.matrix(4)]
    (folder / "camera_matrix.csv").write_text("\n".join(lines) + "\n")
    return scene.rgb


def record3d(folder: Path, scene: SensorScene) -> np.ndarray:
    """Record3D: EXR in metres, a flat matrix by columns with the size of the colour image."""
    (folder / "depth").mkdir()
    depth = {"R": np.ascontiguousarray(coordinates(scene, np.nan)["z"])}
    OpenEXR.File({"type": OpenEXR.scanlineimage}, depth).write(str(folder / "depth" / "0.exr"))
    save(folder / "rgb" / "0.jpg", enlarged(scene.rgb, 4))
    height, width = scene.depth_mm.shape
    about = {
        "K": np.array(scene.matrix(4)).T.ravel().tolist(),
        **{"w": 4 * width, "h": 4 * height, "dw": width, "dh": height, "fps": 60},
    }
    (folder / "metadata.json").write_text(json.dumps(about))
    return decoded(folder / "rgb" / "0.jpg").reshape(height, 4, width, 4, 3).mean(axis=(1, 3))


SENSORS = [
    Sensor("RealSense", realsense_aligned, "color.json"),
    Sensor("RealSense", realsense_open3d, "camera_intrinsic.json"),
    Sensor("RealSense", realsense_viewer, "part_Depth_metadata.csv", depth_only=True),
    Sensor("Azure Kinect", azure_kinect, "intrinsic.json"),
    Sensor("Kinect, Structure", kinect_tiff, "camera.xml"),
    Sensor("Kinect, Structure", kinect_pcd),
    Sensor("Zivid", zivid, unit_m=0.001),
    Sensor("Zivid", zivid_depth, "camera.yml"),
    Sensor("Photoneo", photoneo, unit_m=0.001),
    Sensor("Photoneo", photoneo_texture, unit_m=0.001),
    Sensor("Ensenso", ensenso, unit_m=0.001),
    Sensor("Basler blaze", blaze, "blaze.json"),
    Sensor("ZED", zed_export, "left.json"),
    Sensor("ZED", zed_floats, "left.json"),
    Sensor("iPhone LiDAR", stray_scanner, "camera_matrix.csv"),
    Sensor("iPhone LiDAR", record3d, "metadata.json", colour_tolerance=1),
]


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.write.__name__)
def test_what_a_sensor_writes_equals_the_scene(tmp_path: Path, sensor: Sensor) -> None:
    scene, folder = sensor_scene(), tmp_path / "scans"
    folder.mkdir()
    colours = sensor.write(folder, scene)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    target = Target(tmp_path / "mine", "part", "train", depth_only=sensor.depth_only)
    camera = folder / sensor.camera if sensor.camera else None
    done = import_scans(folder, target, camera, sensor.unit_m)
    assert len(done.names) == done.written == 1
    (scan,) = read_split(tmp_path / "mine", "part", "train")
    # 1 um: 32-bit floats of distances below 1 m.
    np.testing.assert_allclose(scan.xyz, scene.xyz, atol=1e-6)
    assert ((scan.xyz != 0).any(axis=2) == (scene.depth_mm > 0)).all()
    assert np.abs(scan.rgb - colours.astype(float)).max() <= sensor.colour_tolerance
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_every_sensor_of_the_document_has_an_example() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").partition("| sensor |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert rows == list(dict.fromkeys(sensor.row for sensor in SENSORS))


def test_a_snapshot_of_the_viewer_is_not_paired_with_its_colour(tmp_path: Path) -> None:
    realsense_viewer(tmp_path, sensor_scene())
    camera, target = tmp_path / "part_Depth_metadata.csv", Target(tmp_path / "mine", "a", "train")
    with pytest.raises(InputError, match=r"part_Depth\.raw: depths of a viewer's snapshot.*not"):
        import_scans(tmp_path, target, camera)
    target = Target(tmp_path / "mine", "a", "train", depth_only=True)
    with pytest.raises(InputError, match="depth images need the camera's intrinsics"):
        import_scans(tmp_path, target)
    (tmp_path / "part_Depth.raw").write_bytes(b"12")
    with pytest.raises(InputError, match=r"part_Depth\.raw: 1 depths, expected 32 x 24 as in"):
        import_scans(tmp_path, target, camera)


def test_a_ply_without_its_lost_points_is_refused(tmp_path: Path) -> None:
    """The RealSense Viewer and unordered exports leave out what was not read."""
    scene = sensor_scene()
    rows = cloud_fields(**coordinates(scene, 0.0), **channels(scene))
    write_ply(tmp_path / "part.ply", {"vertex": rows[rows["z"] > 0]})
    with pytest.raises(InputError, match=r"part\.ply: no rows and columns in its header"):
        import_scans(tmp_path, Target(tmp_path / "mine", "part", "train"))
    save(tmp_path / "part.png", scene.rgb)
    with pytest.raises(
        InputError, match=r"part\.ply: \d+ points of 32 x 24, expected an organised"
    ):
        import_scans(tmp_path, Target(tmp_path / "mine", "part", "train"))
