"""Feature extractor of the present views, with the teacher's architecture (Figure 2; keys ``encoder.*``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvad.model.backbones.protocol import Backbone, Teacher
from mvad.model.idif.config import EncoderConfig


@dataclass(frozen=True)
class Encoded:
    """Features of B samples of K inputs.

    Attributes
    ----------
    deepest
        f_E (B, K, C, h, w), 0 where an input is missing.
    fine
        Features at strides 4 and 8, (B, K, C_l, h_l, w_l), for decoder.skip.
    """

    deepest: Tensor
    fine: tuple[Tensor, Tensor]


class Encoder(nn.Module):
    """One backbone for all inputs, or one per input (``encoder.share``), with a 1x1 lift to C channels of mean 0 and variance 1.

    Without the batch norm after the lift (no parameters of its own) the scale of f_E is free: at the learning rates of preset
    ``paper`` it grew 500-fold within 25 steps.

    ``encoder.freeze_early`` keeps the teacher's weights up to stride 4, where half of the cost of a step lies.
    """

    def __init__(self, teacher: Teacher, config: EncoderConfig, inputs: int) -> None:
        super().__init__()
        self.config = config
        count = inputs if config.share == "view" else 1
        self.backbones = nn.ModuleList(_backbone(teacher, config) for _ in range(count))
        deepest = {8: teacher.channels[1], 16: teacher.channels[2], 32: teacher.backbone.deep_channels}[config.level]
        self.channels = config.channels or deepest
        lift = config.channels > 0
        self.lifts = nn.ModuleList(_lift(deepest, config.channels) if lift else nn.Identity() for _ in range(count))

    def train(self, mode: bool = True) -> Encoder:
        """Set training or evaluation mode; frozen layers stay in evaluation mode and keep their batch statistics."""
        super().train(mode)
        if self.config.freeze_early:
            for backbone in self.backbones:
                for module in backbone.early():  # type: ignore[operator]  # a ModuleList forgets its types
                    module.eval().requires_grad_(False)
        return self

    def forward(self, images: Tensor, present: Tensor, shown: Sequence[int] | None = None) -> Encoded:
        """Encode the views that are present.

        Parameters
        ----------
        images
            (B, K, 3, S, S) float32 in 0..255; K counts views times modalities.
        present
            (B, K) bool. Missing views are not computed, so they do not enter batch statistics.
        shown
            Inputs that are present in at least one sample of any rank; default: those of this batch.

        Returns
        -------
        Encoded
            Features, 0 where an input is missing.
        """
        if len(self.backbones) == 1:
            levels = self._encode(0, images[present])
            filled = [_spread(level, present) for level in levels]
        else:
            if shown is None:
                shown = present.any(dim=0).nonzero()[:, 0].tolist()
            encoded = {k: self._encode(k, images[present[:, k], k]) for k in shown}
            template = next(iter(encoded.values()))
            filled = [
                torch.stack(
                    [
                        _spread(encoded[k][level], present[:, k])
                        if k in encoded
                        else template[level].new_zeros(len(images), *template[level].shape[1:])
                        for k in range(images.shape[1])
                    ],
                    dim=1,
                )
                for level in range(3)
            ]
        return Encoded(filled[2], (filled[0], filled[1]))

    def _encode(self, number: int, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        backbone = self.backbones[number]
        assert isinstance(backbone, Backbone)
        first, second, third = backbone.stages(images)
        level = {8: second, 16: third}.get(self.config.level)
        deepest = backbone.deepest(third) if level is None else level
        return first, second, self.lifts[number](deepest)


def _lift(inputs: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, channels, 1), nn.BatchNorm2d(channels, affine=False))


def _backbone(teacher: Teacher, config: EncoderConfig) -> Backbone:
    backbone = teacher.fresh(config.level == 32)
    if config.init == "scratch":
        for module in backbone.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]  # a method wherever it exists
    return backbone


def _spread(encoded: Tensor, present: Tensor) -> Tensor:
    """Return rows (N, ...) at the N true elements of ``present`` (B, K) or (B,), 0 elsewhere."""
    out = encoded.new_zeros(*present.shape, *encoded.shape[1:])
    out[present] = encoded
    return out
