"""Compact pseudo anomalies: one to three blobs of the size that real defects have, drawn on the views of a batch.

Those of training (``paste.py``) are many specks all over the object, which is right to learn from; these are to tell how well
a detector sees a small defect. Source of the size: masks of MVTec 3D-AD and Eyecandies cover 0.7 to 2.7 % of the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mvad import files
from mvad.datasets.shards.loader import Batch, ShardSet

Kind = Literal["all", "one"]
"""Views that show an anomaly: every view that sees its place, or one view alone."""

KINDS: tuple[Kind, ...] = ("all", "one")

_SHARE = 0.007, 0.027
_MOST_BLOBS = 3
_CONTRAST = 0.08, 0.25
"""Range of the colour's shift, as a share of the range of a channel."""

_HEIGHT = 0.01, 0.05
"""Range of a bump's height, as a share of the object's radius."""

_LOWEST_CODE, _HIGHEST_CODE = 1, 65535
_RADII_IN_RANGE = 3
"""Radii of the object in the coded range of depth of fitted cameras, about."""


@dataclass(frozen=True)
class _Blobs:
    """Ellipses on a plane: centres (K, 2), half axes (K, 2), turns (K,), and what is drawn in them."""

    centres: Tensor
    axes: Tensor
    turns: Tensor
    colour: Tensor
    height: float
    stripes: float

    def profile(self, places: Tensor) -> Tensor:
        """Return for places (..., 2) how much of the defect is there: 1 at a centre, 0 outside all ellipses."""
        offset = places[..., None, :] - self.centres
        cosine, sine = self.turns.cos(), self.turns.sin()
        along = (offset[..., 0] * cosine + offset[..., 1] * sine) / self.axes[:, 0]
        across = (offset[..., 1] * cosine - offset[..., 0] * sine) / self.axes[:, 1]
        inside = (1 - along**2 - across**2).clamp(min=0)
        return (inside * (2 - inside)).amax(dim=-1)

    def texture(self, places: Tensor) -> Tensor:
        """Return a factor around 1 for places (..., 2): stripes a third of a blob wide."""
        turn = self.turns[0]
        along = places[..., 0] * turn.cos() + places[..., 1] * turn.sin()
        return 1 + 0.5 * torch.sin(along * (9 / float(self.axes.mean())) + self.stripes)


