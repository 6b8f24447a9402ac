"""Parts as maps of height and colour over a plane. Heights in metres, colours 0 to 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mvad.errors import BadInput

CELLS = 288
SIDE_M = 0.072
CELL_M = SIDE_M / CELLS
"""A part is centred on a square of 72 mm in cells of 0.25 mm."""

Grid = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One generated object.

    Attributes
    ----------
    height
        (CELLS, CELLS) float64, metres above the support, 0 beside the part.
    albedo
        (CELLS, CELLS, 3) float64, 0 to 1.
    gt
        (CELLS, CELLS) bool, true on the defect.
    roughness
        (CELLS, CELLS, 2) float64, added to the height's slope when normals are taken (Eyecandies' "normals").
    """

    height: Grid
    albedo: Grid
    gt: NDArray[np.bool_]
    roughness: Grid

    @property
    def body(self) -> NDArray[np.bool_]:
        """(CELLS, CELLS) bool, true where the part is."""
        return self.height > 1e-4


@dataclass(frozen=True)
class Variation:
    """Parameters in which good parts differ: each is uniform in 0..1, spread evenly over a split."""

    angle: float
    offset_x: float
    offset_y: float
    scale: float
    thickness: float
    gain: float
    hue: float
    print_contrast: float
    tilt: float
    tilt_azimuth: float


def coordinates() -> tuple[Grid, Grid]:
    """Return x and y of the cells' centres, metres, (CELLS, CELLS) each."""
    line = (np.arange(CELLS) + 0.5) * CELL_M - SIDE_M / 2
    x, y = np.meshgrid(line, line)
    return x, y


def make_part(shape: str, variation: Variation, rng: np.random.Generator | None) -> Part:
    """Build a good part: its shape, printed marks that are the same on every part, and a grain that is different on each.

    Without ``rng`` the part has no grain.

    Raises
    ------
    BadInput
        If the shape is unknown.
    """
    shapes = SHAPES | PHOTOGRAPHED_SHAPES
    if shape not in shapes:
        raise BadInput(f"{shape}: no generated category has this name; choose from {', '.join(shapes)}")
    x, y = coordinates()
    scale = 0.96 + 0.08 * variation.scale
    height, marks, color = shapes[shape](x / scale, y / scale)
    height = ndimage.gaussian_filter(height * (0.93 + 0.14 * variation.thickness), 0.8)
    height[height < 3e-4] = 0
    grain = np.zeros((CELLS, CELLS)) if rng is None else _grain(rng)
    hue = _any_hue(variation.hue) if shape in PHOTOGRAPHED_SHAPES else _near_hue(variation.hue)
    contrast = 0.65 + 0.35 * variation.print_contrast
    albedo = np.array(color) * hue * (0.9 + 0.2 * variation.gain) * (1 + grain[..., None])
    # Printed black next to white: a good part has greater colour gradients than any defect.
    dark, light = np.clip(-marks, 0, 1)[..., None], np.clip(marks, 0, 1)[..., None]
    albedo = albedo * (1 - contrast * (dark + light)) + contrast * (0.03 * dark + 0.97 * light)
    return Part(height, np.clip(albedo, 0.02, 0.98), np.zeros((CELLS, CELLS), bool), np.zeros((CELLS, CELLS, 2)))


def _near_hue(hue: float) -> Grid:
    """Return the factors (3,) of red, green and blue of a hue 0 to 1 near the shape's own colour."""
    return 1 + 0.06 * (2 * hue - 1) * np.array([1.0, 0.0, -1.0])


def _any_hue(hue: float) -> Grid:
    """Return the factors (3,) of red, green and blue of a hue 0 to 1 on a circle, on which 0 and 1 are the same.

    All hues are equally far from grey, so that none is rarer or more extreme than another.
    """
    return np.asarray(1 + 0.55 * np.cos(2 * np.pi * (hue - np.arange(3) / 3)))


