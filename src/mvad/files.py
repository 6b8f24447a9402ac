"""Atomic and checked file operations: a file is written under another name, flushed, and renamed once.

A name that ends in ``.part-<process id>`` is an unfinished file or folder. It is never read, and the next writer of the same
path removes it. ``step_hook`` is a module attribute, called with a step's name before each step, so that tests can inject a
fault at any step.

Every stored byte is covered by a checksum: a JSON file lists the hashes of the large files beside it, JSON files of mvad have
a seal (the SHA-256 of their other content), and a line of a log has a CRC-32; see ``mvad.records``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mvad.errors import BadInput, CannotWrite
from mvad.records import SEAL, decode_json, decode_line, encode_json, encode_line, matches_seal
from mvad.records import sealed as sealed


def _no_hook(step: str) -> None:
    """Do nothing before a step."""


step_hook: Callable[[str], None] = _no_hook

_WRITE_BYTES = 16 << 20
_PART = ".part-"
_OLD = f"{_PART}old"


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """Return the hexadecimal SHA-256 of a buffer."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk (fsync); some shared file systems cannot flush a folder."""
    step_hook(f"flush {path.name}")
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF) or not path.is_dir():
            raise
    finally:
        os.close(handle)


def unfinished_name(path: Path) -> Path:
    """Return the path under which this process writes ``path`` before it is renamed."""
    return path.with_name(f"{path.name}{_PART}{os.getpid()}")


def remove_unfinished(path: Path) -> None:
    """Remove unfinished files and folders of ``path`` from earlier, interrupted writers.

    A folder is listed once per process, not for each file that is written to it: it may hold 100,000 files. Later leftovers
    of other processes are removed by the next process that writes the same path.
    """
    for name in _leftovers(path.parent).pop(path.name, ()):
        leftover = path.parent / name
        if os.path.lexists(leftover):
            step_hook(f"remove {leftover.name}")
            _delete(leftover)
    for leftover in (unfinished_name(path), unfinished_name(path.with_name(f"{path.name}{_OLD}"))):
        if os.path.lexists(leftover):
            step_hook(f"remove {leftover.name}")
            _delete(leftover)


