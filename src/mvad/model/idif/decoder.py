"""Decoders: DeSTSeg's student decoder, one per input (method section 3; keys ``decoder.*``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvad.errors import BadInput
from mvad.model.backbones.resnet18 import BasicBlock
from mvad.model.idif.config import DecoderConfig
from mvad.model.presence import Presence

_EMBEDDING = 0.5
"""Standard deviation of a new view embedding; planes have about 1, and beside them a decoder must be able to tell views apart."""


class ViewDecoder(nn.Module):
    """Decoder of one view: features at strides 4, 8 and 16 from its plane at stride 8, 16 or 32.

    A plane at stride 32 passes two more blocks first, as in DeSTSeg. A plane at stride 8 is averaged down to 16 for the coarsest
    level, and enters the next one at its own stride.
    """

    def __init__(self, inputs: int, level: int, outputs: tuple[int, int, int], config: DecoderConfig) -> None:
        super().__init__()
        if len(config.widths) not in (0, 3):
            raise BadInput(f"decoder.widths = {', '.join(map(str, config.widths))} must be three: at strides 16, 8 and 4")
        at16, at8, at4 = config.widths or tuple(reversed(outputs))
        self.level = level
        self.stage32 = nn.Sequential(BasicBlock(inputs, inputs), BasicBlock(inputs, inputs)) if level == 32 else nn.Identity()
        self.stage16 = nn.Sequential(BasicBlock(inputs, at16), BasicBlock(at16, at16))
        self.stage8 = nn.Sequential(BasicBlock(at16, at8), BasicBlock(at8, at8))
        self.stage4 = nn.Sequential(BasicBlock(at8, at4), BasicBlock(at4, at4))
        self.own_stride = nn.Conv2d(inputs, at16, 1) if level == 8 else None
        pairs = tuple(zip((at4, at8, at16), outputs, strict=True))
        self.out = nn.ModuleList(nn.Conv2d(w, c, 1) if config.project else nn.Identity() for w, c in pairs)
        self.skips = nn.ModuleList(nn.Conv2d(c, w, 1) for w, c in pairs[:2]) if config.skip else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, plane: Tensor, fine: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w), with the encoder's features at strides 4 and 8 for skips, to features at strides 4, 8, 16."""
        if self.level == 32:
            plane = _upsampled(self.stage32(plane))
        third = self.stage16(plane if self.own_stride is None else functional.avg_pool2d(plane, 2))
        finer = _upsampled(third)
        second = self.stage8(finer if self.own_stride is None else finer + self.own_stride(plane))
        if self.skips is not None:
            second = second + self.skips[1](fine[1])
        first = self.stage4(_upsampled(second))
        if self.skips is not None:
            first = first + self.skips[0](fine[0])
        return self.out[0](first), self.out[1](second), self.out[2](third)


class Decoders(nn.Module):
    """One decoder per input, or one for all inputs with a view embedding (``decoder.share``)."""

    def __init__(self, inputs: int, channels: int, level: int, outputs: tuple[int, int, int], config: DecoderConfig) -> None:
        super().__init__()
        count = inputs if config.share == "view" else 1
        self.per_input = nn.ModuleList(ViewDecoder(channels, level, outputs, config) for _ in range(count))
        self.view_embedding = nn.Parameter(_EMBEDDING * torch.randn(inputs, channels)) if config.share == "shared" else None

    def forward(
        self, planes: Tensor, fine: Sequence[Tensor], shown: Sequence[int], alone: Presence | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the planes of some inputs.

        Parameters
        ----------
        planes
            (B, K, C, h, w).
        fine
            Features of the encoder at strides 4 and 8, (B, K, C_l, h_l, w_l), for skips.
        shown
            Inputs to decode. The others are 0 and do not enter batch statistics.
        alone
            Where no fusion gives a plane to views that are missing: what is there. The rest does not enter batch statistics of
            decoders of one input each.

        Returns
        -------
        tuple
            Features at strides 4, 8, 16: (B, K, C_l, h_l, w_l) each.
        """
        if self.view_embedding is not None:
            planes = planes + self.view_embedding[None, :, :, None, None]
        b, inputs = planes.shape[:2]
        chosen = list(shown)
        if alone is not None and not alone.everything and len(self.per_input) > 1 and set(alone.used) <= set(chosen):
            rows, finer_rows = alone.take(planes), [alone.take(level) for level in fine]
            of_plane, of_fine = alone.by_input(rows), [alone.by_input(level) for level in finer_rows]
            parts = {
                k: self.per_input[k](
                    of_plane.get(k, rows[:0]), [own.get(k, every[:0]) for own, every in zip(of_fine, finer_rows, strict=True)]
                )
                for k in chosen
            }
            first, second, third = (alone.spread(alone.joined({k: levels[n] for k, levels in parts.items()})) for n in range(3))
            return first, second, third
        if len(self.per_input) == 1:
            flat = self.per_input[0](_taken(planes, chosen), [_taken(level, chosen) for level in fine])
            decoded = [list(level.view(b, len(chosen), *level.shape[1:]).unbind(1)) for level in flat]
        else:
            plane, finer = planes.unbind(1), [level.unbind(1) for level in fine]
            by_input = [self.per_input[k](plane[k], [level[k] for level in finer]) for k in chosen]
            decoded = [[levels[number] for levels in by_input] for number in range(3)]
        filled = []
        for level in decoded:
            by_number = dict(zip(chosen, level, strict=True))
            if len(by_number) < inputs:
                by_number = {**dict.fromkeys(range(inputs), torch.zeros_like(level[0])), **by_number}
            # With channels last in memory, so that samples and inputs can be taken as one axis without a copy.
            rows = torch.stack([by_number[k].permute(0, 2, 3, 1) for k in range(inputs)], dim=1)
            filled.append(rows.permute(0, 1, 4, 2, 3))
        return filled[0], filled[1], filled[2]


def _taken(levels: Tensor, inputs: Sequence[int]) -> Tensor:
    """Return some inputs of (B, K, C, h, w) as (B * K', C, h, w); an index made of a list would be copied from the host."""
    taken = levels if list(inputs) == list(range(levels.shape[1])) else torch.stack([levels[:, k] for k in inputs], dim=1)
    return taken.flatten(0, 1)


def _upsampled(plane: Tensor) -> Tensor:
    """Return twice the size, in the same dtype: autocast would go to float32, and back in each of two convolutions."""
    with torch.autocast(plane.device.type, enabled=False):
        return functional.interpolate(plane, scale_factor=2, mode="bilinear", align_corners=False)
