"""Teacher features of views, patches of features, and maps from patches: shared by the baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from mvad.datasets.shards.batches import read_ahead
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import ModelConfig, ScoreConfig
from mvad.model.devices import autocast
from mvad.model.images import ViewImages, background_fill, view_images
from mvad.model.input_spec import InputSpec


class ViewFeatures:
    """Feature extractor: the frozen teacher, applied to the inputs (views times modalities) of a batch."""

    def __init__(self, config: ModelConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        self.config, self.spec, self.teacher, self.device = config, spec, teacher, device
        teacher.backbone.to(device)

    def images(self, batch: Batch) -> ViewImages:
        """Return the batch as float images on the device."""
        fill = background_fill(self.config.input, self.teacher)
        return view_images(batch.to(self.device), self.spec.modalities, self.config.input.size, fill, self.spec.depth_range)

    def each_sample(self, data: ShardSet) -> Iterator[ViewImages]:
        """Yield each sample of a split as images; for a GPU the next ones are read meanwhile, into page-locked memory."""
        if self.device.type == "cpu":
            return (self.images(data.batch([row])) for row in range(len(data)))
        reads = [partial(_pinned, data, row) for row in range(len(data))]
        return (self.images(batch) for batch in read_ahead(reads, "mvad-read"))

    def levels(self, views: ViewImages) -> tuple[Tensor, ...]:
        """Return features at strides 4, 8, 16: (B, V, M, C_l, h_l, w_l) float32 each."""
        b, v, m = views.images.shape[:3]
        levels = self.features(views.images.flatten(0, 2))
        return tuple(level.view(b, v, m, *level.shape[1:]) for level in levels)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return features at strides 4, 8, 16, (N, C_l, h_l, w_l) float32 each, of images (N, 3, S, S) in 0..255."""
        with torch.no_grad(), autocast(self.device, self.config.train.precision):
            levels = self.teacher.features(images.contiguous(memory_format=torch.channels_last))
        return tuple(level.float() for level in levels)

    def patches(self, views: ViewImages) -> tuple[Tensor, Tensor]:
        """Return PatchCore's patches (B, V, M, s, s, C) at stride 8, and which of them count (B, V, s, s) bool.

        Patches are levels 2 and 3 (strides 8 and 16), averaged over 3x3 neighbourhoods and concatenated at level 2's size.
        """
        patches = neighbourhoods(self.features(views.images.flatten(0, 2)))
        side = patches.shape[1]
        return patches.reshape(*views.images.shape[:3], side, side, -1), self.counts(views, side)

    def pooled(self, views: ViewImages) -> Tensor:
        """Return (B, V, M, C): mean features over the pixels that show the object, all levels concatenated."""
        seen, pooled = views.seen.float(), []
        for level in self.levels(views):
            weight = functional.adaptive_avg_pool2d(seen, (int(level.shape[-2]), int(level.shape[-1])))[:, :, None, None]
            pooled.append((level * weight).sum(dim=(-2, -1)) / weight.sum(dim=(-2, -1)).clamp(min=1e-6))
        return torch.cat(pooled, dim=-1)

    def counts(self, views: ViewImages, side: int) -> Tensor:
        """Return which cells (B, V, side, side) count: of present views, more than half on the object (``score.region``)."""
        return counted_cells(views.seen, side, self.config.score) & views.present_on_device()[:, :, None, None]


def _pinned(data: ShardSet, row: int) -> Batch:
    return data.batch([row]).pin_memory()


def counted_cells(seen: Tensor, side: int, config: ScoreConfig) -> Tensor:
    """Return which cells (N, C, side, side) of outlines (N, C, S, S) bool are more than half on the object (``score.region``)."""
    share = averaged(seen.float(), side)
    return share > 0.5 if config.region == "object" else torch.ones_like(share, dtype=torch.bool)


def neighbourhoods(levels: Sequence[Tensor]) -> Tensor:
    """Return PatchCore's patches (N, s, s, C) at stride 8 of teacher levels (N, C_l, h_l, w_l)."""
    planes = [functional.avg_pool2d(level, 3, 1, 1) for level in levels[1:]]
    planes[1] = functional.interpolate(planes[1], size=int(planes[0].shape[-1]), mode="bilinear", align_corners=False)
    return torch.cat(planes, dim=1).permute(0, 2, 3, 1)


def not_shown(view: int, spec: InputSpec) -> BadInput:
    """Return the error that no sample shows a view that is to be learnt."""
    return BadInput(
        f"view {view + 1} of {spec.views}: none of the samples that are trained on shows it (in the whole split, or without a fold of it: "
        "score.folds); pack the parts without this view, or with more parts that have it"
    )


def smooth_upsample(planes: Tensor, size: int, sigma: float) -> Tensor:
    """Resize maps (N, h, w) bilinearly to (N, size, size), then smooth them by a Gaussian of ``sigma`` pixels."""
    large = functional.interpolate(planes[:, None], size=size, mode="bilinear", align_corners=False)
    radius = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=planes.device) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(large, (radius, radius, radius, radius), mode="reflect")
    return functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


def averaged(planes: Tensor, side: int) -> Tensor:
    """Average planes (N, C, S, S) down to (N, C, side, side): over blocks where side divides S, else by adaptive pooling.

    Sizes are converted to int, so that an exported graph holds plain average pooling.
    """
    size = int(planes.shape[-1])
    if size % int(side):
        return functional.adaptive_avg_pool2d(planes, int(side))
    return functional.avg_pool2d(planes, size // int(side))


def concatenated(levels: Sequence[Tensor], side: int) -> Tensor:
    """Return levels (N, C_l, h_l, w_l) concatenated at one size: (N, C, side, side), bilinearly with corners on corners, as in UniAD's code."""
    return torch.cat([functional.interpolate(level, size=side, mode="bilinear", align_corners=True) for level in levels], dim=1)
