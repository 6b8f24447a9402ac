"""Segmentation head, DeSTSeg's (method section 3): two residual blocks, ASPP, a map. Shared by the views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.model.teachers.resnet18 import BasicBlock


def head_input(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Return -t * s of normalised features, all levels resized to stride 4 and concatenated.

    Parameters
    ----------
    teacher, student
        Three maps (N, C_l, h_l, w_l) each, finest first.
    """
    size = teacher[0].shape[-2:]
    products = [
        -functional.normalize(t.float(), dim=1) * functional.normalize(s.float(), dim=1)
        for t, s in zip(teacher, student, strict=True)
    ]
    resized = [functional.interpolate(p, size=size, mode="bilinear", align_corners=False) for p in products]
    return torch.cat(resized, dim=1)


def _conv(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017), rates 6, 12, 18."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv(inputs, outputs, 1), *(_conv(inputs, outputs, 3, r) for r in (6, 12, 18))])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1), nn.ReLU())
        self.project = _conv(5 * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h, w)."""
        pooled = self.pooled(x).expand(-1, -1, *x.shape[-2:])
        out: Tensor = self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))
        return out


class SegmentationHead(nn.Module):
    """Logits at stride 4."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(BasicBlock(channels, width), BasicBlock(width, width))
        self.aspp = ASPP(width, width)
        self.refine = _conv(width, width, 3)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, products: Tensor) -> Tensor:
        """(N, channels, h, w) of ``head_input`` to logits (N, h, w)."""
        out: Tensor = self.out(self.refine(self.aspp(self.residual(products))))
        return out[:, 0]
