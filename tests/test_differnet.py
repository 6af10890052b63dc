"""DifferNet: its score and its map in closed form, and a stain that it finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.features.extract import load_image
from lsfa_lib.features.lazy_scan import LazyScan, lazy_scan
from lsfa_lib.methods import differnet
from lsfa_lib.methods.method import Good
from lsfa_lib.methods.rgb_anomalib import at_map_size
from lsfa_lib.pipeline import run_category

pytest.importorskip("FrEIA")


@pytest.fixture(scope="module")
def good(cached: Config) -> Good:
    """The seal's good scans, without features."""
    config = at_map_size(cached)
    train, validation = (
        [lazy_scan(e, None, config) for e in split_of(config.data, "seal", part).entries]
        for part in ("train", "validation")
    )
    return Good(train, validation, config, 0)


class Mean(nn.Module):
    """An encoder whose tokens are the pixels."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        return images.flatten(2).transpose(1, 2), (images.shape[2], images.shape[3])


def test_features_are_means_at_three_scales_of_four_rotations() -> None:
    image = torch.rand(3, 16, 16)
    rotated = differnet.copies(image)
    for turns in range(4):
        expected = np.rot90(image.numpy(), turns, (1, 2))
        assert np.array_equal(rotated[turns].numpy(), expected)
        assert np.array_equal(torch.rot90(rotated[turns], -turns, (1, 2)).numpy(), image.numpy())
    found = differnet.pooled(Mean(), rotated)
    assert found.shape == (4, 9)
    # The mean of an image is that of its smaller copies, up to the weights at their borders.
    for part in found.split(3, dim=1):
        torch.testing.assert_close(part, image.mean((1, 2)).expand(4, 3), atol=0.02, rtol=0)


def test_an_untrained_flow_is_the_regularised_normal_density(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """(x - m)^T (C + s^2 I)^-1 (x - m) / 2, in units of each feature's deviation."""
    monkeypatch.setattr(differnet, "EPOCHS", 0)
    rows = torch.randn(12, 20, generator=torch.Generator().manual_seed(0)) * 3 + 1
    others = rows[:5] + 2
    found = differnet.score_of(rows, 0)(others)
    values, new = rows.double().numpy(), others.double().numpy()
    off = (new - values.mean(0)) / values.std(0)
    covariance = np.corrcoef(values.T) + differnet.NOISE**2 * np.eye(20)
    expected = np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off) / 2
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-3)


def test_training_makes_good_rows_likelier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows on a circle, which no normal density fits."""
    angles = torch.linspace(0, 6, 40)
    rows = torch.stack([angles.cos(), angles.sin(), 0.1 * angles], dim=1)
    means = []
    for epochs in (0, 75):
        monkeypatch.setattr(differnet, "EPOCHS", epochs)
        score = differnet.score_of(rows, 0)
        means.append(float(score(rows).mean()))
        middle = float(score(torch.tensor([[0.0, 0.0, 0.3]])))
    assert means[1] < means[0]
    assert middle > means[1]


def test_the_score_is_the_mean_of_the_negative_log_likelihoods(good: Good) -> None:
    few, scan = replace(good, train=good.train[:2]), good.validation[0]
    found = differnet.fit(few)(scan)["rgb"]
    encoder = load_image(good.config, resolve_device("cpu"))
    with torch.no_grad():
        copies = [differnet.copies(s.sample.rgb) for s in few.train]
        rows = torch.cat([differnet.pooled(encoder, c) for c in copies])
    score = differnet.score_of(rows, 0)
    turned = [torch.rot90(scan.sample.rgb, turns, (1, 2))[None] for turns in range(4)]
    scores = [float(score(differnet.pooled(encoder, image))) for image in turned]
    assert found.image_score == pytest.approx(np.mean(scores), rel=1e-3)


def test_the_map_is_the_gradients_turned_back(good: Good) -> None:
    sample = good.train[0].sample
    gradient = torch.randn(3, 96, 96)
    copies = torch.stack([torch.rot90(gradient, turns, (1, 2)) for turns in range(4)])
    found = differnet.gradient_map(copies, sample)
    expected = differnet.gradient_map(gradient[None], sample)
    torch.testing.assert_close(found, expected)
    assert not found[~sample.valid].any()
    assert float(found[sample.valid].mean()) == pytest.approx(3 * np.sqrt(2 / np.pi), rel=0.05)


def stained(scan: LazyScan) -> LazyScan:
    """The scan with a blue disc of a tenth of the image's side on the part."""
    sample = scan.sample
    share = torch.nn.functional.avg_pool2d(sample.valid[None].float(), 11, stride=1)[0]
    row, column = (i + 5 for i in divmod(int(share.argmax()), share.shape[1]))
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    inside = (rows - row) ** 2 + (columns - column) ** 2 <= 5**2
    rgb = torch.where(inside, torch.tensor([-1.5, -1.5, 2.0])[:, None, None], sample.rgb)
    changed = replace(sample, rgb=rgb, defect=inside)
    return LazyScan(scan.name, scan.config, lambda: changed, scan.extract)


def test_every_stained_part_scores_above_every_good_one(good: Good) -> None:
    predict = differnet.fit(good)
    held = [predict(scan)["rgb"].image_score for scan in good.validation]
    found = [predict(stained(scan))["rgb"].image_score for scan in good.validation]
    assert min(found) > max(held)


def test_one_scan_gives_finite_scores(good: Good) -> None:
    found = differnet.fit(replace(good, train=good.train[:1]))(good.validation[0])["rgb"]
    assert np.isfinite(found.image_score) and bool(found.anomaly_map.isfinite().all())


def test_a_run_reads_the_image_alone(cached: Config) -> None:
    config = replace(cached, method="differnet", shots=2, timed_scans=1)
    result = run_category("seal", config, 0).result
    assert list(result["modes"]) == ["rgb"]
    assert set(result["cost"]["seconds"]) == {"read", "prepare", "detect"}
