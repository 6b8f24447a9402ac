"""A detector that always sees all views: what is missing, a filler puts in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.idif.config import IdifConfig
from mvad.model.idif.detector import Idif
from mvad.model.input_spec import InputSpec
from mvad.model.missing.filler import Filler
from mvad.model.missing.methods import ReconstructConfig
from mvad.model.missing.reconstruct import Reconstruct
from mvad.model.missing.retrieve import Retrieve
from mvad.model.training.context import FitContext


class FilledDetector(Detector):
    """IDIF on views that a filler completed. Only views that are really present are scored: a substitute is no evidence."""

    config: IdifConfig

    def __init__(self, base: Idif, filler: Filler) -> None:
        self.base, self.filler = base, filler
        self.config, self.spec, self.device = base.config, base.spec, base.device

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``: IDIF first, whose checkpoints carry it over an interruption, then the filler."""
        self.base.fit(train, context)
        self.filler.fit(train, context)

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views = self.base.images(batch)
        if bool(views.present.all()):
            return self.base.score_views(views)
        return self.base.score_views(self.filler.fill(views), scored=views)

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        base = {f"base.{name}": tensor for name, tensor in self.base.state().items()}
        return base | {f"filler.{name}": tensor for name, tensor in self.filler.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        self.base.load_state(_below(state, "base."))
        self.filler.load_state(_below(state, "filler."))

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``; the filler's part is small."""
        return 1.1 * self.base.planned_seconds(samples)

    def modules(self) -> Sequence[nn.Module]:
        """See ``Detector.modules``."""
        return self.base.modules()

    def fits(self, seen: Tensor) -> Tensor | None:
        """See ``Detector.fits``."""
        return self.base.fits(seen)


def retrieve(config: IdifConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> FilledDetector:
    """Return IDIF whose missing views come from the nearest training sample."""
    return FilledDetector(Idif(config, spec, teacher, device), Retrieve(config, spec, teacher, device))


def reconstruct(config: ReconstructConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> FilledDetector:
    """Return IDIF whose missing views are drawn by a U-Net."""
    return FilledDetector(Idif(config, spec, teacher, device), Reconstruct(config, spec, teacher, device))


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
