"""What gives views that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from mvad.datasets.shards.loader import ShardSet
from mvad.model.images import ViewImages
from mvad.model.training.context import FitContext


class Filler(Protocol):
    """Gives views that are missing."""

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """Learn from normal samples."""

    def fill(self, views: ViewImages) -> ViewImages:
        """Return the samples with all views present; those that were present are unchanged."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that ``fill`` needs."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned."""


def completed(views: ViewImages, images: Tensor, seen: Tensor) -> ViewImages:
    """Return views with other images and outlines in the place of those that are missing."""
    present = views.present[:, :, None, None]
    filled = torch.where(present[:, :, None, None], views.images, images.to(views.images))
    return replace(
        views,
        images=filled,
        seen=torch.where(present, views.seen, seen.to(views.seen.device)),
        present=torch.ones_like(views.present),
    )
