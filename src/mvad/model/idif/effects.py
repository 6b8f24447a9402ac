"""Contribution of each module of a trained IDIF: the distillation loss when the module's output is replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import ShardSet
from mvad.model.idif.detector import Idif
from mvad.model.idif.losses import cosine_maps, distillation_loss
from mvad.model.idif.network import VoxelRoute
from mvad.model.idif.spatial_transformer import SpatialTransformer
from mvad.progress import Progress

Hook = Callable[[nn.Module, Any, Any], Any]


def module_effects(detector: Idif, normals: ShardSet, progress: Progress, batch: int = 4) -> dict[str, float]:
    """Return the mean distillation loss per view of normal samples, as trained and under each intervention.

    Parameters
    ----------
    detector
        A trained IDIF with bottleneck and voxel.
    normals
        Samples that it was not trained on; those with a defect are left out.
    progress
        Receives one step per intervention.
    batch
        Samples that are evaluated together; at least 2, since one intervention takes another sample's features.

    Returns
    -------
    dict
        ``as trained``; ``f_c = 0``; ``f_c of another sample``; ``P_n = P_0``; ``view conditions shuffled`` (embeddings and
        planes of the next view); ``angles reset`` (to the rig's); and ``angles moved``, the largest change in radians.
    """
    network = detector.network
    bottleneck, route = network.bottleneck, network.fusion
    assert bottleneck is not None
    assert isinstance(route, VoxelRoute)
    fusion, transformer = route.voxel_fusion, route.spatial_transformer
    start = detector.spec.angles.repeat_interleave(len(detector.spec.modalities), dim=0).to(transformer.angles)

    def no_common(module: nn.Module, inputs: Any, out: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.zeros_like(out[0]), *out[1:]

    def others_common(module: nn.Module, inputs: Any, out: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return out[0].roll(1, 0), *out[1:]

    def prototype(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        return fusion.prototype.expand_as(out)

    def next_plane(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        return out.roll(1, 1)

    interventions: dict[str, contextlib.AbstractContextManager[None]] = {
        "as trained": contextlib.nullcontext(),
        "f_c = 0": _hooked(bottleneck, no_common),
        "f_c of another sample": _hooked(bottleneck, others_common),
        "P_n = P_0": _hooked(fusion, prototype),
        "view conditions shuffled": _shuffled(fusion.view_embedding, transformer, next_plane),
        "angles reset": _replaced(transformer.angles, start),
    }
    rows = [row for row in range(len(normals)) if not normals.labels[row]]
    losses = {}
    progress.start("module effects", len(interventions))
    network.eval()
    for name, intervention in interventions.items():
        with intervention, torch.no_grad():
            losses[name] = _loss(detector, normals, rows, batch)
        progress.advance()
    return losses | {"angles moved": float((transformer.angles.detach() - start).abs().max())}


def _loss(detector: Idif, normals: ShardSet, rows: list[int], batch: int) -> float:
    """Return the mean over batches of the loss per view (eq. 1), on views that are not corrupted."""
    total, count = 0.0, 0
    for first in range(0, len(rows) - batch + 1, batch):
        views = detector.images(normals.batch(rows[first : first + batch]))
        present = detector.training_steps.inputs(views.present)
        flat = views.images.flatten(1, 2)
        teacher = detector.teacher.features(flat[present])
        student = [level[present] for level in detector.network(flat, present).levels]
        total += float(distillation_loss(cosine_maps(teacher, student), detector.training_steps.weights(views)[present]))
        count += 1
    return total / count


@contextlib.contextmanager
def _hooked(module: nn.Module, hook: Hook) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _replaced(parameter: nn.Parameter, value: Tensor) -> Iterator[None]:
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter.copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(kept)


@contextlib.contextmanager
def _shuffled(embedding: nn.Parameter, transformer: SpatialTransformer, hook: Hook) -> Iterator[None]:
    with _replaced(embedding, embedding.detach().roll(1, 0)), _hooked(transformer, hook):
        yield
