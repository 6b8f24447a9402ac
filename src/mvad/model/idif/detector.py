"""IDIF as a detector, and the paper's ablations of it: two phases of training as DeSTSeg's, and scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvad.datasets.shards.batches import Batches
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.backbones.protocol import Teacher
from mvad.model.config import ModelConfig
from mvad.model.detector import AnomalyMaps, FitContext, InputSpec
from mvad.model.idif.head import Heads
from mvad.model.idif.network import Network
from mvad.model.idif.optimizers import head_optimizers, student_optimizers
from mvad.model.idif.teacher_cache import TeacherCache
from mvad.model.idif.training_steps import TrainingSteps
from mvad.model.idif.window import Window, fitted
from mvad.model.images import ViewImages, view_images
from mvad.model.scoring import image_scores, score_maps, smooth
from mvad.model.synthesis.paste import corrupt
from mvad.model.synthesis.textures import ProceduralTextures, load_textures
from mvad.model.training.checkpoint import last_checkpoint
from mvad.model.training.loop import Phase, run_phases
from mvad.model.training.parallel import share_batch_norms

_MEASURED = 500
"""Training samples, evenly spread, that the head's window is fitted to."""

_LEAST_DEVIATION = 0.05
"""A few training samples can agree by chance: no deviation is taken below this share of the mean."""


