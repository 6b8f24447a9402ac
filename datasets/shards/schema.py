"""The shard format, version 1: its one definition. ``docs/formats.md`` is generated from ``FIELDS``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from mvad.datasets.renders.coding import DepthCoding
from mvad.errors import BadInput

SCHEMA = "mvad-shard"
SCHEMA_VERSION = 1
MAX_CHUNK_BYTES = 256 << 20
MAX_SAMPLES = 1 << 22


@dataclass(frozen=True)
class Field:
    """One dataset of a shard: shape in N, V, H, W; numpy kind and size; what it means."""

    shape: str
    dtype: str
    meaning: str


FIELDS = {
    "rgb": Field("N V H W 3", "uint8", "colour; black where a render shows nothing"),
    "depth": Field("N V H W", "uint16", "metres = offset + step * (value - 1), 0 is nothing; attributes step, offset, unit"),
    "normal": Field("N V H W 3", "uint8", "n = value / 127.5 - 1 in the view's frame, renormalise; (0, 0, 0) is nothing"),
    "mask": Field("N V H W", "uint8", "1 on the defect, else 0"),
    "source": Field("N V H W", "int32", "row * W + column of the raw scan, -1 where nothing is seen (renders only)"),
    "present": Field("N V", "uint8", "1 where the view exists"),
    "label": Field("N", "uint8", "1 if the sample is anomalous"),
    "view_label": Field("N V", "uint8", "1 if the view shows the defect"),
    "shift": Field(
        "N 3", "float64", "metres to add to the positions of rig/poses for this sample; not 0 with --center scan (renders only)"
    ),
    "key": Field("N", "S", "category/split/defect/id, UTF-8"),
    "defect": Field("N", "S", "good or the defect's name, UTF-8"),
    "rig/poses": Field("V 4 4", "float64", "camera to the sensor's camera frame, x right, y down, z forward (renders only)"),
    "rig/intrinsics": Field("V 3 3", "float64", "pixels; a pixel's centre lies at +0.5 (renders only)"),
}
IMAGES = ("rgb", "depth", "normal", "mask", "source")
REQUIRED = ("rgb", "mask", "present", "label", "view_label", "key", "defect")
ROOT_ATTRIBUTES = {
    "schema": "mvad-shard",
    "schema_version": "1",
    "dataset": "mvtec3d, eyecandies or realiad",
    "category": "the category's name",
    "split": "train, validation, test or private",
    "part": "number of this file within the split",
    "views": "JSON: names of the views in order",
    "config": "JSON: the configuration that made the samples",
    "sources": "SHA-256 over the hashes of everything the shard was made from",
    "mvad_version": "version that packed it",
    "licence": "licence of the dataset",
}

FILTERS: dict[str, Mapping[str, Any]] = {
    "zstd": hdf5plugin.Zstd(clevel=3),
    "lz4": hdf5plugin.LZ4(),
    "gzip": {"compression": "gzip", "compression_opts": 4},
    "none": {},
}
ALLOWED_FILTERS = frozenset({1, 2, 3, 32004, 32015})
"""deflate, shuffle, fletcher32, lz4, zstd."""


@dataclass(frozen=True)
class Sample:
    """One multi-view sample, coded as in a shard (uint8 and uint16, no floats).

    Attributes
    ----------
    rgb
        (V, H, W, 3) uint8.
    mask
        (V, H, W) uint8, 0 or 1.
    present, view_label
        (V,) uint8.
    label
        1 if anomalous.
    depth, normal, source
        (V, H, W) uint16, (V, H, W, 3) uint8, (V, H, W) int32, or None.
    shift
        (3,) float64, metres to add to the positions of the rig's poses, or None.
    """

    key: str
    defect: str
    label: int
    rgb: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    present: NDArray[np.uint8]
    view_label: NDArray[np.uint8]
    depth: NDArray[np.uint16] | None = None
    normal: NDArray[np.uint8] | None = None
    source: NDArray[np.int32] | None = None
    shift: NDArray[np.float64] | None = None


def build(
    samples: Sequence[Sample],
    attributes: Mapping[str, str | int],
    coding: DepthCoding | None,
    rig: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    filter_name: str,
) -> bytes:
    """Return a shard's bytes; equal inputs give equal bytes (no times are stored).

    A chunk is one sample's images, since a sample is what training reads; every chunk has a fletcher32 sum.

    Raises
    ------
    BadInput
        If the filter is unknown.
    """
    if filter_name not in FILTERS:
        raise BadInput(f"--filter {filter_name}: choose from {', '.join(FILTERS)}")
    with h5py.File("shard.h5", "w", driver="core", backing_store=False, libver=("earliest", "v110")) as file:
        for name, value in sorted(attributes.items()):
            file.attrs[name] = value
        options = {"fletcher32": True, "track_times": False}
        for name in IMAGES:
            if getattr(samples[0], name) is None:
                continue
            array = np.stack([getattr(sample, name) for sample in samples])
            made = file.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), **options, **FILTERS[filter_name])
            if name == "depth" and coding is not None:
                made.attrs.update({"step": coding.step_m, "offset": coding.offset_m, "unit": "metre"})
        for name in ("present", "view_label"):
            array = np.stack([getattr(sample, name) for sample in samples])
            file.create_dataset(name, data=array, chunks=array.shape, **options)
        if samples[0].shift is not None:
            shifts = np.array([sample.shift for sample in samples], dtype=np.float64)
            file.create_dataset("shift", data=shifts, chunks=shifts.shape, **options)
        labels = np.array([sample.label for sample in samples], dtype=np.uint8)
        file.create_dataset("label", data=labels, chunks=labels.shape, **options)
        for name in ("key", "defect"):
            texts = [getattr(sample, name).encode() for sample in samples]
            kind = h5py.string_dtype("utf-8", max(map(len, texts)))
            file.create_dataset(name, data=np.array(texts, dtype=kind), chunks=(len(texts),), **options)
        if rig is not None:
            for name, array in zip(("poses", "intrinsics"), rig, strict=True):
                file.create_dataset(f"rig/{name}", data=array, chunks=array.shape, **options)
        file.flush()
        return bytes(file.id.get_file_image())


def open_checked(path: Path) -> h5py.File:
    """Open a shard for reading after its structure was checked; no pixel is read.

    Raises
    ------
    BadInput
        If it is no shard of this version, or holds anything that a shard does not (links, external or
        virtual storage, unknown filters, absurd shapes).
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise BadInput(f'{path}: not readable as HDF5 ({_line(error)}); "mvad pack" rebuilds it') from error
    try:
        _check(path, file)
    except BadInput:
        file.close()
        raise
    except Exception as error:  # h5py raises many kinds on a damaged structure
        file.close()
        raise BadInput(f"{path}: damaged ({_line(error)}); delete it and pack again") from error
    return file


