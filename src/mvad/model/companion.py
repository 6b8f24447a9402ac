"""IDIF together with a method of another kind: both are standardised by the same held-out normals, and added (``companion.kind``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mvad.datasets.shards.loader import Batch
from mvad.errors import BadInput
from mvad.model.backbones.protocol import Teacher
from mvad.model.baselines.padim import PaDiMConfig
from mvad.model.baselines.padim.detector import PaDiM
from mvad.model.detector import AnomalyMaps, Detector
from mvad.model.idif.config import IdifConfig
from mvad.model.idif.detector import Idif
from mvad.model.idif.extended import ExtendedIdif
from mvad.model.input_spec import InputSpec
from mvad.model.scoring import counted, counted_scores, finish_maps, highest


def idif(config: IdifConfig, spec: InputSpec, teacher: Teacher, device: torch.device) -> Detector:
    """Return an unfitted IDIF, with its companion if the configuration names one.

    Raises
    ------
    BadInput
        If there is one, and no held-out normals give the scale on which scores of two methods can be added.
    """
    base = Idif(config, spec, teacher, device)
    if config.companion.kind == "none":
        return base
    if config.score.scale == "none" or config.score.folds == 1:
        key = "score.scale = none" if config.score.scale == "none" else "score.folds = 1"
        raise BadInput(
            f"companion.kind = {config.companion.kind} needs scores in deviations of held-out normals; {key} gives none"
        )
    shared = PaDiMConfig("padim", config.seed, config.teacher, config.input, config.train, config.score)
    return WithCompanion(base, PaDiM(shared, spec, teacher, device))


class WithCompanion(ExtendedIdif):
    """IDIF and PaDiM, whose maps and scores are added in deviations of held-out normals, with equal weight.

    The scale (``Detector.scale``) has IDIF's modalities first, then the same of PaDiM. Without a scale, where there are too few
    normals, IDIF's own maps and scores are given: raw scores of two methods cannot be added.
    """

    def __init__(self, base: Idif, other: PaDiM) -> None:
        super().__init__(base, other, "companion")
        self.other = other

    @property
    def scored(self) -> Sequence[Sequence[str]]:
        """See ``Detector.scored``: IDIF's, and PaDiM's."""
        return [self.spec.modalities, [f"{name} (PaDiM)" for name in self.spec.modalities]]

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        views, config = self.base.images(batch), self.config.score
        counts = counted(views, config)
        own, others = self.base.maps_of(views), self.other.maps_of(views)
        scores = [counted_scores(own, counts, config), highest(others, counts)]
        found = finish_maps(torch.cat([own, others], dim=2), views, config, torch.cat(scores, dim=2), self.scale, groups=2)
        if self.scale is None:
            return replace(finish_maps(own, views, config), image_scores=found.image_scores)
        return found

    def planned_seconds(self, samples: int) -> float:
        """See ``Detector.planned_seconds``."""
        return self.base.planned_seconds(samples) + self.other.planned_seconds(samples)
