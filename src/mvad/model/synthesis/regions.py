"""Masks of compact regions: one to three blobs of the size that real defects have, with an irregular outline.

Perlin masks (``perlin.py``) are specks all over the object; a real defect is one region, or a few. Source of the size: masks of
MVTec 3D-AD and Eyecandies cover 0.7 to 2.7 % of the object.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST_SHARE, _GREATEST_SHARE = 0.003, 0.05
"""Range of the masks' area as a share of the object's, drawn evenly in its logarithm."""
_MOST_REGIONS = 3
_GREATEST_STRETCH = 2.5
_ROUGHNESS = 0.7
"""How far the noise moves the outline, in radii of a region."""


@dataclass(frozen=True)
class RegionNumbers:
    """Random numbers from which N masks are computed; the first axis is the mask.

    Attributes
    ----------
    is_compact
        (N,) bool, masks that are made of regions; the others are Perlin masks.
    places
        (N, 3) float32 in 0..1, the pixel of the object at which a region lies, in reading order.
    sizes
        (N, 3) float32, relative areas of the regions, 0 for those that are not drawn.
    share
        (N,) float32, area of all regions as a share of the object's.
    stretches, turns
        (N, 3) float32, ratio of the half axes, and their turn in radians.
    """

    is_compact: Tensor
    places: Tensor
    sizes: Tensor
    share: Tensor
    stretches: Tensor
    turns: Tensor


def draw_regions(count: int, compact_share: float, generator: torch.Generator) -> RegionNumbers:
    """Draw the numbers of ``count`` masks, of which a share is to be compact."""
    uniform = torch.rand(count, 3 * _MOST_REGIONS + 3, generator=generator)
    drawn, share, number, rest = uniform[:, 0], uniform[:, 1], uniform[:, 2], uniform[:, 3:].view(count, 3, _MOST_REGIONS)
    index = torch.arange(_MOST_REGIONS)
    kept = index <= (number * _MOST_REGIONS).long()[:, None]
    sizes = torch.rand(count, _MOST_REGIONS, generator=generator).add(0.25) * kept
    return RegionNumbers(
        drawn < compact_share, rest[:, 0], sizes / sizes.sum(dim=1, keepdim=True),
        _LEAST_SHARE * (_GREATEST_SHARE / _LEAST_SHARE) ** share, _GREATEST_STRETCH ** rest[:, 1], rest[:, 2] * torch.pi,
    )  # fmt: skip


def make_regions(numbers: RegionNumbers, noise: Tensor, shown: Tensor, places: Tensor, area: Tensor) -> Tensor:
    """Return masks (N, V, S, S) bool of regions; V views share a mask's regions where places are places on a scan.

    Parameters
    ----------
    numbers
        Of N masks, on the device of the others.
    noise
        (N, V, S, S) float32 in about -1..1, which makes the outlines irregular.
    shown
        (N, V, S, S) bool, pixels that show the object.
    places
        (N, V, S, S, 2) float32, where a pixel lies: on the view or on the scan.
    area
        (N,) float32, area of the object in the unit of ``places``, squared.
    """
    flat, where = shown.flatten(1), places.flatten(1, 3)
    rank = flat.cumsum(dim=1)
    wanted = (numbers.places * rank[:, -1:]).floor() + 1
    chosen = torch.searchsorted(rank, wanted.to(rank.dtype)).clamp(max=flat.shape[1] - 1)  # the pixel with that rank
    centres = torch.gather(where, 1, chosen[..., None].expand(-1, -1, 2))
    radius = (numbers.sizes * (numbers.share * area)[:, None] / torch.pi).sqrt()
    mask = torch.zeros_like(flat)
    for k in range(_MOST_REGIONS):
        offset = where - centres[:, k, None]
        cosine, sine = numbers.turns[:, k, None].cos(), numbers.turns[:, k, None].sin()
        stretch, size = numbers.stretches[:, k, None].sqrt(), radius[:, k, None].clamp(min=1e-9)
        along = (offset[..., 0] * cosine + offset[..., 1] * sine) / (size * stretch)
        across = (offset[..., 1] * cosine - offset[..., 0] * sine) * stretch / size
        inside = torch.hypot(along, across) < 1 + _ROUGHNESS * noise.flatten(1)
        mask |= inside & (numbers.sizes[:, k, None] > 0)
    return (mask & flat).view_as(shown)
