"""Torch devices by name, and the arithmetic that they support natively."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from mvad.cores import usable_cores
from mvad.errors import BadInput, MissingComponent
from mvad.model.config import ONE_ORDER

_float32_only: ContextVar[bool] = ContextVar("float32_only", default=False)


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Return a torch device: ``auto`` is the current CUDA device where there is one, else the CPU.

    Torch counts the machine's cores. Where this process may use fewer (a container's share), it gets as many threads, unless
    ``OMP_NUM_THREADS`` says how many: threads that wait for their share of time are many times slower than few.

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
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())
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


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have torch draw the numbers of a seed, on every device; on the host, what it draws afterwards does not depend on it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


_ALIGNMENT = 16
"""Every tensor of a joint copy starts at a multiple of this many bytes."""


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors of the host as bytes of one page-locked buffer, which one copy moves; see ``unpacked``."""
    buffer = torch.empty(sum(map(_bytes_of, tensors)), dtype=torch.uint8, pin_memory=True)
    for part, tensor in zip(unpacked(buffer, tensors), tensors, strict=True):
        part.copy_(tensor)
    return buffer


def unpacked(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors of a buffer, which has the size of ``packed(like)``, as views of its memory."""
    parts, start = [], 0
    for tensor in like:
        size = tensor.numel() * tensor.element_size()
        parts.append(buffer[start : start + size].view(tensor.dtype).view(tensor.shape))
        start += _bytes_of(tensor)
    return parts


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of the host on a device: one copy from page-locked memory, which nothing waits for.

    Examples
    --------
    >>> moved([torch.tensor([1, 2]), torch.tensor(True)], torch.device("cpu"))
    [tensor([1, 2]), tensor(True)]
    """
    if device.type == "cpu":
        return list(tensors)
    return unpacked(packed(tensors).to(device, non_blocking=True), tensors)


def fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of one device on the host; on a GPU the process waits once for all of them.

    Examples
    --------
    >>> fetched([torch.tensor([1, 2]), torch.tensor(True)])
    [tensor([1, 2]), tensor(True)]
    """
    found, arrived = sent(tensors)
    if arrived is not None:
        arrived.synchronize()
    return found


def sent(tensors: Sequence[Tensor]) -> tuple[list[Tensor], torch.cuda.Event | None]:
    """Return tensors of one device on the host, and the event before which they are not there; None: they are.

    Copies from a GPU go into page-locked memory, and nothing waits for them.
    """
    device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
    if device is None:
        return list(tensors), None
    found = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for target, tensor in zip(found, tensors, strict=True):
        target.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    arrived.record(torch.cuda.current_stream(device))
    return found, arrived


def _bytes_of(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a float32 vector of numbers on a device; it is copied there once in a process, and must not be changed."""
    return torch.tensor(values, device=device)


@cache
def has_native_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware of a device multiplies bfloat16 natively; emulation is slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "avx512_bf16" in flags or "bf16" in flags


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return torch's autocast to bfloat16, or a context that does nothing (``train.precision``)."""
    if not uses_bfloat16(device, precision):
        return contextlib.nullcontext()
    # Casts that are kept until the context ends would lie in the memory of a recorded step (training/graphs.py).
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=device.type == "cpu")


def check_deterministic(device: torch.device) -> None:
    """Set what cuBLAS reads when it is first used (``ONE_ORDER``), so that its sums on a device have one order.

    Raises
    ------
    BadInput
        If it is not set, and this process used the GPU before.
    """
    name, value = ONE_ORDER
    if device.type == "cuda" and name not in os.environ and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        raise BadInput(
            f"train.deterministic: this process used the GPU before it was asked for; set {name}={value} in its environment"
        )
    os.environ.setdefault(name, value)


@contextlib.contextmanager
def arithmetic(precision: str, deterministic: bool, searches: bool = False) -> Iterator[None]:
    """Compute as ``train.precision`` and ``train.deterministic`` say; torch's settings are restored afterwards.

    Parameters
    ----------
    precision
        With ``float32`` a GPU multiplies in float32; else convolutions outside of autocast may round their inputs to 10 bits
        (TF32), which is torch's default.
    deterministic
        Whether only deterministic algorithms are used; operations that have none give a warning.
    searches
        Whether cuDNN tries its algorithms for each new shape: pays where many steps have the same shapes.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if precision == "float32":
        cudnn.allow_tf32 = matmul.allow_tf32 = False
    if deterministic:
        cudnn.benchmark, cudnn.deterministic = False, True
        torch.use_deterministic_algorithms(True, warn_only=True)
    elif searches:
        cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])


@contextlib.contextmanager
def float32_only() -> Iterator[None]:
    """Compute in float32 whatever ``train.precision`` says, since an exported graph must not hold casts."""
    token = _float32_only.set(True)
    try:
        yield
    finally:
        _float32_only.reset(token)


def uses_bfloat16(device: torch.device, precision: str) -> bool:
    """Return whether ``autocast`` computes in bfloat16."""
    wanted = precision == "bfloat16" or (precision == "auto" and has_native_bfloat16(device))
    return wanted and not _float32_only.get()


def default_preset(device: torch.device) -> str:
    """Return ``paper`` on a CUDA device, else ``small``."""
    return "paper" if device.type == "cuda" else "small"


def describe_devices() -> list[tuple[str, str]]:
    """Return (name, text) lines on torch, CUDA and the processor's arithmetic."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none; training runs on the processor"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arithmetic = "native bfloat16" if has_native_bfloat16(device) else "float32 only"
    return [("torch", f"{torch.__version__}, {torch.get_num_threads()} threads, {arithmetic}"), ("cuda", cuda)]
