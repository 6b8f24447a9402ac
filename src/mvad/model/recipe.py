"""How runs are to be trained: what does not differ between the runs of one command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvad.datasets.shards.loader import ShardSet
from mvad.model.backbones.weights import WeightsSource
from mvad.model.registry import configure
from mvad.model.runs import fit_run, is_trained, prepare, run_name
from mvad.model.training.parallel import ProcessGroup
from mvad.progress import Progress


@dataclass
class Recipe:
    """A preset and what was said on top of it.

    Attributes
    ----------
    preset
        Its name.
    layers
        (origin, keys) above preset and method, the last one wins.
    textures, weights
        Where they are looked for.
    ranks
        Who trains together.
    """

    preset: str
    layers: Sequence[tuple[str, Mapping[str, Any]]]
    textures: Path
    weights: WeightsSource
    ranks: ProcessGroup = field(default_factory=ProcessGroup)
    _told: set[str] = field(default_factory=set)

    def fit(
        self, runs: Path, data: ShardSet, model: str, seed: int, progress: Progress, name: str | None = None,
        keys: Mapping[str, Any] | None = None,
    ) -> tuple[Path, bool]:  # fmt: skip
        """Train a run, or find it trained.

        Parameters
        ----------
        runs
            Folder of the runs.
        data
            The training split.
        model, seed
            Method and seed.
        progress
            Is told of steps, of the teacher (once), and how long it will take.
        name
            Of the run; None: made from dataset, category, method and seed.
        keys
            More keys, below ``layers`` and above the method's.

        Returns
        -------
        tuple
            The run's folder, and whether it was trained now.

        Raises
        ------
        BadInput, MissingComponent
            As ``prepare`` and ``fit_run``.
        """
        layers = [("table", keys or {}), ("option", {"seed": seed}), *self.layers]
        asked, origins = configure(self.preset, model, layers)
        run = runs / (name or run_name(data.dataset, data.category, asked.model, asked.seed))
        config, detector, teacher, notice = prepare(data, asked, self.textures, self.weights)
        if notice not in self._told:
            progress.say(notice)
            self._told.add(notice)
        if not is_trained(run) and self.ranks.rank == 0:
            minutes = detector.planned_seconds(len(data)) / 60 / self.ranks.size
            progress.say(f"{run.name}: preset {self.preset}, {len(data)} samples, about {minutes:.1f} minutes on this machine")
        return run, fit_run(run, data, config, origins, detector, teacher, progress, self.ranks)
