"""The one place that makes promises about files: written beside, flushed, renamed once, hashed.

A name that ends in ``.part-<process id>`` is unfinished work. It is never read, and the next writer of
the same place removes it. ``step_hook`` is an ordinary module attribute, called with a step's name
before each step, so that a fault can be injected at any of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mvad.errors import BadInput


def _no_hook(step: str) -> None:
    """Do nothing before a step."""


step_hook: Callable[[str], None] = _no_hook


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """Return the hexadecimal SHA-256 of a buffer."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Ask the operating system to put a file or a folder's entries onto the disk."""
    step_hook(f"flush {path.name}")
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unfinished_name(path: Path) -> Path:
    """Return the name under which ``path`` is prepared by this process."""
    return path.with_name(f"{path.name}.part-{os.getpid()}")


def remove_unfinished(path: Path) -> None:
    """Remove what earlier, interrupted writers left beside ``path``."""
    for left in path.parent.glob(f"{_escaped(path.name)}.part-*"):
        step_hook(f"remove {left.name}")
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write a file so that its final name only ever shows the complete content.

    Raises
    ------
    BadInput
        If the file system refuses (no space, no permission); nothing is left behind.
    """
    part = unfinished_name(path)
    try:
        step_hook(f"make {path.parent.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path)
        step_hook(f"write {path.name}")
        part.write_bytes(data)
        flush(part)
        step_hook(f"rename {path.name}")
        part.replace(path)
        flush(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as ``write_bytes`` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, kind: str = "a JSON file") -> Any:
    """Read JSON, or say in one line what is wrong with the file.

    Raises
    ------
    BadInput
        If the file is missing, unreadable, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; expected {kind}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable as {kind}: {error}") from error


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill; on success it replaces ``path`` by one rename, on failure it is removed.

    Only the folder is flushed, not each file in it (that costs more than rendering them): whoever fills it puts
    the files' hashes into a record, so that what a power cut took is noticed.
    """
    part = unfinished_name(path)
    try:
        step_hook(f"make {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path)
        part.mkdir()
        yield part
        flush(part)
        if path.exists():
            step_hook(f"retire {path.name}")
            retired = unfinished_name(path.with_name(path.name + ".part-old"))
            path.replace(retired)
            step_hook(f"rename {path.name}")
            part.replace(path)
            shutil.rmtree(retired)
        else:
            step_hook(f"rename {path.name}")
            part.replace(path)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from error
    except Exception:
        shutil.rmtree(part, ignore_errors=True)
        raise


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line to a log that may end in a torn line after a crash."""
    step_hook(f"append {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, sort_keys=True) + "\n")


def read_lines(path: Path) -> list[Any]:
    """Read a JSON-lines log; a torn last line is dropped."""
    if not path.exists():
        return []
    values = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values.append(json.loads(line))
        except ValueError:
            break
    return values


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one writer; the lock is the kernel's and dies with its owner.

    Raises
    ------
    BadInput
        If another process writes there now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(f"{folder}: another mvad is writing here; wait for it or give another --workspace") from error
        yield


def inside(root: Path, name: str) -> Path:
    """Resolve a name that came from a file, and refuse one that leaves ``root``.

    Raises
    ------
    BadInput
        If the name is absolute, climbs out, or follows a link out of ``root``.
    """
    path = root / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise BadInput(f"{root}: the name {name!r} leads out of this folder; the file that holds it is not to be trusted")
    return path


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
