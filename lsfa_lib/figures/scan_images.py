"""One scan as small images: photo, relief, ground truth, and maps on one colour scale.

One scale serves all maps, modes and scans of a page, so that equal colours mean equal scores: 0 %
is the median of the good test parts' surface in that mode, 100 % its 99.9th percentile. Colours end
at 250 %; everything above looks like 250 %.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from PIL import Image, ImageColor
from plotly.colors import sample_colorscale, unlabel_rgb
from scipy import ndimage

from lsfa_lib.datasets.preprocess import IMAGENET_MEAN, IMAGENET_STD
from lsfa_lib.datasets.relief import relief
from lsfa_lib.figures.style import DEFECTIVE, spread_out
from lsfa_lib.records import Mode, Prediction, Sample, Scan

TOP = 250
"""Per cent at which colours end; of the 8-bit levels above it two are used: outline and clear."""
OUTLINE, CLEAR = 254, 255
COLORSCALE = "Viridis"
DEFECT_RGB = np.array(ImageColor.getrgb(DEFECTIVE), np.uint8)

Mask = Bool[np.ndarray, "H W"]
Level = UInt8[np.ndarray, "H W"]
Photo = UInt8[np.ndarray, "H W 3"]
AnyImage = Image.Image | UInt8[np.ndarray, "*shape"]
Ranges = dict[Mode, tuple[float, float]]
"""Map values that are 0 % and 100 % in each mode."""


@dataclass(frozen=True)
class Pixels:
    """What is drawn of one scan, pixel by pixel."""

    photo: Photo
    """The shaded depth image of points without colour."""
    xyz: Float[np.ndarray, "H W 3"]
    """Millimetres; zero where not valid."""
    valid: Mask
    defect: Mask
    picture: str = "photo"
    """What `photo` is."""

    @property
    def box(self) -> Box:
        """The square around part and defect."""
        return box_around(self.valid | self.defect)


@dataclass(frozen=True)
class Box:
    """A square of an image, in its pixels."""

    top: int
    left: int
    side: int

    def cut(
        self, image: Shaped[np.ndarray, "S S *c"], most: int = 0, nearest: bool = False
    ) -> Shaped[np.ndarray, "s s *c"]:
        """The content of the square, reduced to at most `most` pixels a side where that is not 0.

        Pixels are interpolated, those of masks and with `nearest` chosen.
        """
        cut = image[self.top : self.top + self.side, self.left : self.left + self.side]
        if not most or self.side <= most:
            return cut
        nearest = nearest or cut.dtype == bool
        how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
        return np.asarray(Image.fromarray(np.ascontiguousarray(cut)).resize((most, most), how))

    def grid(self, most: int) -> tuple[Int[np.ndarray, " s"], Int[np.ndarray, " s"]]:
        """Rows and columns of the square, of at most `most` each, evenly spread."""
        steps = spread_out(self.side, most)
        return self.top + np.array(steps), self.left + np.array(steps)


def pixels_of(sample: Sample) -> Pixels:
    """The photo before ImageNet normalisation, at the size of the maps; millimetres; the masks."""
    rgb = sample.rgb.cpu().permute(1, 2, 0).numpy() * IMAGENET_STD + IMAGENET_MEAN
    photo = np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8)
    if len(photo) != (side := len(sample.valid)):
        photo = np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))
    xyz = sample.xyz.double().cpu().permute(1, 2, 0).numpy() * 1000
    if not xyz.any():  # an image without 3D is shown as a plane, 1 mm per pixel
        down, right = np.indices(xyz.shape[:2], np.float64)
        xyz = np.stack([right, down, np.full_like(down, 1000)], axis=2)
    masks = sample.valid.cpu().numpy(), sample.defect.cpu().numpy()
    return Pixels(photo, xyz, *masks, picture_of(sample))


def picture_of(scan: Scan | Sample) -> str:
    """What the image of a scan is called."""
    return "photo" if "rgb" in scan.modalities else "shaded depth"


def box_around(mask: Mask) -> Box:
    """The square around all True pixels, with a margin of 3 % of the image if it fits.

    The complete image where there are none.
    """
    size = len(mask)
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return Box(0, 0, size)
    low = np.array([rows.min(), columns.min()])
    high = np.array([rows.max(), columns.max()]) + 1
    side = min(size, int((high - low).max()) + 2 * round(0.03 * size))
    top, left = np.clip((low + high - side) // 2, 0, size - side).tolist()
    return Box(top, left, side)


def images_of(
    pixels: Pixels, levels: Mapping[str, Level], box: Box, most: int = 0
) -> dict[str, AnyImage]:
    """Photo, relief, ground truth and named maps, each the content of a box (see `Box.cut`)."""
    valid, defect = box.cut(pixels.valid, most), box.cut(pixels.defect, most)
    maps = {n: map_image(box.cut(level, most), valid, defect) for n, level in levels.items()}
    return {
        pixels.picture: box.cut(pixels.photo, most),
        "relief (3D)": box.cut(relief(pixels.xyz, pixels.valid), most),
        "ground truth": box.cut(marked(pixels.photo, pixels.defect), most),
        **maps,
    }


def score_ranges(samples: Sequence[Sample], predictions: dict[Mode, list[Prediction]]) -> Ranges:
    """Map values of 0 % and 100 % in each mode: median and 99.9th percentile of good surface.

    Without a good test scan all scans are taken.
    """
    good = [i for i, sample in enumerate(samples) if sample.kind == "good"]
    ranges: Ranges = {}
    for mode, found in predictions.items():
        pixels = [
            found[i].anomaly_map[samples[i].valid].cpu().numpy()
            for i in good or range(len(samples))
        ]
        ranges[mode] = range_of(np.concatenate(pixels))
    return ranges


def range_of(surface: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Median and 99.9th percentile; one apart where they are equal."""
    low, high = np.percentile(surface, (50, 99.9)).tolist()
    return low, high if high > low else low + 1.0


