"""Training of single-view methods: one network for the images of all views and modalities."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.model.features import ViewFeatures
from mvad.model.images import ViewImages
from mvad.model.presence import Presence
from mvad.model.training.context import FitContext
from mvad.model.training.engine import Figures, TrainingPhase, own_generator, train_phases
from mvad.model.training.optimizers import Optimizers

ImageLoss = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Returns the loss of images (N, 3, S, S), outlines of the object (N, S, S) bool, and the step's random generator."""

_STREAM = 2


def train_on_images(
    features: ViewFeatures, modules: Mapping[str, nn.Module], optimizers: Optimizers, train: ShardSet, context: FitContext,
    steps: int, images: int, image_loss: ImageLoss,
) -> None:  # fmt: skip
    """Train for ``steps`` steps of about ``images`` images, which are the present views of whole samples.

    Continues from the run's last checkpoint; an interruption does not change the weights.

    Parameters
    ----------
    features
        Feature extractor with configuration and device.
    modules, optimizers
        Modules to be trained, by name, and their optimizers.
    train
        The training split.
    context
        Folder, progress and log of the run.
    image_loss
        See ``ImageLoss``.
    """

    def begin() -> None:
        for module in modules.values():
            module.train()

    def step(batch: Batch, generator: torch.Generator, k: int) -> Figures:
        pictures, seen = present_images(features.images(batch))
        return {"loss": optimizers.step(image_loss(pictures, seen, generator), k)}

    phase = TrainingPhase("student", steps, _STREAM, begin, own_generator, step, optimizers)
    train_phases(
        train, [phase], features.config, context, samples_per_step(features, images), features.device,
        lambda: module_state(modules), lambda state: load_modules(modules, state),
    )  # fmt: skip
    for module in modules.values():
        module.eval()


def module_state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the parameters and buffers of named modules, each as ``module.name``."""
    return {f"{name}.{part}": tensor for name, module in modules.items() for part, tensor in module.state_dict().items()}


def load_modules(modules: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> None:
    """Restore modules from what ``module_state`` returned."""
    for name, module in modules.items():
        module.load_state_dict({part: state[f"{name}.{part}"] for part in module.state_dict()})


def samples_per_step(features: ViewFeatures, images: int) -> int:
    """Return the number of samples that have about ``images`` images, at least 1."""
    return max(1, round(images / (features.spec.views * len(features.spec.modalities))))


def present_images(views: ViewImages) -> tuple[Tensor, Tensor]:
    """Return the images (N, 3, S, S) of present views, and their outlines of the object (N, S, S) bool."""
    presence, modalities = Presence(views.present, views.images.device), views.images.shape[2]
    return presence.take(views.images).flatten(0, 1), presence.take(views.seen).repeat_interleave(modalities, dim=0)


def spread(values: Tensor, views: ViewImages) -> Tensor:
    """Return values (N, ...) of the rows of ``present_images`` as (B, V, M, ...), 0 where a view is missing."""
    presence, modalities = Presence(views.present, values.device), views.images.shape[2]
    return presence.spread(values.view(-1, modalities, *values.shape[1:]))
