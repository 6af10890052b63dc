"""CPU and GPU give the same: one code path, so only rounding may differ."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lsfa_lib.config import TINY, Config, DataConfig, PointEncoderConfig
from lsfa_lib.detection.coreset import greedy_k_centre
from lsfa_lib.features.geometry import nearest_points
from lsfa_lib.features.sampling import farthest_points
from lsfa_lib.pipeline import Run, run_category
from lsfa_lib.records import MODES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
POINT_MAE = PointEncoderConfig(weights="random", sha256="", groups=256, group_size=32)


def run_on(device: str, root: Path, cache: Path) -> Run:
    config: Config = replace(
        TINY,
        data=DataConfig(root=str(root)),
        point_encoder=POINT_MAE,
        device=device,
        cache=str(cache / device),
    )
    return run_category("seal", config, seed=0)


def test_scores_agree_to_1e_4(demo_root: Path, tmp_path: Path) -> None:
    cpu, gpu = (run_on(device, demo_root, tmp_path) for device in ("cpu", "cuda"))
    assert gpu.predictions["3d"][0].anomaly_map.device.type == "cuda"
    for expected, found in zip(cpu.result["scans"], gpu.result["scans"], strict=True):
        for mode in MODES:
            assert found["scores"][mode] == pytest.approx(expected["scores"][mode], abs=1e-4)
    for mode in MODES:
        for expected, found in zip(cpu.predictions[mode], gpu.predictions[mode], strict=True):
            torch.testing.assert_close(
                found.anomaly_map.cpu(), expected.anomaly_map, rtol=0, atol=1e-4
            )


def test_farthest_points_are_the_same() -> None:
    points = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(farthest_points(points.cuda(), 512).cpu(), farthest_points(points, 512))


def test_nearest_points_are_the_same() -> None:
    points = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    distances, indices = nearest_points(points[:100], points, 16)
    on_gpu, gpu_indices = nearest_points(points[:100].cuda(), points.cuda(), 16)
    torch.testing.assert_close(on_gpu.cpu(), distances, rtol=1e-5, atol=1e-6)
    assert torch.equal(gpu_indices.cpu(), indices)


def test_coreset_is_the_same() -> None:
    rows = torch.randn(5000, 64, generator=torch.Generator().manual_seed(0))
    expected = greedy_k_centre(rows, 500, seed=0)
    assert torch.equal(greedy_k_centre(rows.cuda(), 500, seed=0).cpu(), expected)
