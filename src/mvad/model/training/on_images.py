"""What single-view baselines share that learn by steps: one network for all views and modalities, fed image by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from mvad.datasets.shards.batches import Batches
from mvad.datasets.shards.loader import ShardSet
from mvad.model.detector import FitContext
from mvad.model.features import ViewFeatures
from mvad.model.images import ViewImages
from mvad.model.training.checkpoint import last_checkpoint, pack_optimizer, unpack_optimizer
from mvad.model.training.loop import Phase, run_phases

Learn = Callable[[Tensor, Tensor, torch.Generator, int], Tensor]
"""Images (N, 3, S, S), what counts of them (N, S, S) bool, the step's random numbers, the step: the loss."""


def train_on_images(
    features: ViewFeatures, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], train: ShardSet,
    context: FitContext, steps: int, images: int, learn: Learn,
) -> None:  # fmt: skip
    """Take ``steps`` steps of about ``images`` images: whole samples, whose present views are the images.

    Continues from the run's last checkpoint; the same steps give the same weights wherever it was stopped.
    """
    config = features.config
    samples = samples_a_step(features, images)
    saved = last_checkpoint(context.run)
    first = 0
    if saved is not None:
        first = saved.step
        for name, module in modules.items():
            module.load_state_dict({key: saved.tensors[f"{name}.{key}"] for key in module.state_dict()})
        for name, optimizer in optimizers.items():
            unpack_optimizer(f"optimizer.{name}", optimizer, saved.tensors)
    coming = Batches(train, config.seed, samples).steps(first, steps)
    keys: list[tuple[str, ...]] = [()]

    def step(k: int) -> Mapping[str, float]:
        batch = next(coming)
        keys[0] = batch.keys
        views = features.images(batch)
        pictures, counts = present_images(views)
        seed = int(np.random.SeedSequence([config.seed, 2, k]).generate_state(1, np.uint64)[0] >> 1)
        loss = learn(pictures, counts, torch.Generator().manual_seed(seed), k)
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        if bool(torch.isfinite(loss.detach())):
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            for optimizer in optimizers.values():
                optimizer.step()
        return {"loss": float(loss.detach())}

    def begin() -> None:
        for module in modules.values():
            module.train()

    def tensors() -> dict[str, Tensor]:
        state = {f"{name}.{key}": t for name, module in modules.items() for key, t in module.state_dict().items()}
        for name, optimizer in optimizers.items():
            state |= pack_optimizer(f"optimizer.{name}", optimizer)
        return state

    every, keep = config.train.checkpoint_every, config.train.keep_checkpoints
    run_phases([Phase("student", steps, begin, step)], first, samples, tensors, every, keep, context, lambda: keys[0])
    for module in modules.values():
        module.eval()


def samples_a_step(features: ViewFeatures, images: int) -> int:
    """Return how many samples make about that many images."""
    return max(1, round(images / (features.spec.views * len(features.spec.modalities))))


def present_images(views: ViewImages) -> tuple[Tensor, Tensor]:
    """Return the images (N, 3, S, S) of the views that are there, and where they show the object (N, S, S)."""
    modalities = views.images.shape[2]
    return views.images[views.present].flatten(0, 1), views.seen[views.present].repeat_interleave(modalities, dim=0)


def spread(values: Tensor, views: ViewImages) -> Tensor:
    """Put rows of ``present_images`` back: (N, ...) to (B, V, M, ...), 0 where a view is missing."""
    modalities = views.images.shape[2]
    out = values.new_zeros(*views.present.shape, modalities, *values.shape[1:])
    out[views.present] = values.view(-1, modalities, *values.shape[1:])
    return out
