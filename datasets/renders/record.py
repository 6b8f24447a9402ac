"""What lies beside a rendered sample (``record.json``) and a rendered category (``manifest.json``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from mvad.datasets.images import MAX_SIDE, read_gray, read_gray16, read_rgb
from mvad.datasets.renders.coding import DepthCoding
from mvad.datasets.renders.layout import MANIFEST, RECORD, file_name
from mvad.errors import BadInput
from mvad.files import inside, read_json, sha256_bytes

SCHEMA = 2
"""2: points and ground truth by the part of the background they went with, the shift of the rig, center of the rig."""


@dataclass(frozen=True)
class RenderedSample:
    """One sample as coded on disk: see ``docs/formats.md``.

    Attributes
    ----------
    rgb, normal
        (V, H, W, 3) uint8.
    depth
        (V, H, W) uint16 under ``coding``.
    mask
        (V, H, W) uint8, 0 or 1.
    source
        (V, H, W) int32, -1 where nothing is seen.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    normal: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    source: NDArray[np.int32]
    coding: DepthCoding


def read_record(folder: Path) -> dict[str, Any]:
    """Read a sample's record.

    Raises
    ------
    BadInput
        If it is missing, damaged, or of a schema that this version does not know.
    """
    record = read_json(folder / RECORD, "a render's record")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise BadInput(f"{folder / RECORD}: schema {found}, this version reads {SCHEMA}; render again with --overwrite")
    return record


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a category's manifest: rig, configuration and the sorted list of samples.

    Raises
    ------
    BadInput
        If it is missing, damaged, or of an unknown schema.
    """
    manifest = read_json(folder / MANIFEST, 'a manifest; "mvad render" writes it')
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA or "samples" not in manifest:
        raise BadInput(f"{folder / MANIFEST}: not a manifest of schema {SCHEMA}; render again with --overwrite")
    return manifest


def read_sample(folder: Path, record: dict[str, Any]) -> RenderedSample:
    """Decode a rendered sample; every file's hash is compared with the record before it is decoded.

    Raises
    ------
    BadInput
        If a file is missing, was changed, or does not fit the record.
    """
    views, size = int(record["views"]), int(record["size"])
    for name, expected in record["outputs"].items():
        path = inside(folder, name)
        try:
            actual = sha256_bytes(path.read_bytes())
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror}); run the same mvad render again") from error
        if actual != expected:
            raise BadInput(f"{path}: is not what was rendered (SHA-256 differs); delete {folder} and render again")
    shape = (size, size)
    each = range(views)
    coding = DepthCoding(float(record["depth"]["step_m"]), float(record["depth"]["offset_m"]))
    return RenderedSample(
        rgb=np.stack([read_rgb(folder / file_name("rgb", view), shape) for view in each]),
        depth=np.stack([read_gray16(folder / file_name("depth", view), shape) for view in each]),
        normal=np.stack([read_rgb(folder / file_name("normal", view), shape) for view in each]),
        mask=np.stack([read_gray(folder / file_name("mask", view), shape) // np.uint8(255) for view in each]),
        source=np.stack([_read_source(folder / file_name("source", view), shape) for view in each]),
        coding=coding,
    )


def _read_source(path: Path, shape: tuple[int, int]) -> NDArray[np.int32]:
    try:
        source = tifffile.imread(path)
    except Exception as error:  # tifffile raises many kinds for damaged files
        raise BadInput(f"{path}: not readable as a source map; delete its folder and render again") from error
    if source.shape != shape or source.dtype != np.int32 or source.max(initial=-1) >= MAX_SIDE**2:
        raise BadInput(f"{path}: expected {shape} int32, found {source.shape} {source.dtype}; render again")
    return np.asarray(source)
