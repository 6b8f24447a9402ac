"""Which arithmetic a machine is good at."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import torch


@cache
def has_native_bfloat16(device_type: str) -> bool:
    """Tell whether bfloat16 products are native; emulated ones are slower than float32."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    described = Path("/proc/cpuinfo")
    words = described.read_text().split() if described.exists() else []
    return "avx512_bf16" in words or "bf16" in words


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return torch's autocast to bfloat16, or a context that does nothing (``train.precision``)."""
    wanted = precision == "bfloat16" or (precision == "auto" and has_native_bfloat16(device.type))
    if not wanted:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def default_preset() -> str:
    """Return ``paper`` where there is a CUDA device, else ``small``."""
    return "paper" if torch.cuda.is_available() else "small"


def describe_devices() -> list[tuple[str, str]]:
    """Return (name, text) lines on torch, CUDA and the processor's arithmetic."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none; training runs on the processor"
    arithmetic = "native bfloat16" if has_native_bfloat16("cuda" if torch.cuda.is_available() else "cpu") else "float32 only"
    return [("torch", f"{torch.__version__}, {torch.get_num_threads()} threads, {arithmetic}"), ("cuda", cuda)]
