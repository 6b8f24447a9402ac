"""Base class of backbones, with features at strides 4, 8 and 16; a frozen backbone is the teacher, a trained one the encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """Base class of backbones.

    Attributes
    ----------
    channels
        Channels at strides 4, 8, 16.
    deep_channels
        Channels at stride 32, which only a deep backbone has.
    fill
        (3,) colour in 0..255 that the normalisation maps to zero; pixels of a view that show no object are filled with it.
    signed
        Whether features can be negative; those of a ReLU cannot.
    """

    channels: tuple[int, int, int]
    deep_channels: int
    fill: tuple[float, float, float]
    signed: bool = False

    def early(self) -> list[nn.Module]:
        """Return the modules of ``first``, whose features (edges, colours) do not depend on the kind of image."""
        raise NotImplementedError

    def first(self, images: Tensor) -> Tensor:
        """Return features at stride 4, (B, C_0, H / 4, W / 4), of (B, 3, H, W) float images in 0..255."""
        raise NotImplementedError

    def later(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """Return features at strides 8 and 16 from those at stride 4."""
        raise NotImplementedError

    def stages(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features at strides 4, 8, 16, (B, C_l, h_l, w_l) each, of (B, 3, H, W) float images in 0..255."""
        first = self.first(images)
        return first, *self.later(first)

    def deepest(self, third: Tensor) -> Tensor:
        """Return features at stride 32 from those at stride 16; deep backbones only."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same as ``stages``."""
        return self.stages(images)


@dataclass(frozen=True)
class Teacher:
    """A frozen backbone and the origin of its weights.

    Attributes
    ----------
    name, sha256
        Name, and SHA-256 of the weights file (``seed-N`` for an untrained teacher); recorded with every run and result.
    backbone
        The backbone, in evaluation mode and without gradients.
    fresh
        Creates another backbone with the same weights, to be trained as an encoder; with the argument true it reaches stride 32.
    """

    name: str
    sha256: str
    backbone: Backbone
    fresh: Callable[[bool], Backbone]

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels at strides 4, 8, 16."""
        return self.backbone.channels

    @property
    def device(self) -> torch.device:
        """Device of the backbone."""
        return next(self.backbone.parameters()).device

    @property
    def fill(self) -> tuple[float, float, float]:
        """Colour of the background, 0..255."""
        return self.backbone.fill

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features at strides 4, 8, 16, (B, C_l, h_l, w_l) each, of (B, 3, H, W) images in 0..255, without gradients."""
        with torch.no_grad():
            return self.backbone.stages(images)


def frozen(name: str, sha256: str, fresh: Callable[[bool], Backbone]) -> Teacher:
    """Return a teacher from the factory of its backbone (see ``Teacher.fresh``)."""
    backbone = fresh(False).eval().requires_grad_(False)
    return Teacher(name, sha256, backbone, fresh)
