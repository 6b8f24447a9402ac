"""The engine of every training: phases of like steps, batches and random numbers by step, checkpoints. It knows no method."""

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
"""Takes step k of a phase with its batch and its random numbers; returns figures, ``loss`` among them."""


@dataclass(frozen=True)
class TrainingPhase:
    """A run of like steps with the optimizers that they use.

    Attributes
    ----------
    name, steps
        For the log, and how many.
    stream
        Number of the phase's stream of random numbers: step k draws from (seed, stream, k) and nothing else.
    begin
        Called once before the phase's first step in this process.
    step
        See ``Step``.
    optimizers
        Their state goes into checkpoints while the phase lasts.
    """

    name: str
    steps: int
    stream: int
    begin: Callable[[], None]
    step: Step
    optimizers: Optimizers


@dataclass
class _Current:
    """The phase in progress, and the samples of the last step."""

    phase: TrainingPhase
    keys: Sequence[str] = field(default_factory=tuple)


def train_phases(
    train: ShardSet, phases: Sequence[TrainingPhase], config: ModelConfig, context: FitContext, samples: int, device: torch.device,
    state: Callable[[], Mapping[str, Tensor]], load_state: Callable[[Mapping[str, Tensor]], None],
) -> None:  # fmt: skip
    """Take every step of every phase, from the run's last checkpoint on.

    The same steps give the same weights wherever a training was stopped, and whatever the number of ranks (up to rounding).

    Parameters
    ----------
    train
        The training split.
    phases
        What is to be done, in order.
    config
        ``seed`` and ``train.*``.
    context
        Where to save and log, and the ranks that share each batch.
    samples
        Samples per step, over all ranks.
    device
        Batches for a CUDA device are read into page-locked memory.
    state, load_state
        Give and take the weights.

    Raises
    ------
    BadInput
        If a loss is not finite, or the last checkpoint is damaged.
    """
    current = _Current(phases[0])
    first = _resume(phases, context, load_state)
    ranks, total = context.ranks, sum(phase.steps for phase in phases)
    batches = Batches(train, config.seed, samples, rank=ranks.rank, ranks=ranks.size)
    coming = batches.steps(first, total, config.train.workers, pin=device.type == "cuda")

    def in_loop(phase: TrainingPhase) -> Phase:
        def begin() -> None:
            current.phase = phase
            phase.begin()

        def step(k: int) -> Mapping[str, float]:
            batch = next(coming)
            current.keys = batch.keys
            return phase.step(batch, generator_of(config.seed, phase.stream, k), k)

        return Phase(phase.name, phase.steps, begin, step)

    def tensors() -> dict[str, Tensor]:
        return {**state(), **current.phase.optimizers.tensors()}

    every, keep = config.train.checkpoint_every, config.train.keep_checkpoints
    run_phases([in_loop(phase) for phase in phases], first, samples, tensors, every, keep, context, lambda: current.keys)


def _resume(phases: Sequence[TrainingPhase], context: FitContext, load_state: Callable[[Mapping[str, Tensor]], None]) -> int:
    """Load the run's last checkpoint, if there is one; returns the number of steps that are done."""
    saved = last_checkpoint(context.run)
    if saved is None:
        return 0
    load_state(saved.tensors)
    begun = 0
    for phase in phases:
        if begun < saved.step < begun + phase.steps:  # at the beginning of a phase its optimizers have no past
            phase.optimizers.load(saved.tensors)
        begun += phase.steps
    return saved.step


def generator_of(seed: int, stream: int, step: int) -> torch.Generator:
    """Return a step's random numbers: a function of nothing but (seed, stream, step)."""
    number = int(np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(number)
