"""What there is to pack: categories found, and their counts without opening an image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mvad.datasets import realiad
from mvad.datasets.renders.layout import MANIFEST, category_folder
from mvad.datasets.renders.record import read_manifest
from mvad.errors import BadInput


def tasks(renders: Path, realiad_raw: Path, datasets: list[str] | None, categories: list[str] | None) -> list[tuple[str, str]]:
    """Return (dataset, category) pairs that are found and wanted, sorted.

    Raises
    ------
    BadInput
        If nothing is found, or a category that was named is not.
    """
    found = [(path.parent.parent.name, path.parent.name) for path in sorted(renders.glob(f"*/*/{MANIFEST}"))]
    if (realiad_raw / realiad.JSON_FOLDERS[0]).is_dir():
        found += [(realiad.NAME, name) for name in realiad.categories(realiad_raw)]
    chosen = [
        (dataset, category)
        for dataset, category in found
        if (not datasets or dataset in datasets) and (not categories or category in categories)
    ]
    missing = set(categories or []) - {category for _, category in chosen}
    if missing or not chosen:
        wanted = ", ".join(sorted(missing)) or "anything"
        raise BadInput(f"{renders}: no renders of {wanted}, nor in {realiad_raw}; run mvad render first, or give --raw")
    return chosen


def realiad_table(raw: Path, category: str) -> list[str]:
    """Return lines of counts by split: samples, images, anomalous views by camera."""
    lines = []
    samples = realiad.refs(raw, category)
    for split in ("train", "test"):
        of_split = [sample for sample in samples if sample.split == split]
        bad = Counter(v.camera for s in of_split for v in s.views if v.mask is not None)
        images = sum(len(sample.views) for sample in of_split)
        anomalous = sum(any(view.mask is not None for view in sample.views) for sample in of_split)
        views = ", ".join(f"{camera} {bad[camera]}" for camera in sorted({v.camera for s in of_split for v in s.views}))
        lines.append(
            f"realiad/{category} {split}: {len(of_split)} samples, {images} images, {anomalous} anomalous samples; by view: {views}"
        )
    return lines


def render_table(renders: Path, dataset: str, category: str) -> list[str]:
    """Return lines of counts by split and defect."""
    manifest = read_manifest(category_folder(renders, dataset, category))
    counts = Counter((sample["split"], sample["defect"]) for sample in manifest["samples"])
    return [f"{dataset}/{category} {split}: {defect} {count}" for (split, defect), count in sorted(counts.items())]
