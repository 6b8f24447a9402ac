"""The random numbers of a step: drawn on the host ahead of the step, and moved to the device in one copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from mvad.model.devices import packed, unpacked

Value = TypeVar("Value")


@dataclass(frozen=True)
class HostTensor:
    """Numbers that decide on the host what is computed, and stay there."""

    values: Tensor


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return dataclasses, mappings and tuples of tensors with each tensor changed but those of ``HostTensor``.

    Examples
    --------
    >>> mapped({"a": (torch.tensor(1), 2)}, lambda tensor: tensor + 1)
    {'a': (tensor(2), 2)}
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, HostTensor):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: mapped(getattr(value, field.name), change) for field in fields(value)})
    if isinstance(value, Mapping):
        return {name: mapped(part, change) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(mapped(part, change) for part in value)
    return value


class Carried(Generic[Value]):
    """Numbers on their way to a device: the thread that draws them copies them into page-locked memory.

    Parameters
    ----------
    numbers
        Dataclasses, mappings and tuples of tensors on the host.
    device
        The device that they are for.
    """

    def __init__(self, numbers: Value, device: torch.device) -> None:
        self._numbers, self._device = numbers, device
        self._tensors: list[Tensor] = []
        if device.type != "cpu":
            mapped(numbers, self._kept)
        self._buffer = packed(self._tensors) if self._tensors else None

    def arrive(self) -> Value:
        """Return the numbers on the device; nothing waits for the copy."""
        if self._buffer is None:
            return self._numbers
        there = iter(unpacked(self._buffer.to(self._device, non_blocking=True), self._tensors))
        arrived: Value = mapped(self._numbers, lambda tensor: next(there))
        return arrived

    def _kept(self, tensor: Tensor) -> Tensor:
        self._tensors.append(tensor)
        return tensor
