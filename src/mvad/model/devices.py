"""Torch devices by name, and the arithmetic that they support natively."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch

from mvad.errors import BadInput, MissingComponent

_float32_only: ContextVar[bool] = ContextVar("float32_only", default=False)


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Return a torch device: ``auto`` is the current CUDA device where there is one, else the CPU.

    Parameters
    ----------
    name
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    BadInput
        If detectors do not run on this type of device.
    MissingComponent
        If this machine has no such CUDA device.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"--device {name}: choose auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"--device {name}: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingComponent(f"--device {name}: torch finds {torch.cuda.device_count()} CUDA devices; take --device cpu")
    return device


def synchronise(device: torch.device) -> None:
    """Wait until a device has finished its queued work; without it, only kernel launches are timed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@cache
def has_native_bfloat16(device_type: str) -> bool:
    """Return whether the hardware multiplies bfloat16 natively; emulation is slower than float32."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "avx512_bf16" in flags or "bf16" in flags


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return torch's autocast to bfloat16, or a context that does nothing (``train.precision``)."""
    enabled = precision == "bfloat16" or (precision == "auto" and has_native_bfloat16(device.type))
    if not enabled or _float32_only.get():
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def float32_only() -> Iterator[None]:
    """Compute in float32 whatever ``train.precision`` says, since an exported graph must not hold casts."""
    token = _float32_only.set(True)
    try:
        yield
    finally:
        _float32_only.reset(token)


def default_preset(device: torch.device) -> str:
    """Return ``paper`` on a CUDA device, else ``small``."""
    return "paper" if device.type == "cuda" else "small"


def describe_devices() -> list[tuple[str, str]]:
    """Return (name, text) lines on torch, CUDA and the processor's arithmetic."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none; training runs on the processor"
    arithmetic = "native bfloat16" if has_native_bfloat16("cuda" if torch.cuda.is_available() else "cpu") else "float32 only"
    return [("torch", f"{torch.__version__}, {torch.get_num_threads()} threads, {arithmetic}"), ("cuda", cuda)]
