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
from mvad.model.training.checkpoint import Frozen, last_checkpoint
from mvad.model.training.checkpoint_writer import CheckpointWriter, Content
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
    trains
        Beginnings of the names, in the state, of all tensors that the phase changes (buffers, too); the others are written once
        a phase. Default: any may change.
    """

    name: str
    steps: int
    stream: int
    begin: Callable[[], None]
    step: Step
    optimizers: Optimizers
    trains: tuple[str, ...] = ("",)


@dataclass
class _Current:
    """The keys of the samples of the last step."""

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
    current = _Current()
    first, frozen = _resume(phases, context, load_state)
    ranks, total = context.ranks, sum(phase.steps for phase in phases)
    batches = Batches(train, config.seed, samples, rank=ranks.rank, ranks=ranks.size)
    batch_iterator = batches.steps(first, total, config.train.workers, pin=device.type == "cuda")

    def in_loop(phase: TrainingPhase) -> Phase:
        def step(k: int) -> Mapping[str, float]:
            batch = next(batch_iterator)
            current.keys = batch.keys
            return phase.step(batch, generator_of(config.seed, phase.stream, k), k)

        return Phase(phase.name, phase.steps, phase.begin, step)

    def content(step: int) -> Content:
        (phase, begin), tensors = _phase_after(phases, step), state()
        changing = {name: tensor for name, tensor in tensors.items() if name.startswith(phase.trains)}
        frozen = {name: tensor for name, tensor in tensors.items() if name not in changing}
        if begin < step < begin + phase.steps:  # at the ends of a phase nobody needs the state of its optimizers
            changing |= phase.optimizers.tensors()
        return Content(begin, changing, frozen)

    checkpoints = CheckpointWriter(context.run, content, first, total, config.train, frozen, writes=ranks.rank == 0)
    run_phases([in_loop(phase) for phase in phases], first, samples, checkpoints, context, lambda: current.keys)


def _resume(
    phases: Sequence[TrainingPhase], context: FitContext, load_state: Callable[[Mapping[str, Tensor]], None]
) -> tuple[int, Frozen | None]:  # fmt: skip
    """Load the run's last checkpoint, if there is one; return the number of finished steps, and what is frozen."""
    saved = last_checkpoint(context.run)
    if saved is None:
        return 0, None
    load_state(saved.tensors)
    phase, begin = _phase_after(phases, saved.step)
    if begin < saved.step < begin + phase.steps:  # at the beginning of a phase its optimizers have no state
        phase.optimizers.load(saved.tensors)
    return saved.step, saved.frozen


def _phase_after(phases: Sequence[TrainingPhase], step: int) -> tuple[TrainingPhase, int]:
    """Return the phase to which the step after ``step`` steps belongs, and the number of steps before it; else the last phase."""
    begin = 0
    for phase in phases:
        if step < begin + phase.steps:
            return phase, begin
        begin += phase.steps
    return phases[-1], begin - phases[-1].steps


def generator_of(seed: int, stream: int, step: int) -> torch.Generator:
    """Return the random generator of a step, which depends on (seed, stream, step) only."""
    number = int(np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(number)
