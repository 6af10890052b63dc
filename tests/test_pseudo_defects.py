from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from lsfa_lib.config import Config
from lsfa_lib.datasets.layouts import read_split
from lsfa_lib.datasets.preprocess import IMAGENET_MEAN, IMAGENET_STD, prepare
from lsfa_lib.pseudo.blobs import RIM, PseudoSettings, drawn_blob
from lsfa_lib.pseudo.defects import DEFAULTS, KINDS, Kind, _inwards, pseudo_defect, pseudo_defects
from lsfa_lib.records import Sample
from lsfa_lib.storage.files import InputError

ROUND = PseudoSettings(elongation=(1.0, 1.0), waviness=(0.0, 0.0))
Height = Callable[[np.ndarray, np.ndarray], np.ndarray]


def flat(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.zeros_like(x)


def make_sample(
    colour: np.ndarray | float = 0.5,
    tilt: tuple[float, float] = (0.3, -0.2),
    size: int = 64,
    relief: Height = flat,
    valid: np.ndarray | None = None,
    name: str = "part/validation/good/000",
) -> Sample:
    """A plane z = 0.5 + tilt . (x, y), with `relief` metres along z, seen at half a millimetre."""
    if valid is None:
        valid = np.ones((size, size), bool)
        valid[:4] = valid[:, :6] = False
    y, x = (np.indices((size, size)) - size / 2) * 0.0005
    z = 0.5 + tilt[0] * x + tilt[1] * y + relief(x, y)
    rgb = (np.broadcast_to(colour, (size, size, 3)) - IMAGENET_MEAN) / IMAGENET_STD
    return Sample(
        rgb=torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).float(),
        xyz=torch.from_numpy(np.stack((x, y, z)) * valid).float(),
        valid=torch.from_numpy(valid),
        defect=torch.zeros(size, size, dtype=torch.bool),
        name=name,
        kind="good",
    )


def real_samples(tiny: Config, root: Path, size: int, category: str = "biscuit") -> list[Sample]:
    config = replace(tiny.preprocess, image_size=size)
    return [prepare(scan, config) for scan in read_split(root, category, "validation")]


def colours(sample: Sample) -> np.ndarray:
    return sample.rgb.permute(1, 2, 0).double().numpy() * IMAGENET_STD + IMAGENET_MEAN


def moved(made: Sample, sample: Sample) -> np.ndarray:
    return (made.xyz.double() - sample.xyz.double()).permute(1, 2, 0).numpy()


def same(a: Sample, b: Sample) -> bool:
    tensors = ("rgb", "xyz", "valid", "defect")
    return (a.name, a.kind) == (b.name, b.kind) and all(
        torch.equal(getattr(a, field), getattr(b, field)) for field in tensors
    )


def copied(sample: Sample) -> Sample:
    return replace(sample, **{f: getattr(sample, f).clone() for f in ("rgb", "xyz", "valid")})


