"""Training engine, used by every method that trains in steps: phases, batches and random numbers by step, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mvad.datasets.shards.batches import Batches
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.config import ModelConfig
from mvad.model.training.checkpoint import last_checkpoint
from mvad.model.training.context import FitContext
from mvad.model.training.loop import Phase, run_phases
from mvad.model.training.optimizers import Optimizers

Step = Callable[[Batch, torch.Generator, int], Mapping[str, float]]
"""Performs step k of a phase with its batch and random generator; returns figures, including ``loss``."""


@dataclass(frozen=True)
class TrainingPhase:
    """Phase of a training: a number of steps of the same kind, with their optimizers.

    Attributes
    ----------
    name, steps
        Name for the log, and number of steps.
    stream
        Number of the phase's random stream: the generator of step k depends on (seed, stream, k) only.
    begin
        Called once before the phase's first step in this process.
    step
        See ``Step``.
    optimizers
        Their state is part of the phase's checkpoints.
    """

    name: str
    steps: int
    stream: int
    begin: Callable[[], None]
    step: Step
    optimizers: Optimizers


@dataclass
class _Current:
    """The current phase, and the keys of the samples of the last step."""

    phase: TrainingPhase
    keys: Sequence[str] = field(default_factory=tuple)


def train_phases(
    train: ShardSet, phases: Sequence[TrainingPhase], config: ModelConfig, context: FitContext, samples: int, device: torch.device,
    state: Callable[[], Mapping[str, Tensor]], load_state: Callable[[Mapping[str, Tensor]], None],
) -> None:  # fmt: skip
    """Perform all steps of all phases, from the run's last checkpoint on.

    A training that was interrupted and continued gives the same weights as one without interruption; the number of ranks
    changes them by rounding only.

    Parameters
    ----------
    train
        The training split.
    phases
        The phases in order.
    config
        ``seed`` and ``train.*``.
    context
        Folder and log of the run, and the processes that share each batch.
    samples
        Samples per step, over all ranks.
    device
        Device of the training; batches for a CUDA device are read into page-locked memory.
    state, load_state
        Return and restore the weights.

    Raises
    ------
    BadInput
        If a loss is not finite, or the last checkpoint is damaged.
    """
    current = _Current(phases[0])
    first = _resume(phases, context, load_state)
    ranks, total = context.ranks, sum(phase.steps for phase in phases)
    batches = Batches(train, config.seed, samples, rank=ranks.rank, ranks=ranks.size)
    batch_iterator = batches.steps(first, total, config.train.workers, pin=device.type == "cuda")

    def in_loop(phase: TrainingPhase) -> Phase:
        def begin() -> None:
            current.phase = phase
            phase.begin()

        def step(k: int) -> Mapping[str, float]:
            batch = next(batch_iterator)
            current.keys = batch.keys
            return phase.step(batch, generator_of(config.seed, phase.stream, k), k)

        return Phase(phase.name, phase.steps, begin, step)

    def tensors() -> dict[str, Tensor]:
        return {**state(), **current.phase.optimizers.tensors()}

    every, keep = config.train.checkpoint_every, config.train.keep_checkpoints
    run_phases([in_loop(phase) for phase in phases], first, samples, tensors, every, keep, context, lambda: current.keys)


def _resume(phases: Sequence[TrainingPhase], context: FitContext, load_state: Callable[[Mapping[str, Tensor]], None]) -> int:
    """Load the run's last checkpoint, if there is one; return the number of finished steps."""
    saved = last_checkpoint(context.run)
    if saved is None:
        return 0
    load_state(saved.tensors)
    begun = 0
    for phase in phases:
        if begun < saved.step < begun + phase.steps:  # at the beginning of a phase its optimizers have no state
            phase.optimizers.load(saved.tensors)
        begun += phase.steps
    return saved.step


def generator_of(seed: int, stream: int, step: int) -> torch.Generator:
    """Return the random generator of a step, which depends on (seed, stream, step) only."""
    number = int(np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(number)
