"""Generated parts in the format of Real-IAD Variety: PNG by five cameras, JSON splits of Real-IAD's form, nested as unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvad import files
from mvad.datasets.photographs.sets.realiadvariety import IMAGE_FOLDERS, JSON_FOLDERS
from mvad.datasets.realiad import NORMAL_CLASS
from mvad.datasets.scan import GOOD
from mvad.datasets.synth.folder import in_fixture
from mvad.datasets.synth.format import Format
from mvad.datasets.synth.one_view import as_mask, as_png
from mvad.datasets.synth.plan import PlannedSample
from mvad.datasets.synth.realiad import CLASS_OF, DEFECTS, photograph, shown_in

_TRAIN_FROM = 5000
_MASK = "_mask.png"


def write(sample: PlannedSample, root: Path, size: int) -> None:
    """Write one part's pictures of 4 / 3 ``size`` x ``size`` pixels, and its masks, below the category's folder ``root``."""
    pictures, masks = photograph(in_fixture(sample), size, 4 * size // 3)
    number = sample.number + (0 if sample.split == "test" else _TRAIN_FROM)
    kind = CLASS_OF.get(sample.defect, NORMAL_CLASS)
    folder = root / (NORMAL_CLASS if sample.defect == GOOD else f"NG/{kind}") / f"S{number:04d}"
    for view, (picture, mask, shown) in enumerate(zip(pictures, masks, shown_in(masks), strict=True)):
        stem = f"{root.name}_{number:04d}_{'OK' if sample.defect == GOOD else f'NG_{kind}'}_C{view + 1}_20260101000000"
        files.write_bytes(folder / f"{stem}.png", as_png(picture))
        if shown and sample.defect != GOOD:
            files.write_bytes(folder / f"{stem}{_MASK}", as_mask(mask))


def write_category(root: Path, size: int) -> None:
    """Write the JSON split for the existing files; pictures that show no defect have their sample's class and no mask."""
    entries: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for image in sorted(path for path in root.rglob("*.png") if not path.name.endswith(_MASK)):
        mask, parts = image.with_name(f"{image.stem}{_MASK}"), image.relative_to(root).parts
        is_good = parts[0] == NORMAL_CLASS
        entries["train" if is_good and parts[1] >= f"S{_TRAIN_FROM}" else "test"].append(
            {
                "category": root.name,
                "anomaly_class": NORMAL_CLASS if is_good else parts[1],
                "image_path": image.relative_to(root).as_posix(),
                "mask_path": mask.relative_to(root).as_posix() if mask.exists() else None,
            }
        )
    meta = {"prefix": f"{root.name}/", "normal_class": NORMAL_CLASS, "pre_transform": False}
    files.write_json(root.parents[2] / JSON_FOLDERS[1] / f"{root.name}.json", {"meta": meta, **entries})


def category_root(raw: Path, category: str) -> Path:
    """Return the folder of a category's pictures, nested as the archives unpack."""
    return raw / IMAGE_FOLDERS[1] / category / category


FORMAT = Format(DEFECTS, write, write_category, category_root, has_validation=False)
