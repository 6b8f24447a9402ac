"""Run the steps of a training in phases, log them, save, and stop when asked. It knows no model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mvad.errors import BadInput
from mvad.model.detector import FitContext
from mvad.model.training.checkpoint import save_checkpoint


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
) -> None:
    """Do the steps from number ``first`` (over all phases) to the end; a checkpoint now and then, and at the end.

    An interruption (KeyboardInterrupt) saves where it stood and goes on up.

    Raises
    ------
    BadInput
        If a loss is not finite; the last good checkpoint is kept.
    """
    total = sum(phase.steps for phase in phases)
    saved = first

    def save(step: int) -> None:
        nonlocal saved
        if step > saved:
            save_checkpoint(context.run, step, tensors(), {"steps": total}, keep)
            saved = step

    context.progress.start(f"train {context.run.name}", total, first)
    done, offset = first, 0
    try:
        for phase in phases:
            if done < offset + phase.steps:
                phase.begin()
            for k in range(max(0, done - offset), phase.steps):
                began = time.perf_counter()
                figures = phase.step(k)
                if not math.isfinite(figures["loss"]):
                    raise BadInput(
                        f"{context.run.name}: the loss is {figures['loss']} at {phase.name} step {k}; the last checkpoint is "
                        f"step {saved}; lower the learning rate (--set optimizer.student_lr=...) in a new run"
                    )
                seconds = time.perf_counter() - began
                done = offset + k + 1
                rate = samples_per_step / seconds
                context.log({"step": done, "phase": phases.index(phase), "seconds": round(seconds, 4), **figures})
                context.progress.advance(1, loss=figures["loss"], samples_per_s=rate)
                if done % every == 0:
                    save(done)
            offset += phase.steps
    except KeyboardInterrupt:
        save(done)
        raise
    save(total)
