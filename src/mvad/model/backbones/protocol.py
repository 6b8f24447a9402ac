"""A backbone gives three feature maps at strides 4, 8 and 16; frozen it is the teacher, trained the encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """Base of backbones: what they share is their interface.

    Attributes
    ----------
    channels
        Channels at strides 4, 8, 16.
    deep_channels
        Channels at stride 32, which only a deep backbone reaches.
    fill
        (3,) colour in 0..255 that the normalisation maps to zero; views are filled with it where nothing is.
    """

    channels: tuple[int, int, int]
    deep_channels: int
    fill: tuple[float, float, float]

    def early(self) -> list[nn.Module]:
        """Return the modules up to stride 4: edges and colours, the same for every subject."""
        raise NotImplementedError

    def stages(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features at strides 4, 8, 16 of (B, 3, H, W) float images in 0..255."""
        raise NotImplementedError

    def deepest(self, third: Tensor) -> Tensor:
        """Return features at stride 32 from those at stride 16; only a deep backbone can."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the same as ``stages``."""
        return self.stages(images)


@dataclass(frozen=True)
class Teacher:
    """A frozen backbone and where its weights come from.

    Attributes
    ----------
    name, sha256
        Stamped into every checkpoint and result; the hash is of the weights file, or of the seed for ``random``.
    backbone
        In eval mode, without gradients.
    fresh
        Makes another backbone with the same weights, to be trained as an encoder; deep if asked for, to stride 32.
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
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    @property
    def fill(self) -> tuple[float, float, float]:
        """Colour of the background, 0..255."""
        return self.backbone.fill

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features at strides 4, 8, 16 of (B, 3, H, W) float images in 0..255, without gradients."""
        with torch.no_grad():
            return self.backbone.stages(images)


def frozen(name: str, sha256: str, fresh: Callable[[bool], Backbone]) -> Teacher:
    """Make a teacher of a backbone's factory, which is told whether to go to stride 32."""
    backbone = fresh(False).eval().requires_grad_(False)
    return Teacher(name, sha256, backbone, fresh)
