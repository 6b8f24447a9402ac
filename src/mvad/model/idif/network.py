"""Student network of IDIF (Figure 2), composed of its modules; some can be left out for the paper's ablations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvad.model.backbones.protocol import Teacher
from mvad.model.idif.bottleneck import ConsistencyBottleneck, Noise
from mvad.model.idif.config import IdifConfig
from mvad.model.idif.conv3d_fusion import Conv3dFusion
from mvad.model.idif.decoder import Decoders
from mvad.model.idif.encoder import Encoder
from mvad.model.idif.spatial_transformer import SpatialTransformer
from mvad.model.idif.voxel_fusion import VoxelFusion
from mvad.model.input_spec import InputSpec
from mvad.model.presence import Presence

_GROUPS = 8


@dataclass(frozen=True)
class Student:
    """Output of the network for B samples of K inputs (views times modalities).

    Attributes
    ----------
    levels
        f_stu at strides 4, 8, 16: each (B, K, C_l, h_l, w_l).
    bottleneck_loss
        L_IB, a scalar; 0 in evaluation.
    """

    levels: tuple[Tensor, Tensor, Tensor]
    bottleneck_loss: Tensor


class VoxelRoute(nn.Module):
    """Implicit Voxel Construction: features of all views to a voxel, and the voxel to one plane per view (eq. 7 to 9).

    The planes are normalised to the scale of f_c, to which they are added: else f_c alone varies between samples at the start.
    """

    def __init__(self, channels: int, plane: int, config: IdifConfig, angles: Tensor) -> None:
        super().__init__()
        self.spatial_transformer = SpatialTransformer(angles, config.voxel, config.stn, channels, plane)
        rotations = self.spatial_transformer.matrices().detach()
        self.voxel_fusion = VoxelFusion(channels, plane, rotations, config.voxel, config.fusion)
        self.norm = nn.GroupNorm(math.gcd(_GROUPS, channels), channels)

    def forward(self, specific: Tensor, present: Presence) -> Tensor:
        """f_s (B, K, C, h, w) and presence of the inputs to f_p of the shape of f_s, missing views included."""
        voxel = self.voxel_fusion(specific, present)  # eq. 7, 8 and 12
        planes = self.spatial_transformer(voxel)  # eq. 9, one plane per view
        normalised: Tensor = self.norm(planes.flatten(0, 1)).view_as(planes)
        return normalised


class Network(nn.Module):
    """Encoder, consistency bottleneck, implicit voxel construction and decoders.

    Parameters
    ----------
    config
        ``bottleneck.kind``, ``fusion.kind``, ``encoder.share`` and ``decoder.share`` leave parts out or multiply them.
    spec
        Views, modalities, angles.
    teacher
        Defines the encoder's architecture and the decoders' output channels.
    """

    def __init__(self, config: IdifConfig, spec: InputSpec, teacher: Teacher) -> None:
        super().__init__()
        modalities, level = len(spec.modalities), config.encoder.level
        inputs, plane = spec.views * modalities, config.input.size // level
        angles = spec.angles.repeat_interleave(modalities, dim=0)
        self.encoder = Encoder(teacher, config.encoder, inputs)
        channels = self.encoder.channels
        self.bottleneck = ConsistencyBottleneck(channels, inputs, config.bottleneck) if _has_bottleneck(config) else None
        self.fusion: nn.Module | None = None
        if config.fusion.kind == "voxel":
            self.fusion = VoxelRoute(channels, plane, config, angles)
        elif config.fusion.kind == "conv3d":
            self.fusion = Conv3dFusion(channels)
        self.decoders = Decoders(inputs, channels, level, teacher.channels, config.decoder)

    def forward(
        self, images: Tensor, given: Presence | Tensor, noise: Noise | None = None, shown: Sequence[int] | None = None,
        taught: Sequence[int] | None = None, keeps_common: Tensor | None = None, first: Tensor | None = None,
    ) -> Student:  # fmt: skip
        """Return the student's features.

        Parameters
        ----------
        images
            (B, K, 3, S, S) float32 in 0..255, K = views * modalities.
        given
            Presence of the inputs, or (B, K) bool.
        noise
            Draws epsilon of eq. 4 by shape; None takes the mean.
        shown
            Inputs that are present in at least one sample of any rank; default: those of this batch.
        taught
            Inputs to decode; default: those in ``shown``. Features of an input that is not decoded are 0.
        keeps_common
            (B,) bool, samples whose decoders get f_c (``bottleneck.withhold``); None: all.
        first
            The teacher's features at stride 4; see ``Encoder.forward``.
        """
        present = Presence.of(given, images.device)
        if shown is None:
            shown = present.used
        encoded = self.encoder(images, present, shown, first)
        specific, common = encoded.deepest, None  # f_E
        loss = specific.new_zeros(())
        if self.bottleneck is not None:
            common, specific, loss = self.bottleneck(specific, present, noise)  # eq. 2-6
        planes = specific if self.fusion is None else self.fusion(specific, present)  # f_p
        if common is not None:
            kept = common if keeps_common is None else common * keeps_common.to(common)[:, None, None, None]
            planes = planes + kept[:, None]
        if torch.is_autocast_enabled(planes.device.type):  # once, and not in each decoder's first convolutions
            planes = planes.to(torch.get_autocast_dtype(planes.device.type))
        alone = present if self.fusion is None and self.bottleneck is None else None
        return Student(self.decoders(planes, encoded.fine, shown if taught is None else taught, alone), loss)


def _has_bottleneck(config: IdifConfig) -> bool:
    return config.bottleneck.kind == "variational"
