"""An executed notebook's cells as HTML that needs no network; figures stay interactive."""

from __future__ import annotations

import base64
import binascii
import copy
import html
import io
import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from nbformat import NotebookNode
from PIL import Image

from lsfa_lib.pages.equations import OfflineExporter
from lsfa_lib.pages.page import embedded_json, packed, without_folders
from lsfa_lib.storage.files import InputError

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
KEPT_META = ("narrow", "linked", "menus", "strip")
"""What a page's scripts read of a figure's meta."""
STEP_MM = 0.01
"""Resolution of a cloud's coordinates in a page; 16 bits then cover -327 to 327 mm."""


def body_html(notebook: NotebookNode, title: str = "", compressed: bool = False) -> str:
    """The cells as HTML, figures as JSON for figures.js, gzipped if `compressed`.

    Folders of this machine are left out, as is a first heading that the page's title repeats, and
    sections of a study that has not been run.
    """
    page = copy.deepcopy(notebook)
    # Injected parameters hold folders of this machine; the page lists them as provenance.
    page.cells = [c for c in page.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for cell in page.cells:
        if cell.cell_type == "code":
            outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
            cell.outputs = [_offline(output, compressed) for output in outputs]
    page.cells = [cell for section in _sections(page.cells) for cell in section]
    asked = question(page)
    if asked and title.startswith(asked):
        page.cells[0].source = page.cells[0].source.partition("\n")[2]
    return OfflineExporter().from_notebook_node(page)[0]


def _sections(cells: list[NotebookNode]) -> Iterator[list[NotebookNode]]:
    """The cells by second-level heading, without sections that wait for a study's numbers."""
    starts = [i for i, cell in enumerate(cells) if cell.source.startswith("## ")]
    for start, end in itertools.pairwise([0, *starts, len(cells)]):
        section = cells[start:end]
        code = [cell for cell in section if cell.cell_type == "code"]
        if not code or any(c.outputs or "\nif runs" not in f"\n{c.source}" for c in code):
            yield section


def question(notebook: NotebookNode) -> str:
    """The heading a notebook begins with; empty if it begins with something else."""
    for cell in notebook.cells[:1]:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.partition("\n")[0].removeprefix("# ").strip()
    return ""


def _offline(output: NotebookNode, compressed: bool) -> NotebookNode:
    """The output with figures as HTML and without folders of this machine, changed in place."""
    if PLOTLY in output.get("data", {}):
        output.data = {"text/html": _figure_html(output.data[PLOTLY], compressed)}
    elif output.output_type == "stream":
        output.text = without_folders(output.text)
    elif "text/plain" in output.get("data", {}):
        output.data["text/plain"] = without_folders(output.data["text/plain"])
    return output


def _figure_html(figure: dict[str, Any], compressed: bool) -> str:
    """The figure's JSON in a script element, its title as a caption that wraps on a phone."""
    data = [_compact(trace) for trace in figure["data"]]
    layout = dict(figure["layout"])
    caption = _caption(layout.pop("title", {}).get("text", ""))
    meta = layout.get("meta", {})
    layout["meta"] = {name: meta[name] for name in KEPT_META if name in meta}
    margin = layout.get("template", {}).get("layout", {}).get("margin", {})
    layout["margin"] = {**margin, "t": 34, **layout.get("margin", {}), **meta.get("margin", {})}
    height = layout.get("height", 380)
    spec, kind = str(embedded_json({"data": data, "layout": layout})), "application/json"
    if compressed or "strip" in meta:
        spec, kind = packed(spec), "text/gzip"
    return (
        f'<figure class="plot{"" if "scene" in layout else " small"}">'
        f"<figcaption>{caption}</figcaption>"
        f'<div class="canvas" style="height:{height}px">'
        f'<script type="{kind}">{spec}</script></div></figure>'
    )


def _compact(trace: dict[str, Any]) -> dict[str, Any]:
    """A cloud's float coordinates as 16-bit steps of 0.01 mm; other traces unchanged."""
    if trace.get("type") != "scatter3d" or not isinstance(trace.get("x"), dict):
        return trace
    packed: dict[str, Any] = {}
    for axis in "xyz":
        values = np.frombuffer(base64.b64decode(trace[axis]["bdata"]), trace[axis]["dtype"])
        steps = np.rint(values / STEP_MM)
        if np.abs(steps).max(initial=0) > np.iinfo(np.int16).max:
            return trace
        bdata = base64.b64encode(steps.astype("<i2").tobytes()).decode()
        packed[axis] = {"dtype": "i2", "bdata": bdata}
    return {**trace, **packed, "meta": {"step": STEP_MM}}


def _caption(title: str) -> str:
    """Plotly's title as HTML: text escaped, bold kept."""
    parts = re.split(r"(</?b>)", title.replace("<br>", " "))
    return "".join(p if p in ("<b>", "</b>") else html.escape(html.unescape(p)) for p in parts)


def thumbnail(notebook: NotebookNode) -> bytes:
    """Photo and map of the notebook's first scan side by side as PNG; empty without a scan."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            layout = output.get("data", {}).get(PLOTLY, {}).get("layout", {})
            pair = layout.get("meta", {}).get("thumbnail")
            if pair:
                return _side_by_side(pair)
    return b""


def example(notebook: NotebookNode) -> tuple[str, str]:
    """What a study changed on one part: images side by side as data URI, and what they are."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            meta = output.get("data", {}).get(PLOTLY, {}).get("layout", {}).get("meta", {})
            if shown := meta.get("example"):
                png = base64.b64encode(_side_by_side(shown["images"])).decode()
                return f"data:image/png;base64,{png}", shown["caption"]
    return "", ""


def _side_by_side(uris: list[str], side: int = 224) -> bytes:
    canvas = Image.new("RGB", (side * len(uris), side), "#101418")
    try:
        for i, uri in enumerate(uris):
            data = base64.b64decode(uri.partition("base64,")[2], validate=True)
            image = Image.open(io.BytesIO(data)).convert("RGBA").resize((side, side))
            canvas.paste(image, (i * side, 0), image)
    except (OSError, binascii.Error) as error:
        raise InputError("the notebook's first scan has a broken image; run it again") from error
    file = io.BytesIO()
    # 256 colours look the same at this size and are half the file.
    canvas.quantize(256).save(file, "png", optimize=True)
    return file.getvalue()


def contents(body: str) -> list[tuple[str, str]]:
    """(anchor, text) of the page's second-level headings."""
    found = re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', body, re.DOTALL)
    return [
        (html.unescape(anchor), html.unescape(re.sub(r"<[^>]+>", "", text)).strip())
        for anchor, text in found
    ]
