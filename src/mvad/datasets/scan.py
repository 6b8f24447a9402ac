"""Types of raw data: reference to a scan, scan, reader of a dataset, photographed multi-view sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.own.options import OwnScanOptions, ReadOptions

__all__ = [
    "GOOD", "NEW", "NO_POSE", "SPLITS", "UNKNOWN", "ImageRef", "Mesh", "ReadOptions", "SampleRef", "Scan", "ScanReader", "ScanRef", "ScanSource",
    "new_id",
]  # fmt: skip

SPLITS = ("train", "validation", "test", "private")
"""Splits in reading order. ``private`` has no labels (Eyecandies' test_private)."""

NEW = "new"
"""Split of scans that are not part of a dataset (``mvad predict``)."""

NO_POSE = -1
"""Pose number of a scan that fits no stable pose of its category well."""

GOOD = "good"
UNKNOWN = "unknown"


@dataclass(frozen=True, order=True)
class ScanRef:
    """Reference to a scan, without its arrays.

    Attributes
    ----------
    dataset, category, split, defect, id
        Identity of the scan; only these fields are compared.
    paths
        The scan's files by kind (``xyz``, ``rgb``, ``gt``, ...).
    notes
        Decisions of the reader about the scan that users should know, one line each; recorded with its render.
    fault
        Reason why the scan cannot be read, which ``ScanReader.load`` raises; "" if it can be read.
    read
        How the file is read, if it is a user's own scan.
    group
        The physical part that the scan shows, for datasets with several scans of a part; "" if it is not known.
    """

    dataset: str
    category: str
    split: str
    defect: str
    id: str
    paths: dict[str, Path] = field(compare=False, hash=False, default_factory=dict)
    notes: tuple[str, ...] = field(compare=False, default=())
    fault: str = field(compare=False, default="")
    read: OwnScanOptions = field(compare=False, hash=False, default_factory=OwnScanOptions)
    group: str = field(compare=False, default="")

    @property
    def key(self) -> str:
        """``category/split/defect/id``, unique in a dataset; also the path of the scan's folder in the renders."""
        return f"{self.category}/{self.split}/{self.defect}/{self.id}"


@dataclass(frozen=True)
class Mesh:
    """The F triangles of a mesh, metres, in the frame of ``Scan``.

    Attributes
    ----------
    corners
        (F, 3, 3) float32, the three corners of each face in the order of the file.
    normals
        (F, 3, 3) float32 unit vectors at the corners, outwards; averaged over neighbouring faces, but not across creases.
    colors
        (F, 3, 3) uint8.
    """

    corners: NDArray[np.float32]
    normals: NDArray[np.float32]
    colors: NDArray[np.uint8]


@dataclass(frozen=True)
class Scan:
    """An organised scan in the sensor's camera frame (x right, y down, z away from the sensor), or a mesh.

    A mesh has a grid of its faces: face f, counted from 0 in the order of the file, is the grid point (f // W, f % W). There,
    ``xyz`` is the middle of the face; the unused rest of the last row is not valid. The frame of a mesh is that of the file, rotated
    by half a turn about x, so that the file's +z points to the sensor: (x, y, z) becomes (x, -y, -z).

    Attributes
    ----------
    xyz
        (H, W, 3) float32, metres (Eyecandies: the file's own unit); 0 where ``valid`` is false.
    valid
        (H, W) bool, true where the sensor returned a finite point in front of it.
    rgb
        (H, W, 3) uint8, registered with ``xyz``.
    gt
        (H, W) bool, true on the defect, or None if there is no ground truth.
    normals
        (H, W, 3) float32 unit vectors in the camera frame, pointing to the sensor, or None.
    pose_camera_to_world
        (4, 4) float64 from the camera frame above to the dataset's world, or None.
    notes
        Decisions made in reading the scan, one line each, as in ``ScanRef.notes``.
    mesh
        The triangles of a mesh, or None for an organised scan.
    """

    xyz: NDArray[np.float32]
    valid: NDArray[np.bool_]
    rgb: NDArray[np.uint8]
    gt: NDArray[np.bool_] | None = None
    normals: NDArray[np.float32] | None = None
    pose_camera_to_world: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()
    mesh: Mesh | None = None


def new_id(folder: Path, name: str) -> str:
    """Return the id of a new scan: its path relative to the given folder, which is what a user knows it by."""
    return "/".join((*folder.parts, name))


class ScanReader(Protocol):
    """Reader of a dataset of organised scans.

    Attributes
    ----------
    name
        Name of the dataset in commands, and of the folders of its renders and shards.
    licence
        Licence of the dataset, and of everything that is made from it.
    modalities
        Modalities that detectors use by default, out of rgb, depth and normal.
    known_categories
        Published categories; others are rendered with a notice. Empty: no category causes a notice.
    """

    name: str
    licence: str
    modalities: tuple[str, ...]
    known_categories: tuple[str, ...]

    def categories(self, raw: Path) -> list[str]:
        """Return the categories in the folder ``raw``, sorted."""

    def refs(self, raw: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return all scans of a category, sorted by key."""

    def new_refs(self, folder: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return all scans in a folder (searched recursively), sorted, as new scans of split ``new`` without labels."""

    def load(self, ref: ScanRef) -> Scan:
        """Read one scan."""


class ScanSource(Protocol):
    """Raw scans of a category, by key; implemented by ``registry.RawScans``."""

    dataset: str
    category: str

    def of_split(self, split: str) -> list[ScanRef]:
        """Return the scans of a split, sorted by key."""

    def load(self, key: str) -> Scan:
        """Read one scan."""


@dataclass(frozen=True)
class Tile:
    """Place of a view in a montage: its number, row by row, in a grid of ``columns`` x ``rows`` equal parts."""

    number: int
    columns: int
    rows: int


@dataclass(frozen=True)
class ImageRef:
    """One view of a photographed sample; the camera is taken from a name, not from the position in a list.

    Attributes
    ----------
    camera
        Name of the camera, or of the view.
    image, mask, depth, normal
        Files of the view; None where it has none.
    anomaly_class
        What the view shows: the dataset's word for good parts, or the defect.
    tile
        Which part of the files is the view; None: all of them.
    more_masks
        Further masks of the view, which are united with ``mask``.
    """

    camera: str
    image: Path
    mask: Path | None
    anomaly_class: str
    depth: Path | None = None
    normal: Path | None = None
    tile: Tile | None = None
    more_masks: tuple[Path, ...] = ()

    @property
    def masks(self) -> tuple[Path, ...]:
        """Its masks, which are united."""
        return (*(() if self.mask is None else (self.mask,)), *self.more_masks)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files: picture, masks, depth, normals."""
        return tuple(path for path in (self.image, *self.masks, self.depth, self.normal) if path is not None)


@dataclass(frozen=True, order=True)
class SampleRef:
    """A photographed multi-view sample: the views of one object.

    Attributes
    ----------
    dataset, category, split, defect, id
        What it is; only these are compared.
    views
        Its views.
    group
        Samples of one group (one part, one batch, one day) are not divided between splits; "": the sample is its own group.
    notes
        What was decided in finding it, one line each.
    fault
        Why it cannot be read, or "".
    """

    dataset: str
    category: str
    split: str
    defect: str
    id: str
    views: Sequence[ImageRef] = field(compare=False, hash=False, default=())
    group: str = field(compare=False, default="")
    notes: tuple[str, ...] = field(compare=False, default=())
    fault: str = field(compare=False, default="")

    @property
    def key(self) -> str:
        """``category/split/defect/id``, unique in a dataset."""
        return f"{self.category}/{self.split}/{self.defect}/{self.id}"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, each once."""
        return tuple(dict.fromkeys(path for view in self.views for path in view.paths))
