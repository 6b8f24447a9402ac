"""Read fields of one shard by its layout and plain file reads: no HDF5 handle, so it can be shared between processes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad import files
from mvad.datasets.folders import visible
from mvad.datasets.renders.coding import DepthCoding
from mvad.datasets.shards.chunks import DamagedChunkError, decode_into
from mvad.datasets.shards.layout import Layout, layout_of
from mvad.datasets.shards.schema import IMAGES, MANIFEST, PICTURES, PLACES, SCHEMA, SCHEMA_VERSION, Sample, of_an_older_version
from mvad.errors import BadInput

_thread = threading.local()


def _content(handle: int, offset: int, length: int) -> memoryview:
    """Read a part of a file into a buffer of this thread; valid until the thread's next read."""
    buffer = getattr(_thread, "buffer", None)
    if buffer is None or len(buffer) < length:
        buffer = _thread.buffer = bytearray(length + length // 4)
    view = memoryview(buffer)[:length]
    if os.preadv(handle, [view], offset) != length:
        raise DamagedChunkError("the file ends before it")
    return view


class ShardFile:
    """An open shard. Any number of threads may read; a pickle contains the layout, but no open file.

    Parameters
    ----------
    path
        The file.
    sha256
        Its hash in the manifest, or None if there is no manifest.
    trusted
        Whether the manifest itself is trusted; if not, the file is treated like one without a manifest.

    Raises
    ------
    BadInput
        If the file's hash differs from that in the manifest, or the file is not a shard of this version.
    """

    def __init__(self, path: Path, sha256: str | None, trusted: bool = True) -> None:
        self.path = path
        if sha256 is not None and (not path.exists() or files.sha256_file(path) != sha256):
            raise BadInput(f"{path}: is not what manifest.json lists (SHA-256 differs); pack again to rebuild it")
        self.verified = sha256 is not None and trusted
        self.layout: Layout = layout_of(path, self.verified)
        self._handle: int | None = None

    def __len__(self) -> int:
        return self.layout.fields["label"].shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def __del__(self) -> None:
        if self.__dict__.get("_handle") is not None:
            self.close()

    @property
    def views(self) -> list[str]:
        """Names of the views in order."""
        return [str(name) for name in json.loads(self.layout.attributes["views"])]

    @property
    def coding(self) -> DepthCoding | None:
        """Coding of depth, or None where there is no depth."""
        if "depth" not in self.layout.fields:
            return None
        attributes = self.layout.fields["depth"].attributes
        return DepthCoding(float(attributes["step"]), float(attributes["offset"]))

    @property
    def rig_range(self) -> tuple[float, float, float] | None:
        """Near and far of the coded depths, and radius of the objects, metres; None where the views are photographs."""
        if "rig/range" not in self.layout.fields:
            return None
        near, far, radius = self.read("rig/range").tolist()
        return near, far, radius

    def open(self) -> int:
        """Return the file's descriptor; the first call opens the file.

        Raises
        ------
        BadInput
            If the file cannot be opened.
        """
        if self._handle is None:
            try:
                self._handle = files.open_for_reading(self.path)
            except OSError as error:
                raise BadInput(f"{self.path}: cannot be read ({error.strerror}); pack again") from error
        return self._handle

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def read_into(self, name: str, row: int, out: NDArray[Any]) -> None:
        """Decode one sample's images into a contiguous array of the field's shape and type.

        Raises
        ------
        BadInput
            If the bytes are not what was written.
        """
        field = self.layout.fields[name]
        offset, length = field.chunks[row]
        try:
            decode_into(_content(self.open(), offset, length), field.compression, out)
        except DamagedChunkError as error:
            which = f"sample {row} of {name}" if name in IMAGES else name
            raise BadInput(f"{self.path}: {which} is damaged: {error}; pack again") from error
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read ({error.strerror}); pack again") from error

    def read(self, name: str, row: int | None = None) -> NDArray[Any]:
        """Return one sample's images, or a whole field where ``row`` is None; see ``read_into``."""
        field = self.layout.fields[name]
        shape = field.shape if row is None else field.shape[1:]
        out = np.empty(shape, field.dtype)
        if row is None and name in IMAGES:
            for number in range(len(self)):
                self.read_into(name, number, out[number])
        else:
            self.read_into(name, row or 0, out)
        return out

    def texts(self, name: str) -> list[str]:
        """Return ``key`` or ``defect`` of every sample.

        Raises
        ------
        BadInput
            If the field is damaged or not UTF-8.
        """
        try:
            return [text.decode() for text in self.read(name)]
        except UnicodeDecodeError as error:
            raise BadInput(f"{self.path}: {name} is not UTF-8; pack again") from error

    def sample(self, row: int) -> Sample:
        """Return one sample with all its fields."""
        fields = self.layout.fields
        values: dict[str, Any] = {name: self.read(name, row) for name in IMAGES if name in fields}
        values |= {name: self.read(name)[row] for name in ("present", "view_label", *PLACES) if name in fields}
        for name, kind in (("pose_number", int), ("pose_fit", float), ("turn_deg", float)):
            if name in values:
                values[name] = kind(values[name])
        key, defect = self.texts("key")[row], self.texts("defect")[row]
        return Sample(key=key, defect=defect, label=int(self.read("label")[row]), **values)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a packed category's manifest.

    Raises
    ------
    BadInput
        If it is missing, damaged, not a manifest of shards, or of shards of another version.
    """
    manifest = _manifest_of_any_version(folder)
    wrong = of_another_version(manifest)
    if wrong:
        raise BadInput(f"{folder / MANIFEST}: {wrong}")
    return manifest


def of_another_version(manifest: Mapping[str, Any]) -> str:
    """Return what is said of a manifest of shards of another version, with the remedy; "" for this version's."""
    version = manifest.get("schema_version")
    if version == SCHEMA_VERSION:
        return ""
    return of_an_older_version(version, manifest.get("dataset"), manifest.get("category")) or (
        f"{SCHEMA} {str(version)[:20]!r}, this version reads {SCHEMA_VERSION}; pack again with --overwrite"
    )


def _manifest_of_any_version(folder: Path) -> dict[str, Any]:
    kind = 'a manifest of shards; "mvad pack" writes it'
    manifest = files.read_sealed_json(folder / MANIFEST, kind, "pack again with --overwrite")
    entries = manifest.get("shards")
    texts = ("file", "split", "sha256")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in texts) for entry in entries
    ):
        raise BadInput(f"{folder / MANIFEST}: is not a manifest of shards; give the folder of a packed category")
    missing = [name for name in ("dataset", "category", "licence", "views", "config", "packing") if name not in manifest]
    if missing:
        raise BadInput(f"{folder / MANIFEST}: has no {missing[0]}; pack again with --overwrite")
    return manifest


