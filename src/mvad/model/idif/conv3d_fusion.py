"""The paper's row "3-D convolutions": Pix2Vox's context-aware fusion (Xie et al. 2019) instead of the voxel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvad.model.backbones.resnet18 import BasicBlock
from mvad.model.presence import Presence

_SCORE_CHANNELS = 32


class Conv3dFusion(nn.Module):
    """Scores by a small 3-D CNN over (view, row, column), softmax over views, weighted sum, refinement.

    All decoders get the same plane; only the decoder is specific to a view.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Conv3d(channels, _SCORE_CHANNELS, 3, padding=1), nn.GELU(),
            nn.Conv3d(_SCORE_CHANNELS, _SCORE_CHANNELS, 3, padding=1), nn.GELU(),
            nn.Conv3d(_SCORE_CHANNELS, 1, 3, padding=1),
        )  # fmt: skip
        self.refine = BasicBlock(channels, channels)

    def forward(self, features: Tensor, given: Presence | Tensor) -> Tensor:
        """Return planes (B, K, C, h, w) from f_E of the same shape, 0 where absent, and presence (``Presence`` or (B, K) bool)."""
        present = Presence.of(given, features.device).on_device
        k = features.shape[1]
        scores = self.score(features.transpose(1, 2))[:, 0].float()
        weight = torch.softmax(scores.masked_fill(~present[:, :, None, None], -torch.inf), dim=1)
        fused = (features * weight[:, :, None].to(features.dtype)).sum(dim=1)
        planes: Tensor = self.refine(fused)[:, None].expand(-1, k, -1, -1, -1)
        return planes
