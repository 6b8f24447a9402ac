"""Organised points of one file, in its own unit and axes: TIFF, NPZ, PLY, PCD."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.images import MAX_SIDE, read_xyz
from mvad.datasets.own.headers import MAX_POINTS, Header, pcd_header, ply_header, size_of
from mvad.datasets.own.npy import UNREADABLE, npy_header, read_npy
from mvad.errors import BadInput, MissingComponent

_EXPECTED = "xyz (H, W, 3) float, and where there are any rgb (H, W, 3) uint8, gt (H, W), normals (H, W, 3) float"
_FORMS: dict[str, tuple[str, int]] = {"xyz": ("f", 3), "rgb": ("u", 3), "gt": ("biu", 2), "normals": ("f", 3)}
"""Kinds of numbers and dimensions of the arrays of an NPZ file."""


@dataclass(frozen=True)
class Points:
    """Organised points as a file has them.

    Attributes
    ----------
    xyz
        (H, W, 3) float32 or float64, in the file's unit.
    rgb, gt, normals
        (H, W, 3) uint8, (H, W) bool, (H, W, 3) float32, or None where the file has none.
    """

    xyz: NDArray[np.floating]
    rgb: NDArray[np.uint8] | None = None
    gt: NDArray[np.bool_] | None = None
    normals: NDArray[np.float32] | None = None


def read_points(path: Path, shape: tuple[int, int] | None) -> Points:
    """Read the organised points of a file.

    Parameters
    ----------
    path
        The file; its ending says the format.
    shape
        (H, W) that a user states; needed where the file does not say it, otherwise it must be the file's.

    Raises
    ------
    BadInput
        If the file is missing, damaged, too large, or not organised.
    MissingComponent
        If the library for it is not installed.
    """
    ending = path.suffix.lower()
    if ending in (".tif", ".tiff"):
        size_of(path)
        points = Points(read_xyz(path))
    elif ending == ".npz":
        points = _read_npz(path)
    elif ending == ".ply":
        points = _read_ply(path, ply_header(path), shape)
    else:
        points = _read_pcd(path, pcd_header(path), shape)
    if shape is not None and points.xyz.shape[:2] != shape:
        h, w = points.xyz.shape[:2]
        raise BadInput(f"{path}: has {w} x {h} points, --grid says {shape[1]}x{shape[0]}; give that of the file, or leave it out")
    return points


def shape_of(path: Path, header: Header, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Return (H, W) of a cloud.

    Raises
    ------
    BadInput
        If it has none, or not as many points.
    """
    if header.shape is None and shape is None:
        raise BadInput(
            f"{path}: its {header.points} points have no grid; give --grid WIDTHxHEIGHT if they are in rows of one, export the scan as "
            "organised, or make a mesh of it"
        )
    height, width = header.shape or shape or (0, 0)
    if height * width != header.points or max(height, width) > MAX_SIDE or min(height, width) < 2:
        raise BadInput(
            f"{path}: {header.points} points are no grid of {width} x {height} with 2 to {MAX_SIDE} per side; give another --grid"
        )
    return height, width


def _read_ply(path: Path, header: Header, stated: tuple[int, int] | None) -> Points:
    height, width = shape_of(path, header, stated)
    vertices = read_ply(path)["metadata"]["_ply_raw"]["vertex"]["data"]

    def grid(names: tuple[str, ...]) -> NDArray[Any] | None:
        if not set(names) <= set(header.names):
            return None
        return np.stack([np.asarray(vertices[name]) for name in names], axis=-1).reshape(height, width, len(names))

    try:
        xyz, rgb, normals = grid(("x", "y", "z")), grid(("red", "green", "blue")), grid(("nx", "ny", "nz"))
    except (ValueError, LookupError, TypeError) as error:
        raise BadInput(f"{path}: damaged, or cut off; copy or export it again") from error
    if xyz is None or xyz.dtype.kind != "f":
        raise BadInput(f"{path}: its x, y, z are not of floating point; export it with float or double")
    if rgb is not None and rgb.dtype != np.uint8:
        raise BadInput(f"{path}: its colours are {rgb.dtype}, expected uchar; export it again")
    return Points(xyz, rgb, None, None if normals is None else normals.astype(np.float32))


