"""Run the steps of a training in phases, log them, save, and stop when asked. It knows no model."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from mvad.errors import BadInput
from mvad.model.training.checkpoint import save_checkpoint
from mvad.model.training.context import FitContext
from mvad.model.training.parallel import ProcessGroup

_KEYS_TOLD = 8


@dataclass(frozen=True)
class Phase:
    """A run of like steps.

    Attributes
    ----------
    name, steps
        For the log, and how many.
    begin
        Called once before the phase's first step in this process.
    step
        Does step k of the phase and returns figures; ``loss`` must be among them.
    """

    name: str
    steps: int
    begin: Callable[[], None]
    step: Callable[[int], Mapping[str, float]]


def run_phases(
    phases: Sequence[Phase],
    first: int,
    samples_per_step: int,
    tensors: Callable[[], Mapping[str, Tensor]],
    every: int,
    keep: int,
    context: FitContext,
    keys: Callable[[], Sequence[str]] = tuple,
) -> None:
    """Do the steps from number ``first`` (over all phases) to the end; a checkpoint now and then, and at the end.

    A step is never broken off: an interruption (SIGINT, SIGTERM) waits for its end, the state is saved, and the
    interruption takes its course. A second one does not wait. Only rank 0 writes; all ranks stop after the same step.

    Parameters
    ----------
    phases, first
        What is to do, and what is done.
    samples_per_step
        For the throughput that is logged.
    tensors
        Returns what a checkpoint holds.
    every, keep
        Steps between checkpoints, and how many stay.
    context
        Where to save and log.
    keys
        Returns the keys of the samples that the last step saw.

    Raises
    ------
    BadInput
        If a loss is not finite; the step and its samples are named, and the last good checkpoint is kept.
    """
    total = sum(phase.steps for phase in phases)
    saved, ranks = first, context.ranks

    def save(step: int) -> None:
        nonlocal saved
        if step > saved and ranks.rank == 0:
            save_checkpoint(context.run, step, tensors(), {"steps": total}, keep)
        saved = step

    context.progress.start(f"train {context.run.name}", total, first)
    done, offset, between = first, 0, True
    try:
        with _signals_wait() as stop:
            for phase in phases:
                if done < offset + phase.steps:
                    phase.begin()
                for k in range(max(0, done - offset), phase.steps):
                    began = time.perf_counter()
                    between = False
                    figures = phase.step(k)
                    between = True
                    if not math.isfinite(figures["loss"]):
                        raise BadInput(_not_finite(context.run.name, phase.name, k, figures["loss"], saved, keys()))
                    seconds = time.perf_counter() - began
                    done = offset + k + 1
                    rate = samples_per_step / seconds
                    context.log(
                        {
                            "step": done, "phase": phases.index(phase), "seconds": round(seconds, 4),
                            "samples_per_s": round(rate, 2), **figures,
                        }
                    )  # fmt: skip
                    context.progress.advance(1, loss=figures["loss"], samples_per_s=rate)
                    if done % every == 0:
                        save(done)
                    if _anyone(bool(stop), ranks):
                        save(done)
                        stop.resume()
                        raise KeyboardInterrupt
                offset += phase.steps
    except KeyboardInterrupt:
        if between:  # a step that was broken off has moved some weights and not others
            save(done)
        raise
    save(total)


class _Stop:
    """Whether a signal came, and what would have handled it."""

    def __init__(self) -> None:
        self.came: int | None = None
        self.before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.came is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember a first signal; a second one is handled at once."""
        if self.came is not None:
            self.resume()
        self.came = number

    def resume(self) -> None:
        """Let the signal take the course it would have taken."""
        handler = self.before.get(self.came) if self.came is not None else None
        if callable(handler):
            handler(self.came, None)


@contextlib.contextmanager
def _signals_wait() -> Iterator[_Stop]:
    """Note SIGINT and SIGTERM instead of being broken off by them, where the main thread trains."""
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
            # A handler that put itself back (SIGTERM's does) is left as it is.
            if signal.getsignal(number) == stop.note:
                signal.signal(number, handler)


def _anyone(stopping: bool, ranks: ProcessGroup) -> bool:
    """Tell whether any rank was asked to stop, so that all stop after the same step."""
    if ranks.alone:
        return stopping
    return bool(ranks.total(torch.tensor(float(stopping))))


def _not_finite(run: str, phase: str, step: int, loss: float, saved: int, keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:_KEYS_TOLD]) + (" ..." if len(keys) > _KEYS_TOLD else "")
    return (
        f"{run}: the loss is {loss} at {phase} step {step} (samples {shown}); the last checkpoint is step {saved}; "
        "look at these samples, or lower the learning rate (--set optimizer.student_lr=...) in a new run"
    )