def _grain(rng: np.random.Generator) -> Grid:
    grain = ndimage.gaussian_filter(rng.standard_normal((CELLS, CELLS)), 2.5)
    return np.asarray(0.03 * grain / grain.std() + 0.02 * rng.standard_normal((CELLS, CELLS)))


def _step(distance: Grid, width: float = 0.0006) -> Grid:
    """Return 1 inside (distance < 0), 0 outside, linear over ``width`` metres."""
    return np.clip(0.5 - distance / width, 0, 1)


def _box(x: Grid, y: Grid, half_x: float, half_y: float, radius: float) -> Grid:
    qx, qy = np.abs(x) - half_x + radius, np.abs(y) - half_y + radius
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    return outside + np.minimum(np.maximum(qx, qy), 0) - radius


def _gear(x: Grid, y: Grid) -> tuple[Grid, Grid, tuple[float, float, float]]:
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    teeth = 0.0245 + 0.0028 * np.clip(2.5 * np.sin(14 * angle), -1, 1)
    slope = np.clip((teeth - r) / 0.004, 0, 1)  # flanks of 60 degrees, so that one side is seen from few views
    height = 0.007 * slope + 0.0065 * _step(r - 0.0110, 0.003) - 0.0070 * _step(r - 0.0036)
    arcs = np.abs(np.sin(angle * 2)) > 0.25
    marks = (_step(np.abs(r - 0.0182) - 0.0007) - _step(np.abs(r - 0.0165) - 0.0009)) * arcs
    return height, marks, (0.52, 0.54, 0.58)


def _plate(x: Grid, y: Grid) -> tuple[Grid, Grid, tuple[float, float, float]]:
    outline = _box(x, y, 0.026, 0.018, 0.005)
    height = 0.006 * np.clip(-outline / 0.003, 0, 1)
    height += 0.003 * _step(_box(x, y, 0.0215, 0.0135, 0.003), 0.002) * (np.abs(y) > 0.0105)
    for side in (-1, 1):
        boss = np.hypot(x - side * 0.0165, y)
        height += 0.0065 * np.clip((0.0068 - boss) / 0.0025, 0, 1) - 0.0062 * _step(boss - 0.0031)
    stripes = np.clip(2.2 * np.sin(2 * np.pi * x / 0.0036), -1, 1)
    marks = stripes * (_box(x, y, 0.0066, 0.0055, 0.0001) < 0)
    return height, marks, (0.62, 0.45, 0.30)


def _dome(x: Grid, y: Grid) -> tuple[Grid, Grid, tuple[float, float, float]]:
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    height = np.where(r < 0.0235, 0.004 + 0.009 * np.sqrt(np.maximum(1 - (r / 0.0245) ** 2, 0)), 0)
    height = np.maximum(height, 0.0055 * np.clip((0.027 - r) / 0.002, 0, 1))
    height -= 0.0012 * _step(np.abs(r - 0.0125) - 0.0008) * (r < 0.0235)
    flower = 0.0085 * (0.75 + 0.25 * np.cos(5 * angle))
    marks = _step(np.abs(r - flower + 0.0018) - 0.0007) - _step(np.abs(r - flower) - 0.0009)
    return height, marks, (0.38, 0.52, 0.46)


def _keyed(x: Grid, y: Grid) -> tuple[Grid, Grid, tuple[float, float, float]]:
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    sector = np.maximum(np.abs(r - 0.0140) - 0.0075, r * (np.abs(angle) - 0.5))
    height = 0.006 * np.clip((0.0255 - r) / 0.003, 0, 1) + 0.0025 * _step(sector, 0.0015)
    return height, -_step(sector), (0.5, 0.5, 0.5)


Shape = Callable[[Grid, Grid], tuple[Grid, Grid, tuple[float, float, float]]]

SHAPES: dict[str, Shape] = {"gear": _gear, "plate": _plate, "dome": _dome}
"""Height, marks (-1 black to 1 white) and colour of a shape at x and y in metres."""

PHOTOGRAPHED_SHAPES: dict[str, Shape] = {"keyed": _keyed}
"""Shapes of datasets of photographs only; their good parts take every hue of a circle."""