@functools.lru_cache(maxsize=1024)
def _leftovers(folder: Path) -> dict[str, list[str]]:
    """Return the names of unfinished files and folders in a folder, by the name of what was to be written."""
    found: dict[str, list[str]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            finished, marked, _ = entry.name.rpartition(_PART)
            if marked:
                found.setdefault(finished.removesuffix(_OLD), []).append(entry.name)
    return found


def remove(path: Path) -> None:
    """Remove a file or a folder; a folder is renamed in one step before its content is removed.

    Raises
    ------
    BadInput
        If the file system refuses.
    """
    try:
        step_hook(f"remove {path.name}")
        target = path
        if path.is_dir() and not path.is_symlink():
            target = unfinished_name(path.with_name(f"{path.name}{_OLD}"))
            path.replace(target)
            step_hook(f"clear {path.name}")
        _delete(target)
    except OSError as error:
        raise BadInput(f"{path}: cannot be removed: {error.strerror or error}") from error


def open_for_reading(path: Path) -> int:
    """Return the descriptor of a file; if too many files are open, the process is allowed as many as the system permits.

    Raises
    ------
    OSError
        If it cannot be opened.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # another thread may have done it meanwhile
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def write_new(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write a file in place, where no reader expects it yet (in a ``whole_folder``, or under an unfinished name).

    Raises
    ------
    OSError
        If the file system does not store all of it.
    """
    step_hook(f"write {path.name}")
    remaining = memoryview(data).cast("B")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        while remaining:
            written = os.write(handle, remaining[:_WRITE_BYTES])
            if not written:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            remaining = remaining[written:]
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write a file atomically: its name always shows the complete old or new content.

    Raises
    ------
    CannotWrite
        If the file system refuses (no space, no permission); no unfinished file is left.
    """
    part = unfinished_name(path)
    try:
        step_hook(f"make {path.parent.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path)
        write_new(part, data)
        flush(part)
        step_hook(f"rename {path.name}")
        part.replace(path)
        flush(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise CannotWrite.of(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; see ``write_bytes``."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, so that equal values give equal bytes; see ``write_bytes``."""
    write_text(path, encode_json(value))


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a seal, the SHA-256 of its other content; see ``write_bytes`` and ``read_sealed_json``."""
    write_bytes(path, sealed(value))


def read_json(path: Path, kind: str = "a JSON file") -> Any:
    """Read a JSON file; ``kind`` names it in error messages.

    Raises
    ------
    BadInput
        If the file is missing, unreadable, or not JSON, or an object in it has a member twice.
    """
    return _read_json(path, kind)[0]


def _read_json(path: Path, kind: str) -> tuple[Any, bytes]:
    """Return the value of a JSON file, and the file's content."""
    try:
        content = path.read_bytes()
        return decode_json(content), content
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; expected {kind}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable as {kind}: {error}") from error


def read_sealed_json(path: Path, kind: str, remedy: str) -> dict[str, Any]:
    """Read a sealed JSON object, check that every byte is as written, and return it without its seal.

    Raises
    ------
    BadInput
        If the file is missing, or any byte was changed; the message names ``kind`` and ends with ``remedy``.
    """
    value, content = _read_json(path, kind)
    if not isinstance(value, dict) or SEAL not in value:
        raise BadInput(f"{path}: not {kind}, or damaged (it has no seal); {remedy}")
    if not matches_seal(content, str(value.pop(SEAL))):
        raise BadInput(f"{path}: is not what was written (its seal differs); {remedy}")
    return value


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to fill; on success it replaces ``path`` by one rename, on failure it is removed.

    Only the folder is flushed, not each file in it (that takes longer than rendering them): the caller writes the files'
    hashes into a record, so that files lost in a power cut are detected.

    Raises
    ------
    BadInput
        If the file system refuses.
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
            retired = unfinished_name(path.with_name(f"{path.name}{_OLD}"))
            path.replace(retired)
            try:
                step_hook(f"rename {path.name}")
                part.replace(path)
            except OSError:
                retired.replace(path)
                raise
            step_hook(f"clear {path.name}")
            shutil.rmtree(retired)
        else:
            step_hook(f"rename {path.name}")
            part.replace(path)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CannotWrite.of(path, error) from error
    except Exception:
        shutil.rmtree(part, ignore_errors=True)
        raise


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line to a log; an incomplete last line, left by a crash, is removed first.

    Raises
    ------
    BadInput
        If the file system refuses.
    """
    try:
        step_hook(f"append {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            size = file.tell()
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    content = path.read_bytes()
                    file.truncate(content.rfind(b"\n") + 1)
            file.write(encode_line(value).encode())
    except OSError as error:
        raise CannotWrite.of(path, error) from error


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole log atomically; see ``write_bytes``."""
    write_text(path, "".join(encode_line(value) for value in values))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log without their checksums; incomplete and damaged lines are left out, a missing log is empty."""
    return [value for value in _lines(path) if value is not None]


def damaged_lines(path: Path) -> list[int]:
    """Return the numbers, from 1, of the damaged lines of a log."""
    return [number for number, value in enumerate(_lines(path), 1) if value is None]


def _lines(path: Path) -> list[dict[str, Any] | None]:
    content = path.read_bytes() if path.exists() else b""
    return [decode_line(line) for line in content.removesuffix(b"\n").split(b"\n")] if content else []


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for one writer; the kernel releases the lock when the process ends.

    Raises
    ------
    BadInput
        If another process holds the lock, or the file system has no locks.
    """
    try:
        step_hook(f"lock {folder.name}")
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise CannotWrite.of(folder, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(f"{folder}: another mvad is writing here; wait for it or give another --workspace") from error
        except OSError as error:
            raise BadInput(f"{folder}: cannot be locked: {error.strerror or error}; choose a file system with locks") from error
        yield
    finally:
        os.close(handle)


def is_name(name: str) -> bool:
    """Return whether a text can be the name of a file or folder: no path, not empty, not ``.`` or ``..``.

    Examples
    --------
    >>> is_name("padim-1"), is_name("../padim"), is_name("..")
    (True, False, False)
    """
    return name not in ("", ".", "..") and not {"/", "\0"} & set(name)


def below(root: Path, *names: str) -> Path:
    """Join path components that were read from a file.

    Raises
    ------
    BadInput
        If one is empty, contains a separator, is ``.`` or ``..``, or follows a link out of ``root``.
    """
    for name in names:
        if not isinstance(name, str) or not is_name(name):
            raise BadInput(f"{root}: the name {name!r} leads out of this folder; the file that holds it is not to be trusted")
    return inside(root, "/".join(names))


def inside(root: Path, name: str) -> Path:
    """Join a relative path that was read from a file, which must stay below ``root``.

    Raises
    ------
    BadInput
        If the name is absolute, or leads out of ``root`` by ``..`` or by a link.
    """
    path = root / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise BadInput(f"{root}: the name {name!r} leads out of this folder; the file that holds it is not to be trusted")
    return path
