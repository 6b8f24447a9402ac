"""Perlin noise masks (Perlin 1985), as DeSTSeg and DRAEM draw them: scales 2^k a axis, rotated, thresholded."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def perlin_noise(count: int, size: int, max_scale: int, generator: torch.Generator) -> Tensor:
    """Return (count, size, size) float32 noise in about -1..1, each rotated by -90 to 90 degrees.

    All maps of one pair of scales are computed together, so that the cost does not grow with the count alone.
    """
    scales = torch.randint(0, max_scale, (count, 2), generator=generator)
    angles = (torch.rand(count, generator=generator) - 0.5) * math.pi
    noise = torch.empty(count, size, size)
    for pair in torch.unique(scales, dim=0):
        rows = (scales == pair).all(dim=1).nonzero()[:, 0]
        noise[rows] = _lattice_noise(len(rows), size, 2 ** int(pair[0]), 2 ** int(pair[1]), generator)
    cos, sin = torch.cos(angles), torch.sin(angles)
    zero = torch.zeros_like(cos)
    turn = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = functional.affine_grid(turn, [count, 1, size, size], align_corners=False)
    return functional.grid_sample(noise[:, None], grid, align_corners=False, padding_mode="reflection")[:, 0]


def _lattice_noise(count: int, size: int, across: int, down: int, generator: torch.Generator) -> Tensor:
    """Gradient noise on a lattice of ``down`` x ``across`` cells."""
    angle = torch.rand(count, down + 1, across + 1, generator=generator) * 2 * math.pi
    gy, gx = torch.sin(angle), torch.cos(angle)
    y = (torch.arange(size) + 0.5) * down / size
    x = (torch.arange(size) + 0.5) * across / size
    row, column = y.long().clamp(max=down - 1), x.long().clamp(max=across - 1)
    fy, fx = (y - row)[:, None], (x - column)[None, :]

    def corner(dy: int, dx: int) -> Tensor:
        at_y, at_x = gy[:, row + dy][:, :, column + dx], gx[:, row + dy][:, :, column + dx]
        return at_y * (fy - dy) + at_x * (fx - dx)

    wy, wx = _fade(fy), _fade(fx)
    top = corner(0, 0) * (1 - wx) + corner(0, 1) * wx
    bottom = corner(1, 0) * (1 - wx) + corner(1, 1) * wx
    return (top * (1 - wy) + bottom * wy) * math.sqrt(2)


def _fade(t: Tensor) -> Tensor:
    return t * t * t * (t * (t * 6 - 15) + 10)
