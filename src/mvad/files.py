"""The one place that makes promises about files: written beside, flushed, renamed once, hashed.

A name that ends in ``.part-<process id>`` is unfinished work. It is never read, and the next writer of
the same place removes it. ``step_hook`` is an ordinary module attribute, called with a step's name
before each step, so that a fault can be injected at any of them.

Every byte that is kept is under a sum: large files are hashed in a JSON file beside them, JSON files of ours carry a
seal (the SHA-256 of their other content), and a line of a log carries its CRC-32.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mvad.errors import BadInput


def _no_hook(step: str) -> None:
    """Do nothing before a step."""


step_hook: Callable[[str], None] = _no_hook

SEAL = "seal"
_NO_SEAL = "0" * 64
_WRITE_BYTES = 16 << 20


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
        _delete(left)


def remove(path: Path) -> None:
    """Remove a file or a folder; a folder loses its name in one step before its content goes.

    Raises
    ------
    BadInput
        If the file system refuses.
    """
    try:
        step_hook(f"remove {path.name}")
        place = path
        if path.is_dir() and not path.is_symlink():
            place = unfinished_name(path.with_name(f"{path.name}.part-old"))
            path.replace(place)
            step_hook(f"clear {path.name}")
        _delete(place)
    except OSError as error:
        raise BadInput(f"{path}: cannot be removed: {error.strerror or error}") from error


def write_new(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write a file that nobody relies on yet (inside of ``whole_folder``, or under an unfinished name).

    Raises
    ------
    OSError
        If the file system takes less than everything.
    """
    step_hook(f"write {path.name}")
    rest = memoryview(data).cast("B")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        while rest:
            written = os.write(handle, rest[:_WRITE_BYTES])
            if not written:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            rest = rest[written:]
    finally:
        os.close(handle)


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
        write_new(part, data)
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
    write_text(path, _canonical(value))


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a seal, the SHA-256 of the object without it; see ``read_sealed_json``."""
    write_bytes(path, sealed(value))


def sealed(value: Mapping[str, Any]) -> bytes:
    """Return what ``write_sealed_json`` writes: a top-level member ``seal`` with the SHA-256 of the text without it."""
    text = _canonical(dict(value) | {SEAL: _NO_SEAL}).encode()
    return text.replace(_seal_line(_NO_SEAL), _seal_line(sha256_bytes(text)), 1)


def _seal_line(seal: str) -> bytes:
    """Return how the seal stands in the text: no other line begins like that, as nested ones are indented further."""
    return f'\n "{SEAL}": "{seal}"'.encode()


def read_json(path: Path, kind: str = "a JSON file") -> Any:
    """Read JSON, or say in one line what is wrong with the file.

    Raises
    ------
    BadInput
        If the file is missing, unreadable, or not JSON.
    """
    return _read_json(path, kind)[0]


def _read_json(path: Path, kind: str) -> tuple[Any, bytes]:
    """Return what ``read_json`` does, and the file's content."""
    try:
        content = path.read_bytes()
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_repeats), content
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; expected {kind}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable as {kind}: {error}") from error


def read_sealed_json(path: Path, kind: str, remedy: str) -> dict[str, Any]:
    """Read a JSON object of ours without its seal; not one of the file's bytes is other than it was written.

    Raises
    ------
    BadInput
        If the file is missing, or any byte of it was changed; ``remedy`` says what then helps.
    """
    value, text = _read_json(path, kind)
    if not isinstance(value, dict) or SEAL not in value:
        raise BadInput(f"{path}: not {kind}, or damaged (it has no seal); {remedy}")
    seal = str(value.pop(SEAL))
    blank = text.replace(_seal_line(seal), _seal_line(_NO_SEAL), 1) if seal.isascii() else text
    if blank == text or sha256_bytes(blank) != seal:
        raise BadInput(f"{path}: is not what was written (its seal differs); {remedy}")
    return value


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
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from error
    except Exception:
        shutil.rmtree(part, ignore_errors=True)
        raise


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line to a log; a last line that a crash has torn is taken away first.

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
            file.write(_line(value).encode())
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from error


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole log at once."""
    write_text(path, "".join(_line(value) for value in values))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a log without its sums; lines that are torn or damaged are left out."""
    return [value for value in _lines(path) if value is not None]


def damaged_lines(path: Path) -> list[int]:
    """Return the numbers, from 1, of a log's lines that are not what was written."""
    return [number for number, value in enumerate(_lines(path), 1) if value is None]


def _lines(path: Path) -> list[dict[str, Any] | None]:
    content = path.read_bytes() if path.exists() else b""
    found: list[dict[str, Any] | None] = []
    for line in content.removesuffix(b"\n").split(b"\n") if content else []:
        try:
            value = json.loads(line)
            del value["crc32"]
            same = _line(value).encode() == line + b"\n"  # a last line without an end was torn, even if it reads
        except (ValueError, KeyError, TypeError, RecursionError):
            same = False
        found.append(value if same else None)
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON's members; a name that is there twice hides one of its values."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return value


def _line(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True)
    plain: dict[str, Any] = json.loads(text)
    return json.dumps(plain | {"crc32": f"{zlib.crc32(text.encode()):08x}"}, sort_keys=True) + "\n"


def _canonical(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one writer; the lock is the kernel's and dies with its owner.

    Raises
    ------
    BadInput
        If another process writes there now.
    """
    try:
        step_hook(f"lock {folder.name}")
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written: {error.strerror or error}") from error
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


def below(root: Path, *names: str) -> Path:
    """Join single names that came from a file, each a folder or a file and none a way to another.

    Raises
    ------
    BadInput
        If one is empty, holds a separator, or climbs.
    """
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise BadInput(f"{root}: the name {name!r} leads out of this folder; the file that holds it is not to be trusted")
    return inside(root, "/".join(names))


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
