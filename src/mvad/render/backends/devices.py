"""The EGL devices of this machine, and in which order a process tries them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvad.errors import BadInput, MissingComponent
from mvad.render.backends.gl_libraries import REMEDY, load_platform, one_line

VARIABLE = "EGL_DEVICE_ID"
"""Environment variable with the number of the EGL device to use; pyrender's name for it."""

_EXTENSIONS = 0x3055
_CUDA_DEVICE_NV = 0x323A
_RENDERER_EXT = 0x335F
_SOFTWARE, _CUDA, _NAMES = "EGL_MESA_device_software", "EGL_NV_device_cuda", "EGL_EXT_device_query_name"


@dataclass(frozen=True)
class Device:
    """An EGL device.

    Attributes
    ----------
    index
        Its number for ``--device``: its place in EGL's listing.
    file
        Its DRM file, or "".
    software
        Whether it is Mesa's software renderer.
    nvidia
        Whether NVIDIA's driver lists it.
    cuda
        Its CUDA number, None where the driver does not tell.
    model
        The name of the card, "" where the driver does not tell.
    """

    index: int
    file: str = ""
    software: bool = False
    nvidia: bool = False
    cuda: int | None = None
    model: str = ""

    def __str__(self) -> str:
        kind = self.file or ("software" if self.software else "no file")
        return f"{self.index}: {kind}{f' (CUDA {self.cuda})' if self.cuda is not None else ''}"


def list_devices() -> list[Device]:
    """Enumerate the EGL devices of this machine.

    Raises
    ------
    MissingComponent
        If EGL cannot be loaded or does not enumerate.
    """
    platform = load_platform()
    try:
        return [_described(platform, index, device) for index, device in enumerate(platform.query_devices())]
    except Exception as error:  # ctypes, EGL and PyOpenGL raise exceptions of their own
        raise MissingComponent(f"egl: devices cannot be listed ({one_line(error)}); {REMEDY}") from error


def candidates(devices: Sequence[Device], asked: int | None, worker: int) -> list[Device]:
    """Return the devices that a process tries, the first one first.

    Parameters
    ----------
    devices
        EGL's listing.
    asked
        The number of the only device to try, or None.
    worker
        The number of this worker process, 0 for the main process. Workers take turns over the cards that are alike: NVIDIA's
        driver's if there are any (Mesa may list the same cards once more), of the first card's model. Views would differ in
        single samples between models. The other hardware devices come next, software last.

    Raises
    ------
    MissingComponent
        If there is no device, or none of the number asked for.

    Examples
    --------
    >>> pair = [Device(0, "/dev/dri/card0", nvidia=True), Device(1, "/dev/dri/card1", nvidia=True), Device(2, software=True)]
    >>> [[device.index for device in candidates(pair, None, worker)] for worker in range(3)]
    [[0, 1, 2], [1, 0, 2], [0, 1, 2]]
    """
    if not devices:
        raise MissingComponent(f"egl: no EGL device on this machine; {REMEDY}")
    if asked is not None:
        chosen = [device for device in devices if device.index == asked]
        if not chosen:
            listed = ", ".join(map(str, devices))
            raise MissingComponent(f"egl: no device {asked}; found {listed}. Give another --device, or --backend cpu")
        return chosen
    hardware = [device for device in devices if not device.software]
    preferred = [device for device in hardware if device.nvidia] or hardware
    cards = [device for device in preferred if device.model == preferred[0].model]
    turn = worker % max(len(cards), 1)
    in_turn = [*cards[turn:], *cards[:turn]]
    rest = [device for device in [*preferred, *hardware, *devices] if device not in in_turn]
    return list(dict.fromkeys([*in_turn, *rest]))


def asked_device(option: int | None, environment: Mapping[str, str]) -> int | None:
    """Return the number of the device that the user asks for: by ``--device``, else by EGL_DEVICE_ID, else None.

    Raises
    ------
    BadInput
        If EGL_DEVICE_ID is not a number.

    Examples
    --------
    >>> asked_device(None, {"EGL_DEVICE_ID": "1"}), asked_device(0, {"EGL_DEVICE_ID": "1"}), asked_device(None, {})
    (1, 0, None)
    """
    text = environment.get(VARIABLE, "").strip()
    if option is not None or not text:
        return option
    if not text.isdecimal():
        raise BadInput(f"{VARIABLE}={text}: not the number of an EGL device; give one that mvad doctor lists, or unset it")
    return int(text)


def hidden_card(devices: Sequence[Device], nodes: Sequence[str]) -> str:
    """Return why no NVIDIA device is listed although the kernel has a card, "" where nothing is amiss.

    Parameters
    ----------
    devices
        EGL's listing.
    nodes
        The cards' device files, as ``/dev/nvidia0``.
    """
    if not nodes or any(device.nvidia for device in devices):
        return ""
    return (
        f"{nodes[0]} is there, but EGL does not list it: install libnvidia-gl of the driver's version, or start the container "
        "with NVIDIA_DRIVER_CAPABILITIES=all"
    )


def _described(platform: Any, index: int, device: Any) -> Device:
    extensions = _text(platform, device, _EXTENSIONS).split()
    nvidia = _CUDA in extensions
    model = _text(platform, device, _RENDERER_EXT) if _NAMES in extensions else ""
    return Device(
        index, device.name or "", _SOFTWARE in extensions, nvidia, cuda_number(platform, device) if nvidia else None, model
    )


def _text(platform: Any, device: Any, what: int) -> str:
    return (platform._eglQueryDeviceStringEXT(device._display, what) or b"").decode("ascii", "replace")


def cuda_number(platform: Any, device: Any) -> int | None:
    """Return the CUDA number of one of pyrender's EGL devices, None where its driver does not tell."""
    query = platform._get_egl_func("eglQueryDeviceAttribEXT", ctypes.c_uint)
    value = ctypes.c_ssize_t(-1)
    if query is None or not query(device._display, _CUDA_DEVICE_NV, ctypes.byref(value)) or value.value < 0:
        return None
    return value.value
