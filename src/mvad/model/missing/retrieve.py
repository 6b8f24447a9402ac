"""Retrieve: a missing view is replaced by the same view of the nearest training sample (paper, Figure 4).

The distance is between mean teacher features of the views that are present.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mvad.datasets.shards.loader import ShardSet
from mvad.errors import BadInput
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import ModelConfig
from mvad.model.features import ViewFeatures
from mvad.model.images import ViewImages
from mvad.model.input_spec import InputSpec
from mvad.model.missing.filler import completed
from mvad.model.training.context import FitContext


class Retrieve:
    """Filler that stores all views of the training samples, with one feature vector per view."""

    def __init__(self, config: ModelConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> None:
        self.features = ViewFeatures(config, spec, teacher, device)
        self.bank: dict[str, Tensor] = {}

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Filler.fit``: store the samples that have all views.

        Raises
        ------
        BadInput
            If no training sample has all views.
        """
        images, seen, vectors = [], [], []
        context.progress.start(f"keep views {context.run.name}", len(train))
        for views in self.features.each_sample(train):
            if bool(views.present.all()):
                images.append(views.images[0].round().clamp(0, 255).to(torch.uint8))
                seen.append(views.seen[0])
                vectors.append(self._vectors(views)[0])
            context.progress.advance()
        if not images:
            raise BadInput(
                f"{train.folder}: no training sample has all views, and retrieve takes missing ones from such; choose another method"
            )
        self.bank = {"images": torch.stack(images), "seen": torch.stack(seen), "vectors": torch.stack(vectors)}

    def fill(self, views: ViewImages) -> ViewImages:
        """See ``Filler.fill``."""
        vectors, present = self._vectors(views), views.present_on_device()
        distance = (vectors[:, None] - self.bank["vectors"][None]).norm(dim=-1)  # (B, N, V)
        mean = (distance * present[:, None]).sum(dim=-1) / present.sum(dim=1)[:, None]
        nearest = mean.argmin(dim=1)
        return completed(views, self.bank["images"][nearest].float(), self.bank["seen"][nearest])

    def state(self) -> dict[str, Tensor]:
        """See ``Filler.state``."""
        return dict(self.bank)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Filler.load_state``."""
        self.bank = {name: tensor.to(self.features.device) for name, tensor in state.items()}

    def _vectors(self, views: ViewImages) -> Tensor:
        """Return (B, V, C): mean features over the object, modalities concatenated; 0 where a view is missing."""
        return self.features.pooled(views).flatten(2) * views.present_on_device()[:, :, None]
