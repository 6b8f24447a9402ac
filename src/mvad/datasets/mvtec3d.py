"""MVTec 3D-AD as downloaded (Bergmann et al. 2022): xyz TIFF, rgb PNG, gt PNG, paired by name.

<category>/{train,validation}/good/{xyz/NNN.tiff, rgb/NNN.png}
<category>/test/<defect>/{xyz/NNN.tiff, rgb/NNN.png, gt/NNN.png}
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvad.datasets.images import read_gray, read_rgb, read_xyz
from mvad.datasets.scan import NEW, UNKNOWN, ReadOptions, Scan, ScanRef, new_id
from mvad.errors import BadInput

MIN_DISTANCE_M, MAX_DISTANCE_M = 1e-3, 100.0
"""A structured-light sensor of this field measures 0.3 to 2 m; a point outside of this is a fault of the file."""


class MVTec3D:
    """Reader of MVTec 3D-AD."""

    name = "mvtec3d"
    licence = "CC BY-NC-SA 4.0, MVTec Software GmbH"
    modalities: tuple[str, ...] = ("rgb", "depth")
    known_categories: tuple[str, ...] = (
        "bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire",
    )  # fmt: skip

    def categories(self, raw: Path) -> list[str]:
        """Return the folders that look like a category."""
        return sorted(folder.name for folder in raw.iterdir() if (folder / "train").is_dir())

    def refs(self, raw: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return every scan of a category, sorted; a scan whose files do not pair is an error.

        Raises
        ------
        BadInput
            If the category or one file of a pair is missing.
        """
        root = raw / category
        if not root.is_dir():
            raise BadInput(f"{root}: not found; --raw must hold <category>/train/good/xyz")
        found = []
        for split in ("train", "validation", "test"):
            for xyz in sorted(root.glob(f"{split}/*/xyz/*.tiff")):
                defect = xyz.parent.parent.name
                paths = {"xyz": xyz, "rgb": xyz.parent.parent / "rgb" / f"{xyz.stem}.png"}
                if split == "test":
                    paths["gt"] = xyz.parent.parent / "gt" / f"{xyz.stem}.png"
                found.append(ScanRef(self.name, category, split, defect, xyz.stem, paths))
        if not found:
            raise BadInput(f"{root}: no scan found; expected train/good/xyz/*.tiff")
        return sorted(found)

    def new_refs(self, folder: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """See ``ScanReader.new_refs``: every ``xyz/NAME.tiff`` with ``rgb/NAME.png`` beside it."""
        found = []
        for xyz in sorted(folder.rglob("xyz/*.tiff")):
            paths = {"xyz": xyz, "rgb": xyz.parent.parent / "rgb" / f"{xyz.stem}.png"}
            found.append(
                ScanRef(self.name, category, NEW, UNKNOWN, new_id(xyz.parent.parent.relative_to(folder), xyz.stem), paths)
            )
        return sorted(found)

    def load(self, ref: ScanRef) -> Scan:
        """Decode one scan. Missing points are (0, 0, 0) or not finite; gt is anomalous where > 0.

        Raises
        ------
        BadInput
            If a file is missing, damaged, of another size, or has no usable point.
        """
        xyz = read_xyz(ref.paths["xyz"])
        shape = xyz.shape[:2]
        # A comparison with what is not a number is false, so one test a channel says finite and near.
        x, y, z = (np.abs(xyz[..., k]) < MAX_DISTANCE_M for k in range(3))
        valid = x & y & z & (xyz[..., 2] > MIN_DISTANCE_M)
        if not valid.any():
            raise BadInput(f"{ref.paths['xyz']}: no valid point in the scan; download it again")
        rgb = read_rgb(ref.paths["rgb"], shape)
        gt = read_gray(ref.paths["gt"], shape) > 0 if "gt" in ref.paths else None
        xyz[~valid] = 0
        return Scan(xyz, valid, rgb, gt)
