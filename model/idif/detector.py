"""IDIF as a detector: two phases of training as DeSTSeg's, and scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.datasets.shards.order import batch_indices
from mvad.model.config import ModelConfig
from mvad.model.detector import AnomalyMaps, FitContext, Setting
from mvad.model.idif.head import SegmentationHead, head_input
from mvad.model.idif.losses import cosine_maps, distillation_loss, head_loss
from mvad.model.idif.network import Network
from mvad.model.idif.optimizers import Optimizers, head_optimizers, student_optimizers
from mvad.model.idif.view_dropout import draw_present
from mvad.model.images import ViewImages, view_images
from mvad.model.precision import autocast
from mvad.model.pseudo.paste import Corrupted, corrupt
from mvad.model.pseudo.textures import ProceduralTextures, Textures, load_textures
from mvad.model.scoring import image_scores, judge, smooth
from mvad.model.teachers.protocol import Teacher
from mvad.model.training.checkpoint import last_checkpoint
from mvad.model.training.loop import Phase, run_phases

_CACHE_BYTES = 3 << 29
"""Clean teacher features of the training split are kept up to 1.5 GB: they never change."""

_LEAST_DEVIATION = 0.05
"""A few training samples can agree by chance: no deviation is taken below this share of the mean."""


class Idif:
    """Intra-view decoupling, inter-view fusion."""

    def __init__(self, config: ModelConfig, setting: Setting, teacher: Teacher) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = Network(config, setting, teacher)
            self.head = SegmentationHead(sum(teacher.channels), config.head.width)
        self.config, self.setting, self.teacher = config, setting, teacher
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for module in (self.network, self.head, teacher.trunk):
            module.to(self.device)
        if self.device.type == "cpu":  # two to three times faster than planar on x86
            for part in (self.network.encoder, self.network.decoders, self.head, teacher.trunk):
                part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types devices only
        self.baseline = _identity_baseline(setting).to(self.device)
        self._cache: dict[int, tuple[Tensor, ...]] = {}
        self._cached_bytes = 0

    def fit(self, train: ShardSet, context: FitContext) -> None:
        """See ``Detector.fit``."""
        config = self.config.train
        textures = load_textures(self.config.pseudo.textures)
        student = student_optimizers(self.network, self.config.optimizer, self.config.encoder.lr_scale, config.student_steps)
        head = head_optimizers(self.head, self.config.optimizer, config.head_steps)
        saved = last_checkpoint(context.run)
        first = 0
        if saved is not None:
            first = saved.step
            self.load_state(saved.tensors)
            if first != config.student_steps:  # between the phases no optimizer has a past
                (student if first < config.student_steps else head).load(saved.tensors)

        def student_step(k: int) -> Mapping[str, float]:
            return self._student_step(k, train, textures, student)

        def head_step(k: int) -> Mapping[str, float]:
            return self._head_step(k, train, textures, head)

        current = [student]

        def begin_student() -> None:
            self.network.train().requires_grad_(True)
            self.head.eval()
            current[0] = student

        def begin_head() -> None:
            self.network.eval().requires_grad_(False)
            self.head.train()
            current[0] = head

        phases = [
            Phase("student", config.student_steps, begin_student, student_step),
            Phase("head", config.head_steps, begin_head, head_step),
        ]

        def tensors() -> dict[str, Tensor]:
            return self.state() | current[0].tensors()

        run_phases(phases, first, config.batch, tensors, config.checkpoint_every, config.keep_checkpoints, context)
        self._cache.clear()
        self._calibrate(train)

    def score(self, batch: Batch) -> AnomalyMaps:
        """See ``Detector.score``."""
        self.network.eval()
        self.head.eval()
        views = self._images(batch)
        mean, deviation = self.baseline[..., None, None]
        cosine, head = ((maps - mean[k]) / deviation[k] for k, maps in enumerate(self._maps(views)))
        combined = {"head": head, "cosine": cosine, "both": (cosine + head) / 2}
        return judge(combined[self.config.score.map], views.seen, views.present, self.config.score)

    def state(self) -> dict[str, Tensor]:
        """See ``Detector.state``."""
        parts: dict[str, nn.Module] = {"network": self.network, "head": self.head}
        state = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
        return state | {"baseline": self.baseline}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Detector.load_state``."""
        for part, module in (("network", self.network), ("head", self.head)):
            own = {name: state[f"{part}.{name}"] for name in module.state_dict()}
            module.load_state_dict(own, strict=True)
        self.baseline = state["baseline"].to(self.device)

    def planned_seconds(self, samples: int) -> float:
        """Time the second of two student steps and of two head steps on random pictures, and multiply."""
        config, setting = self.config, self.setting
        size, b = config.input.size, config.train.batch
        shape = (b, setting.views, len(setting.modalities), 3, size, size)
        seen = torch.ones(b, setting.views, size, size, dtype=torch.bool, device=self.device)
        images = torch.rand(shape, device=self.device) * 255
        views = ViewImages(images, seen, torch.ones(b, setting.views, dtype=torch.bool, device=self.device))
        probe = Idif(config, setting, self.teacher)
        student = student_optimizers(probe.network, config.optimizer, config.encoder.lr_scale, 10)
        head = head_optimizers(probe.head, config.optimizer, 10)
        clean = probe._clean_features(views, None)

        def student_step() -> None:
            generator = torch.Generator().manual_seed(0)
            hurt = corrupt(views, setting, ProceduralTextures(), config.pseudo, generator)
            probe._learn_student(views, hurt, clean, student, 0, generator)

        def head_step() -> None:
            hurt = corrupt(views, setting, ProceduralTextures(), config.pseudo, torch.Generator().manual_seed(0))
            probe._learn_head(views, hurt, head, 0)

        probe.network.train()
        seconds = config.train.student_steps * _second_time(student_step)
        probe.network.eval().requires_grad_(False)
        probe.head.train()
        return seconds + config.train.head_steps * _second_time(head_step)

    def _student_step(self, k: int, train: ShardSet, textures: Textures, optimizers: Optimizers) -> Mapping[str, float]:
        generator = torch.Generator().manual_seed(_stream(self.config.seed, 0, k))
        indices = batch_indices(self.config.seed, k, len(train), self.config.train.batch)
        views = self._images(train.batch(indices))
        hurt = corrupt(views, self.setting, textures, self.config.pseudo, generator)
        return self._learn_student(views, hurt, self._clean_features(views, indices), optimizers, k, generator)

    def _learn_student(
        self, views: ViewImages, hurt: Corrupted, clean: tuple[Tensor, ...], optimizers: Optimizers, k: int,
        generator: torch.Generator,
    ) -> Mapping[str, float]:  # fmt: skip
        config = self.config.loss
        present = draw_present(views.present, self.config.dropout.p, generator)
        inputs = self._inputs(present)
        with self._autocast():
            student = self.network(hurt.images.flatten(1, 2), inputs, generator)
        pick = [(t.flatten(0, 1)[inputs.flatten()], s[inputs]) for t, s in zip(clean, student.levels, strict=True)]
        maps = cosine_maps([t for t, _ in pick], [s for _, s in pick])
        distill = distillation_loss(maps, self._weights(views)[inputs])
        loss = config.alpha * distill + config.beta * student.bottleneck_loss.float()  # eq. 10
        optimizers.step(loss, k)
        return {
            "loss": float(loss.detach()),
            "distill": float(distill.detach()),
            "bottleneck": float(student.bottleneck_loss.detach()),
        }

    def _head_step(self, k: int, train: ShardSet, textures: Textures, optimizers: Optimizers) -> Mapping[str, float]:
        generator = torch.Generator().manual_seed(_stream(self.config.seed, 1, k))
        step = self.config.train.student_steps + k
        views = self._images(train.batch(batch_indices(self.config.seed, step, len(train), self.config.train.batch)))
        hurt = corrupt(views, self.setting, textures, self.config.pseudo, generator)
        return self._learn_head(views, hurt, optimizers, k)

    def _learn_head(self, views: ViewImages, hurt: Corrupted, optimizers: Optimizers, k: int) -> Mapping[str, float]:
        inputs = self._inputs(views.present)
        products = self._products(hurt.images, views.present)[1]
        with self._autocast():
            logits = self.head(products)
        mask = hurt.mask.flatten(1, 2)[inputs]
        loss = head_loss(logits, mask, self._weights(views)[inputs], self.config.loss.focal_gamma)
        optimizers.step(loss, k)
        return {"loss": float(loss.detach())}

    def _maps(self, views: ViewImages) -> tuple[Tensor, Tensor]:
        """Return cosine and head maps (B, V, M, S, S), smoothed, 0 where nothing counts."""
        b, v, m, _, size, _ = views.images.shape
        inputs = self._inputs(views.present)
        with torch.no_grad():
            levels, products = self._products(views.images, views.present)
            with self._autocast():
                logits = self.head(products)
        grown = [_resize(level, size) for level in levels]
        out = []
        for maps in (grown[0] + grown[1] + grown[2], _resize(torch.sigmoid(logits.float()), size)):
            full = maps.new_zeros(b, v * m, size, size)
            full[inputs] = maps
            out.append(smooth(full.view(b, v, m, size, size), views.seen[:, :, None], self.config.score))
        return out[0], out[1]

    def _products(self, images: Tensor, present: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the cosine maps and the head's input for the inputs that are there."""
        inputs = self._inputs(present)
        flat = images.flatten(1, 2)
        with torch.no_grad(), self._autocast():
            teacher = self.teacher.features(_fast(flat[inputs]))
            student = [level[inputs] for level in self.network(flat, inputs).levels]
        return cosine_maps(teacher, student), head_input(teacher, student)

    def _calibrate(self, train: ShardSet) -> None:
        """Set the baseline to mean and deviation of the training samples' scores (score.calibrate)."""
        if not self.config.score.calibrate:
            return
        self.network.eval()
        self.head.eval()
        scores = []
        for index in range(len(train)):
            maps = self._maps(self._images(train.batch([index])))
            scores.append(torch.stack([image_scores(each, self.config.score)[0] for each in maps]))
        every = torch.stack(scores)
        mean = every.mean(dim=0)
        deviation = every.std(dim=0) if len(train) > 1 else torch.zeros_like(mean)
        self.baseline = torch.stack([mean, deviation.clamp(min=0).maximum(_LEAST_DEVIATION * mean + 1e-6)])

    def _images(self, batch: Batch) -> ViewImages:
        setting = self.setting
        moved = batch.to(self.device)
        return view_images(moved, setting.modalities, self.config.input.size, self.teacher.fill, setting.depth_range)

    def _inputs(self, present: Tensor) -> Tensor:
        """Presence of views (B, V) to presence of inputs (B, V * M): a view's modalities come and go together."""
        return present.repeat_interleave(len(self.setting.modalities), dim=1)

    def _weights(self, views: ViewImages) -> Tensor:
        seen = views.seen.float() if self.config.loss.region == "object" else torch.ones_like(views.seen, dtype=torch.float32)
        return seen.repeat_interleave(len(self.setting.modalities), dim=1)

    def _clean_features(self, views: ViewImages, indices: np.ndarray | None) -> tuple[Tensor, ...]:
        """Return the teacher's features of the clean views, each (B, K, C, h, w); kept for the next epoch."""
        keys = [None] * len(views.images) if indices is None else [int(index) for index in indices]
        rows = []
        for row, key in enumerate(keys):
            if key is None or key not in self._cache:
                with torch.no_grad(), self._autocast():
                    levels = tuple(f.contiguous() for f in self.teacher.features(_fast(views.images[row].flatten(0, 1))))
                if key is None or self._cached_bytes > _CACHE_BYTES:
                    rows.append(levels)
                    continue
                self._cached_bytes += sum(level.numel() * level.element_size() for level in levels)
                self._cache[key] = levels
            rows.append(self._cache[key])
        return tuple(torch.stack([levels[k] for levels in rows]) for k in range(3))

    def _autocast(self) -> AbstractContextManager[None]:
        return autocast(self.device, self.config.train.precision)


def _second_time(step: Callable[[], None]) -> float:
    """Return the seconds of a second call; the first one warms up."""
    step()
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def _identity_baseline(setting: Setting) -> Tensor:
    """Return (2, 2, V, M): means 0 and deviations 1 of the cosine maps' and the head's scores."""
    shape = (2, setting.views, len(setting.modalities))
    return torch.stack([torch.zeros(shape), torch.ones(shape)])


def _fast(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images


def _resize(maps: Tensor, size: int) -> Tensor:
    return nn.functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _stream(seed: int, phase: int, step: int) -> int:
    """Return the seed of a step's random numbers: a function of nothing but (seed, phase, step)."""
    return int(np.random.SeedSequence([seed, phase, step]).generate_state(1, np.uint64)[0] >> 1)
