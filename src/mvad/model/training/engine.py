"""Training engine, used by every method that trains in steps: phases, batches and random numbers by step, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvad.datasets.shards.batches import Batches, read_ahead
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.config import ModelConfig
from mvad.model.training.checkpoint import Frozen, last_checkpoint
from mvad.model.training.checkpoint_writer import CheckpointWriter, Content
from mvad.model.training.context import FitContext
from mvad.model.training.loop import Phase, run_phases
from mvad.model.training.numbers import Carried
from mvad.model.training.optimizers import Optimizers
from mvad.model.training.pending import Figures as Figures
from mvad.model.training.pending import Pending

_DATA_SHARE = 0.25
"""Share of a GPU's free memory that the training split may take."""

Draw = Callable[[int, int, torch.Generator], Any]
"""Draws the random numbers of a number of samples, in step k of a phase, from its generator; called on a thread, ahead of the step."""

Step = Callable[[Batch, Any, int], Figures]
"""Performs step k of a phase with its batch and its random numbers, which are on the device."""


def own_generator(samples: int, k: int, generator: torch.Generator) -> torch.Generator:
    """Draw nothing: the step itself draws its numbers from the generator."""
    return generator


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
    draw, step
        See ``Draw`` and ``Step``.
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
    draw: Draw
    step: Step
    optimizers: Optimizers
    trains: tuple[str, ...] = ("",)


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
    first, frozen = _resume(phases, context, load_state)
    ranks, total = context.ranks, sum(phase.steps for phase in phases)
    on_gpu = device.type == "cuda"
    batches = Batches(_resident(train, device) if on_gpu else train, config.seed, samples, rank=ranks.rank, ranks=ranks.size)
    batch_iterator = batches.steps(first, total, config.train.workers, pin=on_gpu)
    numbers_iterator = _numbers(phases, first, samples // ranks.size, config.seed, device)

    def in_loop(phase: TrainingPhase) -> Phase:
        def step(k: int) -> Pending:
            batch, numbers = next(batch_iterator), next(numbers_iterator)
            return Pending(phase.step(batch, numbers.arrive(), k), batch.keys)

        return Phase(phase.name, phase.steps, phase.begin, step)

    def content(step: int) -> Content:
        (phase, begin), tensors = _phase_after(phases, step), state()
        changing = {name: tensor for name, tensor in tensors.items() if name.startswith(phase.trains)}
        frozen = {name: tensor for name, tensor in tensors.items() if name not in changing}
        if begin < step < begin + phase.steps:  # at the ends of a phase nobody needs the state of its optimizers
            changing |= phase.optimizers.tensors()
        return Content(begin, changing, frozen)

    checkpoints = CheckpointWriter(context.run, content, first, total, config.train, frozen, writes=ranks.rank == 0)
    run_phases([in_loop(phase) for phase in phases], first, samples, checkpoints, context, 1 if on_gpu else 0)


def _resident(train: ShardSet, device: torch.device) -> ShardSet:
    """Return a split with its samples on the device, if they take at most a part of the memory that is free there."""
    limit = int(_DATA_SHARE * torch.cuda.mem_get_info(device)[0])
    return train.in_memory(limit // 1_000_000, device) if train.stored_bytes <= limit else train


def _numbers(
    phases: Sequence[TrainingPhase], first: int, samples: int, seed: int, device: torch.device
) -> Iterator[Carried[Any]]:  # fmt: skip
    """Yield the random numbers of all steps from number ``first`` on, drawn on a thread some steps ahead."""

    def drawn(phase: TrainingPhase, k: int) -> Carried[Any]:
        return Carried(phase.draw(samples, k, generator_of(seed, phase.stream, k)), device)

    steps = [(phase, k) for phase in phases for k in range(phase.steps)][first:]
    return read_ahead([partial(drawn, phase, k) for phase, k in steps], "mvad-draw")


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
