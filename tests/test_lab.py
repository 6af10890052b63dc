"""JupyterLab as `make lab` starts it, the explorer opened, run and played with in Chromium."""

import io
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser_case import MARKS, colors
from PIL import Image

ROOT = Path(__file__).parents[1]
TOKEN = "token-of-a-test"
# Delays plotly.js by three seconds, as a busy machine does; anywidget gives a module two.
SLOW = """const url = URL.createObjectURL;
URL.createObjectURL = (blob) => {
    for (const end = Date.now() + (blob.size > 1e6 ? 3000 : 0); Date.now() < end; );
    return url(blob);
};"""
pytestmark = [
    *MARKS,
    pytest.mark.skipif(
        not (ROOT / ".venv/bin/jupyter").exists(), reason="make lab uses .venv, which is not there"
    ),
]


@dataclass(frozen=True)
class Lab:
    address: str
    home: Path
    """What the user's home is to the server."""
    log: Path


@pytest.fixture(scope="module")
def lab(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The server of `make lab`, on a folder with the explorer set to the tiny data."""
    folder = tmp_path_factory.mktemp("lab folder")
    notebooks, home, log = folder / "notebooks", folder / "home", folder / "log.txt"
    notebooks.mkdir()
    home.mkdir()
    explorer = nbformat.read(ROOT / "notebooks/explore.ipynb", 4)
    (cell,) = [cell for cell in explorer.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += f'\npreset, only, data_root = "tiny", "none", {str(demo_root)!r}'
    nbformat.write(explorer, notebooks / "explore.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--no-browser --ip=127.0.0.1 --port={port} --ServerApp.port_retries=0"
    options += f" --IdentityProvider.token={TOKEN} --LabApp.expose_app_in_browser=True"
    command = ["make", "lab-server", f"LAB_HOME={folder / 'jupyter'}", f"LAB_FOLDER={notebooks}"]
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, f"LAB_ARGS={options}"],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(home)},
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, server, log)
        yield Lab(address, home, log)
    finally:
        # The group is this server's own: make, jupyter and the kernels it started.
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text())


class Play:
    """The explorer in a browser tab."""

    def __init__(self, browser, lab: Lab) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 1400})
        self.page.set_default_timeout(120_000)
        self.page.add_init_script(SLOW)
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        self.page.on("request", lambda request: self._note(request.url, lab.address))
        self.page.goto(f"{lab.address}/?token={TOKEN}")

    def _note(self, url: str, address: str) -> None:
        known = (address, address.replace("http", "ws"), "data:", "blob:")
        self.asked += [] if url.startswith(known) else [url]

    def run_all(self) -> None:
        """Runs every cell, and waits until the last one was."""
        kernel = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
        dialog = "document.querySelector('.jp-Dialog')"
        self.page.wait_for_function(f"{dialog} || {kernel}?.status === 'idle'")
        self.no_dialog()
        # Not awaited: it is answered only when all is done.
        self.page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
        prompts = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
        run = f"{prompts}.every(p => /\\d/.test(p.textContent))"
        error = "[data-mime-type='application/vnd.jupyter.error']"
        ended = f'{run} || document.querySelector("{error}")'
        self.page.wait_for_function(ended, timeout=300_000)
        assert self.page.locator(error).all_inner_texts() == []
        self.page.locator(".lsfa-live p.lead").wait_for()
        self.page.locator(".lsfa-live .gl-container canvas, .lsfa-live canvas").first.wait_for()
        self.page.locator(".lsfa-live").first.scroll_into_view_if_needed()

    def no_dialog(self) -> None:
        """Nothing to be built, announced or chosen stands in the way."""
        assert self.page.locator(".jp-Dialog").all_inner_texts() == []
        assert self.page.locator(".Toastify__toast").all_inner_texts() == []

    def text(self, of: str) -> str:
        return self.page.locator(f".lsfa-live {of}").first.inner_text()

    def until(self, of: str, pattern: str) -> str:
        """The text once the pattern is found in it."""
        for _ in range(240):
            if re.search(pattern, text := self.text(of), re.DOTALL):
                return text
            self.page.wait_for_timeout(250)
        raise AssertionError(f"{of} says {text!r}, not {pattern!r}")

    def press(self, slider: int, *keys: str) -> None:
        self.page.locator(".lsfa-live .noUi-handle").nth(slider).focus()
        for key in keys:
            self.page.keyboard.press(key)

    def at(self, row: int, column: int, panel: str) -> tuple[float, float]:
        """Place on the screen of a pixel of the photo (panel "") or of the map ("2")."""
        inside = f"""gd => {{
            const {{ xaxis{panel}: x, yaxis{panel}: y }} = gd._fullLayout;
            const box = gd.getBoundingClientRect();
            const at = [x._offset + x.d2p({column}), y._offset + y.d2p({row})];
            return [box.left + at[0], box.top + at[1]] }}"""
        x, y = self.page.locator(".lsfa-live .js-plotly-plot").first.evaluate(inside)
        return x, y

    def measured(self) -> list[tuple[int, int]]:
        """Rows and columns of the part, in the order the map has them."""
        found = self.page.locator(".lsfa-live .js-plotly-plot").first.evaluate(
            "gd => [[...gd._fullData[1].y], [...gd._fullData[1].x]]"
        )
        return list(zip(*found, strict=True))

    def pixels(self, figure: int) -> np.ndarray:
        path = self.page.locator(".lsfa-live .js-plotly-plot").nth(figure).screenshot()
        return np.asarray(Image.open(io.BytesIO(path)).convert("RGB"), int)

    def redrawn(self, figure: int, before: np.ndarray) -> np.ndarray:
        """The figure once two in a hundred of its pixels have another colour."""
        for _ in range(240):
            now = self.pixels(figure)
            if (np.abs(now - before).max(axis=2) > 12).mean() > 0.02:
                return now
            self.page.wait_for_timeout(250)
        raise AssertionError("the figure did not change")


def test_explorer_is_played_in_jupyterlab(lab: Lab, browser) -> None:
    play = Play(browser, lab)
    play.run_all()
    page = play.page
    assert page.title().startswith("explore")
    play.no_dialog()

    found, missed, rejected, passed = _counts(play.text(".counts"))
    assert (found + missed, rejected + passed) == (6, 3)
    play.press(1, "Home")
    assert _counts(play.until(".counts", r"\b6\s*found")) == (6, 0, 3, 0)
    play.press(1, "End")
    assert _counts(play.until(".counts", r"\b0\s*found")) == (0, 6, 0, 3)
    assert "is called good" in play.until("div.lead", "called good")
    play.press(1, *["Home"], *["ArrowRight"] * 3)
    play.until("div.lead", "called defective")

    row, column = play.measured()[300]
    page.mouse.click(*play.at(row, column, "2"))
    play.until("p.lead", rf"at row {row}, column {column}\?")
    pictures = page.locator(".lsfa-live .reasons img")
    assert pictures.count() == 6 and pictures.first.evaluate("i => i.naturalWidth") > 100
    assert re.search(r"in train/good/\d{3}", play.text(".reasons"))
    row, column = play.measured()[-300]
    page.mouse.click(*play.at(row, column, ""))
    play.until("p.lead", rf"at row {row}, column {column}\?")

    before = play.pixels(0)
    play.press(0, *["ArrowRight"] * 10)
    play.until(".lsfa:has-text('Blend')", r"\b0 % colour, 100 % shape")
    play.redrawn(0, before)
    cloud = play.pixels(1)
    assert colors(cloud) > 8
    page.locator(".lsfa-live button:has-text('score')").click()
    play.redrawn(1, cloud)

    # Nothing was printed, no warning either.
    assert page.locator("[data-mime-type^='application/vnd.jupyter.std']").count() == 0
    play.no_dialog()
    assert play.asked == []
    assert play.errors == []
    page.close()
    # Jupyter, IPython and plotly wrote nothing where the user lives.
    assert sorted(str(p.relative_to(lab.home)) for p in lab.home.rglob("*") if p.is_file()) == []


def _counts(text: str) -> tuple[int, ...]:
    """found, missed, rejected, passed."""
    pattern = r"(\d+)found\s+(\d+)missed.*?(\d+)rejected\s+(\d+)passed"
    found = re.search(pattern, text, re.DOTALL)
    assert found, text
    return tuple(map(int, found.groups()))
