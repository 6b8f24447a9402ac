"""Corrupt normal views: texture on colour, bumps and dents on depth and normals (DeSTSeg, section 3.1; ours)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mvad.model.config import PseudoConfig
from mvad.model.detector import Setting
from mvad.model.images import ViewImages
from mvad.model.pseudo.perlin import perlin_noise
from mvad.model.pseudo.textures import Textures

_METRE_SCANS = 2.0
"""A scene deeper than this many units is not in metres (Eyecandies); heights then follow the depth's range."""


@dataclass(frozen=True)
class Corrupted:
    """Views with pseudo anomalies.

    Attributes
    ----------
    images
        (B, V, M, 3, S, S) float32 in 0..255.
    mask
        (B, V, M, S, S) float32, 1 where this modality was changed.
    """

    images: Tensor
    mask: Tensor


def corrupt(
    views: ViewImages, setting: Setting, textures: Textures, config: PseudoConfig, generator: torch.Generator
) -> Corrupted:
    """Paste one pseudo anomaly on each view; a view's modalities share its mask.

    With two modalities a third of the views are changed in colour only, a third in geometry only, a third in both.
    """
    b, v, _, _, size, _ = views.images.shape
    device = views.images.device
    noise = perlin_noise(b * v, size, config.max_scale, generator).view(b, v, size, size).to(device)
    mask = (noise > config.threshold).float()
    mask *= (_uniform((b, v, 1, 1), generator, device) < config.probability).float()
    if config.region == "object":
        mask = mask * views.seen
    kind = _uniform((b, v), generator, device)
    both = len(setting.modalities) > 1
    images, masks = [], []
    for number, modality in enumerate(setting.modalities):
        colour = modality == "rgb"
        active = ((kind < 2 / 3) if colour else (kind > 1 / 3)) if both else torch.ones_like(kind, dtype=torch.bool)
        part = mask * active[:, :, None, None]
        plane = views.images[:, :, number]
        if colour:
            changed = _paint(plane, part, textures, config, generator)
        elif modality == "depth":
            changed = _raise(plane, part, setting, config, generator)
        else:
            changed = _tilt(plane, part, generator)
        images.append(changed)
        masks.append(part)
    return Corrupted(torch.stack(images, dim=2), torch.stack(masks, dim=2))


def _paint(plane: Tensor, mask: Tensor, textures: Textures, config: PseudoConfig, generator: torch.Generator) -> Tensor:
    b, v, _, size, _ = plane.shape
    texture = textures.draw(b * v, size, generator).view(b, v, 3, size, size).to(plane.device)
    beta = _uniform((b, v, 1, 1, 1), generator, plane.device) * config.max_opacity
    weight = mask[:, :, None]
    return plane * (1 - weight) + weight * (beta * plane + (1 - beta) * texture)


def _bump(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Return a smooth hill in the mask, -1..1: a bump (negative: nearer) or a dent, of random edge width."""
    b, v, size, _ = mask.shape
    width = int(2 * torch.randint(1, max(2, size // 32), (1,), generator=generator) + 1)
    flat = mask.view(b * v, 1, size, size)
    for _ in range(2):
        flat = functional.avg_pool2d(flat, width, 1, width // 2)
    hill = (flat.view(b, v, size, size) * mask).clamp(max=1)
    peak = hill.amax(dim=(2, 3), keepdim=True).clamp(min=1e-3)
    sign = torch.where(_uniform((b, v, 1, 1), generator, mask.device) < 0.5, -1.0, 1.0)
    return sign * hill / peak


def _raise(plane: Tensor, mask: Tensor, setting: Setting, config: PseudoConfig, generator: torch.Generator) -> Tensor:
    assert setting.depth_range is not None
    middle, half = setting.depth_range
    low, high = (value / 1000 for value in config.bump_mm[:2])
    if middle + half > _METRE_SCANS:
        low, high = low * half / 0.03, high * half / 0.03
    height = low + (high - low) * _uniform((*mask.shape[:2], 1, 1), generator, mask.device)
    change = -127.5 * height * _bump(mask, generator) / half
    return plane + change[:, :, None]


def _tilt(plane: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Turn normals as a bump of that mask would: by its slopes."""
    hill = _bump(mask, generator)
    slope_x = functional.pad(hill[..., :, 2:] - hill[..., :, :-2], (1, 1)) / 2
    slope_y = functional.pad(hill[..., 2:, :] - hill[..., :-2, :], (0, 0, 1, 1)) / 2
    strength = (2 + 6 * _uniform((*mask.shape[:2], 1, 1), generator, mask.device)) * mask
    normal = plane / 127.5 - 1
    turned = normal + torch.stack([slope_x * strength, slope_y * strength, torch.zeros_like(hill)], dim=2)
    turned = functional.normalize(turned, dim=2)
    return torch.where((mask > 0)[:, :, None], (turned + 1) * 127.5, plane)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Return numbers in 0..1, drawn where the generator is, so that every device sees the same ones."""
    return torch.rand(shape, generator=generator).to(device)
