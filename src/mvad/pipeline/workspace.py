"""Where a workspace keeps things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvad.errors import BadInput

DEFAULT_WORKSPACE = Path("mvad-data")


@dataclass(frozen=True)
class Workspace:
    """A folder for everything: raw data, renders, shards, runs, weights, textures, reports.

    Attributes
    ----------
    root
        The folder.
    """

    root: Path

    def raw(self, dataset: str) -> Path:
        """Return where a dataset's download is expected."""
        return self.root / "raw" / dataset

    @property
    def renders(self) -> Path:
        """Rendered scans."""
        return self.root / "renders"

    @property
    def shards(self) -> Path:
        """Packed samples."""
        return self.root / "shards"

    @property
    def runs(self) -> Path:
        """Trained detectors."""
        return self.root / "runs"

    @property
    def weights(self) -> Path:
        """Teacher weights."""
        return self.root / "weights"

    @property
    def textures(self) -> Path:
        """DTD's images."""
        return self.root / "textures" / "dtd" / "images"

    @property
    def reports(self) -> Path:
        """Reproduced tables."""
        return self.root / "reports"


def packed_categories(shards: Path, datasets: list[str] | None, categories: list[str] | None) -> list[Path]:
    """Return the folders of packed categories that were asked for, or all.

    Raises
    ------
    BadInput
        If there is none, or one that was named is missing.
    """
    found = sorted(path.parent for path in shards.glob("*/*/manifest.json"))
    chosen = [
        folder
        for folder in found
        if (not datasets or folder.parent.name in datasets) and (not categories or folder.name in categories)
    ]
    missing = set(categories or []) - {folder.name for folder in chosen}
    if missing or not chosen:
        wanted = ", ".join(sorted(missing)) or "any category"
        raise BadInput(f"{shards}: {wanted} is not packed; run mvad pack first, or give --workspace")
    return chosen
