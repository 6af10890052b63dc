"""The complete path on a second device, where mixing with the host is refused as by a GPU."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from other_device import OTHER, Elsewhere, OtherDevice, handed_over, use

from lsfa_lib.adaptation import training
from lsfa_lib.config import Config, configure
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.detection import building, head_training
from lsfa_lib.detection.detector import predict
from lsfa_lib.features.cache import extract
from lsfa_lib.features.lazy_scan import read_sample
from lsfa_lib.methods.fitting import fit_detector
from lsfa_lib.pipeline import run_category

pytestmark = pytest.mark.slow
RECIPES = {
    "LSFA": {},
    "heads, whitened, reweighted": {
        "only": "none",
        "detector.heads": True,
        "bank.whitening": 0.5,
        "detector.image_score": "reweighted",
    },
    "CFM": {"method": "cfm"},
}
HANDED_OVER = {
    "features.sampling._boxes": "SciPy sorts the points into boxes, once for each scan",
    "features.sampling._greedy_picks": "about 20 picks a round are made among few candidates",
    "features.cache._packed": "features are kept in host memory and in the cache",
    "features.extract.point_features": "the encoder receives the valid points alone",
    "features.geometry.patch_weights": "a patch's pixels are those that are valid",
    "features.extract.distinct_rows": "its result has as many rows as there are valid patches",
    "adaptation.adaptors.scan_rows": "likewise",
    "adaptation.adaptors.disagreement": "likewise, of patches that both modalities have",
    "adaptation.nearest.nearest_index": "later blocks of the bank improve few rows",
    "detection.sketch._nearest": "rows that a bound does not exclude are compared in full",
    "detection.sketch._compare": "likewise",
    "detection.memory.search_bank": "likewise; the largest distance is a number",
    "detection.maps.top_mean": "the image score is a number",
    "detection.detector.evidence": "the largest disagreement is a number",
}
"""Functions that wait for the device while one scan is scored, with the reason."""
IN_TRAINING = {
    "adaptation.adaptors.sampled": "its result has as many rows as the drawn patches share",
    "adaptation.instances.instance_features": "rows that stand for no patch are left out",
    "adaptation.feature_queue.FeatureQueue.__len__": "slices of a ring buffer need numbers",
    "adaptation.feature_queue.FeatureQueue.enqueue": "likewise",
    "adaptation.nearest.nearest_index": "later blocks of the queue improve few rows",
    "adaptation.objective.compactness_terms": "distances for the history",
    "adaptation.monitors.alignment_accuracy": "a number for the history",
    "adaptation.monitors.feature_variance": "likewise",
    "adaptation.monitors.effective_rank": "likewise, from the eigenvalues",
    "adaptation.monitors._deviations": "rows that stand for no patch are left out",
    "adaptation.trainer.Trainer._backward": "the loss, for the history",
    "adaptation.trainer.Trainer._backward.<locals>.<dictcomp>": "its terms, likewise",
    "adaptation.trainer.Trainer.step": "a gradient that is not finite stops the training",
}
"""Functions that wait while adaptors are trained."""
IN_A_BANK = {
    "features.extract.distinct_rows": "its result has as many rows as there are valid patches",
    "detection.building._rows_of_scan": "likewise",
    "detection.building.Moments.overall": "mean and standard deviation are numbers",
    "detection.building._gathered": "the rows of one scan at a time",
    "detection.coreset.k_centre.<locals>.<genexpr>": "the picks, as numbers, for the progress",
    "detection.coreset._Gaps.add": "only rows above a level are updated with each block of picks",
    "detection.coreset._next_block": "a block of picks is made among few candidates",
}
"""Functions that wait while a bank is built."""


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use(monkeypatch)
    handed_over.clear()
    with OtherDevice():
        yield


def test_the_device_computes_and_refuses_tensors_of_the_host(elsewhere: None) -> None:
    there = torch.arange(6.0, device=OTHER).view(2, 3)
    assert (there @ there.T).device == OTHER
    assert (there @ there.T).tolist() == [[5, 14], [14, 50]]
    assert there[torch.tensor([1])].tolist() == [[3, 4, 5]]  # an index may be of the host
    assert torch.equal(there.cpu(), torch.arange(6.0).view(2, 3))
    for refused in (lambda: there + torch.ones(3), lambda: torch.cat([there, torch.ones(1, 3)])):
        with pytest.raises(RuntimeError, match="of the host and of another device"):
            refused()
    with pytest.raises(RuntimeError):
        there.numpy()
    layer = torch.nn.Linear(3, 1).to(OTHER)
    layer(there).sum().backward()
    assert layer.weight.grad.tolist() == [[3, 5, 7]]


@pytest.mark.parametrize("recipe", RECIPES)
def test_scores_on_another_device_are_those_of_the_cpu(
    recipe: str,
    tiny: Config,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Training amplifies rounding differences, by an amount that depends on the processor.
    monkeypatch.setattr(head_training, "STEPS", 20)
    for part in ("train", "validation", "test/good", "test/hole"):
        own = tmp_path / "few" / "seal" / part
        own.parent.mkdir(parents=True, exist_ok=True)
        own.symlink_to(Path(tiny.data.root) / "seal" / part)
    few = replace(tiny, cache="", shots=3, data=replace(tiny.data, root=str(tmp_path / "few")))
    config = configure(few, RECIPES[recipe])
    expected = run_category("seal", config, 0)
    request.getfixturevalue("elsewhere")
    found = run_category("seal", config, 0)
    for mode, predictions in found.predictions.items():
        for own, other in zip(predictions, expected.predictions[mode], strict=True):
            assert isinstance(own.anomaly_map, Elsewhere)
            assert own.image_score == pytest.approx(other.image_score, abs=1e-3)
            # Sums in another order; whitening and trained heads amplify rounding differences.
            torch.testing.assert_close(
                own.anomaly_map.cpu(), other.anomaly_map, rtol=3e-4, atol=1e-3
            )


def test_fitting_waits_for_the_device_only_where_known(
    tiny: Config, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, since how often depends on the steps and the patches."""
    during: dict[str, set[str]] = {}

    def watch(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            before = handed_over.copy()
            found = real(*args, **kwargs)
            during.setdefault(name, set()).update(handed_over - before)
            return found

        monkeypatch.setattr(module, name, watched)

    watch(training, "fit")
    watch(building, "build_bank")
    config = configure(replace(tiny, cache=""), {"only": "both", "training.steps": 2})
    fit_detector("seal", config, 0)
    assert during["fit"] == set(IN_TRAINING)
    assert during["build_bank"] == set(IN_A_BANK)


def test_one_scan_waits_for_the_device_only_where_known(tiny: Config, elsewhere: None) -> None:
    config = replace(tiny, cache="")
    learned = fit_detector("seal", config, 0)
    entry = read_split(Path(config.data.root), "seal", "test").entries[0]
    sample = read_sample(entry, config)
    handed_over.clear()
    found = predict(learned.detector, extract(sample, learned.encoders, config))
    assert isinstance(found["rgb+3d"].anomaly_map, Elsewhere)
    assert set(handed_over) == set(HANDED_OVER)
