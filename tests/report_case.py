"""A synthetic finished run: a domed, speckled part with bumps, dents and stains, and its maps."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import torch
from nbformat import v4
from scipy import ndimage
from sklearn.metrics import roc_auc_score, roc_curve

from lsfa_lib.config import DEMO, with_losses
from lsfa_lib.figures import findings, result_figures, scan_figures
from lsfa_lib.figures.training_figure import training_figure
from lsfa_lib.pages.notebook_html import PLOTLY, WIDGET
from lsfa_lib.records import Prediction, Sample
from lsfa_lib.storage.results import as_json, write_result

LSFA = with_losses(DEMO, "both")
COOKIE = "runs/quickstart/cookie-demo-s0"
MODES = ("3d", "rgb", "rgb+3d", "disagreement", "rgb+3d+disagreement")
UNTRAINED = MODES[:3]
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
# (height in mm, darkening, seen by 3D, seen by RGB)
KINDS = {
    "good": (0.0, 0.0, 0.0, 0.0),
    "bump": (4.0, 0.05, 1.6, 0.4),
    "dent": (-3.0, 0.1, 1.1, 0.6),
    "stain": (0.0, 0.6, 0.1, 1.3),
    "scratch": (-0.6, 0.25, 0.5, 0.7),
}

DATA = replace(LSFA.data, root="/home/someone/scans")
TRACEBACK = (
    'Traceback (most recent call last):\n  File "/home/someone/x/training.py", line 3\n'
    "lsfa_lib.storage.files.InputError: /home/someone/scans/rgb/007.png is missing; add it\n"
)


@dataclass(frozen=True)
class Case:
    result: dict
    samples: list[Sample]
    predictions: dict


def make_case(size: int = 96, each: int = 6, seed: int = 0, trained: bool = True) -> Case:
    random = np.random.default_rng(seed)
    modes = MODES if trained else UNTRAINED
    samples, predictions = [], {mode: [] for mode in modes}
    for kind, (height, dark, by_3d, by_rgb) in KINDS.items():
        for i in range(each):
            strength = random.uniform(0.25, 1.25)
            spot = _spot(size, kind, random)
            sample = _sample(size, spot * strength, height, dark, random, f"{kind}/{i:03}", kind)
            samples.append(sample)
            found = {
                "3d": _map(sample, spot * strength * by_3d, random),
                "rgb": _map(sample, spot * strength * by_rgb, random),
            }
            found["rgb+3d"] = (found["3d"] + found["rgb"]) / 2
            if trained:
                differing = spot * strength * abs(by_3d - by_rgb)
                found["disagreement"] = _map(sample, differing, random)
                parts = [found[m] for m in ("3d", "rgb", "disagreement")]
                found["rgb+3d+disagreement"] = sum(parts) / 3
            for mode in modes:
                inside = found[mode][sample.valid]
                predictions[mode].append(Prediction(found[mode], float(inside.max())))
    result = _result(samples, predictions, random)
    history = _history(random) if trained else None
    result["training"] = {"history": history, "notes": ["batch of 6: few <b>"]} if trained else None
    return Case(result, samples, predictions)


def _history(random, steps=40):
    """As `training` keeps it; compactness begins at the fifth step, as in the released recipe."""
    history = []
    for t in range(steps):
        fall = np.exp(-t / 12)
        step = {
            "LA": 2 + 3.5 * fall + random.normal(0, 0.05),
            "GA": 2.0 * fall + 0.05,
            "learning_rate": 1e-3,
            "gradient_norm": 4 + 3 * fall,
            "alignment_accuracy": 0.4 * (1 - fall) + 0.01,
            "variance_3d": 0.4 + 0.1 * fall,
            "variance_rgb": 1.5 - 0.5 * fall,
            "rank_3d": 6 + 2 * fall,
            "rank_rgb": 12 - fall,
        }
        if t >= 4:
            step |= {
                "LC": 5 + fall,
                "GC": 2 + fall,
                "nearest_3d": 2 + fall,
                "nearest_rgb": 4 + fall,
            }
            step |= {"same_scan_3d": 0.0, "same_scan_rgb": 0.0}
        terms = {"LA": 0.6, "GA": 0.6, "LC": 1.0, "GC": 1.0}
        step["loss"] = sum(weight * step.get(term, 0.0) for term, weight in terms.items())
        history.append({key: float(value) for key, value in step.items()})
    return history


def _spot(size, kind, random):
    y, x = (np.mgrid[:size, :size] - size / 2) / size
    cx, cy = random.uniform(-0.2, 0.2, 2)
    if kind == "scratch":
        turn = random.uniform(0, np.pi)
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        return np.exp(-((u / 0.12) ** 4) - (v / 0.012) ** 2)
    radius = random.uniform(0.035, 0.07)
    return np.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / radius**2))


def _sample(size, spot, height, dark, random, name, kind):
    y, x = (np.mgrid[:size, :size] - size / 2) / size
    radius = np.hypot(x, 1.15 * y)
    valid = (radius < 0.42) & (random.random((size, size)) > 0.004)
    dome = 22 * np.sqrt(np.clip(1 - (radius / 0.43) ** 2, 0, 1)) + 0.8 * np.sin(40 * radius)
    z = 480 - dome - height * spot + random.normal(0, 0.05, (size, size))
    xyz = np.stack((x * 120, y * 120, z)) / 1000 * valid
    speckle = ndimage.gaussian_filter(random.normal(0, 1, (size, size)), size / 150)
    speckle /= speckle.std()
    base = np.array((0.78, 0.58, 0.36))
    light = 0.75 + 0.25 * np.sqrt(np.clip(1 - (radius / 0.45) ** 2, 0, 1)) - 0.2 * x
    color = base[:, None, None] * light * (1 + 0.06 * speckle) * (1 - dark * spot)
    rgb = (np.clip(color, 0, 1) * valid - MEAN[:, None, None]) / STD[:, None, None]
    return Sample(
        rgb=torch.from_numpy(rgb).float(),
        xyz=torch.from_numpy(xyz).float(),
        valid=torch.from_numpy(valid),
        defect=torch.from_numpy((spot > 0.25) & valid & (kind != "good")),
        name=f"cookie/test/{name}",
        kind=kind,
    )


def _map(sample, signal, random):
    size = signal.shape[0]
    noise = ndimage.gaussian_filter(random.normal(0, 1, signal.shape), size / 40)
    smooth = ndimage.gaussian_filter(signal, size / 56) + 0.13 * noise / noise.std()
    return torch.from_numpy((0.5 + smooth) * sample.valid.numpy()).float()


def _result(samples, predictions, random):
    bad = np.array([s.kind != "good" for s in samples])
    masks = np.concatenate([s.defect.numpy().ravel() for s in samples])
    modes = {}
    for mode in predictions:
        scores = np.array([p.image_score for p in predictions[mode]])
        pixels = np.concatenate([p.anomaly_map.numpy().ravel() for p in predictions[mode]])
        fpr, tpr, _ = roc_curve(bad, scores)
        x, y, _ = roc_curve(masks, pixels)
        at = np.linspace(0, 0.3, 151)
        auroc = float(roc_auc_score(bad, scores))
        pro = {f: float(np.trapezoid(np.interp(t, x, y), t) / f) for f, t in _limits()}
        modes[mode] = {
            "i_auroc": auroc,
            "i_auroc_interval": [max(0.0, auroc - 0.08), min(1.0, auroc + 0.06)],
            "p_auroc": float(roc_auc_score(masks, pixels)),
            "aupro_30": pro[0.3],
            "aupro_10": pro[0.1],
            "aupro_05": pro[0.05],
            "aupro_01": pro[0.01],
            "aupro_30_peer": pro[0.3] - 0.002,
            "aupro_01_peer": pro[0.01] / 2,
            "notes": [],
            "threshold": float(np.quantile(scores[~bad], 0.9)),
            "curves": {
                "roc": {"fpr": fpr.tolist(), "tpr": tpr.tolist()},
                "pro": {"fpr": at.tolist(), "pro": np.interp(at, x, y).tolist()},
            },
        }
    return {
        "schema": 1,
        "category": "cookie",
        "preset": "demo",
        "seed": 0,
        "created": "2026-11-22T14:35:00+00:00",
        "config": as_json(replace(LSFA, data=DATA)),
        "weights": {
            "3d": {"model": "fpfh", "sha256": "", "random": False},
            "rgb": {"model": "efficientnet_lite0", "sha256": "ab" * 32, "random": False},
        },
        "counts": {
            "train": 32,
            "validation": 8,
            "test_good": int((~bad).sum()),
            "test_defective": int(bad.sum()),
        },
        "train_scans": [f"cookie/train/good/{i:03}" for i in range(32)],
        "modes": modes,
        "scans": [
            {
                "name": s.name,
                "kind": s.kind,
                "defective": s.kind != "good",
                "scores": {mode: predictions[mode][i].image_score for mode in predictions},
            }
            for i, s in enumerate(samples)
        ],
        "validation_scores": {mode: random.normal(1, 0.1, 8).tolist() for mode in predictions},
        "seconds": {"fit banks": 1.25, "predict test": 3.5},
        "peak_memory_mb": 812.5,
        "machine": {
            "device": "cpu",
            "cpu": "Example 3000",
            "cores": 2,
            "python": "3.11",
            "torch": "2.15.0",
        },
        "commit": "b1099cc00000+",
    }


def _limits():
    return [(f, np.linspace(0, f, 301)) for f in (0.3, 0.1, 0.05, 0.01)]


class Reader(HTMLParser):
    """Text, addresses and JSON of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text: list[str] = []
        self.specs: list[dict] = []
        self.tag = ""
        self.inside = {}
        self.joined = False
        self.feed(page)

    @property
    def words(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        if tag == "abbr":  # part of the text around it
            self.joined = True
            return
        self.tag, self.inside = tag, dict(attrs)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        self.joined = tag == "abbr"
        self.tag = self.tag if self.joined else ""

    def handle_data(self, data):
        if self.tag == "script" and self.inside.get("type") == "application/json":
            self.specs.append(json.loads(data))
        elif self.joined and self.text:
            self.text[-1] += data
        elif self.tag not in ("script", "style"):
            self.text.append(data)
        self.joined = False


def write_study(reports: Path, case: Case, name: str = "components", **changes) -> Path:
    """A swept study in `reports`: two settings in two categories, one run failed; its folder."""
    folder = reports / "studies" / f"{name}-demo"
    runs = []
    for cell in ("baseline", "IFC"):
        for category in ("cookie", "zipper"):
            run = reports / "runs" / "sweep" / f"{category}-demo-{cell}-s0-{name[:4]}0000"
            failed = (cell, category) == ("IFC", "zipper")
            if failed:
                run.mkdir(parents=True)
                (run / "error.txt").write_text(TRACEBACK, encoding="utf-8")
                (run / "notebook-failed.ipynb").write_text("{}", encoding="utf-8")
            else:
                only = as_json(replace(LSFA, data=DATA, shots=3 if cell == "IFC" else 0))
                result = case.result | {"category": category, "config": only}
                write_run(run, Case(result, case.samples, case.predictions), scans=1)
                (run / "run.json").write_text('{"schema": 1, "key": "0"}', encoding="utf-8")
            runs.append(
                {
                    "cell": cell,
                    "category": category,
                    "seed": 0,
                    "folder": f"../../runs/sweep/{run.name}",
                    "state": "failed" if failed else "done",
                    "error": TRACEBACK if failed else "",
                    "seconds": 1.5,
                    "reused": False,
                }
            )
    about = {
        "schema": 1,
        "name": name,
        "title": "What does IFC bring & is it <sure>?",
        "preset": "demo",
        "page": "04_components",
        "categories": ["cookie", "zipper"],
        "seeds": [0],
        "cells": {"baseline": {"only": "none"}, "IFC": {"only": "IFC"}},
        "reference": "baseline",
        "published": None,
        "runs": runs,
        "finding": "IFC +0.010 I-AUROC against baseline",
        "created": "2026-11-23T08:00:00+00:00",
        "wall_seconds": 6.0,
    }
    notebook = v4.new_notebook(
        cells=[
            v4.new_markdown_cell(f"# {about['title']}\n\nAsked of two categories."),
            v4.new_markdown_cell("## All numbers\n\nSee the [method](../../docs/method.md)."),
            v4.new_code_cell("1", outputs=[v4.new_output("stream", text="/home/someone/x/y.py\n")]),
        ]
    )
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(about | changes), encoding="utf-8")
    (folder / "table.csv").write_text("row,mode\nbaseline,rgb\n", encoding="utf-8")
    nbformat.write(notebook, folder / "notebook.ipynb")
    return folder


