"""Backend names to rasterisers: the only list, and one rasteriser a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

from mvad.errors import BadInput
from mvad.render.backends.protocol import Rasteriser

_SOFTWARE = ("llvmpipe", "softpipe", "swrast")


def _cpu() -> Rasteriser:
    from mvad.render.backends.cpu import CpuRasteriser

    return CpuRasteriser()


def _egl() -> Rasteriser:
    from mvad.render.backends.egl import EglRasteriser

    return EglRasteriser()


BACKENDS: dict[str, Callable[[], Rasteriser]] = {"cpu": _cpu, "egl": _egl}


def resolve_backend(name: str) -> Literal["cpu", "egl"]:
    """Turn ``auto`` into ``egl`` where the machine has a GPU that draws, else ``cpu``.

    Raises
    ------
    BadInput
        If there is no backend of this name.
    """
    if name == "cpu":
        return "cpu"
    if name == "egl":
        return "egl"
    if name != "auto":
        raise BadInput(f"--backend {name}: choose from auto, {', '.join(BACKENDS)}")
    has_device = Path("/dev/nvidia0").exists() or any(Path("/dev/dri").glob("renderD*"))
    if not has_device:
        return "cpu"
    try:
        device = rasteriser("egl").device
    except Exception:  # any failure of a driver means: not this one
        return "cpu"
    return "cpu" if any(word in device for word in _SOFTWARE) else "egl"


@cache
def rasteriser(name: str) -> Rasteriser:
    """Return this process's rasteriser of a resolved name; a GL context is made once and kept."""
    return BACKENDS[name]()
