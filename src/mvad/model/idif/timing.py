"""Estimate of IDIF's training time on this machine from the second of two steps per phase, on random images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from mvad.model.devices import synchronise
from mvad.model.idif.optimizers import head_optimizers, student_optimizers
from mvad.model.idif.teacher_cache import TeacherCache
from mvad.model.images import ViewImages
from mvad.model.synthesis.paste import corrupt_by_plan
from mvad.model.synthesis.textures import ProceduralTextures
from mvad.model.training.numbers import Carried

if TYPE_CHECKING:
    from mvad.model.idif.detector import Idif


def estimated_seconds(probe: Idif) -> float:
    """Return the seconds that all training steps of ``probe``'s configuration take; the steps change its weights."""
    config, spec, device, steps = probe.config, probe.spec, probe.device, probe.training_steps
    views = _random_views(probe)
    student = student_optimizers(probe.network, config.optimizer, config.encoder.lr_scale, 10)
    head = head_optimizers(probe.heads, config.optimizer, 10)
    clean = TeacherCache(steps.clean_features, device)(views.images.flatten(1, 2), None)
    textures, samples = ProceduralTextures(), len(views.images)

    def student_step() -> None:
        drawn = steps.draw_student(samples, 0, textures, torch.Generator().manual_seed(0))
        numbers = Carried(drawn, device).arrive()
        changed = corrupt_by_plan(views, numbers.plan, spec, textures, config.pseudo)
        steps.student_step(views, changed, clean, student, 0, numbers)

    def head_step() -> None:
        drawn = steps.draw(samples, 0, textures, torch.Generator().manual_seed(0))
        numbers = Carried(drawn, device).arrive()
        changed = corrupt_by_plan(views, numbers.plan, spec, textures, config.pseudo)
        steps.head_step(views, changed, head, 0, numbers)

    steps.begin_student()
    seconds = config.train.student_steps * _second_time(student_step, device)
    steps.begin_head()
    return seconds + config.train.head_steps * _second_time(head_step, device)


def _random_views(probe: Idif) -> ViewImages:
    config, spec, device = probe.config, probe.spec, probe.device
    size, b = config.input.size, config.train.batch
    seen = torch.ones(b, spec.views, size, size, dtype=torch.bool, device=device)
    source = None
    if config.pseudo.views == "consistent":
        source = torch.arange(size * size, dtype=torch.int32, device=device).view(size, size).expand(seen.shape)
    images = torch.rand((b, spec.views, len(spec.modalities), 3, size, size), device=device) * 255
    return ViewImages(images, seen, torch.ones(b, spec.views, dtype=torch.bool), source)


def _second_time(step: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of the second of two calls; the first call warms up."""
    step()
    synchronise(device)
    began = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - began
