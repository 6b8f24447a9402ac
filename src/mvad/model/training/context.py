"""What a training is given besides its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mvad.model.training.parallel import ProcessGroup
from mvad.progress import Progress


@dataclass(frozen=True)
class FitContext:
    """Where a training may save, what it reports to, and the processes that share it.

    Attributes
    ----------
    run
        The run's folder: checkpoints are written there.
    progress
        Is told of steps.
    log
        Takes the figures of a step.
    ranks
        The processes that train together.
    """

    run: Path
    progress: Progress
    log: Callable[[Mapping[str, float]], None]
    ranks: ProcessGroup = field(default_factory=ProcessGroup)
