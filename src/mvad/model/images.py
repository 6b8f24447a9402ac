"""Input of a backbone: float images in 0..255, one per view and modality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mvad.datasets.shards.loader import Batch
from mvad.errors import BadInput
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import InputConfig
from mvad.model.devices import constant, moved


@dataclass(frozen=True)
class ViewImages:
    """Images of B samples with V views and M modalities each.

    Attributes
    ----------
    images
        (B, V, M, 3, S, S) float32 in 0..255; pixels that show no object have the fill colour.
    seen
        (B, V, S, S) bool: pixels that show the object.
    present
        (B, V) bool, on the host: views that the sample has.
    source
        (B, V, S, S) int32, row * W + column of the raw scan, -1 where nothing is seen; None if it was not read.
    """

    images: Tensor
    seen: Tensor
    present: Tensor
    source: Tensor | None = None

    def present_on_device(self) -> Tensor:
        """Return ``present`` on the device of the images."""
        return moved([self.present], self.images.device)[0]


def background_fill(config: InputConfig, teacher: Teacher) -> tuple[float, float, float]:
    """Return the colour (0..255) of pixels that show no object (``input.background``)."""
    return teacher.fill if config.background == "mean" else (0.0, 0.0, 0.0)


def view_images(
    batch: Batch, modalities: tuple[str, ...], size: int, fill: tuple[float, float, float],
    depth_range: tuple[float, float] | None,
) -> ViewImages:  # fmt: skip
    """Reduce views to ``size`` x ``size`` pixels by averaging the pixels that show the object, and fill the other pixels.

    Parameters
    ----------
    batch
        Samples as stored in the shards.
    modalities
        Modalities of each view, in order.
    size
        Side of the images in pixels.
    fill
        Colour of pixels that show no object, 0..255.
    depth_range
        Middle and half width of the range of depths (metres) that is mapped to 0..255 (near is bright); None without depth.

    Raises
    ------
    BadInput
        If a modality is not in the shards, or ``size`` does not divide the side of the stored views.

    Examples
    --------
    >>> import mvad
    >>> batch = mvad.ShardSet("mvad-data/shards/mvtec3d/gear", "test").batch([0, 1])
    >>> view_images(batch, ("rgb",), 32, (0, 0, 0), None).images.shape
    torch.Size([2, 5, 1, 3, 32, 32])
    """
    stored = batch.size
    if stored % size:
        raise BadInput(f"input.size = {size} does not divide the shards' {stored} pixels; choose {stored} or a divisor")
    factor = stored // size
    seen = batch.seen
    count = _pool(seen.float(), factor) if factor > 1 else seen
    kept = count > 0.5 if factor > 1 else seen
    layers = []
    for modality in modalities:
        planes = _planes(batch, modality, depth_range)
        if factor == 1:
            layers.append(torch.where(kept[:, :, None], planes, constant(fill, planes.device).view(3, 1, 1)))
            continue
        weighted = _pool(planes * seen[:, :, None], factor) / count.clamp(min=1e-6)[:, :, None]
        colour = constant(fill, planes.device).view(3, 1, 1)
        layers.append(torch.where(kept[:, :, None], weighted, colour))
    source = None if batch.source is None else batch.source[..., factor // 2 :: factor, factor // 2 :: factor]
    return ViewImages(torch.stack(layers, dim=2), kept, batch.present, source)


def _planes(batch: Batch, modality: str, depth_range: tuple[float, float] | None) -> Tensor:
    """Return one modality as (B, V, 3, H, W) float32 in 0..255."""
    if modality == "rgb" and batch.rgb is not None:
        return batch.rgb.permute(0, 1, 4, 2, 3).float()
    if modality == "normal" and batch.normal is not None:
        return batch.normal.permute(0, 1, 4, 2, 3).float()
    depth = batch.depth if modality == "depth" else None
    if depth is not None and depth_range is not None:
        middle, half = depth_range
        gray = 127.5 - 127.5 * (depth - middle) / half  # near is bright
        return gray[:, :, None].expand(-1, -1, 3, -1, -1)
    raise BadInput(f"modality {modality} is not in these shards; choose rgb, or depth and normal for renders")


def _pool(planes: Tensor, factor: int) -> Tensor:
    flat = planes.reshape(-1, 1, *planes.shape[-2:])
    return torch.nn.functional.avg_pool2d(flat, factor).reshape(*planes.shape[:-2], planes.shape[-2] // factor, -1)
