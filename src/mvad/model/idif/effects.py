"""Contribution of each module of IDIF: the distillation loss of normal samples when the module's output is replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mvad.datasets.shards.loader import ShardSet, normal_rows
from mvad.model.idif.losses import cosine_maps, distillation_loss
from mvad.model.idif.network import VoxelRoute
from mvad.model.idif.spatial_transformer import SpatialTransformer
from mvad.progress import Progress

if TYPE_CHECKING:
    from mvad.model.idif.detector import Idif

Hook = Callable[[nn.Module, Any, Any], Any]

_AS_TRAINED, _MOVED = "as trained", "angles moved"


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
        ``as trained``; ``f_c = 0``; ``f_c of another sample``; ``P_n = P_0``; ``P_n of another sample``; ``f_s of the other views
        of another sample`` (each view keeps its own f_s, which also passes through the voxel: this one alone tells what views
        give one another through it); ``view conditions shuffled`` (embeddings and planes of the next view); ``angles reset`` (to
        those before training); and ``angles moved``, the largest change, in radians or of an entry of a matrix. ``rises`` returns what each costs.
    """
    network = detector.network
    bottleneck, route = network.bottleneck, network.fusion
    assert bottleneck is not None
    assert isinstance(route, VoxelRoute)
    fusion, transformer = route.voxel_fusion, route.spatial_transformer
    start, modalities = transformer.initial, len(detector.spec.modalities)

    def no_common(module: nn.Module, inputs: Any, out: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.zeros_like(out[0]), *out[1:]

    def others_common(module: nn.Module, inputs: Any, out: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return out[0].roll(1, 0), *out[1:]

    def prototype(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        return fusion.prototype.expand_as(out)

    def next_plane(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        return out.roll(modalities, 1)

    def others_specific(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        specific, present = inputs
        rolled, planes = specific.roll(1, 0), []
        for first in range(0, specific.shape[1], modalities):
            own = slice(first, first + modalities)
            mixed = torch.cat([rolled[:, :first], specific[:, own], rolled[:, own.stop :]], dim=1)
            planes.append(module.forward(mixed, present)[:, own])
        return torch.cat(planes, dim=1)

    interventions: dict[str, contextlib.AbstractContextManager[None]] = {
        _AS_TRAINED: contextlib.nullcontext(),
        "f_c = 0": _hooked(bottleneck, no_common),
        "f_c of another sample": _hooked(bottleneck, others_common),
        "P_n = P_0": _hooked(fusion, prototype),
        "P_n of another sample": _hooked(fusion, _of_another_sample),
        "f_s of the other views of another sample": _hooked(route, others_specific),
        "view conditions shuffled": _shuffled(fusion.view_embedding, transformer, next_plane, modalities),
        "angles reset": _replaced(transformer.angles, start),
    }
    rows = normal_rows(normals)
    losses = {}
    progress.start("module effects", len(interventions))
    with _evaluating(network):
        for name, intervention in interventions.items():
            with intervention:
                losses[name] = _loss(detector, normals, rows, batch)
            progress.advance()
    return losses | {_MOVED: float((transformer.angles.detach() - start).abs().max())}


def rises(losses: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each intervention raises the loss ``as trained``, as a share of it: 0.01 is one percent.

    Parameters
    ----------
    losses
        See ``module_effects``; ``angles moved``, which is no loss, is left out.

    Examples
    --------
    >>> rises({"as trained": 0.5, "f_c = 0": 0.75, "angles moved": 0.04})
    {'f_c = 0': 0.5}
    """
    plain = losses[_AS_TRAINED]
    return {name: loss / plain - 1 for name, loss in losses.items() if name not in (_AS_TRAINED, _MOVED)}


def held_out_losses(detector: Idif, normals: ShardSet, batch: int = 4) -> dict[str, float]:
    """Return ``Detector.held_out_losses`` of a network at any moment of its training, which it does not change.

    Parameters
    ----------
    detector
        An IDIF, with voxel or without.
    normals
        Normal samples that it is not trained on.
    batch
        Samples that are evaluated together.
    """
    network, rows = detector.network, normal_rows(normals)
    if not rows:
        return {}
    route = network.fusion
    with _evaluating(network):
        plain = _loss(detector, normals, rows, batch)
        losses = {"distillation": plain}
        if isinstance(route, VoxelRoute) and len(rows) > 1 and plain > 0:
            with _hooked(route.voxel_fusion, _of_another_sample):
                losses["voxel_rise"] = _loss(detector, normals, rows, batch) / plain - 1
    return losses


def _of_another_sample(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
    """Give each sample of a batch the output for the one before it."""
    return out.roll(1, 0)


def _loss(detector: Idif, normals: ShardSet, rows: Sequence[int], batch: int) -> float:
    """Return the mean loss per view (eq. 1) of samples, on views that are not corrupted.

    Samples are evaluated ``batch`` or more at a time, so that no batch has one sample unless there is one only.
    """
    total = 0.0
    for chosen in np.array_split(rows, max(1, len(rows) // batch)):
        views = detector.images(normals.batch(chosen))
        present = detector.training_steps.inputs(views.present)
        flat = views.images.flatten(1, 2)
        teacher = detector.teacher.features(present.take(flat))
        # Not by __call__: what torch.compile made of the network before a hook was added does not call the hook.
        student = [present.take(level) for level in detector.network.forward(flat, present).levels]
        loss = distillation_loss(cosine_maps(teacher, student), present.take(detector.training_steps.weights(views)))
        total += len(chosen) * float(loss)
    return total / len(rows)


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Set a network to evaluation, without gradients, and afterwards each of its modules back to how it was."""
    before = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in before.items():
            module.training = training


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
def _shuffled(embedding: nn.Parameter, transformer: SpatialTransformer, hook: Hook, modalities: int) -> Iterator[None]:
    with _replaced(embedding, embedding.detach().roll(modalities, 0)), _hooked(transformer, hook):
        yield
