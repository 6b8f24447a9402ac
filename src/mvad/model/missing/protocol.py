"""A filler gives views that are missing; a filled detector is one that evaluates what a filler completed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.detector import AnomalyMaps, FitContext
from mvad.model.idif.detector import Idif
from mvad.model.images import ViewImages
from mvad.model.scoring import sample_scores


class Filler(Protocol):
    """Gives views that are missing."""

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """Learn from normal samples."""

    def fill(self, views: ViewImages) -> ViewImages:
        """Return the samples with all views there; those that were there are as they were."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that ``fill`` needs."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned."""


class FilledDetector:
    """A detector that always sees all views. Only views that are really there are scored: a substitute is no evidence."""

    def __init__(self, base: Idif, filler: Filler) -> None:
        self.base, self.filler = base, filler

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``: the detector first, whose checkpoints carry it over an interruption, then the filler."""
        self.base.fit(train, context)
        self.filler.fit(train, context)

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.base.images(batch)
        if bool(views.present.all()):
            return self.base.score_views(views)
        answer = self.base.score_views(self.filler.fill(views))
        there = views.present
        scores = answer.view_scores.masked_fill(~there, -torch.inf)
        maps = answer.maps * there[:, :, None, None]
        return AnomalyMaps(maps, scores, sample_scores(scores, self.base.config.score))

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        own = {f"base.{name}": tensor for name, tensor in self.base.state().items()}
        return own | {f"filler.{name}": tensor for name, tensor in self.filler.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        self.base.load_state(_below(state, "base."))
        self.filler.load_state(_below(state, "filler."))

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``; the filler's part is small."""
        return 1.1 * self.base.planned_seconds(samples)


def completed(views: ViewImages, images: Tensor, seen: Tensor) -> ViewImages:
    """Return views with other images and outlines in the place of those that are missing."""
    there = views.present[:, :, None, None]
    filled = torch.where(there[:, :, None, None], views.images, images.to(views.images))
    return replace(
        views,
        images=filled,
        seen=torch.where(there, views.seen, seen.to(views.seen.device)),
        present=torch.ones_like(views.present),
    )


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
