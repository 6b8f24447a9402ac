"""Files of own scans: one per scan, in the folder of a defect or in ``xyz`` or ``scans`` there, with pictures and ground truth beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mvad.datasets.folders import Files, check_name, visible, visible_folders
from mvad.datasets.own.headers import ply_header
from mvad.datasets.own.labels import LABEL_ENDINGS
from mvad.datasets.own.mesh_files import files_beside
from mvad.errors import BadInput

Kind = Literal["scan", "mesh"]
KINDS: dict[Kind, str] = {"scan": "organised scans", "mesh": "meshes"}
"""Kinds of files in words."""

PLACES = ("xyz", "scans")
"""Folders in that of a defect in which scans may lie."""
_PICTURES = ("png", "jpg", "jpeg")
_IMAGES = ("tiff", "tif")  # of points in a folder xyz; elsewhere of anything
_SCANS = ("npz", "pcd", "ply")
_MESHES = ("stl", "obj", "ply")
_GT = "_gt"
_INSTEAD = {
    "xyz": "points without a grid; export the scan as organised PLY, PCD or NPZ, or make a mesh of it",
    "asc": "points without a grid; export the scan as organised PLY, PCD or NPZ, or make a mesh of it",
    "pts": "points without a grid; export the scan as organised PLY, PCD or NPZ, or make a mesh of it",
    "las": "points without a grid; export the scan as organised PLY, PCD or NPZ, or make a mesh of it",
    "laz": "points without a grid; export the scan as organised PLY, PCD or NPZ, or make a mesh of it",
    "e57": "is not read; export the scan as organised PLY, PCD or NPZ",
    "npy": "is not read; save it as NPZ with an array xyz",
    "mat": "is not read; save it as NPZ with an array xyz",
    "exr": "is not read; save it as NPZ with an array xyz",
    "step": "is a CAD model; export it as STL",
    "stp": "is a CAD model; export it as STL",
    "iges": "is a CAD model; export it as STL",
    "igs": "is a CAD model; export it as STL",
    "off": "is not read; save the mesh as PLY, OBJ or STL",
    "glb": "is not read; save the mesh as PLY, OBJ or STL",
    "gltf": "is not read; save the mesh as PLY, OBJ or STL",
    "3mf": "is not read; save the mesh as PLY, OBJ or STL",
    "fbx": "is not read; save the mesh as PLY, OBJ or STL",
}
"""Endings of scans and meshes that are not read, with the way out."""


@dataclass
class Found(Files):
    """Files of one scan: ``xyz`` for its points or faces, ``rgb``, ``gt``, and what an OBJ file uses, by name.

    Attributes
    ----------
    kind
        What it is; None where that cannot be told, since the file is missing or damaged.
    """

    kind: Kind | None = field(default=None)


def find_scans(place: Path) -> dict[str, Found]:
    """Return the scans in the folder of a defect by name, sorted; a scan whose files contradict each other has a fault."""
    folders = {path.name.lower(): path for path in visible_folders(place)}
    found: dict[str, Found] = {}
    beside = {kind: _by_stem(folders.get(kind)) for kind in ("rgb", "gt")}
    for folder in (place, *(folders[name] for name in PLACES if name in folders)):
        here, read = _by_stem(folder), {*_SCANS, *_MESHES, *_INSTEAD, *(_IMAGES if folder.name.lower() == "xyz" else ())}
        for path in (path for stem in sorted(here) for path in here[stem]):
            ending = path.suffix[1:].lower()
            if path.stem.endswith(_GT) or ending not in read:
                continue
            check_name(path)
            scan = found.setdefault(path.stem, Found())
            if ending in _INSTEAD:
                scan.fault = scan.fault or f"{path}: {_INSTEAD[ending]}"
            scan.add("xyz", path)
            if scan.paths["xyz"] == path:
                _add(scan, "gt", here.get(path.stem + _GT, []))
    for name, scan in found.items():
        _add(scan, "rgb", beside["rgb"].get(name, []))
        _add(scan, "gt", beside["gt"].get(name, []))
        scan.kind = kind_of(scan.paths["xyz"])
        scan.paths.update(files_beside(scan.paths["xyz"]) if scan.kind == "mesh" else {})
        _check_beside(scan)
    for name in _alone(beside, found) if "xyz" in folders else ():
        found[name] = Found({"xyz": folders["xyz"] / f"{name}.tiff"})
    return dict(sorted(found.items()))


def kind_of(path: Path) -> Kind | None:
    """Return what a file is, or None where it is missing or damaged."""
    ending = path.suffix[1:].lower()
    if ending != "ply":
        return "mesh" if ending in _MESHES else "scan" if ending in (*_SCANS, *_IMAGES) else None
    try:
        return "mesh" if ply_header(path).faces else "scan"
    except BadInput:
        return None


def one_kind(found: Sequence[Found], wanted: str, where: Path) -> Kind:
    """Return the kind of all scans.

    Raises
    ------
    BadInput
        If there are two, or another than the wanted one (``auto``: any).
    """
    first: dict[Kind, Path] = {}
    for scan in found:
        if scan.kind is not None:
            first.setdefault(scan.kind, scan.paths["xyz"])
    if len(first) > 1:
        names = " and ".join(f"{KINDS[kind]} ({path.name})" for kind, path in sorted(first.items()))
        raise BadInput(f"{where}: holds {names}; keep one kind per category")
    kind = next(iter(first), "mesh" if wanted == "mesh" else "scan")
    if wanted not in ("auto", kind):
        other = KINDS["mesh" if wanted == "mesh" else "scan"]
        raise BadInput(f"{first[kind]}: is one of {KINDS[kind]}, expected {other}; give files of that kind")
    return kind


def _by_stem(folder: Path | None) -> dict[str, list[Path]]:
    """Return the files of a folder by stem, each list sorted; none where there is no folder."""
    found: dict[str, list[Path]] = {}
    for path in visible(folder.iterdir()) if folder is not None else ():
        if not path.is_dir():
            found.setdefault(path.stem, []).append(path)
    return found


def _add(scan: Found, kind: str, files: Sequence[Path]) -> None:
    """Add the pictures, and of ground truth also the labels, among some files."""
    endings = _PICTURES if kind == "rgb" else (*_PICTURES, *LABEL_ENDINGS)
    for path in files:
        if path.suffix[1:].lower() in endings:
            scan.add(kind, path)


def _check_beside(scan: Found) -> None:
    """Note as the scan's fault a picture of a mesh, or labels of faces of an organised scan."""
    gt, rgb = scan.paths.get("gt"), scan.paths.get("rgb")
    if scan.kind == "mesh" and gt is not None and gt.suffix[1:].lower() in _PICTURES:
        scan.fault = (
            scan.fault or f"{gt}: the ground truth of a mesh is one 0 or 1 per face or vertex; save it as NPY, NPZ or TXT"
        )
    if scan.kind == "mesh" and rgb is not None:
        scan.fault = scan.fault or f"{rgb}: a mesh takes its colours from its own file; remove the picture"
    if scan.kind == "scan" and gt is not None and gt.suffix[1:].lower() in LABEL_ENDINGS:
        scan.fault = scan.fault or f"{gt}: the ground truth of an organised scan is a PNG mask, or gt in its NPZ file; save it so"


def _alone(beside: dict[str, dict[str, list[Path]]], found: dict[str, Found]) -> list[str]:
    """Return the names of pictures and masks that belong to no scan, sorted."""
    names = {
        stem
        for files in beside.values()
        for stem, paths in files.items()
        for path in paths
        if path.suffix[1:].lower() in _PICTURES
    }
    return sorted(names - set(found))