def write_run(folder: Path, case: Case, scans: int = 2) -> Path:
    """A finished run in `folder`: result.json and the notebook as if executed; its path."""
    shown = [
        result_figures.score_histogram(case.result),
        *scan_figures.scan_figures(case.result, case.samples, case.predictions, n=scans),
    ]
    if case.result["training"]:
        shown.insert(1, training_figure(case.result))
    outputs = [
        v4.new_output("display_data", {PLOTLY: json.loads(figure.to_json())}) for figure in shown
    ]
    table = v4.new_output(
        "display_data", {"text/html": result_figures.metrics_table(case.result).to_html()}
    )
    bar = v4.new_output("display_data", {WIDGET: {"model_id": "1"}, "text/plain": "bar"})
    text = v4.new_output("display_data", {"text/markdown": findings.answer(case.result)})
    notebook = v4.new_notebook(
        cells=[
            v4.new_markdown_cell("# Which parts are defective?"),
            v4.new_code_cell('category: str = "cookie"', metadata={"tags": ["parameters"]}),
            v4.new_code_cell(
                'data_root = "/home/someone/scans"', metadata={"tags": ["injected-parameters"]}
            ),
            v4.new_markdown_cell("## What the numbers say"),
            v4.new_code_cell("table(result)", outputs=[bar, table]),
            v4.new_markdown_cell("## Where are the *defects*?"),
            v4.new_code_cell("draw(result)", outputs=outputs),
            v4.new_markdown_cell("## Answer"),
            v4.new_code_cell("answer(result)", outputs=[text]),
        ],
        metadata={
            "papermill": {
                "parameters": {"category": "cookie", "data_root": "/home/someone/scans", "seed": 0}
            }
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_result(case.result, folder)
    nbformat.write(notebook, folder / "notebook.ipynb")
    return folder / "notebook.ipynb"