@pytest.mark.parametrize("size", [96, 224, 448])
def test_a_defect_is_exactly_what_changed_and_nothing_else_is_touched(tiny, demo_root, size):
    samples = real_samples(tiny, demo_root, size)[:2]
    before = [copied(sample) for sample in samples]
    made = pseudo_defects(samples, seed=5)
    assert len(made) == 2 * len(KINDS)
    for i, one in enumerate(made):
        sample, kind = samples[i // len(KINDS)], KINDS[i % len(KINDS)]
        differs = (one.rgb != sample.rgb).any(0) | (one.xyz != sample.xyz).any(0)
        assert torch.equal(one.defect, differs)
        assert not (one.defect & ~sample.valid).any()
        assert torch.equal(one.valid, sample.valid)
        percent = 100 * int(one.defect.sum()) / int(sample.valid.sum())
        assert 0.39 < percent < 4.01, kind
        assert (one.name, one.kind) == (f"{sample.name}#{kind}", f"pseudo_{kind}")
        assert one.rgb.dtype == one.xyz.dtype == torch.float32
    assert all(same(a, b) for a, b in zip(samples, before, strict=True))


@pytest.mark.parametrize("finer", [144, 192, 250])
@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_has_one_place_in_an_image_finer_than_the_masks(tiny, demo_root, kind, finer):
    config = replace(tiny.preprocess, image_size=96)
    scans = list(read_split(demo_root, "biscuit", "validation"))[:2]
    plain = [prepare(scan, config) for scan in scans]
    fine = [prepare(scan, config, finer) for scan in scans]
    one, other = pseudo_defect(*plain, kind, 3), pseudo_defect(*fine, kind, 3)
    assert torch.equal(other.xyz, one.xyz)
    changed = (other.rgb != fine[0].rgb).any(0)
    rows, columns = changed.nonzero().T.numpy()
    in_mask = ((rows + 0.5) * 96 / finer).astype(int), ((columns + 0.5) * 96 / finer).astype(int)
    assert other.defect.numpy()[in_mask].all()
    # Every pixel of the mask that changed holds a changed pixel of the image or of the points.
    seen = (other.xyz != fine[0].xyz).any(0).numpy()
    seen[in_mask] = True
    assert np.array_equal(other.defect.numpy(), seen)
    share = changed.float().mean() / (one.rgb != plain[0].rgb).any(0).float().mean()
    assert kind in ("dent", "bump") or 0.9 < float(share) < 1.1
    if kind == "colour":  # one shift at one place, whatever the size of the image
        shift = (colours(one) - colours(plain[0]))[one.defect.numpy()]
        finer_shift = (colours(other) - colours(fine[0]))[changed.numpy()]
        assert np.abs(finer_shift).max() == pytest.approx(np.abs(shift).max(), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_touches_its_modality_only_and_keeps_real_colours(tiny, demo_root, kind):
    samples = real_samples(tiny, demo_root, 96, "seal")
    for seed in range(12):
        one = pseudo_defect(samples[0], samples[1], kind, seed)
        there = one.defect
        rgb = (one.rgb != samples[0].rgb).any(0)
        xyz = (one.xyz != samples[0].xyz).any(0)
        assert torch.equal(rgb, there if kind in ("pasted", "blended", "colour") else there & False)
        if kind == "pasted":  # some pixel may have the donor's very height
            assert xyz[there].float().mean() > 0.9
        else:
            assert torch.equal(xyz, there if kind in ("dent", "bump") else there & False)
        assert colours(one).min() > -1e-6
        assert colours(one).max() < 1 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [0.1, 1.0, 3.3, 25.0])
def test_the_area_is_the_share_asked_for(kind, percent):
    rng = np.random.default_rng(0)
    sample, donor = (make_sample(rng.uniform(0.3, 0.7, (64, 64, 3))) for _ in range(2))
    settings = replace(DEFAULTS, area_percent=(percent, percent))
    wanted = round(percent / 100 * 60 * 58)
    for seed in range(8):
        assert int(pseudo_defect(sample, donor, kind, seed, settings).defect.sum()) == wanted


def test_areas_are_even_in_their_logarithm():
    valid = np.ones((100, 100), bool)
    counts = [len(drawn_blob(valid, np.random.default_rng(s), DEFAULTS).pixels) for s in range(400)]
    logarithms = (np.log(counts) - np.log(40)) / np.log(10)
    assert abs(logarithms.mean() - 0.5) < 0.05
    assert abs((logarithms < 0.25).mean() - 0.25) < 0.07
    assert min(counts) >= 40
    assert max(counts) <= 400


@pytest.mark.parametrize("seed", range(5))
def test_a_round_blob_is_the_nearest_pixels_and_its_profile_falls_to_the_rim(seed):
    valid = make_sample().valid.numpy()
    blob = drawn_blob(valid, np.random.default_rng(seed), ROUND)
    centre = blob.pixels[0]
    radius = np.hypot(*(blob.pixels - centre).T)
    outside = valid.copy()
    outside[tuple(blob.pixels.T)] = False
    assert np.hypot(*(np.argwhere(outside) - centre).T).min() >= radius.max() - 1e-9
    expected = (1 - (1 - np.sqrt(0.05)) * (radius / radius.max()) ** 2) ** 2
    np.testing.assert_allclose(blob.profile, expected, atol=1e-12)
    assert blob.profile[0] == 1
    assert blob.profile.min() == pytest.approx(RIM)


def test_outlines_are_of_one_piece_stretched_and_wavy():
    valid = np.zeros((200, 200), bool)
    valid[20:180, 20:180] = True
    ratios, solid = [], []
    for seed in range(60):
        blob = drawn_blob(valid, np.random.default_rng(seed), DEFAULTS)
        mask = np.zeros_like(valid)
        mask[tuple(blob.pixels.T)] = True
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
        short, long = np.linalg.eigvalsh(np.cov(blob.pixels.T)) ** 0.5
        ratios.append(long / short)
        # An ellipse of these half axes, 2 standard deviations each, holds the pixels exactly.
        solid.append(len(blob.pixels) / (4 * np.pi * long * short))
    assert 1.4 < np.mean(ratios) < 2.2
    assert max(ratios) < 4
    assert np.mean(solid) < 0.985


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.3, -0.2), (-0.6, 0.5)])
@pytest.mark.parametrize("seed", range(4))
def test_dents_sink_along_the_normal_by_the_profile_and_bumps_rise_as_much(tilt, seed):
    sample = make_sample(tilt=tilt)
    dent, bump = (pseudo_defect(sample, sample, kind, seed) for kind in ("dent", "bump"))
    blob = drawn_blob(sample.valid.numpy(), np.random.default_rng(seed), DEFAULTS)
    at = tuple(blob.pixels.T)
    assert np.array_equal(dent.defect, bump.defect)
    assert dent.defect[at].all()
    shift = moved(dent, sample)[at]
    depth = np.linalg.norm(shift[0])
    assert 0.0005 <= depth <= 0.003
    # z - tilt . (x, y) grows along this normal, which is away from the camera.
    normal = np.array([-tilt[0], -tilt[1], 1]) / np.sqrt(1 + tilt[0] ** 2 + tilt[1] ** 2)
    np.testing.assert_allclose(shift, depth * blob.profile[:, None] * normal, atol=2e-6)
    np.testing.assert_allclose(moved(bump, sample)[at], -shift, atol=2e-7)


