"""Read a rendered sample with its record (``record.json``), and a rendered category's manifest (``manifest.json``)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from mvad.datasets.images import MAX_SIDE, decode_png
from mvad.datasets.renders.coding import DepthCoding
from mvad.datasets.renders.layout import MANIFEST, RECORD, SUFFIXES, file_name
from mvad.errors import BadInput
from mvad.files import read_sealed_json, sha256_bytes

AGAIN = "run the same mvad render again"
WHY = {
    "raw": "its raw files do not make a sample: points or label are missing or contradictory, or a photograph is damaged",
    "failed": "it could not be rendered",
    "pending": "it had not been rendered when the job ended",
}
"""Why a manifest's ``missing`` lists a sample."""

SCHEMA = 3
"""Version 2 added: counts of removed points and ground truth by part of the background, shift and center of the rig. Version 3
added: size of the scan; pose, pose number, fit and turn of the object; views that cut it; its radius and frame in the rig."""


@dataclass(frozen=True)
class RenderedSample:
    """One sample as coded on disk; see ``docs/formats.md``.

    Attributes
    ----------
    rgb, normal
        (V, H, W, 3) uint8.
    depth
        (V, H, W) uint16, coded by ``coding``.
    mask
        (V, H, W) uint8, 0 or 1.
    source
        (V, H, W) int32, -1 where nothing is seen.
    coding
        Coding of ``depth``.
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
        If it is missing, damaged, or of a schema that this version does not read.
    """
    record = read_sealed_json(folder / RECORD, "a render's record", AGAIN)
    if record.get("schema") != SCHEMA:
        raise BadInput(
            f"{folder / RECORD}: schema {record.get('schema')}, this version reads {SCHEMA}; render again with --overwrite"
        )
    return record


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a category's manifest: rig, configuration and the sorted list of samples.

    Raises
    ------
    BadInput
        If it is missing, damaged, or of an unknown schema.
    """
    manifest = read_sealed_json(folder / MANIFEST, 'a manifest; "mvad render" writes it', AGAIN)
    if manifest.get("schema") != SCHEMA or "samples" not in manifest:
        raise BadInput(f"{folder / MANIFEST}: not a manifest of schema {SCHEMA}; render again with --overwrite")
    names = ("key", "split", "defect", "id", "record_sha256")
    if not isinstance(manifest["samples"], list) or not all(
        isinstance(sample, dict) and all(isinstance(sample.get(name), str) for name in names) for sample in manifest["samples"]
    ):
        raise BadInput(f"{folder / MANIFEST}: its samples do not have the form that mvad writes; render again with --overwrite")
    return manifest


def summarised(notes: Mapping[str, Iterable[str]]) -> list[dict[str, Any]]:
    """Return the notes on some samples, by key, as a manifest lists them: each with the number of its samples and the first."""
    keys: dict[str, list[str]] = {}
    for key, texts in sorted(notes.items()):
        for text in texts:
            keys.setdefault(text, []).append(key)
    return [{"note": text, "samples": len(of), "first": of[0]} for text, of in sorted(keys.items())]


def notes_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the notes that a manifest of renders or shards lists (``summarised``); what is not of that form is left out."""
    notes = manifest.get("notes", [])
    return [note for note in notes if isinstance(note, dict) and {"note", "samples", "first"} <= note.keys()]


def note_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Return the notes of a manifest as lines to print; a note with 0 samples is one on the whole category."""
    return [
        f"{note['note']} ({note['samples']} {'sample' if note['samples'] == 1 else 'samples'}, first {note['first']})"
        if note["samples"]
        else str(note["note"])
        for note in notes_of(manifest)
    ]


def missing_of(manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the samples that a manifest of renders or shards says are missing: key, reason, and why (``WHY``)."""
    missing = manifest.get("missing", [])
    return [entry for entry in missing if isinstance(entry, dict) and {"key", "reason", "why"} <= entry.keys()]


def read_sample(folder: Path, record: dict[str, Any]) -> RenderedSample:
    """Decode a rendered sample; each file's hash is compared with the record before the file is decoded.

    Raises
    ------
    BadInput
        If a file is missing, was changed, or does not fit the record.
    """
    views, size = int(record["views"]), int(record["size"])
    expected = {file_name(kind, view) for kind in SUFFIXES for view in range(views)}
    if set(record["outputs"]) != expected:
        raise BadInput(f"{folder / RECORD}: lists files that differ from those of {views} views; render again with --overwrite")
    contents: dict[str, bytes] = {}
    for name, sha256 in record["outputs"].items():
        path = folder / name
        try:
            contents[name] = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror}); run the same mvad render again") from error
        if sha256_bytes(contents[name]) != sha256:
            raise BadInput(f"{path}: is not what was rendered (SHA-256 differs); delete {folder} and render again")

    def stacked(kind: str, png: str) -> NDArray[Any]:
        names = [file_name(kind, view) for view in range(views)]
        return np.stack([decode_png(folder / name, contents[name], png, (size, size)) for name in names])

    sources = [file_name("source", view) for view in range(views)]
    return RenderedSample(
        rgb=stacked("rgb", "rgb"),
        depth=stacked("depth", "gray16"),
        normal=stacked("normal", "rgb"),
        mask=stacked("mask", "gray") // np.uint8(255),
        source=np.stack([_read_source(folder / name, contents[name], (size, size)) for name in sources]),
        coding=DepthCoding(float(record["depth"]["step_m"]), float(record["depth"]["offset_m"])),
    )


def _read_source(path: Path, data: bytes, shape: tuple[int, int]) -> NDArray[np.int32]:
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            if page.shape != shape or page.dtype != np.int32 or len(file.pages) != 1:
                raise BadInput(f"{path}: expected {shape} int32, found {page.shape} {page.dtype}; render again")
            source = page.asarray(maxworkers=1)
    except BadInput:
        raise
    except Exception as error:  # tifffile raises many types for damaged files
        raise BadInput(f"{path}: not readable as a source map; delete its folder and render again") from error
    if source.max(initial=-1) >= MAX_SIDE**2 or source.min(initial=0) < -1:
        raise BadInput(f"{path}: has indices outside of any scan; render again")
    return np.asarray(source)
