"""What single-view rivals share: teacher features of every view of a split."""

from __future__ import annotations

import torch
from torch import Tensor

from mvad.datasets.shards.loader import Batch
from mvad.model.config import ModelConfig
from mvad.model.detector import Setting
from mvad.model.images import ViewImages, view_images
from mvad.model.precision import autocast
from mvad.model.teachers.protocol import Teacher


class ViewFeatures:
    """Teacher features of the inputs (views times modalities) of a batch."""

    def __init__(self, config: ModelConfig, setting: Setting, teacher: Teacher) -> None:
        self.config, self.setting, self.teacher = config, setting, teacher
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        teacher.trunk.to(self.device)

    def images(self, batch: Batch) -> ViewImages:
        """Return the batch as float images on the device."""
        setting = self.setting
        moved = batch.to(self.device)
        return view_images(moved, setting.modalities, self.config.input.size, self.teacher.fill, setting.depth_range)

    def levels(self, views: ViewImages) -> tuple[Tensor, ...]:
        """Return three maps (B, V, M, C_l, h_l, w_l) float32."""
        b, v, m = views.images.shape[:3]
        with torch.no_grad(), autocast(self.device, self.config.train.precision):
            flat = views.images.flatten(0, 2).contiguous(memory_format=torch.channels_last)
            levels = self.teacher.features(flat)
        return tuple(level.float().view(b, v, m, *level.shape[1:]) for level in levels)
