"""Raw scans as their category was rendered, for evaluation on them."""

from __future__ import annotations

from pathlib import Path

from mvad.datasets.own.options import OwnScanOptions
from mvad.datasets.registry import RawScans
from mvad.datasets.renders.layout import RIG, category_folder
from mvad.datasets.scan import SPLITS, ReadOptions
from mvad.errors import BadInput
from mvad.render.job import recorded_cameras


def raw_scans(dataset: str, raw: Path, category: str, renders: Path) -> RawScans:
    """Return the raw scans of a category, own scans read as its renders record, where there are renders.

    Raises
    ------
    BadInput
        If there is no reader of the dataset, the category is missing, or it holds meshes, on which maps cannot be evaluated.
    """
    folder = category_folder(renders, dataset, category)
    own = recorded_cameras(folder)[0].read if (folder / RIG).exists() else OwnScanOptions()
    scans = RawScans(dataset, raw, category, ReadOptions(own=own))
    if any(ref.read.kind == "mesh" for split in SPLITS for ref in scans.of_split(split)):
        raise BadInput(
            f"{raw / category}: holds meshes, whose faces are no grid to evaluate maps on; leave out --project-to-scan and --maps"
        )
    return scans
