"""Stage of gpu.py: what a step would take if the card never waited for the host, by CUDA graphs of the real step's operations.

The functions of the training are captured as they are, with all views present and with random numbers that stay the same: forward
and backward alone, with the optimizers, and with images and pseudo anomalies, too. What cannot be captured is recorded with its
reason. The measured step without a graph stands beside: many calls between two synchronisations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpu_common import PAPER_BATCH, Asked, batch_views, configured, many_milliseconds, needs_card, textures

EXTENTS = ("forward and backward", "with optimizers", "with images and pseudo anomalies")


@dataclass
class Ready:
    """A detector with everything that a step of a phase takes, on the device."""

    detector: Any
    views: Any
    numbers: Any
    textures: Any
    optimizers: Any
    clean: Any
    phase: str

    def corrupted(self) -> Any:
        from mvad.model.synthesis.paste import corrupt_by_plan

        plan, config = self.numbers.plan, self.detector.config
        return corrupt_by_plan(self.views, plan, self.detector.spec, self.textures, config.pseudo)

    def step(self, corrupted: Any, optimizers: Any) -> Any:
        """Perform a step of the phase; returns its loss on the device."""
        steps = self.detector.training_steps
        if self.phase == "student":
            return steps.student_step(self.views, corrupted, self.clean, optimizers, 0, self.numbers)["loss"]
        return steps.head_step(self.views, corrupted, optimizers, 0, self.numbers)["loss"]


class Backward:
    """Takes the place of the optimizers: gradients, and no step."""

    def __init__(self, parameters: list[Any]) -> None:
        self.parameters = parameters

    def zero(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def apply(self, loss: Any, k: int, ranks: Any = None) -> Any:
        return loss

    def step(self, loss: Any, k: int, ranks: Any = None, casts: Any = None) -> Any:
        self.zero()
        loss.backward()
        if casts is not None:
            casts.give_gradients()
        return loss.detach()


def made_ready(asked: Asked, phase: str, inputs: int) -> Ready:
    """Return a detector in the middle of a phase, with a batch whose views are all there and kept."""
    import torch

    from mvad.model.idif.optimizers import head_optimizers, student_optimizers
    from mvad.model.idif.teacher_cache import TeacherCache
    from mvad.model.synthesis.textures import load_textures
    from mvad.model.training.numbers import Carried

    batch = 2 if asked.quick else PAPER_BATCH
    keys = {"train__batch": batch, "train__precision": "auto", "dropout__p": 0.0, "optimizer__student_lr": 1e-3}
    split, prepared, _ = configured(asked, inputs, **keys)
    detector = prepared.detector
    steps, config, device = detector.training_steps, detector.config, detector.device
    steps.window = detector._window(split)
    views, source = batch_views(split, detector, batch), load_textures(textures(asked))
    generator, clean = torch.Generator().manual_seed(0), None
    if phase == "student":
        drawn = steps.draw_student(batch, config.train.student_steps, source, generator)  # the last step: nothing is withheld
        clean = TeacherCache(steps.clean_features, device)(views.images.flatten(1, 2), None)
        steps.begin_student()
        optimizers = student_optimizers(detector.network, config.optimizer, config.encoder.lr_scale, 10)
    else:
        drawn = steps.draw(batch, 0, source, generator)
        steps.begin_head()
        optimizers = head_optimizers(detector.heads, config.optimizer, 10)
    numbers = Carried(drawn, device).arrive()
    return Ready(detector, views, numbers, source, optimizers, clean, phase)


def work_of(ready: Ready, extent: str) -> Callable[[], Any]:
    """Return what is captured."""
    trained = ready.detector.network if ready.phase == "student" else ready.detector.heads
    backward = Backward([p for p in trained.parameters() if p.requires_grad])
    if extent == EXTENTS[0]:
        corrupted = ready.corrupted()
        return lambda: ready.step(corrupted, backward)
    for optimizer, _ in ready.optimizers.parts:
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = group["params"][0].is_cuda
    if extent == EXTENTS[1]:
        corrupted = ready.corrupted()
        return lambda: ready.step(corrupted, ready.optimizers)
    return lambda: ready.step(ready.corrupted(), ready.optimizers)


def captured(work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Capture a call as a CUDA graph; return what replays it, and the tensor that each replay writes."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(4):
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="relaxed"):
        loss = work()
    return graph.replay, loss


def measured(asked: Asked, phase: str, inputs: int, extent: str) -> dict[str, Any]:
    """Return the milliseconds of a step, launched by the host and as a graph, and the losses of both."""
    ready = made_ready(asked, phase, inputs)
    device, work, times = ready.detector.device, work_of(ready, extent), 2 if asked.quick else 40
    eager = work()
    found = {"extent": extent, "launched_ms": many_milliseconds(work, device, times), "loss_launched": round(float(eager), 5)}
    missing = needs_card(asked, "a CUDA graph")
    if missing is not None:
        return found | missing
    replay, loss = captured(work)
    found["graph_ms"] = many_milliseconds(replay, device, times)
    found["loss_graph"] = round(float(loss), 5)
    return found


def attainable(asked: Asked, phase: str, inputs: int) -> None:
    """Capture the step of a phase in three extents; each is another detector, so that a failed capture spoils no other."""
    name = f"{phase}, V = {inputs}"
    best: dict[str, Any] = {}
    for extent in EXTENTS[:1] if asked.quick else EXTENTS:
        found = asked.attempt(f"{name}, {extent}", lambda e=extent: measured(asked, phase, inputs, e), 0 if asked.quick else 6)
        if found and "graph_ms" in found:
            best = found
        with contextlib.suppress(RuntimeError):
            _clear(asked)
    if best:
        asked.note(name, {"attainable_ms": best["graph_ms"], "of": best["extent"]})


def _clear(asked: Asked) -> None:
    from gpu_common import release

    release(asked.device)


def student(asked: Asked) -> None:
    """Student step with five inputs, then ten."""
    for inputs in (5,) if asked.quick else (5, 10):
        attainable(asked, "student", inputs)


def head(asked: Asked) -> None:
    """Head step with five inputs, then ten."""
    for inputs in (5,) if asked.quick else (5, 10):
        attainable(asked, "head", inputs)
