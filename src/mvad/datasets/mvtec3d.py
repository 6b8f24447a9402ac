"""Reader of MVTec 3D-AD as downloaded (Bergmann et al. 2022): xyz TIFF, rgb PNG, gt PNG, paired by name.

    <category>/{train,validation}/good/{xyz/NNN.tiff, rgb/NNN.png}
    <category>/test/<defect>/{xyz/NNN.tiff, rgb/NNN.png, gt/NNN.png}

Coordinates are metres in the sensor's frame, (0, 0, 0) where nothing was measured.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.folders import (
    Named,
    below,
    by_stem,
    category_folders,
    defect_folders,
    holds_data,
    refuse_other_folders,
    split_folders,
)
from mvad.datasets.images import read_rgb, read_xyz
from mvad.datasets.masks import NO_MASK, check_label, read_mask
from mvad.datasets.scan import GOOD, NEW, UNKNOWN, ReadOptions, Scan, ScanRef, new_id
from mvad.errors import BadInput

MIN_DISTANCE_M, MAX_DISTANCE_M = 1e-3, 100.0
"""Range of valid distances; structured-light sensors measure 0.3 to 2 m, so points outside of it are errors of the file."""

_OTHER_UNITS = ((10.0, 1e4, "millimetres", 1000, "mm"), (1e4, 1e7, "micrometres", 1_000_000, "um"))
"""Median distances that are not metres: from, to, the unit, how many are a metre, its name for own scans."""

_SPLITS = {"train": "train", "validation": "validation", "test": "test"}
_PICTURES = ("png", "jpg", "jpeg")
_ENDINGS = {"xyz": ("tiff", "tif"), "rgb": _PICTURES, "gt": _PICTURES}


@dataclass(frozen=True)
class _Group:
    """The scans of one folder ``<split>/<defect>``."""

    category: str
    split: str
    defect: str
    folder: Named


class MVTec3D:
    """Reader of MVTec 3D-AD, and base of readers of datasets in its tree.

    Attributes
    ----------
    mask_folder
        Folder of masks beside ``xyz`` and ``rgb``.
    """

    name = "mvtec3d"
    licence = "CC BY-NC-SA 4.0, MVTec Software GmbH"
    modalities: tuple[str, ...] = ("rgb", "depth")
    known_categories: tuple[str, ...] = (
        "bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire",
    )  # fmt: skip
    mask_folder = "gt"

    def categories(self, raw: Path) -> list[str]:
        """Return the names of folders that hold a folder ``train``, sorted."""
        return [folder.name for folder in category_folders(raw) if "train" in split_folders(folder, {"train": "train"})]

    def refs(self, raw: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return all scans of a category, sorted: each name that any of its folders holds; ``load`` reports what is missing.

        Folders of splits and of good parts under other names are read with a note (``folders``).

        Raises
        ------
        BadInput
            If the category is missing or has no scan, or a folder's name leaves open what its scans are.
        """
        root = raw / category
        if not root.is_dir():
            raise BadInput(f"{root}: not found; --raw must hold <category>/train/good/xyz")
        splits = split_folders(root, _SPLITS)
        refuse_other_folders(root, splits, "*/xyz")
        found = []
        for split, named in splits.items():
            if (named.path / "xyz").is_dir():
                raise BadInput(f"{named.path / 'xyz'}: expected {named.path.name}/good/xyz, or the defect's name for good")
            for defect, folder in defect_folders(named, only_good=split != "test"):
                scans = self.scans_in(category, split, defect, folder)
                if not scans and holds_data(folder.path):
                    raise BadInput(
                        f"{folder.path}: holds files, but no scan; expected {folder.path.name}/xyz/*.tiff and the like"
                    )
                found += scans
        if not found:
            raise BadInput(f"{root}: no scan found; expected train/good/xyz/*.tiff")
        return sorted(found)

    def new_refs(self, folder: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """See ``ScanReader.new_refs``: every ``xyz/NAME.tiff`` with ``rgb/NAME.png`` beside it."""
        found = []
        places = {path.parent for path in below(folder) if path.name in ("xyz", "rgb")}
        for place in sorted(places):
            for ref in self.scans_in(category, NEW, UNKNOWN, Named(place)):
                paths = {kind: path for kind, path in ref.paths.items() if kind != "gt"}
                name = new_id(place.relative_to(folder), ref.id)
                found.append(ScanRef(self.name, category, NEW, UNKNOWN, name, paths, (), ref.fault))
        return sorted(found)

    def scans_in(self, category: str, split: str, defect: str, folder: Named) -> list[ScanRef]:
        """Return the scans of one folder ``<split>/<defect>``; files that are missing have the path where they were expected."""
        return _scans(self.name, _Group(category, split, defect, folder), self.mask_folder)

    def read_colours(self, path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Read the colours (H, W, 3) uint8 of a scan whose grid has ``shape`` (H, W); see ``images.read_rgb``."""
        return read_rgb(path, shape)

    def load(self, ref: ScanRef) -> Scan:
        """Read one scan. Missing points are (0, 0, 0) or not finite; what the mask marks: ``masks.RULE``.

        Raises
        ------
        BadInput
            If a file is missing, damaged or of another size, the scan has no valid point, or its mask contradicts its label.
        """
        if ref.fault:
            raise BadInput(ref.fault)
        xyz = read_xyz(ref.paths["xyz"])
        shape = xyz.shape[:2]
        # A comparison with NaN is false, so one test per channel checks both finiteness and range.
        x, y, z = (np.abs(xyz[..., k]) < MAX_DISTANCE_M for k in range(3))
        valid = x & y & z & (xyz[..., 2] > MIN_DISTANCE_M)
        _check_unit(ref.paths["xyz"], xyz)
        if not valid.any():
            raise BadInput(f"{ref.paths['xyz']}: no valid point in the scan; download it again")
        rgb = self.read_colours(ref.paths["rgb"], shape)
        gt: NDArray[np.bool_] | None = None
        notes: tuple[str, ...] = ()
        if "gt" in ref.paths:
            gt, notes = read_mask(ref.paths["gt"], shape)
            if ref.defect != UNKNOWN:
                notes += check_label(ref.paths["gt"], gt, ref.defect == GOOD)
        xyz[~valid] = 0
        return Scan(xyz, valid, rgb, gt, notes=notes)


def ref_beside(xyz: Path) -> ScanRef:
    """Return the scan of one ``xyz/NAME.tiff`` with ``rgb/NAME.png`` and, where there is one, ``gt/NAME.png`` beside it."""
    xyz = Path(os.path.abspath(xyz))  # a name alone has no folders above it
    scans = _scans(MVTec3D.name, _Group("", NEW, UNKNOWN, Named(xyz.parent.parent)))
    paths = {"xyz": xyz, "rgb": xyz.parent.parent / "rgb" / f"{xyz.stem}.png"}
    return next((ref for ref in scans if ref.paths["xyz"] == xyz), ScanRef(MVTec3D.name, "", NEW, UNKNOWN, xyz.stem, paths))


def _scans(dataset: str, group: _Group, mask_folder: str = "gt") -> list[ScanRef]:
    """Return the scans of a folder; files that are missing have the path where they were expected."""
    found, place = [], group.folder.path
    endings = {mask_folder if kind == "gt" else kind: accepted for kind, accepted in _ENDINGS.items()}
    for name, files in by_stem(place, endings).items():
        paths, notes = {"gt" if kind == mask_folder else kind: path for kind, path in files.paths.items()}, group.folder.notes
        for kind, ending in (("xyz", "tiff"), ("rgb", "png")):
            paths.setdefault(kind, place / kind / f"{name}.{ending}")
        if "gt" not in paths and group.split == "test":
            if group.defect == GOOD:
                notes = (*notes, NO_MASK)
            else:
                paths["gt"] = place / mask_folder / f"{name}.png"
        found.append(
            ScanRef(dataset, group.category, group.split, group.defect, name, paths, notes, group.folder.fault or files.fault)
        )
    return found


def _check_unit(path: Path, xyz: NDArray[np.float32]) -> None:
    """Raise BadInput if the distances (H, W, 3) of a scan are those of a smaller unit than metres."""
    z = xyz[::2, ::2, 2]
    measured = z[np.isfinite(z) & (z > MIN_DISTANCE_M)]
    if not measured.size:
        return
    middle = float(np.median(measured))
    for low, high, unit, per_metre, name in _OTHER_UNITS:
        if low < middle <= high:
            raise BadInput(
                f"{path}: distances around {middle:.0f} are {unit}, not metres; divide the points by {per_metre}, or render own scans with "
                f"mvad render folder --unit {name}"
            )
