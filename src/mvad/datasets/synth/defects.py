"""Defects of three families: geometry only, colour only, and both. Each function returns a new part with its mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from mvad.datasets.synth.shapes import CELL_M, CELLS, Grid, Part, coordinates

FAMILIES = {
    "geometry": ("dent", "bump", "hole"),
    "colour": ("stain", "scratch"),
    "both": ("chip", "burn"),
}

_PIT_CELLS = 45
_PIT_DEPTH_M = 0.004
_LOWEST_M = 0.0048
"""Least height of a defect's centre, metres: lower points are removed with the support plane."""


def add_defect(part: Part, kind: str, rng: np.random.Generator) -> Part:
    """Add one defect of a kind at a random position of a part: in flat regions, on slopes or in pits."""
    x, y = coordinates()
    inner = ndimage.binary_erosion(part.body, iterations=8) & (part.height > _LOWEST_M)
    slope = np.hypot(*np.gradient(part.height, CELL_M))
    steep = inner & (slope > 0.4)
    pits = inner & (ndimage.grey_closing(part.height, size=(_PIT_CELLS, _PIT_CELLS)) - part.height > _PIT_DEPTH_M)
    # A third are on slopes and some at the bottom of pits, where few views show them.
    draw = rng.random()
    region = pits if draw < 0.15 and pits.any() else steep if draw < 0.45 and steep.any() else inner
    candidates = np.argwhere(region)
    row, column = candidates[rng.integers(len(candidates))]
    dx, dy = x - x[row, column], y - y[row, column]
    blob = _blob(dx, dy, rng) * (pits if region is pits else 1.0)
    changed = KINDS[kind](part, dx, dy, blob, rng)
    different = np.abs(changed.height - part.height) > 1.5e-4
    different |= np.abs(changed.albedo - part.albedo).max(axis=2) > 0.04
    different |= np.abs(changed.roughness - part.roughness).max(axis=2) > 0.1
    return replace(changed, gt=part.gt | (different & part.body))


def _blob(dx: Grid, dy: Grid, rng: np.random.Generator) -> Grid:
    """Return an irregular spot with a soft edge around the origin, 1 inside, 0 outside; radius 2.6 to 4.2 mm."""
    angle = np.arctan2(dy, dx)
    radius = rng.uniform(0.0026, 0.0042)
    wobble = sum(rng.uniform(-0.14, 0.14) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    return np.clip((radius * (1 + wobble) - np.hypot(dx, dy)) / (0.35 * radius), 0, 1)


def _dent(part: Part, dx: Grid, dy: Grid, blob: Grid, rng: np.random.Generator) -> Part:
    depth = rng.uniform(0.0014, 0.0026)
    return replace(part, height=np.where(part.body, np.maximum(part.height - depth * blob, 4e-4), 0))


def _bump(part: Part, dx: Grid, dy: Grid, blob: Grid, rng: np.random.Generator) -> Part:
    return replace(part, height=part.height + rng.uniform(0.0014, 0.0026) * blob * part.body)


def _hole(part: Part, dx: Grid, dy: Grid, blob: Grid, rng: np.random.Generator) -> Part:
    radius = rng.uniform(0.0016, 0.0024)
    pit = np.clip((radius - np.hypot(dx, dy)) / 0.0005, 0, 1)
    return replace(part, height=np.where(part.body, np.maximum(part.height - 0.0045 * pit, 4e-4), 0))


def _stain(part: Part, dx: Grid, dy: Grid, blob: Grid, rng: np.random.Generator) -> Part:
    # Lighter as often as darker, so that the mean colour of a part does not depend on the defect.
    tint = rng.uniform(0.02, 0.16, 3) if rng.random() < 0.5 else rng.uniform(0.75, 0.95, 3)
    weight = (rng.uniform(0.55, 0.85) * blob * part.body)[..., None]
    return replace(part, albedo=part.albedo * (1 - weight) + tint * weight)


def _scratch(part: Part, dx: Grid, dy: Grid, blob: Grid, rng: np.random.Generator) -> Part:
    direction, bend, length = rng.uniform(0, np.pi), rng.uniform(-20, 20), rng.uniform(0.010, 0.018)
    along = dx * np.cos(direction) + dy * np.sin(direction)
    across = -dx * np.sin(direction) + dy * np.cos(direction) - bend * along**2
    line = np.clip((0.0008 - np.abs(across)) / 0.0003, 0, 1) * (np.abs(along) < length / 2) * part.body
    tint = 0.06 if rng.random() < 0.5 else 0.92
    return replace(part, albedo=part.albedo * (1 - 0.8 * line[..., None]) + 0.8 * tint * line[..., None])


def _chip(part: Part, dx: Grid, dy: Grid, blob: Grid, rng: np.random.Generator) -> Part:
    dented = _dent(part, dx, dy, blob, rng)
    fresh = (0.75 * blob * part.body)[..., None]
    return replace(dented, albedo=dented.albedo * (1 - fresh) + fresh * rng.uniform(0.78, 0.92))


def _burn(part: Part, dx: Grid, dy: Grid, blob: Grid, rng: np.random.Generator) -> Part:
    raised = _bump(part, dx, dy, blob, rng)
    dark = (0.8 * blob * part.body)[..., None]
    return replace(raised, albedo=raised.albedo * (1 - dark) + dark * rng.uniform(0.03, 0.10))


def _rough(part: Part, dx: Grid, dy: Grid, blob: Grid, rng: np.random.Generator) -> Part:
    """Change the fine structure of the surface, which only its normals show."""
    noise = ndimage.gaussian_filter(rng.standard_normal((CELLS, CELLS, 2)), (2, 2, 0))
    return replace(part, roughness=part.roughness + 0.6 * noise / noise.std() * (blob * part.body)[..., None])


KINDS: dict[str, Callable[[Part, Grid, Grid, Grid, np.random.Generator], Part]] = {
    "dent": _dent,
    "bump": _bump,
    "hole": _hole,
    "stain": _stain,
    "scratch": _scratch,
    "chip": _chip,
    "burn": _burn,
    "rough": _rough,
}
