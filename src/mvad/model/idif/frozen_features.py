"""Features of networks that a training phase does not change: of the teacher in both phases, of the student in the head's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from mvad.model.backbones.protocol import Backbone, Teacher
from mvad.model.devices import autocast, uses_bfloat16
from mvad.model.frozen import M, frozen_copy
from mvad.model.idif.config import IdifConfig
from mvad.model.idif.network import Network
from mvad.model.presence import Presence

Levels = Sequence[Tensor]
"""Features at strides 4, 8, 16: (N, C_l, h_l, w_l) each."""


class FrozenFeatures:
    """Teacher and student, and in training faster copies of the one that is not trained (``frozen_copy``).

    Where the encoder has the teacher's weights up to stride 4 (``encoder.freeze_early``), these layers, half of the operations of
    either, are computed once for both.

    Parameters
    ----------
    config, teacher, network
        Of the detector.
    inputs
        Views times modalities.
    """

    def __init__(self, config: IdifConfig, teacher: Teacher, network: Network, inputs: int) -> None:
        self._config, self._teacher, self._network, self._inputs = config, teacher, network, inputs
        self.use_themselves()

    def use_themselves(self) -> None:
        """Compute with teacher and network as they are: at any time but in training."""
        self._backbone: Backbone = self._teacher.backbone
        self._student: Network = self._network

    def use_copy_of_teacher(self) -> None:
        """Compute with a copy of the teacher, and the network itself, which is being trained."""
        self.use_themselves()
        if self._network.encoder.has_teachers_first:
            self._backbone = self._copy(self._teacher.backbone, lambda module, images, _: module(images[0]))

    def use_copies(self) -> None:
        """Compute with copies of both; changes of teacher and network are not seen."""
        self._backbone = self._copy(self._teacher.backbone, lambda module, images, _: module(images[0]))
        self._student = self._copy(self._network, lambda module, images, everything: module(images, everything))
        if self._config.train.compile:
            self._student.compile()

    def first(self, images: Tensor, present: Presence) -> Tensor | None:
        """Return the teacher's features at stride 4, of images (B, K, 3, S, S), where they are the encoder's too, else None."""
        if not self._network.encoder.has_teachers_first:
            return None
        with torch.no_grad():
            return self._backbone.first(fast(present.take(images)))

    def __call__(self, images: Tensor, present: Presence) -> tuple[Levels, Levels]:
        """Return the features of teacher and student of the present ones of images (B, K, 3, S, S), without gradients."""
        with torch.no_grad(), self._autocast():
            teacher = self._backbone(fast(present.take(images)))
            first = teacher[0] if self._network.encoder.has_teachers_first else None
            return teacher, [present.take(level) for level in self._student(images, present, first=first).levels]

    def of_teacher(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the teacher's features of images (N, 3, S, S), without gradients."""
        with torch.no_grad(), self._autocast():
            return self._teacher.features(fast(images))

    def _copy(self, module: M, run: Callable[[M, Tensor, Tensor], object]) -> M:
        size, device, precision = self._config.input.size, self._teacher.device, self._config.train.precision
        images, everything = torch.zeros((1, self._inputs, 3, size, size), device=device), torch.ones(1, self._inputs).bool()
        with self._autocast():
            return frozen_copy(module, lambda copy: run(copy, images, everything), uses_bfloat16(device, precision))

    def _autocast(self) -> AbstractContextManager[None]:
        return autocast(self._teacher.device, self._config.train.precision)


def fast(images: Tensor) -> Tensor:
    """Return images in channels-last memory format, in which convolutions are faster."""
    return images.contiguous(memory_format=torch.channels_last)
