"""`lsfa pretrain-points`: weights of the small Point-MAE, from shapes made on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from lsfa_lib.storage.files import InputError, require_writable


def pretrain_points(
    out: Annotated[Path, Option(help="File for the encoder.")] = Path(
        "data/weights/point_mae_small.safetensors"
    ),
    steps: Annotated[int, Option(min=1, help="Batches of 16 shapes.")] = 10_000,
    seed: Annotated[int, Option(min=0, help="Another seed gives other shapes.")] = 0,
    norm: Annotated[
        str, Option(help="group_radius, or unit_sphere as Point-MAE was published.")
    ] = "group_radius",
    workers: Annotated[int, Option(min=0, help="Processes that make shapes.")] = 1,
) -> None:
    """Pretrain the small Point-MAE on procedural shapes. Resumes if interrupted.

    A checkpoint is kept next to the file while it trains; the file also holds the loss curve. Use
    the result by `point_encoder: {model: point_mae_small, weights: FILE}` in `run --config`.
    """
    import logging

    from lsfa_lib.pretraining.pretrain import PretrainConfig, export, pretrain

    if norm not in ("group_radius", "unit_sphere"):
        raise InputError(f"--norm {norm} is not known; choose group_radius or unit_sphere")
    require_writable(out)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = PretrainConfig(steps=steps, seed=seed, norm=norm)  # type: ignore[arg-type]
    state = pretrain(config, out.with_suffix(".checkpoint.pt"), workers)
    export(state, config, out)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB after {state.step} steps")
