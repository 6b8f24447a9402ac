"""The nouns of the raw side: a light reference to a scan, the scan itself, and a multi-view sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test", "private")
"""Splits in reading order. ``private`` has no labels (Eyecandies' test_private)."""

NEW = "new"
"""What scans belong to that are no part of a dataset (``mvad predict``)."""

GOOD = "good"
UNKNOWN = "unknown"


@dataclass(frozen=True, order=True)
class ScanRef:
    """Where one scan is and what is known about it without opening its arrays.

    ``paths`` maps a kind (``xyz``, ``rgb``, ``gt``, ...) to a file; it does not take part in ordering.
    """

    dataset: str
    category: str
    split: str
    defect: str
    id: str
    paths: dict[str, Path] = field(compare=False, hash=False, default_factory=dict)

    @property
    def key(self) -> str:
        """``category/split/defect/id``: unique in a dataset, and the scan's folder among the renders."""
        return f"{self.category}/{self.split}/{self.defect}/{self.id}"


@dataclass(frozen=True)
class Scan:
    """An organised scan in the sensor's camera frame (x right, y down, z away from the sensor).

    Attributes
    ----------
    xyz
        (H, W, 3) float32, metres (Eyecandies: the file's own unit); 0 where ``valid`` is false.
    valid
        (H, W) bool, true where the sensor returned a finite point in front of it.
    rgb
        (H, W, 3) uint8, registered with ``xyz``.
    gt
        (H, W) bool, true on the defect, or None where no ground truth exists.
    normals
        (H, W, 3) float32 unit vectors in the camera frame, turned to the sensor, or None.
    pose_camera_to_world
        (4, 4) float64 from the camera frame above to the dataset's world, or None.
    """

    xyz: NDArray[np.float32]
    valid: NDArray[np.bool_]
    rgb: NDArray[np.uint8]
    gt: NDArray[np.bool_] | None = None
    normals: NDArray[np.float32] | None = None
    pose_camera_to_world: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may be told. ``light`` is the Eyecandies image number (M3DM and successors use 4)."""

    light: int = 4


def new_id(folder: Path, name: str) -> str:
    """Return the id of a new scan: its place below the folder that was given, as one name."""
    return "-".join((*folder.parts, name))


class ScanReader(Protocol):
    """A dataset of organised scans.

    Attributes
    ----------
    name
        What commands call it; also the folder of its renders and shards.
    licence
        Licence text that goes with everything made from it.
    modalities
        Inputs that detectors take by default, of rgb, depth and normal.
    known_categories
        Published categories; another one is rendered all the same, with a notice. Empty: any.
    """

    name: str
    licence: str
    modalities: tuple[str, ...]
    known_categories: tuple[str, ...]

    def categories(self, raw: Path) -> list[str]:
        """Return the categories found under ``raw``, sorted."""

    def refs(self, raw: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return every scan of a category, sorted by key."""

    def new_refs(self, folder: Path, category: str, options: ReadOptions) -> list[ScanRef]:
        """Return every scan anywhere below a folder, sorted: new ones, of split ``new``, of which nothing else is known."""

    def load(self, ref: ScanRef) -> Scan:
        """Decode one scan."""


class ScanSource(Protocol):
    """The raw scans of one category, by key; ``registry.RawScans`` is one."""

    dataset: str
    category: str

    def of_split(self, split: str) -> list[ScanRef]:
        """Return the scans of a split, sorted by key."""

    def load(self, key: str) -> Scan:
        """Decode one scan."""


@dataclass(frozen=True)
class ImageRef:
    """One view of a photographed sample: its camera from the file's name, never from its place in a list."""

    camera: str
    image: Path
    mask: Path | None
    anomaly_class: str


@dataclass(frozen=True, order=True)
class SampleRef:
    """A photographed multi-view sample (Real-IAD): a folder of views that share one object."""

    dataset: str
    category: str
    split: str
    defect: str
    id: str
    views: Sequence[ImageRef] = field(compare=False, hash=False, default=())

    @property
    def key(self) -> str:
        """``category/split/defect/id``, the id being the sample's folder, as numbers repeat across classes."""
        return f"{self.category}/{self.split}/{self.defect}/{self.id}"