def level_of(
    anomaly_map: Float[np.ndarray, "*shape"], bounds: tuple[float, float]
) -> UInt8[np.ndarray, "*shape"]:
    """Map values on the page's scale, rounded to per cent from 0 to 250."""
    low, high = bounds
    return np.clip(np.rint(100 * (anomaly_map - low) / (high - low)), 0, TOP).astype(np.uint8)


def depth_in(mask: Mask) -> Float[np.ndarray, "H W"]:
    """Pixels from each True pixel to the nearest outside the mask, which ends at the edge too."""
    return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]


def main_colors(
    photo: Photo, most: int
) -> tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "n 3"]]:
    """The photo in at most `most` colours: the number of each pixel's colour, and the colours."""
    reduced = Image.fromarray(photo).quantize(most, dither=Image.Dither.NONE)
    colors = np.array(reduced.getpalette(), np.uint8).reshape(-1, 3)
    return np.asarray(reduced), colors[:most]


def marked(photo: Photo, defect: Mask) -> Photo:
    """The photo in grey, the true defect in colour."""
    grey = photo.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.8
    grey[defect] = 0.25 * grey[defect] + 0.75 * DEFECT_RGB
    return grey.astype(np.uint8)


def map_image(level: Level, valid: Mask, defect: Mask) -> Image.Image:
    """The map in the page's colours, clear off the part, the true defect outlined."""
    index = np.where(valid, level, CLEAR).astype(np.uint8)
    index[ndimage.binary_dilation(defect, iterations=2) & ~defect] = OUTLINE
    colors = np.zeros((256, 3), np.uint8)
    colors[: TOP + 1], colors[OUTLINE] = shades(TOP + 1), DEFECT_RGB
    return indexed(index, colors, CLEAR)


@cache
def shades(count: int) -> UInt8[np.ndarray, "count 3"]:
    """Evenly spaced colours of the one colour scale; read-only, since it is made once."""
    places = np.linspace(0, 1, count).tolist()
    colors = [unlabel_rgb(s) for s in sample_colorscale(COLORSCALE, places)]
    found = np.array(colors).astype(np.uint8)
    found.setflags(write=False)
    return found


def indexed(index: Level, colors: UInt8[np.ndarray, "_ 3"], clear: int) -> Image.Image:
    """An image of one byte per pixel, transparent where the index is `clear`."""
    image = Image.fromarray(index, "P")
    image.putpalette(colors.tobytes())
    image.info["transparency"] = clear
    return image


def uri(image: AnyImage) -> str:
    """The image as data URI: PNG with a palette, else JPEG."""
    drawn = image if isinstance(image, Image.Image) else Image.fromarray(image)
    form, file = ("png" if drawn.mode == "P" else "jpeg"), io.BytesIO()
    drawn.save(file, form, quality=88, optimize=True)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
