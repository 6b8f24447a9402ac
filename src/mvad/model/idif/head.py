"""Segmentation head of DeSTSeg (method section 3): two residual blocks, ASPP, one map of logits per input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.model.backbones.resnet18 import BasicBlock, kaiming_convolutions
from mvad.model.idif.config import HeadConfig
from mvad.model.idif.window import Window
from mvad.model.presence import Presence


def head_input(
    teacher: Sequence[Tensor], student: Sequence[Tensor], window: Window | None = None, places: Tensor | None = None
) -> Tensor:
    """Return -t * s of normalised features, all levels resized to stride 4 and concatenated: (N, C, h, w) float32, channels last.

    Parameters
    ----------
    teacher, student
        Three maps (N, C_l, h_l, w_l) each, finest first.
    window, places
        Window of the result at ``places`` (N, 2), which alone is computed; None: the whole maps.
    """
    size = teacher[0].shape[-2:]
    products = []
    for t, s in zip(teacher, student, strict=True):
        if window is None or places is None:
            products.append(functional.interpolate(_product(t, s), size=size, mode="bilinear", align_corners=False))
        elif t.shape[-2:] == size:
            products.append(_product(window.cut(t, places), window.cut(s, places)))
        else:
            products.append(window.cut_resized(_product(t, s), places))
    return torch.cat(products, dim=1).contiguous(memory_format=torch.channels_last)


def _product(teacher: Tensor, student: Tensor) -> Tensor:
    return -functional.normalize(teacher.float(), dim=1) * functional.normalize(student.float(), dim=1)


def _conv(inputs: int, outputs: int, kernel: int, dilation: int = 1, separable: bool = False) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)]
    if separable and kernel > 1:
        depthwise = nn.Conv2d(inputs, inputs, kernel, padding=padding, dilation=dilation, groups=inputs, bias=False)
        layers = [depthwise, nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), nn.ReLU())


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling, rates 6, 12, 18: as in DeSTSeg's published code, or light, as Chen et al. 2017 join them.

    DeSTSeg has no 1x1 branch, normalises the mean over the view, and joins all by a 3x3 convolution, half of its operations.
    """

    def __init__(self, inputs: int, outputs: int, separable: bool = False, kind: str = "destseg") -> None:
        super().__init__()
        light = kind == "light"
        first = [_conv(inputs, outputs, 1)] if light else []
        self.branches = nn.ModuleList([*first, *(_conv(inputs, outputs, 3, rate, separable) for rate in (6, 12, 18))])
        mean = [nn.Conv2d(inputs, outputs, 1), nn.ReLU()] if light else list(_conv(inputs, outputs, 1))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *mean)
        self.project = _conv((len(self.branches) + 1) * outputs, outputs, 1 if light else 3, separable=separable)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h, w)."""
        pooled = self.pooled(x).expand(-1, -1, *x.shape[-2:])
        out: Tensor = self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))
        return out


class SegmentationHead(nn.Module):
    """Network from ``head_input`` to logits at stride 4."""

    def __init__(self, channels: int, width: int, separable: bool = False, kind: str = "destseg") -> None:
        super().__init__()
        self.residual = nn.Sequential(BasicBlock(channels, width), BasicBlock(width, width))
        if kind == "destseg":
            kaiming_convolutions(self.residual)
        self.aspp = ASPP(width, width, separable, kind)
        self.refine = _conv(width, width, 3, separable=separable)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, products: Tensor) -> Tensor:
        """(N, channels, h, w) of ``head_input`` to logits (N, h, w)."""
        out: Tensor = self.out(self.refine(self.aspp(self.residual(products))))
        return out[:, 0]


class Heads(nn.Module):
    """One head for all inputs, or one per input (``head.share``)."""

    def __init__(self, inputs: int, channels: int, config: HeadConfig) -> None:
        super().__init__()
        count = inputs if config.share == "view" else 1
        self.per_input = nn.ModuleList(
            SegmentationHead(channels, config.width, config.separable, config.kind) for _ in range(count)
        )

    def forward(self, products: Tensor, present: Presence, shown: Sequence[int] | None = None) -> Tensor:
        """Return logits (N, h, w).

        Parameters
        ----------
        products
            (N, channels, h, w) of ``head_input``.
        present
            The inputs that the N rows belong to.
        shown
            Inputs that are present on any rank; default: those of these rows.
        """
        if len(self.per_input) == 1:
            out: Tensor = self.per_input[0](products)
            return out
        rows, none = present.by_input(products), products[:0]
        logits = {k: self.per_input[k](rows.get(k, none)) for k in (present.used if shown is None else shown)}
        return present.joined(logits)
