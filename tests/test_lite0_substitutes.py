"""Lite0 in place of what anomalib's models download."""

from itertools import islice, repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torchvision.transforms.functional import center_crop

from lsfa_lib.config import Config, configure
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.image import LITE0_MEAN, LITE0_STD, local_features
from lsfa_lib.methods import lite0_substitutes
from lsfa_lib.methods.lite0 import Stages
from lsfa_lib.methods.lite0_substitutes import Pyramid, Tokens, crops, distil
from lsfa_lib.pipeline import run_category

pytest.importorskip("anomalib")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_fixed_matrix_keeps_the_lengths_of_features(images: torch.Tensor) -> None:
    stages, again = Stages([1, 3], 384), Stages([1, 3], 384)
    own = stages.backbone.forward_intermediates(images, indices=[1, 3], intermediates_only=True)
    found = stages.maps(images)
    assert [m.shape for m in found] == [(2, 384, 16, 16), (2, 384, 4, 4)]
    for wide, narrow, same in zip(found, own, again.maps(images), strict=True):
        torch.testing.assert_close(wide.norm(dim=1), narrow.norm(dim=1), rtol=1e-4, atol=1e-4)
        assert torch.equal(wide, same)
    assert not any(p.requires_grad for p in stages.parameters())
    assert not stages.train().training


def test_cs_flow_reads_the_last_stage_at_three_scales() -> None:
    found = Pyramid(3, (128, 128))(torch.randn(1, 3, 128, 128))
    assert [m.shape for m in found] == [(1, 304, 4, 4), (1, 304, 2, 2), (1, 304, 1, 1)]


def test_dinomaly_reads_a_stage_for_every_two_layers(images: torch.Tensor) -> None:
    layers = [f"blocks.{i}" for i in range(2, 10)]
    tokens = Tokens(layers)(images)
    assert list(tokens) == layers
    found = list(tokens.values())
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first.shape == (2, 1 + 4 * 4, 384) and torch.equal(first, second)
        patches = first[:, 1:]
        torch.testing.assert_close(patches.mean(2), torch.zeros(2, 16), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            patches.std(2, correction=0), torch.ones(2, 16), rtol=1e-2, atol=0
        )
        torch.testing.assert_close(first[:, 0], patches.mean(1))
    assert not torch.equal(tokens["blocks.2"], tokens["blocks.9"])


def test_crops_are_windows_of_the_photographs() -> None:
    whole = [np.asarray(p, np.float32) / 255 for p in load_sample_images().images]
    with seeded(0):
        found = [image[0].permute(1, 2, 0).numpy() for image, _ in islice(crops((60, 80)), 4)]

    def is_in(photograph: np.ndarray, cut: np.ndarray) -> bool:
        inside = photograph[: -len(cut) + 1, : -cut.shape[1] + 1]
        places = np.argwhere(np.isclose(inside, cut[0, 0], atol=1e-6).all(-1))
        return any(
            np.allclose(photograph[r : r + 60, c : c + 80], cut, atol=1e-6) for r, c in places
        )

    assert all(cut.shape == (60, 80, 3) and any(is_in(p, cut) for p in whole) for cut in found)
    assert len({cut.tobytes() for cut in found}) == 4


def test_a_teacher_learns_the_features_of_lite0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one image, always the same: a few steps on many teach little."""
    layers = torch.nn.Conv2d(3, 64, 8, stride=4), torch.nn.ReLU(), torch.nn.Conv2d(64, 8, 5)
    teacher = torch.nn.Sequential(*layers)
    image = next(crops((160, 160)))[0]
    monkeypatch.setattr(lite0_substitutes, "crops", lambda size: repeat((image, None)))
    mean, std = (torch.tensor(v)[:, None, None] for v in (LITE0_MEAN, LITE0_STD))
    wanted = local_features(Stages([1, 2], 4).maps((image - mean) / std))

    def error() -> float:
        made = teacher(image)
        return float(F.mse_loss(made, F.instance_norm(center_crop(wanted, list(made.shape[2:])))))

    with torch.no_grad():
        before = error()
    inner = SimpleNamespace(teacher=teacher, teacher_out_channels=8)
    distil(SimpleNamespace(device="cpu", model=inner))
    assert error() < 0.8 * before
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cs_flow", "dinomaly"])
def test_the_model_is_trained_and_scores_without_a_download(name: str, tiny: Config) -> None:
    run = run_category("seal", configure(tiny, {"method": name, "shots": 2}), seed=0)
    maps = [p.anomaly_map for p in run.predictions["rgb"]]
    assert all(m.shape == (96, 96) and bool(m.isfinite().all()) for m in maps)
    assert len({p.image_score for p in run.predictions["rgb"]}) == len(maps)
    assert run.result["modes"]["rgb"]["p_auroc"] > 0.5
