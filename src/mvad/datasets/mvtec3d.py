"""Reader of MVTec 3D-AD as downloaded (Bergmann et al. 2022): xyz TIFF, rgb PNG, gt PNG, paired by name.

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
"""Range of valid distances; structured-light sensors measure 0.3 to 2 m, so points outside of it are errors of the file."""


class MVTec3D:
    """Reader of MVTec 3D-AD."""

    name = "mvtec3d"
    licence = "CC BY-NC-SA 4.0, MVTec Software GmbH"
    modalities: tuple[str, ...] = ("rgb", "depth")
    known_categories: tuple[str, ...] = (
        "bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire",
    )  # fmt: skip

    def categories(self, raw: Path) -> list[str]:
        """Return the names of folders that hold a folder ``train``, sorted."""
        return sorted(folder.name for folder in raw.iterdir() if (folder / "train").is_dir())

    def refs(self, raw: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return all scans of a category, sorted; files that are missing are reported by ``load``.

        Raises
        ------
        BadInput
            If the category is missing or has no scan.
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
        """Read one scan. Missing points are (0, 0, 0) or not finite; ground truth is anomalous where > 0.

        Raises
        ------
        BadInput
            If a file is missing, damaged or of another size, or the scan has no valid point.
        """
        xyz = read_xyz(ref.paths["xyz"])
        shape = xyz.shape[:2]
        # A comparison with NaN is false, so one test per channel checks both finiteness and range.
        x, y, z = (np.abs(xyz[..., k]) < MAX_DISTANCE_M for k in range(3))
        valid = x & y & z & (xyz[..., 2] > MIN_DISTANCE_M)
        if not valid.any():
            raise BadInput(f"{ref.paths['xyz']}: no valid point in the scan; download it again")
        rgb = read_rgb(ref.paths["rgb"], shape)
        gt = read_gray(ref.paths["gt"], shape) > 0 if "gt" in ref.paths else None
        xyz[~valid] = 0
        return Scan(xyz, valid, rgb, gt)
