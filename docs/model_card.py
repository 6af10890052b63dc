"""Measures the small Point-MAE of this package and writes docs/point_mae_small.md: `make card`.

Every number of the card is computed here. Takes half an hour on two cores, mostly for two short
trainings that compare normalisations and are stored in data/weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lsfa_lib.config import DEMO, DataConfig, PointEncoderConfig, configure
from lsfa_lib.demo.synthetic import DemoSettings, write_demo
from lsfa_lib.features.checkpoints import PACKAGE_POINTS
from lsfa_lib.features.extract import load_points
from lsfa_lib.features.weights import named
from lsfa_lib.pipeline import run_category
from lsfa_lib.pretraining.pretrain import PretrainConfig, export, pretrain
from lsfa_lib.pretraining.probe import CLASSES, of_encoder, of_fpfh, probe, probes
from lsfa_lib.pretraining.shapes import MOST_NOISE, WINDOW_MM
from lsfa_lib.storage.files import atomic_write
from lsfa_lib.storage.results import machine, now

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data" / "demo-1"
CARD = ROOT / "docs" / "point_mae_small.md"
CURVE = ROOT / "docs" / "images" / "point_mae_small.svg"
SHORT_STEPS = 1500
LABELLED, SHOWN = (5, 10, 20, 40, 80), 40
"""Numbers of labelled scans the probe is trained on, and the one whose classes are shown."""
OWN = DEMO.point_encoder
FPFH = replace(OWN, model="fpfh", weights="")
CARD_TEXT = """# The small Point-MAE of this package

Written by `make card` on {date} ({cpu}); all numbers are generated.

`lsfa_lib/features/point_mae_small.safetensors`: {parameters_m:.2f} M parameters in half
precision, {size_mb:.1f} MB. Point-MAE (arXiv 2203.06604) with
{network.depth} blocks of width {network.dim}; features from blocks
{taps} (counted from 0). It is the demo's 3D encoder; any
configuration can use it with `point_encoder.model: point_mae_small`.

## Training

`lsfa pretrain-points --steps {steps} --seed {config.seed}`: {steps:,} steps of
{config.batch} shapes, {shapes:,} shapes in all, none repeated. They are
generated during training (`lsfa_lib/pretraining/shapes.py`): single, joined, pierced, filleted and
rough solids and landscapes, with dents and bumps, seen from one side by a scanner with noise and
gaps, in windows of {window[0]:.0f} to {window[1]:.0f} mm. No demo product is among them.
{config.hidden_share:.0%} of {config.groups} groups of {config.group_size} points are masked and
reconstructed from the others; the loss is the Chamfer distance in squares of each group's radius.

![Loss over the steps](images/point_mae_small.svg)

## What its features encode: a probe of local shape

Balanced accuracy of a linear probe for {classes}, on scans of polyhedra
that are not in the training set, by the number of labelled scans it is trained on. Random features
catch up when labels are plentiful:

{accuracies}

With {shown} labelled scans, by class:

{recalls}

## Scaling of point groups

Two trainings of {short_steps} steps each with groups of 32 points, and the same probe with {shown}
labelled scans. The first row is the default, chosen for its score:

{norms}

## On the demo data

Version 1 of the demo, images at 224 px, unadapted features, one seed, mean over the products. Best
in 3D I-AUROC: {best}.

{demo}

## Limits

- Trained on generated shapes only. Real parts have textures, specular gaps and fixtures that it has
  not seen; no public data set was available to measure this.
- It was trained on single views, as a scanner takes them, not on clouds of all sides.
- Groups are scaled to one radius, so the features do not depend on absolute size. Within one
  product and one camera nothing is lost; across cameras this invariance is desired.
- Dents shallower than the simulated sensor noise of the training shapes (up to {noise} of the
  distance between points) are noise to it.