def draw_compact(
    batch: Batch, generator: torch.Generator, shown: Kind, scan_width: int | None = None, radius_m: float | None = None,
) -> tuple[Batch, Tensor]:  # fmt: skip
    """Return a batch with a compact pseudo anomaly in each sample: a shift of colour, a bump or dent, turned normals.

    Parameters
    ----------
    batch
        Normal samples on the CPU.
    generator
        Random generator on the CPU.
    shown
        ``one``: in one of the sample's views; ``all``: in every view that shows the place, which is one place on the scan where
        the batch has ``source`` and ``scan_width`` is given, else a place of its own in each view.
    scan_width
        Number of columns of the raw scans.
    radius_m
        Radius of the objects, metres, by which bumps are measured; None: a third of the coded range.

    Returns
    -------
    tuple
        The changed batch, and which pixels show the anomaly (B, V, H, W) bool.
    """
    profiles = torch.zeros(batch.seen.shape)
    textures = torch.ones(batch.seen.shape)
    colours, heights = torch.zeros(*batch.present.shape, 3), torch.zeros(batch.present.shape)
    size = batch.size
    pixels = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy"), dim=-1).float()
    for row in range(len(batch.keys)):
        seen = batch.seen[row] & batch.present[row][:, None, None]
        views = seen.flatten(1).any(dim=1).nonzero()[:, 0]
        if not len(views):
            continue
        if shown == "one":
            views = views[torch.randint(len(views), (1,), generator=generator)]
        source = None if batch.source is None or scan_width is None or shown == "one" else batch.source[row]
        if source is not None and scan_width is not None:
            places = torch.stack([source % scan_width, source // scan_width], dim=-1).float()
            common = _draw(places[seen & (source >= 0)], _covered(places[seen & (source >= 0)]), generator)
        for view in views.tolist():
            inside = seen[view]
            if source is None:
                where, blobs = pixels, _draw(pixels[inside], float(inside.sum()), generator)
            else:
                where, blobs = places[view], common
            profiles[row, view] = blobs.profile(where) * inside
            textures[row, view] = blobs.texture(where)
            colours[row, view], heights[row, view] = blobs.colour, blobs.height
    radius_codes = (_HIGHEST_CODE - _LOWEST_CODE) / _RADII_IN_RANGE
    if radius_m is not None and batch.coding is not None:
        radius_codes = radius_m / batch.coding.step_m
    return _drawn(batch, profiles, textures, colours, heights, radius_codes), profiles > 0


def draw_in_sample(
    batch: Batch, data: ShardSet, row: int, shown: Kind, seeds: Sequence[int]
) -> tuple[Batch, Tensor]:  # fmt: skip
    """Return a sample of a split with a compact pseudo anomaly that depends on its key, ``shown`` and ``seeds`` only.

    Parameters
    ----------
    batch
        The sample alone, normal, on the CPU.
    data, row
        The split, and the sample's number in it: the width of its scan, and the radius of the objects.
    shown
        See ``draw_compact``.
    seeds
        Numbers from which the anomaly is drawn, not negative.

    Returns
    -------
    tuple
        See ``draw_compact``.
    """
    digest = int(files.sha256_bytes(f"{batch.keys[0]} {shown}".encode())[:8], 16)
    number = int(np.random.SeedSequence([*seeds, digest]).generate_state(1)[0])
    # The points of a mesh are numbered by face, which is no place on a picture.
    width = None if data.scan_sizes is None or data.is_mesh else int(data.scan_sizes[row, 1])
    radius = None if data.rig_range is None else float(data.rig_range[2])
    return draw_compact(batch, torch.Generator().manual_seed(number), shown, width, radius)


def _draw(candidates: Tensor, area: float, generator: torch.Generator) -> _Blobs:
    """Draw blobs around some of the candidates (N, 2) that together cover a share of an area."""

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    count = int(torch.randint(1, _MOST_BLOBS + 1, (1,), generator=generator))
    chosen = candidates[torch.randint(len(candidates), (count,), generator=generator)]
    parts = between(0.5, 1, count)
    radius = (float(between(*_SHARE, 1)) * area * parts / parts.sum() / torch.pi).sqrt().clamp(min=1)
    stretch = between(1, 1.8, count)
    signs = torch.where(torch.rand(4, generator=generator) < 0.5, -1.0, 1.0)
    colour = signs[:3] * between(0.3, 1, 3)
    colour = colour / colour.norm() * between(*_CONTRAST, 1) * 3**0.5 * 255
    height = float(signs[3] * between(*_HEIGHT, 1))
    axes = torch.stack([radius * stretch.sqrt(), radius / stretch.sqrt()], dim=1)
    return _Blobs(chosen, axes, between(0, torch.pi, count), colour, height, float(between(0, 6.28, 1)))


def _covered(places: Tensor) -> float:
    """Return the area that places (N, 2) on a scan cover, in cells of the scan, of which the views show some only."""
    extent = float((places.amax(dim=0) - places.amin(dim=0)).max()) + 1
    block = max(1.0, extent / 32)
    return float(len(torch.unique((places / block).floor(), dim=0))) * block**2


def _drawn(batch: Batch, profile: Tensor, texture: Tensor, colour: Tensor, height: Tensor, radius_codes: float) -> Batch:
    """Return the batch with its modalities changed where the profile (B, V, H, W) is not 0."""
    inside = profile > 0
    rgb, depth, normal = batch.rgb, batch.depth_code, batch.normal
    if rgb is not None:
        soft = (2 * profile).clamp(max=1) * texture
        changed = (rgb.float() + soft[..., None] * colour[:, :, None, None]).round().clamp(0, 255).to(torch.uint8)
        rgb = torch.where(inside[..., None], changed, rgb)
    relief = profile * height[:, :, None, None]
    if depth is not None and batch.coding is not None:
        code = depth.to(torch.int32)
        nearer = (code - relief * radius_codes).round().clamp(_LOWEST_CODE, _HIGHEST_CODE).to(torch.int32)
        depth = torch.where(inside & (code > 0), nearer, code).to(depth.dtype)
    if normal is not None:
        normal = torch.where(inside[..., None], _turned(normal, relief, batch.seen), normal)
    return replace(batch, rgb=rgb, depth_code=depth, normal=normal)


def _turned(normal: Tensor, relief: Tensor, seen: Tensor) -> Tensor:
    """Return normals (B, V, H, W, 3) uint8 turned by the slopes of a relief (B, V, H, W) in radii of the object.

    The surface z(x, y) has the normal (dz/dx, dz/dy, -1) in the view's frame; a relief h brings it nearer: z - h.
    """
    pixels_per_radius = (seen.flatten(2).sum(dim=2) / torch.pi).sqrt()[:, :, None, None]
    slope_x = functional.pad(relief[..., :, 2:] - relief[..., :, :-2], (1, 1)) / 2 * pixels_per_radius
    slope_y = functional.pad(relief[..., 2:, :] - relief[..., :-2, :], (0, 0, 1, 1)) / 2 * pixels_per_radius
    vector = normal.float() / 127.5 - 1
    facing = vector[..., 2].abs()
    turned = torch.stack([vector[..., 0] - facing * slope_x, vector[..., 1] - facing * slope_y, vector[..., 2]], dim=-1)
    return ((functional.normalize(turned, dim=-1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
