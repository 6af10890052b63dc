"""No network, types and shapes checked in every annotated function, tiny demo data."""

from __future__ import annotations

import gc
import os
import pickle
import runpy
import shutil
from pathlib import Path

NO_NETWORK = Path(__file__).parent / "no_network"
runpy.run_path(str(NO_NETWORK / "sitecustomize.py"))
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(NO_NETWORK), *filter(None, [os.environ.get("PYTHONPATH")])]
)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("lsfa_lib", "beartype.beartype")

from collections.abc import Iterator  # noqa: E402
from contextlib import chdir  # noqa: E402
from dataclasses import replace  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

import pytest  # noqa: E402

from lsfa_lib.config import TINY, Config, DataConfig  # noqa: E402
from lsfa_lib.demo.synthetic import DemoCounts, DemoSettings, write_demo  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from report_case import Case

    from lsfa_lib.pipeline import Run
    from lsfa_lib.studies.study import Study
    from lsfa_lib.studies.sweep import Swept

TINY_DEMO = DemoSettings(
    categories=("biscuit", "seal"),
    counts=DemoCounts(train=6, validation=3, good=3, each_defect=1),
    size=200,
)


SLOW = {
    *("test_bundle", "test_calibrating", "test_cli", "test_deployment", "test_watch"),
    *("test_eyecandies", "test_explore", "test_feature_space", "test_gan"),
    *("test_finetune", "test_fitted", "test_gallery", "test_gallery_browser", "test_heads"),
    *("test_inprocess", "test_lab", "test_methods", "test_notebooks", "test_pipeline"),
    *("test_images_alone", "test_points_alone"),
    *("test_pipeline_training", "test_pretraining", "test_project_studies"),
    *("test_random_weights", "test_report", "test_report_browser", "test_scaling"),
    *("test_selection", "test_sweep", "test_unlabelled"),
}
"""Files that `make check` leaves out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests start first: those of the project's studies, then the other slow files."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
    items.sort(
        key=lambda item: (
            "swept" not in getattr(item, "fixturenames", ()),
            item.get_closest_marker("slow") is None,
        )
    )


def pytest_collection_finish() -> None:
    """Spares the garbage collector all that imports have made: a third of a second a collection."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Gives them back, else libraries report them as leaks."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small demo tree in a folder whose name has a space, an umlaut and the word xyz in it."""
    root = tmp_path_factory.mktemp("data") / "xyz prüfung"
    write_demo(root, TINY_DEMO)
    yield root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with one scan of an own camera."""
    from reader_case import write_source

    return write_source(tmp_path / "source")


@pytest.fixture
def tiny(demo_root: Path, tmp_path: Path) -> Config:
    """TINY on the small demo tree, with a cache of its own."""
    data = DataConfig(root=str(demo_root))
    return replace(TINY, data=data, device="cpu", cache=str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def cached(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """TINY on the small demo tree, with one cache that all tests share."""
    data, cache = DataConfig(root=str(demo_root)), str(tmp_path_factory.mktemp("cache"))
    return replace(TINY, data=data, device="cpu", cache=cache)


@pytest.fixture(scope="session")
def seal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `seal_run`."""
    return tmp_path_factory.mktemp("seal") / "run"


@pytest.fixture(scope="session")
def seal_run(cached: Config, seal_folder: Path) -> Run:
    """LSFA trained and measured once, on the seal with seed 0, for tests that only read it."""
    from lsfa_lib.pipeline import run_category

    return run_category("seal", cached, 0, seal_folder)


@pytest.fixture(scope="session")
def swept(
    demo_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Study], Swept]:
    """The project's studies, small, by name, and what one sweep over all of them left.

    The processes of a test run share it: the first that needs it sweeps, the others wait.
    """
    from study_case import small_studies

    from lsfa_lib.storage.files import locked
    from lsfa_lib.studies.sweep import run_sweep

    folder = tmp_path_factory.getbasetemp() / "swept"
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parents[1] / "swept"
    kept = folder / "swept.pickle"
    with locked(folder):
        if not kept.exists():
            studies = list(small_studies(folder / "studies", demo_root))
            with chdir(folder):  # the cache lies where the sweep begins
                found = run_sweep(studies, folder / "reports")
            kept.write_bytes(pickle.dumps(({study.name: study for study in studies}, found)))
    return pickle.loads(kept.read_bytes())


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium; the test is skipped where playwright is not installed."""
    from browser_case import chromium

    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def case() -> Case:
    """A small synthetic run."""
    from report_case import make_case

    return make_case(size=72, each=2)


@pytest.fixture(scope="session")
def built(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports in a folder with an odd name: a study, a run of its own, all pages. Read only."""
    from report_case import COOKIE, write_run, write_study

    from lsfa_lib.pages import report

    folder = tmp_path_factory.mktemp("büro & co") / "reports"
    write_study(folder, case)
    write_run(folder / COOKIE, case, scans=1)
    report.rebuild(folder)
    return folder


@pytest.fixture
def reports(built: Path, tmp_path: Path) -> Path:
    """A copy of `built` to change."""
    return Path(shutil.copytree(built, tmp_path / "reports"))
