"""What a run keeps of a few test scans: see `storage.kept_maps`."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from lsfa_lib.figures.clouds import spread_points, surface_of
from lsfa_lib.figures.findings import lead
from lsfa_lib.figures.scan_images import pixels_of, score_ranges
from lsfa_lib.pipeline import Run
from lsfa_lib.records import Mode
from lsfa_lib.storage.kept_maps import KeptScan, chosen

MOST_PX, POINTS = 112, 2000


def kept_scans(run: Run, mode: Mode = "") -> list[KeptScan]:
    """The chosen test scans with their maps in one mode, by default the one a run is shown by."""
    mode = mode or lead(run.result)
    place = {scan["name"]: i for i, scan in enumerate(run.result["scans"])}
    good = score_ranges(run.samples, {mode: run.predictions[mode]})[mode]
    return [_kept(run, place[name], mode, good) for name in chosen(run.result["scans"])]


def _kept(run: Run, place: int, mode: Mode, good: tuple[float, float]) -> KeptScan:
    sample = run.samples[place]
    pixels = pixels_of(sample)
    box, file = pixels.box, io.BytesIO()
    Image.fromarray(box.cut(pixels.photo, MOST_PX)).save(file, "jpeg", quality=82)
    anomaly = run.predictions[mode][place].anomaly_map.double().cpu().numpy()
    # Pixels are chosen, not interpolated: mask, map and cloud stay those of one place.
    rows, columns = box.grid(MOST_PX)
    valid, surface = pixels.valid[rows][:, columns], surface_of(pixels)[rows][:, columns]
    points = spread_points(valid, POINTS)
    return KeptScan(
        name=sample.name,
        mode=mode,
        jpeg=file.getvalue(),
        valid=valid,
        defect=pixels.defect[rows][:, columns],
        anomaly=np.where(valid, anomaly[rows][:, columns], anomaly[pixels.valid].min()),
        good=good,
        places=np.stack(points).astype(np.uint8),
        points=surface[points],
    )
