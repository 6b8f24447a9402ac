"""Where the compiled kernels are kept: numba refuses to compile where neither the package's folder nor the home is writable."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"
_PYCACHE = "__pycache__"


def choose_kernel_cache(package: Path) -> None:
    """Let numba keep its kernels in a folder of the temporary folder, where it could not keep them anywhere else.

    Has to be called before numba is imported. That is so for another user than the one who installed, in a container, or where
    the home cannot be written. The variable ``NUMBA_CACHE_DIR`` is respected where its folder can be written.

    Parameters
    ----------
    package
        Folder of the package whose modules hold the kernels.
    """
    given = os.environ.get(VARIABLE)
    if given and _can_be_made(Path(given)):
        return
    if _writable_beside_modules(package) or _can_be_made(_cache_of_user()):
        return
    temporary = _temporary()
    if temporary is not None:
        os.environ[VARIABLE] = str(temporary)


def _writable_beside_modules(package: Path) -> bool:
    for folder, inner, _ in os.walk(package):
        cache = os.path.join(folder, _PYCACHE)
        if not os.access(cache if os.path.isdir(cache) else folder, os.W_OK | os.X_OK):
            return False
        inner[:] = [name for name in inner if name != _PYCACHE]
    return True


def _cache_of_user() -> Path:
    """Return the folder in which numba keeps kernels of packages that it cannot write to."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"


def _can_be_made(folder: Path) -> bool:
    """Return whether a folder is writable, or could be made."""
    existing = folder.absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _temporary() -> Path | None:
    """Return a folder of this user alone in a temporary folder, the same in each process; a new one where that is another's."""
    for root in (None, "/dev/shm"):
        with contextlib.suppress(OSError):
            own = Path(root or tempfile.gettempdir()) / f"mvad-kernels-{os.getuid()}"
            own.mkdir(mode=0o700, exist_ok=True)
            about = own.lstat()
            if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022:
                return own
            return Path(tempfile.mkdtemp(prefix="mvad-kernels-", dir=root))
    return None
