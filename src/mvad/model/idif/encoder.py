"""Feature extractor of the present views, with the teacher's architecture (Figure 2; keys ``encoder.*``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mvad.model.backbones.protocol import Backbone, Teacher
from mvad.model.backbones.resnet18 import BasicBlock, kaiming_convolutions
from mvad.model.idif.config import EncoderConfig
from mvad.model.presence import Presence


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

    ``encoder.freeze_early`` keeps the teacher's weights up to stride 4, where half of the cost of a step lies; if they are those
    of the start (``has_teachers_first``), the teacher's features at stride 4 can be given instead.
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

    @property
    def has_teachers_first(self) -> bool:
        """Whether features at stride 4 are always the teacher's."""
        return self.config.freeze_early and self.config.init == "imagenet"

    def forward(
        self, images: Tensor, given: Presence | Tensor, shown: Sequence[int] | None = None, first: Tensor | None = None
    ) -> Encoded:
        """Encode the views that are present.

        Parameters
        ----------
        images
            (B, K, 3, S, S) float32 in 0..255; K counts views times modalities.
        given
            Presence of the inputs, or (B, K) bool. Missing views are not computed, so they do not enter batch statistics.
        shown
            Inputs that are present in at least one sample of any rank; default: those of this batch.
        first
            The teacher's features at stride 4 of the N inputs that are present, (N, C_0, S / 4, S / 4), where
            ``has_teachers_first`` is true; None: they are computed.

        Returns
        -------
        Encoded
            Features, 0 where an input is missing.
        """
        present = Presence.of(given, images.device)
        rows = present.take(images) if first is None else first
        if len(self.backbones) == 1:
            levels: Sequence[Tensor] = self._encode(0, rows, first is None)
        else:
            parts = present.by_input(rows)
            none = rows[:0]  # an input that other ranks alone have: their batch statistics are shared
            encoded = {k: self._encode(k, parts.get(k, none), first is None) for k in (present.used if shown is None else shown)}
            levels = [present.joined({k: of_input[level] for k, of_input in encoded.items()}) for level in range(3)]
        first, second, deepest = (present.spread(level) for level in levels)
        return Encoded(deepest, (first, second))

    def _encode(self, number: int, rows: Tensor, are_images: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return features at strides 4 and 8 and f_E of images, or of features at stride 4."""
        backbone = self.backbones[number]
        assert isinstance(backbone, Backbone)
        first = backbone.first(rows) if are_images else rows
        second, third = backbone.later(first)
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
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)  # each block begins as its shortcut, as in timm, which DeSTSeg uses
        kaiming_convolutions(backbone)
    return backbone
