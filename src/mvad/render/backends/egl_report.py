"""What ``mvad doctor`` says about EGL: whether it draws, on which devices, and with which PyOpenGL."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from mvad.errors import MvadError
from mvad.render.backends.choose import nvidia_nodes, rasteriser


def egl_report() -> tuple[Literal["ok", "note"], str]:
    """Return ``ok`` where every card can be rendered on, else ``note``, and one line."""
    from mvad.render.backends.devices import hidden_card, list_devices

    installed, wanted = pyopengl_versions()
    try:
        found, devices = rasteriser("egl"), list_devices()
    except MvadError as error:
        return "note", "; ".join(filter(None, [str(error).removeprefix("egl: "), version_remark(installed, wanted, draws=False)]))
    amiss = [*found.refused, *filter(None, [hidden_card(devices, nvidia_nodes())])]
    listed = ", ".join(f"--device {device}" for device in devices)
    parts = [f"{found.device}; found: {listed}", *amiss, version_remark(installed, wanted, draws=True)]
    return "note" if amiss else "ok", "; ".join(filter(None, parts))


def pyopengl_versions() -> tuple[str, str]:
    """Return PyOpenGL's installed version, and the one that the installed pyrender asks for; "" where there is none."""
    try:
        wanted = re.search(r"^PyOpenGL\s*\(?==\s*([\w.]+)", "\n".join(requires("pyrender") or []), re.MULTILINE)
        return version("PyOpenGL"), wanted.group(1) if wanted else ""
    except PackageNotFoundError:
        return "", ""


def version_remark(installed: str, wanted: str, draws: bool) -> str:
    """Return what another version of PyOpenGL than pyrender's matters, "" where it is that one.

    Examples
    --------
    >>> version_remark("3.1.0", "3.1.0", draws=True)
    ''
    >>> version_remark("3.1.9", "3.1.0", draws=False)
    'PyOpenGL is 3.1.9, pyrender asks for 3.1.0, which may be the reason: pip install PyOpenGL==3.1.0'
    """
    if not wanted or installed == wanted:
        return ""
    said = f"PyOpenGL is {installed}, pyrender asks for {wanted}"
    if draws:
        return f"{said}, which does not matter here: the trial picture is right"
    return f"{said}, which may be the reason: pip install PyOpenGL=={wanted}"