def test_a_dent_of_one_pixel_takes_its_normal_from_the_pixels_around():
    sample = make_sample(tilt=(-0.6, 0.5))
    settings = replace(DEFAULTS, area_percent=(0.01, 0.01))
    one = pseudo_defect(sample, sample, "dent", 0, settings)
    shift = moved(one, sample)[one.defect.numpy()]
    assert len(shift) == 1
    normal = np.array([0.6, -0.5, 1]) / np.sqrt(1 + 0.6**2 + 0.5**2)
    np.testing.assert_allclose(shift[0] / np.linalg.norm(shift), normal, atol=1e-3)


def test_depths_fill_their_range(tiny, demo_root):
    sample = real_samples(tiny, demo_root, 96)[0]
    made = [pseudo_defect(sample, sample, "dent", seed) for seed in range(60)]
    peaks = np.array([np.linalg.norm(moved(one, sample), axis=2).max() for one in made]) * 1000
    assert peaks.min() > 0.5 - 1e-3
    assert peaks.max() < 3 + 1e-3
    assert abs(peaks.mean() - 1.75) < 0.3
    towards = [(moved(one, sample) * sample.xyz.permute(1, 2, 0).numpy()).sum(2) for one in made]
    assert min(one.min() for one in towards) >= 0


def test_the_viewing_ray_stands_in_for_a_poor_normal():
    rng = np.random.default_rng(0)
    ray = np.array([0.1, -0.05, 0.5])
    blind = {
        "a cloud": rng.standard_normal((200, 3)),
        "a line": np.outer(np.linspace(-1, 1, 50), [1, 2, 0])
        + 0.001 * rng.random((50, 1)) * [1, 0, 0],
        "one point": np.zeros((1, 3)),
        "two points": np.array([[-1.0, 0, 0], [1, 0, 0]]),
        "edge on": rng.standard_normal((200, 2)) @ np.array([[0, 1, 0], [0.1, 0, 1.0]]),
    }
    for name, points in blind.items():
        centred = points - points.mean(0)
        inwards = _inwards(ray + 0.001 * centred)
        np.testing.assert_allclose(inwards, ray / np.linalg.norm(ray), atol=1e-9, err_msg=name)
    sheet = rng.standard_normal((200, 2)) @ np.array([[1, 0, 0.4], [0, 1.0, 0]])
    normal = np.array([-0.4, 0, 1]) / np.hypot(0.4, 1)
    sheet -= sheet.mean(0)
    np.testing.assert_allclose(_inwards(ray + 0.001 * sheet), normal, atol=1e-9)


def place_coloured(size: int = 64) -> np.ndarray:
    """A picture whose red and green tell row and column."""
    rows, columns = np.indices((size, size))
    return np.stack((rows / size, columns / size, np.full((size, size), 0.5)), axis=-1)


def source_of(one: Sample, blob_pixels: np.ndarray, size: int = 64) -> np.ndarray:
    return np.rint(colours(one)[tuple(blob_pixels.T)][:, :2] * size).astype(int)