def open_shard(path: Path, trusted: bool = True) -> ShardFile:
    """Open a single file; its hash is compared with that in the manifest beside it, if there is one.

    Raises
    ------
    BadInput
        If its hash differs from that in the manifest, or it is not a shard of this version.
    """
    listed = None
    if (path.parent / MANIFEST).exists():
        entries = _manifest_of_any_version(path.parent)["shards"]  # the shard itself says its version
        listed = next((entry["sha256"] for entry in entries if entry["file"] == path.name), None)
    return ShardFile(path, listed, trusted)


def recorded_packing(folder: Path) -> dict[str, Any]:
    """Return the packing options of a category, from its manifest, which may be of an earlier version, or else from a shard.

    Raises
    ------
    BadInput
        If neither can be read.
    """
    return _recorded(folder, "packing")


def recorded_source(folder: Path) -> dict[str, Any]:
    """Return what a category's shards record of their source (``config``), from where ``recorded_packing`` has the options.

    Raises
    ------
    BadInput
        See ``recorded_packing``.
    """
    return _recorded(folder, "config")


def held_out_share(config: Mapping[str, Any]) -> float:
    """Return the share of a packed category's training samples that was asked to be held out, from its ``config``."""
    pictures = config.get(PICTURES)
    return float((pictures if isinstance(pictures, dict) else config).get("validation", 0.0))


def _recorded(folder: Path, name: str) -> dict[str, Any]:
    try:
        return dict(_manifest_of_any_version(folder)[name])
    except BadInput:
        for path in visible(folder.glob("*.h5")):
            try:
                return dict(json.loads(ShardFile(path, None).layout.attributes[name]))
            except (BadInput, ValueError):
                continue
        raise