def depth_coding(file: h5py.File) -> DepthCoding | None:
    """Return how a shard's depth is coded, or None where it has none."""
    if "depth" not in file:
        return None
    return DepthCoding(float(file["depth"].attrs["step"]), float(file["depth"].attrs["offset"]))


def view_names(file: h5py.File) -> list[str]:
    """Return the names of a shard's views in order."""
    return [str(name) for name in json.loads(file.attrs["views"])]


def _check(path: Path, file: h5py.File) -> None:
    version = file.attrs.get("schema_version")
    if file.attrs.get("schema") != SCHEMA or version != SCHEMA_VERSION:
        raise BadInput(f"{path}: schema {file.attrs.get('schema')!r} version {version!r}; this reads {SCHEMA} {SCHEMA_VERSION}")
    missing = [name for name in (*REQUIRED, *()) if name not in file] + [a for a in ROOT_ATTRIBUTES if a not in file.attrs]
    if missing:
        raise BadInput(f"{path}: {missing[0]} is missing; delete it and pack again")
    sizes: dict[str, int] = {}
    for group in (file, file["rig"]) if "rig" in file else (file,):
        for name in group:
            full = f"rig/{name}" if group != file else name
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise BadInput(f"{path}: {full} is a link, which no shard has; refused")
            if full != "rig":
                _check_field(path, full, group[name], sizes)


def _check_field(path: Path, name: str, found: Any, sizes: dict[str, int]) -> None:
    if name not in FIELDS or not isinstance(found, h5py.Dataset):
        raise BadInput(f"{path}: {name} is no field of a shard; refused")
    if found.external or found.is_virtual:
        raise BadInput(f"{path}: {name} lies in other files, which no shard does; refused")
    plist = found.id.get_create_plist()
    filters = {plist.get_filter(k)[0] for k in range(plist.get_nfilters())}
    if not filters <= ALLOWED_FILTERS:
        raise BadInput(f"{path}: {name} uses unknown filters {sorted(filters - ALLOWED_FILTERS)}; refused")
    expected = FIELDS[name]
    kind_fits = found.dtype.kind == "S" if expected.dtype == "S" else found.dtype == np.dtype(expected.dtype)
    letters = expected.shape.split()
    if not kind_fits or len(found.shape) != len(letters):
        raise BadInput(f"{path}: {name} is {found.shape} {found.dtype}, expected ({expected.shape}) {expected.dtype}")
    for letter, length in zip(letters, found.shape, strict=True):
        wanted = int(letter) if letter.isdigit() else sizes.setdefault(letter, length)
        if length != wanted or not 1 <= length <= MAX_SAMPLES:
            raise BadInput(f"{path}: {name} is {found.shape}, expected ({expected.shape}) with {letter} = {wanted}")
    if found.chunks and int(np.prod(found.chunks)) * found.dtype.itemsize > MAX_CHUNK_BYTES:
        raise BadInput(f"{path}: {name} has chunks of more than {MAX_CHUNK_BYTES} bytes; refused")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
