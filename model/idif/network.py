"""IDIF's student (Figure 2): it composes and decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvad.model.config import ModelConfig
from mvad.model.detector import Setting
from mvad.model.idif.bottleneck import ConsistencyBottleneck
from mvad.model.idif.decoder import ViewDecoder
from mvad.model.idif.encoder import Encoder
from mvad.model.idif.spatial_transformer import SpatialTransformer
from mvad.model.idif.voxel_fusion import VoxelFusion
from mvad.model.teachers.protocol import Teacher


@dataclass(frozen=True)
class Student:
    """What the network gives for B samples of K inputs (views times modalities).

    Attributes
    ----------
    levels
        f_stu at strides 4, 8, 16: each (B, K, C_l, h_l, w_l).
    bottleneck_loss
        L_IB, a scalar; 0 in evaluation.
    """

    levels: tuple[Tensor, Tensor, Tensor]
    bottleneck_loss: Tensor


class Network(nn.Module):
    """Encoder, consistency bottleneck, voxel fusion, spatial transformer, per-view decoders."""

    def __init__(self, config: ModelConfig, setting: Setting, teacher: Teacher) -> None:
        super().__init__()
        inputs = setting.views * len(setting.modalities)
        channels, plane = config.encoder.channels, config.input.size // 16
        trunk = teacher.fresh()
        if config.encoder.init == "scratch":
            for module in trunk.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()  # type: ignore[operator]  # a method wherever it exists
        angles = setting.angles.repeat_interleave(len(setting.modalities), dim=0)
        if config.stn.init == "zeros":
            angles = torch.zeros_like(angles)
        widths = config.decoder.widths or tuple(reversed(teacher.channels))
        self.encoder = Encoder(trunk, channels, config.encoder.freeze_early)
        self.bottleneck = ConsistencyBottleneck(channels, inputs, config.bottleneck)
        self.voxel_fusion = VoxelFusion(channels, plane, inputs, config.voxel, config.fusion)
        self.spatial_transformer = SpatialTransformer(angles, config.voxel.channels, config.voxel.size, channels, plane)
        self.decoders = nn.ModuleList(ViewDecoder(channels, widths, teacher.channels) for _ in range(inputs))

    def forward(self, images: Tensor, present: Tensor, noise: torch.Generator | None = None) -> Student:
        """Give the student's features for images (B, K, 3, S, S) in 0..255 and present (B, K) bool."""
        encoded = self.encoder(images, present)  # f_E
        common, specific, loss = self.bottleneck(encoded, present, noise)  # eq. 2-6
        voxel = self.voxel_fusion(specific, present)  # eq. 7, 8 and 12
        seen = self.spatial_transformer(voxel)  # eq. 9, one plane a view
        planes = seen + common[:, None]
        return Student(self._decode(planes, present), loss)

    def _decode(self, planes: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the views that some sample has; a view that nobody has is 0 and moves no statistics."""
        shown = [view for view in range(planes.shape[1]) if bool(present[:, view].any())]
        decoded = {view: self.decoders[view](planes[:, view]) for view in shown}
        levels = []
        for level in range(3):
            zero = torch.zeros_like(decoded[shown[0]][level])
            levels.append(torch.stack([decoded[v][level] if v in decoded else zero for v in range(planes.shape[1])], 1))
        return levels[0], levels[1], levels[2]
