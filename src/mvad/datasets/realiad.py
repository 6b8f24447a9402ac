"""Reader of Real-IAD (Wang et al. 2024): photographed samples of five views, listed in JSON splits.

    realiad_jsons/<category>.json   and   realiad_{256,512,1024,raw}/<category>/{OK/Sdddd, NG/<class>/Sdddd}/...

Other splits of the same images are in folders beside ``realiad_jsons``: ``realiad_jsons_sv`` (single view) and
``realiad_jsons_fuiad_0.N`` (training with a share 0.N of defective samples). Folders and files may be links, as in a cache of
Hugging Face, and names in a split file may contain backslashes.

Labels are per view: a view of a defective sample that does not show the defect is OK and has no mask.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvad.datasets.folders import is_hidden, visible
from mvad.datasets.images import placeholder
from mvad.datasets.scan import GOOD, ImageRef, SampleRef
from mvad.errors import BadInput
from mvad.files import read_json

NAME = "realiad"
LICENCE = "CC BY-NC-SA 4.0, Real-IAD authors"
MODALITIES = ("rgb",)
"""Default inputs."""
KNOWN_CATEGORIES = (
    "audiojack", "bottle_cap", "button_battery", "end_cap", "eraser", "fire_hood", "mint", "mounts", "pcb",
    "phone_battery", "plastic_nut", "plastic_plug", "porcelain_doll", "regulator", "rolled_strip_base",
    "sim_card_set", "switch", "tape", "terminalblock", "toothbrush", "toy", "toy_brick", "transistor1", "u_block",
    "usb", "usb_adaptor", "vcpill", "wooden_beads", "woodstick", "zipper",
)  # fmt: skip
NORMAL_CLASS = "OK"
JSON_PREFIX = "realiad_jsons"
JSON_FOLDERS = ("realiad_jsons", "realiad_jsons_sv", *(f"realiad_jsons_fuiad_0.{k}" for k in (0, 1, 2, 4)))
IMAGE_FOLDERS = ("realiad_256", "realiad_512", "realiad_1024", "realiad_raw")
MAX_JSON_BYTES = 256 << 20
MAX_ENTRIES = 1_000_000

_CAMERA = re.compile(r"_(C\d+)_\d+\.(?:jpg|jpeg|png)$", re.IGNORECASE)


def splits_root(raw: Path) -> Path:
    """Return the folder that holds the folders of split files: Real-IAD's, or ``realiad_jsons`` in it where the archive was unpacked there."""
    inner = raw / JSON_PREFIX
    return inner if any(path.is_dir() for path in inner.glob(f"{JSON_PREFIX}*")) else raw


def find_splits(raw: Path, wanted: str | None = None) -> str | None:
    """Return the name of the folder of split files, or None where none was downloaded and none is wanted.

    Parameters
    ----------
    raw
        Real-IAD's folder.
    wanted
        Name of the folder, or what follows ``realiad_jsons_`` in it (``sv``); None: ``realiad_jsons``, or the only one.

    Raises
    ------
    BadInput
        If the wanted folder is not there, or several are and none is wanted.
    """
    there = [path.name for path in visible(splits_root(raw).glob(f"{JSON_PREFIX}*")) if path.is_dir()]
    if wanted is not None:
        if wanted in there:
            return wanted
        if f"{JSON_PREFIX}_{wanted}" in there:
            return f"{JSON_PREFIX}_{wanted}"
        raise BadInput(f"--splits {wanted}: {raw} has {', '.join(there) or f'no folder {JSON_PREFIX}*'}; choose one of these")
    if JSON_FOLDERS[0] in there or not there:
        return JSON_FOLDERS[0] if there else None
    if len(there) > 1:
        raise BadInput(f"{raw}: has {', '.join(there)}, and no {JSON_FOLDERS[0]}; choose one by --splits")
    return there[0]


def categories(raw: Path, splits: str = JSON_FOLDERS[0]) -> list[str]:
    """Return the categories that have a split file, sorted.

    Raises
    ------
    BadInput
        If the folder of split files is missing or empty.
    """
    names = [path.stem for path in visible((splits_root(raw) / splits).glob("*.json"))]
    if not names:
        raise BadInput(f"{raw / splits}: no split file; --raw must hold {splits}/<category>.json")
    return names


def image_root(raw: Path, category: str, size: int = 0) -> Path | None:
    """Return the folder of images to take for views of ``size`` pixels, or None where none was downloaded.

    That is the smallest that is at least as large, else the largest, of those that hold the category.
    """
    there = [raw / name for name in IMAGE_FOLDERS if (raw / name).is_dir()]
    holding = [folder for folder in there if (folder / category).is_dir()] or there
    large_enough = [folder for folder in holding if _side_of(folder) >= size]
    return next(iter(large_enough), holding[-1] if holding else None)


def _side_of(folder: Path) -> float:
    """Return the side in pixels that a folder of images is named after; infinite for the pictures as taken."""
    side = folder.name.rpartition("_")[2]
    return int(side) if side.isdecimal() else math.inf


def refs(raw: Path, category: str, splits: str = JSON_FOLDERS[0], images: Path | None = None) -> list[SampleRef]:
    """Return all samples of a category from its JSON file, sorted; no image is opened.

    Paths lie in ``images``, else in ``image_root(raw, category)``, or in ``raw`` where no images were downloaded.

    Raises
    ------
    BadInput
        If the file is no Real-IAD split, lists a path twice, or a name points outside of the folder.
    """
    root = images or image_root(raw, category) or raw
    return listed(
        splits_root(raw) / splits / f"{category}.json", NAME, category, lambda prefix: _unpacked(_below(root, prefix), category)
    )


