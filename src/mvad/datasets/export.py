"""Export of views as folders of PNG for other tools, with a table that maps each picture to its sample.

Two layouts, both with one folder per view, described in ``docs/exchange.md``:

    mvtec-ad    train/good, test/<defect>, ground_truth/<defect>/..._mask.png (MVTec AD, Bergmann et al. 2019)
    anomalib    normal, normal_test, abnormal, mask: input of its ``Folder``; ``samples.csv`` is input of its ``Tabular``
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from mvad import files
from mvad.datasets.exported import COLUMNS, FACTS, TABLE, read_export
from mvad.datasets.renders.layout import RIG
from mvad.datasets.scan import GOOD
from mvad.datasets.shards.reader import ShardFile, read_manifest
from mvad.datasets.shards.schema import MANIFEST, MODALITIES, Sample
from mvad.datasets.shards.sources import rendered_category
from mvad.errors import BadInput
from mvad.progress import Progress
from mvad.words import no_such

_SPLITS = {"train": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class _Place:
    """Paths of one view of a sample, relative to the view's folder; ``mask`` is empty where the view shows no defect."""

    image: str
    mask: str


def _mvtec_ad(split: str, defect: str, bad: bool, name: str) -> _Place:
    kind = defect if bad else GOOD
    return _Place(f"{split}/{kind}/{name}.png", f"ground_truth/{defect}/{name}_mask.png" if bad else "")


def _anomalib(split: str, defect: str, bad: bool, name: str) -> _Place:
    folder = "abnormal" if bad else {"train": "normal", "validation": "validation"}.get(split, "normal_test")
    return _Place(f"{folder}/{name}.png", f"mask/{name}.png" if bad else "")


LAYOUTS: dict[str, Callable[[str, str, bool, str], _Place]] = {"mvtec-ad": _mvtec_ad, "anomalib": _anomalib}


@dataclass(frozen=True)
class ExportSource:
    """A category to be exported: number and iterator of its samples, and hashes of the files they are read from."""

    dataset: str
    category: str
    licence: str
    views: list[str]
    samples: int
    origin: dict[str, str]
    each: Callable[[], Iterator[tuple[str, Sample]]]
    """Returns an iterator of (split, sample)."""


def source_of(folder: Path) -> ExportSource:
    """Return the samples of a packed or rendered category as a source for ``export``.

    Raises
    ------
    BadInput
        If the folder is not a packed or rendered category, or is damaged.
    """
    folder = Path(os.path.abspath(folder))
    if (folder / RIG).exists():
        category = rendered_category(folder.parents[1], folder.parent.name, folder.name)

        def rendered() -> Iterator[tuple[str, Sample]]:
            for source in category.sources:
                yield source.split, source.read()[0]

        origin = {MANIFEST: files.sha256_file(folder / MANIFEST)}
        return ExportSource(
            category.dataset, category.category, category.licence, category.views, len(category.sources), origin, rendered
        )
    manifest = read_manifest(folder)
    entries = manifest["shards"]

    def packed() -> Iterator[tuple[str, Sample]]:
        for entry in entries:
            shard = ShardFile(files.inside(folder, entry["file"]), entry["sha256"])
            for row in range(len(shard)):
                yield entry["split"], shard.sample(row)

    return ExportSource(
        manifest["dataset"], manifest["category"], manifest["licence"], manifest["views"],
        sum(entry["samples"] for entry in entries), {entry["file"]: entry["sha256"] for entry in entries}, packed,
    )  # fmt: skip


def export(source: ExportSource, target: Path, layout: str, modality: str, progress: Progress) -> Path:
    """Write a category to ``target/<dataset>/<category>``; after an error or interruption the folder does not exist.

    A view of a defective sample that does not show the defect is exported as good, by its view label. Missing views are left
    out, and so is the split without labels (Eyecandies' private split).

    Parameters
    ----------
    source
        Category, see ``source_of``.
    target
        Folder of the exports.
    layout
        mvtec-ad or anomalib.
    modality
        rgb, normal, or depth (8 bits, near is bright, over the category's coded range).
    progress
        Receives one step per sample.

    Raises
    ------
    BadInput
        If the layout is unknown, the category does not have the modality, or the folder holds another export.
    """
    if layout not in LAYOUTS:
        raise no_such("--layout", layout, LAYOUTS)
    if modality not in MODALITIES:
        raise no_such("--modality", modality, MODALITIES)
    folder = target / source.dataset / source.category
    facts = {
        "layout": layout, "modality": modality, "dataset": source.dataset, "category": source.category, "views": source.views,
        "licence": source.licence, "made_from": source.origin,
    }  # fmt: skip
    with files.locked(folder.parent):
        if folder.exists():
            if read_export(folder) != facts:
                raise BadInput(f"{folder}: holds another export; remove it, or give another --out")
            return folder
        progress.start(f"export {source.category}", source.samples)
        tables: dict[str, list[dict[str, object]]] = {view: [] for view in source.views}
        with files.whole_folder(folder) as part:
            for split, sample in source.each():
                if split in _SPLITS:
                    _write(part, split, sample, source.views, LAYOUTS[layout], modality, tables)
                progress.advance()
            for view, rows in tables.items():
                if rows:
                    files.write_new(part / view / TABLE, _csv(rows))
            files.write_new(part / FACTS, files.sealed(facts))
    return folder


def _write(
    part: Path, split: str, sample: Sample, views: list[str], place_of: Callable[[str, str, bool, str], _Place], modality: str,
    tables: dict[str, list[dict[str, object]]],
) -> None:  # fmt: skip
    images = getattr(sample, modality)
    if images is None:
        raise BadInput(f"{sample.key}: has no {modality}; choose another --modality")
    name = "_".join(sample.key.split("/")[2:])
    for k, view in enumerate(views):
        if not sample.present[k]:
            continue
        bad = bool(sample.view_label[k])
        place = place_of(split, sample.defect, bad, name)
        picture = files.below(part, view, *place.image.split("/"))
        picture.parent.mkdir(parents=True, exist_ok=True)
        if picture.exists():
            raise BadInput(
                f"{sample.key}: its picture would have the name of another sample's, {place.image}; rename one of the two"
            )
        files.write_new(picture, _png(_coloured(images[k], modality)))
        if bad:
            mask = files.below(part, view, *place.mask.split("/"))
            mask.parent.mkdir(parents=True, exist_ok=True)
            files.write_new(mask, _png(sample.mask[k] * np.uint8(255)))
        row = (place.image, int(bad), _SPLITS[split], place.mask, sample.key, view, sample.defect, sample.label)
        tables[view].append(dict(zip(COLUMNS, row, strict=True)))


def _coloured(image: NDArray[Any], modality: str) -> NDArray[np.uint8]:
    if modality != "depth":
        return image
    near_is_bright = (65535 - image.astype(np.float64)) * (254 / 65534) + 1
    gray = np.where(image > 0, np.rint(near_is_bright), 0).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


def _png(image: NDArray[np.uint8]) -> bytes:
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(image), level=3))


def _csv(rows: list[dict[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: str(row["image_path"])))
    return text.getvalue().encode()
