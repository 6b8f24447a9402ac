"""Perlin noise masks (Perlin 1985), as in DeSTSeg and DRAEM: 2^k lattice cells per axis, rotated, thresholded.

Noise on a lattice is a sum of products of a function of the row and one of the column, so a map takes two small matrix
products; all maps of a batch are computed together, on the device of their numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

_FINEST = 128


@dataclass(frozen=True)
class PerlinNumbers:
    """Random numbers from which N maps are computed; the first axis is the map.

    Attributes
    ----------
    scales
        (N, 2) int64, exponents k of the number of lattice cells 2^k, across and down.
    turns
        (N,) float32, rotations in -pi/2..pi/2.
    gradients
        (N, L, L) float32, angles of the gradients at the lattice's corners.
    """

    scales: Tensor
    turns: Tensor
    gradients: Tensor


def draw_perlin(count: int, max_scale: int, generator: torch.Generator) -> PerlinNumbers:
    """Draw the numbers of ``count`` maps, with at most 2^(max_scale - 1) cells per axis."""
    corners = 2 ** (max_scale - 1) + 1
    return PerlinNumbers(
        torch.randint(0, max_scale, (count, 2), generator=generator),
        (torch.rand(count, generator=generator) - 0.5) * math.pi,
        torch.rand(count, corners, corners, generator=generator) * (2 * math.pi),
    )


def perlin_noise(count: int, size: int, max_scale: int, generator: torch.Generator) -> Tensor:
    """Return (count, size, size) float32 noise in about -1..1, each rotated by -90 to 90 degrees."""
    return make_perlin(draw_perlin(count, max_scale, generator), size)


def make_perlin(numbers: PerlinNumbers, size: int) -> Tensor:
    """Return the maps (N, size, size) float32 of drawn numbers, on the device of these.

    Maps of more than 128 pixels are computed at 128, where the finest lattice has four pixels per cell, and enlarged.
    """
    if size > _FINEST:
        small = make_perlin(numbers, _FINEST)
        return functional.interpolate(small[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    corners = numbers.gradients.shape[1]
    weights, slopes = _tables(size, corners, numbers.turns.device)
    across, down = numbers.scales[:, 0], numbers.scales[:, 1]
    gx, gy = torch.cos(numbers.gradients), torch.sin(numbers.gradients)
    # noise = sum over corners of wy wx (gx dx + gy dy)
    columns = torch.cat([gy @ weights[across].transpose(1, 2), gx @ slopes[across].transpose(1, 2)], dim=1)
    rows = torch.cat([slopes[down], weights[down]], dim=2)
    noise = (rows @ columns) * math.sqrt(2)
    cos, sin = torch.cos(numbers.turns)[:, None, None], torch.sin(numbers.turns)[:, None, None]
    line = _pixels(size, noise.device)
    x, y = line[None, None, :], line[None, :, None]
    grid = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)  # affine_grid takes ten times as long
    return functional.grid_sample(noise[:, None], grid, align_corners=False, padding_mode="reflection")[:, 0]


@lru_cache(maxsize=8)
def _pixels(size: int, device: torch.device) -> Tensor:
    """Return the centres of the pixels of a line, in -1..1."""
    return ((torch.arange(size) + 0.5) * 2 / size - 1).to(device)


@lru_cache(maxsize=8)
def _tables(size: int, corners: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return, for each scale, pixel and corner of a line, the corner's weight, and weight times distance: (K, size, L) each."""
    scales = int(math.log2(corners - 1)) + 1
    weights, slopes = torch.zeros(2, scales, size, corners)
    pixel = torch.arange(size)
    for k in range(scales):
        position = (pixel + 0.5) * 2**k / size
        cell = position.long().clamp(max=2**k - 1)
        part = position - cell
        fade = part * part * part * (part * (part * 6 - 15) + 10)
        weights[k, pixel, cell], weights[k, pixel, cell + 1] = 1 - fade, fade
        slopes[k, pixel, cell], slopes[k, pixel, cell + 1] = (1 - fade) * part, fade * (part - 1)
    return weights.to(device), slopes.to(device)
