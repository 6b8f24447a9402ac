"""Training steps of IDIF: the student learns to denoise the teacher's features, then the head to segment the anomalies."""

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
    """Student steps and head steps, and the anomaly maps of student and head.

    Attributes
    ----------
    ranks
        The processes that train together; set by ``Idif.fit``.
    window
        Window of the segmentation head; set by ``Idif.fit``.
    """

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
        """Train the student to predict the teacher's features of the clean views from the corrupted views (eq. 10).

        Parameters
        ----------
        views
            The clean views.
        corrupted
            The same views with pseudo anomalies.
        clean
            Teacher features of ``views`` at strides 4, 8, 16: (B, K, C_l, h_l, w_l) each.
        optimizers, k
            The student's optimizers, and the number of the step.
        generator
            Random generator of the step.

        Returns
        -------
        Mapping
            ``loss``, ``distill`` and ``bottleneck``, each over all ranks.
        """
        config, ranks = self.config.loss, self.ranks
        kept = draw_present(views.present, self.config.dropout, generator, ranks)
        present = self.inputs(kept)
        supervised = present if self.config.dropout.supervise == "present" else self.inputs(views.present)
        encoded, decoded = self._used_inputs(present), self._used_inputs(supervised)

        def noise(shape: torch.Size) -> Tensor:
            return ranks.part(torch.randn((shape[0] * ranks.size, *shape[1:]), generator=generator))

        keeps_common = self._keeps_common(len(present), k, generator)
        with self.autocast():
            student = self.network(corrupted.images.flatten(1, 2), present, noise, encoded, decoded, keeps_common)
        maps = cosine_maps([t[supervised] for t in clean], [s[supervised] for s in student.levels])
        weight = self.weights(views)[supervised]
        if config.reduction == "mean":
            distill = distillation_loss(maps, weight, len(decoded), ranks.total)
        else:
            distill = summed_distillation_loss(maps, weight)
        count = present.sum().float()
        bottleneck = student.bottleneck_loss.float() * (count / ranks.total(count))
        factor = config.images if config.reduction == "mean" and self.config.optimizer.kind == "destseg" else 1
        loss = optimizers.step(factor * (config.alpha * distill + config.beta * bottleneck), k, ranks) / factor  # eq. 10
        return {"loss": loss, "distill": float(ranks.total(distill)), "bottleneck": float(ranks.total(bottleneck))}

    def head_step(
        self, views: ViewImages, corrupted: Corrupted, optimizers: Optimizers, k: int, generator: torch.Generator
    ) -> Mapping[str, float]:
        """Train the head to predict the masks of the pseudo anomalies from the features of the corrupted views.

        Views are dropped as in a student step, since the features of the others differ without them.

        Returns
        -------
        Mapping
            ``loss``, over all ranks.
        """
        kept = draw_present(views.present, self.config.dropout, generator, self.ranks)
        present = self.inputs(kept)
        products = self.compare(corrupted.images, present)[1]
        with self.autocast():
            logits = self._logits(products, views, present)
        mask = corrupted.mask.flatten(1, 2)[present]
        loss = head_loss(logits, mask, self.weights(views)[present], self.config.loss.focal_gamma, self.ranks.total)
        return {"loss": optimizers.step(loss, k, self.ranks)}

    def present_maps(self, views: ViewImages) -> tuple[list[Tensor], Tensor]:
        """Return maps of the N inputs of present views, without gradients.

        Returns
        -------
        tuple
            Cosine maps at strides 4, 8, 16: (N, h_l, w_l) each; probabilities of the head (N, h, w) at stride 4. All float32.
        """
        present = self.inputs(views.present)
        with torch.no_grad():
            levels, products = self.compare(views.images, present)
            with self.autocast():
                logits = self._logits(products, views, present)
            return levels, torch.sigmoid(logits.float())

    def _logits(self, products: Tensor, views: ViewImages, present: Tensor) -> Tensor:
        """Return the head's logits (N, h, w), computed inside the window; outside they are those of probability 0."""
        columns, used, window = _columns(present), self._used_inputs(present), self.window
        if window.whole:
            logits: Tensor = self.heads(products, columns, used)
            return logits
        seen = views.seen.repeat_interleave(len(self.spec.modalities), dim=1)[present]
        places, fits = window.places(seen)
        out = window.paste(self.heads(window.cut(products, places), columns, used), places, _ZERO_LOGIT)
        # An object that is larger than any in training gets the whole image, except in an exported graph, which cannot branch.
        if not self.heads.training and not torch.onnx.is_in_onnx_export() and not bool(fits.all()):
            large = ~fits
            out[large] = self.heads(products[large], columns[large]).to(out.dtype)
        return out

    def compare(self, images: Tensor, present: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return cosine maps and head input of the present inputs, without gradients.

        Parameters
        ----------
        images
            (B, V, M, 3, S, S) float32 in 0..255.
        present
            (B, K) bool, K = V * M, with N true elements.

        Returns
        -------
        tuple
            Cosine maps at strides 4, 8, 16: (N, h_l, w_l) each; input of the head (N, C, h, w) at stride 4.
        """
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
        """Presence of views (B, V) to presence of inputs (B, V * M): all modalities of a view are present, or none."""
        return present.repeat_interleave(len(self.spec.modalities), dim=1)

    def _keeps_common(self, samples: int, k: int, generator: torch.Generator) -> Tensor | None:
        """Return the samples (B,) bool whose decoders get f_c in student step ``k`` (``bottleneck.withhold``); None: all."""
        share = self.config.bottleneck.withhold * (1 - 2 * k / max(self.config.train.student_steps, 1))
        if share <= 0 or self.network.bottleneck is None:
            return None
        return self.ranks.part(torch.rand(samples * self.ranks.size, generator=generator) >= share)

    def _used_inputs(self, present: Tensor) -> list[int]:
        """Return the inputs that are present in at least one sample of any rank."""
        inputs: list[int] = (self.ranks.total(present.any(dim=0).float()) > 0).nonzero()[:, 0].tolist()
        return inputs

    def weights(self, views: ViewImages) -> Tensor:
        """Return (B, K, S, S) float32, 1 where a pixel counts (loss.region)."""
        seen = views.seen.float() if self.config.loss.region == "object" else torch.ones_like(views.seen, dtype=torch.float32)
        return seen.repeat_interleave(len(self.spec.modalities), dim=1)

    def autocast(self) -> AbstractContextManager[None]:
        """See ``train.precision``."""
        return autocast(self.teacher.device, self.config.train.precision)


_ZERO_LOGIT = -30.0
"""A logit whose probability is 0 in float32."""


def fast(images: Tensor) -> Tensor:
    """Return images in channels-last memory format, in which convolutions are faster."""
    return images.contiguous(memory_format=torch.channels_last)


def _columns(present: Tensor) -> Tensor:
    """Return the input (N,) of each row of ``x[present]``."""
    return present.nonzero()[:, 1]
