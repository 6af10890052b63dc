"""Damaged files and odd values: an answer within limits or a sentence, never anything else."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from fuzz_readers import CAMERA, FLIPS, READERS, SIZE, answer, damaged, require_limits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lsfa_lib.datasets.image_files import read_colour
from lsfa_lib.datasets.own_camera import read_depth
from lsfa_lib.storage.files import InputError

CHANGES = st.tuples(
    st.sampled_from(FLIPS), st.floats(0, 1, exclude_max=True), st.binary(max_size=8)
)
IN_TURN = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", READERS)
def test_good_files_are_read(name: str, tmp_path: Path) -> None:
    for path in READERS[name].seeds(tmp_path):
        assert answer(READERS[name], path) == "read"


@pytest.mark.parametrize("name", READERS)
@IN_TURN
@given(choice=st.integers(0, 5), changes=st.lists(CHANGES, min_size=1, max_size=4))
def test_damaged_files_are_read_or_named(name: str, choice: int, changes, tmp_path: Path) -> None:
    seeds = READERS[name].seeds(tmp_path)
    path = seeds[choice % len(seeds)]
    content = path.read_bytes()
    for change in changes:
        content = damaged(content, *change)
    path.write_bytes(content)
    answer(READERS[name], path)


NUMBERS = st.one_of(
    arrays.arrays(np.float32, SIZE, elements=st.floats(width=32)),
    arrays.arrays(np.float64, SIZE, elements=st.floats()),
    arrays.arrays(np.uint16, SIZE),
    arrays.arrays(np.int32, SIZE),
)


@pytest.mark.parametrize("suffix", [".npy", ".tiff"])
@IN_TURN
@given(values=NUMBERS)
def test_odd_depths_are_readings_in_front_or_none(
    suffix: str, values: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / f"depth{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    else:
        tifffile.imwrite(path, values)
    try:
        found = read_depth(path, CAMERA)
    except InputError as error:
        assert path.name in str(error)
    else:
        require_limits(found)


def test_a_tiff_whose_pages_form_a_loop_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.tiff"
    tifffile.imwrite(path, np.zeros(SIZE, np.uint8))
    content = bytearray(path.read_bytes())
    start = int.from_bytes(content[4:8], "little")
    entries = int.from_bytes(content[start : start + 2], "little")
    link = start + 2 + 12 * entries
    content[link : link + 4] = start.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"loop\.tiff: .*1 pages or more, which form a loop"):
        read_colour(path)
