"""Find the position of a shard's chunks without decompressing any; the only reader of HDF5 structure in the project.

``layout_of`` parses a file whose hash a manifest verified in this process, and any other file in a child process with limits
on memory, time and plugins, because the HDF5 library has memory errors on crafted files (CVE-2026-1669 is about external
storage and links, hdf5 issue 6401 an open buffer overflow). Nothing here reads a pixel.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvad.datasets.shards.chunks import PIPELINES
from mvad.datasets.shards.schema import (
    FIELD_ATTRIBUTES,
    FIELDS,
    IMAGES,
    INTEGERS,
    MAX_ATTRIBUTE_BYTES,
    MAX_ATTRIBUTES,
    MAX_CHUNK_BYTES,
    MAX_SAMPLES,
    MAX_SIDE,
    MAX_TEXT_BYTES,
    MAX_VIEWS,
    MODALITIES,
    NUMBERS,
    OF_RENDERS,
    RENDERED,
    REQUIRED,
    ROOT_ATTRIBUTES,
    SCHEMA,
    SCHEMA_VERSION,
    WITH_SEEN,
    of_an_older_version,
)
from mvad.errors import BadInput

_LIMITS = {"N": MAX_SAMPLES, "V": MAX_VIEWS, "H": MAX_SIDE, "W": MAX_SIDE}
_CHILD_SECONDS = 20


@dataclass(frozen=True)
class FieldLayout:
    """One HDF5 dataset: its shape and type, the compression of its chunks, and the position of each in the file.

    Attributes
    ----------
    shape, dtype
        Shape and dtype as in numpy; texts are ``S<bytes>``.
    compression
        A name of ``chunks.FILTERS``.
    chunks
        (offset, length) in bytes of each chunk in order: one per sample for images, else one.
    attributes
        Those of ``meaning``, ``unit``, ``step`` and ``offset`` that the field has.
    """

    shape: tuple[int, ...]
    dtype: str
    compression: str
    chunks: list[tuple[int, int]]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """A shard's structure: root attributes, and its fields by name."""

    attributes: dict[str, Any]
    fields: dict[str, FieldLayout]

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which ``from_json`` makes an equal layout."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Layout:
        """Make a layout from the result of ``to_json``."""
        fields = {
            name: FieldLayout(tuple(f["shape"]), f["dtype"], f["compression"], [tuple(c) for c in f["chunks"]], f["attributes"])
            for name, f in value["fields"].items()
        }
        return Layout(value["attributes"], fields)


def layout_of(path: Path, verified: bool) -> Layout:
    """Check all of a shard's structure and return it.

    Parameters
    ----------
    path
        The file.
    verified
        Whether the file's hash was compared with a trusted manifest; if not, a child process parses the file.

    Raises
    ------
    BadInput
        If it is not a shard of this version, or contains anything that a shard does not.
    """
    return parse(path) if verified else _parse_in_sandbox(path)


def parse(path: Path) -> Layout:
    """Read a shard's structure in this process; see ``layout_of``.

    Raises
    ------
    BadInput
        As ``layout_of``.
    """
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            return _Parser(path, file).layout()
    except BadInput:
        raise
    except OSError as error:
        if not path.exists():
            raise BadInput(f'{path}: not found; "mvad pack" makes shards') from error
        raise BadInput(f'{path}: not readable as HDF5 ({_line(error)}); "mvad pack" rebuilds it') from error
    except Exception as error:  # h5py raises many types on a damaged structure
        raise BadInput(f"{path}: damaged ({_line(error)}); delete it and pack again") from error


def _parse_in_sandbox(path: Path) -> Layout:
    """Parse the file in a child process that has no plugins, little memory, little time, and may write nothing."""
    package = Path(__file__).parents[3]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("HDF5_") and name != "PYTHONHASHSEED"
    } | {
        "HDF5_PLUGIN_PATH": os.devnull,
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in (str(package), *sys.path) if entry),
    }
    command = [sys.executable, "-P", "-m", "mvad.datasets.shards.sandbox", str(path.absolute())]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_CHILD_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"{path}: the HDF5 library did not parse it in {_CHILD_SECONDS} s; refused") from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        if "refused" in answer:
            raise BadInput(str(answer["refused"]).replace(str(path.absolute()), str(path)))
        return Layout.from_json(answer["layout"])
    except (ValueError, LookupError, TypeError) as error:
        reason = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
        raise BadInput(f"{path}: crashes the HDF5 library ({reason}); refused, it is not a shard of mvad") from error


