"""Untrained backbone of a few thousand weights, for tests in a fraction of ResNet-18's time."""

from __future__ import annotations

from torch import Tensor, nn

from mvad.model.backbones.protocol import Backbone


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class TinyBackbone(Backbone):
    """Backbone with 8, 16 and 32 channels at strides 4, 8 and 16."""

    channels = (8, 16, 32)
    deep_channels = 64
    fill = (127.5, 127.5, 127.5)

    def __init__(self, deep: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(_block(3, 8, 2), _block(8, 8, 2))
        self.layer2, self.layer3 = _block(8, 16, 2), _block(16, 32, 2)
        if deep:  # last, so that a seed gives the other layers the same weights
            self.layer4 = _block(32, 64, 2)

    def early(self) -> list[nn.Module]:
        """See ``Backbone.early``."""
        return [self.stem]

    def first(self, images: Tensor) -> Tensor:
        """See ``Backbone.first``."""
        out: Tensor = self.stem((images - 127.5) / 64)
        return out

    def later(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Backbone.later``."""
        second = self.layer2(first)
        return second, self.layer3(second)

    def deepest(self, third: Tensor) -> Tensor:
        """See ``Backbone.deepest``."""
        out: Tensor = self.layer4(third)
        return out
