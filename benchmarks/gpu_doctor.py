"""Stage of gpu.py: versions, ceilings of the card, latency of a launch and of reading a value, the tests marked gpu."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gpu_common import HERE, Asked, many_milliseconds, needs_card

_PACKAGES = (
    "scipy", "numba", "h5py", "hdf5plugin", "triton", "PyOpenGL", "pyrender", "open3d", "onnxruntime",
)  # fmt: skip


def facts(asked: Asked) -> dict[str, Any]:
    """Return machine and versions: no host names, no paths."""
    import torch

    from mvad.cores import usable_cores
    from mvad.model.runs import machine

    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    found = machine(asked.torch_device()) | {"cores": usable_cores(), "processor": _processor(), "system": platform.machine()}
    found |= versions | {"cuda": torch.version.cuda, "cards": torch.cuda.device_count() if asked.on_card else 0}
    if asked.on_card:
        with contextlib.suppress(Exception):  # a part that one version or driver does not tell is left out
            found["cudnn"] = torch.backends.cudnn.version()
            properties = torch.cuda.get_device_properties(0)
            found["memory_gb"] = round(properties.total_memory / 1e9, 2)
            found["capability"] = f"{properties.major}.{properties.minor}"
            found["multiprocessors"] = properties.multi_processor_count
        found["driver"] = _driver()
    return found


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        return next((line.split(":")[1].strip() for line in lines if "model name" in line), "cpu")
    return "cpu"


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown: no nvidia-smi"
    asked_for = "driver_version,clocks.max.sm,power.limit,mig.mode.current"
    command = ["nvidia-smi", f"--query-gpu={asked_for}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return " / ".join(done.stdout.split("\n")[:1]).strip() or "unknown"


def ceilings(asked: Asked) -> dict[str, float]:
    """Return what products, a copy and the convolution of the head reach."""
    import torch

    device, n = asked.torch_device(), 8192 if asked.on_card else 256
    times, found = 10 if asked.on_card else 2, {}
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False), ("TF32", torch.float32, True), ("float32", torch.float32, False),
    ):  # fmt: skip
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
        taken = many_milliseconds(lambda a=a, b=b: a @ b, device, times)
        torch.backends.cuda.matmul.allow_tf32 = before
        found[f"matmul_{name}_tflops"] = round(2 * n**3 / taken / 1e9, 2)
    x = torch.zeros(2**28 if asked.on_card else 2**20, device=device)
    y = torch.empty_like(x)
    found["copy_gb_per_s"] = round(2 * x.numel() * 4 / many_milliseconds(lambda: y.copy_(x), device, times) / 1e6, 1)
    layer = torch.nn.Conv2d(256, 256, 3, padding=6, dilation=6, bias=False).to(device, torch.bfloat16)
    layer = layer.to(memory_format=torch.channels_last)
    images, side = (80, 52) if asked.on_card else (1, 8)
    planes = torch.rand(images, 256, side, side, device=device, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    for searched in (False, True):
        torch.backends.cudnn.benchmark = searched
        with torch.no_grad():
            taken = many_milliseconds(lambda: layer(planes), device, times)
        kind = "searched" if searched else "chosen"
        found[f"head_convolution_{kind}_tflops"] = round(2 * images * side**2 * 256**2 * 9 / taken / 1e9, 2)
    torch.backends.cudnn.benchmark = False
    return found


def latency(asked: Asked) -> dict[str, Any]:
    """Return microseconds of a launch and of reading a value, and GB/s from the host."""
    import torch

    device = asked.torch_device()
    x = torch.zeros(16, device=device)
    found: dict[str, Any] = {
        "launch_us": round(1000 * many_milliseconds(lambda: x.add_(1), device, 2000 if asked.on_card else 100), 2),
        "item_us": round(1000 * many_milliseconds(lambda: x[0].item(), device, 500 if asked.on_card else 50), 2),
    }
    missing = needs_card(asked, "a copy from the host")
    if missing is not None:
        return found | missing
    plain = torch.zeros(18 << 20, dtype=torch.uint8)
    locked = plain.pin_memory()
    for name, tensor in (("pageable", plain), ("page_locked", locked)):
        taken = many_milliseconds(lambda t=tensor: t.to(device, non_blocking=True), device, 20)
        found[f"copy_{name}_gb_per_s"] = round(tensor.numel() / taken / 1e6, 2)
    return found


def gpu_tests(asked: Asked) -> dict[str, Any]:
    """Return the result of the tests marked gpu."""
    if shutil.which("pytest") is None and not _importable("pytest"):
        return {"left_out": "needs pytest"}
    missing = needs_card(asked, "pytest -m gpu")
    if missing is not None:
        return missing
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/model", "tests/datasets"]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4")}
    limit = max(asked.left - 2, 1)
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, timeout=limit, env=environment)
    except subprocess.TimeoutExpired:
        return {"left_out": f"not done after {limit:.0f} s"}
    lines = [line[:200] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    return {"exit": done.returncode, "last": (done.stdout.strip().splitlines() or [""])[-1], "lines": lines[:20]}


def _importable(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def doctor(asked: Asked) -> None:
    """See the module."""
    asked.attempt("machine", lambda: facts(asked))
    asked.attempt("ceilings", lambda: ceilings(asked))
    asked.attempt("latency", lambda: latency(asked))


def tests(asked: Asked) -> None:
    """Run the tests marked gpu."""
    asked.attempt("pytest", lambda: gpu_tests(asked))