def read_ply(path: Path) -> dict[str, Any]:
    """Return what trimesh reads of a PLY file whose header was checked; pictures that it names are not opened.

    Raises
    ------
    BadInput
        If it is damaged.
    MissingComponent
        If trimesh is not installed.
    """
    try:
        from trimesh.exchange.ply import load_ply
    except ImportError as error:
        raise MissingComponent("reading PLY files needs trimesh; pip install trimesh") from error
    try:
        found: dict[str, Any] = load_ply(io.BytesIO(path.read_bytes()), fix_texture=False, skip_materials=True)
    except Exception as error:  # trimesh raises many types for damaged files
        raise BadInput(f"{path}: damaged, or cut off; copy or export it again") from error
    return found


def _read_pcd(path: Path, header: Header, stated: tuple[int, int] | None) -> Points:
    height, width = shape_of(path, header, stated)
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise MissingComponent(
            f"open3d does not import ({' '.join(str(error).split())[:80]}), and reading PCD files needs it; see mvad doctor"
        ) from error
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        cloud = open3d.io.read_point_cloud(path, format="pcd", remove_nan_points=False, remove_infinite_points=False)
    grids = [np.asarray(values) for values in (cloud.points, cloud.colors, cloud.normals)]
    if len(grids[0]) != header.points:
        raise BadInput(f"{path}: damaged, or cut off; copy or export it again")
    xyz, colors, normals = (values.reshape(height, width, 3) if len(values) else None for values in grids)
    rgb = None if colors is None else np.round(np.nan_to_num(colors) * 255).astype(np.uint8)
    if xyz is None:
        raise BadInput(f"{path}: has no points; export it again")
    return Points(xyz, rgb, None, None if normals is None else normals.astype(np.float32))


def _read_npz(path: Path) -> Points:
    size_of(path)
    try:
        with zipfile.ZipFile(path) as file:
            members = {name.removesuffix(".npy") for name in file.namelist()}
            if "xyz" not in members:
                raise BadInput(f"{path}: holds no array xyz; expected {_EXPECTED}")
            arrays = {name: _read_member(path, file, name) for name in _FORMS if name in members}
    except BadInput:
        raise
    except UNREADABLE as error:
        raise BadInput(f"{path}: not a readable NPZ file ({' '.join(str(error).split())[:80]}); save it again") from error
    shape = arrays["xyz"].shape[:2]
    for name, array in arrays.items():
        if array.shape != (shape if name == "gt" else (*shape, 3)) or (name == "rgb" and array.dtype != np.uint8):
            raise BadInput(f"{path}: {name} is {array.shape} {array.dtype}; expected {_EXPECTED}")
    points = Points(arrays["xyz"], arrays.get("rgb"))
    gt, normals = arrays.get("gt"), arrays.get("normals")
    return replace(
        points, gt=None if gt is None else gt != 0, normals=None if normals is None else normals.astype(np.float32)
    )  # fmt: skip


def _read_member(path: Path, file: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read one array of an NPZ file; its header is checked before its data are unpacked.

    Raises
    ------
    BadInput
        If it is of another kind, or larger than a scan can be.
    """
    with file.open(f"{name}.npy") as member:
        shape, dtype = npy_header(member)
    kinds, dimensions = _FORMS[name]
    if dtype.kind not in kinds or dtype.itemsize > 8 or len(shape) != dimensions:
        raise BadInput(f"{path}: {name} is {shape} {dtype}; expected {_EXPECTED}")
    if max(shape) > MAX_SIDE or min(shape[:2]) < 2 or shape[0] * shape[1] > MAX_POINTS:
        raise BadInput(f"{path}: {name} is {shape}; expected 2 to {MAX_SIDE} points per side, and at most {MAX_POINTS}")
    with file.open(f"{name}.npy") as member:
        return read_npy(member)
