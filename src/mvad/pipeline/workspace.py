"""Folders of a workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvad.errors import BadInput
from mvad.words import check_known

DEFAULT_WORKSPACE = Path("mvad-data")


@dataclass(frozen=True)
class Workspace:
    """Folder of raw data, renders, shards, runs, weights, textures and reports.

    Attributes
    ----------
    root
        The folder.
    """

    root: Path

    def raw(self, dataset: str) -> Path:
        """Return the folder in which the download of a dataset is expected."""
        return self.root / "raw" / dataset

    @property
    def renders(self) -> Path:
        """Folder of rendered scans."""
        return self.root / "renders"

    @property
    def shards(self) -> Path:
        """Folder of packed samples."""
        return self.root / "shards"

    @property
    def runs(self) -> Path:
        """Folder of trained detectors."""
        return self.root / "runs"

    @property
    def weights(self) -> Path:
        """Folder of teacher weights."""
        return self.root / "weights"

    @property
    def textures(self) -> Path:
        """Folder of DTD's images."""
        return self.root / "textures" / "dtd" / "images"

    @property
    def reports(self) -> Path:
        """Folder of reproduced tables."""
        return self.root / "reports"


def packed_categories(shards: Path, datasets: list[str] | None, categories: list[str] | None) -> list[Path]:
    """Return the folders of packed categories of the given datasets and names; None: all.

    Raises
    ------
    BadInput
        If none is packed.
    UnknownName
        If a given dataset or category is not packed.
    """
    from mvad.datasets.folders import visible  # numpy is no matter of the help

    packed = [path.parent for path in visible(shards.glob("*/*/manifest.json"), shards)]
    if packed:
        remedy = f"they are packed in {shards}; run mvad pack for another"
        check_known("--dataset", datasets, [folder.parent.name for folder in packed], remedy)
        of_datasets = [folder.name for folder in packed if not datasets or folder.parent.name in datasets]
        check_known("--category", categories, of_datasets, remedy)
    chosen = [
        folder
        for folder in packed
        if (not datasets or folder.parent.name in datasets) and (not categories or folder.name in categories)
    ]
    missing = set(categories or []) - {folder.name for folder in chosen}
    if missing or not chosen:
        names = ", ".join(sorted(missing)) or "any category"
        raise BadInput(f"{shards}: {names} is not packed; run mvad pack first, or give --workspace")
    return chosen
