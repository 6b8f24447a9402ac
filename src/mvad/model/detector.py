"""Protocol of all methods: fit to normal samples, return anomaly maps, save and load."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.config import ModelConfig
from mvad.model.devices import arithmetic
from mvad.model.input_spec import InputSpec
from mvad.model.score_scale import ScoreScale
from mvad.model.training.context import FitContext

Score = Callable[["Detector", Batch], "AnomalyMaps"]


def _as_configured(score: Score) -> Score:
    @functools.wraps(score)
    def scored(self: Detector, batch: Batch) -> AnomalyMaps:
        train = self.config.train
        with arithmetic(train.precision, train.deterministic):
            return score(self, batch)

    return scored


@dataclass(frozen=True)
class AnomalyMaps:
    """Anomaly maps and scores of B samples with V views each.

    Attributes
    ----------
    maps
        (B, V, S, S) float32; higher is more anomalous. Pixels that do not count have the lowest value of their sample.
    view_scores
        (B, V) float32; -inf where the view is missing or none of its pixels counts.
    sample_scores
        (B,) float32, combined from the present views by ``score.sample``.
    image_scores
        (B, V, M) float32, the method's own score of each view and modality (``Detector.scored``) before these are brought to one
        scale; -inf as in ``view_scores``. None if the method does not give them; its scores then cannot be standardised.
    """

    maps: Tensor
    view_scores: Tensor
    sample_scores: Tensor
    image_scores: Tensor | None = None


class Detector(Protocol):
    """Detector of a method. Derive from this class to inherit the methods that are not abstract.

    Attributes
    ----------
    config, spec
        Configuration and input spec with which the detector was created.
    device
        Device on which it computes; results are on the CPU.
    scale
        Scale of its scores, which ``score`` passes to ``finish_maps``; None: raw scores are compared. Training sets the scale
        after ``fit``, and saves it together with ``state`` (``model/calibration.py``).
    """

    config: ModelConfig
    spec: InputSpec
    device: torch.device
    scale: ScoreScale | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Have ``score`` compute as ``train.precision`` and ``train.deterministic`` say, whoever calls it."""
        super().__init_subclass__(**options)
        if "score" in cls.__dict__:
            cls.score = _as_configured(cls.__dict__["score"])  # type: ignore[assignment, method-assign]

    @property
    def scored(self) -> Sequence[Sequence[str]]:
        """Names of what ``image_scores`` and the scale hold along their last axis, by groups of equal weight: the modalities."""
        return [self.spec.modalities]

    @abstractmethod
    def fit(self, train: ShardSet, context: FitContext) -> None:
        """Train on normal samples, from the run's last checkpoint where there is one.

        Afterwards each process scores for itself: ``score`` must not wait for the others that train together.
        """

    @abstractmethod
    def score(self, batch: Batch) -> AnomalyMaps:
        """Score samples; the maps and scores of a sample do not depend on the other samples of the batch."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return everything that ``score`` needs, as tensors."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""

    def planned_seconds(self, samples: int) -> float:
        """Estimate how many seconds ``fit`` takes for ``samples`` training samples on this machine; 0: not known."""
        return 0.0

    def held_out_losses(self, normals: ShardSet) -> Mapping[str, float]:
        """Return losses of normal samples that are not trained on; they change neither weights nor random numbers.

        ``distillation``: the distillation loss per view; ``voxel_rise``: its rise, as a share of it, when the fused voxel is that
        of another sample. Empty for methods that have no such loss.
        """
        return {}

    def modules(self) -> Sequence[nn.Module]:
        """Return the networks that ``score`` runs, including the teacher's backbone; an export freezes them."""
        return ()

    def fits(self, seen: Tensor) -> Tensor | None:
        """Return for outlines (B, V, S, S) bool whether each sample (B,) lies in the detector's window; None: without a window.

        An exported detector scores only the part of a larger object that lies in its window of fixed size, since an exported
        graph cannot branch.
        """
        return None
