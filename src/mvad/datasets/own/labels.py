"""Ground truth of a mesh: one number, 0 or 1, per face or per vertex, from NPY, NPZ or text."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.own.headers import MAX_POINTS, size_of
from mvad.datasets.own.mesh_files import MeshFile
from mvad.datasets.own.npy import UNREADABLE, npy_header, read_npy
from mvad.errors import BadInput

LABEL_ENDINGS = ("npy", "npz", "txt")
_MAX_BYTES = 16 * MAX_POINTS
_PER = ("faces", "vertices")


def face_labels(path: Path, mesh: MeshFile) -> NDArray[np.bool_]:
    """Read the labels of a mesh as (F,) bool; a face is marked if its own label is 1, or that of one of its vertices.

    An NPZ file has an array ``faces`` or ``vertices``; elsewhere the number of labels says which they are of.

    Raises
    ------
    BadInput
        If the file is damaged, the labels are not 0 and 1, or are as many as neither faces nor vertices.
    """
    labels, per = _read(path)
    if labels.ndim != 1 or labels.dtype.kind not in "biu" or not np.isin(labels, (0, 1)).all():
        raise BadInput(f"{path}: expected one 0 or 1 per face or per vertex, found {labels.dtype} {labels.shape}; save it so")
    marked = labels.astype(np.bool_)
    faces, vertices = mesh.file_faces, mesh.file_vertices
    fits = {"faces": len(marked) == faces, "vertices": len(marked) == vertices}
    if not per and all(fits.values()):
        raise BadInput(
            f"{path}: the mesh has as many faces as vertices, {faces}; save an NPZ with an array named faces or vertices"
        )
    per = per or next((name for name in _PER if fits[name]), "")
    if not per or not fits[per]:
        other = f", {vertices} vertices" if vertices else " (labels of vertices are not taken of this file)"
        raise BadInput(f"{path}: {len(marked)} labels for a mesh of {faces} faces{other}; save one per face")
    if per == "vertices":
        return np.asarray(marked[mesh.faces].any(axis=1))
    if faces != len(mesh.faces):
        raise BadInput(
            f"{path}: faces of the mesh have more than three corners, so labels of faces are not taken; triangulate it"
        )
    return marked


def _read(path: Path) -> tuple[NDArray[Any], str]:
    """Return the array of a file, and what it is of where the file says it."""
    if size_of(path) > _MAX_BYTES:
        raise BadInput(f"{path}: is larger than labels can be; save one 0 or 1 per face")
    try:
        if path.suffix.lower() == ".txt":
            return np.loadtxt(path, dtype=np.int64, ndmin=1, comments="#"), ""
        if path.suffix.lower() == ".npy":
            return _checked(path, path.open("rb"), path.open("rb")), ""
        with zipfile.ZipFile(path) as file:
            names = [name for name in _PER if f"{name}.npy" in file.namelist()]
            if len(names) != 1:
                raise BadInput(f"{path}: expected one array, named faces or vertices; save it so")
            member = f"{names[0]}.npy"
            return _checked(path, file.open(member), file.open(member)), names[0]
    except BadInput:
        raise
    except UNREADABLE as error:
        raise BadInput(f"{path}: not readable as labels ({' '.join(str(error).split())[:80]}); save it again") from error


def _checked(path: Path, head: IO[bytes], whole: IO[bytes]) -> NDArray[Any]:
    """Read an array, opened twice, after its header was checked."""
    with head, whole:
        shape, dtype = npy_header(head)
        if len(shape) != 1 or shape[0] > MAX_POINTS or dtype.kind not in "biu":
            raise BadInput(f"{path}: expected one 0 or 1 per face or per vertex, found {dtype} {shape}; save it so")
        return read_npy(whole)
