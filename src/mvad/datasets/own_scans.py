"""Reader of own scans and meshes, with any names of categories and defects.

<category>/{train,validation,test}/{good,<defect>}/{xyz,rgb,gt}/NAME.*         the tree of MVTec 3D-AD
<category>/{train,validation,test}/{good,<defect>}/[scans/]NAME.{npz,ply,pcd}  one organised scan per file, NAME_gt.png beside it
<category>/{train,validation,test}/{good,<defect>}/[scans/]NAME.{stl,obj,ply}  meshes, NAME_gt.{npy,npz,txt} beside them
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.folders import Named, below, category_folders, defect_folders, holds_data, split_folders, visible_folders
from mvad.datasets.images import read_rgb
from mvad.datasets.masks import check_label, read_mask
from mvad.datasets.mvtec3d import MAX_DISTANCE_M, MIN_DISTANCE_M
from mvad.datasets.own.find import PLACES, Found, Kind, find_scans, kind_of, one_kind
from mvad.datasets.own.grids import Points, read_points
from mvad.datasets.own.labels import face_labels
from mvad.datasets.own.mesh_files import read_mesh
from mvad.datasets.own.mesh_scan import GREY, NO_COLORS, scan_of_mesh
from mvad.datasets.own.options import METRES, NOT_STATED, READER, OwnScanOptions
from mvad.datasets.scan import GOOD, NEW, UNKNOWN, ReadOptions, Scan, ScanRef, new_id
from mvad.errors import BadInput

NO_TRUTH = "no ground truth; the defect is marked nowhere"
NO_NORMALS = "some points have no normals, so all normals are computed from the points"
_SPLITS = {"train": "train", "validation": "validation", "test": "test"}
_BESIDE = {*PLACES, "rgb", "gt"}
"""Names of folders in one of a defect that hold its scans, or what belongs to them."""
_FARTHEST_M = 10.0
"""Median distance beyond which the unit is another one: structured-light and laser sensors measure 0.1 to 2 m."""
_LARGEST_M, _SMALLEST_M = 20.0, 1e-4
"""Lengths of a mesh's box beyond which its unit is another one."""


