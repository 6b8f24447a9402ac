"""Load EGL and OpenGL for pyrender, or say which library is missing and which Debian package has it.

PyOpenGL takes GLESv2 without a word where libGL does not load; ``glPolygonMode`` then fails at the first draw.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvad.errors import MissingComponent

REMEDY = "install libegl1 libgl1 libgles2 libgl1-mesa-dri and the OpenGL part of the card's driver, or use --backend cpu"
PACKAGES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libGLX.so.0": "libglx0",
    "libGLdispatch.so.0": "libglvnd0",
    "libX11.so.6": "libx11-6",
}
"""The libraries that EGL and PyOpenGL's OpenGL consist of, and their Debian packages."""


def load_platform() -> Any:
    """Return pyrender's EGL platform module, PyOpenGL having loaded libGL.

    Raises
    ------
    MissingComponent
        If EGL or libGL cannot be loaded; the message names the missing libraries and their packages.
    """
    os.environ["PYOPENGL_PLATFORM"] = "egl"  # pyrender reads it at import and offers no argument
    try:
        import OpenGL.platform
        from pyrender.platforms import egl
    except Exception as error:  # PyOpenGL and pyglet raise exceptions of their own when a library is missing
        raise MissingComponent(f"egl: pyrender cannot load EGL ({one_line(error)}); {remedy(missing_libraries())}") from error
    name = str(getattr(OpenGL.platform.PLATFORM.GL, "_name", None) or "nothing")
    if not Path(name).name.startswith(("libGL.so", "libOpenGL.so")):
        raise MissingComponent(f"egl: PyOpenGL loaded {name} instead of libGL.so.1; {remedy(missing_libraries())}")
    return egl


def missing_libraries(load: Callable[[str], object] | None = None) -> list[str]:
    """Return the names of the libraries that EGL and OpenGL need and that cannot be loaded, [] if there is none.

    Parameters
    ----------
    load
        Loads a library of a name or raises OSError; the default closes what it has loaded.
    """
    missing = set()
    for name in PACKAGES:
        try:
            (load or _load_and_close)(name)
        except OSError as error:
            # The linker names the library that it did not find, which may be one that this one needs.
            missing.add(Path(str(error).partition(":")[0]).name)
    return sorted(missing)


def remedy(missing: list[str]) -> str:
    """Return what to do about missing libraries.

    Examples
    --------
    >>> remedy(["libGLX.so.0", "libX11.so.6"])
    'libGLX.so.0, libX11.so.6 cannot be loaded: apt-get install libglx0 libx11-6, or use --backend cpu'
    """
    if not missing:
        return REMEDY
    packages = dict.fromkeys(PACKAGES.get(name, "libgl1") for name in missing)
    return f"{', '.join(missing)} cannot be loaded: apt-get install {' '.join(packages)}, or use --backend cpu"


def one_line(error: Exception) -> str:
    """Return an exception's text in one line of at most 300 characters, or its type where it has no text."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _load_and_close(name: str) -> None:
    _ctypes.dlclose(ctypes.CDLL(name, mode=ctypes.RTLD_LOCAL)._handle)
