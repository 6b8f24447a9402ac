"""Loads the guard of the emulated CUDA device (``guard.cpp``), which must be there before torch is imported."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path


def compiler() -> str | None:
    """Return a C++ compiler, which the emulation needs; None without one."""
    return shutil.which("g++") or shutil.which("clang++")


def load_guard(folder: Path) -> None:
    """Compile the guard into a folder, unless it is there, and load it."""
    assert "torch" not in sys.modules, "torch asks once, when it is imported, whether it has CUDA"
    found, spec = compiler(), importlib.util.find_spec("torch")
    assert found is not None, "the emulation needs g++ or clang++"
    assert spec is not None
    assert spec.origin is not None
    home, source = Path(spec.origin).parent, Path(__file__).with_name("guard.cpp")
    content = hashlib.sha256(source.read_bytes() + importlib.metadata.version("torch").encode()).hexdigest()[:16]
    built = folder / f"guard-{content}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = built.with_suffix(".building")
        flags = ["-std=c++20", "-shared", "-fPIC", "-O0", "-w", f"-I{home / 'include'}", "-o", str(scratch), str(source)]
        libraries = [f"-L{home / 'lib'}", f"-Wl,-rpath,{home / 'lib'}", "-ltorch_cpu", "-lc10"]
        subprocess.run([found, *flags, *libraries], check=True)
        scratch.replace(built)
    ctypes.CDLL(str(built), mode=ctypes.RTLD_GLOBAL)
