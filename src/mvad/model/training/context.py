"""Context of a training: folder, progress, log, processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mvad.datasets.shards.loader import ShardSet
from mvad.model.training.parallel import ProcessGroup
from mvad.progress import Progress


@dataclass(frozen=True)
class FitContext:
    """What a training needs besides its data and configuration.

    Attributes
    ----------
    run
        The run's folder, in which checkpoints are written.
    progress
        Receives the steps.
    log
        Called with the figures of each step.
    ranks
        The processes that train together.
    held_out
        Normal samples held out of training, for figures in the log (``train.holdout``); None: no such figures.
    """

    run: Path
    progress: Progress
    log: Callable[[Mapping[str, float]], None]
    ranks: ProcessGroup = field(default_factory=ProcessGroup)
    held_out: ShardSet | None = None
