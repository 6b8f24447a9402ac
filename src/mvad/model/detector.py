"""What IDIF and every baseline are: fitted on normal samples, asked for anomaly maps, saved and loaded alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import ModelConfig
from mvad.model.training.parallel import ProcessGroup
from mvad.progress import Progress


@dataclass(frozen=True)
class AnomalyMaps:
    """A detector's answer for B samples of V views.

    Attributes
    ----------
    maps
        (B, V, S, S) float32, higher is more anomalous; 0 at pixels that do not count.
    view_scores
        (B, V) float32; -inf where the view is missing.
    sample_scores
        (B,) float32, the maximum over present views.
    """

    maps: Tensor
    view_scores: Tensor
    sample_scores: Tensor


@dataclass(frozen=True)
class FitContext:
    """What a fit is given besides its data: where it may save, who wants to know, and who trains with it."""

    run: Path
    progress: Progress
    log: Callable[[Mapping[str, float]], None]
    ranks: ProcessGroup = field(default_factory=ProcessGroup)


class Detector(Protocol):
    """A method."""

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """Learn from normal samples. Continues from the run's last checkpoint where there is one."""

    def score(self, batch: Batch) -> AnomalyMaps:
        """Evaluate samples; a sample's answer does not depend on the batch it is in."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that ``score`` needs, as tensors."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned."""

    def planned_seconds(self, samples: int) -> float:
        """Estimate how long ``fit`` takes on this machine; measured on a small piece of the work."""


@dataclass(frozen=True)
class InputSpec:
    """What a detector is made for.

    Attributes
    ----------
    views
        Number of views V.
    modalities
        Inputs of each view, in order.
    angles
        (V, 3) tensor of Euler angles xyz in radians, where each camera stands.
    depth_range
        Middle and half width of the object's depths (metres), or None without depth.
    scan_width
        Columns of the raw scans that ``source`` counts in, or None where it was not asked for.
    """

    views: int
    modalities: tuple[str, ...]
    angles: Tensor
    depth_range: tuple[float, float] | None
    scan_width: int | None = None


DetectorFactory = Callable[[ModelConfig, InputSpec, Teacher], Detector]


def as_json(spec: InputSpec) -> dict[str, Any]:
    """Return a spec as plain values."""
    return {
        "views": spec.views,
        "modalities": list(spec.modalities),
        "angles": spec.angles.tolist(),
        "depth_range": list(spec.depth_range) if spec.depth_range else None,
        "scan_width": spec.scan_width,
    }
