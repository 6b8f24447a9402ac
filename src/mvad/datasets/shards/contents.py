"""Find the categories that can be packed, and count their samples without opening an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvad.datasets import realiad
from mvad.datasets.folders import visible
from mvad.datasets.renders.layout import MANIFEST, category_folder
from mvad.datasets.renders.record import read_manifest
from mvad.datasets.scan import GOOD, SPLITS, UNKNOWN, SampleRef
from mvad.datasets.shards.sources import with_validation
from mvad.errors import BadInput
from mvad.words import check_known


@dataclass(frozen=True)
class SplitCounts:
    """Counts of one split: samples, images, anomalous samples and views.

    ``anomalous_views`` has the number per view; it is empty for renders, whose masks would have to be opened.
    """

    dataset: str
    category: str
    split: str
    samples: int
    images: int
    anomalous: int
    anomalous_views: dict[str, int]


def tasks(
    renders: Path, realiad_raw: Path, datasets: list[str] | None, categories: list[str] | None, splits: str | None = None,
    others: Sequence[tuple[str, str]] = (),
) -> list[tuple[str, str]]:  # fmt: skip
    """Return the (dataset, category) pairs that exist and are selected; None selects all.

    ``splits`` names Real-IAD's folder of split files, see ``realiad.find_splits``; ``others`` are those of other datasets of
    photographs, see ``photographs.sets.registry.set_tasks``.

    Raises
    ------
    BadInput
        If there is none, or a selected category does not exist.
    """
    existing = [(path.parent.parent.name, path.parent.name) for path in visible(renders.glob(f"*/*/{MANIFEST}"), renders)]
    found = realiad.find_splits(realiad_raw, splits) if realiad.NAME in (datasets or [realiad.NAME]) else None
    if found is not None:
        existing += [(realiad.NAME, name) for name in realiad.categories(realiad_raw, found)]
    existing += others
    chosen = [
        (dataset, category)
        for dataset, category in existing
        if (not datasets or dataset in datasets) and (not categories or category in categories)
    ]
    if existing:
        check_known("--dataset", datasets, [dataset for dataset, _ in existing], "they are what is rendered")
        of_datasets = [category for dataset, category in existing if not datasets or dataset in datasets]
        check_known("--category", categories, of_datasets, "they are what is rendered; run mvad render for another")
    missing = set(categories or []) - {category for _, category in chosen}
    if missing or not chosen:
        wanted = ", ".join(sorted(missing)) or "anything"
        raise BadInput(f"{renders}: no renders of {wanted}, nor in {realiad_raw}; run mvad render first, or give --raw")
    return chosen


def count_parts(dataset: str, category: str, parts: Sequence[SampleRef]) -> list[SplitCounts]:
    """Return the counts by split of photographed parts; masks are not opened, so a view is not counted as showing a defect."""
    rows = []
    for split in sorted({part.split for part in parts}, key=SPLITS.index):
        of_split = [part for part in parts if part.split == split]
        anomalous = sum(part.defect not in (GOOD, UNKNOWN) for part in of_split)
        rows.append(
            SplitCounts(dataset, category, split, len(of_split), sum(len(part.views) for part in of_split), anomalous, {})
        )
    return rows


def count(
    renders: Path, realiad_raw: Path, dataset: str, category: str, splits: str | None = None, validation: float = 0.0
) -> list[SplitCounts]:  # fmt: skip
    """Return a category's counts by split, from the JSON (Real-IAD) or the manifest (renders) alone.

    ``splits`` and ``validation`` are those of ``sources.photographed_category``.
    """
    if dataset == realiad.NAME:
        return _photographs(realiad_raw, category, splits, validation)
    return _renders(renders, dataset, category)


def _photographs(raw: Path, category: str, splits: str | None, validation: float) -> list[SplitCounts]:
    listed = realiad.refs(raw, category, realiad.find_splits(raw, splits) or realiad.JSON_FOLDERS[0])
    samples, _ = with_validation(listed, validation)
    rows = []
    for split in sorted({sample.split for sample in samples}, key=SPLITS.index):
        of_split = [sample for sample in samples if sample.split == split]
        anomalous_views = Counter(view.camera for sample in of_split for view in sample.views if view.mask is not None)
        cameras = sorted({view.camera for sample in of_split for view in sample.views}, key=realiad.camera_number)
        images = sum(len(sample.views) for sample in of_split)
        anomalous = sum(any(view.mask is not None for view in sample.views) for sample in of_split)
        rows.append(
            SplitCounts(
                realiad.NAME, category, split, len(of_split), images, anomalous, {name: anomalous_views[name] for name in cameras}
            )
        )
    return rows


def _renders(renders: Path, dataset: str, category: str) -> list[SplitCounts]:
    manifest = read_manifest(category_folder(renders, dataset, category))
    samples, views = manifest["samples"], len(manifest["rig"]["poses"]) if manifest["rig"] else 0
    rows = []
    for split in dict.fromkeys(str(sample["split"]) for sample in samples):
        defects = [sample["defect"] for sample in samples if sample["split"] == split]
        anomalous = sum(defect not in (GOOD, UNKNOWN) for defect in defects)
        rows.append(SplitCounts(dataset, category, split, len(defects), len(defects) * views, anomalous, {}))
    return rows