@pytest.mark.parametrize("seed", range(6))
def test_a_paste_is_one_quarter_turned_region_of_the_donor_from_another_place(seed):
    sample = make_sample(0.25)
    valid = np.zeros((64, 64), bool)
    valid[8:60, 20:60] = True
    donor = make_sample(place_coloured(), valid=valid)
    settings = replace(DEFAULTS, donor_shift=(0.0, 0.0), area_percent=(6.0, 6.0))
    one = pseudo_defect(sample, donor, "pasted", seed, settings)
    blob = drawn_blob(sample.valid.numpy(), np.random.default_rng(seed), settings).pixels
    source = source_of(one, blob)
    away, there = blob - blob[0], source - source[0]
    np.testing.assert_array_equal(there[:, 0], away[:, 1])
    np.testing.assert_array_equal(there[:, 1], -away[:, 0])
    assert valid[tuple(source.T)].all()
    assert not {tuple(p) for p in source} & {tuple(p) for p in blob}


def test_a_donor_too_small_for_the_outline_lends_its_nearest_pixels():
    valid = np.zeros((64, 64), bool)
    valid[30:32, 40:60] = True
    donor = make_sample(place_coloured(), valid=valid)
    settings = replace(DEFAULTS, donor_shift=(0.0, 0.0), area_percent=(4.0, 4.0))
    sample = make_sample(0.25)
    one = pseudo_defect(sample, donor, "pasted", 3, settings)
    blob = drawn_blob(sample.valid.numpy(), np.random.default_rng(3), settings).pixels
    assert len(blob) == 139
    assert valid[tuple(source_of(one, blob).T)].all()


