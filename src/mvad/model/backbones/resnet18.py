"""ResNet-18 (He et al. 2016) up to block3 or block4, with torchvision's parameter names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvad.model.backbones.protocol import Backbone


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity or a projected shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet18(Backbone):
    """The paper's teacher: 64, 128 and 256 channels at strides 4, 8 and 16."""

    channels = (64, 128, 256)
    deep_channels = 512
    fill = (123.675, 116.28, 103.53)
    mean: Tensor
    std: Tensor

    def __init__(self, deep: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256))
        self.register_buffer("mean", torch.tensor(self.fill).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor((58.395, 57.12, 57.375)).view(3, 1, 1), persistent=False)
        kaiming_convolutions(self)
        if deep:  # last, so that a seed gives the other layers the same weights
            self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512))
            kaiming_convolutions(self.layer4)

    def early(self) -> list[nn.Module]:
        """See ``Backbone.early``."""
        return [self.conv1, self.bn1, self.layer1]

    def first(self, images: Tensor) -> Tensor:
        """See ``Backbone.first``."""
        x = (images - self.mean) / self.std
        x = torch.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.layer1(nn.functional.max_pool2d(x, 3, 2, 1))
        return out

    def later(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Backbone.later``."""
        second = self.layer2(first)
        return second, self.layer3(second)

    def deepest(self, third: Tensor) -> Tensor:
        """See ``Backbone.deepest``."""
        out: Tensor = self.layer4(third)
        return out

    def load_torchvision(self, state: dict[str, Tensor]) -> None:
        """Load torchvision's state dict except for the classifier, and for block4 where the backbone is not deep."""
        self.load_state_dict({name: state[name] for name in self.state_dict()}, strict=True)


def kaiming_convolutions(module: nn.Module) -> None:
    """Draw the weights of all convolutions of one group anew: He et al. 2015, by outputs, as torchvision, timm and DeSTSeg do."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.groups == 1:
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
