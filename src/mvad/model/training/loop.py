"""Loop over the steps of a training: log, save checkpoints, stop on a signal."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from mvad.errors import BadInput
from mvad.model.training.checkpoint_writer import CheckpointWriter
from mvad.model.training.context import FitContext
from mvad.model.training.parallel import ProcessGroup
from mvad.model.training.pending import Pending

_MAX_KEYS_SHOWN = 8


@dataclass(frozen=True)
class Phase:
    """Phase of a training as the loop sees it.

    Attributes
    ----------
    name, steps
        Name for the log, and number of steps.
    begin
        Called once before the phase's first step in this process.
    step
        Performs step k of the phase and returns its figures, including ``loss``.
    """

    name: str
    steps: int
    begin: Callable[[], None]
    step: Callable[[int], Pending]


@dataclass
class _Done:
    """A step that was performed and whose figures were not read: its number over all phases, and the time that it took."""

    step: int
    phase: int
    k: int
    seconds: float
    pending: Pending


def run_phases(  # more than 60 lines, 30 of them parameters and docstring
    phases: Sequence[Phase],
    first: int,
    samples_per_step: int,
    checkpoints: CheckpointWriter,
    context: FitContext,
    lag: int = 0,
) -> None:
    """Perform the steps from number ``first`` (over all phases) to the end, with checkpoints.

    On SIGINT or SIGTERM the current step is finished and the state saved before the signal is handled; a second signal is
    handled at once. Only rank 0 writes; all ranks stop after the same step. Whatever ends this, checkpoints that were taken are on
    the disk then.

    Parameters
    ----------
    phases, first
        The phases in order, and the number of finished steps.
    samples_per_step
        Number of samples per step, for the logged throughput.
    checkpoints
        Says when checkpoints are due, and writes them; there is always one at the end of a phase.
    context
        Folder, progress and log of the run.
    lag
        Number of steps after which the figures of a step are read: 1 on a GPU, which then always has a step to do. They are read
        before a checkpoint in any case.

    Raises
    ------
    BadInput
        If a loss is not finite, the message names the step and its samples, and the last good checkpoint is kept; or if a
        checkpoint cannot be written.
    """
    total, ranks = sum(phase.steps for phase in phases), context.ranks
    waiting: deque[_Done] = deque()

    def read(most: int) -> None:
        """Read the figures of all performed steps but the last ``most``."""
        while len(waiting) > most:
            past = waiting[0]
            figures = past.pending.read()
            name, loss = phases[past.phase].name, figures["loss"]
            if not math.isfinite(loss):
                raise BadInput(_not_finite(context.run.name, name, past.k, loss, checkpoints.newest(), past.pending.keys))
            rate = samples_per_step / past.seconds
            context.log(
                {
                    "step": past.step, "phase": past.phase, "seconds": round(past.seconds, 4),
                    "samples_per_s": round(rate, 2), **figures,
                }
            )  # fmt: skip
            waiting.popleft()  # not before it is logged: an interruption may come at any time
            context.progress.advance(1, loss=loss, samples_per_s=rate)

    context.progress.start(f"train {context.run.name}", total, first)
    done, offset, between = first, 0, True
    try:
        with _signals_wait() as stop:
            for number, phase in enumerate(phases):
                if done < offset + phase.steps:
                    phase.begin()
                for k in range(max(0, done - offset), phase.steps):
                    began = time.perf_counter()
                    between = False
                    pending = perform(phase, k)
                    between = True
                    done = offset + k + 1
                    waiting.append(_Done(done, number, k, time.perf_counter() - began, pending))
                    read(lag)
                    if lag:
                        waiting[-1].seconds = time.perf_counter() - began  # with the wait for the step before it
                    if checkpoints.due(done):
                        read(0)
                        checkpoints.save(done)
                    if _any_rank(bool(stop), ranks):
                        read(0)
                        checkpoints.save(done)
                        checkpoints.finish()
                        stop.resume()
                        raise KeyboardInterrupt
                offset += phase.steps
                read(0)
                checkpoints.save(offset)
            checkpoints.finish()
            if stop:  # since the last step
                stop.resume()
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if between:  # an interrupted step may have changed some weights and not others
            read(0)
            checkpoints.save(done)
            checkpoints.finish()
        raise
    finally:
        checkpoints.close()


def perform(phase: Phase, k: int) -> Pending:
    """Perform step ``k`` of a phase; tests and benchmarks replace this function to watch the steps."""
    return phase.step(k)


class _Stop:
    """The signal that was received, if any, and the handlers that were installed before.

    True once a signal was received.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self.before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.came is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Record a first signal; pass a second one to the previous handler at once."""
        if self.came is not None:
            self.resume()
        self.came = number

    def resume(self) -> None:
        """Call the previous handler of the signal that was received."""
        handler = self.before.get(self.came) if self.came is not None else None
        if callable(handler):
            handler(self.came, None)


@contextlib.contextmanager
def _signals_wait() -> Iterator[_Stop]:
    """Record SIGINT and SIGTERM instead of handling them at once; without effect outside the main thread."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    for waiting in (signal.SIGINT, signal.SIGTERM):
        stop.before[waiting] = signal.signal(waiting, stop.note)
    try:
        yield stop
    finally:
        for number, handler in stop.before.items():
            # A handler that installed itself again (SIGTERM's does) is left in place.
            if signal.getsignal(number) == stop.note:
                signal.signal(number, handler)


def _any_rank(stopping: bool, ranks: ProcessGroup) -> bool:
    """Return whether any rank was asked to stop, so that all ranks stop after the same step."""
    if ranks.alone:
        return stopping
    return bool(ranks.total(torch.tensor(float(stopping))))


def _not_finite(run: str, phase: str, step: int, loss: float, saved: int, keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:_MAX_KEYS_SHOWN]) + (" ..." if len(keys) > _MAX_KEYS_SHOWN else "")
    return (
        f"{run}: the loss is {loss} at {phase} step {step} (samples {shown}); the last checkpoint is step {saved}; "
        "look at these samples, or lower the learning rate (--set optimizer.student_lr=...) in a new run"
    )
