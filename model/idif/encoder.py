"""Shared feature extractor: every present view by the same trunk (Figure 2; encoder.* choices)."""

from __future__ import annotations

from torch import Tensor, nn

from mvad.model.teachers.protocol import Trunk


class Encoder(nn.Module):
    """A trunk to stride 16, lifted to C channels.

    ``freeze_early`` keeps the trunk to stride 4 as the teacher's: half of the cost of a step lies there.
    """

    def __init__(self, trunk: Trunk, channels: int, freeze_early: bool) -> None:
        super().__init__()
        self.freeze_early = freeze_early
        self.trunk = trunk
        self.lift = nn.Conv2d(trunk.channels[2], channels, 1)

    def train(self, mode: bool = True) -> Encoder:
        """Set the mode; what is frozen keeps its statistics, too."""
        super().train(mode)
        if self.freeze_early:
            for module in self.trunk.early():
                module.eval().requires_grad_(False)
        return self

    def forward(self, images: Tensor, present: Tensor) -> Tensor:
        """Encode the views that are there.

        Parameters
        ----------
        images
            (B, K, 3, S, S) float32 in 0..255; K counts views times modalities.
        present
            (B, K) bool. Absent views are not computed, so they reach neither batch statistics nor anything else.

        Returns
        -------
        Tensor
            f_E (B, K, C, S/16, S/16), 0 where absent.
        """
        encoded = self.lift(self.trunk.stages(images[present])[2])
        out = encoded.new_zeros(*present.shape, *encoded.shape[1:])
        out[present] = encoded
        filled: Tensor = out
        return filled
