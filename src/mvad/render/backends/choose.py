"""The list of rasteriser backends, and the rasterisers of this process, each created once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

from mvad.render.backends.protocol import Rasteriser
from mvad.words import no_such

_SOFTWARE = ("llvmpipe", "softpipe", "swrast")
_worker = 0


def be_worker(number: int) -> None:
    """Say, before the first rasteriser, which worker process of a run this is: workers take turns over the cards of a machine."""
    global _worker
    _worker = number


def worker_number() -> int:
    """Return the number of this worker process, 0 for the main process and for workers of a scheduler."""
    return _worker


def nvidia_nodes() -> list[str]:
    """Return the device files of this machine's NVIDIA cards."""
    return sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))


def _cpu(threads: int, device: int | None) -> Rasteriser:
    from mvad.render.backends.cpu import CpuRasteriser

    return CpuRasteriser(threads)


def _egl(threads: int, device: int | None) -> Rasteriser:
    from mvad.render.backends.devices import asked_device
    from mvad.render.backends.egl import EglRasteriser

    return EglRasteriser(threads, asked_device(device, os.environ), _worker)


BACKENDS: dict[str, Callable[[int, int | None], Rasteriser]] = {"cpu": _cpu, "egl": _egl}


def resolve_backend(
    name: str, device: int | None = None, say: Callable[[str], None] = lambda line: None
) -> Literal["cpu", "egl"]:
    """Resolve ``auto`` to ``egl`` where EGL renders on a hardware GPU, else to ``cpu``; other names stay as they are.

    Parameters
    ----------
    name, device
        The backend, and the number of an EGL device, None for the best one.
    say
        Told in one line why ``auto`` is ``cpu`` on a machine that has a card.

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
    if not nvidia_nodes() and not any(Path("/dev/dri").glob("renderD*")):
        return "cpu"
    try:
        found = rasteriser("egl", device=device)
        if not is_software(found.device):
            return "egl"
        reason = "; ".join(found.refused) or _hidden()
    except Exception as error:  # drivers fail in many ways; each means that egl cannot be used
        reason = " ".join(str(error).split()) or type(error).__name__
    if reason:
        say(f"notice: --backend auto takes cpu, because the card cannot be rendered on: {reason}")
    return "cpu"


def is_software(device: str) -> bool:
    """Return whether a rasteriser's device is a software renderer of OpenGL."""
    return any(word in device for word in _SOFTWARE)


def _hidden() -> str:
    from mvad.render.backends.devices import hidden_card, list_devices

    return hidden_card(list_devices(), nvidia_nodes())


@cache
def rasteriser(name: str, threads: int = 1, device: int | None = None) -> Rasteriser:
    """Return this process's rasteriser for a resolved name; it is created once, with its GL context, and kept.

    ``threads`` threads process views in parallel; ``device`` is the number of an EGL device, None the one of
    EGL_DEVICE_ID or the best one.

    Raises
    ------
    BadInput
        If EGL_DEVICE_ID is not a number.
    MissingComponent
        If the backend is ``egl`` and no EGL device can be drawn on.
    """
    return BACKENDS[name](threads, device)
