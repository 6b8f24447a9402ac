"""Batch of samples as the shards hold them, and how batches and samples become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvad.datasets.renders.coding import DepthCoding
from mvad.datasets.shards.schema import Sample
from mvad.errors import BadInput


@dataclass(frozen=True, repr=False)
class Batch:
    """Batch of B samples with V views each, coded as in the shards: small integers, which are converted to floats on the device.

    Attributes
    ----------
    rgb, normal
        (B, V, H, W, 3) uint8, or None if the shards do not have the field or it was not selected.
    depth_code
        (B, V, H, W) uint16, coded by ``coding``, or None; the property ``depth`` returns metres.
    mask
        (B, V, H, W) uint8, nonzero on the defect.
    seen
        (B, V, H, W) bool, pixels that show the object; all true in views of photographs.
    source
        (B, V, H, W) int32, row * W + column of the raw scan, -1 where nothing is seen; or None if it was not selected.
    present, view_label
        (B, V) bool: the views that the sample has, and the views that show its defect.
    label
        (B,) bool: whether the sample is anomalous.
    """

    keys: tuple[str, ...]
    defects: tuple[str, ...]
    rgb: Tensor | None
    depth_code: Tensor | None
    normal: Tensor | None
    mask: Tensor
    seen: Tensor
    source: Tensor | None
    present: Tensor
    view_label: Tensor
    label: Tensor
    coding: DepthCoding | None

    def __repr__(self) -> str:
        stored = {"rgb": self.rgb, "depth": self.depth_code, "normal": self.normal, "source": self.source}
        fields = ", ".join(name for name, tensor in stored.items() if tensor is not None)
        return f"Batch({len(self.keys)} samples, {self.mask.shape[1]} views, {self.size} px, {fields or 'masks'})"

    @property
    def depth(self) -> Tensor | None:
        """(B, V, H, W) float32 metres on the batch's device, 0 where nothing is seen; or None."""
        if self.depth_code is None or self.coding is None:
            return None
        levels = self.depth_code.to(torch.int32)
        metres = self.coding.offset_m + self.coding.step_m * (levels - 1).double()
        return torch.where(levels > 0, metres, 0.0).float()

    @property
    def size(self) -> int:
        """Side of a view in pixels."""
        return int(self.mask.shape[-1])

    def to(self, device: torch.device) -> Batch:
        """Return the batch with what detectors see of it on a device; from page-locked memory it is copied asynchronously.

        Masks, labels and ``present`` stay on the host: evaluation reads them there, and which views are there decides what is
        computed.
        """
        return self._with_seen(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch with what ``to`` moves in page-locked memory; torch's DataLoader calls this."""
        return self._with_seen(lambda tensor: tensor if tensor.is_cuda else tensor.contiguous().pin_memory())

    def rows(self, start: int, stop: int) -> Batch:
        """Return the samples from number ``start`` to ``stop - 1``, as views of the same memory."""
        parts: dict[str, Any] = {name: tensor[start:stop] for name, tensor in self._tensors().items()}
        return replace(self, keys=self.keys[start:stop], defects=self.defects[start:stop], **parts)

    def _with_seen(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with each tensor changed that detectors see."""
        seen = {name: tensor for name, tensor in self._tensors().items() if name in _SEEN_BY_DETECTORS}
        return replace(self, **{name: change(tensor) for name, tensor in seen.items()})  # type: ignore[arg-type]

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}


_SEEN_BY_DETECTORS = ("rgb", "depth_code", "normal", "seen", "source")


def collate(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches; those with fewer views are padded with missing views. Use it as the ``collate_fn`` of a DataLoader.

    Raises
    ------
    BadInput
        If the fields, sizes or depth codings of the batches differ.

    Examples
    --------
    >>> import mvad
    >>> data = mvad.ShardSet("mvad-data/shards/mvtec3d/gear", "train")
    >>> mvad.collate([data[0], data[2]])
    Batch(2 samples, 5 views, 64 px, rgb, depth, normal)
    """
    if len(batches) == 1:
        return batches[0]
    first, views = batches[0], max(batch.mask.shape[1] for batch in batches)
    if len({(tuple(batch._tensors()), batch.coding, batch.mask.shape[2:]) for batch in batches}) > 1:
        raise BadInput("batches of different fields, sizes or depth ranges cannot be joined; pack them alike")

    def padded(tensor: Tensor, name: str) -> Tensor:
        missing = views - tensor.shape[1] if tensor.ndim > 1 else 0
        if not missing:
            return tensor
        filler = torch.full((len(tensor), missing, *tensor.shape[2:]), -1 if name == "source" else 0, dtype=tensor.dtype)
        return torch.cat([tensor, filler], dim=1)

    joined: dict[str, Any] = {
        name: torch.cat([padded(getattr(batch, name), name) for batch in batches]) for name in first._tensors()
    }
    keys = tuple(key for batch in batches for key in batch.keys)
    return replace(first, keys=keys, defects=tuple(d for batch in batches for d in batch.defects), **joined)


def batch_of(sample: Sample, coding: DepthCoding | None) -> Batch:
    """Return a sample as a batch of one.

    Parameters
    ----------
    sample
        The sample, coded as in a shard.
    coding
        Coding of its depth.
    """

    def tensor(array: Any) -> Tensor | None:
        return None if array is None else torch.from_numpy(np.ascontiguousarray(array))[None]

    mask, present = torch.from_numpy(sample.mask)[None], torch.from_numpy(sample.present)[None].bool()
    seen = present[:, :, None, None].expand(mask.shape) if sample.seen is None else torch.from_numpy(sample.seen)[None].bool()
    return Batch(
        keys=(sample.key,), defects=(sample.defect,), rgb=tensor(sample.rgb), depth_code=tensor(sample.depth),
        normal=tensor(sample.normal), mask=mask, seen=seen, source=tensor(sample.source), present=present,
        view_label=torch.from_numpy(sample.view_label)[None].bool(), label=torch.tensor([bool(sample.label)]),
        coding=None if sample.depth is None else coding,
    )  # fmt: skip
