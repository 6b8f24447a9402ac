"""Write compressed samples into one HDF5 file; equal inputs give equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.renders.coding import DepthCoding
from mvad.datasets.shards import chunks
from mvad.datasets.shards.schema import FIELDS, IMAGES, MAX_TEXT_BYTES, PLACES, Sample
from mvad.errors import BadInput


@dataclass(frozen=True)
class PackedSample:
    """A sample whose images are compressed chunks: small, so that the samples of a whole shard fit into memory.

    Attributes
    ----------
    sha256
        SHA-256 of the files that the sample was made from.
    shapes
        Shape and dtype of each image field, without the sample axis.
    images
        Chunk of each image field.
    values
        The sample's row in each of the other fields.
    notes
        What was decided in reading it.
    """

    sha256: str
    shapes: dict[str, tuple[tuple[int, ...], str]]
    images: dict[str, bytes]
    values: dict[str, Any]
    notes: tuple[str, ...] = ()


def compress(
    sample: Sample, sha256: str, filter_name: str, level: int | None, notes: tuple[str, ...] = ()
) -> PackedSample:  # fmt: skip
    """Compress a sample's images; ``level`` None uses each field's default.

    Raises
    ------
    BadInput
        If the key or the name of the defect is too long.
    """
    arrays = {name: array for name in IMAGES if (array := getattr(sample, name)) is not None}
    values: dict[str, Any] = {"present": sample.present, "view_label": sample.view_label, "label": np.uint8(sample.label)}
    for name in PLACES:
        if getattr(sample, name) is not None:
            values[name] = np.asarray(getattr(sample, name), FIELDS[name].dtype)
    for name in ("key", "defect"):
        values[name] = getattr(sample, name).encode()
        if len(values[name]) > MAX_TEXT_BYTES:
            raise BadInput(f"{sample.key[:200]}: the {name} has {len(values[name])} bytes, more than {MAX_TEXT_BYTES}")
    values["made_from"] = sha256.encode()
    return PackedSample(
        sha256,
        {name: (array.shape, array.dtype.str) for name, array in arrays.items()},
        {name: chunks.encode(array, filter_name, chunks.level_of(filter_name, level, name)) for name, array in arrays.items()},
        values,
        notes,
    )


def build(
    samples: Sequence[PackedSample],
    attributes: Mapping[str, str | int],
    coding: DepthCoding | None,
    rig: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None,
    filter_name: str,
    level: int | None,
) -> bytes:
    """Return a shard's bytes.

    A chunk is one field of one sample, because training reads whole samples; the chunks of a sample are adjacent in the file.
    No time is stored, and the file format version is fixed, so that the next version of the library writes the same bytes.
    """
    import h5py
    import hdf5plugin

    options: dict[str, Callable[[int], Mapping[str, Any]]] = {
        "zstd": lambda level: hdf5plugin.Zstd(clevel=level),
        "lz4": lambda level: hdf5plugin.LZ4(),
        "gzip": lambda level: {"compression": "gzip", "compression_opts": level},
        "none": lambda level: {},
    }
    with h5py.File("shard.h5", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        for name, value in sorted(attributes.items()):
            _attribute(file, name, value)
        datasets = {}
        for name, (shape, dtype) in samples[0].shapes.items():
            datasets[name] = file.create_dataset(
                name, (len(samples), *shape), dtype, chunks=(1, *shape), fletcher32=True, track_times=False, fillvalue=None,
                **options[filter_name](chunks.level_of(filter_name, level, name)),
            )  # fmt: skip
        if "depth" in datasets and coding is not None:
            _attribute(datasets["depth"], "step", coding.step_m)
            _attribute(datasets["depth"], "offset", coding.offset_m)
        for name in samples[0].values:
            rows = [sample.values[name] for sample in samples]
            text = isinstance(rows[0], bytes)
            array = np.array(rows, h5py.string_dtype("utf-8", max(1, *map(len, rows)))) if text else np.stack(rows)
            datasets[name] = _small(file, name, array)
        for name, array in zip(("poses", "intrinsics", "range"), rig or (), strict=False):
            datasets[f"rig/{name}"] = _small(file, f"rig/{name}", array)
        for name, dataset in datasets.items():
            _attribute(dataset, "meaning", FIELDS[name].meaning)
            if FIELDS[name].unit:
                _attribute(dataset, "unit", FIELDS[name].unit)
        for row, sample in enumerate(samples):
            for name, chunk in sample.images.items():
                datasets[name].id.write_direct_chunk((row, *[0] * len(sample.shapes[name][0])), chunk)
        file.flush()
        return bytes(file.id.get_file_image())


def _small(file: Any, name: str, array: NDArray[Any]) -> Any:
    return file.create_dataset(name, data=array, chunks=array.shape, fletcher32=True, track_times=False)


def _attribute(owner: Any, name: str, value: str | int | float) -> None:
    """Store a text as fixed-length UTF-8, which needs no heap in the file, or a number."""
    import h5py

    if isinstance(value, str):
        text = value.encode() or b" "
        owner.attrs.create(name, np.array(text, h5py.string_dtype("utf-8", len(text))))
    else:
        owner.attrs[name] = value
