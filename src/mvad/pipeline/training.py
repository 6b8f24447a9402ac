"""Training of runs with the settings that the runs of one command share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mvad.datasets.registry import default_modalities
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.schema import PICTURES
from mvad.model.backbones.weights import WeightsSource
from mvad.model.calibration import LEAST_VALIDATION, fold_count
from mvad.model.config import PAPER_PRESETS, ModelConfig
from mvad.model.fitting import fit_run, prepare
from mvad.model.holdout import parts_of
from mvad.model.registry import configure, method_named
from mvad.model.runs import RunFolder, run_name
from mvad.model.training.parallel import ProcessGroup
from mvad.progress import Progress
from mvad.settings import unused

_SHORT_MINUTES = 5
"""Training time of which nothing is said."""


@dataclass
class Recipe:
    """Settings that several runs share: preset, keys, textures, weights, device.

    Attributes
    ----------
    preset
        Name of the preset.
    layers
        Pairs (origin, keys) with precedence over preset and method; later pairs take precedence.
    textures, weights
        Folder of the textures, and where the teacher's weights may be found.
    device
        Device of the detectors.
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
        """Train a run if it is not finished.

        Parameters
        ----------
        runs
            Folder of the runs.
        data
            The training split.
        model, seed
            Method and seed.
        progress
            Receives the steps, and messages on the teacher (once) and the expected time.
        name
            Name of the run; None: made from dataset, category, method and seed.
        keys
            More keys, with precedence over the method's but not over ``layers``.

        Returns
        -------
        tuple
            The run's folder, and whether it was trained by this call.

        Raises
        ------
        BadInput, MissingComponent
            See ``prepare`` and ``fit_run``.
        """
        config, origins = self.configured(model, seed, keys)
        self._say_once(progress, *self._without_effect(config.model, set(origins) - set(method_named(config.model).ignores)))
        inputs = default_modalities(data.dataset, self.preset in PAPER_PRESETS)
        if not set(inputs) <= set(data.stored):
            inputs = default_modalities(data.dataset)
        if PICTURES in data.config:
            inputs = ()  # own photographs have what was packed of them
        if inputs and not config.input.modalities:
            config = replace(config, input=replace(config.input, modalities=inputs))
            origins["input.modalities"] = f"dataset {data.dataset}"
        run = runs / (name or run_name(data.dataset, data.category, config.model, config.seed))
        prepared = prepare(data, config, self.textures, self.weights, self.device)
        self._say_once(progress, prepared.notice)
        if not RunFolder(run).is_trained and self.ranks.rank == 0:
            parts = parts_of(data, prepared.config.train.holdout)
            samples = len(parts.fitted)
            folds = fold_count(prepared.config, method_named(prepared.config.model), parts.fitted, parts.held_out)
            minutes = (1 + folds) * prepared.detector.planned_seconds(samples) / 60 / self.ranks.size
            spare = folds and parts.held_out is None and 0.2 * samples >= LEAST_VALIDATION and minutes > _SHORT_MINUTES
            without = " (with --holdout 0.2 its normals serve, and nothing is trained again)" if spare else ""
            again = f", of it {folds} folds for the scale of the scores{without}" if folds else ""
            beside = f" ({len(parts.held_out)} more are held out)" if parts.held_out else ""
            progress.say(
                f"{run.name}: preset {self.preset}, {samples} samples{beside}, about {minutes:.1f} minutes on this machine{again}"
            )
        return run, fit_run(run, data, prepared, origins, progress, self.ranks)

    def configured(self, model: str, seed: int, keys: Mapping[str, Any] | None = None) -> tuple[ModelConfig, dict[str, str]]:
        """Return the configuration of a run, and the origin of each key, before what the data decide; see ``fit``.

        Raises
        ------
        BadInput
            If a key or a value does not exist.
        """
        return configure(self.preset, model, [("table", keys or {}), *self.layers, ("option", {"seed": seed, "model": model})])

    def _without_effect(self, model: str, known: Collection[str]) -> list[str]:
        """Return a line if keys were given for this training that only other methods use; files serve several methods."""
        given = [(origin, keys) for origin, keys in self.layers if origin in ("--set", "argument")]
        names = unused(given, known)
        return [f"{', '.join(names)}: not used by {model}, whose results do not depend on that"] if names else []

    def _say_once(self, progress: Progress, *lines: str) -> None:
        for line in lines:
            if line not in self._notices:
                progress.say(line)
                self._notices.add(line)