class OwnScans:
    """Reader of own scans and meshes; ``name`` is that of their dataset."""

    licence = NOT_STATED
    modalities: tuple[str, ...] = ("rgb", "depth")
    known_categories: tuple[str, ...] = ()

    def __init__(self, name: str = READER) -> None:
        self.name = name

    def categories(self, raw: Path) -> list[str]:
        """Return the names of folders that hold a folder ``train``, sorted."""
        return [folder.name for folder in category_folders(raw) if "train" in split_folders(folder, {"train": "train"})]

    def refs(self, raw: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return all scans of a category, sorted; ``read`` of each says what they are and how they are read.

        Raises
        ------
        BadInput
            If the category is missing or has no scan, holds scans as well as meshes, or an option contradicts it.
        """
        options.own.check()
        root = raw / category
        if not root.is_dir():
            raise BadInput(f"{root}: not found; --raw must hold <category>/train/good with scans")
        found: list[tuple[str, str, Named, str, Found]] = []
        splits = split_folders(root, _SPLITS)
        places = [(root, {named.path for named in splits.values()}, "is no split; name it train, validation or test")]
        for split, named in splits.items():
            if (named.path / "xyz").is_dir() or find_scans(named.path):
                raise BadInput(
                    f"{named.path}: holds scans beside or without folders of defects; move them to {named.path.name}/good, say"
                )
            for defect, folder in defect_folders(named, only_good=split != "test"):
                scans = find_scans(folder.path)
                if not scans and holds_data(folder.path):
                    raise BadInput(
                        f"{folder.path}: holds files, but no scan; expected xyz/NAME.tiff, or NAME.npz, .ply, .pcd, .stl, .obj"
                    )
                beside = {path for path in visible_folders(folder.path) if path.name.lower() in _BESIDE}
                places.append((folder.path, beside, "is no folder of a defect; move them up"))
                found += [(split, defect, folder, name, scan) for name, scan in scans.items()]
        if not found:
            raise BadInput(
                f"{root}: no scan found; expected train/good/NAME.npz, .ply, .pcd, .stl or .obj, or train/good/xyz/NAME.tiff"
            )
        read = _resolved([scan for *_, scan in found], options.own, root)
        for place, known, what in places:
            _refuse_scans_below(place, known, {scan.kind for *_, scan in found}, what)
        return sorted(
            ScanRef(self.name, category, split, defect, name, scan.paths, folder.notes, folder.fault or scan.fault, read)
            for split, defect, folder, name, scan in found
        )

    def new_refs(self, folder: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """See ``ScanReader.new_refs``: the scans of every folder below the given one, or the scan of one file."""
        options.own.check()
        if folder.is_file():
            ref = self.ref_of(folder, options.own)
            return [replace(ref, category=category, paths={kind: path for kind, path in ref.paths.items() if kind != "gt"})]
        folder = Path(os.path.abspath(folder))
        if folder.name.lower() in PLACES and "rgb" in {path.name.lower() for path in visible_folders(folder.parent)}:
            raise BadInput(f"{folder}: its pictures lie beside it; give {folder.parent}")
        places = _places(folder)
        found = [(place, name, scan) for place in (folder, *places) for name, scan in find_scans(place).items()]
        if not found:
            return []
        read = _resolved([scan for *_, scan in found], options.own, folder)
        return sorted(
            ScanRef(
                self.name, category, NEW, UNKNOWN, new_id(place.relative_to(folder), name),
                {kind: path for kind, path in scan.paths.items() if kind != "gt"}, (), scan.fault, read,
            )
            for place, name, scan in found
        )  # fmt: skip

    def ref_of(self, path: Path, own: OwnScanOptions) -> ScanRef:
        """Return the scan or mesh of one file, with the picture and the ground truth beside it.

        Raises
        ------
        BadInput
            If the file is none, or of another kind than the options say.
        """
        own.check()
        path = Path(os.path.abspath(path))  # a name alone has no folders above it
        place = path.parent.parent if path.parent.name.lower() in PLACES else path.parent
        scan = next((scan for scan in find_scans(place).values() if scan.paths.get("xyz") == path), None)
        if scan is None:
            raise BadInput(f"{path}: is no scan and no mesh; expected .npz, .ply, .pcd, .tiff, .stl or .obj")
        return ScanRef(self.name, "", NEW, UNKNOWN, path.stem, scan.paths, (), scan.fault, _resolved([scan], own, path))

    def load(self, ref: ScanRef) -> Scan:
        """Read one scan or mesh. Missing points are (0, 0, 0) or not finite; what a mask marks: ``masks.RULE``.

        Raises
        ------
        BadInput
            If a file is missing, damaged, too large, of another size, unit or axes, or its ground truth contradicts its label.
        MissingComponent
            If the library for its format is not installed.
        """
        if ref.fault:
            raise BadInput(ref.fault)
        path = ref.paths["xyz"]
        scan = _load_mesh(ref) if "mesh" in (ref.read.kind, kind_of(path)) else _load_scan(ref)
        notes = scan.notes
        if scan.gt is not None and ref.defect != UNKNOWN:
            notes += check_label(ref.paths.get("gt", path), scan.gt, ref.defect == GOOD)
        if scan.gt is None and ref.split == "test" and ref.defect not in (GOOD, UNKNOWN):
            notes += (NO_TRUTH,)
        return replace(scan, notes=notes)


def _resolved(found: Sequence[Found], own: OwnScanOptions, where: Path) -> OwnScanOptions:
    """Return the options with the kind that all scans have."""
    kind = one_kind(found, own.kind, where)
    if kind == "mesh" and (own.grid or own.axes != "camera"):
        raise BadInput(f"{where}: holds meshes, for which --grid and --axes mean nothing; leave them out")
    return replace(own, reader="folder", kind=kind)


def _load_mesh(ref: ScanRef) -> Scan:
    path = ref.paths["xyz"]
    mesh = read_mesh(path, {name: file for name, file in ref.paths.items() if name not in ("xyz", "rgb", "gt")})
    unit = ref.read.unit
    used = mesh.vertices[mesh.faces.ravel()]
    sides = (used.max(axis=0) - used.min(axis=0)) * METRES[unit]
    if not _SMALLEST_M <= sides.max() <= _LARGEST_M:
        shown = " x ".join(f"{side:.3g}" for side in sides)
        raise BadInput(f"{path}: measures {shown} metres with --unit {unit}; give the unit of the file, --unit m, mm or um")
    gt = face_labels(ref.paths["gt"], mesh) if "gt" in ref.paths else None
    return scan_of_mesh(mesh, METRES[unit], ref.read.crease_deg, gt)


def _load_scan(ref: ScanRef) -> Scan:
    path = ref.paths["xyz"]
    points = read_points(path, ref.read.shape)
    signs = [1, -1, -1] if ref.read.axes == "opengl" else [1, 1, 1]
    with np.errstate(over="ignore", invalid="ignore"):
        xyz = (points.xyz.astype(np.float64) * METRES[ref.read.unit] * signs).astype(np.float32)
        measured = np.isfinite(xyz).all(axis=2) & xyz.any(axis=2)
        valid = measured & (np.abs(xyz) < MAX_DISTANCE_M).all(axis=2) & (xyz[..., 2] > MIN_DISTANCE_M)
    _check_distances(ref, xyz[..., 2][measured], bool(valid.any()))
    xyz[~valid] = 0
    shape, notes = (xyz.shape[0], xyz.shape[1]), list[str]()
    gt: NDArray[np.bool_] | None = points.gt
    if "gt" in ref.paths:
        if gt is not None:
            raise BadInput(f"{ref.paths['gt']}: {path.name} has gt as well; remove one")
        gt, texts = read_mask(ref.paths["gt"], shape)
        notes += texts
    rgb = read_rgb(ref.paths["rgb"], shape) if "rgb" in ref.paths else points.rgb
    if rgb is None:
        rgb = np.full((*shape, 3), GREY, np.uint8)
        notes.append(NO_COLORS)
    normals, note = _towards_sensor(points, xyz, valid, signs)
    return Scan(xyz, valid, rgb, gt, normals, notes=(*notes, *([note] if note else [])))


def _places(folder: Path) -> list[Path]:
    """Return the folders below a folder that may hold scans, sorted."""
    return sorted(path for path in below(folder) if path.is_dir() and path.name.lower() not in _BESIDE)


def _refuse_scans_below(root: Path, known: set[Path], kinds: set[Kind | None], what: str) -> None:
    """Raise BadInput if a folder in another, which is none of the known ones, or one below it, holds scans of the category's kind."""

    def holds_some(place: Path) -> bool:
        try:
            return any(not scan.fault and scan.kind in kinds for scan in find_scans(place).values())
        except BadInput:  # of names that no scan may have
            return False

    for folder in visible_folders(root):
        if folder not in known and any(map(holds_some, (folder, *_places(folder)))):
            raise BadInput(f"{folder}: holds scans, but {what}, or move it away")


def _check_distances(ref: ScanRef, z: NDArray[np.float32], has_valid: bool) -> None:
    """Raise BadInput if the z (N,), metres, of a scan's points are those of another unit, or of other axes."""
    path, unit = ref.paths["xyz"], ref.read.unit
    if not len(z):
        raise BadInput(f"{path}: no valid point in the scan; scan the part again, or remove it")
    middle = float(np.median(z))
    if middle < 0:
        way = (
            "leave out --axes opengl"
            if ref.read.axes == "opengl"
            else "give --axes opengl if y points up as well, else turn the points"
        )
        raise BadInput(f"{path}: the points lie at negative z, but z must point away from the sensor; {way}")
    if middle > _FARTHEST_M or not has_valid:
        raise BadInput(
            f"{path}: distances around {middle:.3g} metres with --unit {unit}; give the unit of the file, --unit m, mm or um"
        )


def _towards_sensor(
    points: Points, xyz: NDArray[np.float32], valid: NDArray[np.bool_], signs: list[int]
) -> tuple[NDArray[np.float32] | None, str]:
    """Return the normals of a file as unit vectors towards the sensor, 0 where there is no point, and a note; None where they lack."""
    if points.normals is None:
        return None, ""
    normals = points.normals * np.array(signs, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(normals, axis=2)
        if not (np.isfinite(length) & (length > 0.1))[valid].all():
            return None, NO_NORMALS
        unit = np.where(valid[..., None], normals / length[..., None], np.float32(0)).astype(np.float32)
    unit[np.einsum("hwk,hwk->hw", unit, xyz) > 0] *= -1
    return unit, ""
