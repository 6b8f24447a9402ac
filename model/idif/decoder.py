"""View-specific decoders: DeSTSeg's student decoder from stride 16, without skips (method section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from mvad.model.teachers.resnet18 import BasicBlock


class ViewDecoder(nn.Module):
    """Features at strides 4, 8 and 16 of one view from its plane at stride 16."""

    def __init__(self, inputs: int, widths: Sequence[int], outputs: tuple[int, int, int]) -> None:
        super().__init__()
        at16, at8, at4 = widths
        self.stage16 = nn.Sequential(BasicBlock(inputs, at16), BasicBlock(at16, at16))
        self.stage8 = nn.Sequential(BasicBlock(at16, at8), BasicBlock(at8, at8))
        self.stage4 = nn.Sequential(BasicBlock(at8, at4), BasicBlock(at4, at4))
        # The last block's ReLU would forbid negative features, which other teachers than ResNet have.
        self.out = nn.ModuleList(nn.Conv2d(w, c, 1) for w, c in zip((at4, at8, at16), outputs, strict=True))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, plane: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) to features at strides 4, 8, 16."""
        third = self.stage16(plane)
        second = self.stage8(functional.interpolate(third, scale_factor=2, mode="bilinear", align_corners=False))
        first = self.stage4(functional.interpolate(second, scale_factor=2, mode="bilinear", align_corners=False))
        return self.out[0](first), self.out[1](second), self.out[2](third)
