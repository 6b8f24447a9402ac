"""The protocol of all methods: fitted on normal samples, asked for anomaly maps, saved and loaded alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.config import ModelConfig
from mvad.model.input_spec import InputSpec
from mvad.model.training.context import FitContext


@dataclass(frozen=True)
class AnomalyMaps:
    """A detector's answer for B samples of V views.

    Attributes
    ----------
    maps
        (B, V, S, S) float32, higher is more anomalous; pixels that do not count have the lowest value of their sample.
    view_scores
        (B, V) float32; -inf where the view is missing.
    sample_scores
        (B,) float32, by ``score.sample`` over the views that are present.
    """

    maps: Tensor
    view_scores: Tensor
    sample_scores: Tensor


class Detector(Protocol):
    """A method. Derive from this class to inherit ``modules`` and ``fits``.

    Attributes
    ----------
    config, spec
        What it was made with.
    device
        Where it computes; answers are on the processor.
    """

    config: ModelConfig
    spec: InputSpec
    device: torch.device

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """Learn from normal samples. Continues from the run's last checkpoint where there is one."""

    def score(self, batch: Batch) -> AnomalyMaps:
        """Score samples; a sample's answer does not depend on the batch it is in."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that ``score`` needs, as tensors."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned."""

    def planned_seconds(self, samples: int) -> float:
        """Estimate how long ``fit`` takes on this machine; measured on a small piece of the work."""

    def modules(self) -> Sequence[nn.Module]:
        """Return the networks that ``score`` runs, the teacher's backbone among them; an export freezes them."""
        return ()

    def fits(self, seen: Tensor) -> Tensor | None:
        """Return for outlines (B, V, S, S) whether each sample (B,) is scored whole; None where that is always so.

        A detector that looks through a window of fixed size answers for a part of a larger object once it is exported, since
        an exported graph cannot branch.
        """
        return None