class _Parser:
    """Read a file's structure by low-level calls that follow no links, and refuse what a shard does not have."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.file = path, file
        self.bytes = path.stat().st_size
        self.sizes: dict[str, int] = {}

    def layout(self) -> Layout:
        attributes = self._attributes(self.file, "/", ROOT_ATTRIBUTES, INTEGERS, ())
        version = attributes.get("schema_version")
        if attributes.get("schema") != SCHEMA or version != SCHEMA_VERSION:
            older = of_an_older_version(version, attributes.get("dataset"), attributes.get("category"))
            if older and attributes.get("schema") == SCHEMA:
                raise BadInput(f"{self.path}: {older}")
            raise self._refuse(
                f"schema {attributes.get('schema')!r} version {version!r}; this reads {SCHEMA} {SCHEMA_VERSION}", "pack again"
            )
        missing = [name for name in ROOT_ATTRIBUTES if name not in attributes]
        if missing:
            raise self._refuse(f"the attribute {missing[0]} is missing", "delete it and pack again")
        fields = {name: self._field(name, handle) for name, handle in self._objects(self.file, "")}
        missing = [name for name in REQUIRED if name not in fields]
        if not missing and not any(name in fields for name in MODALITIES):
            missing = ["rgb"]
        if not missing and any(name in fields for name in OF_RENDERS):
            missing = [name for name in RENDERED if name not in fields]
        if not missing and any(name in fields for name in WITH_SEEN) and "seen" not in fields:
            missing = ["seen"]
        if missing:
            raise self._refuse(f"{missing[0]} is missing", "delete it and pack again")
        views = self._texts(attributes, "views")
        if len(views) != self.sizes["V"]:
            raise self._refuse(f"views names {len(views)} views, the fields have {self.sizes['V']}", "delete it and pack again")
        if "depth" in fields and not all(name in fields["depth"].attributes for name in NUMBERS):
            raise self._refuse("depth has no step and offset", "delete it and pack again")
        return Layout(attributes, fields)

    def _objects(self, group: Any, prefix: str) -> list[tuple[str, Any]]:
        """Return the datasets of a group, and of the one group that a shard has, ``rig``."""
        import h5py

        objects = []
        if group.id.get_num_objs() > len(FIELDS):
            raise self._refuse(f"{prefix or '/'} holds {group.id.get_num_objs()} objects, more than a shard has")
        for raw in list(group.id):
            name = prefix + raw.decode(errors="replace")
            if group.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise self._refuse(f"{name} is a link, which no shard has")
            kind = h5py.h5o.get_info(group.id, raw).type
            if kind == h5py.h5o.TYPE_GROUP and name == "rig":
                rig = h5py.Group(h5py.h5o.open(group.id, raw))
                self._attributes(rig, name, {}, (), ())
                objects += self._objects(rig, "rig/")
            elif kind == h5py.h5o.TYPE_DATASET and name in FIELDS:
                objects.append((name, h5py.h5o.open(group.id, raw)))
            else:
                raise self._refuse(f"{name} is no field of a shard")
        return objects

    def _field(self, name: str, handle: Any) -> FieldLayout:
        import h5py

        expected, properties = FIELDS[name], handle.get_create_plist()
        if properties.get_external_count():
            raise self._refuse(f"{name} lies in other files, which no shard does")
        if properties.get_layout() != h5py.h5d.CHUNKED:
            raise self._refuse(f"{name} is not stored in chunks (it may lie in other files)")
        dtype = self._dtype(name, handle.get_type())
        if not (dtype.startswith("S") if expected.dtype == "S" else dtype == expected.dtype):
            raise self._refuse(f"{name} is {dtype}, expected {expected.dtype}", "delete it and pack again")
        shape = tuple(int(length) for length in handle.shape)
        self._check_shape(name, shape, dtype)
        chunk = tuple(int(length) for length in properties.get_chunk())
        whole = (1, *shape[1:]) if name in IMAGES else shape
        size = math.prod(chunk) * np.dtype(dtype).itemsize
        if size > MAX_CHUNK_BYTES:
            raise self._refuse(f"{name} has chunks of {size} bytes, more than {MAX_CHUNK_BYTES}")
        if chunk != whole:
            raise self._refuse(f"{name} has chunks of {chunk}, expected {whole}", "delete it and pack again")
        filters = tuple(properties.get_filter(k)[0] for k in range(properties.get_nfilters()))
        if filters not in PIPELINES:
            raise self._refuse(f"{name} has the filters {list(filters)}; a shard has one of {[list(p) for p in PIPELINES]}")
        attributes = self._attributes(h5py.Dataset(handle), name, FIELD_ATTRIBUTES, (), NUMBERS)
        return FieldLayout(shape, dtype, PIPELINES[filters], self._chunks(name, handle, shape, size), attributes)

    def _chunks(self, name: str, handle: Any, shape: tuple[int, ...], size: int) -> list[tuple[int, int]]:
        expected = shape[0] if name in IMAGES else 1
        positions: dict[int, tuple[int, int]] = {}

        def collect(info: Any) -> None:
            if info.filter_mask:
                raise self._refuse(f"{name} has a chunk that skips its filters")
            positions[int(info.chunk_offset[0])] = (int(info.byte_offset), int(info.size))

        if handle.get_num_chunks() != expected:
            raise self._refuse(f"{name} has {handle.get_num_chunks()} chunks, expected {expected}", "delete it and pack again")
        handle.chunk_iter(collect)
        if sorted(positions) != list(range(expected)):
            raise self._refuse(f"{name} lacks the chunks of some samples", "delete it and pack again")
        chunks = [positions[k] for k in range(expected)]
        for offset, length in chunks:
            if not 0 < offset <= self.bytes - length or not 4 < length <= size + size // 64 + 1024:
                raise self._refuse(
                    f"{name} has a chunk of {length} bytes at {offset}, which cannot be", "delete it and pack again"
                )
        return chunks

    def _check_shape(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        letters = FIELDS[name].shape.split()
        fits = len(shape) == len(letters)
        for letter, length in zip(letters, shape, strict=False):
            wanted = int(letter) if letter.isdigit() else self.sizes.setdefault(letter, length)
            fits = fits and length == wanted and 1 <= length <= _LIMITS.get(letter, length)
        if not fits:
            known = ", ".join(f"{letter} = {self.sizes[letter]}" for letter in letters if letter in self.sizes)
            raise self._refuse(f"{name} is {shape} {dtype}, expected ({FIELDS[name].shape}) with {known}")

    def _dtype(self, name: str, kind: Any) -> str:
        """Return numpy's name of a plain number type or fixed-length text type; every other type is refused."""
        import h5py

        plain = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING)
        type_class = kind.get_class()
        if kind.committed() or type_class not in plain or (type_class == h5py.h5t.STRING and kind.is_variable_str()):
            raise self._refuse(f"{name} has a type that no shard has (variable length, a reference, or one of its own)")
        if kind.get_size() > (MAX_ATTRIBUTE_BYTES if name.startswith("attribute ") else MAX_TEXT_BYTES):
            raise self._refuse(f"{name} has values of {kind.get_size()} bytes")
        dtype = kind.dtype
        return str(dtype.str[1:]) if dtype.kind == "S" else str(dtype.newbyteorder("=") if dtype.isnative else dtype.str)

    def _attributes(
        self, owner: Any, name: str, allowed: dict[str, str], integers: tuple[str, ...], numbers: tuple[str, ...]
    ) -> dict[str, Any]:
        """Read scalar attributes: those named in ``integers`` and ``numbers`` (floats), else fixed-length texts."""
        import h5py

        count = h5py.h5a.get_num_attrs(owner.id)
        if count > MAX_ATTRIBUTES:
            raise self._refuse(f"{name} has {count} attributes, more than {MAX_ATTRIBUTES}")
        values: dict[str, Any] = {}
        for number in range(count):
            handle = h5py.h5a.open(owner.id, index=number)
            label = handle.name.decode(errors="replace")
            if label not in allowed:
                raise self._refuse(f"{name} has the attribute {label[:80]!r}, which no shard has")
            if handle.get_storage_size() > MAX_ATTRIBUTE_BYTES:
                raise self._refuse(f"the attribute {label} of {name} has {handle.get_storage_size()} bytes")
            dtype = self._dtype(f"attribute {label} of {name}", handle.get_type())
            kinds = "iu" if label in integers else "f" if label in numbers else "S"
            if handle.shape != () or np.dtype(dtype).kind not in kinds:
                raise self._refuse(f"the attribute {label} of {name} is {handle.shape} {dtype}", "delete it and pack again")
            array = np.zeros((), dtype)
            handle.read(array, mtype=handle.get_type() if kinds == "S" else None)
            value = array.item()
            values[label] = value.decode() if kinds == "S" else value
            if kinds == "f" and not math.isfinite(value):
                raise self._refuse(f"the attribute {label} of {name} is {value}", "delete it and pack again")
        return values

    def _texts(self, attributes: dict[str, Any], name: str) -> list[str]:
        try:
            values = json.loads(attributes[name])
        except ValueError:
            values = None
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self._refuse(f"the attribute {name} is no JSON list of names", "delete it and pack again")
        return values

    def _refuse(self, what: str, remedy: str = "refused") -> BadInput:
        return BadInput(f"{self.path}: {what}; {remedy}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
