"""How runs are trained: what does not differ between the runs of one command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mvad.datasets.registry import default_modalities
from mvad.datasets.shards.loader import ShardSet
from mvad.model.backbones.weights import WeightsSource
from mvad.model.fitting import fit_run, prepare
from mvad.model.registry import configure
from mvad.model.runs import RunFolder, run_name
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
    device
        Where detectors compute.
    ranks
        The processes that train together.
    """

    preset: str
    layers: Sequence[tuple[str, Mapping[str, Any]]]
    textures: Path
    weights: WeightsSource
    device: torch.device
    ranks: ProcessGroup = field(default_factory=ProcessGroup)
    _notices: set[str] = field(default_factory=set)

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
        inputs = default_modalities(data.dataset)
        defaults: dict[str, Any] = {"input.modalities": inputs} if inputs else {}
        layers = [(f"dataset {data.dataset}", defaults), ("table", keys or {}), ("option", {"seed": seed}), *self.layers]
        asked, origins = configure(self.preset, model, layers)
        run = runs / (name or run_name(data.dataset, data.category, asked.model, asked.seed))
        prepared = prepare(data, asked, self.textures, self.weights, self.device)
        if prepared.notice not in self._notices:
            progress.say(prepared.notice)
            self._notices.add(prepared.notice)
        if not RunFolder(run).is_trained and self.ranks.rank == 0:
            minutes = prepared.detector.planned_seconds(len(data)) / 60 / self.ranks.size
            progress.say(f"{run.name}: preset {self.preset}, {len(data)} samples, about {minutes:.1f} minutes on this machine")
        return run, fit_run(run, data, prepared, origins, progress, self.ranks)
