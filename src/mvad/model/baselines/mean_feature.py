"""The floor: distance of pooled teacher features to their training mean. Every method must beat it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import ModelConfig
from mvad.model.detector import AnomalyMaps, FitContext, InputSpec
from mvad.model.features import ViewFeatures


class MeanFeature:
    """One mean vector a view and modality; a view's map is flat, since pooling knows no place."""

    def __init__(self, config: ModelConfig, spec: InputSpec, teacher: Teacher) -> None:
        self.features = ViewFeatures(config, spec, teacher)
        self.mean = torch.zeros(spec.views, len(spec.modalities), sum(teacher.channels))

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``."""
        context.progress.start(f"train {context.run.name}", len(train))
        total, count = torch.zeros_like(self.mean), torch.zeros(self.mean.shape[:2])
        for index in range(len(train)):
            views = self.features.images(train.batch([index]))
            present = views.present[0].cpu()
            total += self.features.pooled(views).cpu()[0] * present[:, None, None]
            count += present[:, None]
            context.progress.advance()
        self.mean = total / count.clamp(min=1)[..., None]

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.features.images(batch)
        distance = (self.features.pooled(views).cpu() - self.mean).norm(dim=-1).mean(dim=2)
        present = views.present.cpu()
        scores = torch.where(present, distance, torch.full((), -torch.inf))
        maps = distance[:, :, None, None] * views.seen.cpu() * present[:, :, None, None]
        return AnomalyMaps(maps, scores, scores.amax(dim=1))

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        return {"mean": self.mean}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        self.mean = state["mean"]

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``: one forward pass of the teacher for every view."""
        size = self.features.config.input.size
        return 1.5e-6 * size * size * samples * self.mean.shape[0] * self.mean.shape[1]
