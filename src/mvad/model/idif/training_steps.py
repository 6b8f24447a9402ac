"""Training steps of IDIF: the student learns to denoise the teacher's features, then the head to segment the anomalies."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mvad.model.backbones.protocol import Teacher
from mvad.model.devices import autocast, moved, uses_bfloat16
from mvad.model.idif.augment import draw_turns
from mvad.model.idif.config import IdifConfig
from mvad.model.idif.frozen_features import FrozenFeatures, Levels
from mvad.model.idif.head import Heads, head_input
from mvad.model.idif.losses import cosine_maps, distillation_loss, head_loss, summed_distillation_loss
from mvad.model.idif.network import Network
from mvad.model.idif.view_dropout import draw_kept, remaining
from mvad.model.idif.window import Window
from mvad.model.images import ViewImages
from mvad.model.input_spec import InputSpec
from mvad.model.presence import Presence
from mvad.model.synthesis.paste import Corrupted, Plan, plan_corruption
from mvad.model.synthesis.textures import Textures
from mvad.model.training.graphs import StepGraphs, Work
from mvad.model.training.numbers import HostTensor
from mvad.model.training.optimizers import Optimizers
from mvad.model.training.parallel import ProcessGroup
from mvad.model.training.weights import CastWeights


@dataclass(frozen=True)
class StepNumbers:
    """Random numbers of a step, for the B samples of this rank.

    Attributes
    ----------
    turns
        (B,) float32, degrees by which samples are turned; None without augmentation.
    plan
        Numbers of the pseudo anomalies.
    kept
        (B or 1, V) bool, views that are not dropped.
    noise
        (B, code channels, h, w) float32, epsilon of eq. 4; None in head steps.
    keeps_common
        (B,) bool, samples whose decoders get f_c (``bottleneck.withhold``); None: all.
    """

    turns: HostTensor | None
    plan: Plan
    kept: HostTensor
    noise: Tensor | None = None
    keeps_common: Tensor | None = None


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
        self.graphs = StepGraphs(False, teacher.device)
        self._presences: dict[bytes, Presence] = {}
        self._casts: CastWeights | None = None
        self._frozen = FrozenFeatures(config, teacher, network, spec.views * len(spec.modalities))
        cells = config.input.size // 4
        self.window = Window(cells, cells)

    def begin_student(self) -> None:
        """Set the network to training, and the heads to evaluation."""
        self.network.train().requires_grad_(True)
        self.network.encoder.train()  # freezes the early layers again, which requires_grad_(True) made trainable
        self.heads.eval()
        self._frozen.use_copy_of_teacher()
        self._casts = self._cast(self.network)

    def begin_head(self) -> None:
        """Set the heads to training; teacher and network do not change from here on, and are evaluated by faster copies."""
        self.network.eval().requires_grad_(False)
        self.heads.train()
        self.graphs.clear()
        self._casts = self._cast(self.heads)
        self._frozen.use_copies()

    def finish(self) -> None:
        """Go back to teacher and network themselves, after the last step."""
        self.graphs.clear()
        self.ranks = ProcessGroup()  # from here on each process scores for itself
        self._casts = None
        self._frozen.use_themselves()

    def _cast(self, module: nn.Module) -> CastWeights | None:
        device = self.teacher.device
        return CastWeights(module) if device.type == "cuda" and uses_bfloat16(device, self.config.train.precision) else None

    def _cast_weights(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self._casts is None else self._casts.used()

    def draw(self, samples: int, k: int, textures: Textures, generator: torch.Generator) -> StepNumbers:
        """Draw the random numbers of step ``k`` for this rank's ``samples`` samples, on the host."""
        config, ranks, size = self.config, self.ranks, self.config.input.size
        turns = draw_turns(samples, config.augment, generator, ranks)
        plan = plan_corruption(samples, size, self.spec, textures, config.pseudo, generator, ranks)
        kept = draw_kept(samples, self.spec.views, config.dropout, generator, ranks)
        return StepNumbers(None if turns is None else HostTensor(turns), plan, HostTensor(kept))

    def draw_student(self, samples: int, k: int, textures: Textures, generator: torch.Generator) -> StepNumbers:
        """Draw the numbers of student step ``k``; see ``draw``."""
        numbers, config, ranks = self.draw(samples, k, textures, generator), self.config, self.ranks
        every, side, keeps = samples * ranks.size, config.input.size // config.encoder.level, None
        if self.network.bottleneck is None:
            return numbers
        share = config.bottleneck.withhold * (1 - 2 * k / max(config.train.student_steps, 1))
        if share > 0:
            keeps = ranks.part(torch.rand(every, generator=generator) >= share)
        noise = ranks.part(torch.randn((every, config.bottleneck.channels, side, side), generator=generator))
        return replace(numbers, noise=noise, keeps_common=keeps)

    def student_step(
        self, views: ViewImages, corrupted: Corrupted, clean: tuple[Tensor, ...], optimizers: Optimizers, k: int,
        numbers: StepNumbers,
    ) -> Mapping[str, Tensor]:  # fmt: skip
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
        numbers
            Random numbers of the step (``draw_student``).

        Returns
        -------
        Mapping
            ``loss``, ``distill`` and ``bottleneck``, each over all ranks: 0-d float32, on the device.
        """
        present = self.inputs(remaining(views.present, numbers.kept.values))
        supervised = present if self.config.dropout.supervise == "present" else self.inputs(views.present)
        inputs = {"images": corrupted.images.flatten(1, 2), "weight": self.weights(views)}
        inputs |= {f"clean.{level}": features for level, features in enumerate(clean)}
        inputs |= {} if numbers.noise is None else {"noise": numbers.noise}
        inputs |= {} if numbers.keeps_common is None else {"keeps": numbers.keeps_common}

        def work(given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            distill, bottleneck = self._student_losses(given, present, supervised)
            config = self.config.loss
            factor = config.images if config.reduction == "mean" and self.config.optimizer.kind == "destseg" else 1
            loss = _times(config.alpha, distill) + _times(config.beta, bottleneck)  # eq. 10
            self._backward(_times(factor, loss))
            return loss.detach(), distill.detach(), bottleneck.detach()

        loss, distill, bottleneck = self._run("student", [present, supervised], work, inputs, optimizers)
        return {"loss": optimizers.apply(loss, k, self.ranks), "distill": distill, "bottleneck": bottleneck}

    def _student_losses(
        self, given: Mapping[str, Tensor], present: Presence, supervised: Presence
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return L_Distill and L_IB of the inputs of a student step."""
        config, ranks = self.config.loss, self.ranks
        encoded, decoded = self._used_inputs(present), self._used_inputs(supervised)

        def noise(shape: torch.Size) -> Tensor:
            return given["noise"]

        with self.autocast(), self._cast_weights():
            first = self._frozen.first(given["images"], present)
            student = self.network(given["images"], present, noise, encoded, decoded, given.get("keeps"), first)
        clean = [supervised.take(given[f"clean.{level}"]) for level in range(3)]
        maps = cosine_maps(clean, [supervised.take(s) for s in student.levels])
        weight = supervised.take(given["weight"])
        if config.reduction == "mean":
            distill = distillation_loss(maps, weight, len(decoded), ranks.total)
        else:
            distill = summed_distillation_loss(maps, weight)
        count = float(present.count)
        share = 1.0 if ranks.alone else count / float(ranks.total(torch.tensor(count)))
        return distill, _times(share, student.bottleneck_loss.float())

    def _backward(self, loss: Tensor) -> None:
        """Leave the gradients of a loss in the weights."""
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if self._casts is not None:
            self._casts.give_gradients()

    def head_step(
        self, views: ViewImages, corrupted: Corrupted, optimizers: Optimizers, k: int, numbers: StepNumbers
    ) -> Mapping[str, Tensor]:
        """Train the head to predict the masks of the pseudo anomalies from the features of the corrupted views.

        Views are dropped as in a student step, since the features of the others differ without them.

        Returns
        -------
        Mapping
            ``loss``, over all ranks: 0-d float32, on the device.
        """
        present = self.inputs(remaining(views.present, numbers.kept.values))
        inputs = {
            "images": corrupted.images, "mask": corrupted.mask.flatten(1, 2), "weight": self.weights(views), "seen": views.seen,
        }  # fmt: skip

        def work(given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            teacher, student = self.features(given["images"], present)
            with self.autocast(), self._cast_weights():
                logits = self._logits(teacher, student, given["seen"], present)
            mask, weight = present.take(given["mask"]), present.take(given["weight"])
            half_counts = self.config.head.kind == "destseg"
            loss = head_loss(logits, mask, weight, self.config.loss.focal_gamma, self.ranks.total, half_counts)
            self._backward(loss)
            return (loss.detach(),)

        [loss] = self._run("head", [present], work, inputs, optimizers)
        return {"loss": optimizers.apply(loss, k, self.ranks)}

    def present_maps(self, views: ViewImages, inputs: Presence | None = None) -> tuple[list[Tensor], Tensor]:
        """Return what ``present_logits`` does, with probabilities for logits."""
        cosine, logits = self.present_logits(views, inputs)
        return cosine, torch.sigmoid(logits)

    def present_logits(self, views: ViewImages, inputs: Presence | None = None) -> tuple[list[Tensor], Tensor]:
        """Return maps of the N inputs of present views (``inputs(views.present)``), without gradients.

        Returns
        -------
        tuple
            Cosine maps at strides 4, 8, 16: (N, h_l, w_l) each; logits of the head (N, h, w) at stride 4. All float32.
        """
        present = self.inputs(views.present) if inputs is None else inputs
        with torch.no_grad():
            teacher, student = self.features(views.images, present)
            with self.autocast():
                logits = self._logits(teacher, student, views.seen, present)
            return cosine_maps(teacher, student), logits.float()

    def _logits(self, teacher: Levels, student: Levels, outlines: Tensor, present: Presence) -> Tensor:
        """Return the head's logits (N, h, w), inside the window around the outlines (B, V, S, S); outside it is probability 0."""
        used, window = self._used_inputs(present), self.window
        if window.whole:
            logits: Tensor = self.heads(head_input(teacher, student), present, used)
            return logits
        seen = present.take(self._of_inputs(outlines))
        places, fits = window.places(seen)
        out = window.paste(self.heads(head_input(teacher, student, window, places), present, used), places, _ZERO_LOGIT)
        # An object that is larger than any in training gets the whole image, except in an exported graph, which cannot branch.
        if self.heads.training or torch.onnx.is_in_onnx_export() or bool(fits.all()):
            return out
        large, mask = ~fits.cpu(), present.mask.clone()
        mask[present.mask] = large
        rows = moved([large.nonzero()[:, 0]], out.device)[0]
        whole = self.heads(head_input([t[rows] for t in teacher], [s[rows] for s in student]), Presence(mask, out.device))
        return out.index_copy(0, rows, whole.to(out.dtype))

    def features(self, images: Tensor, present: Presence) -> tuple[Levels, Levels]:
        """Return the features of teacher and student of the present inputs, without gradients.

        Parameters
        ----------
        images
            (B, V, M, 3, S, S) float32 in 0..255.
        present
            The N inputs of (B, V * M) that are there.

        Returns
        -------
        tuple
            For teacher and student the features at strides 4, 8, 16: (N, C_l, h_l, w_l) each.
        """
        return self._frozen(images.flatten(1, 2), present)

    def clean_features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the teacher's features of one sample's views (K, 3, S, S)."""
        return self._frozen.of_teacher(images)

    def inputs(self, present: Tensor) -> Presence:
        """Presence of views (B, V) on the host to that of inputs (B, V * M): a view's modalities are all present, or none."""
        presence = Presence(present.repeat_interleave(len(self.spec.modalities), dim=1), self.teacher.device)
        if len(self._presences) < _MOST_PRESENCES:
            return self._presences.setdefault(presence.key, presence)  # a recorded step reads the same places in memory again
        return self._presences.get(presence.key, presence)

    def _run(
        self, phase: str, presences: Sequence[Presence], work: Work, inputs: Mapping[str, Tensor], optimizers: Optimizers
    ) -> list[Tensor]:  # fmt: skip
        """Return the figures of a step over all ranks, with its gradients; as a graph if its presences will be met again."""
        optimizers.zero()
        keys = [presence.key for presence in presences]
        if all(key in self._presences for key in keys):
            figures = self.graphs.run((phase, *keys, *inputs), work, inputs, optimizers.parameters)
        else:
            figures = work(inputs)
        return [self.ranks.total(figure) for figure in figures]

    def _used_inputs(self, present: Presence) -> list[int]:
        """Return the inputs that are present in at least one sample of any rank."""
        if self.ranks.alone:
            return present.used
        inputs: list[int] = (self.ranks.total(present.mask.any(dim=0).float()) > 0).nonzero()[:, 0].tolist()
        return inputs

    def weights(self, views: ViewImages) -> Tensor:
        """Return (B, K, S, S) float32, 1 where a pixel counts (loss.region)."""
        seen = views.seen.float() if self.config.loss.region == "object" else torch.ones_like(views.seen, dtype=torch.float32)
        return self._of_inputs(seen)

    def _of_inputs(self, planes: Tensor) -> Tensor:
        """Return planes of views (B, V, ...) as those of inputs (B, V * M, ...)."""
        modalities = len(self.spec.modalities)
        return planes if modalities == 1 else planes.repeat_interleave(modalities, dim=1)

    def autocast(self) -> AbstractContextManager[None]:
        """See ``train.precision``."""
        return autocast(self.teacher.device, self.config.train.precision)


def _times(factor: float, value: Tensor) -> Tensor:
    return value if factor == 1 else factor * value


_MOST_PRESENCES = 64
_ZERO_LOGIT = -30.0
"""A logit whose probability is 0 in float32."""
