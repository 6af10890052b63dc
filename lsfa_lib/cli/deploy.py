"""`lsfa fit`, `lsfa predict` and `lsfa calibrate`: a detector to keep, and its use on new scans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from lsfa_lib.cli import options
from lsfa_lib.storage.files import InputError, require_writable

if TYPE_CHECKING:
    from lsfa_lib.datasets.own_camera import Intrinsics
    from lsfa_lib.deployment.predicting import Scoring
    from lsfa_lib.deployment.results import Record

DetectorFile = Annotated[
    Path, Argument(help="File of `lsfa fit` or `lsfa run`.", metavar="DETECTOR")
]
Scans = Annotated[
    list[Path], Argument(help="Folders of scans, or files of scans.", metavar="SCANS...")
]
IntrinsicsFile = Annotated[
    Path | None,
    Option("--intrinsics", help="Camera file with fx, fy, cx, cy; required for depth images."),
]
DepthUnit = Annotated[
    float, Option(help="Metres per unit of depth images and clouds; 0: recognised.")
]
Threshold = Annotated[str, Option(help="conformal or normal.", show_default="the file's")]
Rate = Annotated[
    float,
    Option(help="False-alarm rate of the threshold, such as 0.05.", show_default="the file's"),
]


def fit(
    category: Annotated[str, Argument(help="The part; a folder of the data.")],
    out: Annotated[Path, Option(help="File to write, such as bracket.lsfa.")],
    data_root: options.DataRoot = "",
    preset: options.Preset = "",
    config: options.ConfigFile = "",
    only: Annotated[str, Option(help="Train with IFC, CLC, LA, GA, LC, GC, both or none.")] = "",
    threshold: Annotated[
        str, Option(help="conformal or normal.", show_default="that of --config, else conformal")
    ] = "",
    rate: Annotated[
        float,
        Option(
            help="False-alarm rate of the threshold.", show_default="that of --config, else 0.05"
        ),
    ] = 0.0,
    seed: Annotated[int, Option(min=0, help="For the coreset and training.")] = 0,
    device: options.Device = "auto",
    image_size: options.ImageSize = 0,
    modalities: options.Modalities = "",
) -> None:
    """Fit a detector to the good parts of CATEGORY and save it as one file; needs no test split.

    Example: `lsfa fit bracket --data data/mine --out bracket.lsfa`, then `lsfa predict`.
    """
    from lsfa_lib.config import configure
    from lsfa_lib.config.build import read_yaml

    fields = options.chosen_fields(data_root, device, image_size, modalities)
    fields |= {"only": only} if only else {}
    if rate:
        _check_rate(rate)
        fields["detector.false_alarm_rate"] = rate
    chosen = configure(options.source_of(preset, config), fields)
    file = config or (preset if Path(preset).is_file() else "")
    own = read_yaml(Path(file)).get("detector", {}) if file else {}
    rule = threshold or own.get("threshold", "conformal")
    chosen = configure(chosen, {"detector.threshold": rule})
    if chosen.finetune.method != "none":
        raise InputError(
            f"finetune.method {chosen.finetune.method} trains the backbones, which a detector file "
            "does not hold; train adaptors instead (finetune.method none)"
        )
    if chosen.method not in ("lsfa", "unadapted"):
        raise InputError(f"method {chosen.method} keeps no detector; use lsfa or unadapted")
    require_writable(out)
    from lsfa_lib.deployment.inspector import load
    from lsfa_lib.methods.fitting import fit_detector

    fit_detector(category, chosen, seed).save_as(out)
    inspector = load(out, chosen.device)
    origin = inspector.origin
    typer.echo(f"{len(origin.train)} training and {len(origin.calibration)} calibration scans")
    typer.echo(_sentence(inspector.promise))
    typer.echo(f"{out}: next: lsfa predict {out} SCANS --out results")


def predict(
    detector: DetectorFile,
    scans: Scans,
    out: Annotated[Path, Option(help="Folder of the results.")] = Path("results"),
    watch: Annotated[
        bool, Option("--watch", help="Keep scoring scans as they arrive, until Ctrl-C.")
    ] = False,
    idle: Annotated[
        float,
        Option(help="With --watch: end after this many seconds without a new scan; 0: never."),
    ] = 0.0,
    settle: Annotated[
        float,
        Option(help="With --watch: seconds that a file must stay unchanged before it is read."),
    ] = 1.0,
    fail_on_defect: Annotated[
        bool, Option("--fail-on-defect", help="Exit code 1 unless every verdict is good.")
    ] = False,
    intrinsics: IntrinsicsFile = None,
    depth_unit_m: DepthUnit = 0.0,
    device: options.Device = "auto",
) -> None:
    """Classify SCANS and locate their defects: tables, maps, clouds and a report.

    Scans are folders rgb and xyz (MVTec 3D-AD), items of Eyecandies, NAME.png with NAME_depth.png,
    or organised NAME.pcd or NAME.ply; images alone for a detector without 3D, depth images or
    clouds alone for one without colour. Each is scored once: a second call resumes where the first
    ended.

    Example: `lsfa predict bracket.lsfa incoming --out results`.
    """
    from lsfa_lib.deployment.inspector import GOOD, load
    from lsfa_lib.deployment.predicting import Scoring
    from lsfa_lib.deployment.report import verdict_sentence
    from lsfa_lib.deployment.results import opened

    inspector, camera = load(detector, device), _camera(intrinsics)
    typer.echo(_sentence(inspector.promise))
    with opened(out, inspector) as results:
        scoring = Scoring(results, scans, camera, depth_unit_m)
        rows = _watched(scoring, settle, idle) if watch else scoring.batch()
    if scoring.warning:
        typer.echo(f"drift: {scoring.warning}", err=True)
    typer.echo(f"{verdict_sentence(rows)}: {out / 'scores.csv'}")
    typer.echo(f"open {(out / 'report.html').resolve()}")
    if fail_on_defect and any(row["verdict"] != GOOD for row in rows):
        raise typer.Exit(1)


def calibrate(
    detector: DetectorFile,
    scans: Scans,
    out: Annotated[
        Path | None, Option(help="File to write.", show_default="DETECTOR itself")
    ] = None,
    threshold: Threshold = "",
    rate: Rate = 0.0,
    intrinsics: IntrinsicsFile = None,
    depth_unit_m: DepthUnit = 0.0,
    device: options.Device = "auto",
) -> None:
    """Add good SCANS that the detector has not seen to its threshold, without training again.

    Example: `lsfa calibrate bracket.lsfa more_good --threshold conformal --rate 0.02`.
    """
    from lsfa_lib.deployment.calibrating import calibrate as grown
    from lsfa_lib.deployment.calibrating import with_rule
    from lsfa_lib.deployment.inspector import load
    from lsfa_lib.detection.saved import save

    if rate:
        _check_rate(rate)
    require_writable(out or detector)
    ruled = with_rule(load(detector, device), rate, threshold)
    found = grown(ruled, scans, _camera(intrinsics), depth_unit_m)
    inspector = found.inspector
    save(inspector.detector, out or detector, inspector.origin)
    for warning in found.warnings:
        typer.echo(warning, err=True)
    total = len(inspector.good_scores)
    typer.echo(f"{out or detector}: {found.added} scans added, {total} calibration scans")
    typer.echo(_sentence(inspector.promise))


def _watched(scoring: Scoring, settle: float, idle: float) -> list[Record]:
    """All rows, once the watch is over or interrupted."""
    try:
        return scoring.watch(settle, lambda seconds: bool(idle) and seconds > idle)
    except KeyboardInterrupt:
        return scoring.finished()


def _camera(path: Path | None) -> Intrinsics | None:
    """The camera in the file; None without one."""
    from lsfa_lib.datasets.own_camera import read_intrinsics

    return read_intrinsics(path) if path else None


def _check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise InputError(
            f"--rate {rate} is not a rate; give a number between 0 and 1, such as 0.05"
        )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
