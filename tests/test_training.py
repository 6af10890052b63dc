"""Training: schedule, order of the queues, accumulation, resumption, and what must stop it."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lsfa_lib.adaptation.adaptors import Adaptors, ScanRows
from lsfa_lib.adaptation.monitors import collapse
from lsfa_lib.adaptation.objective import (
    AdaptedScan,
    FeatureQueues,
    adapted_scan,
    alignment_terms,
    compactness_terms,
    in_single_precision,
    total,
)
from lsfa_lib.adaptation.schedule import batch_scans, epoch_order, learning_rate
from lsfa_lib.adaptation.trainer import Task, Trainer
from lsfa_lib.adaptation.training import TrainingStopped, fit
from lsfa_lib.config import (
    OURS,
    PUBLISHED,
    RELEASED,
    AdaptorConfig,
    Config,
    LossWeights,
    TrainingConfig,
)
from lsfa_lib.records import MODALITIES, Modality
from lsfa_lib.storage.files import InputError

DIMS: dict[Modality, int] = {"3d": 12, "rgb": 16}
QUICK = replace(
    OURS.training, weights=LossWeights(), steps=6, batch=4, patches_per_scan=0, global_queue=6
)
ADAPTOR = replace(OURS.adaptor, projection=8, mlp_ratio=1.0)


def rows_of(scan: int, patches: int = 20) -> dict[Modality, ScanRows]:
    """Both modalities see the same hidden causes; two patches share each image row."""
    generator = torch.Generator().manual_seed(scan)
    hidden = torch.randn(patches // 2, 4, generator=generator).repeat_interleave(2, 0)
    views = torch.Generator().manual_seed(1000)
    points = hidden @ torch.randn(4, DIMS["3d"], generator=views)
    points = points + 0.1 * torch.randn(patches, DIMS["3d"], generator=generator)
    image = hidden[::2] @ torch.randn(4, DIMS["rgb"], generator=views)
    return {
        "3d": ScanRows(points, torch.arange(patches), torch.ones(patches)),
        "rgb": ScanRows(image, torch.arange(patches) // 2, torch.full((patches // 2,), 2.0)),
    }


def task(
    scans: int = 8,
    config: AdaptorConfig = ADAPTOR,
    source: Callable[[int], dict[Modality, ScanRows]] = rows_of,
) -> Task:
    torch.manual_seed(0)
    names = tuple(f"part/train/good/{i:03d}" for i in range(scans))
    return Task(Adaptors(DIMS, config), source, names)


def in_double(scan: int) -> dict[Modality, ScanRows]:
    return {
        m: ScanRows(s.rows.double(), s.index, s.copies.double()) for m, s in rows_of(scan).items()
    }


def task_in_double() -> Task:
    made = task(source=in_double)
    made.adaptors.double()
    return made


def weights(task: Task) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in task.adaptors.state_dict().items()}


def parts(**kept: float) -> LossWeights:
    return replace(LossWeights(0.0, 0.0, 0.0, 0.0), **kept)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = replace(QUICK, steps=12, warmup=1 / 3, learning_rate=2e-3)
    rates = [learning_rate(step, config) for step in range(12)]
    assert rates[:5] == pytest.approx([0.5e-3, 1e-3, 1.5e-3, 2e-3, 2e-3])
    assert rates[8] == pytest.approx(1e-3)  # half-way down the cosine
    assert learning_rate(12, config) == pytest.approx(0.0, abs=1e-12)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_an_epoch_holds_no_scan_twice() -> None:
    first, second = ([batch_scans(s, 11, 3, seed=5) for s in range(e, e + 3)] for e in (0, 3))
    for epoch in (first, second):
        assert len({scan for batch in epoch for scan in batch}) == 9
    assert first != second
    assert first[1] == batch_scans(1, 11, 3, seed=5) != batch_scans(1, 11, 3, seed=6)


def test_drawn_patches_are_the_same_in_both_modalities() -> None:
    config = replace(QUICK, patches_per_scan=7)
    trainer = Trainer(task(), config, seed=1)
    whole, drawn = rows_of(3), trainer.drawn(3, step=2)
    points = drawn["3d"].rows[drawn["3d"].index]
    image = drawn["rgb"].rows[drawn["rgb"].index]
    assert len(points) == len(image) == 7
    for point, colour in zip(points, image, strict=True):
        (patch,) = (whole["3d"].rows == point).all(1).nonzero()[0]
        assert torch.equal(colour, whole["rgb"].rows[whole["rgb"].index[patch]])
    again, later = (trainer.drawn(3, step)["3d"].rows for step in (2, 3))
    assert torch.equal(again, drawn["3d"].rows) and not torch.equal(later, drawn["3d"].rows)


def test_terms_of_weight_zero_add_nothing() -> None:
    terms = {"LA": torch.tensor(2.0), "GA": torch.tensor(math.inf), "LC": torch.tensor(3.0)}
    assert float(total(terms, LossWeights(0.6, 0.0, 1.0, 1.0))) == pytest.approx(4.2)


def adapted(scans: list[int], adaptors: Adaptors) -> list[AdaptedScan]:
    return [adapted_scan(adaptors, scan, rows_of(scan), 2, 0) for scan in scans]


def filled(adaptors: Adaptors, scans: list[int]) -> FeatureQueues:
    banks = FeatureQueues(DIMS, {"3d": 100, "rgb": 100}, 100)
    for scan in adapted(scans, adaptors):
        banks.enqueue(scan)
    return banks


@pytest.mark.parametrize(("exclude", "how"), [(True, "mean"), (False, "mean"), (True, "sum")])
def test_compactness_is_the_distance_to_the_nearest_queue_row(exclude: bool, how: str) -> None:
    adaptors, banks = task().adaptors, filled(task().adaptors, [0, 1, 2])
    config = replace(QUICK, exclude_same_scan=exclude, compactness=how)
    batch = adapted([1, 4], adaptors)
    terms, seen = compactness_terms(batch, banks, config)
    local = whole = 0.0
    for m in MODALITIES:
        for scan in batch:
            for level, rows, queue in (
                (0, scan.rows[m].rows[scan.rows[m].index], banks.local[m]),
                (1, scan.instances[m], banks.global_[m]),
            ):
                held, scans = queue.held
                distances = []
                for row in rows:
                    others = [
                        float((row - other).detach().norm())
                        for other, origin in zip(held, scans, strict=True)
                        if not exclude or int(origin) != scan.scan
                    ]
                    distances.append(min(others))
                term = sum(distances) / (len(distances) if how == "mean" else 1) / len(batch)
                local, whole = local + term * (level == 0), whole + term * (level == 1)
    assert float(terms["LC"]) == pytest.approx(local, rel=1e-5)
    assert float(terms["GC"]) == pytest.approx(whole, rel=1e-5)
    # Scan 1, half of the batch, is in the bank: unless excluded, it finds itself.
    assert seen["same_scan_3d"] == (0.0 if exclude else 0.5)


def test_alignment_terms_are_means_over_scans_and_of_instance_means() -> None:
    adaptors = task().adaptors
    batch = adapted([0, 3, 5], adaptors)
    terms, seen = alignment_terms(batch, adaptors, QUICK)
    each = [alignment_terms([scan], adaptors, QUICK) for scan in batch]
    assert float(terms["LA"]) == pytest.approx(sum(float(t["LA"]) for t, _ in each) / 3, rel=1e-5)
    assert seen["alignment_accuracy"] == pytest.approx(
        sum(s["alignment_accuracy"] for _, s in each) / 3
    )
    a, b = (
        torch.cat([adaptors.project(m, s.instances[m].mean(0)[None]) for s in batch]).detach()
        for m in MODALITIES
    )
    scores = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2) / QUICK.temperature
    expected = -(scores.log_softmax(1).diag() + scores.log_softmax(0).diag()).mean() / 2
    assert float(terms["GA"]) == pytest.approx(float(expected), rel=1e-4)


def test_no_gradient_reaches_the_banks() -> None:
    adaptors = task().adaptors
    banks = filled(adaptors, [0, 1])
    terms, _ = compactness_terms(adapted([2], adaptors), banks, QUICK)
    terms["LC"].backward()
    assert all(not buffer.requires_grad for buffer in banks.buffers())
    assert all(p.grad is not None for p in adaptors.by_modality["3d"].layers.parameters())
    assert all(p.grad is None for p in adaptors.by_modality["3d"].head.parameters())


def test_the_banks_are_queried_before_the_batch_is_put_in() -> None:
    # Two scans, a bank of one: after the fill it holds the scan that is not in the first batch.
    # Put in before the query, every patch of the batch would find itself.
    config = replace(QUICK, steps=1, batch=1, exclude_same_scan=False)
    config = replace(config, weights=parts(lc=1.0, la=1.0))
    trained = fit(task(2), config, seed=0)
    assert trained.history[0]["same_scan_3d"] == trained.history[0]["same_scan_rgb"] == 0.0
    assert trained.history[0]["nearest_3d"] > 0.1


def test_defect_10_gradients_of_a_batch_add_up() -> None:
    # The public code clears gradients before every part of a batch, so that only the last counts.
    config = replace(QUICK, steps=3, weights=LossWeights(ga=0.0), clip_norm=1.0)
    whole, halves, last = task_in_double(), task_in_double(), task_in_double()
    one, two = fit(whole, config, seed=1), fit(halves, replace(config, accumulate=2), seed=1)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(tensor, weights(halves)[name], rtol=1e-6, atol=1e-8)
    for name in ("loss", "LA", "LC", "GC", "gradient_norm", "nearest_rgb"):
        for a, b in zip(one.history, two.history, strict=True):
            assert a[name] == pytest.approx(b[name], rel=1e-6)
    fit(last, replace(config, batch=2), seed=1)
    name = "by_modality.3d.head.weight"
    assert not torch.allclose(weights(last)[name], weights(whole)[name], atol=1e-4)


class Interrupted(Exception):
    pass


def test_a_resumed_training_ends_bit_equal(tmp_path: Path) -> None:
    config = replace(QUICK, steps=7, checkpoint_every=3, patches_per_scan=9, instances=2)
    straight = task()
    expected = fit(straight, config, seed=2)

    calls = 0

    def cut_short(scan: int) -> dict[Modality, ScanRows]:
        nonlocal calls
        calls += 1
        # Counting and filling read 8 + 6, each step 4.
        if calls > 14 + 4 * 4 + 1:
            raise Interrupted
        return rows_of(scan)

    with pytest.raises(Interrupted):
        fit(task(source=cut_short), config, 2, tmp_path / "checkpoint.pt")
    resumed = task()
    steps: list[int] = []
    again = fit(resumed, config, 2, tmp_path / "checkpoint.pt")
    steps = [round(entry["learning_rate"] * 1e9) for entry in again.history]
    assert steps == [round(entry["learning_rate"] * 1e9) for entry in expected.history]
    assert again.history == expected.history
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(resumed)[name])


def test_a_checkpoint_is_taken_up_where_it_was(tmp_path: Path) -> None:
    config = replace(QUICK, steps=4, checkpoint_every=2)
    path = tmp_path / "checkpoint.pt"
    fit(task(), config, 2, path)
    seen: list[int] = []

    def watched(scan: int) -> dict[Modality, ScanRows]:
        seen.append(scan)
        return rows_of(scan)

    fit(task(source=watched), config, 2, path)
    assert len(seen) == 8  # only to count: all steps are in the checkpoint
    # Another seed is another training.
    fit(task(source=watched), config, 3, path)
    assert len(seen) > 8 + 8
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(InputError, match=r"checkpoint\.pt is not a readable checkpoint"):
        fit(task(), config, 2, path)


def test_fewer_scans_than_the_batch_are_one_batch() -> None:
    trained = fit(task(3), replace(QUICK, steps=2), seed=0)
    assert trained.notes == ("batch of 3 instead of 4: there are no more scans",)
    assert len(trained.history) == 2


def test_one_scan_serves_local_alignment_alone() -> None:
    with pytest.raises(InputError, match="1 training scan, but LC and GC need rows of other scans"):
        fit(task(1), QUICK, seed=0)
    trained = fit(task(1), replace(QUICK, weights=parts(la=1.0)), seed=0)
    assert trained.history[-1]["LA"] < trained.history[0]["LA"]


@pytest.mark.parametrize(
    ("config", "structure", "message"),
    [
        (replace(QUICK, weights=parts()), "linear", "weights are all 0"),
        (replace(QUICK, weights=parts(lc=1.0)), "none", "train with --only CLC"),
        (replace(QUICK, accumulate=5), "linear", "accumulate is 5, expected 1 to 4"),
        (replace(QUICK, instances=11), "linear", "K = 11 instance features .* 10 distinct"),
    ],
)
def test_what_cannot_be_trained_says_so(
    config: TrainingConfig, structure: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(task(config=replace(ADAPTOR, structure=structure)), config, seed=0)


def test_bank_trap_a_bank_longer_than_an_epoch_is_cut() -> None:
    config = replace(QUICK, exclude_same_scan=False, local_queue=1000, global_queue=100)
    trainer = Trainer(task(8), config, seed=0)
    fitted, notes = trainer.config, trainer.notes
    assert fitted.local_queue == 8 * 20 // 2 and fitted.global_queue == 4
    assert "local queue of 80 patches instead of 1000" in notes[0]
    # In the first epoch nothing finds an old copy of itself.
    history = fit(task(8), replace(config, steps=2), seed=0).history
    assert [entry["same_scan_3d"] for entry in history] == [0.0, 0.0]


def test_bank_trap_ours_leaves_rows_of_the_same_scan_out() -> None:
    config = replace(QUICK, steps=4, local_queue=1000)
    trainer = Trainer(task(8), config, seed=0)
    fitted, notes = trainer.config, trainer.notes
    assert fitted.local_queue == 1000 and not notes
    history = fit(task(8), config, seed=0).history
    assert all(entry["same_scan_3d"] == 0.0 and entry["nearest_3d"] > 0.1 for entry in history)


def test_banks_are_counted_in_batches() -> None:
    two = replace(QUICK, queue_batches=2)
    assert Trainer(task(8), two, seed=0).config.local_queue == 2 * 4 * 20
    drawn = replace(QUICK, queue_batches=3, patches_per_scan=5)
    assert Trainer(task(8), drawn, seed=0).config.local_queue == 3 * 4 * 5


def test_epochs_count_whole_batches() -> None:
    config = replace(QUICK, epochs=3)
    assert Trainer(task(11), config, seed=0).config.steps == 3 * 2


def entry(**changed: float) -> dict[str, float]:
    start = {f"{name}_{m}": 10.0 for name in ("variance", "rank") for m in MODALITIES}
    return {**start, **changed}


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (entry(variance_rgb=0.09), "variance of rgb features fell to 0.09 from 10"),
        (entry(rank_3d=1.1), "effective rank of 3d features fell to 1.10 from 10.00"),
        (entry(variance_rgb=0.11, rank_3d=1.3), ""),
    ],
)
def test_collapse_names_the_monitor(last: dict[str, float], message: str) -> None:
    found = collapse([entry(), last], MODALITIES)
    assert message in found and bool(message) == bool(found)


def test_a_bank_of_old_copies_stops_the_training() -> None:
    found = collapse([entry(same_scan_3d=0.6)], MODALITIES)
    assert "60% of the 3d patches find an old copy" in found
    assert collapse([entry(same_scan_3d=0.4)], MODALITIES) == ""


def test_features_that_start_on_a_line_are_no_collapse() -> None:
    assert collapse([entry(rank_3d=1.05), entry(rank_3d=1.0)], MODALITIES) == ""


def test_a_collapse_stops_the_training() -> None:
    # The only optimum of IFC is the constant map, and a pointwise map can get there.
    config = replace(
        QUICK, steps=400, learning_rate=5e-2, weights=parts(lc=1.0, gc=1.0), weight_decay=0.0
    )
    linear = replace(ADAPTOR, structure="linear")
    with pytest.raises(
        TrainingStopped, match=r"stopped at step \d+ of 400: the (variance|effective)"
    ):
        fit(task(config=linear), config, seed=0)


def test_a_loss_that_is_no_number_leaves_the_last_good_state() -> None:
    reads = 0

    def broken(scan: int) -> dict[Modality, ScanRows]:
        nonlocal reads
        reads += 1
        rows = rows_of(scan)
        # Counting and filling read 8 + 8, each step 4.
        if reads > 16 + 2 * 4:
            rows["3d"].rows.fill_(math.nan)
        return rows

    config = replace(QUICK, weights=parts(la=1.0, lc=1.0), local_queue=160)
    good = task()
    fit(good, replace(config, steps=6), seed=0)
    stopped = task(source=broken)
    with pytest.raises(TrainingStopped, match="step 3 of 6: the loss is nan") as error:
        fit(stopped, config, seed=0)
    kept = error.value.trained
    assert len(kept.history) == 2
    assert all(bool(t.isfinite().all()) for t in kept.adaptors.state_dict().values())
    before = torch.manual_seed(0) and Adaptors(DIMS, ADAPTOR).state_dict()
    assert any(not torch.equal(t, before[n]) for n, t in kept.adaptors.state_dict().items())


def test_compactness_can_start_later() -> None:
    history = fit(task(), replace(QUICK, compactness_from=2), seed=0).history
    assert ["LC" in step for step in history] == [False, False, True, True, True, True]
    alone = replace(QUICK, compactness_from=2, weights=parts(lc=1.0, gc=1.0))
    assert all("LC" in step for step in fit(task(), alone, seed=0).history)


def test_the_local_queue_holds_the_end_of_the_epoch_while_the_other_fills() -> None:
    # 20 rows a scan, room for two scans' rows and for all instances.
    trainer = Trainer(task(), replace(QUICK, local_queue=40, global_queue=8), seed=3)
    trainer.fill()
    order = epoch_order(0, 8, 3)
    assert set(trainer.queues.local["3d"].scans.tolist()) == set(order[-2:])
    assert set(trainer.queues.global_["3d"].scans.tolist()) == set(range(8))


def test_a_queue_of_one_scan_is_said() -> None:
    config = replace(QUICK, local_queue=20, batch=1)
    with pytest.raises(InputError, match=r"holds only the scan .* raise training\.local_queue"):
        fit(task(2), replace(config, steps=40), seed=0)


def test_losses_are_computed_in_single_precision() -> None:
    made = task()
    with torch.autocast("cpu", torch.bfloat16):
        low = adapted_scan(made.adaptors, 0, rows_of(0), 2, seed=0)
    assert all(own.dtype == torch.bfloat16 for own in low.instances.values())
    scan = in_single_precision(low)
    assert {own.rows.dtype for own in scan.rows.values()} == {torch.float32}
    assert {own.dtype for own in scan.instances.values()} == {torch.float32}
    assert torch.equal(scan.instances["3d"], low.instances["3d"].float())


def test_mixed_precision_leaves_a_cpu_alone() -> None:
    plain, mixed = task(), task()
    fit(plain, replace(QUICK, steps=2), seed=0)
    fit(mixed, replace(QUICK, steps=2, mixed_precision=True), seed=0)
    assert all(torch.equal(t, weights(mixed)[n]) for n, t in weights(plain).items())


def test_clipped_gradients_are_not_longer_than_the_limit() -> None:
    clipped = task()
    trained = fit(clipped, replace(QUICK, steps=1, clip_norm=1e-3), seed=0)
    squares = sum(
        float(p.grad.square().sum()) for p in clipped.adaptors.parameters() if p.grad is not None
    )
    assert trained.history[0]["gradient_norm"] > 0.1
    assert math.sqrt(squares) == pytest.approx(1e-3, rel=1e-3)


def test_alignment_finds_partners_it_did_not_find_before() -> None:
    config = replace(QUICK, steps=60, weights=parts(la=1.0))
    history = fit(task(), config, seed=0).history
    assert history[0]["alignment_accuracy"] < 0.3 < 0.6 < history[-1]["alignment_accuracy"]


def test_the_same_seed_gives_the_same_adaptors() -> None:
    first, again, other = task(), task(), task()
    for trained, seed in ((first, 1), (again, 1), (other, 2)):
        fit(trained, replace(QUICK, steps=2), seed)
    assert all(torch.equal(t, weights(again)[n]) for n, t in weights(first).items())
    assert any(not torch.equal(t, weights(other)[n]) for n, t in weights(first).items())


@pytest.mark.parametrize("preset", [PUBLISHED, RELEASED])
def test_the_papers_recipes_run(preset: Config) -> None:
    whole = task(16, replace(preset.adaptor, projection=8, mlp_ratio=1.0))
    config = replace(preset.training, steps=2, local_queue=100, global_queue=4)
    trained = fit(whole, config, seed=0)
    assert not trained.notes and len(trained.history) == (4 if config.epochs else 2)
    first = trained.history[0]
    if preset is PUBLISHED:
        # Sums over 20 patches with one denominator: no term is below the floor of its logarithm.
        assert first["LA"] > math.log(20) and first["GA"] > math.log(8) - 1e-6
        assert first["LC"] > 20 * first["nearest_3d"]
    else:
        assert "LC" not in first
