"""What a run keeps of a few test scans: see `storage.kept_maps`."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lsfa_lib.figures.clouds import spread_points, surface_of
from lsfa_lib.figures.findings import Result, lead
from lsfa_lib.figures.scan_images import pixels_of, score_ranges
from lsfa_lib.records import Mode, Prediction, Sample
from lsfa_lib.storage.kept_maps import KeptScan, chosen

MOST_PX, POINTS = 112, 2000


def kept_scans(
    result: Result,
    samples: Sequence[Sample],
    predictions: dict[Mode, list[Prediction]],
    mode: Mode = "",
) -> list[KeptScan]:
    """The chosen test scans with their maps in one mode, by default the one a run is shown by."""
    mode = mode or lead(result)
    good = score_ranges(samples, {mode: predictions[mode]})[mode]
    place = {scan["name"]: i for i, scan in enumerate(result["scans"])}
    return [
        _kept(samples[place[name]], predictions[mode][place[name]], mode, good)
        for name in chosen(result["scans"])
    ]


def _kept(
    sample: Sample, prediction: Prediction, mode: Mode, good: tuple[float, float]
) -> KeptScan:
    pixels = pixels_of(sample)
    box, file = pixels.box, io.BytesIO()
    Image.fromarray(box.cut(pixels.photo, MOST_PX)).save(file, "jpeg", quality=82)
    # Pixels are chosen, not interpolated: mask, map and cloud stay those of one place.
    rows, columns = box.grid(MOST_PX)
    anomaly = prediction.anomaly_map.double().cpu().numpy()[rows][:, columns]
    valid, surface = pixels.valid[rows][:, columns], surface_of(pixels)[rows][:, columns]
    points = spread_points(valid, POINTS)
    return KeptScan(
        name=sample.name,
        mode=mode,
        jpeg=file.getvalue(),
        valid=valid,
        defect=pixels.defect[rows][:, columns],
        anomaly=np.where(valid, anomaly, anomaly[valid].min()),
        good=good,
        places=np.stack(points).astype(np.uint8),
        points=surface[points],
        picture=pixels.picture,
    )
