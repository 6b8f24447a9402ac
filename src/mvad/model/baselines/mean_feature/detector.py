"""Distance of pooled teacher features to their training mean, the lower bound for all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import ModelConfig
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.features import ViewFeatures
from mvad.model.input_spec import InputSpec
from mvad.model.scoring import finish_maps
from mvad.model.training.context import FitContext


class MeanFeature(Detector):
    """One mean vector per view and modality; the map of a view is constant, since pooling discards positions."""

    def __init__(self, config: ModelConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        self.config, self.spec, self.device = config, spec, device
        self.features = ViewFeatures(config, spec, teacher, device)
        self.mean = torch.zeros(spec.views, len(spec.modalities), sum(teacher.channels), device=device)

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``."""
        context.progress.start(f"train {context.run.name}", len(train))
        total = torch.zeros_like(self.mean)
        count = torch.zeros(self.mean.shape[:2], device=self.device)
        for views in self.features.each_sample(train):
            shown = views.present_on_device()[0] & views.seen[0].flatten(1).any(dim=1)
            total += self.features.pooled(views)[0] * shown[:, None, None]
            count += shown[:, None]
            context.progress.advance()
        self.mean = total / count.clamp(min=1)[..., None]

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.features.images(batch)
        distance = (self.features.pooled(views) - self.mean).norm(dim=-1).mean(dim=2, keepdim=True)
        size = self.config.input.size
        maps = distance[..., None, None].expand(-1, -1, -1, size, size)
        return finish_maps(maps, views, self.config.score, distance, scale=self.scale)

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        return {"mean": self.mean}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        self.mean = state["mean"].to(self.device)

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``: one forward pass of the teacher per view and modality."""
        size = self.config.input.size
        return 1.5e-6 * size * size * samples * self.mean.shape[0] * self.mean.shape[1]

    def modules(self) -> Sequence[nn.Module]:
        """See ``Detector.modules``."""
        return [self.features.teacher.backbone]
