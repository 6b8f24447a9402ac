"""Teacher features of every view, patches of them, and maps from patches: what the baselines share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mvad.datasets.shards.loader import Batch
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import ModelConfig
from mvad.model.devices import autocast
from mvad.model.images import ViewImages, background_fill, view_images
from mvad.model.input_spec import InputSpec


class ViewFeatures:
    """Teacher features of the inputs (views times modalities) of a batch."""

    def __init__(self, config: ModelConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        self.config, self.spec, self.teacher, self.device = config, spec, teacher, device
        teacher.backbone.to(device)

    def images(self, batch: Batch) -> ViewImages:
        """Return the batch as float images on the device."""
        fill = background_fill(self.config.input, self.teacher)
        return view_images(batch.to(self.device), self.spec.modalities, self.config.input.size, fill, self.spec.depth_range)

    def levels(self, views: ViewImages) -> tuple[Tensor, ...]:
        """Return three maps (B, V, M, C_l, h_l, w_l) float32."""
        b, v, m = views.images.shape[:3]
        levels = self.features(views.images.flatten(0, 2))
        return tuple(level.view(b, v, m, *level.shape[1:]) for level in levels)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return three maps (N, C_l, h_l, w_l) float32 of images (N, 3, S, S)."""
        with torch.no_grad(), autocast(self.device, self.config.train.precision):
            levels = self.teacher.features(images.contiguous(memory_format=torch.channels_last))
        return tuple(level.float() for level in levels)

    def patches(self, views: ViewImages) -> tuple[Tensor, Tensor]:
        """Return PatchCore's patches (B, V, M, s, s, C) at stride 8, and which of them count (B, V, s, s).

        Levels 2 and 3, 3x3 average neighbourhoods, concatenated at level 2's size.
        """
        patches = neighbourhoods(self.features(views.images.flatten(0, 2)))
        side = patches.shape[1]
        return patches.reshape(*views.images.shape[:3], side, side, -1), self.counts(views, side)

    def pooled(self, views: ViewImages) -> Tensor:
        """Return (B, V, M, C) means over the pixels that show the object, all levels side by side."""
        seen, pooled = views.seen.float(), []
        for level in self.levels(views):
            weight = functional.adaptive_avg_pool2d(seen, (int(level.shape[-2]), int(level.shape[-1])))[:, :, None, None]
            pooled.append((level * weight).sum(dim=(-2, -1)) / weight.sum(dim=(-2, -1)).clamp(min=1e-6))
        return torch.cat(pooled, dim=-1)

    def counts(self, views: ViewImages, side: int) -> Tensor:
        """Return which cells (B, V, side, side) of present views show the object (score.region)."""
        share = averaged(views.seen.float(), side)
        counts = share > 0.5 if self.config.score.region == "object" else torch.ones_like(share, dtype=torch.bool)
        return counts & views.present[:, :, None, None]


def neighbourhoods(levels: Sequence[Tensor]) -> Tensor:
    """Return PatchCore's patches (N, s, s, C) at stride 8 of teacher levels (N, C_l, h_l, w_l)."""
    planes = [functional.avg_pool2d(level, 3, 1, 1) for level in levels[1:]]
    planes[1] = functional.interpolate(planes[1], size=int(planes[0].shape[-1]), mode="bilinear", align_corners=False)
    return torch.cat(planes, dim=1).permute(0, 2, 3, 1)


def smooth_upsample(planes: Tensor, size: int, sigma: float) -> Tensor:
    """Return (N, size, size) of (N, h, w): bilinear, then a Gaussian of ``sigma`` pixels."""
    large = functional.interpolate(planes[:, None], size=size, mode="bilinear", align_corners=False)
    reach = max(1, round(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=planes.device) / sigma) ** 2)
    line = line / line.sum()
    padded = functional.pad(large, (reach, reach, reach, reach), mode="reflect")
    return functional.conv2d(functional.conv2d(padded, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))[:, 0]


def averaged(planes: Tensor, side: int) -> Tensor:
    """Return the means (N, C, side, side) of blocks of planes (N, C, S, S), where side divides S, else of near ones.

    Sizes are read as numbers, so that an exported graph has plain average pooling.
    """
    size = int(planes.shape[-1])
    if size % int(side):
        return functional.adaptive_avg_pool2d(planes, int(side))
    return functional.avg_pool2d(planes, size // int(side))


def concatenated(levels: Sequence[Tensor], side: int) -> Tensor:
    """Return levels (N, C_l, h_l, w_l) side by side at one size: (N, C, side, side).

    Finer levels are averaged down, coarser ones grow bilinearly.
    """
    resized = [
        averaged(level, side)
        if level.shape[-1] >= side
        else functional.interpolate(level, size=side, mode="bilinear", align_corners=False)
        for level in levels
    ]
    return torch.cat(resized, dim=1)
