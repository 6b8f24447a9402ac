"""The two kinds of training steps: the student denoises the teacher's features, the head segments what it could not."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from mvad.model.backbones.protocol import Teacher
from mvad.model.devices import autocast
from mvad.model.idif.config import IdifConfig
from mvad.model.idif.head import Heads, head_input
from mvad.model.idif.losses import cosine_maps, distillation_loss, head_loss, summed_distillation_loss
from mvad.model.idif.network import Network
from mvad.model.idif.view_dropout import draw_present
from mvad.model.idif.window import Window
from mvad.model.images import ViewImages
from mvad.model.input_spec import InputSpec
from mvad.model.synthesis.paste import Corrupted
from mvad.model.training.optimizers import Optimizers
from mvad.model.training.parallel import ProcessGroup


class TrainingSteps:
    """Student steps and head steps, and the maps that both networks give."""

    def __init__(self, config: IdifConfig, spec: InputSpec, teacher: Teacher, network: Network, heads: Heads) -> None:
        self.config, self.spec, self.teacher = config, spec, teacher
        self.network, self.heads = network, heads
        self.ranks = ProcessGroup()
        cells = config.input.size // 4
        self.window = Window(cells, cells)

    def student_step(
        self, views: ViewImages, corrupted: Corrupted, clean: tuple[Tensor, ...], optimizers: Optimizers, k: int,
        generator: torch.Generator,
    ) -> Mapping[str, float]:  # fmt: skip
        """Take a student step (eq. 10): clean teacher features (B, K, C, h, w) from corrupted views."""
        config, ranks = self.config.loss, self.ranks
        kept = draw_present(views.present, self.config.dropout, generator, ranks)
        present = self.inputs(kept)
        taught = present if self.config.dropout.supervise == "present" else self.inputs(views.present)
        shown, decoded = self._anywhere(present), self._anywhere(taught)

        def noise(shape: torch.Size) -> Tensor:
            return ranks.part(torch.randn((shape[0] * ranks.size, *shape[1:]), generator=generator))

        with self.autocast():
            student = self.network(corrupted.images.flatten(1, 2), present, noise, shown, decoded)
        maps = cosine_maps([t[taught] for t in clean], [s[taught] for s in student.levels])
        weight = self.weights(views)[taught]
        if config.reduction == "mean":
            distill = distillation_loss(maps, weight, len(decoded), ranks.total)
        else:
            distill = summed_distillation_loss(maps, weight)
        count = present.sum().float()
        bottleneck = student.bottleneck_loss.float() * (count / ranks.total(count))
        loss = optimizers.step(config.alpha * distill + config.beta * bottleneck, k, ranks)  # eq. 10
        return {"loss": loss, "distill": float(ranks.total(distill)), "bottleneck": float(ranks.total(bottleneck))}

    def head_step(self, views: ViewImages, corrupted: Corrupted, optimizers: Optimizers, k: int) -> Mapping[str, float]:
        """Take a head step: the mask of what was pasted, from teacher and student on the corrupted views."""
        present = self.inputs(views.present)
        products = self.compare(corrupted.images, present)[1]
        with self.autocast():
            logits = self._look(products, views, present)
        mask = corrupted.mask.flatten(1, 2)[present]
        loss = head_loss(logits, mask, self.weights(views)[present], self.config.loss.focal_gamma, self.ranks.total)
        return {"loss": optimizers.step(loss, k, self.ranks)}

    def present_maps(self, views: ViewImages) -> tuple[list[Tensor], Tensor]:
        """Return, for the N inputs of views that are there, cosine maps and the head's probability."""
        present = self.inputs(views.present)
        with torch.no_grad():
            levels, products = self.compare(views.images, present)
            with self.autocast():
                logits = self._look(products, views, present)
            return levels, torch.sigmoid(logits.float())

    def _look(self, products: Tensor, views: ViewImages, present: Tensor) -> Tensor:
        """Return the head's logits (N, h, w) through the window; outside of it they say nothing anomalous."""
        columns, shown, window = _columns(present), self._anywhere(present), self.window
        if window.whole:
            logits: Tensor = self.heads(products, columns, shown)
            return logits
        seen = views.seen.repeat_interleave(len(self.spec.modalities), dim=1)[present]
        places, fits = window.places(seen)
        out = window.paste(self.heads(window.cut(products, places), columns, shown), places, _NOTHING)
        # An object larger than any in training is seen whole, but in an exported graph, which cannot branch.
        if not self.heads.training and not torch.onnx.is_in_onnx_export() and not bool(fits.all()):
            large = ~fits
            out[large] = self.heads(products[large], columns[large]).to(out.dtype)
        return out

    def compare(self, images: Tensor, present: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the cosine maps and the head's input for the inputs (B, K) that are there; without gradients."""
        flat = images.flatten(1, 2)
        with torch.no_grad(), self.autocast():
            teacher = self.teacher.features(fast(flat[present]))
            student = [level[present] for level in self.network(flat, present).levels]
        return cosine_maps(teacher, student), head_input(teacher, student)

    def clean_features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the teacher's features of one sample's views (K, 3, S, S)."""
        with torch.no_grad(), self.autocast():
            return self.teacher.features(fast(images))

    def inputs(self, present: Tensor) -> Tensor:
        """Presence of views (B, V) to presence of inputs (B, V * M): a view's modalities come and go together."""
        return present.repeat_interleave(len(self.spec.modalities), dim=1)

    def _anywhere(self, present: Tensor) -> list[int]:
        """Return the inputs that some sample of some rank has."""
        inputs: list[int] = (self.ranks.total(present.any(dim=0).float()) > 0).nonzero()[:, 0].tolist()
        return inputs

    def weights(self, views: ViewImages) -> Tensor:
        """Return (B, K, S, S) float32, 1 where a pixel counts (loss.region)."""
        seen = views.seen.float() if self.config.loss.region == "object" else torch.ones_like(views.seen, dtype=torch.float32)
        return seen.repeat_interleave(len(self.spec.modalities), dim=1)

    def autocast(self) -> AbstractContextManager[None]:
        """See ``train.precision``."""
        return autocast(self.teacher.device, self.config.train.precision)


_NOTHING = -30.0
"""A logit whose probability is 0 in float32."""


def fast(images: Tensor) -> Tensor:
    """Return images in the order of memory that convolutions like."""
    return images.contiguous(memory_format=torch.channels_last)


def _columns(present: Tensor) -> Tensor:
    """Return which input each of the rows that ``x[present]`` has belongs to."""
    return present.nonzero()[:, 1]