class Idif:
    """Intra-view decoupling, inter-view fusion."""

    def __init__(self, config: ModelConfig, spec: InputSpec, teacher: Teacher) -> None:
        inputs = spec.views * len(spec.modalities)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = Network(config, spec, teacher)
            self.heads = Heads(inputs, sum(teacher.channels), config.head)
        self.config, self.spec, self.teacher = config, spec, teacher
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for module in (self.network, self.heads, teacher.backbone):
            module.to(self.device)
        for part in (self.network.encoder, self.network.decoders, self.heads, teacher.backbone):
            # Two to three times as fast as planar on a processor, and what tensor cores want.
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types devices only
        if config.train.compile:
            for module in (self.network, self.heads):
                module.compile()
        self.training_steps = TrainingSteps(config, spec, teacher, self.network, self.heads)
        self.baseline = _identity_baseline(spec).to(self.device)

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``."""
        config, training_steps, ranks = self.config.train, self.training_steps, context.ranks
        training_steps.ranks = ranks
        if not ranks.alone:
            share_batch_norms(self.network)
            share_batch_norms(self.heads)
        textures = load_textures(self.config.pseudo.textures)
        training_steps.window = self._window(train)
        student = student_optimizers(self.network, self.config.optimizer, self.config.encoder.lr_scale, config.student_steps)
        head = head_optimizers(self.heads, self.config.optimizer, config.head_steps)
        saved = last_checkpoint(context.run)
        first = 0
        if saved is not None:
            first = saved.step
            self.load_state(saved.tensors)
            if first != config.student_steps:  # between the phases no optimizer has a past
                (student if first < config.student_steps else head).load(saved.tensors)
        batches = Batches(train, self.config.seed, config.batch, rank=ranks.rank, ranks=ranks.size)
        total = config.student_steps + config.head_steps
        coming = batches.steps(first, total, config.workers, pin=self.device.type == "cuda")
        cache = TeacherCache(training_steps.clean_features)
        seen: list[tuple[str, ...]] = [()]

        def student_step(k: int) -> Mapping[str, float]:
            batch, generator = next(coming), _generator(self.config.seed, 0, k)
            seen[0] = batch.keys
            views = self.images(batch)
            corrupted = corrupt(views, self.spec, textures, self.config.pseudo, generator, ranks)
            clean = cache(views.images.flatten(1, 2), batch.keys)
            return training_steps.student_step(views, corrupted, clean, student, k, generator)

        def head_step(k: int) -> Mapping[str, float]:
            batch, generator = next(coming), _generator(self.config.seed, 1, k)
            seen[0] = batch.keys
            views = self.images(batch)
            corrupted = corrupt(views, self.spec, textures, self.config.pseudo, generator, ranks)
            return training_steps.head_step(views, corrupted, head, k)

        current = [student]

        def begin_student() -> None:
            self.network.train().requires_grad_(True)
            self.network.encoder.train()  # again: what is frozen stays so
            self.heads.eval()
            current[0] = student

        def begin_head() -> None:
            cache.clear()
            self.network.eval().requires_grad_(False)
            self.heads.train()
            current[0] = head

        phases = [
            Phase("student", config.student_steps, begin_student, student_step),
            Phase("head", config.head_steps, begin_head, head_step),
        ]

        def tensors() -> dict[str, Tensor]:
            return self.state() | current[0].tensors()

        every, keep = config.checkpoint_every, config.keep_checkpoints
        run_phases(phases, first, config.batch, tensors, every, keep, context, lambda: seen[0])
        self._calibrate(train)

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        return self.score_views(self.images(batch))

    def score_views(self, views: ViewImages) -> AnomalyMaps:
        """Evaluate samples that are float images already."""
        mean, deviation = self.baseline[..., None, None]
        cosine, head = ((maps - mean[k]) / deviation[k] for k, maps in enumerate(self._maps(views)))
        combined = {"head": head, "cosine": cosine, "both": (cosine + head) / 2}
        return score_maps(combined[self.config.score.map], views.seen, views.present, self.config.score)

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        parts: dict[str, nn.Module] = {"network": self.network, "heads": self.heads}
        state = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
        return state | {"baseline": self.baseline, "window": torch.tensor(self.training_steps.window.side)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        for part, module in (("network", self.network), ("heads", self.heads)):
            own = {name: state[f"{part}.{name}"] for name in module.state_dict()}
            module.load_state_dict(own, strict=True)
        self.baseline = state["baseline"].to(self.device)
        self.training_steps.window = replace(self.training_steps.window, side=int(state["window"]))

    def planned_seconds(self, samples: int) -> float:
        """Time the second of two student steps and of two head steps on random pictures, and multiply."""
        config, spec = self.config, self.spec
        size, b = config.input.size, config.train.batch
        shape = (b, spec.views, len(spec.modalities), 3, size, size)
        seen = torch.ones(b, spec.views, size, size, dtype=torch.bool, device=self.device)
        source = None
        if config.pseudo.views == "consistent":
            source = torch.arange(size * size, dtype=torch.int32, device=self.device).view(size, size).expand(seen.shape)
        images = torch.rand(shape, device=self.device) * 255
        views = ViewImages(images, seen, torch.ones(b, spec.views, dtype=torch.bool, device=self.device), source)
        probe = Idif(config, spec, self.teacher)
        student = student_optimizers(probe.network, config.optimizer, config.encoder.lr_scale, 10)
        head = head_optimizers(probe.heads, config.optimizer, 10)
        clean = TeacherCache(probe.training_steps.clean_features)(images.flatten(1, 2), None)

        def step(learn: Callable[..., Any], *more: Any) -> None:
            generator = torch.Generator().manual_seed(0)
            corrupted = corrupt(views, spec, ProceduralTextures(), config.pseudo, generator)
            learn(views, corrupted, *more, *([generator] if learn == probe.training_steps.student_step else []))

        probe.network.train()
        seconds = config.train.student_steps * _second_time(lambda: step(probe.training_steps.student_step, clean, student, 0))
        probe.network.eval().requires_grad_(False)
        probe.heads.train()
        return seconds + config.train.head_steps * _second_time(lambda: step(probe.training_steps.head_step, head, 0))

    def _maps(self, views: ViewImages) -> tuple[Tensor, Tensor]:
        """Return cosine and head maps (B, V, M, S, S), smoothed, 0 where nothing counts."""
        self.network.eval()
        self.heads.eval()
        b, v, m, _, size, _ = views.images.shape
        present = self.training_steps.inputs(views.present)
        levels, probability = self.training_steps.present_maps(views)
        grown = [_resize(level, size) for level in levels]
        out = []
        for maps in (grown[0] + grown[1] + grown[2], _resize(probability, size)):
            full = maps.new_zeros(b, v * m, size, size)
            full[present] = maps
            out.append(smooth(full.view(b, v, m, size, size), views.seen[:, :, None], self.config.score))
        return out[0], out[1]

    def _window(self, train: ShardSet) -> Window:
        """Return where the head looks (head.window)."""
        cells = self.config.input.size // 4
        config = self.config
        if config.head.window == "image" or config.score.region == "image" or config.loss.region == "image":
            return Window(cells, cells)
        outlines = train.select([])
        chosen = np.linspace(0, len(train) - 1, min(len(train), _MEASURED)).round().astype(int)
        return fitted((outlines.batch([int(index)]).seen[0] for index in chosen), cells)

    def _calibrate(self, train: ShardSet) -> None:
        """Set the baseline to mean and deviation of the training samples' scores (score.calibrate)."""
        if not self.config.score.calibrate:
            return
        scores, counts = [], []
        for index in range(len(train)):
            views = self.images(train.batch([index]))
            scores.append(torch.stack([image_scores(each, self.config.score)[0] for each in self._maps(views)]))
            counts.append(views.present[0])
        every = torch.stack(scores)
        there = torch.stack(counts)[:, None, :, None].float()
        count = there.sum(dim=0)
        mean = (every * there).sum(dim=0) / count.clamp(min=1)
        variance = ((every - mean) ** 2 * there).sum(dim=0) / (count - 1).clamp(min=1)
        self.baseline = torch.stack([mean, variance.sqrt().maximum(_LEAST_DEVIATION * mean + 1e-6)])

    def images(self, batch: Batch) -> ViewImages:
        """Return a batch as float images on the device."""
        spec = self.spec
        fill = self.teacher.fill if self.config.input.background == "mean" else (0.0, 0.0, 0.0)
        return view_images(batch.to(self.device), spec.modalities, self.config.input.size, fill, spec.depth_range)


def _generator(seed: int, phase: int, step: int) -> torch.Generator:
    """Return a step's random numbers: a function of nothing but (seed, phase, step)."""
    stream = int(np.random.SeedSequence([seed, phase, step]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(stream)


def _second_time(step: Callable[[], None]) -> float:
    """Return the seconds of a second call; the first one warms up."""
    step()
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def _identity_baseline(spec: InputSpec) -> Tensor:
    """Return (2, 2, V, M): means 0 and deviations 1 of the cosine maps' and the head's scores."""
    shape = (2, spec.views, len(spec.modalities))
    return torch.stack([torch.zeros(shape), torch.ones(shape)])


def _resize(maps: Tensor, size: int) -> Tensor:
    return nn.functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
