"""Reader of Real-IAD D3 (Zhu et al. 2025): a scan and a photograph of each part, in twenty categories.

    <category>/train/GOOD/{rgb/<sample>/*L05*RGB*.jpg, xyz/*.tiff}
    <category>/test/{GOOD,<defect>}/{rgb/<sample>/*L05*RGB*.jpg, xyz/*.tiff, gt/rgb/*.png or gt/*.png}

Of the photographs of a sample, the one under the light L05 is read, as in the authors' loader. Photometric stereo (``ps``) is not
read. A scan is rendered only if its photograph has the size of the scan's grid, since otherwise it is not known which pixel shows
which point. Scans, photographs and masks are paired by name. If the names differ, and there is one of each for every sample, they
are paired in the order of their names, as in the authors' loader, and a note says so. There is no validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.folders import Named, below, by_stem, check_name, visible, visible_folders
from mvad.datasets.images import read_rgb
from mvad.datasets.masks import NO_MASK
from mvad.datasets.mvtec3d import MVTec3D
from mvad.datasets.photographs.pictures import read_header
from mvad.datasets.scan import GOOD, NEW, UNKNOWN, ReadOptions, ScanRef, new_id
from mvad.errors import BadInput

IN_ORDER = "scans, photographs and masks have other names and are paired in the order of their names"

_LIGHT = "*L05*RGB*"
_PICTURES = ("jpg", "jpeg", "png")


class RealIADD3(MVTec3D):
    """Reader of Real-IAD D3."""

    name = "realiadd3"
    licence = "research purposes only, Real-IAD D3 authors"
    known_categories: tuple[str, ...] = (
        "audio_jack_socket", "common_mode_filter", "connector_housing-female", "crimp_st_cable_mount_box", "dc_power_connector",
        "ethernet_connector", "ferrite_bead", "fork_crimp_terminal", "fuse_holder", "headphone_jack_socket", "humidity_sensor",
        "knob-cap", "lattice_block_plug", "lego_pin_connector_plate", "lego_propeller", "limit-switch",
        "miniature_lifting_motor", "power_jack", "purple-clay-pot", "telephone_spring_switch",
    )  # fmt: skip

    def scans_in(self, category: str, split: str, defect: str, folder: Named) -> list[ScanRef]:
        """Return the scans of one folder ``<split>/<defect>``, paired with photographs and masks."""
        place, notes = folder.path, tuple(note for note in folder.notes if not note.endswith("GOOD read as good"))
        scans = {
            name: files.paths["xyz"] for name, files in by_stem(place, {"xyz": ("tiff", "tif")}).items() if "xyz" in files.paths
        }
        samples = visible_folders(place / "rgb")
        for sample in samples:
            check_name(sample)
        masks = next(
            (found for found in (_pictures(place / "gt" / "rgb"), _pictures(place / "gt")) if found), []
        )  # fmt: skip
        pictures, picture_fault, ordered = _paired(scans, samples, "photographs", place)
        marked, mask_fault, masks_ordered = _paired(scans, masks, "masks", place)
        found = []
        for name, xyz in scans.items():
            paths, told = {"xyz": xyz}, (*notes, *((IN_ORDER,) if ordered or (masks and masks_ordered) else ()))
            fault = folder.fault or picture_fault
            if name in pictures:
                paths["rgb"], missing = _photograph(pictures[name])
                fault = fault or missing
            if split == "test" and defect == GOOD and not masks:
                told = (*told, NO_MASK)
            elif split == "test":
                fault = fault or mask_fault
                paths["gt"] = marked.get(name, place / "gt" / "rgb" / f"{name}.png")
            found.append(ScanRef(self.name, category, split, defect, name, paths, told, fault))
        return found

    def new_refs(self, folder: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """See ``ScanReader.new_refs``: every ``xyz/NAME.tiff`` with a photograph in ``rgb/NAME`` beside it."""
        found = []
        for place in sorted({path.parent for path in below(folder) if path.name == "xyz"}):
            for ref in self.scans_in(category, NEW, UNKNOWN, Named(place)):
                name = new_id(place.relative_to(folder), ref.id)
                found.append(ScanRef(self.name, category, NEW, UNKNOWN, name, ref.paths, (), ref.fault))
        return sorted(found)

    def read_colours(self, path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """See ``MVTec3D.read_colours``.

        Raises
        ------
        BadInput
            As there, and if the photograph has another size than the scan's grid.
        """
        header = read_header(path)
        if (header.height, header.width) != shape:
            raise BadInput(
                f"{path}: {header.width} x {header.height} pixels, the scan's grid has {shape[1]} x {shape[0]}: it is not known "
                "which pixel shows which point; give photographs that are registered with the scans"
            )
        return read_rgb(path, shape)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in visible(folder.iterdir()) if path.suffix[1:].lower() in _PICTURES]


def _paired(scans: dict[str, Path], others: Sequence[Path], what: str, place: Path) -> tuple[dict[str, Path], str, bool]:
    """Return a path for each scan by name, why there is none or "", and whether they are paired by order alone."""
    by_name = {path.name if path.is_dir() else path.stem: path for path in others}
    if set(scans) <= set(by_name):
        return {name: by_name[name] for name in scans}, "", False
    if len(others) == len(scans):
        return dict(zip(sorted(scans), sorted(others), strict=True)), "", True
    return {}, f"{place}: {len(scans)} scans and {len(others)} {what} that do not belong together; get the category again", False


def _photograph(folder: Path) -> tuple[Path, str]:
    """Return the photograph of a sample under the light that is read, and why there is none or ""."""
    found = [path for path in visible(folder.glob(_LIGHT)) if path.suffix[1:].lower() in _PICTURES]
    if len(found) == 1:
        return found[0], ""
    return folder / "L05_RGB.jpg", f"{folder}: holds {len(found)} pictures {_LIGHT}.jpg, expected one; get the sample again"
