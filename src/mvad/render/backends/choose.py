"""The list of rasteriser backends, and the rasterisers of this process, each created once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

from mvad.render.backends.protocol import Rasteriser
from mvad.words import no_such

_SOFTWARE = ("llvmpipe", "softpipe", "swrast")


def _cpu(threads: int, device: int | None) -> Rasteriser:
    from mvad.render.backends.cpu import CpuRasteriser

    return CpuRasteriser(threads)


def _egl(threads: int, device: int | None) -> Rasteriser:
    from mvad.render.backends.egl import EglRasteriser

    return EglRasteriser(threads, device)


BACKENDS: dict[str, Callable[[int, int | None], Rasteriser]] = {"cpu": _cpu, "egl": _egl}


def resolve_backend(name: str, device: int | None = None) -> Literal["cpu", "egl"]:
    """Resolve ``auto`` to ``egl`` where EGL renders on a hardware GPU, else to ``cpu``; other names stay as they are.

    Raises
    ------
    UnknownName
        If there is no backend of this name.
    """
    if name == "cpu":
        return "cpu"
    if name == "egl":
        return "egl"
    if name != "auto":
        raise no_such("--backend", name, ["auto", *BACKENDS])
    has_device = Path("/dev/nvidia0").exists() or any(Path("/dev/dri").glob("renderD*"))
    if not has_device:
        return "cpu"
    try:
        renderer = rasteriser("egl", device=device).device
    except Exception:  # drivers fail in many ways; each means that egl cannot be used
        return "cpu"
    return "cpu" if any(word in renderer for word in _SOFTWARE) else "egl"


@cache
def rasteriser(name: str, threads: int = 1, device: int | None = None) -> Rasteriser:
    """Return this process's rasteriser for a resolved name; it is created once, with its GL context, and kept.

    ``threads`` threads process views in parallel; ``device`` is the number of an EGL device, None the best one.

    Raises
    ------
    MissingComponent
        If the backend is ``egl`` and no EGL device gives a context.
    """
    return BACKENDS[name](threads, device)
