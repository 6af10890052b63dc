"""Measures the small Point-MAE of this package and writes docs/point_mae_small.md: `make card`.

Every number of the card comes from here. Half an hour on two cores, most of it two short trainings
that compare normalisations, which are kept in data/weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lsfa_lib.config import DEMO, DataConfig, PointEncoderConfig, with_losses
from lsfa_lib.demo.synthetic import write_demo
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
CARD = ROOT / "docs" / "point_mae_small.md"
CURVE = ROOT / "docs" / "pictures" / "point_mae_small.svg"
SHORT_STEPS = 1500
LABELLED, SHOWN = (5, 10, 20, 40, 80), 40
"""Scans the probe learns from, and the number whose classes are shown."""
OWN = DEMO.point_encoder
FPFH = replace(OWN, model="fpfh", weights="")
LIMITS = """## Limits

- Trained on generated shapes alone. Real parts have textures, specular gaps and fixtures it has not
  seen; no public data set was at hand to measure them.
- It sees one side of a part, as scanners do. A cloud of all sides is another thing.
- Groups are scaled to one radius, so that it cannot tell a large shape from the same shape small.
  Within one product and one camera that is no loss; across cameras it is wanted.
- A dent shallower than the errors of its shapes' scanner (up to {noise} of the distance between
  points) is noise to it.
"""


def main() -> None:
    """Measures, then writes the card and its curve."""
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
    """The probes of these weights, random ones and FPFH."""
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
    """The probe of two short trainings, each as it was trained and by the cloud's statistics."""
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
    """Unadapted detection in the demo data by shape alone and with colour, a mean over products."""
    write_demo(ROOT / "data" / "demo")
    encoders = {
        "these weights": OWN,
        "random weights": replace(OWN, weights="random"),
        "FPFH": FPFH,
    }
    if (public := named("point_mae").path).exists():
        encoders["Point-MAE (ShapeNet)"] = replace(PointEncoderConfig(), weights=str(public))
    return {name: _detected(encoder) for name, encoder in encoders.items()}


def _detected(encoder: PointEncoderConfig) -> dict[str, float]:
    config = replace(DEMO, point_encoder=encoder, data=DataConfig(str(ROOT / "data" / "demo")))
    config = with_losses(replace(config, cache=str(ROOT / "data" / "cache")), "none")
    categories = sorted(path.name for path in (ROOT / "data" / "demo").iterdir() if path.is_dir())
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
    """The whole document."""
    config = PretrainConfig(**about["config"])
    encoder = load_points(OWN)
    parameters = sum(p.numel() for p in encoder.parameters())
    known = {
        name: {f"{n} scans": values["balanced accuracy"] for n, values in by_count.items()}
        for name, by_count in probed.items()
    }
    known["these above random"] = {
        count: value - known["random weights"][count]
        for count, value in known["these weights"].items()
    }
    recalls = {name: by_count[SHOWN] for name, by_count in probed.items()}
    three = {name: values["3D I-AUROC"] for name, values in demo.items()}
    best = max(three, key=lambda name: three[name])
    here = machine(torch.device("cpu"))
    return f"""# The small Point-MAE of this package

Written by `make card` on {now()[:10]} ({here["cpu"]}), no number by hand.

`lsfa_lib/encoders/point_mae_small.safetensors`: {parameters / 1e6:.2f} M parameters in half
precision, {PACKAGE_POINTS.stat().st_size / 1e6:.1f} MB. Point-MAE (arXiv 2203.06604) with
{encoder.architecture.depth} blocks of {encoder.architecture.dim} numbers, features from blocks
{", ".join(map(str, encoder.architecture.taps))} (from 0). It is the demo's 3D encoder and any
config's by `point_encoder.model: point_mae_small`.

## How it was trained

`lsfa pretrain-points --steps {about["steps"]} --seed {config.seed}`: {about["steps"]:,} steps of
{config.batch} shapes, {about["steps"] * config.batch:,} shapes in all, none twice. Each is made on
the way (`lsfa_lib/pretraining/shapes.py`): single, joined, pierced, filleted and rough solids and
landscapes, with dents and bumps, seen from one side by a scanner with noise and gaps, in windows of
{WINDOW_MM[0]:.0f} to {WINDOW_MM[1]:.0f} mm. None of the demo's products is among them.
{config.hidden_share:.0%} of {config.groups} groups of {config.group_size} points are hidden and
drawn from the others; the loss is the Chamfer distance in squares of each group's radius.

![Loss over the steps](pictures/point_mae_small.svg)

## What it knows of local shape

Balanced accuracy of a linear probe for {", ".join(CLASSES)}, on scans of polyhedra
that are no part of the training, by the number of labelled scans it learns from. Random features
catch up where labels abound:

{_table(known)}

With {SHOWN} labelled scans, class by class:

{_table(recalls)}

## How clouds are scaled

Two trainings of {SHORT_STEPS} steps each, groups of 32 points, the same probe with {SHOWN} labelled
scans. The default is the one that came first:

{_table(norms)}

## In the demo data

Unadapted features, one seed, mean over its products; {best} come first by shape alone:

{_table(demo)}

{LIMITS.format(noise=MOST_NOISE)}"""


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(f"{values[c]:.3f}" for c in columns) + " |"
        for name, values in rows.items()
    ]
    return "\n".join(lines)


def curve(losses: list[float], steps: int) -> str:
    """The loss as a picture; the axis is logarithmic, since the first steps fall far."""
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
