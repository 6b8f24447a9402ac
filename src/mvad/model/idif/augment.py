"""Turned training views, as DeSTSeg's augmentation (method section 3; keys ``augment.*``)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from mvad.model.devices import constant
from mvad.model.idif.training_config import AugmentConfig
from mvad.model.images import ViewImages
from mvad.model.training.parallel import ProcessGroup


def draw_turns(samples: int, config: AugmentConfig, generator: torch.Generator, ranks: ProcessGroup) -> Tensor | None:
    """Return the angles (B,) float32, degrees, by which this rank's samples are turned in a step; None without augmentation."""
    if config.turn_deg == 0 and not config.quarters:
        return None
    every = samples * ranks.size
    angles = torch.linspace(-config.turn_deg, config.turn_deg, config.turns)
    drawn = angles[torch.randint(config.turns, (every,), generator=generator)]
    if config.quarters:
        drawn = drawn + 90 * torch.randint(4, (every,), generator=generator)
    return ranks.part(drawn)


def turned_outlines(seen: Tensor, config: AugmentConfig) -> list[Tensor]:
    """Return the outlines (V, S, S) bool as they are, and turned by each angle that ``augment.*`` draws, quarter turns apart."""
    if config.turn_deg == 0:
        return [seen]  # quarter turns change no square window
    angles = torch.linspace(-config.turn_deg, config.turn_deg, config.turns)
    return [seen, *_turned_outlines(seen.expand(config.turns, -1, -1, -1), _places(angles.deg2rad(), seen.shape[-1]))]


def turned(views: ViewImages, modalities: tuple[str, ...], degrees: Tensor, fill: tuple[float, float, float]) -> ViewImages:
    """Turn all views of each sample in their plane about their centre, from x to y (clockwise as displayed).

    Parameters
    ----------
    views
        The samples. ``source`` turns with them.
    modalities
        Names of the modalities; normals (x right, y down) turn as vectors, too.
    degrees
        (B,) float32, the angle of each sample.
    fill
        Colour of pixels that show no object, 0..255; what is turned in from outside gets it.
    """
    b, v, size = len(views.images), views.images.shape[1], views.images.shape[-1]
    radians = torch.deg2rad(degrees).to(views.images)
    grid = _places(radians, size)

    def sampled(planes: Tensor) -> Tensor:
        return functional.grid_sample(planes, grid, padding_mode="zeros", align_corners=False)

    colour = constant(fill, views.images.device).view(3, 1, 1)
    shown = views.seen.float()
    share = sampled(shown)
    seen = _turned_outlines(views.seen, grid)
    weighted = sampled((views.images * shown[:, :, None, None]).flatten(1, 3)).view_as(views.images)
    images = weighted / share.clamp(min=1e-6)[:, :, None, None]  # the mean over the object alone: no rim of the fill colour
    if "normal" in modalities:
        number = modalities.index("normal")
        vector = images[:, :, number] / 127.5 - 1
        c, s = radians.cos().view(b, 1, 1, 1), radians.sin().view(b, 1, 1, 1)
        x, y = c * vector[:, :, 0] - s * vector[:, :, 1], s * vector[:, :, 0] + c * vector[:, :, 1]
        vector = functional.normalize(torch.stack([x, y, vector[:, :, 2]], dim=2), dim=2)
        images[:, :, number] = (vector + 1) * 127.5
    images = torch.where(seen[:, :, None, None], images, colour)
    source = views.source
    if source is not None:  # whole numbers beyond float32's, so they are gathered
        places = ((grid + 1) * (size / 2) - 0.5).round().long()
        inside = ((places >= 0) & (places < size)).all(dim=-1)[:, None]
        index = (places[..., 1].clamp(0, size - 1) * size + places[..., 0].clamp(0, size - 1)).flatten(1)
        gathered = source.flatten(2).gather(2, index[:, None].expand(-1, v, -1)).view_as(source)
        source = torch.where(inside & seen, gathered, -1)
    return replace(views, images=images, seen=seen, source=source)


def _places(radians: Tensor, size: int) -> Tensor:
    """Return where each pixel of turned pictures is taken from, (B, S, S, 2) in -1..1; the content turns from x to y."""
    cosine, sine, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    # affine_grid maps places of the result to places of the input, so the content turns by the inverse.
    rows = torch.stack([cosine, sine, zero, -sine, cosine, zero], dim=1).view(-1, 2, 3)
    return functional.affine_grid(rows, [len(radians), 1, size, size], align_corners=False)


def _turned_outlines(seen: Tensor, places: Tensor) -> Tensor:
    """Return outlines (B, V, S, S) bool, sampled at ``_places``."""
    return functional.grid_sample(seen.float(), places, mode="nearest", padding_mode="zeros", align_corners=False) > 0.5