"""


def main() -> None:
    """Measures, then writes the card and its loss curve."""
    about = _about(PACKAGE_POINTS)
    probed = probe_table()
    norms = norm_table()
    demo = demo_table()
    with atomic_write(CURVE) as path:
        path.write_text(curve(about["losses"], about["steps"]), encoding="utf-8")
    with atomic_write(CARD) as path:
        path.write_text(card(about, probed, norms, demo), encoding="utf-8")
    print(f"written: {CARD}")


def probe_table() -> dict[str, dict[int, dict[str, float]]]:
    """Probe results of these weights, random ones and FPFH."""
    encoders = {
        "these weights": of_encoder(load_points(OWN)),
        "random weights": of_encoder(load_points(replace(OWN, weights="random"))),
        "FPFH": of_fpfh(OWN.groups),
    }
    if (public := named("point_mae").path).exists():
        config = replace(PointEncoderConfig(), weights=str(public))
        encoders["Point-MAE (ShapeNet)"] = of_encoder(load_points(config))
    return {name: probes(encoder, LABELLED) for name, encoder in encoders.items()}


def norm_table() -> dict[str, Mapping[str, float]]:
    """Probe results of two short trainings, each with its own norm and with sample statistics."""
    found = {}
    for norm in ("group_radius", "unit_sphere"):
        path = ROOT / "data" / "weights" / f"point_mae_{norm}.safetensors"
        if not path.exists():
            config = PretrainConfig(steps=SHORT_STEPS, norm=norm)
            export(pretrain(config, path.with_suffix(".checkpoint.pt")), config, path)
        assert _about(path)["steps"] == SHORT_STEPS, path
        for used in (norm, "sample_statistics"):
            config = replace(OWN, weights=str(path), group_size=32, groups=512, norm=used)
            found[f"trained `{norm}`, used `{used}`"] = probe(of_encoder(load_points(config)))
    return found


def demo_table() -> dict[str, dict[str, float]]:
    """Metrics of unadapted detection on demo version 1, 3D and RGB + 3D, averaged over products."""
    write_demo(DATA, DemoSettings())
    encoders = {
        "these weights": OWN,
        "random weights": replace(OWN, weights="random"),
        "FPFH": FPFH,
    }
    if (public := named("point_mae").path).exists():
        encoders["Point-MAE (ShapeNet)"] = replace(PointEncoderConfig(), weights=str(public))
    return {name: _detected(encoder) for name, encoder in encoders.items()}


def _detected(encoder: PointEncoderConfig) -> dict[str, float]:
    config = replace(DEMO, point_encoder=encoder, data=DataConfig(str(DATA)))
    config = configure(config, {"only": "none", "image_encoder.size": 0})
    config = replace(config, cache=str(ROOT / "data" / "cache"))
    categories = sorted(path.name for path in DATA.iterdir() if path.is_dir())
    sums: dict[str, float] = {}
    for category in categories:
        modes = run_category(category, config, seed=0).result["modes"]
        for mode, name in (("3d", "3D"), ("rgb+3d", "RGB + 3D")):
            for metric, label in (("i_auroc", "I-AUROC"), ("aupro_30", "AUPRO 30 %")):
                key = f"{name} {label}"
                sums[key] = sums.get(key, 0.0) + modes[mode][metric] / len(categories)
    return sums


def card(
    about: dict[str, Any],
    probed: Mapping[str, Mapping[int, Mapping[str, float]]],
    norms: Mapping[str, Mapping[str, float]],
    demo: Mapping[str, Mapping[str, float]],
) -> str:
    """The complete document."""
    config, network = PretrainConfig(**about["config"]), load_points(OWN)
    three = {name: values["3D I-AUROC"] for name, values in demo.items()}
    return CARD_TEXT.format(
        date=now()[:10],
        cpu=machine(torch.device("cpu"))["cpu"],
        parameters_m=sum(p.numel() for p in network.parameters()) / 1e6,
        size_mb=PACKAGE_POINTS.stat().st_size / 1e6,
        network=network.architecture,
        taps=", ".join(map(str, network.architecture.taps)),
        config=config,
        steps=about["steps"],
        shapes=about["steps"] * config.batch,
        window=WINDOW_MM,
        noise=MOST_NOISE,
        classes=", ".join(CLASSES),
        shown=SHOWN,
        short_steps=SHORT_STEPS,
        accuracies=_table(_accuracies(probed)),
        recalls=_table({name: by_count[SHOWN] for name, by_count in probed.items()}),
        norms=_table(norms),
        best=max(three, key=lambda name: three[name]),
        demo=_table(demo),
    )


def _accuracies(
    probed: Mapping[str, Mapping[int, Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """Balanced accuracy by number of labelled scans, and the gain over random weights."""
    found = {
        name: {f"{n} scans": values["balanced accuracy"] for n, values in by_count.items()}
        for name, by_count in probed.items()
    }
    random = found["random weights"]
    found["these minus random"] = {n: v - random[n] for n, v in found["these weights"].items()}
    return found


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(f"{values[c]:.3f}" for c in columns) + " |"
        for name, values in rows.items()
    ]
    return "\n".join(lines)


def curve(losses: list[float], steps: int) -> str:
    """The loss as an SVG image, on a logarithmic axis because the first steps decrease it most."""
    logs = torch.tensor(losses).log10()
    low, high = float(logs.min()), float(logs.max())
    width, height, left, top = 640, 220, 56, 14

    def place(i: int, value: float) -> str:
        x = left + (width - left - 12) * i / max(1, len(losses) - 1)
        y = top + (height - top - 34) * (high - value) / max(high - low, 1e-9)
        return f"{x:.1f},{y:.1f}"

    points = " ".join(place(i, v) for i, v in enumerate(logs.tolist()))
    text = 'font-family="system-ui, sans-serif" font-size="13" fill="#6b7682"'
    ends = [(10**high, top + 4), (10**low, height - 30)]
    labels = "".join(
        f'<text x="{left - 8}" y="{y:.0f}" text-anchor="end" {text}>{value:.2g}</text>'
        for value, y in ends
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="loss from {losses[0]:.2g} to {losses[-1]:.2g} over {steps} steps">'
        f'<polyline points="{points}" fill="none" stroke="#0072B2" stroke-width="2.5" '
        f'stroke-linejoin="round"/>{labels}'
        f'<text x="{left}" y="{height - 8}" {text}>Chamfer loss (log), step 1</text>'
        f'<text x="{width - 12}" y="{height - 8}" text-anchor="end" {text}>step {steps:,}</text>'
        "</svg>\n"
    )


def _about(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["about"])


if __name__ == "__main__":
    main()
