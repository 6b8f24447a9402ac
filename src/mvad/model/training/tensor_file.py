"""Copies of tensors on the host, laid out as a safetensors file, so that training can go on while the file is written.

``safetensors.torch.save`` copies everything three times and keeps all other threads of Python waiting meanwhile. Here each
tensor is copied once, to its place in the file; hashing and writing the file's bytes need no lock of the interpreter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Names of the types in a safetensors file."""

_ALIGNMENT = 8
"""Size in bytes of the largest type: tensors are stored from the widest type to the narrowest, so that each is aligned."""


@dataclass(frozen=True)
class TensorFile:
    """Content of a safetensors file, which may still be arriving from a device.

    Attributes
    ----------
    buffer
        (N,) uint8 on the host: the file's bytes.
    arrived
        Event after the last copy; None where there was nothing to wait for.
    """

    buffer: Tensor
    arrived: torch.cuda.Event | None

    def content(self) -> memoryview:
        """Wait until all tensors have arrived, and return the file's bytes."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.buffer.numpy().data


def tensor_file(tensors: Mapping[str, Tensor]) -> TensorFile:
    """Copy tensors to the host as the bytes of a safetensors file, without waiting for a device.

    Tensors may be changed as soon as this returns: copies from a CUDA device are made in the order of its current stream, into
    one page-locked buffer.

    Parameters
    ----------
    tensors
        By name; of any layout, on the processor or on one CUDA device.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    facts, end = {}, 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        facts[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(facts, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    device = next((tensor.device for tensor in tensors.values() if tensor.is_cuda), None)
    buffer = torch.empty(len(header) + end, dtype=torch.uint8, pin_memory=device is not None)
    buffer[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
    place = len(header)
    for name in order:
        tensor = tensors[name].detach()
        size = tensor.numel() * tensor.element_size()
        buffer[place : place + size].view(tensor.dtype).view(tensor.shape).copy_(tensor, non_blocking=True)
        place += size
    if device is None:
        return TensorFile(buffer, None)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    arrived.record(torch.cuda.current_stream(device))
    return TensorFile(buffer, arrived)