def test_pasted_relief_is_the_donors_on_the_samples_plane():
    def waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 0.0004 * np.sin(2000 * x) * np.cos(1500 * y)

    def bowl(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 50 * (x**2 + y**2)

    def off_plane(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        terms = np.column_stack((np.ones_like(x), x, y))
        return z - terms @ np.linalg.solve(terms.T @ terms, terms.T @ z)

    sample = make_sample(0.25, tilt=(0.3, -0.2), relief=bowl)
    donor = make_sample(place_coloured(), tilt=(-0.4, 0.1), relief=waves)
    settings = replace(DEFAULTS, donor_shift=(0.0, 0.0), area_percent=(3.0, 3.0))
    for seed in range(5):
        one = pseudo_defect(sample, donor, "pasted", seed, settings)
        blob = drawn_blob(sample.valid.numpy(), np.random.default_rng(seed), settings).pixels
        theirs = off_plane(*donor.xyz.double().numpy()[:, *source_of(one, blob).T])
        ours = off_plane(*sample.xyz.double().numpy()[:, *blob.T])
        shift = moved(one, sample)[tuple(blob.T)]
        np.testing.assert_allclose(shift[:, 2], theirs - ours, atol=1e-6)
        assert not shift[:, :2].any()
        assert theirs.std() > 1e-4
        assert ours.std() > 1e-4


def test_a_step_in_the_donor_makes_no_spike():
    def step(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where((x > 0) ^ (y > 0), 0.08, 0.0)

    sample, donor = make_sample(0.25), make_sample(0.75, relief=step)
    settings = replace(DEFAULTS, area_percent=(10.0, 10.0))
    made = [pseudo_defect(sample, donor, "pasted", seed, settings) for seed in range(20)]
    farthest = max(np.abs(moved(one, sample)).max() for one in made)
    assert farthest == pytest.approx(0.003, abs=1e-6)


def test_blending_is_a_weighted_mean_of_both_colours():
    texture = np.random.default_rng(0).uniform(0.1, 0.9, (64, 64, 3))
    sample, donor = make_sample(texture), make_sample(np.array([0.9, 0.2, 0.4]))
    settings = replace(DEFAULTS, opacity=(0.7, 0.7), donor_shift=(0.0, 0.0))
    one = pseudo_defect(sample, donor, "blended", 1, settings)
    there = one.defect.numpy()
    expected = 0.3 * texture[there] + 0.7 * np.array([0.9, 0.2, 0.4])
    np.testing.assert_allclose(colours(one)[there], expected, atol=1e-6)
    assert torch.equal(one.xyz, sample.xyz)


@pytest.mark.parametrize("kind", ["pasted", "blended"])
def test_a_donor_of_the_same_colour_still_shows(kind):
    sample = make_sample(0.5)
    settings = replace(DEFAULTS, donor_shift=(0.1, 0.1), opacity=(0.5, 0.5))
    one = pseudo_defect(sample, sample, kind, 4, settings)
    shift = (colours(one) - 0.5)[one.defect.numpy()]
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-6)
    assert np.abs(shift).max() == pytest.approx(0.1 if kind == "pasted" else 0.05, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_stain_is_one_shift_times_the_profile(seed):
    sample = make_sample(0.5)
    one = pseudo_defect(sample, sample, "colour", seed, replace(DEFAULTS, colour_shift=(0.2, 0.2)))
    blob = drawn_blob(sample.valid.numpy(), np.random.default_rng(seed), DEFAULTS)
    shift = (colours(one) - 0.5)[tuple(blob.pixels.T)]
    assert np.abs(shift[0]).max() == pytest.approx(0.2, abs=1e-6)
    np.testing.assert_allclose(shift, blob.profile[:, None] * shift[0], atol=1e-6)
    assert torch.equal(one.xyz, sample.xyz)


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_stains_on_black_and_white_turn_to_where_there_is_room(colour):
    sample = make_sample(colour)
    settings = replace(DEFAULTS, area_percent=(2.0, 2.0), colour_shift=(0.2, 0.2))
    for seed in range(20):
        one = pseudo_defect(sample, sample, "colour", seed, settings)
        assert int(one.defect.sum()) == 70
        assert np.abs(colours(one) - colour).max() > 0.05
        assert -1e-6 < colours(one).min() <= colours(one).max() < 1 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_makes_one_defect_and_another_seed_another(tiny, demo_root, kind):
    first, second = real_samples(tiny, demo_root, 96)[:2]
    made = [pseudo_defect(first, second, kind, seed) for seed in (0, 0, 1, 2)]
    assert same(made[0], made[1])
    assert not torch.equal(made[0].defect, made[2].defect)
    assert not torch.equal(made[2].defect, made[3].defect)


def test_every_sample_gets_every_kind_at_its_own_place_with_the_next_as_donor():
    grey = {"0": 0.2, "1": 0.5, "2": 0.8}
    samples = [make_sample(value, name=name) for name, value in grey.items()]
    settings = replace(DEFAULTS, donor_shift=(0.0, 0.0))
    made = pseudo_defects(samples, seed=9, settings=settings)
    assert [one.name for one in made] == [f"{name}#{kind}" for name in grey for kind in KINDS]
    pasted = [colours(one)[one.defect.numpy()].mean() for one in made if "pasted" in one.kind]
    np.testing.assert_allclose(pasted, [0.5, 0.8, 0.2], atol=1e-6)
    masks = {one.defect.numpy().tobytes() for one in made}
    assert len(masks) == len(made)
    again = pseudo_defects(samples, seed=9, settings=settings)
    assert all(same(a, b) for a, b in zip(made, again, strict=True))
    other = pseudo_defects(samples, seed=10, settings=settings)
    assert not any(torch.equal(a.defect, b.defect) for a, b in zip(made, other, strict=True))


def test_a_single_sample_is_its_own_donor_and_none_makes_none():
    made = pseudo_defects([make_sample(place_coloured())], seed=0)
    assert [one.kind for one in made] == [f"pseudo_{kind}" for kind in KINDS]
    assert all(one.defect.any() for one in made)
    assert pseudo_defects([], seed=0) == []


@pytest.mark.parametrize("pixels", [1, 2, 30])
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_few_pixels_works(kind: Kind, pixels: int) -> None:
    valid = np.zeros((96, 96), bool)
    valid.flat[np.random.default_rng(0).choice(96 * 96, pixels, replace=False)] = True
    sample = make_sample(size=96, valid=valid)
    for seed in range(10):
        one = pseudo_defect(sample, sample, kind, seed)
        assert int(one.defect.sum()) == 1
        assert not (one.defect & ~sample.valid).any()
        assert one.rgb.isfinite().all()
        assert one.xyz.isfinite().all()


def test_a_sample_or_donor_without_a_valid_pixel_is_named():
    whole = make_sample()
    empty = make_sample(valid=np.zeros((64, 64), bool), name="part/validation/good/007")
    wanted = "part/validation/good/007: no valid pixel, at least 1 is needed"
    for pair in ((empty, whole), (whole, empty)):
        with pytest.raises(InputError, match=wanted):
            pseudo_defect(*pair, "dent", 0)
