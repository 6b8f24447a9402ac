"""IDIF with one more part beside it, which is fitted, saved and loaded together with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from mvad.datasets.shards.loader import ShardSet
from mvad.model.detector import Detector
from mvad.model.idif.config import IdifConfig
from mvad.model.idif.detector import Idif
from mvad.model.training.context import FitContext


class Part(Protocol):
    """Part beside IDIF: a detector of another kind, or what fills missing views."""

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """Train on normal samples."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that the part needs, as tensors."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""


class ExtendedIdif(Detector):
    """Detector of IDIF and one more part. Derive from this class and define ``score`` and ``planned_seconds``."""

    config: IdifConfig

    def __init__(self, base: Idif, part: Part, name: str) -> None:
        """``name`` is the part's in the names of tensors."""
        self.base = base
        self._named = {"base.": base, f"{name}.": part}
        self.config, self.spec, self.device = base.config, base.spec, base.device

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``: IDIF first, which has checkpoints, then the part, which has none."""
        for part in self._named.values():
            part.fit(train, context)

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        return {prefix + name: tensor for prefix, part in self._named.items() for name, tensor in part.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        for prefix, part in self._named.items():
            part.load_state({name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)})

    def held_out_losses(self, normals: ShardSet) -> Mapping[str, float]:
        """See ``Detector.held_out_losses``: IDIF's."""
        return self.base.held_out_losses(normals)

    def modules(self) -> Sequence[nn.Module]:
        """See ``Detector.modules``."""
        return self.base.modules()

    def fits(self, seen: Tensor) -> Tensor | None:
        """See ``Detector.fits``."""
        return self.base.fits(seen)
