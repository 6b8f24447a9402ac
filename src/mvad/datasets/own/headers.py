"""Headers of PLY and PCD files, checked against the size of the file before anything is decoded."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from mvad.datasets.images import MAX_SIDE, placeholder
from mvad.errors import BadInput

MAX_BYTES = 2 << 30
"""Greatest size of a file of points or faces."""
MAX_POINTS = 1 << 25
"""Greatest number of points of a scan, and of vertices of a mesh."""
MAX_FACES = 5_000_000
"""Greatest number of faces of a mesh."""
_HEAD = 1 << 16
"""Bytes within which a header ends."""
_PLY_BYTES = {
    "char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2, "int": 4, "uint": 4,
    "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8,
}  # fmt: skip
_PLY_FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
_COLUMNS = re.compile(r"\b(?:num_cols|num_columns|width|cols|columns)\b\W*(\d{1,9})\b", re.I)
_ROWS = re.compile(r"\b(?:num_rows|height|rows)\b\W*(\d{1,9})\b", re.I)
_PCD_ENCODINGS = ("ascii", "binary", "binary_compressed")


@dataclass(frozen=True)
class Header:
    """What the header of a PLY or PCD file says.

    Attributes
    ----------
    points, faces
        Numbers of points (or vertices) and of faces.
    shape
        (H, W) of an organised cloud, or None.
    names
        Names of the points' values.
    has_texture
        Whether the file names a picture as texture.
    """

    points: int
    faces: int
    shape: tuple[int, int] | None
    names: tuple[str, ...]
    has_texture: bool = False


def size_of(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises
    ------
    BadInput
        If it is missing, empty or too large.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); the scan is incomplete, copy it again") from error
    if size == 0:
        raise BadInput(f"{path}: is empty; copy it again")
    if size > MAX_BYTES:
        raise BadInput(f"{path}: {size} bytes are more than {MAX_BYTES}; reduce its points or faces")
    return size


def read_head(path: Path, size: int = _HEAD) -> bytes:
    """Return the first bytes of a file.

    Raises
    ------
    BadInput
        If it is missing, empty, too large, or cannot be read.
    """
    size_of(path)
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); copy it again") from error


def ply_header(path: Path) -> Header:
    """Read the header of a PLY file, and compare it with the file's size.

    Raises
    ------
    BadInput
        If it is no PLY file, damaged, cut off, too large, or has elements that are not read.
    """
    head = read_head(path)
    if not head.startswith(b"ply"):
        raise BadInput(f"{path}: {placeholder(path) or 'is not a PLY file; export it again'}")
    found = re.search(rb"(?m)^end_header\r?\n", head)
    if found is None:
        raise BadInput(f"{path}: its PLY header has no end within {_HEAD} bytes; export it again")
    lines = head[: found.start()].decode("latin-1").splitlines()[1:]
    encoding, least, remarks = "", 0, []
    counts: dict[str, int] = {}
    names: list[str] = []
    has_texture = False
    element = ""
    for line in lines:
        words = line.split()
        if not words:
            continue
        if words[0] in ("comment", "obj_info"):
            remarks.append(line.partition(words[0])[2])
            has_texture |= words[1:2] == ["TextureFile"]
        elif words[0] == "format" and len(words) == 3:
            encoding = words[1]
        elif words[0] == "element" and len(words) == 3 and words[2].isdecimal() and len(words[2]) < 12:
            element = words[1]
            counts[element] = int(words[2])
        elif words[0] == "property" and element:
            length = 1 if encoding == "ascii" else _property_bytes(path, words)
            least += counts[element] * (2 if encoding == "ascii" else length)
            if element == "vertex":
                names.append(words[-1])
                if words[1] == "list":
                    raise BadInput(f"{path}: its vertices have a list ({words[-1]}), which is not read; export it without")
        else:
            raise BadInput(f"{path}: its PLY header has the line {line[:60]!a}, which is not of the format; export it again")
    _check_ply(path, encoding, counts, names)
    if least - 1 > size_of(path) - found.end():
        raise BadInput(f"{path}: is shorter than its header says; it was cut off, copy or export it again")
    faces = counts.get("face", 0)
    return Header(
        counts["vertex"], faces, None if faces else _shape_in(path, remarks, counts["vertex"]), tuple(names), has_texture
    )


def _property_bytes(path: Path, words: list[str]) -> int:
    """Return the least number of bytes of a property of a PLY element: of a list, that of its length."""
    kind = words[2] if words[1:2] == ["list"] and len(words) == 5 else words[1] if len(words) == 3 else ""
    if kind not in _PLY_BYTES or (len(words) == 5 and words[3] not in _PLY_BYTES):
        raise BadInput(
            f"{path}: its PLY header has the property {' '.join(words[1:])[:60]!a}, which is not of the format; export it again"
        )
    return _PLY_BYTES[kind]


def _check_ply(path: Path, encoding: str, counts: dict[str, int], names: list[str]) -> None:
    if encoding not in _PLY_FORMATS:
        raise BadInput(f"{path}: PLY format {encoding[:40]!a}; expected {', '.join(_PLY_FORMATS)}; export it again")
    if not {"x", "y", "z"} <= set(names) or len(set(names)) < len(names):
        raise BadInput(f"{path}: its points have no x, y, z, or one value twice; export it again")
    other = [name for name in counts if name not in ("vertex", "face", "edge")]
    if other:
        raise BadInput(
            f"{path}: has {other[0][:40]!a} elements, which are not read; export it as points, one per cell of the grid"
        )
    if not 0 < counts["vertex"] <= MAX_POINTS or counts.get("face", 0) > MAX_FACES:
        raise BadInput(
            f"{path}: {counts['vertex']} points and {counts.get('face', 0)} faces; expected 1 to {MAX_POINTS} points and at most "
            f"{MAX_FACES} faces; reduce them"
        )


def _shape_in(path: Path, remarks: list[str], points: int) -> tuple[int, int] | None:
    """Return the (H, W) that comments and ``obj_info`` lines state, or None."""
    text = "\n".join(remarks)
    columns, rows = _COLUMNS.search(text), _ROWS.search(text)
    if columns is None or rows is None:
        return None
    shape = int(rows[1]), int(columns[1])
    if shape[0] * shape[1] != points:
        raise BadInput(
            f"{path}: its header says {shape[1]} x {shape[0]} points and has {points}; export every cell of the grid, missing points as "
            "0 0 0 or nan"
        )
    return shape


def pcd_header(path: Path) -> Header:
    """Read the header of a PCD file, and compare it with the file's size.

    Raises
    ------
    BadInput
        If it is no PCD file, damaged, cut off or too large.
    """
    head = read_head(path)
    found = re.search(rb"(?m)^DATA[ \t]+(\w+)[ \t]*\r?\n", head)
    if found is None:
        raise BadInput(f"{path}: {placeholder(path) or 'has no PCD header; export it again'}")
    lines = [line.split() for line in head[: found.start()].decode("latin-1").splitlines()]
    values = {words[0]: words[1:] for words in lines if words and not words[0].startswith("#")}
    encoding = found[1].decode()
    try:
        names, kinds = values["FIELDS"], values["TYPE"]
        sizes, counts = [int(size) for size in values["SIZE"]], [int(count) for count in values.get("COUNT", ["1"] * len(names))]
        (width,), (height,), (points,) = ([int(value) for value in values[name]] for name in ("WIDTH", "HEIGHT", "POINTS"))
        if not len(names) == len(kinds) == len(sizes) == len(counts) or encoding not in _PCD_ENCODINGS:
            raise ValueError("lists of different lengths")
        if not all(size in (1, 2, 4, 8) for size in sizes) or not all(0 < count <= 1024 for count in counts) or len(names) > 256:
            raise ValueError("sizes of fields")
    except (KeyError, ValueError) as error:
        raise BadInput(f"{path}: its PCD header is not of the format ({str(error)[:60]}); export it again") from error
    if not {"x", "y", "z"} <= set(names) or any(
        (kind, size, count) not in (("F", 4, 1), ("F", 8, 1))
        for name, kind, size, count in zip(names, kinds, sizes, counts, strict=True)
        if name in "xyz"
    ):
        raise BadInput(f"{path}: its points have no x, y, z of floating point; export it again")
    if width * height != points or min(width, height) < 1:
        raise BadInput(f"{path}: WIDTH {width} times HEIGHT {height} is not POINTS {points}; export it again")
    if points > MAX_POINTS or (max(width, height) > MAX_SIDE and min(width, height) > 1):
        raise BadInput(f"{path}: {width} x {height} points is more than {MAX_SIDE} per side, or {MAX_POINTS}; reduce them")
    stride = sum(size * count for size, count in zip(sizes, counts, strict=True))
    _check_pcd_body(
        path, head[found.end() : found.end() + 8], size_of(path) - found.end(), encoding, points, (stride, sum(counts))
    )
    return Header(points, 0, (height, width) if height > 1 else None, tuple(names))


def _check_pcd_body(path: Path, first: bytes, left: int, encoding: str, points: int, row: tuple[int, int]) -> None:
    """Compare what follows the header of a PCD file, ``left`` bytes, with its points of ``row`` bytes and values each."""
    stride, values = row
    if encoding == "binary_compressed":
        packed, plain = struct.unpack("<II", first) if len(first) == 8 else (0, 0)
        fits = plain == points * stride and packed + 8 <= left
    else:
        fits = left >= (points * stride if encoding == "binary" else 2 * points * values - 1)
    if not fits:
        raise BadInput(f"{path}: its data are not of the size that its header says; it was cut off, copy or export it again")