def _unpacked(folder: Path, category: str) -> Path:
    """Return the folder of a category's pictures, or that in it of the same name: archives may be unpacked into a folder of theirs."""
    return folder / category if (folder / category).is_dir() else folder


def listed(
    path: Path, dataset: str, category: str, folder_of: Callable[[str], Path], lenient: bool = False
) -> list[SampleRef]:  # fmt: skip
    """Return all samples of a category that a JSON file of Real-IAD's form lists, sorted; no image is opened.

    Parameters
    ----------
    path
        The file: ``meta`` with ``prefix`` and ``normal_class``, ``train`` and ``test`` with ``category``, ``anomaly_class``,
        ``image_path`` and ``mask_path`` of each picture.
    dataset, category
        What the samples are of.
    folder_of
        Returns the folder that the names in the file are relative to, from its ``prefix``.
    lenient
        Whether the file may lack ``meta`` (the normal class is then OK), and pictures of a defective class may have no mask.

    Raises
    ------
    BadInput
        See ``refs``.
    """
    if path.exists() and path.stat().st_size > MAX_JSON_BYTES:
        raise BadInput(f"{path}: larger than {MAX_JSON_BYTES} bytes; this is no Real-IAD split")
    instead = placeholder(path)
    if instead:
        raise BadInput(f"{path}: {instead}")
    content = read_json(path, "a Real-IAD split")
    if lenient and isinstance(content, dict):
        content.setdefault("meta", {"prefix": "", "normal_class": NORMAL_CLASS})
    try:
        prefix, normal = content["meta"]["prefix"], content["meta"]["normal_class"]
        lists = {split: content[split] for split in ("train", "test")}
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: expected meta.prefix, meta.normal_class, train and test") from error
    base = folder_of(_text(path, prefix, "prefix"))
    seen: set[str] = set()
    samples: dict[tuple[str, str], list[ImageRef]] = {}
    for split, entries in lists.items():
        if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
            raise BadInput(f"{path}: {split} must be a list of at most {MAX_ENTRIES} entries")
        for place, entry in enumerate(entries):
            view, folder = _view(path, base, f"{split}[{place}]", entry, normal, seen, lenient)
            if is_hidden(view.image, base):
                continue
            samples.setdefault((split, folder), []).append(view)
    return sorted(_sample((dataset, category, split), folder, views, path) for (split, folder), views in samples.items())


def _view(
    path: Path, base: Path, place: str, entry: Any, normal: str, seen: set[str], lenient: bool
) -> tuple[ImageRef, str]:  # fmt: skip
    if not isinstance(entry, dict) or not {"anomaly_class", "image_path", "mask_path"} <= entry.keys():
        raise BadInput(f"{path}: {place}: expected category, anomaly_class, image_path and mask_path")
    name = _text(path, entry["image_path"], f"{place}.image_path")
    name = "/".join(part for part in name.replace("\\", "/").split("/") if part != ".")
    kind = _text(path, entry["anomaly_class"], f"{place}.anomaly_class")
    if name in seen:
        raise BadInput(f"{path}: {place}: {name} is listed twice")
    seen.add(name)
    camera = _CAMERA.search(name)
    if camera is None:
        raise BadInput(f"{path}: {place}: no camera in the name {name!r}; expected ..._C1_<digits>.jpg")
    mask = entry["mask_path"]
    if (mask is not None) != (kind != normal) and not (lenient and mask is None):
        raise BadInput(f"{path}: {place}: class {kind} and mask {mask!r} contradict each other")
    image = _below(base, name)
    mask_path = None if mask is None else _below(base, _text(path, mask, f"{place}.mask_path"))
    return ImageRef(camera[1].upper(), image, mask_path, kind), name.rpartition("/")[0]


def _sample(place: tuple[str, str, str], folder: str, views: list[ImageRef], path: Path) -> SampleRef:
    """Return the sample of a folder; ``place`` is dataset, category and split."""
    cameras = [view.camera for view in views]
    if len(set(cameras)) != len(cameras):
        raise BadInput(f"{path}: {folder}: a camera is listed twice: {', '.join(cameras)}")
    kinds = sorted({view.anomaly_class for view in views} - {NORMAL_CLASS})
    if len(kinds) > 1:
        raise BadInput(f"{path}: {folder}: one sample with several defect classes: {', '.join(kinds)}")
    ordered = tuple(sorted(views, key=lambda view: camera_number(view.camera)))
    return SampleRef(*place, kinds[0] if kinds else GOOD, folder.replace("/", "_"), ordered)


def camera_number(camera: str) -> int:
    """Return the number in the name of a camera, by which views are ordered: C2 before C10."""
    return int(camera[1:])


def _below(base: Path, name: str) -> Path:
    """Return ``base / name`` if the name stays below the folder; links that lie there are followed, as whoever made them wants."""
    name = name.replace("\\", "/")
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/") or "\0" in name:
        raise BadInput(f"{base}: the name {name!r} points outside of this folder; do not trust the split file")
    return base / name


def _text(path: Path, value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{path}: {what} must be text, found {type(value).__name__}")
    return value
