"""Three more products: gear, walnut, connector. Nothing is chosen on them. Lengths in mm.

A recipe that was chosen on the four products of `products.py` can be scored on these once.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from lsfa_lib.demo.products import Part, Pose, Product, blend, stripes
from lsfa_lib.demo.rendering import Grid, channels


def gear(pose: Pose, rng: Generator) -> Part:
    """A machined steel gear, 92 mm wide and 19 mm high: chamfered teeth, web, hub, keyed bore."""
    radius, angle = pose.polar
    radius = (radius / pose.scale).astype(np.float32)
    jitter = 0.25 * np.clip(rng.standard_normal(4), -2, 2)
    tooth = np.clip(1.5 * np.cos(24 * angle + rng.uniform(0, 6.28)), -1, 1)
    key = (np.abs(pose.across) < 2.6 * pose.scale) & (pose.along > 0)
    bore = 10.5 + 3.2 * key
    inset = np.minimum(42.0 + 3.9 * tooth - radius, radius - bore)
    hub, rim = 18 + jitter[0] - radius, radius - 32 + jitter[1]
    web = np.clip(-np.maximum(hub, rim) / 1.5, 0, 1)
    marks = pose.texture * stripes(rng, radius)
    face = 17.5 + 1.5 * (hub > 0) - (4 + jitter[2]) * web
    height = np.where(inset > 0, face - np.clip(1.3 + jitter[3] - inset, 0, 2) + 0.02 * marks, 0)

    tint = channels((0.50, 0.49, 0.47)) * channels(1 + 0.012 * rng.standard_normal(3))
    heat = np.exp(-(((radius - 41) / 5) ** 2)) * (0.45 + 0.25 * pose.noise(rng, 8.0, 60.0))
    tint = tint + np.clip(heat, 0, 1) * (channels((0.34, 0.28, 0.22)) - tint)
    stain = 1 + 0.09 * pose.noise(rng, 5.0, 50.0) + 0.11 * marks - 0.12 * web
    scratch = 0.15 * np.clip(pose.noise(rng, 0.6, 6.0, 0.3) - 2.4, 0, 1)
    albedo = tint * (0.64 * stain - scratch)
    return height, albedo


def walnut(pose: Pose, rng: Generator) -> Part:
    """Half a walnut shell on its flat side, twice life size: 88 x 74 mm and 34 mm high."""
    plump = 1 + 0.04 * float(np.clip(rng.standard_normal(), -2, 2))
    along = pose.along / (43 * pose.scale * plump)
    across = pose.across * plump / (37 * pose.scale)
    radius, angle = np.hypot(along, across), np.arctan2(across, along)
    wobble = sum(
        pose.texture
        * 0.03
        / k**2
        * rng.standard_normal()
        * np.cos(k * angle + rng.uniform(0, 6.28))
        for k in (2, 3, 4, 5)
    )
    seam = radius / (1 + 0.07 * np.exp(-((angle / 0.3) ** 2)) + wobble)
    dome = np.sqrt(np.clip(1 - (seam / 0.95) ** 2, 0, 1))
    meridian = np.arcsin(np.clip(across / np.sqrt(np.clip(1 - along**2, 0.05, 1)), -1, 1))
    bend = 0.4 * pose.noise(rng, 16.0, 60.0)
    furrows = np.exp(-((np.sin(6 * meridian + bend + rng.uniform(0, 6.28)) / 0.35) ** 2))
    wrinkles = np.exp(-((pose.noise(rng, 5.0, 20.0, 0.6) / 0.28) ** 2))
    lumps = 0.8 * pose.noise(rng, 12.0, 60.0) + 0.12 * pose.noise(rng, 0.8, 4.0, 0.3)
    relief = lumps - pose.texture * (1.1 * furrows + 0.6 * wrinkles)
    height = np.where(seam < 1, 7 + 26 * dome + relief * np.clip(2 * dome, 0.1, 1), 0)

    tone = 0.42 + 0.16 * pose.noise(rng, 4.0, 70.0) + 0.12 * rng.standard_normal() - 0.08 * lumps
    tone = np.clip(tone + np.maximum(0.3 * furrows, 0.2 * wrinkles), 0, 1)
    albedo = blend((0.56, 0.35, 0.16), (0.17, 0.08, 0.03), tone)
    pores = np.clip(pose.noise(rng, 0.7, 2.2, 0.2) - 1.6, 0, 2)
    return height, albedo * (1 + 0.07 * pose.noise(rng, 0.6, 2.0, 0.0) - 0.25 * pores)


def connector(pose: Pose, rng: Generator) -> Part:
    """A moulded plug housing, 88 x 48 mm and 24 mm high: 2 x 10 pin holes, notch at one side."""
    right, down = pose.along / pose.scale, pose.across / pose.scale
    jitter = np.clip(0.2 * rng.standard_normal(4, np.float32), -0.4, 0.4)
    notch = _inside(right - 15 + jitter[0], down - 24, (5.5, 5.0), 1.0)
    inset = np.minimum(_inside(right, down, (44.0, 24.0), 3.0), -notch)
    skin = 0.02 * pose.noise(rng, 1.0, 6.0, 0.3) + 0.15 * pose.noise(rng, 20.0, 90.0)
    floor = np.clip((inset - 3 + jitter[1]) / 0.8, 0, 1)
    pin = _inside(np.mod(right, 7.6) - 3.8, np.abs(down) - 8, (2.2, 2.8), 0.4)
    pin = np.where(np.abs(right) < 38, pin, -np.float32(9))
    contact = np.clip((pin - 1.3) / 0.3, 0, 1)
    holes = np.clip(1 + pin / 0.9, 0, 1) + 11 * np.clip(pin / 0.3, 0, 1) - 7 * contact
    ejector = np.hypot(np.abs(right) - 26, down) < 2.8
    gate = np.exp(-((np.hypot(right + 5 * jitter[2], down + 2 * jitter[3]) / 1.4) ** 4))
    body = 24 - 3.5 * floor - holes - 0.25 * ejector + 0.6 * gate + skin
    height = np.where(inset > 0, body - 0.9 * np.clip(1 - inset, 0, 1) ** 2, 0)

    aged = np.clip(0.4 + 0.12 * pose.noise(rng, 8.0, 90.0) + 0.2 * rng.standard_normal(), 0, 1)
    albedo = blend((0.58, 0.56, 0.49), (0.50, 0.45, 0.33), aged)
    flow = 1 + 0.05 * pose.noise(rng, 1.5, 30.0, 0.9) + 0.03 * pose.noise(rng, 0.6, 1.5, 0.0)
    specks = np.clip(pose.noise(rng, 0.7, 1.6, 0.0) - 2.9, 0, 1)
    albedo = albedo * (flow - 0.6 * specks - 0.2 * gate)
    return height, albedo + contact * (channels((0.66, 0.52, 0.26)) - albedo)


HELD_OUT = {
    "gear": Product(gear, 180.0, (0.70, 0.70, 0.69), (0.21, 0.15, 0.10), 0.12, 0.65),
    "walnut": Product(walnut, 180.0, (0.66, 0.50, 0.30), (0.36, 0.37, 0.38), 0.08, 0.06),
    "connector": Product(connector, 14.0, (0.62, 0.60, 0.53), (0.06, 0.07, 0.10), 0.14, 0.22),
}
"""Like `PRODUCTS`; no setting, recipe or defect was chosen with these in view."""


def _inside(right: Grid, down: Grid, half: tuple[float, float], corner: float) -> Grid:
    """Distance to the outline of a rectangle with rounded corners, mm; negative outside.

    `half` are its half width and height, `corner` is the radius of its corners, mm.
    """
    x, y = np.abs(right) - (half[0] - corner), np.abs(down) - (half[1] - corner)
    outside = np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0)
    return (corner - outside).astype(np.float32)
